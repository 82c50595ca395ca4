"""What fewer latents would keep: latents projected on their first principal components."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.inference import encode_network
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.zoo.zoo import Zoo

NETWORKS = 64


@dataclass(frozen=True, eq=False)
class PrincipalLatents:
    """Principal components of single tokens' latents: the number that is kept is the number of latents.

    A lower bound of what a model trained with so few latents would keep.

    Attributes:
        mean: of the latents; components: one a row, by falling variance.
    """

    mean: Float[Tensor, "latent"]
    components: Float[Tensor, "latent latent"]

    @classmethod
    def fit(cls, sane: SANE, zoo: Zoo) -> "PrincipalLatents":
        """Fit on training networks, at most 64 of them evenly spread over the table.

        Raises:
            InputError: no checkpoints.
        """
        if len(zoo) == 0:
            raise InputError("expected networks to fit principal components to, found none")
        rows = torch.linspace(0, len(zoo) - 1, min(NETWORKS, len(zoo))).long().unique().tolist()
        latents = torch.cat([encode_network(sane, zoo.weights(row))[1] for row in rows]).double()
        mean = latents.mean(0)
        centered = latents - mean
        _, vectors = torch.linalg.eigh(centered.T @ centered)
        return cls(mean.float(), vectors.T.flip(0).float().contiguous())

    def keeping(self, count: int) -> Callable[[Float[Tensor, "tokens latent"]], Float[Tensor, "tokens latent"]]:
        """A function that projects latents on the first `count` components."""
        kept = self.components[:count]
        return lambda latents: self.mean + (latents - self.mean) @ kept.T @ kept
