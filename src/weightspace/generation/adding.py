"""A base network with adapters added to it, tensor by tensor: what each of them changes, and by how much."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.remote import located
from weightspace.weights.adapters.changes import Adapter
from weightspace.weights.adapters.merging import base_names, merge_tensor, merged_kinds, prove_base, unstacked
from weightspace.weights.adapters.opening import is_adapter, open_adapter
from weightspace.weights.adapters.pairs import OUTPUTS, adapter_of
from weightspace.weights.files import StoredWeights, open_weights
from weightspace.weights.safetensors_files import write_in_turn
from weightspace.zoo.addressing import architecture_of, open_network, zoo_of

SMALLEST, BLOCK = 1e-6, 2**22


class AddedRow(NamedTuple):
    """What adapters do to one tensor of a base.

    Attributes:
        tensor: its name in the base.
        methods: of the adapters that change it.
        rank: of their changes, as stored; 0 where it is replaced.
        relative: Frobenius norm of the change over that of the base's tensor.
    """

    tensor: str
    methods: str
    rank: int
    relative: float


class Added(NamedTuple):
    """A base with adapters added, as it was written.

    Attributes:
        base, adapters: as they were named.
        rows: a row for each tensor that changed.
        tensors: how many the base has.
        notes: what there is to say of it.
    """

    base: str
    adapters: Sequence[str]
    rows: list[AddedRow]
    tensors: int
    notes: tuple[str, ...]

    def describe(self) -> str:
        """One sentence."""
        changed = [row for row in self.rows if row.relative > SMALLEST]
        if not changed:
            return f"nothing changed: {' and '.join(self.adapters)} leave {self.base} as it is"
        largest = max(changed, key=lambda row: row.relative)
        return (
            f"{len(changed)} of {self.tensors} tensors of {self.base} changed by {' and '.join(self.adapters)}, "
            f"at most by {largest.relative:.1%} of their size ({largest.tensor})"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        return {**self._asdict(), "rows": [row._asdict() for row in self.rows]}


class Sorted(NamedTuple):
    """Networks by what they are: `bases` are whole ones, `adapters` those that stand for a change of one."""

    bases: list[str]
    adapters: list[str]


def sort_networks(names: Sequence[str]) -> Sorted:
    """Which of some networks are adapters.

    Raises:
        InputError: adapters beside several networks, none of which is said to be their base.
    """
    adapters = [name for name in names if _is_adapter(name)]
    bases = [name for name in names if name not in adapters]
    if adapters and len(bases) > 1:
        raise InputError(
            f"expected one base network to add {', '.join(adapters)} to, found {len(bases)} ({', '.join(bases)})"
        )
    return Sorted(bases, adapters)


def _is_adapter(name: str) -> bool:
    path = located(name)
    if zoo_of(name) is not None:
        return _outputs_of(name) is not None
    if path.is_dir():
        return is_adapter(path)
    if not path.is_file():
        return False  # whoever opens it says what it is
    try:
        return is_adapter(path)
    except InputError:
        return False  # whoever opens it says why


def _outputs_of(name: str) -> Mapping[str, int] | None:
    """Of a member of a zoo of adapters, where its pairs are cut; None for a network."""
    architecture = architecture_of(name)
    return architecture.arguments.get(OUTPUTS) if architecture is not None else None


def open_named(name: str) -> Adapter:
    """An adapter in a file or folder, or a member of a zoo of adapters.

    Raises:
        InputError: see `open_adapter`.
    """
    if zoo_of(name) is None:
        return open_adapter(name)
    return adapter_of(Path(name), open_network(name).weights, _outputs_of(name) or {})


def weigh_adapters(base: str, adapters: Sequence[str]) -> Added:
    """What adapters would change in a base, tensor by tensor, without writing anything.

    Raises:
        InputError: see `add_adapters`.
    """
    return _add(base, adapters, None)


def add_adapters(base: str, adapters: Sequence[str], out: Path) -> Added:
    """Write a base network with adapters added to it, in the base's precision and under its names.

    One tensor is in memory at a time. What adapters change additively is summed in 32 bits and rounded once; adapters
    that need the base's values (DoRA, say) can only be added alone.

    Args:
        base: a file or folder of weights.
        adapters: files or folders of adapters of it, one or more.
        out: a `.safetensors` file.

    Raises:
        InputError: changes that cannot be known, that do not fit the base or one another, or another ending.
    """
    require_streamed(out)
    return _add(base, adapters, out)


def require_streamed(out: Path) -> None:
    """Raise `InputError` for a file that tensors cannot be written into one by one, by its ending."""
    if out.suffix != ".safetensors":
        raise InputError(f"expected a .safetensors file to write merged tensors into one by one, found {out.name}")


def _add(base: str, adapters: Sequence[str], out: Path | None) -> Added:
    stored, opened = open_weights(base), [open_named(adapter) for adapter in adapters]
    if len(opened) > 1:
        alone = next((one for one in opened if one.known != "from the file" or one.replaced), None)
        if alone is not None:
            raise InputError(
                "expected adapters whose changes can be added to one another, found "
                f"{alone.path.name} ({alone.method}), which has to be merged alone"
            )
    opened = [unstacked(one, list(stored)) for one in opened]
    proofs = [prove_base(one, stored) for one in opened]
    refuted = next((n for n, proof in enumerate(proofs) if proof.differing), None)
    if refuted is not None:
        raise InputError(
            f"expected the base of {opened[refuted].path.name}, found {base}: {proofs[refuted].describe()}"
        )
    kinds = merged_kinds(stored, opened)
    rows: list[AddedRow] = []
    with progress_bar("merging", len(kinds)) as advance:
        tensors = _merged(stored, opened, list(kinds), rows, advance)
        if out is None:
            for _ in tensors:
                pass
        else:
            texts = {key: value for key, value in stored.metadata.items() if isinstance(value, str)}
            write_in_turn(out, kinds, tensors, texts)
    notes = [f"{one.path.name}: {remark}" for one in opened for remark in one.remarks]
    notes += [
        f"{one.path.name}: {said}" for one, proof in zip(opened, proofs, strict=True) if (said := proof.describe())
    ]
    return Added(base, [one.path.name for one in opened], rows, len(stored), (*stored.remarks, *notes))


def _relative(before: Tensor, after: Tensor) -> float:
    """Length of a change over that of what was changed, block by block, so that no copy of a tensor is made."""
    moved = size = 0.0
    for one, other in zip(before.flatten().split(BLOCK), after.flatten().split(BLOCK), strict=True):
        moved += float((other.double() - one.double()).square().sum())
        size += float(one.double().square().sum())
    return float((moved / max(size, 1e-60)) ** 0.5)


def _merged(
    stored: StoredWeights, adapters: Sequence[Adapter], names: Sequence[str], rows: list[AddedRow], advance: Any
) -> Iterator[tuple[str, Tensor]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.meta().items()}
    targets = [base_names(adapter, shapes) for adapter in adapters]
    for name in names:
        before = tensor = stored[name] if name in shapes else next(a.told[name]() for a in adapters if name in a.told)
        changing = []
        for adapter, tensor_of in zip(adapters, targets, strict=True):
            here = [target for target, changed in tensor_of.items() if changed == name]
            if here:
                # In 32 bits until all are added.
                tensor = merge_tensor(
                    tensor if tensor.dtype == torch.float64 else tensor.float(), adapter, here, name, tensor_of, shapes
                )
                changing += [adapter.changes.get(target) for target in here]
        if changing:
            relative = _relative(before, tensor)
            methods = dict.fromkeys("replaced" if change is None else change.method for change in changing)
            rank = max(0 if change is None else change.stored_rank for change in changing)
            rows.append(AddedRow(name, ", ".join(methods), rank, relative))
        yield name, tensor.to(before.dtype)
        advance()
