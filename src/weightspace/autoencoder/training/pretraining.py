"""From a zoo to a trained SANE folder, in one call."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.provenance import Provenance, TrainedZoo
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.devices import (
    compiled,
    make_accelerator,
    team,
    training_device,
    training_operations,
)
from weightspace.autoencoder.training.feeding import BatchQueue, StepBatch
from weightspace.autoencoder.training.loop import Loop, StepLosses
from weightspace.autoencoder.training.objective import Losses, Objective
from weightspace.autoencoder.training.states import HISTORY_FILE, RUN_FILE, STATE_FILE, History, Row, check_run
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.views import Batch, WindowSource
from weightspace.errors import InputError
from weightspace.outputs import (
    Existing,
    hash_input,
    new_folder,
    partial_path,
    require_apart,
    write_json,
    write_manifest,
)
from weightspace.zoo.zoo import Zoo

CORPUS_FOLDER = "corpus"
# Called with the step and the model; what it returns joins the history.
SaneObserver = Callable[[int, SANE], Row]


def pretrain(
    zoo: Zoo,
    sane: SANEConfig | None = None,
    training: TrainConfig | None = None,
    preparation: PreparationConfig | None = None,
    *,
    out: str | Path,
    existing: Existing = "refuse",
    observers: Sequence[tuple[int, SaneObserver]] = (),
) -> SANE:
    """Pre-train a SANE on a zoo and write it to `out`.

    On several processes (started by `torchrun` or `accelerate launch`) the first one writes; all return the model.

    Args:
        zoo: training members only (`zoo.split` first); statistics and alignment come from them. Several zoos:
            `concatenate` them.
        sane: the model's shape; all three defaults suit small zoos on a CPU.
        training: how it is trained.
        preparation: how weights become tokens.
        out: a folder that does not exist yet.
        existing: `resume` continues an interrupted run for `out`; `replace` replaces an existing `out`.
        observers: see `Loop`; called with the model as well.

    Returns:
        The model in evaluation mode. `out` also has `history.json`.

    Raises:
        InputError: no checkpoints, NaN weights, `out` exists, or a resumed run was configured otherwise.
        TrainingStopped: Ctrl-C; `existing="resume"` continues.

    Examples:
        >>> sane = pretrain(zoo, SANEConfig(), TrainConfig(steps=100), out="sane")  # doctest: +SKIP
    """
    sane, training = sane or SANEConfig(), training or TrainConfig()
    preparation = preparation or PreparationConfig()
    if sane.responses != "none" and training.statistics_weight == 0:
        raise InputError(
            "expected a weight for the statistics, which responses are told with, found 0: use --statistics-weight 0.3"
        )
    require_apart(out, zoo.folders)
    processes = team()
    with training_folder(Path(out), existing, processes) as folder:
        if processes.is_main_process:
            check_run(folder, _describe_run(zoo, sane, preparation), existing == "resume")
        fitted, corpus = _prepare(zoo, preparation, folder, processes, ask=sane.responses != "none")
        longest = max(len(part.frame.layout) for part in corpus.parts)
        training = replace(training, window=min(training.window, longest))
        network = Network(sane, fitted.config.token_width, window=training.window, seed=training.seed)
        provenance = Provenance(training=training, zoos=tuple(TrainedZoo.describe(zoo)))
        model = SANE(network=network, preparation=fitted, provenance=provenance)
        stage = Pretraining.of(network, corpus, training, standardized=preparation.standardize != "none")
        watching = [(every, _watch(observer, model)) for every, observer in observers]
        history = Loop(stage, training, stage.accelerator, folder, existing == "resume", watching).run()
        model = replace(model.to(torch.device("cpu")), provenance=replace(provenance, final=history[-1]))
        model.network.eval()
        del corpus, stage
        processes.wait_for_everyone()
        if processes.is_main_process:
            shutil.rmtree(folder / CORPUS_FOLDER)
            configuration = {"sane": sane, "preparation": preparation, "training": training}
            finish_training(folder, model, history, configuration, inputs=zoo.folders)
    return model


def finish_training(
    folder: Path, model: SANE, history: History, configuration: dict[str, Any], inputs: Sequence[Path]
) -> None:
    """Drop what only training needed, and write what it made."""
    (folder / STATE_FILE).unlink(missing_ok=True)
    (folder / RUN_FILE).unlink()
    model.save(folder)
    write_json(folder / HISTORY_FILE, history)
    seed = configuration["training"].seed
    described = {name: asdict(config) for name, config in configuration.items()}
    write_manifest(folder, configuration=described, seed=seed, inputs=inputs)


def _watch(observer: SaneObserver, model: SANE) -> Callable[[int], Row]:
    return lambda step: observer(step, model)


@dataclass(frozen=True)
class Pretraining:
    """The stage in which SANE learns to reconstruct windows of tokens, and to tell networks apart."""

    network: Network
    objective: nn.Module
    queue: BatchQueue
    accelerator: Accelerator
    standardized: bool = True
    description: str = "pre-training"

    @classmethod
    def of(cls, network: Network, corpus: Corpus, config: TrainConfig, *, standardized: bool = True) -> "Pretraining":
        """Move the network to its device, and prepare its batches.

        Raises:
            InputError: positions beyond learned tables, or a batch that the processes cannot share equally.
        """
        for part in corpus.parts:
            network.positions.check(part.positions)
        idle = not (config.contrastive_weight and config.statistics_weight)
        accelerator = make_accelerator(idle=idle)
        network.to(training_device(accelerator, config.device, training_operations(network, config)))
        source = WindowSource(corpus, window=config.window, batch_size=config.batch_size, balance=config.balance)
        queue = BatchQueue(source, config, accelerator.process_index, accelerator.num_processes)
        prepared = accelerator.prepare_model(Objective(network, config))
        return cls(network, compiled(prepared, config, network.device), queue, accelerator, standardized)

    @property
    def dropout(self) -> float:
        """Whether steps draw at random."""
        return self.network.config.dropout

    @property
    def worst_useful_loss(self) -> float | None:
        """1, as weights are standardised; None where they are not, or errors are divided by another spread."""
        return 1.0 if self.standardized and self.queue.config.loss_scale == "none" else None

    def draw(self, step: int) -> StepBatch:
        """The batch of a step."""
        return self.queue.draw(step)

    def losses(self, drawn: StepBatch) -> StepLosses:
        """The losses of a step."""
        batch, *extras = _to_device(drawn, self.network.device)
        losses: Losses = self.objective(batch, *extras)
        return StepLosses(losses.total, lambda: _measure(self.accelerator, losses, batch), drawn.weights)


def _to_device(drawn: StepBatch, device: torch.device) -> tuple[Batch, *tuple[Tensor | None, ...]]:
    """A batch and what goes with it where the model is."""
    extras = (drawn.scale, drawn.share, drawn.spread)
    if device.type == "cpu":
        return drawn.batch, *extras
    batch = drawn.batch.map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
    return batch, *(extra.to(device) if extra is not None else None for extra in extras)


def _measure(accelerator: Accelerator, losses: Losses, batch: Batch) -> Row:
    """The losses of a step and the state of its latents, averaged over processes."""
    latents = losses.latents.detach()[batch.present.repeat(len(batch.inputs), 1)].float()
    values = {
        "loss": losses.total,
        "reconstruction": losses.reconstruction,
        "contrastive": losses.contrastive,
        "statistics": losses.statistics,
        "latent_norm": latents.norm(dim=-1).mean(),
        "effective_rank": torch.tensor(effective_rank(latents), device=latents.device),
    }
    mean = accelerator.reduce(torch.stack([value.detach().float() for value in values.values()]), "mean")
    return dict(zip(values, mean.tolist(), strict=True))


def effective_rank(latents: Float[Tensor, "samples width"]) -> float:
    """exp of the entropy of the normalised spectrum: how many latent dimensions are in use."""
    centered = (latents - latents.mean(0)).float()
    spectrum = torch.linalg.eigvalsh(centered.T @ centered).clamp_min(0)
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


def training_folder(out: Path, existing: Existing, processes: PartialState) -> contextlib.AbstractContextManager[Path]:
    """The folder to write into, which the first of several processes makes."""
    if not processes.is_main_process:
        return contextlib.nullcontext(partial_path(out))
    return new_folder(out, existing=existing, resumable=STATE_FILE, telling=HISTORY_FILE)


def _prepare(
    zoo: Zoo, config: PreparationConfig, folder: Path, processes: PartialState, *, ask: bool
) -> tuple[Preparation, Corpus]:
    """The fitted preparation and the corpus, made by the first process and mapped by all."""
    if processes.num_processes == 1:
        return fit_preparation(zoo, config, folder / CORPUS_FOLDER, ask=ask)
    shared: list[Any] = [None]
    if processes.is_main_process:
        fitted, corpus = fit_preparation(zoo, config, folder / CORPUS_FOLDER, ask=ask)
        shared = [(fitted, corpus.closed())]
    fitted, corpus = broadcast_object_list(shared)[0]
    return fitted, corpus.opened()


def _describe_run(zoo: Zoo, sane: SANEConfig, preparation: PreparationConfig) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was begun."""
    return {
        "sane": asdict(sane),
        "preparation": asdict(preparation),
        "zoo": [hash_input(folder) for folder in zoo.folders],
        "checkpoints": zoo.checkpoints,
    }
