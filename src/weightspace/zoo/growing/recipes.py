"""Networks by name: `cnn-s`, `cnn-l`, `resnet18:8`, `mlp:32,16`, or any module of yours by import path."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from weightspace.errors import WIDEST, InputError
from weightspace.images import ImageSet
from weightspace.zoo.architecture import Architecture, build_module

OURS = "weightspace.zoo.growing.networks"
SIZES = {"cnn-s": 28, "cnn-l": 32}
KNOWN = ("cnn-s", "cnn-l", "resnet18", "resnet18:WIDTH", "mlp", "mlp:WIDTH,WIDTH...", "package.module:callable")
EXAMPLE_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build the networks of a zoo for a set of images.

    Attributes:
        name: as the user gave it.
        stem: what ids of its architectures begin with.
        factory: `package.module:callable`.
        arguments: of the factory, but for what varies.
        choices: which of activation and dropout the factory takes.
        example_shape: of an input, batch first.
    """

    name: str
    stem: str
    factory: str
    arguments: dict[str, Any]
    choices: tuple[str, ...]
    example_shape: tuple[int, ...]

    @property
    def ours(self) -> bool:
        """Whether it is one of this package's networks."""
        return self.factory.startswith(f"{OURS}:")

    def architecture(self, activation: str | None = None, dropout: float | None = None) -> Architecture:
        """The architecture for one activation and one dropout rate; both are part of its id."""
        arguments, identity = dict(self.arguments), [self.stem]
        if activation is not None:
            arguments["activation"] = activation
            identity.append(activation)
        if dropout:
            arguments["dropout"] = dropout
            identity.append(f"dropout{dropout:g}")
        return Architecture.of_module(
            build_module(self.factory, arguments),
            id="-".join(identity),
            factory=self.factory,
            arguments=arguments,
            example_shape=self.example_shape,
        )


def find_recipe(network: str, images: ImageSet) -> Recipe:
    """The recipe of a named network for a set of images.

    Raises:
        InputError: an unknown name, malformed widths, or images of a size the network does not take.
    """
    name, _, detail = network.partition(":")
    shape = tuple(images.train.inputs.shape[1:])
    if name == "mlp":
        return mlp_recipe(network, shape, _widths(network, detail) if detail else [16, 16], images.classes)
    if name == "resnet18":
        return resnet18_recipe(shape, images.classes, _widths(network, detail)[0] if detail else 64)
    if name in SIZES and not detail:
        if shape[1:] != (SIZES[name], SIZES[name]):
            raise InputError(
                f"expected images of {SIZES[name]} x {SIZES[name]} for {name}, found {shape[1]} x {shape[2]}: "
                f"resize with --size {SIZES[name]}"
            )
        return cnn_recipe(name, shape[0], images.classes)
    if detail and name not in SIZES:
        recipe = Recipe(
            name=network,
            stem=network.replace(":", "."),
            factory=network,
            arguments={},
            choices=(),
            example_shape=(EXAMPLE_BATCH, *shape),
        )
        _require_taken(recipe, images)
        return recipe
    raise InputError(f"expected a network among {', '.join(KNOWN)}, found '{network}'")


def _require_taken(recipe: Recipe, images: ImageSet) -> None:
    """Raise `InputError` unless the user's module takes such images."""
    module = build_module(recipe.factory).eval()
    try:
        with torch.no_grad():
            module(images.train.inputs[:EXAMPLE_BATCH])
    except Exception as error:
        shape = list(images.train.inputs.shape[1:])
        raise InputError(f"expected {recipe.name} to take images of shape {shape}, found {error}") from error


def cnn_recipe(name: str, channels: int, classes: int, size: int | None = None) -> Recipe:
    """`cnn-s`, `cnn-l` or `small-cnn` for images of their size."""
    return Recipe(
        name=name,
        stem=f"{name}-{channels}-{classes}",
        factory=f"{OURS}:{name.replace('-', '_')}",
        arguments={"channels": channels, "classes": classes},
        choices=("activation", "dropout"),
        example_shape=(EXAMPLE_BATCH, channels, *[size or SIZES[name]] * 2),
    )


def resnet18_recipe(shape: tuple[int, ...], classes: int, width: int) -> Recipe:
    """ResNet-18 for images of a shape `[channels, height, width]`."""
    return Recipe(
        name="resnet18",
        stem=f"resnet18-{shape[0]}-{width}-{classes}",
        factory=f"{OURS}:resnet18",
        arguments={"channels": shape[0], "classes": classes, "width": width},
        choices=(),
        example_shape=(EXAMPLE_BATCH, *shape),
    )


def mlp_recipe(name: str, shape: tuple[int, ...], hidden: list[int], classes: int) -> Recipe:
    """An MLP for images of a shape."""
    widths = [math.prod(shape), *hidden, classes]
    return Recipe(
        name=name,
        stem="-".join(["mlp", *map(str, widths)]),
        factory=f"{OURS}:mlp",
        arguments={"widths": widths},
        choices=("activation", "dropout"),
        example_shape=(EXAMPLE_BATCH, *shape),
    )


def native_size(network: str) -> int | None:
    """The image size a named network needs, or None if it takes any."""
    return SIZES.get(network)


def _widths(network: str, text: str) -> list[int]:
    try:
        widths = [int(width) for width in text.split(",")]
    except ValueError:
        widths = []
    if not widths or min(widths) < 1:
        raise InputError(f"expected hidden widths such as mlp:16,16 or resnet18:8, found '{network}'")
    if max(widths) > WIDEST:
        raise InputError(f"expected hidden widths up to {WIDEST:,}, found a width of {max(widths):,} in '{network}'")
    return widths
