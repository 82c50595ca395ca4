"""How much of networks survives the autoencoder: in their weights, layer by layer, and in what they compute."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.reconstructing import LatentDescent, Projection, Reconstruction, reconstruct
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.states import Row
from weightspace.errors import InputError
from weightspace.images import Images
from weightspace.progress import say
from weightspace.supervised import predict_stack, stack_weights
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.tokenizing import scatter_tokens
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import doubt_images
from weightspace.zoo.zoo import Zoo

RANDOM_INPUTS, MOST_NETWORKS = 256, 24
SMALLEST_VARIANCE = 1e-6


class Fidelity(NamedTuple):
    """What is left of networks that were encoded and decoded.

    Attributes:
        r2: share of the standardised weights' variance that is reconstructed, by tensor (named as in the first
            architecture of its layout); variance is taken over all networks and all entries of a tensor, and where
            there is none R² is NaN.
        overall_r2: the same over all weights.
        agreement: share of inputs for which the largest output of both is the same; NaN for networks that
            cannot be built.
        original, reconstructed: mean accuracy as they are and decoded; NaN without images.
        latents_per_weight: latent numbers for every weight of these networks.
        networks: how many there were.
    """

    r2: dict[str, float]
    overall_r2: float
    agreement: float
    original: float
    reconstructed: float
    latents_per_weight: float
    networks: int

    def row(self) -> Row:
        """What joins the history of training."""
        values = {
            "held_out_r2": self.overall_r2,
            "held_out_agreement": self.agreement,
            "held_out_accuracy": self.original,
            "held_out_reconstructed_accuracy": self.reconstructed,
        }
        return {name: value for name, value in values.items() if not np.isnan(value)}


def watch_fidelity(zoos: Sequence[tuple[Zoo, Images | None]]) -> Callable[[int, SANE], Row]:
    """An observer (see `pretrain`) of the fidelity of networks that a model is not trained on.

    Args:
        zoos: each with images, if there are any; of each the last checkpoints of at most 24 members are measured, and
            the mean over zoos joins the history.
    """

    def observe(step: int, sane: SANE) -> Row:
        rows = [measure_fidelity(sane, last_of_first_members(zoo), images).row() for zoo, images in zoos if len(zoo)]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}

    return observe


def last_of_first_members(zoo: Zoo) -> Zoo:
    """The last checkpoints of at most 24 members."""
    last = zoo.last()
    return last.where(lambda table: table["member"].isin(last.members[:MOST_NETWORKS]))


def measure_fidelity(
    sane: SANE,
    zoo: Zoo,
    images: Images | None = None,
    project: Projection | None = None,
    descent: LatentDescent | None = None,
) -> Fidelity:
    """Encode and decode every checkpoint of a zoo, and compare.

    Args:
        sane: a trained model.
        zoo: networks it was not trained on; few enough to be in memory.
        images: what accuracy and agreement are taken on by the networks that take such images; others, and all
            without images, agree or not on random inputs of their example shape.
        project: what is done to latents in between; see `reconstruct`.
        descent: move the latents first; see `reconstruct`.

    Raises:
        InputError: no checkpoints, NaN weights, or a refusal of `encode_by_function`.
    """
    if len(zoo) == 0:
        raise InputError("expected networks to reconstruct, found none")
    errors, outcomes = _Errors(), []
    for name in zoo.table["architecture"].unique():
        alike, architecture = zoo.where(architecture=str(name)), zoo.architectures[str(name)]
        networks = [alike.weights(row) for row in range(len(alike))]
        pairs = reconstruct(sane, networks, architecture, project=project, descent=descent)
        for pair in pairs:
            errors.add(pair, sane.preparation.frame_of(architecture).layout)
        outcomes.append(_compare(pairs, images, sane.device))
    agreement, original, reconstructed = torch.cat(outcomes).nanmean(0).tolist()
    if images is not None and "test_accuracy" in zoo.table:
        known = float(zoo.table["test_accuracy"].mean())
        doubt = doubt_images(known, original, int(images.labels.max()) + 1)
        if doubt:
            say(doubt)
    return Fidelity(
        r2=errors.by_tensor(),
        overall_r2=errors.overall(),
        agreement=agreement,
        original=original,
        reconstructed=reconstructed,
        latents_per_weight=errors.latents / max(1, errors.weights),
        networks=len(zoo),
    )


class LayerFidelity(NamedTuple):
    """What the reconstruction of one layer alone does to networks that are otherwise as they were.

    Attributes:
        layer: its tensor (named as in the architecture); weights: how many it has, with its bias.
        r2: see `Fidelity`.
        agreement, reconstructed: see `Fidelity`.
    """

    layer: str
    weights: int
    r2: float
    agreement: float
    reconstructed: float


def fidelity_by_layer(sane: SANE, zoo: Zoo, images: Images | None = None) -> list[LayerFidelity]:
    """Layer by layer: reconstruct it alone, in every checkpoint of a zoo of one layout, and compare.

    Raises:
        InputError: no checkpoints, or networks with different tensors.
    """
    if len({zoo.architectures[str(name)].signature for name in zoo.table["architecture"]}) != 1:
        raise InputError("expected networks with the same tensors to compare layer by layer, found several kinds")
    errors = _Errors()
    pairs = [reconstruct(sane, [weights], architecture)[0] for weights, architecture in _networks(zoo)]
    frame = sane.preparation.frame_of(pairs[0].architecture)
    for pair in pairs:
        errors.add(pair, frame.layout)
    names = dict.fromkeys(pair.architecture.id for pair in pairs)
    layers = []
    for block in frame.layout.blocks:
        tensors = [name for name in (block.name, block.bias) if name is not None]
        places = [frame.names.index(name) for name in tensors]
        mixed = [_mix(pair, [list(pair.architecture.shapes)[place] for place in places]) for pair in pairs]
        alike = [[pair for pair in mixed if pair.architecture.id == name] for name in names]
        outcomes = [_compare(pairs_of_one, images, sane.device) for pairs_of_one in alike]
        agreement, _, reconstructed = torch.cat(outcomes).nanmean(0).tolist()
        r2 = _r2([errors.sums[name] for name in tensors])
        layers.append(LayerFidelity(block.name, block.rows * block.row_length, r2, agreement, reconstructed))
    return layers


def _mix(pair: Reconstruction, names: list[str]) -> Reconstruction:
    """The network as it was, but for some tensors."""
    return pair._replace(decoded={**pair.original, **{name: pair.decoded[name] for name in names}})


def _networks(zoo: Zoo) -> Iterator[tuple[Weights, Architecture]]:
    """Every checkpoint and its architecture, one at a time."""
    for row in range(len(zoo)):
        yield zoo.weights(row), zoo.architectures[str(zoo.table["architecture"].iloc[row])]


def reconstruction_r2(sane: SANE, zoo: Zoo) -> dict[str, float]:
    """Share of the standardised weights' variance that is reconstructed, by tensor; see `Fidelity`."""
    errors = _Errors()
    for weights, architecture in _networks(zoo):
        layout = sane.preparation.frame_of(architecture).layout
        errors.add(reconstruct(sane, [weights], architecture)[0], layout)
    return errors.by_tensor()


class _Errors:
    """Sums of count, values, squares and squared errors by tensor."""

    def __init__(self) -> None:
        self.sums: dict[str, Float[Tensor, 4]] = {}
        self.latents = 0

    @property
    def weights(self) -> int:
        return int(sum(sums[0] for sums in self.sums.values()))

    def add(self, one: Reconstruction, layout: TokenLayout) -> None:
        """Count a network in."""
        self.latents += one.latents
        both = (scatter_tokens(tokens, layout).double() for tokens in (one.original_tokens, one.decoded_tokens))
        parts = (flat.split(layout.sizes.tolist()) for flat in both)
        for name, true, decoded in zip(layout.names, *parts, strict=True):
            count = torch.tensor(float(len(true)), dtype=torch.float64)
            sums = torch.stack([count, true.sum(), true.square().sum(), (decoded - true).square().sum()])
            self.sums[name] = self.sums.get(name, torch.zeros(4, dtype=torch.float64)) + sums

    def by_tensor(self) -> dict[str, float]:
        return {name: _r2([sums]) for name, sums in self.sums.items()}

    def overall(self) -> float:
        return _r2(list(self.sums.values()))


def _r2(parts: list[Float[Tensor, "4"]]) -> float:
    """R² of tensors together, each around its own mean; NaN where nothing varies."""
    sums = torch.stack(parts)
    spread = float((sums[:, 2] - sums[:, 1].square() / sums[:, 0].clamp_min(1)).clamp_min(0).sum())
    varies = spread > SMALLEST_VARIANCE * float(sums[:, 0].sum())
    return 1 - float(sums[:, 3].sum()) / spread if varies else float("nan")


def _compare(pairs: list[Reconstruction], images: Images | None, device: torch.device) -> Float[Tensor, "networks 3"]:
    """Agreement, accuracy and accuracy once decoded of networks of one architecture, asked on a device; NaN where
    unknown.
    """
    architecture = pairs[0].architecture
    unknown = torch.full((len(pairs), 3), torch.nan)
    try:
        module, example = architecture.build(), architecture.example()
    except InputError:
        return unknown
    fits = images is not None and images.inputs.shape[1:] == example.shape[1:]
    inputs = (images.inputs if images is not None and fits else _random_inputs(architecture)).to(device)
    stacks = (stack_weights([getattr(pair, which) for pair in pairs]) for which in ("original", "decoded"))
    true, decoded = (predict_stack(module, stack, inputs).argmax(-1).cpu() for stack in stacks)
    unknown[:, 0] = _share_equal(true, decoded)
    if images is not None and fits:
        unknown[:, 1], unknown[:, 2] = (_share_equal(answers, images.labels) for answers in (true, decoded))
    return unknown


def _share_equal(first: Tensor, second: Tensor) -> Float[Tensor, "networks"]:
    """For every network the share of inputs on which two answers are the same."""
    same = (first == second).to(torch.float32)
    return same.flatten(1).mean(1)


def _random_inputs(architecture: Architecture) -> Tensor:
    shape = (RANDOM_INPUTS, *(architecture.example_shape or (1,))[1:])
    return replace(architecture, example_shape=shape).example()
