"""How far a network is from everything the model was trained on, in weights and in function."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.corpus.corpus import opened_corpus
from weightspace.corpus.frame import Frame
from weightspace.corpus.preparation import Preparation
from weightspace.errors import InputError
from weightspace.images import Images
from weightspace.supervised import predict_stack, stack_weights
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

PAIRS = 200
CANDIDATES = 5


class Nearest(NamedTuple):
    """How far the nearest training checkpoint is (relative to two members), and which row of the reference it is."""

    distances: Float[Tensor, "networks"]
    rows: Int[Tensor, "networks"]


class Novelty(NamedTuple):
    """Novelty of every network, relative to how far members are from each other.

    Attributes:
        weights: distance to the nearest training checkpoint over the median distance of two members.
        function: share of images on which predictions differ from that nearest checkpoint's, over the median
            share on which two members differ.
        nearest: that checkpoint's place in the zoo (for `zoo.weights`).
        diversity: median distance to the other networks, over the median distance of two members; NaN for one alone.
    """

    weights: Float[np.ndarray, "networks"]
    function: Float[np.ndarray, "networks"]
    nearest: Int[np.ndarray, "networks"]
    diversity: Float[np.ndarray, "networks"]


class StandardizedSpace(NamedTuple):
    """The space in which weights of one architecture are compared and mixed without an autoencoder.

    Every tensor is standardised with the statistics of the training members, so that all count alike.
    """

    frame: Frame
    architecture: Architecture

    def flatten(self, weights: Weights) -> Float[Tensor, "size"]:
        """Standardised weights in one row; not permuted."""
        return self.frame.flat(weights, self.architecture)

    def restore(self, flat: Float[Tensor, "size"], carried_from: Weights) -> Weights:
        """The inverse of `flatten`; what is not tokenised comes from another network."""
        carried = self.frame.carried_of(carried_from, self.architecture)
        return self.frame.network(flat, self.architecture, carried)


class NoveltyReference:
    """All training checkpoints of one layout, standardised and aligned, to measure distances to.

    Distances are taken after permutation, over the permutations that are tried: none, the match to the
    preparation's reference, and a direct match to each of the likeliest checkpoints. A match to the reference
    alone would overstate novelty: a little noise can tip it into another local optimum. The likeliest are those
    that are nearest so far, and those nearest with every tensor's entries sorted, which is a lower bound of the
    distance under any permutation.
    """

    def __init__(self, zoo: Zoo, preparation: Preparation, architecture: Architecture) -> None:
        self._zoo = zoo
        key = preparation.key_of(architecture)
        with opened_corpus(zoo, preparation) as corpus:
            part = next((part for part in corpus.parts if part.key == key), None)
            if part is None:
                raise InputError(
                    f"expected checkpoints with the shapes of {architecture.id}, found none in {zoo.folder}"
                )
            # Copied: the corpus and its file are gone after this.
            self._frame, self._table, self._raw = part.frame, part.table, part.flat.clone()
        self.flat = self._frame.statistics.apply(self._raw, self._frame.layout)
        self._sorted = self._sort(self.flat)
        self._last = self._last_rows()
        self._disagreements: list[tuple[Tensor, float]] = []
        self.typical_distance = float(np.median(_pair_distances(self.flat[self._last])))

    def nearest(self, networks: list[Weights], architecture: Architecture) -> Nearest:
        """The nearest training checkpoint to every network."""
        space = StandardizedSpace(self._frame, architecture)
        as_given = torch.stack([space.flatten(weights) for weights in networks])
        matched = torch.stack([space.flatten(self._permute(weights, None, architecture)) for weights in networks])
        both = torch.minimum(torch.cdist(as_given, self.flat), torch.cdist(matched, self.flat))
        bound = torch.cdist(self._sort(as_given), self._sorted)
        count = min(CANDIDATES, len(self.flat))
        candidates = torch.cat([part.topk(count, largest=False).indices for part in (both, bound)], dim=1)
        for number, weights in enumerate(networks):
            for row in candidates[number].tolist():
                direct = space.flatten(self._permute(weights, self._raw[row], architecture))
                both[number, row] = torch.minimum(both[number, row], (direct - self.flat[row]).norm())
        nearest = both.min(dim=1)
        return Nearest(nearest.values / self.typical_distance, nearest.indices)

    def _sort(self, flat: Float[Tensor, "networks size"]) -> Float[Tensor, "networks size"]:
        """Every tensor's entries in increasing order."""
        sizes = [torch.Size(shape).numel() for shape in self._frame.layout.shapes.values()]
        return torch.cat([part.sort(dim=1).values for part in flat.split(sizes, dim=1)], dim=1)

    def _permute(self, weights: Weights, target: Tensor | None, architecture: Architecture) -> Weights:
        """Weights matched to a flat vector, or to the preparation's reference."""
        frame = self._frame if target is None else replace(self._frame, reference=target)
        return frame.canonicalize(weights, architecture)

    def measure(self, networks: list[Weights], architecture: Architecture, images: Images) -> Novelty:
        """Novelty in weights and in function; functions are compared on `images`."""
        distances, nearest = self.nearest(networks, architecture)
        predicted = _predict(stack_weights(networks), architecture, images)
        rows = [int(row) for row in nearest]
        other = torch.stack([self._predictions(row, images) for row in rows])
        typical = self._typical_disagreement(images)
        function = (predicted != other).float().mean(1) / max(typical, 1e-9)
        places = np.array([self._place(row) for row in rows])
        return Novelty(distances.numpy(), function.numpy(), places, self._diversity(networks, architecture))

    def _diversity(self, networks: list[Weights], architecture: Architecture) -> Float[np.ndarray, "networks"]:
        """How far every network is from the others, all matched to the preparation's reference."""
        space = StandardizedSpace(self._frame, architecture)
        matched = torch.stack([space.flatten(self._permute(weights, None, architecture)) for weights in networks])
        count = len(matched)
        if count < 2:
            return np.full(count, np.nan, dtype=np.float32)
        others = torch.cdist(matched, matched)[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)
        return (others.median(dim=1).values / self.typical_distance).numpy()

    def _typical_disagreement(self, images: Images) -> float:
        """Median share of images on which two members differ; kept, as many populations are measured on one set."""
        for inputs, known in self._disagreements:
            if inputs is images.inputs:
                return known
        self._disagreements.append((images.inputs, self._disagreement_of_pairs(images)))
        return self._disagreements[-1][1]

    def _disagreement_of_pairs(self, images: Images) -> float:
        pairs = _pairs(len(self._last))
        rows = sorted({row for pair in pairs for row in pair})
        predictions = {row: self._predictions(int(self._last[row]), images) for row in rows}
        return float(np.median([(predictions[a] != predictions[b]).float().mean() for a, b in pairs]))

    def _predictions(self, row: int, images: Images) -> Int[Tensor, "images"]:
        place = self._place(row)
        architecture = self._zoo.architectures[str(self._zoo.table["architecture"].iloc[place])]
        return _predict(stack_weights([self._zoo.weights(place)]), architecture, images)[0]

    def _place(self, row: int) -> int:
        """A row of the corpus as a place in the zoo."""
        return int(np.flatnonzero(self._zoo.table.index == self._table.index[row])[0])

    def _last_rows(self) -> Int[Tensor, "members"]:
        table = self._table.reset_index(drop=True)
        return torch.tensor(table.groupby("member")["epoch"].idxmax().to_numpy(copy=True))


def _predict(stack: Weights, architecture: Architecture, images: Images) -> Int[Tensor, "networks images"]:
    return predict_stack(architecture.build(), stack, images.inputs).argmax(-1).cpu()


def _pairs(count: int) -> list[tuple[int, int]]:
    """Up to `PAIRS` pairs of different numbers below `count`, always the same ones."""
    if count < 2:
        return [(0, 0)]
    generator = np.random.default_rng(0)
    first = generator.integers(count, size=PAIRS)
    second = (first + generator.integers(1, count, size=PAIRS)) % count
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _pair_distances(flat: Float[Tensor, "n size"]) -> list[float]:
    return [float((flat[a] - flat[b]).norm()) for a, b in _pairs(len(flat))]
