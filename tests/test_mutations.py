"""Whatever bytes of a file change, the answer is the right weights or a refusal: for every reader."""

import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from weightspace.corpus.corpus import open_heard
from weightspace.errors import InputError
from weightspace.inputs import read_table
from weightspace.outputs import write_table
from weightspace.weights.files import read_weights, write_weights
from weightspace.zoo.zoo import Zoo

MUTATIONS = 2_000
Weights = Mapping[str, Tensor]


class Format(NamedTuple):
    """A file of a format, what reads it, and what may come of bytes that were changed."""

    path: Path
    read: Callable[[], object]
    is_right: Callable[[object, bytes], bool]


def mutate(held: bytes, chance: random.Random) -> bytes:
    """Change some bytes: in place, cut, doubled, moved, or the file's end."""
    changed = bytearray(held)
    at = chance.randrange(len(changed))
    length = min(chance.choice((1, 2, 4, 8, 64, 512)), len(changed) - at)
    kind = chance.randrange(8)
    if kind == 0:
        changed[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        changed[at : at + length] = chance.randbytes(length)
    elif kind == 2:
        changed[at : at + length] = bytes(length)
    elif kind == 3:
        del changed[at : at + length]
    elif kind == 4:
        changed[at:at] = changed[at : at + length]
    elif kind == 5:
        other = chance.randrange(len(changed) - length + 1)
        changed[at : at + length], changed[other : other + length] = (
            changed[other : other + length],
            changed[at : at + length],
        )
    elif kind == 6:
        del changed[at:]
    else:  # a digit, where headers have sizes
        digits = [place for place, byte in enumerate(changed) if chr(byte).isdigit()]
        changed[chance.choice(digits or [at])] = chance.choice(b"0123456789")
    return bytes(changed)


def same(first: object, second: Weights) -> bool:
    """Whether two networks are equal bit for bit."""
    if not isinstance(first, dict) or first.keys() != second.keys():
        return False
    return all(_bytes(first[name]) == _bytes(second[name]) for name in second)


def _bytes(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def network() -> dict[str, Tensor]:
    return {
        "first.weight": torch.randn(8, 6),
        "first.bias": torch.randn(8),
        "steps": torch.tensor(3),
        "half": torch.randn(4, 4).half(),
        "mask": torch.tensor([True, False, True]),
        "last.weight": torch.randn(3, 8),
    }


def safetensors_file(folder: Path) -> Format:
    path = folder / "net.safetensors"
    write_weights(path, network())

    def is_right(answer: object, held: bytes) -> bool:
        """No checksums: right is what the library reads of the same bytes, or would not read."""
        try:
            return same(answer, load_safetensors(held))
        except SafetensorError:
            return False

    return Format(path, lambda: read_weights(path), is_right)


def torch_file(folder: Path) -> Format:
    path, weights = folder / "net.pt", network()
    torch.save(weights, path)
    return Format(path, lambda: read_weights(path), lambda answer, held: same(answer, weights))


def older_torch_file(folder: Path) -> Format:
    path = folder / "net.pth"
    torch.save(network(), path, _use_new_zipfile_serialization=False)

    def is_right(answer: object, held: bytes) -> bool:
        """No checksums: right is what stands in the file, number by number."""
        return isinstance(answer, dict) and all(
            _bytes(tensor)[2] in held for tensor in answer.values() if tensor.is_contiguous()
        )

    return Format(path, lambda: read_weights(path), is_right)


def numpy_archive(folder: Path) -> Format:
    path = folder / "net.npz"
    weights = {name: tensor for name, tensor in network().items() if name != "steps"}
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in weights.items()}
    np.savez_compressed(path, **arrays)
    return Format(path, lambda: read_weights(path), lambda answer, held: same(answer, weights))


def table_file(folder: Path) -> Format:
    path = folder / "table.parquet"
    columns = {"member": [f"member-{n}" for n in range(40)], "row": np.arange(40)}
    table = pd.DataFrame(columns | {"accuracy": np.random.default_rng(0).random(40)})
    write_table(path, table)

    def is_right(answer: object, held: bytes) -> bool:
        # Names of columns stand where no checksum is; what is in a column is right, or refused.
        assert isinstance(answer, pd.DataFrame)
        columns = {tuple(answer[name]) for name in answer}
        return columns <= {tuple(table[name]) for name in table}

    return Format(path, lambda: read_table(path), is_right)


def corpus_file(folder: Path) -> Format:
    path, rows = folder / "flat.npy", np.random.default_rng(0).random((6, 72), dtype=np.float32)
    with path.open("wb") as file:
        np.lib.format.write_array(file, rows, (1, 0))

    def read() -> object:
        return open_heard(path).values.reshape(-1).clone()

    def is_right(answer: object, held: bytes) -> bool:
        """No checksums, and nothing but what this process wrote is read: of the same size, and what stands there."""
        return isinstance(answer, Tensor) and answer.numpy().tobytes() in held

    return Format(path, read, is_right)


def part_of_a_zoo(name: str) -> Callable[[Path, Path], Format]:
    def make(folder: Path, zoo_folder: Path) -> Format:
        copy = Path(shutil.copytree(zoo_folder, folder / "zoo"))
        path = next(copy.rglob(name))
        right = digests(Zoo.open(copy))
        return Format(path, lambda: digests(Zoo.open(copy)), lambda answer, held: answer == right)

    return make


def digests(zoo: Zoo) -> dict[tuple[str, int], bytes]:
    """The weights of every checkpoint, by member and epoch."""
    held = {}
    for piece in zoo.stacks():
        for row, (member, epoch) in enumerate(zip(piece.table["member"], piece.table["epoch"], strict=True)):
            held[member, int(epoch)] = b"".join(_bytes(tensor[row])[2] for tensor in piece.stack.values())
    return held


FILES = (safetensors_file, torch_file, older_torch_file, numpy_archive, table_file, corpus_file)
PARTS = ("*.safetensors", "models.parquet", "zoo.json")


def check(made: Format, seed: str, count: int) -> Counter[str]:
    """Change the bytes of a file again and again; says how often it was read right and how often refused."""
    whole, chance, outcomes = made.path.read_bytes(), random.Random(seed), Counter[str]()  # no secrets
    assert made.is_right(made.read(), whole)
    for number in range(count):
        changed = mutate(whole, chance)
        made.path.write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # a number that overflows is none of the file's
                answer = made.read()
        except InputError:
            outcomes["refused"] += 1
            continue
        outcomes["right"] += 1
        assert made.is_right(answer, changed), f"mutation {number} of {made.path.name} is read as something else"
    return outcomes


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_changed_bytes_are_read_right_or_refused(make: Callable[[Path], Format], tmp_path: Path) -> None:
    assert check(make(tmp_path), "few", 60).total() == 60


@pytest.mark.slow
@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_two_thousand_mutations_of_a_file(
    make: Callable[[Path], Format], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcomes = check(make(tmp_path), "many", MUTATIONS)
    record_property("counted", f"{make.__name__}: {dict(outcomes)} of {MUTATIONS:,} mutations")
    assert outcomes.total() == MUTATIONS


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_two_thousand_mutations_of_a_zoo(
    name: str, zoo_folder: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcomes = check(part_of_a_zoo(name)(tmp_path, zoo_folder), name, MUTATIONS)
    record_property("counted", f"{name} of a zoo: {dict(outcomes)} of {MUTATIONS:,} mutations")
    assert outcomes.total() == MUTATIONS
