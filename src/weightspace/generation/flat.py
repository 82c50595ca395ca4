"""Networks of one layout as standardised flat vectors, and back."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from weightspace.corpus.preparation import Preparation
from weightspace.tokens.tokenizing import flatten_weights, unflatten_weights
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture


@dataclass(frozen=True)
class FlatSpace:
    """The space in which weights of one architecture are compared and mixed without an autoencoder.

    Every tensor is standardised with the statistics of the training members, so that all count alike.
    """

    preparation: Preparation
    architecture: Architecture

    def flatten(self, weights: Weights) -> Float[Tensor, "size"]:
        """Standardised weights in one row; not permuted."""
        frame = self.preparation.frame_of(self.architecture)
        flat = flatten_weights(frame.rename(weights, self.architecture.shapes), frame.layout)
        return self.standardize(flat[None])[0]

    def restore(self, flat: Float[Tensor, "size"], carried_from: Weights) -> Weights:
        """The inverse of `flatten`; what is not tokenised comes from another network."""
        frame = self.preparation.frame_of(self.architecture)
        other = frame.rename(carried_from, self.architecture.shapes)
        raw = frame.statistics.undo(flat, frame.layout)
        made = unflatten_weights(raw, frame.layout, {name: other[name] for name in frame.layout.carried})
        return {own: made[name] for name, own in zip(frame.names, self.architecture.shapes, strict=True)}

    def standardize(self, flat: Float[Tensor, "networks size"]) -> Float[Tensor, "networks size"]:
        """Standardise raw flat vectors."""
        frame = self.preparation.frame_of(self.architecture)
        return frame.statistics.apply(flat, frame.layout)
