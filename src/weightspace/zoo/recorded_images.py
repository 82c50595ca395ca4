"""The images a zoo was trained on, as far as they can be found again, and whether others fit its networks."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.images import ImageSet, open_images, split_source
from weightspace.zoo.addressing import zoo_of
from weightspace.zoo.architecture import OUR_FACTORIES, Architecture
from weightspace.zoo.zoo import Zoo


def recorded_images(zoo: Zoo) -> ImageSet | None:
    """The image set that a zoo names, divided as when it was grown; None if it names none that is here.

    A source `module:function` is never called: opening a zoo runs no code that its files name.
    """
    about = zoo.about.get("images")
    if not isinstance(about, dict) or "source" not in about:
        return None
    source = str(about["source"])
    # Whatever else a file may be called, `open_images` could take its name for code to call.
    try:
        place, _ = split_source(source)
        if place != "digits" and not (place.endswith(".npz") and Path(place).is_file()):
            return None
        return images_for(zoo, source)
    except (InputError, OSError):  # a name may be longer than a path can be
        return None


def images_for(zoo: Zoo, source: str) -> ImageSet:
    """Images, sized for a zoo's networks and divided as those it was grown with, so that none changes its part.

    Those it was grown with are normalised as they were then.

    Raises:
        InputError: no such source; see `open_images`.
    """
    about = zoo.about.get("images")
    about = about if isinstance(about, dict) else {}
    try:
        shapes = [about.get("shape"), *(own.example_shape for own in zoo.architectures.values())]
        size = next((square_size(shape) for shape in shapes if shape), None)
        first, second = (None if limit is None else int(limit) for limit in about.get("limits", (None, None)))
        same = str(about.get("source")) == source and {"mean", "std"} <= about.keys()
        normalization = (_floats(about["mean"]), _floats(about["std"])) if same else None
        seed = int(about.get("seed", 0))
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise InputError(
            f"expected shape, limits, seed and normalisation of images in {zoo.folder}, found {error}"
        ) from error
    return open_images(source, size=size, seed=seed, limits=(first, second), normalization=normalization)


def images_for_networks(names: Sequence[str], source: str, architecture: Architecture) -> ImageSet:
    """Images for networks by name (see `open_network`).

    Those of members are divided and normalised as their zoos were grown with, so that nothing that they were trained on
    becomes a validation or a test image.

    Raises:
        InputError: no such source, images that the networks do not take, or zoos that divide them differently.
    """
    folders = dict.fromkeys(folder for name in names if (folder := zoo_of(name)) is not None)
    divided = {folder: images_for(Zoo.open(folder), source) for folder in folders}
    kinds = {(one.seed, one.limits, one.mean, one.std): folder for folder, one in divided.items()}
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise InputError(f"expected members of zoos that divide {source} alike, found {first} and {second}")
    shape = architecture.example_shape or ()
    size = square_size(shape[1:]) if len(shape) == 4 else None
    images = next(iter(divided.values())) if divided else open_images(source, size=size)
    require_images(architecture, images)
    return images


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def doubt_images(known: float, measured: float, classes: int) -> str | None:
    """What to say where networks are near chance on images, though their table says that they are good.

    Args:
        known: their mean accuracy by the table; measured: on the images; classes: how many there are.
    """
    chance = 1 / max(2, classes)
    if known < 2 * chance or measured > chance + (known - chance) / 4:
        return None
    return (
        f"networks that have an accuracy of {known:.2f} by their table have {measured:.2f} on these images: are they "
        "of another set, or normalised otherwise (--data SOURCE@none or SOURCE@MEAN,.../STD,...)?"
    )


def square_size(shape: Sequence[int]) -> int | None:
    """The side of square images of a shape (channels, height, width); None for others, which are not resized."""
    return int(shape[-1]) if len(shape) >= 2 and shape[-1] == shape[-2] else None


def require_shape(architecture: Architecture, inputs: Float[Tensor, "n ..."]) -> None:
    """Raise `InputError` unless networks of an architecture take inputs of this shape, as far as is known."""
    shape, found = architecture.example_shape, list(inputs.shape[1:])
    if shape is not None and list(shape[1:]) != found:
        raise InputError(f"expected images of shape {list(shape[1:])} for {architecture.id}, found {found}")


def require_images(architecture: Architecture, images: ImageSet) -> None:
    """Raise `InputError` unless networks of an architecture take such images and have an output for every class.

    Where they may be built here: factories of ours, and those that the caller vouches for.
    """
    require_shape(architecture, images.train.inputs)
    if not (architecture.factory in OUR_FACTORIES or (architecture.trusted and architecture.factory)):
        return
    with torch.no_grad():
        outputs = architecture.build().eval()(images.train.inputs[:2])
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.is_floating_point():
        found = list(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise InputError(
            f"expected {architecture.id} to return a score for each class of every image, [images, classes], "
            f"found {found}"
        )
    if images.classes > outputs.shape[-1]:
        raise InputError(
            f"expected images of at most {outputs.shape[-1]} classes for {architecture.id}, found {images.classes}"
        )
