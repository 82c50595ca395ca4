"""Image sets as one `.npz` each, made from the original downloads or from packed sheets.

    python benchmarks/data/make_npz.py SET SOURCE OUT.npz

SET       SOURCE is the folder or file that holds
mnist     train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz
usps      usps.bz2 and usps.t.bz2 (LIBSVM's copies, values in [-1, 1])
svhn      train_32x32.mat and test_32x32.mat (cropped digits)
cifar10   the binary version: data_batch_1.bin ... data_batch_5.bin, test_batch.bin
cifar100  the binary version: train.bin and test.bin (fine labels)
stl10     the binary version: train_X.bin, train_y.bin, test_X.bin, test_y.bin (resized to 32 x 32)
packed    a file of sheets (50 x 50 images each, encoded as JPEG or WebP)

OUT.npz holds train_images, train_labels, test_images, test_labels: bytes, [n, height, width(, channels)], which
`weightspace grow --data OUT.npz` takes. Training images come in an order shuffled with seed 0, so that any first
few are about balanced; MNIST and packed files keep theirs.
"""

import argparse
import gzip
import io
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

Part = tuple[np.ndarray, np.ndarray]


def read_idx(path: Path) -> np.ndarray:
    """An array in MNIST's own format: a magic number, the sizes, bytes."""
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def read_mnist(folder: Path) -> tuple[Part, Part]:
    def part(name: str) -> Part:
        return read_idx(folder / f"{name}-images-idx3-ubyte.gz"), read_idx(folder / f"{name}-labels-idx1-ubyte.gz")

    return part("train"), part("t10k")


def read_usps(folder: Path) -> tuple[Part, Part]:
    from sklearn.datasets import load_svmlight_file

    def part(name: str) -> Part:
        values, labels = load_svmlight_file(str(folder / name), n_features=256)
        images = np.rint((values.toarray() + 1) * 127.5).clip(0, 255).astype(np.uint8)
        return images.reshape(-1, 16, 16), labels.astype(np.uint8) - 1

    return shuffle(part("usps.bz2")), part("usps.t.bz2")


def read_svhn(folder: Path) -> tuple[Part, Part]:
    from scipy.io import loadmat

    def part(name: str) -> Part:
        arrays = loadmat(folder / f"{name}_32x32.mat")
        return np.ascontiguousarray(arrays["X"].transpose(3, 0, 1, 2)), (arrays["y"].ravel() % 10).astype(np.uint8)

    return shuffle(part("train")), part("test")


def read_cifar(folder: Path, train: list[str], test: str, label_bytes: int) -> tuple[Part, Part]:
    def part(names: list[str]) -> Part:
        rows = np.concatenate([np.fromfile(folder / name, np.uint8) for name in names]).reshape(-1, label_bytes + 3072)
        images = rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), rows[:, label_bytes - 1].copy()

    return shuffle(part(train)), part([test])


def read_cifar10(folder: Path) -> tuple[Part, Part]:
    return read_cifar(folder, [f"data_batch_{number}.bin" for number in range(1, 6)], "test_batch.bin", 1)


def read_cifar100(folder: Path) -> tuple[Part, Part]:
    return read_cifar(folder, ["train.bin"], "test.bin", 2)


def read_stl10(folder: Path) -> tuple[Part, Part]:
    def part(name: str) -> Part:
        images = np.fromfile(folder / f"{name}_X.bin", np.uint8).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        small = np.stack(
            [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX)) for image in images]
        )
        return small, np.fromfile(folder / f"{name}_y.bin", np.uint8) - 1

    return shuffle(part("train")), part("test")


def read_packed(path: Path) -> tuple[Part, Part]:
    with np.load(path) as arrays:
        return read_sheets(arrays, "train"), read_sheets(arrays, "test")


def read_sheets(arrays: "np.lib.npyio.NpzFile", name: str) -> Part:
    """The images of one part, cut from its encoded sheets."""
    height, width = (int(size) for size in arrays["image_shape"][:2])
    data, offsets, labels = arrays[f"{name}_sheets"], arrays[f"{name}_offsets"], arrays[f"{name}_labels"]
    cut = []
    for start, end in itertools.pairwise(offsets):
        sheet = np.asarray(Image.open(io.BytesIO(data[start:end].tobytes())).convert("RGB"))
        rows, columns = sheet.shape[0] // height, sheet.shape[1] // width
        tiles = sheet.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
        cut.append(tiles.reshape(-1, height, width, 3))
    return np.concatenate(cut)[: len(labels)], labels


def shuffle(part: Part) -> Part:
    order = np.random.default_rng(0).permutation(len(part[1]))
    return part[0][order], part[1][order]


READERS = {
    "mnist": read_mnist,
    "usps": read_usps,
    "svhn": read_svhn,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "stl10": read_stl10,
    "packed": read_packed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=READERS)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    train, test = READERS[given.set](given.source)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(given.out, train_images=train[0], train_labels=train[1], test_images=test[0], test_labels=test[1])
    print(f"{given.out}: {len(train[1]):,} training and {len(test[1]):,} test images of shape {train[0].shape[1:]}")


if __name__ == "__main__":
    main()
