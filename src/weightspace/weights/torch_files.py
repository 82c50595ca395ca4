"""Files of torch, read without running any code in them; what cannot be read is told from what is damaged."""

import codecs
import importlib
import io
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from weightspace.archives import (
    DAMAGE,
    FREE_BYTES,
    MOST_ARRAY,
    NumpyArchive,
    open_archive,
    read_entry,
    require_ratio,
)
from weightspace.errors import InputError
from weightspace.remote import Place
from weightspace.weights.safetensors_files import Stored
from weightspace.weights.state_dicts import Plain, Unwrapped, is_optimizer_state, unwrap
from weightspace.weights.torch_archives import Records, check_archive, locate, require_read
from weightspace.weights.values import some_of

# Larger archives stay on the disk and are mapped: whoever cuts one while it is read ends this process.
READ_WHOLE = 512 * 2**20
# Tensors of a file may be so many times as large as it is: views, and what was expanded.
MOST_EXPANDED = 4
POLICY = "policy.pth"
# Tensors that are spread over processes, and the name that torch's reader refuses.
SPREAD = "torch.distributed.tensor"
REFUSED = re.compile(r"GLOBAL ([\w.]+)")
# Numbers of numpy beside the weights: what torch itself says is safe to allow. Nothing of these runs code of a file.
PLAIN_NUMPY: list[Any] = [
    np.dtype,
    codecs.encode,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    # What makes a number of numpy from its bytes, under its names in both of numpy's generations.
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class TorchFile(NamedTuple):
    """The network in a file of torch, and where tensors of it lie in the file as they are, as far as that was asked."""

    network: Unwrapped
    places: dict[str, Stored]


def read_torch_file(path: Path, inside: Sequence[str] = (), *, keep: bool = True) -> TorchFile:
    """The network in a file of torch.

    Args:
        path: of the file.
        inside: the keys of one of several networks in it.
        keep: its tensors in memory, unless the file is large; places are only looked for where they are not.

    Raises:
        InputError: no network in it, a damaged file, one of another kind, or one that needs code to load, which is
            never run.
    """
    kind = _archive_kind(path)
    if kind:
        raise InputError(f"expected tensors in {path}, found {kind}")
    loaded, records = _load_archive(path) if zipfile.is_zipfile(path) else (_load(path, path), Records())
    found = _unwrap(loaded, path, inside)
    tensors = {name: _whole(name, tensor, path) for name, tensor in found.tensors.items()}
    _require_held(tensors, path)
    places = {} if keep and path.stat().st_size <= READ_WHOLE else locate(path, tensors, records)
    return TorchFile(found._replace(tensors=tensors), places)


def load_torch_file(path: Path) -> object:
    """Whatever is in a file of torch, without running any code of it; see `read_torch_file`."""
    return _load_archive(path)[0] if zipfile.is_zipfile(path) else _load(path, path)


def _load_archive(path: Path) -> tuple[object, Records]:
    """Of an archive that holds what it says; a large one whose records lie there as they are stays on the disk."""
    records = check_archive(path, str(path))
    loaded = _load(path, path, mmap=records.stored and path.stat().st_size > READ_WHOLE)
    require_read(loaded, records, str(path))
    return loaded, records


def _require_held(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are far larger than their file, as those expanded from one number are."""
    whole, size = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if whole > FREE_BYTES + MOST_EXPANDED * size:
        raise InputError(
            f"expected tensors about as large as their file in {path}, found {whole:,} bytes of {size:,}, expanded or "
            "shared"
        )


def read_policy(path: Path) -> dict[str, Tensor]:
    """The policy in a model of stable-baselines3, without the state of its optimizer."""
    archive = open_archive(path)
    if POLICY not in archive.entries:
        raise InputError(f"expected a model of stable-baselines3, with its {POLICY}, in {path}, found none")
    require_ratio(archive.entries[POLICY].size, path.stat().st_size, path.name)
    policy = io.BytesIO(read_entry(archive, POLICY, MOST_ARRAY))
    if zipfile.is_zipfile(policy):
        records = check_archive(policy, f"{path}, {POLICY}")
        policy.seek(0)
        held = _load(policy, path)
        require_read(held, records, f"{path}, {POLICY}")
    else:
        policy.seek(0)
        held = _load(policy, path)
    tensors = held.items() if isinstance(held, Mapping) else ()
    return {str(name): value.detach() for name, value in tensors if isinstance(value, Tensor)}


def read_arrays(path: Path) -> tuple[dict[str, Tensor], dict[str, Plain]]:
    """The network in an archive of numpy, and plain numbers beside it.

    Raises:
        InputError: arrays that are no weights, such as images with their labels, a damaged archive, or arrays of
            objects, which would need code to load.
    """
    archive = NumpyArchive(path)
    arrays = {name: archive.read(name) for name in archive.names}
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "fiubc"}
    beside = {name: array.item() for name, array in numbers.items() if not array.ndim and "." not in name}
    try:
        tensors = {name: torch.from_numpy(array) for name, array in numbers.items() if name not in beside}
    except TypeError as error:  # a type of numpy that torch has not, such as long doubles
        raise InputError(f"expected numbers of a type that torch has in {path}, found others ({error})") from error
    fractions = [name for name, tensor in tensors.items() if tensor.is_floating_point() or tensor.is_complex()]
    labels = [name for name, tensor in tensors.items() if name not in fractions and "." not in name]
    if not fractions or (labels and not any("." in name for name in fractions)):
        raise InputError(f"expected weights in {path}, found {some_of(labels) or 'no arrays of fractions'}, as in data")
    return tensors, {name: value for name, value in beside.items() if isinstance(value, str | int | float | bool)}


def unwrap_named(loaded: object, inside: Sequence[str], path: Place) -> Unwrapped | None:
    """`unwrap`, whose refusals name the file."""
    try:
        return unwrap(loaded, inside)
    except RuntimeError as error:  # tensors that have no shape, such as nested ones
        raise InputError(f"expected dense tensors in {path}, found others") from error
    except InputError as refusal:
        raise InputError(str(refusal).replace(", found", f" in {path}, found", 1)) from refusal


def _unwrap(loaded: object, path: Path, inside: Sequence[str]) -> Unwrapped:
    found = unwrap_named(loaded, inside, path)
    if found is not None:
        return found
    if loaded == {}:
        raise InputError(f"expected named tensors in {path}, found none")
    if is_optimizer_state(loaded):
        raise InputError(f"expected a dict of tensors in {path}, found the state of an optimizer or a scheduler")
    if isinstance(loaded, Mapping) and any(
        isinstance(value, Tensor) and not isinstance(name, str) for name, value in loaded.items()
    ):
        raise InputError(f"expected named tensors in {path}, found other names than text")
    raise InputError(f"expected a dict of tensors in {path}, found {_describe(loaded)}")


def _load(file: Path | io.BytesIO, path: Path, mmap: bool = False) -> object:
    """What torch reads from a file without running code."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN_NUMPY):
            # torch warns of pickles of another protocol; a load that then fails is refused below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        name = next(iter(REFUSED.findall(str(error))), "")
        if SPREAD in str(error) and SPREAD not in sys.modules:
            importlib.import_module(SPREAD)  # torch's reader knows its tensors from then on
            return _load(file, path, mmap)
        needs = (
            f"a pickle that needs code to load ({name})" if name else "a damaged file or one that needs code to load"
        )
        raise InputError(
            f"expected tensors only in {path}, found {needs}, which is never run; re-save it where it was made, the "
            "weights alone: torch.save(model.state_dict(), FILE) or safetensors.torch.save_model(model, FILE)"
        ) from error
    except DAMAGE as error:
        told = str(error) and not isinstance(error, KeyError)  # whose text is a byte of the file
        reason = str(error).splitlines()[0] if told else "damaged"
        raise InputError(f"expected a whole torch file at {path}, found one that cannot be read ({reason})") from error


def _archive_kind(path: Path) -> str:
    """What an archive is that torch's reader takes for a damaged file, and how its weights are had; else nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except DAMAGE:
        return ""
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return (
            "a TorchScript archive, which holds code: where it was made, "
            "torch.save(torch.jit.load(FILE).state_dict(), OUT) writes its weights alone"
        )
    if "archive_format" in names or any(name.startswith("data/weights/") for name in names):
        return (
            "a program exported by torch (.pt2), which holds code: where it was made, "
            "torch.save(dict(torch.export.load(FILE).state_dict), OUT) writes its weights alone"
        )
    return ""


def _whole(name: str, tensor: Tensor, path: Path) -> Tensor:
    """A dense tensor with values."""
    if type(tensor).__module__.startswith(SPREAD):
        spread: Any = tensor
        if spread.device_mesh.size() > 1 and not all(place.is_replicate() for place in spread.placements):
            raise InputError(f"expected whole tensors in {path}, found a part of one that was spread out in {name}")
        tensor = spread.to_local().detach()
    if tensor.is_quantized:
        raise InputError(f"expected plain numbers in {path}, found {tensor.dtype} in {name}")
    if tensor.is_meta or tensor.layout != torch.strided:
        raise InputError(f"expected dense tensors in {path}, found a sparse or empty one in {name}")
    return tensor


def _describe(loaded: object) -> str:
    if isinstance(loaded, Mapping):
        return f"a dict with the keys {some_of([str(key) for key in loaded])}"
    return f"a {type(loaded).__name__}"
