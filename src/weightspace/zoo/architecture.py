"""How a network is built and laid out."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from weightspace.errors import InputError
from weightspace.graphs import bare_module
from weightspace.user_code import import_named, working_folder_last
from weightspace.weights.values import Shapes, Weights, find_aliases, infinite_masks, natural_key, require_shapes
from weightspace.zoo.example_inputs import Example, Inputs, random_input, require_named

FACTORIES = "weightspace.zoo.growing.networks"
OUR_FACTORIES = tuple(f"{FACTORIES}:{name}" for name in ("mlp", "cnn_s", "cnn_l", "small_cnn", "resnet18"))
# Where they were when zoos that are still around were written.
EARLIER_FACTORIES = "weightspace.zoo.networks"
MOST_NUMBERS, LARGEST_INPUT = 2**40, 2**24


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture: activation and dropout included.

    Attributes:
        id: unique in a zoo.
        factory: `package.module:callable` that builds the module, or None if nobody knows how.
        arguments: JSON keyword arguments of the factory.
        example_shape: shape of an input, batch first; None if nobody knows, or if there are several inputs.
        integers: inputs are whole numbers below this one, as token ids are; 0 for real numbers.
        several_inputs: where there are several, the shape and the `integers` of each.
        trusted: the caller named its factory, so that it may be imported; no file says so.
        masks: tensors of infinities, which are no weights: they are carried beside the tokens.
        order: of a network nobody knows how to build the names as its file has them, where that is another order.
        inputs_from: a function of the user's that returns inputs, `module:callable`; "" if there is none.
        shapes: every parameter and buffer, in the architecture's order.
        dtypes: their types where they are not float32.
        symmetry: a `Symmetry` as JSON, or None if it has not been traced.
        note: why there is no factory or no symmetry, if so.
        aliases: second names of tied tensors -> their first names.

    Examples:
        >>> zoo.architectures[zoo.table["architecture"].iloc[0]].build()(images.test.inputs[:2]).shape
        torch.Size([2, 10])
    """

    id: str
    factory: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    example_shape: tuple[int, ...] | None = None
    shapes: Shapes = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    symmetry: dict[str, Any] | None = None
    note: str = ""
    integers: int = 0
    aliases: dict[str, str] = field(default_factory=dict)
    several_inputs: tuple[tuple[tuple[int, ...], int], ...] = ()
    inputs_from: str = ""
    trusted: bool = field(default=False, compare=False)
    masks: tuple[str, ...] = field(default=(), compare=False)
    order: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of_module(
        cls,
        module: nn.Module,
        *,
        id: str,
        factory: str,
        arguments: Mapping[str, Any],
        example_shape: tuple[int, ...] | None,
        integers: int = 0,
    ) -> "Architecture":
        """Describe a module that `factory(**arguments)` built."""
        state = module.state_dict(keep_vars=True)
        return cls(
            id=id,
            factory=factory,
            arguments=dict(arguments),
            example_shape=tuple(example_shape) if example_shape else None,
            integers=integers,
            shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
            aliases=find_aliases(state),
            masks=infinite_masks(state),
            dtypes={
                name: str(tensor.dtype).removeprefix("torch.")
                for name, tensor in state.items()
                if tensor.dtype != torch.float32
            },
        )

    @property
    def parameters(self) -> int:
        """How many numbers a network of this architecture has, buffers included."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def build(self, allow: Collection[str] = (), *, seed: int = 0) -> nn.Module:
        """Build the module with new parameters, which `seed` decides; the global random state is left as it was.

        Args:
            allow: factories, other than ours, that the caller vouches for.
            seed: of the factory's own initialisation.

        Raises:
            InputError: there is no factory, it is neither ours nor in `allow` (so it is not imported), or it
                builds a network of other shapes.
        """
        factory = self.require_factory(allow)
        if factory in OUR_FACTORIES:  # whose arguments may be a file's: nothing is allocated on its word
            with torch.device("meta"):
                require_shapes(build_module(factory, self.arguments).state_dict(), self.shapes)
        module = build_module(factory, self.arguments, seed=seed)
        require_shapes(module.state_dict(), self.shapes)
        return module

    def require_factory(self, allow: Collection[str] = ()) -> str:
        """Its factory; raises `InputError` where there is none, or none that may be imported (see `build`)."""
        if self.factory is None:
            raise InputError(f"expected a factory for the architecture {self.id}, found none ({self.note})")
        if not self.trusted and self.factory not in (*OUR_FACTORIES, *allow):
            raise InputError(
                f"expected one of our factories or one named by you for the architecture {self.id}, found "
                f"'{self.factory}', which was not imported: --architecture {self.factory} vouches for it"
            )
        return self.factory

    def example(self) -> torch.Tensor:
        """A random input of the example shape, always the same one."""
        if self.example_shape is None:
            raise InputError(f"expected an example shape for the architecture {self.id}, found none")
        self._require_small(self.example_shape)
        return random_input(self.example_shape, self.integers)

    def inputs(self, allow: Collection[str] = ()) -> Inputs:
        """All inputs of the module, always the same ones.

        Args:
            allow: functions that the caller vouches for.

        Raises:
            InputError: nobody knows them, or a function that is not in `allow` makes them.
        """
        if self.inputs_from:
            if not self.trusted:
                require_named(self.inputs_from, allow)
            return Example(function=self.inputs_from).make()
        if self.several_inputs:
            shapes, integers = zip(*self.several_inputs, strict=True)
            self._require_small(*shapes)
            return Example(shapes, integers).make()
        return Inputs((self.example(),))

    def _require_small(self, *shapes: tuple[int, ...]) -> None:
        """Refuse inputs that a file says are very large; whoever names them at a command may."""
        for shape in () if self.trusted else shapes:
            if math.prod(shape) > LARGEST_INPUT:
                raise InputError(
                    f"expected an input of at most {LARGEST_INPUT:,} numbers for the architecture {self.id}, found one "
                    f"of shape {list(shape)}: --example with its --architecture vouches for it"
                )

    def meta_weights(self) -> Weights:
        """Tensors without memory that have the architecture's shapes and types; masks are of truth values."""
        kinds = {name: "bool" if name in self.masks else self.dtypes.get(name, "float32") for name in self.shapes}
        return {
            name: torch.empty(shape, dtype=getattr(torch, kinds[name]), device="meta")
            for name, shape in self.shapes.items()
        }

    @cached_property
    def signature(self) -> str:
        """A key, equal for architectures with the same shapes and types in the same order, whatever the names."""
        kinds = {**self.dtypes, **dict.fromkeys(self.masks, "mask")}
        return json.dumps([[list(shape), kinds.get(name, "float32")] for name, shape in self.shapes.items()])

    def reordered(self, names: list[str]) -> "Architecture":
        """The same tensors in another order."""
        return replace(self, shapes={name: self.shapes[name] for name in names})

    def renamed(self, names: list[str]) -> "Architecture":
        """The same network under other names, given in natural order; nobody knows how to build it."""
        own = dict(zip(sorted(self.shapes, key=natural_key), names, strict=True))
        return replace(
            self,
            shapes={own[name]: shape for name, shape in self.shapes.items()},
            dtypes={own[name]: dtype for name, dtype in self.dtypes.items()},
            aliases={own[name]: own[first] for name, first in self.aliases.items()},
            masks=tuple(own[name] for name in self.masks),
            factory=None,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `Architecture.from_json` turns back into an equal architecture."""
        return {name: value for name, value in asdict(self).items() if name != "trusted"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Architecture":
        """The inverse of `to_json`.

        Raises:
            InputError: fields are missing, unknown or of another kind.
        """
        try:
            shapes = {name: tuple(shape) for name, shape in value["shapes"].items()}
            example = value.get("example_shape")
            factory = value.get("factory")
            moved = factory and factory.replace(f"{EARLIER_FACTORIES}:", f"{FACTORIES}:", 1)
            several = tuple((tuple(shape), below) for shape, below in value.get("several_inputs", ()))
            changed = {"shapes": shapes, "example_shape": tuple(example) if example else None, "factory": moved}
            changed |= {"several_inputs": several, "trusted": False}  # whatever a file says
            changed |= {name: tuple(value.get(name, ())) for name in ("masks", "order")}
            described = cls(**{**value, **changed})
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise InputError(f"expected an architecture entry with id and shapes, found {value!r:.80}") from error
        wrong = _wrong_in(described)
        if wrong:
            raise InputError(f"expected an architecture entry with {wrong}, found {value!r:.80}")
        return described


def _wrong_in(entry: Architecture) -> str:
    """What should be, in the first field of an entry where it is not; nothing, if all is as it should be."""
    shapes = [*entry.shapes.values(), *(shape for shape, _ in entry.several_inputs)]
    inputs = [entry.example_shape] if entry.example_shape else []
    integers = [entry.integers, *(below for _, below in entry.several_inputs)]
    texts = {**dict.fromkeys(entry.shapes), **entry.aliases, **dict.fromkeys((*entry.masks, *entry.order))}
    told = {
        "a name as id": isinstance(entry.id, str) and entry.id != "",
        "whole numbers as sizes": all(_is_size(size) for shape in (*shapes, *inputs) for size in shape),
        "at most 2^40 numbers": sum(math.prod(shape) for shape in entry.shapes.values()) <= MOST_NUMBERS,
        "arguments by name": isinstance(entry.arguments, dict),
        "whole numbers below a positive one": all(_is_size(below) for below in integers),
        "names that are text": all(isinstance(name, str) for name in (*texts, *entry.aliases.values())),
        "types by name": all(
            isinstance(getattr(torch, str(kind), None), torch.dtype) for kind in entry.dtypes.values()
        ),
        "tensors that there are": {*entry.dtypes, *entry.masks, *entry.order} <= {*entry.shapes},
        "aliases of tensors that there are": {*entry.aliases.values()} <= {*entry.shapes},
        "a factory as text": entry.factory is None or isinstance(entry.factory, str),
        "inputs and a note as text": isinstance(entry.inputs_from, str) and isinstance(entry.note, str),
        "a symmetry as an object": entry.symmetry is None or isinstance(entry.symmetry, dict),
        "lists as long as it has tensors": entry.factory not in OUR_FACTORIES
        or all(len(value) <= len(entry.shapes) + 1 for value in _lists(entry.arguments)),
    }
    return next((what for what, is_so in told.items() if not is_so), "")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _lists(arguments: Mapping[str, Any]) -> list[list[Any]]:
    return [value for value in arguments.values() if isinstance(value, list)]


def build_module(factory: str, arguments: Mapping[str, Any] | None = None, *, seed: int = 0) -> nn.Module:
    """Import `package.module:callable` and call it under `seed`; the global random state is left as it was.

    What wraps the module for training (data parallel, compiled) is taken off, as files have the names of the module
    itself; one in half precision is built in single.

    Raises:
        InputError: it cannot be imported, or does not return a module.
    """
    try:
        callable_ = import_named(factory)
    except (ImportError, AttributeError, ValueError, SyntaxError, OSError) as error:
        raise InputError(f"expected an importable package.module:callable, found '{factory}' ({error})") from error
    try:
        with torch.random.fork_rng(devices=[]), working_folder_last():
            torch.default_generator.manual_seed(seed)
            module = callable_(**(arguments or {}))
    except TypeError as error:
        raise InputError(f"expected {factory} to be callable with the arguments given, found {error}") from error
    except Exception as error:
        raise InputError(f"expected {factory} to build a module, found {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"expected {factory} to return an nn.Module, found a {type(module).__name__}")
    return bare_module(module)._apply(_single)


def _single(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision as single precision: what is built here is run and traced on ordinary inputs."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
