"""Networks, named on a command line: files or folders of weights, or members of zoos."""

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from weightspace.errors import InputError
from weightspace.inputs import read_object
from weightspace.outputs import require_apart
from weightspace.remote import address_of
from weightspace.weights.files import (
    SINGLE_FILES,
    TORCH_SUFFIXES,
    WEIGHT_SUFFIXES,
    StoredWeights,
    is_index,
    open_weights,
)
from weightspace.weights.values import Weights, natural_key, require_finite
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.checking import ZOO_FILE, is_zoo
from weightspace.zoo.importing.identifying import recognize
from weightspace.zoo.importing.reader import Listing, first_reason
from weightspace.zoo.importing.source import Source
from weightspace.zoo.zoo import Zoo

# Where libraries of pretrained models make one by its name.
LIBRARIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "timm": ("timm", "create_model", {"pretrained": True}),
    "torchvision": ("torchvision.models", "get_model", {"weights": "DEFAULT"}),
    "pytorchcv": ("pytorchcv.model_provider", "get_model", {"pretrained": True}),
}


class Network(NamedTuple):
    """Weights, and their architecture where a zoo tells it."""

    weights: Weights
    architecture: Architecture | None


def open_network(name: str) -> Network:
    """Read `model.safetensors`, `model.pt`, a sharded folder, `FILE:KEY`, or the last epoch of `ZOO:MEMBER`.

    Raises:
        InputError: there is no such network, or it has NaN or infinite weights.
    """
    network = Network(open_file(name).read(), None) if is_file(name) else _member(name)
    require_finite(network.weights, name)
    return network


def open_networks(
    names: Sequence[str], left_out: dict[str, str] | None = None
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Weights by name: of files, read as they are needed, of all files of folders, of `FILE:KEY` for one of several
    networks in a file, and of `ZOO:MEMBER`.

    Args:
        names: of networks.
        left_out: where those of a folder that cannot be read are noted, with the reason; without it they are refused.

    Raises:
        InputError: there is no such network.
    """
    for name in names:
        library, _, model = name.partition(":")
        if address_of(name) is not None and is_file(name):
            yield name, open_weights(name)
        elif is_file(name):
            yield from _open_files(network_files(Path(name)), left_out)
        elif library in LIBRARIES and model:
            yield name, _pretrained(library, model)
        else:
            yield name, _member(name).weights


def _open_files(files: Sequence[Path], left_out: dict[str, str] | None) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Networks in files; of several those that cannot be read are noted, where they may be."""
    for file in files:
        try:
            stored = open_file(str(file))
        except InputError as refusal:
            if len(files) == 1 or left_out is None:
                raise
            left_out[str(file)] = str(refusal)
            continue
        yield str(file), stored


def is_file(name: str) -> bool:
    """Whether a name is that of a file or folder, also behind an address, or of one of the networks in files that are
    no zoo, `FILE:KEY`.
    """
    if address_of(name) is not None:
        return not _is_far_member(name)
    place = Path(name.rpartition(":")[0])
    several = ":" in name and place.exists() and not (place / ZOO_FILE).is_file()
    return Path(name).exists() or several


def _is_far_member(name: str) -> bool:
    """Whether an address is that of a member of a zoo there, `hf://org/zoo:MEMBER`."""
    folder, colon, member = name.rpartition(":")
    far = bool(colon) and address_of(folder) is not None
    # A port is followed by a path; members of the hub's zoos may have one in their names.
    return far and ("/" not in member or folder.startswith("hf:/")) and is_zoo(folder)


def zoo_of(name: str) -> Path | None:
    """The folder of the zoo that `ZOO:MEMBER` is in; None for networks elsewhere."""
    folder = Path(name.rpartition(":")[0])
    return folder if ":" in name and not is_file(name) and is_zoo(folder) else None


def path_of(name: str) -> Path:
    """The file or folder that a network is in: without the key, or the member."""
    place = Path(name.rpartition(":")[0])
    return place if ":" in name and not Path(name).exists() and place.exists() else Path(name)


def require_network_output(target: Path, names: Iterable[str]) -> None:
    """Raise `InputError` for an output whose ending is none of weights, or that would replace a network, the file of
    several that it is in, or a part of a folder that it is.
    """
    if target.suffix not in (WEIGHT_SUFFIXES[0], *TORCH_SUFFIXES):
        endings = ", ".join(ending for ending in (WEIGHT_SUFFIXES[0], *TORCH_SUFFIXES) if ending)
        raise InputError(f"expected an --out that ends in {endings}, found {target.name}")
    for place in map(path_of, names):
        require_apart(target, [place])
        if place.is_dir() and target.resolve().is_relative_to(place.resolve()):
            raise InputError(f"expected an --out apart from the inputs, found {target}, which is in {place}")


def open_file(name: str) -> StoredWeights:
    """`open_weights` of a file or folder, or of `FILE:KEY`."""
    path, _, key = name.rpartition(":")
    if address_of(name) is not None:
        keyed = address_of(path) is not None and "/" not in key
        return open_weights(path, key) if keyed else open_weights(name)
    of_several = not Path(name).exists() and bool(path) and Path(path).exists()
    return open_weights(path, key) if of_several else open_weights(name)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Names of files without folders and endings, as long as they stay apart."""
    short = {name: Path(name).stem if Path(name).is_file() else Path(name).name for name in names}
    again = {own for own in short.values() if list(short.values()).count(own) > 1}
    return {name: name if own in again else own for name, own in short.items()}


def known_accuracies(names: Mapping[str, str], file: Path | None) -> dict[str, float]:
    """Accuracies of networks by their short names: of members from their zoo, of others from a JSON file.

    Raises:
        InputError: a file that is no JSON object of numbers.
    """
    found = {}
    if file is not None:
        try:
            given = {str(name): _accuracy(value) for name, value in read_object(file).items()}
        except (OSError, ValueError, TypeError, AttributeError, StopIteration) as error:
            raise InputError(f"expected accuracies by network as a JSON object in {file}, found none") from error
        found = {short: given[key] for name, short in names.items() for key in (name, short) if key in given}
    for name, short in names.items():
        if ":" in name and Path(name.rpartition(":")[0]).is_dir():
            table = _rows(name).table
            measured = next((part for part in ("test_accuracy", "validation_accuracy") if part in table), None)
            if measured is not None:
                found.setdefault(short, float(table[measured].iloc[0]))
    return found


def _accuracy(value: Any) -> float:
    """A number, or that of an object that has one of the usual names for it."""
    if isinstance(value, Mapping):
        value = next(value[name] for name in ("test_accuracy", "accuracy", "test_acc", "acc") if name in value)
    return float(value)


def _pretrained(library: str, model: str) -> Weights:
    """The weights of a pretrained model that an installed library offers under a name."""
    module, function, arguments = LIBRARIES[library]
    try:
        make = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise InputError(f"expected {library} to be installed for {library}:{model}, found it missing") from error
    try:
        built = make(model, **arguments)
    except Exception as error:  # of any kind: each library has its own for unknown names and failed downloads
        raise InputError(f"expected a pretrained model of {library}, found '{model}' ({error})") from error
    return {name: tensor.detach() for name, tensor in built.state_dict().items()}


@contextlib.contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Refusals say which network they are about."""
    try:
        yield
    except InputError as refusal:
        if str(name) in str(refusal):
            raise
        raise InputError(f"{name}: {refusal}") from refusal


def network_files(path: Path) -> list[Path]:
    """One network, or all networks of a folder that is not a model by itself, below it too, as `inspect` finds them.

    Raises:
        InputError: a folder without any.
    """
    if not path.exists() and is_file(str(path)):
        place, _, key = str(path).rpartition(":")
        return [Path(f"{file}:{key}") for file in network_files(Path(place))]
    if not path.is_dir() or any(is_index(entry.name) or entry.name in SINGLE_FILES for entry in path.iterdir()):
        return [path]
    if (path / ZOO_FILE).is_file():
        raise InputError(f"expected a network, found the zoo {path}: {path}:MEMBER names one of its members")
    try:
        listing = recognize(Source(path)).scan()
    except InputError:
        listing = Listing()
    files = dict.fromkeys(path / entry.path for entry in listing.entries if (path / entry.path).exists())
    if not files:
        why = first_reason(listing)
        raise InputError(f"expected weight files ({', '.join(WEIGHT_SUFFIXES)}) in {path}, found none{why}")
    return sorted(files, key=lambda file: natural_key(str(file)))


def _member(name: str) -> Network:
    own = _rows(name)
    return Network(own.weights(0), own.architectures[str(own.table["architecture"].iloc[0])])


def architecture_of(name: str) -> Architecture | None:
    """What a member of a zoo, `ZOO:MEMBER`, was trained as; None for networks elsewhere, which do not tell."""
    if is_file(name) or name.partition(":")[0] in LIBRARIES or ":" not in name:
        return None
    return _member(name).architecture


def _rows(name: str) -> Zoo:
    """The last checkpoint of `ZOO:MEMBER`."""
    folder, _, member = name.rpartition(":")
    if not folder or not (address_of(folder) or Path(folder).is_dir()):
        raise InputError(f"expected a file of weights or ZOO:MEMBER, found '{name}', which is neither")
    own = Zoo.open(folder).where(member=member).last()
    if len(own) == 0:
        raise InputError(f"expected a member of {folder}, found '{member}'")
    return own
