from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from weightspace.errors import InputError
from weightspace.images import ImageSet, open_images
from weightspace.zoo.recorded_images import doubt_images


class Ramps(Dataset):
    """30 color images, each of one brightness."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 4, 4), index / 30), index % 2


def ramps() -> Ramps:
    return Ramps()


def ramp_pair() -> tuple[Ramps, Ramps]:
    return Ramps(), Ramps()


def write_npz(path: Path, **changes: np.ndarray | None) -> Path:
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "train_images": generator.integers(0, 255, (20, 6, 6), dtype=np.uint8),
        "train_labels": np.arange(20) % 3,
        "test_images": generator.integers(0, 255, (9, 6, 6), dtype=np.uint8),
        "test_labels": np.arange(9) % 3,
    } | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_digits_are_split_in_three_and_normalised(digits: ImageSet) -> None:
    counts = [len(part.labels) for part in (digits.train, digits.validation, digits.test)]
    assert sum(counts) == 1797 and min(counts) > 200 and digits.classes == 10
    assert digits.train.inputs.shape[1:] == (1, 8, 8)
    assert abs(digits.train.inputs.mean()) < 1e-4 and abs(digits.train.inputs.std() - 1) < 1e-3


def test_parts_do_not_overlap(digits: ImageSet) -> None:
    rows = [
        {image.numpy().tobytes() for image in part.inputs} for part in (digits.train, digits.validation, digits.test)
    ]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_an_npz_keeps_its_test_part(tmp_path: Path) -> None:
    images = open_images(str(write_npz(tmp_path / "set.npz")), size=8)
    assert len(images.test.labels) == 9 and len(images.validation.labels) == 4
    assert images.train.inputs.shape == (16, 1, 8, 8)


def test_color_images_come_channels_first(tmp_path: Path) -> None:
    color = np.zeros((20, 6, 6, 3), dtype=np.uint8)
    path = write_npz(tmp_path / "set.npz", train_images=color, test_images=color[:9])
    assert open_images(str(path)).train.inputs.shape[1:] == (3, 6, 6)


@pytest.mark.parametrize("name", ["ramps", "ramp_pair"])
def test_a_function_may_return_datasets(name: str) -> None:
    images = open_images(f"{__name__}:{name}")
    assert images.train.inputs.shape[1:] == (3, 4, 4) and images.classes == 2


def test_the_seed_decides_the_parts() -> None:
    first, again, other = (open_images("digits", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test.labels, again.test.labels)
    assert not torch.equal(first.test.labels, other.test.labels)


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_text("no")
    cut = write_npz(tmp_path / "cut.npz")
    cut.write_bytes(cut.read_bytes()[:-300])
    cases = {
        "mnist": "expected images as 'digits'",
        str(tmp_path / "absent.npz"): "found nothing there",
        str(tmp_path / "broken.npz"): "expected a readable archive",
        str(write_npz(tmp_path / "short.npz", train_labels=np.arange(3))): r"found 20 and labels of shape \[3\]",
        str(write_npz(tmp_path / "less.npz", test_labels=None)): "expected the arrays",
        str(
            write_npz(tmp_path / "nan.npz", train_images=np.full((20, 6, 6), np.nan))
        ): "expected finite training images",
        str(write_npz(tmp_path / "flat.npz", test_images=np.zeros((9, 36)))): "expected finite test images of shape",
        str(write_npz(tmp_path / "other.npz", test_images=np.zeros((9, 5, 5)))): "expected test images like",
        str(write_npz(tmp_path / "minus.npz", train_labels=np.arange(20) - 1)): "expected training labels from 0",
        str(write_npz(tmp_path / "halves.npz", train_labels=np.arange(20) / 2)): "expected whole numbers from 0",
        str(cut): "expected a readable archive",
        "no_such_module:f": "expected a module:function that returns",
        "math:pi": "expected a module:function that returns",
        "time:time": "expected a module:function that returns",
    }
    for source, message in cases.items():
        with pytest.raises(InputError, match=message):
            open_images(source)


def test_sizes_are_positive() -> None:
    with pytest.raises(InputError, match="expected the image size to be between 1 and 4096, found -3"):
        open_images("digits", size=-3)


def own_images() -> tuple[torch.utils.data.TensorDataset, ...]:
    inputs = torch.linspace(0, 1, 40 * 4).view(40, 1, 2, 2)
    labels = torch.arange(40) % 2
    parts = slice(0, 30), slice(30, None)
    return tuple(torch.utils.data.TensorDataset(inputs[part], labels[part]) for part in parts)


def test_images_of_a_function_are_taken_as_they_are() -> None:
    images = open_images("test_images:own_images")
    assert images.mean == (0.0,) and images.std == (1.0,)
    assert torch.equal(images.test.inputs, own_images()[1].tensors[0])
    own = open_images("test_images:own_images@own")
    assert float(own.train.inputs.mean()) == pytest.approx(0, abs=1e-5)


def test_a_source_says_how_its_images_are_normalised() -> None:
    plain, said = open_images("digits@none"), open_images("digits@0.25/0.5")
    assert torch.allclose(said.test.inputs, (plain.test.inputs - 0.25) / 0.5) and said.std == (0.5,)
    for source in ("digits@half", "digits@0.1/0", "digits@0.1,0.2/1"):
        with pytest.raises(InputError, match="expected @none, @own or @MEAN"):
            open_images(source)
    with pytest.raises(InputError, match="expected a mean and deviation for each of 1 channels, found 3"):
        open_images("digits@1,2,3/1,1,1")


def test_networks_that_are_near_chance_raise_a_doubt() -> None:
    assert doubt_images(0.9, 0.12, 10) is not None and "normalised otherwise" in str(doubt_images(0.9, 0.12, 10))
    assert doubt_images(0.9, 0.85, 10) is None and doubt_images(0.15, 0.1, 10) is None
