"""Networks by name: `cnn-s`, `cnn-l`, `resnet18:8`, `mlp:32,16`, or any module of yours by import path."""

import math
from dataclasses import dataclass
from typing import Any

from weightspace.errors import InputError
from weightspace.images import ImageSet
from weightspace.zoo.architecture import Architecture, build_module

OURS = "weightspace.zoo.networks"
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
    example = (EXAMPLE_BATCH, *shape)
    if name == "mlp":
        widths = [math.prod(shape), *(_widths(network, detail) if detail else [16, 16]), images.classes]
        return Recipe(
            name=network,
            stem="-".join(["mlp", *map(str, widths)]),
            factory=f"{OURS}:mlp",
            arguments={"widths": widths},
            choices=("activation", "dropout"),
            example_shape=example,
        )
    ends = {"channels": shape[0], "classes": images.classes}
    if name == "resnet18":
        width = _widths(network, detail)[0] if detail else 64
        stem = f"resnet18-{shape[0]}-{width}-{images.classes}"
        arguments = {**ends, "width": width}
        factory = f"{OURS}:resnet18"
        return Recipe(
            name=network, stem=stem, factory=factory, arguments=arguments, choices=(), example_shape=example
        )
    if name in SIZES and not detail:
        if shape[1:] != (SIZES[name], SIZES[name]):
            raise InputError(
                f"expected images of {SIZES[name]} x {SIZES[name]} for {name}, found {shape[1]} x {shape[2]}: "
                f"resize with --size {SIZES[name]}"
            )
        return Recipe(
            name=network,
            stem=f"{name}-{shape[0]}-{images.classes}",
            factory=f"{OURS}:{name.replace('-', '_')}",
            arguments=ends,
            choices=("activation", "dropout"),
            example_shape=example,
        )
    if detail and name not in (*SIZES, "mlp"):
        stem = network.replace(":", ".")
        return Recipe(name=network, stem=stem, factory=network, arguments={}, choices=(), example_shape=example)
    raise InputError(f"expected a network among {', '.join(KNOWN)}, found '{network}'")


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
    return widths
