"""Where the numbers of a written network come from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

SOURCES = {
    "generated": "generated",
    "copied": "copied from generated rows",
    "conditioned": "averaged over images",
    "reinitialized": "as the module was initialised",
    "carried": "carried over from an anchor",
}


@dataclass(frozen=True)
class Coverage:
    """Where every tensor of a network comes from.

    Attributes:
        tensors: name -> `generated`; `copied`: rows drawn from the generated rows of a head of another size;
            `conditioned`: batch-norm statistics averaged over images; `reinitialized`: left as the module was
            initialised; `carried`: no 16- or 32-bit float, taken from an anchor.
        sizes: name -> how many numbers it has.

    Examples:
        >>> print(Coverage({"weight": "generated", "count": "carried"}, {"weight": 6, "count": 1}))
        6 numbers generated, 1 numbers carried over from an anchor
    """

    tensors: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers by where they come from."""
        counts = dict.fromkeys(SOURCES, 0)
        for name, source in self.tensors.items():
            counts[source] += self.sizes[name]
        return counts

    def share(self, source: str) -> float:
        """The share of all numbers that come from one source, in [0, 1]."""
        return self.counts[source] / max(1, sum(self.sizes.values()))

    def with_source(self, source: str, names: Iterable[str]) -> "Coverage":
        """The same, but for some of its tensors."""
        return replace(self, tensors={**self.tensors, **{name: source for name in names if name in self.tensors}})

    def __str__(self) -> str:
        return describe_counts(self.counts)


def describe_counts(counts: Mapping[str, int]) -> str:
    """Numbers by where they come from, in words; what there is none of is left out."""
    return ", ".join(f"{counts[name]:,} numbers {words}" for name, words in SOURCES.items() if counts.get(name))
