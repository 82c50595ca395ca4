"""Image sets: what networks are trained and scored on.

An image set has three parts, train, validation and test, that never mix. Its inputs are normalised per channel, with
the mean and standard deviation of its training images or others that are said, which are stored with it; what a
function returns is taken as it is.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.archives import NumpyArchive
from weightspace.errors import InputError, require_between
from weightspace.randomness import derive_generator
from weightspace.user_code import import_named, working_folder_last

FEWEST_IMAGES = 5
MOST_CLASSES, LARGEST_SIDE = 100_000, 4_096
# How inputs are normalised: not, by their own statistics, or by a mean and a standard deviation per channel.
Normalization = Literal["none", "own"] | tuple[tuple[float, ...], tuple[float, ...]]
NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


class Images(NamedTuple):
    """Normalised images and their labels."""

    inputs: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, "n"]

    def to(self, device: torch.device) -> "Images":
        """The same on a device, where networks that take them then run."""
        return Images(self.inputs.to(device), self.labels.to(device))

    def some(self, count: int, seed: int) -> "Images":
        """At most so many of them, drawn at random and in random order: files are often sorted by class."""
        order = torch.randperm(len(self.labels), generator=derive_generator(seed, "some images"))[:count]
        return Images(self.inputs[order], self.labels[order])


class ImageSet(NamedTuple):
    """Train, validation and test images, normalised alike.

    `mean` and `std` are what was subtracted and divided by, per channel, after bytes were scaled to [0, 1]; `seed`
    decided which image is in which part, among the first `limits` training and test images of the source.
    """

    source: str
    train: Images
    validation: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    seed: int
    limits: tuple[int | None, int | None] = (None, None)

    def to(self, device: torch.device) -> "ImageSet":
        """The same with all parts on a device."""
        train, validation, test = (part.to(device) for part in (self.train, self.validation, self.test))
        return self._replace(train=train, validation=validation, test=test)

    def describe(self) -> dict[str, Any]:
        """What `zoo.json` and manifests record of the set."""
        return {
            "source": self.source,
            "seed": self.seed,
            "limits": list(self.limits),
            "shape": list(self.train.inputs.shape[1:]),
            "classes": self.classes,
            "counts": {part: len(getattr(self, part).labels) for part in ("train", "validation", "test")},
            "mean": list(self.mean),
            "std": list(self.std),
        }


def open_images(
    source: str,
    *,
    size: int | None = None,
    seed: int = 0,
    limits: tuple[int | None, int | None] = (None, None),
    normalization: Normalization | None = None,
) -> ImageSet:
    """Open an image set.

    Args:
        source: `digits` (scikit-learn's 1,797 handwritten digits, 8 x 8), the path of an `.npz` file with
            `train_images`, `train_labels`, `test_images`, `test_labels`, or `module:function`, a function
            without arguments that returns a torch `Dataset` or a (train, test) pair of them. Behind it `@none` (inputs
            as they are, bytes scaled to [0, 1]), `@own` (mean 0, deviation 1 over the training images) or
            `@MEAN,.../STD,...` per channel; without, `@none` for a function and `@own` for all others.
        size: resize to `size` x `size` pixels (bilinear) when the images have another size.
        seed: decides which images are for validation (and for test, where the source has no test part).
        limits: use the first so many training and test images only; None for all.
        normalization: mean and standard deviation per channel, where `source` says nothing of it.

    A fifth of the training images becomes the validation part. `digits` and a single `Dataset` have no test
    part, so a third of their images is set apart first.

    Raises:
        InputError: no such source, missing arrays, or arrays of unequal length.

    Examples:
        >>> open_images("digits").train.inputs.shape[1:]
        torch.Size([1, 8, 8])
    """
    if size is not None:
        require_between("the image size", size, 1, LARGEST_SIDE)
    place, said = split_source(source)
    wanted = said if said is not None else normalization if normalization is not None else _usual(place)
    train, test = (_first(part, limit) for part, limit in zip(_read(place, seed), limits, strict=True))
    for name, part in (("training", train), ("test", test)):
        _require_images(name, *part)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(f"expected test images like the training images, found {test[0].shape} and {train[0].shape}")
    train, validation = _set_apart(train, 0.2, seed, "validation")
    parts = {"train": train, "validation": validation, "test": test}
    tensors = {name: _to_tensors(*part) for name, part in parts.items()}
    if size is not None:
        tensors = {name: _resize(part, size) for name, part in tensors.items()}
    mean, std = _normalization(wanted, tensors["train"].inputs)
    normalized = {
        name: Images((part.inputs - mean[:, None, None]) / std[:, None, None], part.labels)
        for name, part in tensors.items()
    }
    return ImageSet(
        source=source,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        classes=int(max(part.labels.max() for part in normalized.values())) + 1,
        seed=seed,
        limits=limits,
        **normalized,
    )


def split_source(source: str) -> tuple[str, Normalization | None]:
    """Where images are, and how their source says that they are to be normalised; None if it does not.

    Raises:
        InputError: something else behind the last `@`.

    Examples:
        >>> split_source("cifar10.npz@0.5,0.5,0.5/0.25,0.25,0.25")
        ('cifar10.npz', ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
        >>> split_source("my_data:images")
        ('my_data:images', None)
    """
    place, at, words = source.rpartition("@")
    if not at or "/" in words.partition("/")[2] or words.endswith(".npz"):
        return source, None
    if words in ("none", "own"):
        return place, "none" if words == "none" else "own"
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in words.split("/"))
    except ValueError:
        mean, std = (), ()
    if not mean or len(mean) != len(std) or min(std) <= 0:
        raise InputError(f"expected @none, @own or @MEAN,.../STD,... behind the images, found '@{words}'")
    return place, (mean, std)


def _usual(place: str) -> Normalization:
    """A function's images are made ready by it."""
    return "none" if ":" in place and not place.endswith(".npz") else "own"


def _normalization(wanted: Normalization, inputs: Float[Tensor, "n channels ..."]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel."""
    channels = inputs.shape[1]
    if wanted == "none":
        return torch.zeros(channels), torch.ones(channels)
    if wanted == "own":
        return inputs.mean(dim=(0, 2, 3)), inputs.std(dim=(0, 2, 3)).clamp_min(1e-6)
    mean, std = (torch.tensor(values) for values in wanted)
    if len(mean) not in (1, channels):
        raise InputError(f"expected a mean and deviation for each of {channels} channels, found {len(mean)}")
    return mean.expand(channels), std.expand(channels)


def _first(part: tuple[np.ndarray, np.ndarray], limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    if limit is None:
        return part
    require_between("the number of images", limit, FEWEST_IMAGES)
    return part[0][:limit], part[1][:limit]


def _read(source: str, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    if source == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return _set_apart(((digits.images / 16).astype(np.float32), digits.target), 1 / 3, seed, "test")
    if source.endswith(".npz"):
        return _read_npz(Path(source))
    if ":" in source:
        return _read_function(source, seed)
    raise InputError(f"expected images as 'digits', an .npz path or module:function, found '{source}'")


def _read_npz(path: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    if not path.is_file():
        raise InputError(f"expected an .npz file at {path}, found nothing there")
    arrays = NumpyArchive(path)
    missing = [key for key in NPZ_KEYS if key not in arrays.names]
    if missing:
        there = ", ".join(arrays.names[:4])
        raise InputError(f"expected the arrays {', '.join(NPZ_KEYS)} in {path}, found only {there}")
    values = [arrays.read(key) for key in NPZ_KEYS]
    return (values[0], values[1]), (values[2], values[3])


def _read_function(source: str, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    try:
        with working_folder_last():
            returned = import_named(source)()
            parts = [_collect(dataset) for dataset in (returned if isinstance(returned, tuple) else (returned,))]
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"expected a module:function that returns data sets, found '{source}' ({error})") from error
    if len(parts) > 2:
        raise InputError(f"expected one data set or a (train, test) pair from {source}, found {len(parts)}")
    return (parts[0], parts[1]) if len(parts) == 2 else _set_apart(parts[0], 1 / 3, seed, "test")


def _collect(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    pairs = [dataset[index] for index in range(len(dataset))]
    return np.stack([np.asarray(image) for image, _ in pairs]), np.array([int(label) for _, label in pairs])


def _require_images(name: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Raise `InputError` unless these are real, finite images with one whole, non-negative label each."""
    if images.ndim not in (3, 4) or images.dtype.kind not in "fiub" or not np.isfinite(images).all():
        found = f"{images.dtype} of shape {list(images.shape)}"
        raise InputError(f"expected finite {name} images of shape [n, height, width(, channels)], found {found}")
    if labels.shape != (len(images),) or len(labels) < FEWEST_IMAGES:
        found = f"{len(images)} and labels of shape {list(labels.shape)}"
        raise InputError(f"expected at least {FEWEST_IMAGES} {name} images with one label each, found {found}")
    if labels.dtype.kind not in "fiub" or not np.isfinite(labels).all() or (labels != np.floor(labels)).any():
        raise InputError(f"expected whole numbers from 0 as {name} labels, found others")
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        low, high = labels.min(), labels.max()
        raise InputError(f"expected {name} labels from 0 to {MOST_CLASSES - 1:,}, found {low:g} to {high:g}")


def _set_apart(
    part: tuple[np.ndarray, np.ndarray], share: float, seed: int, name: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Split off a random `share` of the images; returns (rest, set apart)."""
    images, labels = part
    order = torch.randperm(len(labels), generator=derive_generator(seed, "images", name)).numpy()
    count = round(share * len(labels))
    apart, rest = np.sort(order[:count]), np.sort(order[count:])
    return (images[rest], labels[rest]), (images[apart], labels[apart])


def _to_tensors(images: np.ndarray, labels: np.ndarray) -> Images:
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    inputs = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)) / scale
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    elif inputs.ndim == 4 and inputs.shape[-1] in (1, 3) and inputs.shape[1] not in (1, 3):
        inputs = inputs.permute(0, 3, 1, 2)
    if inputs.ndim != 4:
        raise InputError(f"expected images of shape [n, height, width(, channels)], found {list(images.shape)}")
    return Images(inputs.contiguous(), torch.from_numpy(np.asarray(labels)).to(torch.int64))


def _resize(part: Images, size: int) -> Images:
    if tuple(part.inputs.shape[2:]) == (size, size):
        return part
    resized = torch.nn.functional.interpolate(part.inputs, (size, size), mode="bilinear", align_corners=False)
    return Images(resized, part.labels)
