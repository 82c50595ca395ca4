"""Generate networks: the one door, from Python and from the command line."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from weightspace.autoencoder.reconstructing import IMAGES_PER_STEP
from weightspace.autoencoder.sane import SANE
from weightspace.devices import choose_device, count_operations
from weightspace.errors import InputError
from weightspace.generation.anchors import choose_anchors, describe_choice, encode_anchors, training_members
from weightspace.generation.config import GenerateConfig, SamplerConfig, SelectConfig
from weightspace.generation.samplers.sampler import Sampler
from weightspace.generation.sampling import Generated, by_architecture, make_sampler
from weightspace.generation.selecting import select_networks
from weightspace.generation.widths import novelty_of, width_for_novelty, with_likeliest_bandwidth
from weightspace.images import ImageSet
from weightspace.outputs import Existing, hash_input, new_folder, require_apart, write_manifest
from weightspace.supervised import stack_weights
from weightspace.weights.values import require_finite
from weightspace.zoo.recorded_images import images_for, recorded_images
from weightspace.zoo.splitting import concatenate, split_any
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo

WRITTEN = ("generated", "conditioned", "carried")


class Generation(NamedTuple):
    """Networks, and how the sampler that made them was set."""

    networks: list[Generated]
    sampling: SamplerConfig


def generate(
    sane: SANE,
    anchors: Zoo,
    count: int,
    *,
    images: ImageSet | None = None,
    sampling: SamplerConfig | Sampler | None = None,
    select: SelectConfig | None = None,
    seed: int = 0,
) -> list[Generated]:
    """Sample unseen networks around anchors, condition them, and keep those that are best on validation images.

    Paper, section 3.4. What `weightspace generate` does, once it has chosen anchors.

    Args:
        sane: a trained model; an architecture of the anchors that it does not know is traced and aligned to the first.
        anchors: checkpoints whose latents the sampler is fitted to, all of one layout.
        count: how many networks are kept.
        images: training images condition (and refine), validation images rank, test images are not used; without them
            those that the zoo names, if they are here. Without any, networks are kept as they are drawn.
        sampling: a kernel density with its default choices without it.
        select: how many are drawn, and how the best are kept.
        seed: two seeds give different networks, one seed the same.

    Returns:
        Networks that load strictly. Tensors that are no 16- or 32-bit floats (counters) are those of the anchor.

    Raises:
        InputError: no anchors, anchors of different layouts, or of different architectures with a sampler that blends
            them; fewer draws than networks; networks are to be selected, refined or conditioned without images.

    Examples:
        >>> for weights in generate(sane, zoo.best(20, by="validation_accuracy"), 10):  # doctest: +SKIP
        ...     module.load_state_dict(weights)
    """
    images = images if images is not None else recorded_images(anchors)
    sampling, select = sampling or SamplerConfig(), select or SelectConfig()
    return _generate(sane.adopting(anchors), anchors, count, images, sampling, select, seed).networks


def _generate(
    sane: SANE,
    anchors: Zoo,
    count: int,
    images: ImageSet | None,
    sampling: SamplerConfig | Sampler,
    select: SelectConfig,
    seed: int,
) -> Generation:
    """`generate`, with the configuration of the sampler as it was used."""
    encoded = encode_anchors(sane, anchors)
    images = images.to(sane.device) if images is not None else None

    def make(sampler: Sampler) -> list[Generated]:
        return select_networks(sane, encoded, count, images, select, seed=seed, sampler=sampler)

    if not isinstance(sampling, SamplerConfig):
        return Generation(make(sampling), SamplerConfig())
    if not select.novelty:
        return Generation(make(make_sampler(sampling)), sampling)
    whole = [Zoo.open(folder, anchors.trusted) for folder in anchors.folders]
    known = training_members(sane, concatenate(whole) if len(whole) > 1 else whole[0])
    width = width_for_novelty(sampling, select.novelty, make, novelty_of(sane, known, images))
    return Generation(width.networks, width.sampling)


def generate_zoo(
    model: Path,
    zoo: Zoo,
    config: GenerateConfig,
    sampling: SamplerConfig,
    select: SelectConfig,
    *,
    out: Path,
    existing: Existing = "refuse",
) -> Zoo:
    """`generate` around the best members of a zoo that a model in a folder was trained on; written to `out` as a zoo.

    What `weightspace generate` does. Its `zoo.json` records how it was made (`generated`), so that `evaluate` finds the
    model and the anchors again.
    """
    require_apart(out, [model, *zoo.folders])
    if config.choose_bandwidth and select.novelty:
        raise InputError("expected --choose-bandwidth or --novelty, found both")
    # Settled before any work: that the name is taken is known before minutes are spent.
    with new_folder(out, existing=existing) as folder:
        networks, about = _generate_around(model, zoo, config, sampling, select, out)
        _write(networks, folder, about, config.seed)
    return Zoo.open(out)


def _generate_around(
    model: Path, zoo: Zoo, config: GenerateConfig, sampling: SamplerConfig, select: SelectConfig, out: Path
) -> tuple[list[Generated], dict[str, Any]]:
    """What is written, and how it was made, by paths relative to `out`."""
    sane = SANE.open(model)
    chosen = choose_anchors(sane, zoo, config.best, by=config.by, architecture=config.only)
    known = sane.adopting(chosen)
    if config.choose_bandwidth:
        validation = split_any(zoo, config.split, seed=sane.provenance.training.seed).parts[1]
        sampling = with_likeliest_bandwidth(known, sampling, encode_anchors(known, chosen), validation)
    images = images_for(zoo, config.data) if config.data is not None else recorded_images(zoo)
    device = choose_device(config.device, lambda: _operations(chosen, config.count, images, select))
    generated = _generate(known.to(device), chosen, config.count, images, sampling, select, config.seed)
    about = describe_generation(model, chosen, generated.sampling, relative_to=out, select=select)
    about["choice"] = describe_choice(chosen, config.best, config.by)
    return generated.networks, about


def _operations(anchors: Zoo, count: int, images: ImageSet | None, select: SelectConfig) -> float:
    """Of asking what is drawn, once about the images it is chosen by, and three times in every step that refines it."""
    if images is None:
        return 0.0
    used = (anchors.architectures[str(name)] for name in anchors.table["architecture"].unique())
    each = max(count_operations(architecture.build(), images.train.inputs[:1]) for architecture in used)
    drawn = max(select.draws, count) * select.rounds * (len(images.validation.labels) + select.condition)
    return each * (drawn + 3.0 * select.refine * IMAGES_PER_STEP * count)


def write_generated(
    networks: list[Generated], out: str | Path, *, about: Mapping[str, Any], seed: int, existing: Existing = "refuse"
) -> Zoo:
    """Write generated networks as a zoo, so that every command that takes a zoo takes them."""
    with new_folder(out, existing=existing) as folder:
        _write(networks, folder, about, seed)
    return Zoo.open(out)


def _write(networks: list[Generated], folder: Path, about: Mapping[str, Any], seed: int) -> None:
    writer = ZooWriter(folder)
    for architecture, places in by_architecture(networks):
        alike = [networks[place] for place in places]
        for network in alike:
            require_finite(network.weights, "a generated network")
        coverage = pd.DataFrame([{name: one.coverage.counts[name] for name in WRITTEN} for one in alike])
        table = pd.DataFrame({"member": [f"generated-{place:04d}" for place in places], "epoch": 0})
        writer.add(architecture, stack_weights([network.weights for network in alike]), table.join(coverage))
    writer.finish({"generated": dict(about)})
    write_manifest(folder, configuration=about, seed=seed)


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
