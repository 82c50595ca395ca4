"""Where the numbers of a generated network come from."""

from collections.abc import Mapping
from dataclasses import dataclass

WORDS = {
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
    """

    tensors: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers by where they come from."""
        counts = dict.fromkeys(WORDS, 0)
        for name, source in self.tensors.items():
            counts[source] += self.sizes[name]
        return counts

    def share(self, source: str) -> float:
        """The share of all numbers that come from one source, in [0, 1]."""
        return self.counts[source] / max(1, sum(self.sizes.values()))

    def __str__(self) -> str:
        return describe_counts(self.counts)


def describe_counts(counts: Mapping[str, int]) -> str:
    """Numbers by where they come from, in words; what there is none of is left out."""
    return ", ".join(f"{counts[name]:,} numbers {words}" for name, words in WORDS.items() if counts.get(name))
