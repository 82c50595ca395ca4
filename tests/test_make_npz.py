"""Image sets from their original files: tiny ones, written here in each original's format."""

import bz2
import gzip
import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from weightspace.images import open_images

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "data" / "make_npz.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="benchmarks are not part of this distribution")


def draw(count: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count)
    return generator.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


def write_mnist(folder: Path, train: tuple, test: tuple) -> None:
    for name, (images, labels) in (("train", train), ("t10k", test)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)


def write_cifar(folder: Path, train: tuple, test: tuple) -> None:
    def rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(labels), -1)], axis=1)

    for number, part in enumerate(np.array_split(rows(*train), 5), start=1):
        part.tofile(folder / f"data_batch_{number}.bin")
    rows(*test).tofile(folder / "test_batch.bin")


def write_svhn(folder: Path, train: tuple, test: tuple) -> None:
    for name, (images, labels) in (("train", train), ("test", test)):
        digits = np.where(labels == 0, 10, labels)[:, None]
        savemat(folder / f"{name}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": digits})


def write_usps(folder: Path, train: tuple, test: tuple) -> None:
    for name, (images, labels) in (("usps.bz2", train), ("usps.t.bz2", test)):
        values = images.reshape(len(labels), -1) / 127.5 - 1
        lines = []
        for label, row in zip(labels, values, strict=True):
            lines.append(f"{label + 1} " + " ".join(f"{place + 1}:{v:.6f}" for place, v in enumerate(row)))
        (folder / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))


def write_packed(path: Path, train: tuple, test: tuple) -> None:
    arrays: dict[str, Any] = {"image_shape": np.array([32, 32, 3])}
    for name, (images, labels) in (("train", train), ("test", test)):
        padded = np.concatenate([images, np.zeros((2500 - len(images), 32, 32, 3), np.uint8)])
        sheet = padded.reshape(50, 50, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1600, 1600, 3)
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "PNG")
        arrays |= {f"{name}_sheets": np.frombuffer(buffer.getvalue(), np.uint8), f"{name}_labels": labels}
        arrays[f"{name}_offsets"] = np.array([0, len(buffer.getvalue())])
    np.savez(path, **arrays)


def sort(part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Images in an order that does not depend on the shuffle."""
    return np.sort(part[0].reshape(len(part[1]), -1).astype(np.int64).sum(1))


@pytest.mark.parametrize(
    ("name", "write", "shape"),
    [
        ("mnist", write_mnist, (28, 28)),
        ("cifar10", write_cifar, (32, 32, 3)),
        ("svhn", write_svhn, (32, 32, 3)),
        ("usps", write_usps, (16, 16)),
        ("packed", write_packed, (32, 32, 3)),
    ],
)
def test_originals_become_image_sets(name: str, write: object, shape: tuple[int, ...], tmp_path: Path) -> None:
    train, test = draw(40, *shape), draw(20, *shape)
    source = tmp_path / "source.npz" if name == "packed" else tmp_path
    write(source, train, test)  # type: ignore[operator]
    command = [sys.executable, str(SCRIPT), name, str(source), str(tmp_path / "out.npz")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "40 training and 20 test images" in printed
    with np.load(tmp_path / "out.npz") as made:
        assert np.array_equal(made["test_images"], test[0]) and np.array_equal(made["test_labels"], test[1])
        assert np.array_equal(sort((made["train_images"], made["train_labels"])), sort(train))
        first = next(n for n in range(40) if np.array_equal(train[0][n], made["train_images"][0]))
        assert made["train_labels"][0] == train[1][first]
    images = open_images(str(tmp_path / "out.npz"))
    assert images.classes == 10 and len(images.test.labels) == 20


def test_stl10_is_turned_and_made_small(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_npz", SCRIPT)
    assert spec is not None and spec.loader is not None
    make_npz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_npz)
    images = np.zeros((2, 96, 96, 3), np.uint8)
    images[0, :48, :, 0] = 200  # the upper half is red
    for name in ("train", "test"):
        images.transpose(0, 3, 2, 1).tofile(tmp_path / f"{name}_X.bin")
        np.array([1, 10], np.uint8).tofile(tmp_path / f"{name}_y.bin")
    _, (small, labels) = make_npz.read_stl10(tmp_path)
    assert small.shape == (2, 32, 32, 3) and list(labels) == [0, 9]
    assert small[0, 3, 3, 0] == 200 and small[0, 28, 3, 0] == 0 and not small[1].any()
