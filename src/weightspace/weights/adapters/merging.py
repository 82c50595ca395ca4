"""An adapter and its base: which tensors belong together, whether it is its base at all, and the merged network."""

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.weights.adapters.changes import Adapter, Change, Factors, Replaced, flat_name, is_turned
from weightspace.weights.files import meta_of
from weightspace.weights.values import Shapes, some_of

# Experts that a network in memory stacks and a file holds one by one: the stack -> what its rows are, one after the
# other, under the names that files have.
STACKED = {
    "gate_up_proj": (("w1", "gate_proj"), ("w3", "up_proj")),
    "down_proj": (("w2", "down_proj"),),
    "up_proj": (("w3", "up_proj"),),
    "gate_proj": (("w1", "gate_proj"),),
}
# As far as 16 bits tell two numbers apart.
ROUNDED = 1e-2


class Proof(NamedTuple):
    """What an adapter's file says of a candidate base.

    Attributes:
        equal: tensors of the base that came along with the adapter, and are the candidate's.
        differing: such tensors that are not.
    """

    equal: list[str]
    differing: list[str]

    def describe(self) -> str:
        """A sentence; nothing where the file says nothing."""
        if self.differing:
            return f"this is not the base it was made on: its file holds another {some_of(self.differing)}"
        return f"its base, by {some_of(self.equal)}, which its file holds too" if self.equal else ""


def prove_base(adapter: Adapter, base: Mapping[str, Tensor]) -> Proof:
    """Compare what a file holds of its base with a candidate: embeddings, lengths of columns, singular vectors.

    Tensors of another shape are left out: a vocabulary may have grown since.
    """
    equal: list[str] = []
    differing: list[str] = []
    shapes = {name: tuple(tensor.shape) for name, tensor in meta_of(base).items()}
    for target, read in adapter.told.items():
        names = [
            name for name in shapes if name == target or name.endswith(f".{target}") or target.endswith(f".{name}")
        ]
        stored = read()
        if len(names) == 1 and shapes[names[0]] == tuple(stored.shape):
            (equal if _is_close(stored, base[names[0]]) else differing).append(target)
    for target, read in adapter.norms.items():
        names = [target] if target in shapes else next(_fitting(target, shapes))
        if len(names) == 1 and shapes[names[0]][1:] == tuple((norms := read()).shape):
            same = _is_close(norms, base[names[0]].float().norm(dim=0))
            (equal if same else differing).append(target)
    for target, (read_left, read_right) in adapter.vectors.items():
        left, right = read_left().float(), read_right().float()
        names = [target] if target in shapes else next(_fitting(target, shapes))
        if len(names) == 1 and shapes[names[0]] == (len(left), right.shape[1]):
            # Of its own singular vectors a matrix makes those of the other side, times the singular values.
            same = _is_close(base[names[0]].float() @ right.T, left * left.square().sum(0))
            (equal if same else differing).append(target)
    return Proof(equal, differing)


def _is_close(first: Tensor, second: Tensor) -> bool:
    first, second = first.float(), second.float()
    return bool((first - second).norm() <= ROUNDED * second.norm())


def unstacked(adapter: Adapter, base: Collection[str]) -> Adapter:
    """The same adapter by the tensors that a file has where a network in memory stacks them: experts one by one, and a
    gate beside what it gates.

    Transformers reads Mixtral's and its like's files so, and adapters are made in memory.
    """
    changes: dict[str, Change] = {}
    for target, change in adapter.changes.items():
        plain, _, place = target.removesuffix("]").partition("[")
        whole = plain in base or any(name.endswith(f".{plain}") for name in base)
        pieces = [] if whole or not place else _pieces(plain, int(place), base)
        if not pieces:
            changes[target] = change
        for number, name in enumerate(pieces):
            factors = _rows_of(change, number, len(pieces))
            changes[name] = replace(change, factors=factors, index=None)
    return replace(adapter, changes=changes)


def _pieces(stack: str, expert: int, base: Collection[str]) -> list[str]:
    """The tensors of a file that an expert's part of a stack consists of; none where there are no such."""
    module, _, parameter = stack.rpartition(".")
    numbers = re.findall(r"\d+", module)
    pieces = []
    for words in STACKED.get(parameter, ()):
        ending = re.compile(rf"^(?P<place>.*\.experts)\.{expert}\.({'|'.join(words)})\.weight$")
        found = [name for name in base if (m := ending.match(name)) and re.findall(r"\d+", m["place"]) == numbers]
        pieces += found if len(found) == 1 else []
    return pieces if len(pieces) == len(STACKED.get(parameter, ())) else []


def _rows_of(change: Change, number: int, count: int) -> Callable[[], Factors]:
    """One of several runs of rows of a product."""

    def factors() -> Factors:
        left, right = change.product()
        size = len(left) // count
        return Factors(left[number * size : (number + 1) * size], right)

    return factors


def base_names(adapter: Adapter, base: Shapes) -> dict[str, str]:
    """The base's tensor of every change and replacement: by its whole name, else by the only one that ends alike, else
    with the dots that kohya's names have lost, else by its words in another order, or by its last ones and its numbers:
    a network in memory and its file may be named apart.

    Raises:
        InputError: tensors that the base does not have, or several that it may be.
    """
    if adapter.config.get("layer_replication"):
        raise InputError(
            f"expected an adapter of the base's own layers, found {adapter.path.name}, made after they were replicated"
        )
    names, strange = {}, []
    for target in (*adapter.changes, *adapter.replaced):
        plain = re.sub(r"\[\d+\]$", "", target)
        optional = target in adapter.changes and adapter.changes[target].optional
        rules = itertools.islice(_fitting(plain, base), 1 if optional else None)  # a bias need not be there at all
        fitting = [plain] if plain in base else next(filter(None, rules), [])
        if len(fitting) == 1:
            names[target] = fitting[0]
        elif plain in adapter.told:
            names[target] = plain  # one of two tied tensors, which the base holds under the other's name
        elif not optional:
            strange.append(target)
    if strange:
        raise InputError(f"expected tensors of the base that the adapter changes, found no single {some_of(strange)}")
    return names


def _fitting(plain: str, base: Shapes) -> Iterator[list[str]]:
    """Names that may be meant, by one rule after the other."""
    yield [name for name in base if name.endswith(f".{plain}") or plain.endswith(f".{name}")]
    flat = flat_name(plain)
    yield [name for name in base if name.replace(".", "_") == flat]
    words = plain.split(".")
    yield [name for name in base if sorted(name.split(".")) == sorted(words)]
    numbers = [word for word in words if word.isdecimal()]
    alike = [name.split(".") for name in base if name.split(".")[-2:] == words[-2:]]
    yield [".".join(other) for other in alike if len(words) > 2 and [w for w in other if w.isdecimal()] == numbers]


def merge_adapter(base: Mapping[str, Tensor], adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the merged network, one after the other, as the base names them.

    Tied tensors of which the adapter changes one are tied no longer, so that the merged network answers as the base
    with the adapter does; PEFT changes both.

    Raises:
        InputError: a change that cannot be known, or that does not fit the base.
    """
    changed: dict[str, list[str]] = {}
    adapter = unstacked(adapter, list(base))
    shapes = {name: tuple(tensor.shape) for name, tensor in meta_of(base).items()}
    names = base_names(adapter, shapes)
    for target, name in names.items():
        changed.setdefault(name, []).append(target)
    for name in dict.fromkeys((*base, *changed)):
        tensor = base[name] if name in base else adapter.told[name]()
        yield name, merge_tensor(tensor, adapter, changed.get(name, ()), name, names, shapes)


def turned_layers(adapter: Adapter, names: Mapping[str, str], shapes: Shapes) -> frozenset[str]:
    """Targets whose square tensors store inputs first: as their configuration says, or as other layers of their block
    show by their shapes (PEFT's configuration says it of the layer that came last).
    """
    usual = bool(adapter.config.get("fan_in_fan_out"))
    shown: dict[str, bool] = {}
    for target, change in adapter.changes.items():
        shape = shapes.get(names.get(target, ""), ())[-2:]
        if change.shape is not None and len(shape) == 2 and shape[0] != shape[1]:
            shown[_block_of(target)] = is_turned(shape, change.shape)
    return frozenset(target for target in adapter.changes if shown.get(_block_of(target), usual))


def _block_of(target: str) -> str:
    """The block that a layer is in: its name up to the first number."""
    return re.split(r"\.\d+\.", target, maxsplit=1)[0] if re.search(r"\.\d+\.", target) else target


def merge_tensor(
    tensor: Tensor,
    adapter: Adapter,
    targets: Sequence[str],
    name: str,
    names: Mapping[str, str] | None = None,
    shapes: Shapes | None = None,
) -> Tensor:
    """One tensor of the base after the changes and replacements of these targets.

    Args:
        tensor: of the base, which stays as it is; name: its name there.
        adapter: whose changes are made; targets: those of this tensor.
        names: the base's tensor of every target, and shapes of all: what layers beside this one show of how it lies.
    """
    shape = tuple(tensor.shape)
    turned = turned_layers(adapter, names or dict.fromkeys(targets, name), shapes or {name: shape})
    stacked = any(target in adapter.changes and adapter.changes[target].index is not None for target in targets)
    tensor = tensor.clone() if stacked else tensor
    for target in targets:
        change = adapter.changes.get(target)
        if change is None:
            tensor = _replace(tensor, adapter.replaced[target], name)
        elif change.index is None:
            tensor = change.applied(tensor, transposed=target in turned)
        else:
            tensor[change.index] = change.applied(tensor[change.index], transposed=target in turned)
    return tensor


def merged_kinds(base: Mapping[str, Tensor], adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """Types and shapes of the merged network's tensors: the base's, and tied ones that an adapter changes alone.

    Raises:
        InputError: see `base_names`.
    """
    kinds = dict(meta_of(base))
    shapes = {name: tuple(tensor.shape) for name, tensor in kinds.items()}
    for adapter in adapters:
        for name in base_names(adapter, shapes).values():
            if name not in kinds:
                kinds[name] = torch.empty_like(adapter.told[name](), device="meta")
    return kinds


def _replace(tensor: Tensor, replaced: Replaced, name: str) -> Tensor:
    values = replaced.read().to(tensor.dtype)
    if replaced.rows is None:
        if values.shape != tensor.shape:
            raise InputError(f"expected {list(tensor.shape)} for {name} of the base, found {list(values.shape)}")
        return values
    if len(values) != len(replaced.rows) or any(row >= len(tensor) for row in replaced.rows):
        raise InputError(f"expected rows of {name} of the base and as many values, found {len(values)} and others")
    tensor = tensor.clone()
    tensor[torch.tensor(replaced.rows)] = values
    return tensor
