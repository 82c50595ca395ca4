"""Load one checkpoint from a source, without the wrappers and prefixes that training scripts add."""

from weightspace.weights import Weights, open_weights
from weightspace.wrappers import shared_prefix
from weightspace.zoo.readers.found import Loaded
from weightspace.zoo.readers.source import Source


def load_file(source: Source, path: str) -> Loaded:
    """A file or folder of weights as plain named tensors, in memory.

    Raises:
        InputError: damaged files, or pickles that need code to load, which is never run.
    """
    with source.local(path) as place:
        stored = open_weights(place)
        weights = stored.read()
        if not source.is_local:
            weights = {name: tensor.clone() for name, tensor in weights.items()}
    notes = []
    if stored.wrapper:
        notes.append(f"a state dict was taken out of '{'/'.join(stored.wrapper)}'")
    weights, prefix = without_prefix(weights)
    if prefix:
        notes.append(f"the prefix '{prefix}' was dropped from all names")
    return Loaded(weights, stored.metadata, tuple(notes))


def without_prefix(weights: Weights) -> tuple[Weights, str]:
    """The same tensors without the prefix that data parallel training or compiling gave all names."""
    prefix = shared_prefix(weights)
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}, prefix
