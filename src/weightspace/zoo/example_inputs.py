"""Inputs that a network is run and traced with: one or several, by shape, or as a function of the user's gives them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.graphs import require_taken
from weightspace.user_code import call_named

Kinds = tuple[int, ...]


class Inputs(NamedTuple):
    """What a module is called with."""

    positional: tuple[Any, ...]
    named: dict[str, Any] = {}  # noqa: RUF012 # a NamedTuple's default, which nobody writes to


class Example(NamedTuple):
    """How inputs are made.

    Attributes:
        shapes: of all inputs that a module takes, batch first.
        integers: for every input the number that its whole numbers are below; 0 for real numbers.
        function: the user's `module:callable` that returns the inputs instead; "" if there is none.
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    integers: Kinds = ()
    function: str = ""

    def make(self) -> Inputs:
        """The inputs, always the same ones.

        Raises:
            InputError: the function cannot be called, or returns no inputs.
        """
        if not self.function:
            return Inputs(
                tuple(random_input(shape, below) for shape, below in zip(self.shapes, self.integers, strict=True))
            )
        given = call_named(self.function)
        if isinstance(given, Mapping):
            return Inputs((), {str(name): value for name, value in given.items()})
        given = tuple(given) if isinstance(given, tuple | list) else (given,)
        if not any(isinstance(value, Tensor) for value in torch.utils._pytree.tree_leaves(given)):
            raise InputError(f"expected {self.function} to return a module's inputs, found no tensor among them")
        return Inputs(given)


def find_example(module: nn.Module, examples: Sequence[str], integers: Sequence[int]) -> Example:
    """The inputs of a module, as they are written on a command line.

    Args:
        module: what takes them; where it is not said which of several inputs are whole numbers, the first choice with
            which it runs is taken.
        examples: shapes such as `2,3,32,32`, one for each input, or one `module:callable` that returns them: a
            tensor, a tuple, or a dict by name.
        integers: none, one, or one for each shape.

    Raises:
        InputError: no shape, or inputs that the module does not take.
    """
    if not examples:
        raise InputError("expected --example with the shape of an input for --architecture, found none")
    if len(examples) == 1 and ":" in examples[0]:
        example = Example(function=examples[0])
        require_taken(module, *example.make())
        return example
    shapes = tuple(_read_shape(shape) for shape in examples)
    if any(below < 0 for below in integers):
        raise InputError(f"expected whole numbers below a positive one, found {min(integers)}")
    if len(integers) > 1 and len(integers) != len(shapes):
        raise InputError(f"expected one --integers for each --example, found {len(integers)} for {len(shapes)}")
    choices = [tuple(integers)] if len(integers) > 1 else list(_choices(shapes, next(iter(integers), 0)))
    refusals = []
    for kinds in choices:
        example = Example(shapes, kinds)
        try:
            require_taken(module, *example.make())
        except InputError as refusal:
            refusals.append(refusal)
        else:
            return example
    raise refusals[0]


def _choices(shapes: Sequence[tuple[int, ...]], below: int) -> Iterator[Kinds]:
    """Which inputs may be the whole ones: those of few axes beside others of more, the last one, all, then any."""
    places = range(len(shapes))
    if not below:
        yield (0,) * len(shapes)
        return
    few = [place for place in places if len(shapes[place]) <= 2]
    likely = [few if len(few) < len(shapes) else [], [len(shapes) - 1], list(places)]
    every = [list(some) for count in places for some in combinations(places, count + 1)]
    for chosen in [some for some in likely if some] + every:
        yield tuple(below if place in chosen else 0 for place in places)


def _read_shape(shape: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in shape.split(","))
    except ValueError as error:
        raise InputError(f"expected a shape such as 2,3,32,32, found '{shape}'") from error
    if min(sizes) < 1:
        raise InputError(f"expected a shape of positive sizes, found '{shape}'")
    return sizes


def random_input(shape: Sequence[int], integers: int = 0) -> Tensor:
    """A random input of a shape, always the same one; whole numbers below `integers` if given."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(integers, shape, generator=generator) if integers else torch.randn(shape, generator=generator)


def require_named(function: str, allow: Collection[str]) -> None:
    """Refuse a function that a file names and the caller does not: it is not imported."""
    if function and function not in allow:
        raise InputError(f"expected inputs by a function that you name, found '{function}', which was not imported")
