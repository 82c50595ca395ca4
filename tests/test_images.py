from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from weightspace.errors import InputError
from weightspace.images import ImageSet, open_images


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
    arrays: dict[str, np.ndarray | None] = {
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
    cases = {
        "mnist": "expected images as 'digits'",
        str(tmp_path / "absent.npz"): "found nothing there",
        str(tmp_path / "broken.npz"): "expected a readable .npz",
        str(write_npz(tmp_path / "short.npz", train_labels=np.arange(3))): "found 20 and 3",
        str(write_npz(tmp_path / "less.npz", test_labels=None)): "expected the arrays",
        "no_such_module:f": "expected an importable module:function",
    }
    for source, message in cases.items():
        with pytest.raises(InputError, match=message):
            open_images(source)
