"""What an archive of torch says of itself, compared with what it holds, before torch reads it.

torch takes the sizes in a pickle at their word, and compares no checksum: a record that is shorter is read on into its
neighbour, and one that is compressed, mapped as if it were not.
"""

import io
import pickle
import posixpath
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weightspace.archives import COMPRESSIONS, DAMAGE, ENCRYPTED, require_all_entries, require_ratio
from weightspace.errors import InputError
from weightspace.weights.safetensors_files import Stored

CHUNK, DIRECTORY = 2**20, 0x10
PLAIN = (Tensor, nn.Parameter, nn.Buffer)
# Numbers of these storages are so many bytes; of all others one.
STORAGES = {
    f"{kind}Storage": dtype.itemsize
    for kind, dtype in {
        **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16},
        **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "QInt32": torch.qint32},
        **{"ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128},
    }.items()
}


class Records(NamedTuple):
    """What is known of an archive's records: whether all are as they are on disk, and where one of each checksum and
    size begins.
    """

    stored: bool = False
    places: Mapping[tuple[int, int], int] = {}


def check_archive(file: Path | io.BytesIO, name: str) -> Records:
    """Compare the records of a torch archive with its directory, and the storages of its pickle with the records.

    Raises:
        InputError: damaged, encrypted, or far larger than its file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            require_all_entries(file, len(infos))
            names = [info.filename for info in infos]
            (twice, count), *_ = [*Counter(names).most_common(1), ("", 1)]
            if count > 1:
                raise _damaged(name, f"the record {twice} twice")
            packed = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
            require_ratio(sum(info.file_size for info in infos), packed, name)
            # Whoever saves without checksums has zeros everywhere, which zipfile would compare.
            checked = any(info.CRC for info in infos)
            places = {
                (_compare(archive, info, name, checked=checked), info.file_size): _start(archive, info)
                for info in infos
            }
            _compare_storages(archive, name)
    except InputError:
        raise
    except DAMAGE as error:
        raise _damaged(name, str(error) or type(error).__name__) from error
    return Records(all(info.compress_type == zipfile.ZIP_STORED for info in infos), places)


def require_read(loaded: object, records: Records, name: str) -> None:
    """Raise `InputError` unless the numbers of all tensors that torch read are those of a record.

    torch's own reader of archives differs from others in what it takes for a record.
    """
    seen: set[int] = set()
    for tensor in _tensors_in(loaded):
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or type(tensor) not in PLAIN:
            continue
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen and storage.nbytes():
            seen.add(storage.data_ptr())
            if (zlib.crc32(_numbers_of(storage)), storage.nbytes()) not in records.places:
                raise _damaged(name, "numbers that no record holds")


def locate(path: Path, tensors: Mapping[str, Tensor], records: Records) -> dict[str, Stored]:
    """Where tensors that were read lie in their file: those whose numbers stand there in a row, byte for byte."""
    starts: dict[int, int | None] = {}
    found = {}
    for name, tensor in tensors.items() if records.stored else ():
        if not tensor.is_contiguous() or type(tensor) not in PLAIN or not tensor.numel():
            continue
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in starts:
            starts[storage.data_ptr()] = _place_of(storage, path, records)
        start = starts[storage.data_ptr()]
        if start is not None and not tensor.is_conj() and not tensor.is_neg():
            first = start + tensor.storage_offset() * tensor.element_size()
            found[name] = Stored(tensor.dtype, tuple(tensor.shape), int(first), int(first) + tensor.nbytes)
    return found


def _place_of(storage: torch.UntypedStorage, path: Path, records: Records) -> int | None:
    """Where the bytes of a storage begin in a file; None if they are not there: in large files another record may have
    their checksum and size by chance.
    """
    numbers = _numbers_of(storage)
    start = records.places.get((zlib.crc32(numbers), len(numbers)))
    if start is None:
        return None
    with path.open("rb") as file:
        file.seek(start)
        same = all(file.read(CHUNK) == numbers[offset : offset + CHUNK] for offset in range(0, len(numbers), CHUNK))
    return start if same else None


def _numbers_of(storage: torch.UntypedStorage) -> memoryview:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data


def _start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin, behind its name and what else its header has."""
    file: Any = archive.fp
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return int(info.header_offset + 30 + name + extra)


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _tensors_in(item)


def _compare(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, *, checked: bool) -> int:
    """The checksum of a record, of which zipfile compares the size and, where there is one, the checksum."""
    if info.is_dir() or info.external_attr & DIRECTORY:
        raise _damaged(name, f"the record {info.filename} as a folder")
    if info.flag_bits & ENCRYPTED or info.compress_type not in COMPRESSIONS:
        raise _damaged(name, f"the record {info.filename} encrypted, or compressed in an unknown way")
    if not checked:
        info.CRC = None  # type: ignore[assignment] # as zipfile itself marks what is not to be compared
    left, summed = info.file_size, 0
    with archive.open(info) as record:
        while chunk := record.read(CHUNK):
            left -= len(chunk)
            summed = zlib.crc32(chunk, summed)
    if left:
        raise _damaged(name, f"the record {info.filename} of another size than it says")
    return summed


def _compare_storages(archive: zipfile.ZipFile, name: str) -> None:
    """Every storage that the pickle names has a record of just its size."""
    pickles = [info.filename for info in archive.infolist() if posixpath.basename(info.filename) == "data.pkl"]
    for path in pickles:
        root = posixpath.dirname(path)
        for key, size in _storages(archive.read(path), name).items():
            try:
                found = archive.getinfo(posixpath.join(root, "data", key)).file_size
            except KeyError as error:
                raise _damaged(name, f"no record of the storage {key}") from error
            if found != size:
                raise _damaged(name, f"{found:,} bytes in the record of the storage {key}, whose pickle says {size:,}")


def _storages(held: bytes, name: str) -> dict[str, int]:
    """The storages that a pickle names, and their bytes."""
    inventory = _Inventory(io.BytesIO(held))
    try:
        inventory.load()
    except Exception as error:  # whatever damaged bytes make it raise
        raise _damaged(name, f"a pickle that cannot be read ({error})") from error
    return inventory.sizes


class _Anything(dict[Any, Any]):
    """Stands for every object of a pickle that is looked through: takes everything and does nothing."""

    def __init__(self, *values: object, **named: object) -> None:
        pass

    def __call__(self, *values: object, **named: object) -> "_Anything":
        return _Anything()

    def __setstate__(self, state: object) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override] # it may be a key
        return 0

    def append(self, value: object) -> None:
        """Nothing."""

    extend = add = append


class _Inventory(pickle.Unpickler):
    """Goes through a pickle and notes its storages; no name in it is looked up, so that nothing of it is run."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Anything,), {})

    def persistent_load(self, about: Any) -> object:
        _, kind, key, _, count = about
        size = int(count) * STORAGES.get(getattr(kind, "__name__", ""), 1)
        if self.sizes.setdefault(str(key), size) != size:
            raise ValueError(f"the storage {key} with two sizes")
        return _Anything()


def _damaged(name: str, why: str) -> InputError:
    return InputError(f"expected a whole torch file at {name}, found a damaged one ({why})")
