"""Distilling: a decoded network should compute what the encoded one did.

Not in the paper. A reconstruction loss counts all weights alike, and a network loses its function through the few that
matter. Here decoded networks answer queries, and the answers are compared with the encoded networks' own (knowledge
distillation; Hinton et al., 2015). Latents have noise, so that their neighbourhood decodes to working networks too; and
a mixture of two networks' latents can be taught to answer with the mixture of their answers. No labels are used.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from weightspace.autoencoder.coding import WindowCoder, cut_windows
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.reconstructing import answer_decoded, stack_tokens
from weightspace.autoencoder.sane import SANE, model_folder
from weightspace.autoencoder.training.config import DistillConfig
from weightspace.autoencoder.training.devices import make_accelerator, team, training_device
from weightspace.autoencoder.training.loop import Loop, StepLosses
from weightspace.autoencoder.training.objective import described, masked_mse, statistics_loss
from weightspace.autoencoder.training.pretraining import (
    CORPUS_FOLDER,
    SaneObserver,
    finish_training,
    training_folder,
)
from weightspace.autoencoder.training.states import check_run
from weightspace.corpus.asking import ask_corpus
from weightspace.corpus.corpus import Corpus, CorpusPart, build_corpus
from weightspace.corpus.views import whole_networks
from weightspace.devices import count_operations
from weightspace.errors import InputError
from weightspace.images import Images, ImageSet
from weightspace.outputs import Existing, hash_input, require_apart
from weightspace.randomness import derive_generator
from weightspace.supervised import answer_stack
from weightspace.tokens.patterns import Entries, entries_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import images_for, recorded_images
from weightspace.zoo.splitting import split_any
from weightspace.zoo.zoo import Zoo

DRAWS_FOR_SCALES = 8
TERMS = ("reconstruction", "distillation", "statistics")


class Group(NamedTuple):
    """Checkpoints of one architecture that can be run: the part of the corpus they are in, and their rows there."""

    part: CorpusPart
    architecture: Architecture
    module: nn.Module
    rows: Int[Tensor, "checkpoints"]


class StepNetworks(NamedTuple):
    """The networks of one step.

    Attributes:
        tokens: standardised; 0 in the padding.
        partner: which other network of the step each one is mixed with.
        share: what it keeps of itself; 1 for those that are not mixed.
        noise: on the latents, in units of their spread.
        queries: what all are asked.
        windows: which windows of the networks the gradient goes through.
        heard: what the networks' units do, if that is to be told.
    """

    group: Group
    tokens: Float[Tensor, "networks tokens width"]
    partner: Int[Tensor, "networks"]
    share: Float[Tensor, "networks"]
    noise: Float[Tensor, "networks tokens latent"]
    queries: Float[Tensor, "queries ..."]
    windows: Int[Tensor, "windows"]
    heard: Float[Tensor, "networks tokens numbers"] | None = None

    def to(self, device: torch.device) -> "StepNetworks":
        """The same with its tensors on a device."""
        moved = {name: value.to(device) for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return StepNetworks(**{**self._asdict(), **moved})


class DistillLosses(NamedTuple):
    """The terms of distilling; `agreement` is the share of queries with the same largest answer."""

    reconstruction: Tensor
    distillation: Tensor
    statistics: Tensor
    agreement: Tensor


def distill(
    folder: str | Path,
    zoo: Zoo,
    images: Images,
    config: DistillConfig | None = None,
    *,
    out: str | Path,
    existing: Existing = "refuse",
    observers: Sequence[tuple[int, SaneObserver]] = (),
) -> SANE:
    """Teach a trained model that what it decodes should compute what it encoded, and write it to `out`.

    On several processes (started by `torchrun` or `accelerate launch`) each decodes its share of every step's networks;
    the first one writes, all return the model.

    Args:
        folder: of the trained model, which stays as it is.
        zoo: networks it was trained on.
        images: queries; labels are not used.
        config: see `DistillConfig`.
        out: a folder that does not exist yet.
        existing: `resume` continues an interrupted run for `out`; `replace` replaces an existing `out`.
        observers: see `pretrain`.

    Returns:
        The model in evaluation mode. `out` also has `history.json`.

    Raises:
        InputError: members the model was not trained on, none that can be run on such images, or a loss that is not
            finite.
        TrainingStopped: Ctrl-C; `existing="resume"` continues.

    Examples:
        >>> distilled = distill(model_folder, train, images.train, DistillConfig(steps=2), out=folder / "b")
        >>> distilled.network.window == sane.network.window
        True
    """
    folder = model_folder(folder)
    require_apart(out, [folder, *zoo.folders])
    model = SANE.open(folder)
    config = _like_pretraining(config or DistillConfig(), model)
    strangers = sorted(set(zoo.members) - model.trained_on(zoo))
    if strangers:
        raise InputError(f"expected members that the model was trained on, found others, as {strangers[0]}")
    processes = team()
    with training_folder(Path(out), existing, processes) as partial:
        if processes.is_main_process:
            check_run(partial, _describe_run(folder, zoo, images), existing == "resume")
        processes.wait_for_everyone()  # the first process clears the folder that all then write into
        # Every process maps a corpus of its own: what is drawn from it is the same.
        corpus = build_corpus(zoo, model.preparation, partial / CORPUS_FOLDER / str(processes.process_index))
        if model.config.responses != "none":
            corpus = ask_corpus(zoo, model.preparation, corpus)
        groups = group_networks(corpus, zoo.architectures, images.inputs.shape[1:])
        stage = Distilling.of(model.network, groups, images.inputs, config)
        watching = [(every, lambda step, observer=observer: observer(step, model)) for every, observer in observers]
        history = Loop(stage, config, stage.accelerator, partial, existing == "resume", watching).run()
        provenance = replace(model.provenance, distilling=config, distilled=history[-1])
        model = replace(model.to(torch.device("cpu")), provenance=provenance)
        model.network.eval()
        del corpus, groups, stage
        processes.wait_for_everyone()
        if processes.is_main_process:
            shutil.rmtree(partial / CORPUS_FOLDER)
            finish_training(partial, model, history, {"training": config}, inputs=[folder, *zoo.folders])
    return model


class DistillingParts(NamedTuple):
    """Networks to distil on, networks to watch, and images to ask both about."""

    train: Zoo
    validation: Zoo
    images: ImageSet


def distilling_parts(
    folder: Path, zoo: Zoo, shares: Sequence[float], *, fold: int = 0, data: str | None = None, from_epoch: int = 0
) -> DistillingParts:
    """A zoo split as the model in a folder was trained, and its images: those given, or those that it names.

    Raises:
        InputError: no images.
    """
    seed = SANE.open(folder).provenance.training.seed
    train, validation, _ = split_any(zoo, shares, seed=seed, fold=fold).parts
    images = images_for(train, data) if data is not None else recorded_images(train)
    if images is None:
        raise InputError(f"expected --data, found none, nor the images that {zoo.folder} was grown with")
    return DistillingParts(train.where(lambda table: table["epoch"] >= from_epoch), validation, images)


def _like_pretraining(config: DistillConfig, model: SANE) -> DistillConfig:
    """A model that was trained without the statistics head is distilled without it, unless it is asked for."""
    if config.statistics_weight is not None:
        return config
    return replace(config, statistics_weight=model.provenance.training.statistics_weight)


def _describe_run(folder: Path, zoo: Zoo, images: Images) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was begun."""
    return {
        "model": hash_input(folder),
        "zoo": [hash_input(folder) for folder in zoo.folders],
        "checkpoints": zoo.checkpoints,
        "images": [len(images.inputs), float(images.inputs.double().sum()), int(images.labels.sum())],
    }


def _operations(groups: Sequence[Group], images: Tensor, config: DistillConfig) -> float:
    """Of asking the networks of all steps: three passes, forward, and backward twice as much."""
    each = max(count_operations(group.module, images[:1]) for group in groups)
    return 3.0 * each * config.steps * config.networks * config.queries


@dataclass(frozen=True)
class Distilling:
    """The stage in which decoded networks learn to answer as encoded ones do.

    Attributes:
        objective: the losses as one module; `scales`: the first value of every term, which it is divided by.
        groups, images: what networks and queries are drawn from.
    """

    network: Network
    objective: nn.Module
    groups: Sequence[Group]
    images: Tensor
    config: DistillConfig
    accelerator: Accelerator
    scales: Mapping[str, float]
    description: str = "distilling"

    @classmethod
    def of(cls, network: Network, groups: Sequence[Group], images: Tensor, config: DistillConfig) -> "Distilling":
        """Move everything to one device, and measure the terms once."""
        accelerator = make_accelerator(idle=True)  # the projection head has no part in this
        network.to(training_device(accelerator, config.device, lambda: _operations(groups, images, config)))
        for group in groups:
            group.module.to(network.device)
        objective = DistillObjective(network.eval())
        draws = [
            draw_networks(groups, images, network, config, derive_generator(config.seed, "scale", number))
            for number in range(DRAWS_FOR_SCALES)
        ]
        with torch.no_grad():
            measured = [objective(drawn.to(network.device)) for drawn in draws]
        means = {name: float(torch.stack([getattr(losses, name) for losses in measured]).mean()) for name in TERMS}
        scales = {name: mean if mean > 0 else 1.0 for name, mean in means.items()}
        return cls(network, accelerator.prepare_model(objective), groups, images, config, accelerator, scales)

    @property
    def dropout(self) -> float:
        """Whether steps draw at random."""
        return self.network.config.dropout

    @property
    def worst_useful_loss(self) -> None:
        """There is none: predicting the mean is nothing that this loss could be held against."""
        return

    def draw(self, step: int) -> StepNetworks:
        """The networks and queries of a step, counted from 1 as its seed is."""
        generator = derive_generator(self.config.seed, "step", step + 1)
        return draw_networks(self.groups, self.images, self.network, self.config, generator)

    def losses(self, drawn: StepNetworks) -> StepLosses:
        """The losses of a step, of this process's share of its networks."""
        moved = drawn.to(self.network.device)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        losses: DistillLosses = self.objective(moved, rank, processes)
        terms = [getattr(self.config, f"{name}_weight") * getattr(losses, name) / self.scales[name] for name in TERMS]
        weights = int(moved.group.part.frame.layout.size * len(moved.tokens))
        return StepLosses(torch.stack(terms).sum(), lambda: self._measure(losses), weights)

    def _measure(self, losses: DistillLosses) -> dict[str, float | int]:
        values = torch.stack([value.detach().float() for value in losses])
        return dict(zip(losses._fields, self.accelerator.reduce(values, "mean").tolist(), strict=True))


class DistillObjective(nn.Module):
    """Encode, mix, disturb and decode networks, ask them, and compare with what the encoded ones answer."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, drawn: StepNetworks, rank: int = 0, processes: int = 1) -> DistillLosses:
        """The losses of a step.

        All networks are encoded by every process, as they are mixed and their spread counts; each process decodes and
        asks its share of them, and what it finds counts by how many these are.
        """
        group, frame, network = drawn.group, drawn.group.part.frame, self.network
        at_once = len(drawn.tokens) * len(frame.layout)
        coder = WindowCoder(network, frame.layout, at_once=at_once, learned=drawn.windows, output="both")
        latents, summaries = coder.encode(drawn.tokens, drawn.heard).tensor_split([-network.summary_width], dim=-1)
        share = drawn.share[:, None, None]
        mixed = share * latents + (1 - share) * latents[drawn.partner]
        disturbed = mixed + latents.detach().std(0, correction=0) * drawn.noise
        present = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        entries = Entries(*(kind.to(latents.device).expand_as(drawn.tokens) for kind in entries_of(frame.layout)))
        told = described(drawn.tokens, entries, present, drawn.heard)
        statistics = statistics_loss(network.statistics(summaries), *told)
        taught = self._taught(drawn)
        part = torch.arange(rank, len(latents), processes)
        decoded = coder.decode(disturbed[part])
        unmixed = drawn.share[part] == 1
        reconstruction = decoded.new_zeros(())
        if unmixed.any():
            true, mask = drawn.tokens[part][unmixed], entries.mask[part][unmixed]
            counts = processes * unmixed.sum() / (drawn.share == 1).sum()
            reconstruction = masked_mse(decoded[unmixed], true, mask) * counts
        stack = stack_tokens(decoded, frame, group.architecture)
        answers = answer_decoded(group.module, stack, drawn.queries)
        divergence = functional.kl_div(answers.log_softmax(-1), taught[part], reduction="none").sum(-1).mean()
        agreement = (answers.argmax(-1) == taught[part].argmax(-1)).float().mean()
        among = processes * len(part) / len(latents)
        return DistillLosses(reconstruction, divergence * among, statistics, agreement * among)

    @torch.no_grad()
    def _taught(self, drawn: StepNetworks) -> Float[Tensor, "networks queries outputs"]:
        """What the encoded networks answer, mixed as their latents are."""
        stack = stack_tokens(drawn.tokens, drawn.group.part.frame, drawn.group.architecture)
        answers = answer_stack(drawn.group.module, stack, drawn.queries).softmax(-1)
        share = drawn.share[:, None, None]
        return share * answers + (1 - share) * answers[drawn.partner]


def group_networks(corpus: Corpus, architectures: dict[str, Architecture], example: Sequence[int]) -> list[Group]:
    """The checkpoints of a corpus that can be run on queries of the shape `example`, by architecture.

    Raises:
        InputError: none can.
    """
    groups = []
    for part in corpus.parts:
        names = part.table["architecture"].reset_index(drop=True)
        for name in names.unique():
            architecture = architectures[str(name)]
            if architecture.example_shape is None or tuple(architecture.example_shape[1:]) != tuple(example):
                continue
            rows = torch.tensor(names.index[names == name].to_numpy(copy=True))
            groups.append(Group(part, architecture, architecture.build().eval(), rows))
    if not groups:
        raise InputError(f"expected networks that take inputs of shape {list(example)}, found none")
    return groups


def draw_networks(
    groups: Sequence[Group], images: Tensor, network: Network, config: DistillConfig, generator: torch.Generator
) -> StepNetworks:
    """The networks and queries of one step; every checkpoint is as likely as any other."""
    sizes = torch.tensor([float(len(group.rows)) for group in groups])
    group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
    place = torch.randperm(len(group.rows), generator=generator)[: config.networks]
    rows = group.rows[place]
    tokens = whole_networks(group.part, group.part.flat[rows])
    heard = group.part.heard.whole(rows, group.part.frame.layout) if group.part.heard is not None else None
    count, length = tokens.shape[:2]
    mixed = torch.arange(count) < round(config.mixed * count)
    share = torch.where(mixed, torch.rand(count, generator=generator), torch.ones(count))
    noise = config.latent_noise * torch.randn(count, length, network.config.latent_width, generator=generator)
    chosen = torch.randint(len(images), (config.queries,), generator=generator)
    queries = images[chosen]
    if config.query_source == "noise":
        queries = torch.randn(queries.shape, generator=generator)
    cut = cut_windows(length, network.window)
    windows = torch.randperm(cut.count, generator=generator)[: config.windows].sort().values
    partner = torch.roll(torch.arange(count), 1)
    return StepNetworks(group, tokens, partner, share, noise, queries, windows, heard)
