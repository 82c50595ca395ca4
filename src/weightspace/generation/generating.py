"""Generate networks: encode anchors, sample latents, restore whole weights."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.autoencoder.inference import encode_zoo, restore
from weightspace.autoencoder.sane import SANE
from weightspace.batch_norms import with_positive_variances
from weightspace.errors import InputError
from weightspace.generation.config import SamplerConfig, SelectConfig
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Sampler
from weightspace.outputs import hash_input, new_folder, write_manifest
from weightspace.randomness import derive_generator
from weightspace.supervised import stack_weights
from weightspace.weights.values import Weights, require_finite
from weightspace.zoo.architecture import OUR_FACTORIES, Architecture
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo


class Generated(NamedTuple):
    """One generated network.

    Attributes:
        architecture: of its anchor.
        weights: complete: they load strictly.
        coverage: how many numbers were `generated`, `conditioned` (batch-norm statistics averaged over images) and
            `carried` over from an anchor.
        latents: what it was decoded from, if it was just now.
        anchor: the number of the anchor it is centred on; -1 if there is no single one.
    """

    architecture: Architecture
    weights: Weights
    coverage: dict[str, int]
    latents: Float[Tensor, "tokens latent"] | None = None
    anchor: int = -1


class Anchors(NamedTuple):
    """Encoded anchors: latents, which layer their tokens are of, and what the latents do not hold."""

    latents: Float[Tensor, "anchors tokens latent"]
    layers: Int[Tensor, "tokens"]
    architectures: list[Architecture]
    carried: list[Weights]


def generate(sane: SANE, anchors: Zoo, count: int, *, seed: int = 0, sampler: Sampler | None = None) -> list[Weights]:
    """Sample unseen networks around anchors.

    Args:
        sane: a trained model.
        anchors: checkpoints whose latents the sampler is fitted to, all of one layout.
        count: how many networks.
        seed: two seeds give different networks, one seed the same.
        sampler: kernel density with its default choices without it.

    Returns:
        Complete weights, to be loaded with `load_state_dict`. Tensors that are no 16- or 32-bit floats
        (counters) are those of the sample's anchor.

    Raises:
        InputError: no anchors, anchors of different layouts, or of different architectures with a sampler that blends
            them.
    """
    return [network.weights for network in generate_networks(sane, anchors, count, seed=seed, sampler=sampler)]


def generate_networks(
    sane: SANE, anchors: Zoo, count: int, *, seed: int = 0, sampler: Sampler | None = None
) -> list[Generated]:
    """`generate`, with the architecture, coverage and latents of every network."""
    return sample_networks(sane, encode_anchors(sane, anchors), count, seed=seed, sampler=sampler)


def sample_networks(
    sane: SANE, anchors: Anchors, count: int, *, seed: int = 0, sampler: Sampler | None = None
) -> list[Generated]:
    """`generate_networks` around anchors that have been encoded."""
    sampler = sampler or KernelDensity()
    if count < 1:
        raise InputError(f"expected at least 1 network to generate, found {count}")
    names = {architecture.id for architecture in anchors.architectures}
    if not sampler.keeps_anchor and len(names) > 1:
        raise InputError(f"expected anchors of one architecture to blend, found {', '.join(sorted(names))}")
    if not sampler.keeps_anchor and len(anchors.latents) < 2:
        raise InputError("expected at least 2 anchors to blend, found 1")
    fitted = sampler.fit(anchors.latents, anchors.layers)
    samples = fitted.sample(count, derive_generator(seed, "generate"))
    networks = []
    for latents, chosen in zip(samples.latents, samples.anchors, strict=True):
        anchor = max(0, int(chosen[0]))
        made = decode_network(sane, latents, anchors.architectures[anchor], anchors.carried[anchor])
        networks.append(made._replace(anchor=anchor) if sampler.keeps_anchor else made)
    return networks


def encode_anchors(sane: SANE, anchors: Zoo) -> Anchors:
    """Latents of the anchors, in haloed windows where they are long.

    Raises:
        InputError: no anchors, or anchors with different shapes.
    """
    if len(anchors) == 0:
        raise InputError("expected at least 1 anchor, found none")
    parts = list(encode_zoo(sane, anchors))
    if len(parts) > 1:
        raise InputError(f"expected anchors with the same shapes, found {len(parts)} different kinds")
    part = parts[0].part
    architectures = [anchors.architectures[str(name)] for name in part.table["architecture"]]
    carried: list[Weights] = [{} for _ in architectures]
    for number, architecture in enumerate(architectures if part.frame.layout.carried else []):
        weights = anchors.weights(int(anchors.table.index.get_loc(part.table.index[number])))
        carried[number] = part.frame.carried_of(weights, architecture.shapes)
    return Anchors(parts[0].values, part.positions[:, 1], architectures, carried)


def decode_network(
    sane: SANE, latents: Float[Tensor, "tokens latent"], architecture: Architecture, carried: Weights
) -> Generated:
    """A whole network from its latents, and what is carried beside them."""
    weights = restore(sane, latents, architecture, carried)
    if carried and architecture.factory in OUR_FACTORIES:  # counters: there may be batch norms
        weights = with_positive_variances(weights, architecture.build())
    layout = sane.preparation.frame_of(architecture).layout
    kept = sum(tensor.numel() for tensor in carried.values())
    return Generated(architecture, weights, {"generated": layout.size, "conditioned": 0, "carried": kept}, latents)


def carried_of(sane: SANE, network: Generated) -> Weights:
    """What a network's latents do not hold, under the names of its frame."""
    architecture = network.architecture
    return sane.preparation.frame_of(architecture).carried_of(network.weights, architecture.shapes)


def latents_of(networks: list[Generated]) -> Float[Tensor, "networks tokens latent"]:
    """What networks were decoded from."""
    return torch.stack([network.latents for network in networks if network.latents is not None])


def write_generated(
    networks: list[Generated], out: str | Path, *, about: Mapping[str, Any], seed: int, force: bool = False
) -> Zoo:
    """Write generated networks as a zoo, so that every command that takes a zoo takes them."""
    with new_folder(out, force=force) as folder:
        writer = ZooWriter(folder)
        for name in dict.fromkeys(network.architecture.id for network in networks):
            numbers = [number for number, network in enumerate(networks) if network.architecture.id == name]
            own = [networks[number] for number in numbers]
            for network in own:
                require_finite(network.weights, "a generated network")
            coverage = pd.DataFrame([network.coverage for network in own])
            table = pd.DataFrame({"member": [f"generated-{number:04d}" for number in numbers], "epoch": 0})
            writer.add(own[0].architecture, stack_weights([network.weights for network in own]), table.join(coverage))
        writer.finish({"generated": dict(about)})
        write_manifest(folder, configuration=about, seed=seed)
    return Zoo.open(out)


def describe_generation(
    sane_folder: Path, anchors: Zoo, sampler: SamplerConfig, *, relative_to: Path, select: SelectConfig | None = None
) -> dict[str, Any]:
    """What `zoo.json` of a generated folder records, so that it can be evaluated beside its anchors.

    Paths are relative to that folder, so that a run can be moved as a whole.
    """
    return {
        "hashes": {"sane": hash_input(sane_folder), "anchors": hash_input(anchors.folder)},
        "sane": os.path.relpath(sane_folder, relative_to),
        "sampler": asdict(sampler),
        "select": asdict(select or SelectConfig()),
        "anchors": {
            "zoo": os.path.relpath(anchors.folder, relative_to),
            "checkpoints": anchors.checkpoints,
        },
    }
