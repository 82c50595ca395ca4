"""From a trained SANE folder to one that has gone through the behavioural stage, in one call."""

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from weightspace.autoencoder.config import BehaviourConfig, TrainConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.behaviour import (
    BehaviourLosses,
    Drawn,
    behaviour_losses,
    draw_networks,
    group_networks,
)
from weightspace.autoencoder.training.loop import Observer, TrainingStopped
from weightspace.autoencoder.training.pretraining import CORPUS_FOLDER, HISTORY_FILE, RUN_FILE, check_run
from weightspace.autoencoder.training.states import STATE_FILE, History, Row, Run, load_state, save_state
from weightspace.corpus.corpus import build_corpus
from weightspace.errors import InputError
from weightspace.images import Images
from weightspace.interrupting import deferred_interrupt
from weightspace.outputs import hash_input, new_folder, require_apart, write_json, write_manifest
from weightspace.progress import progress_bar
from weightspace.randomness import derive_generator, derive_seed
from weightspace.supervised import own_randomness
from weightspace.zoo.zoo import Zoo

DRAWS_FOR_SCALES = 8
CPU = torch.device("cpu")
TERMS = ("reconstruction", "behaviour", "statistics")


def tune(
    folder: str | Path,
    zoo: Zoo,
    images: Images,
    config: BehaviourConfig | None = None,
    *,
    out: str | Path,
    mode: Collection[str] = (),
    observers: Sequence[tuple[int, Observer]] = (),
) -> SANE:
    """Teach a trained model that what it decodes should compute what it encoded, and write it to `out`.

    Args:
        folder: of the trained model, which stays as it is.
        zoo: networks it was trained on.
        images: queries; labels are not used.
        config: see `BehaviourConfig`.
        out: a folder that does not exist yet.
        mode: `resume` continues an interrupted run for `out`; `force` replaces an existing `out`.
        observers: see `train`.

    Returns:
        The model in evaluation mode. `out` also has `history.json`.

    Raises:
        InputError: members the model was not trained on, none that can be run on such images, or a loss that is not
            finite.
        TrainingStopped: Ctrl-C; `mode={"resume"}` continues.
    """
    config = config or BehaviourConfig()
    config.check()
    require_apart(out, [Path(folder), *zoo.folders])
    sane = SANE.open(folder)
    config = _like_pretraining(config, sane)
    strangers = sorted(set(zoo.members) - sane.trained_on(zoo))
    if strangers:
        raise InputError(f"expected members that the model was trained on, found others, as {strangers[0]}")
    with new_folder(Path(out), force="force" in mode, resume="resume" in mode, resumable=STATE_FILE) as made:
        check_run(made, _describe_run(Path(folder), zoo, images), "resume" in mode)
        corpus = build_corpus(zoo, sane.preparation, made / CORPUS_FOLDER)
        groups = group_networks(corpus, zoo.architectures, images.inputs.shape[1:])

        def draw(name: str, step: int) -> Drawn:
            return draw_networks(groups, images.inputs, sane, config, derive_generator(config.seed, name, step))

        scales = _scales(sane, [draw("scale", number) for number in range(DRAWS_FOR_SCALES)])
        history = _train(sane, draw, config, scales, made, "resume" in mode, observers)
        del corpus, groups
        shutil.rmtree(made / CORPUS_FOLDER)
        (made / STATE_FILE).unlink(missing_ok=True)
        (made / RUN_FILE).unlink()
        sane.about = {**sane.about, "behaviour": asdict(config), "final_behaviour": history[-1] if history else {}}
        sane.eval().save(made)
        write_json(made / HISTORY_FILE, history)
        write_manifest(made, configuration=asdict(config), seed=config.seed, inputs=[Path(folder), *zoo.folders])
    return sane


def _like_pretraining(config: BehaviourConfig, sane: SANE) -> BehaviourConfig:
    """A model that was trained without the statistics head is tuned without it, unless it is asked for."""
    if config.statistics_weight is not None:
        return config
    default = TrainConfig().statistics_weight
    return replace(config, statistics_weight=float(sane.about.get("training", {}).get("statistics_weight", default)))


def _describe_run(folder: Path, zoo: Zoo, images: Images) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was begun."""
    return {
        "model": hash_input(folder),
        "zoo": [hash_input(own) for own in zoo.folders],
        "checkpoints": zoo.checkpoints,
        "images": [len(images.inputs), float(images.inputs.double().sum()), int(images.labels.sum())],
    }


def _scales(sane: SANE, draws: Sequence[Drawn]) -> dict[str, float]:
    """The first value of every term, which it is divided by: its mean over a few draws."""
    with torch.no_grad():
        losses = [behaviour_losses(sane.eval(), drawn) for drawn in draws]
    means = {name: float(torch.stack([getattr(own, name) for own in losses]).mean()) for name in TERMS}
    return {name: mean if mean > 0 else 1.0 for name, mean in means.items()}


def _train(
    sane: SANE,
    draw: Callable[[str, int], Drawn],
    config: BehaviourConfig,
    scales: dict[str, float],
    folder: Path,
    resume: bool,
    observers: Sequence[tuple[int, Observer]],
) -> History:
    optimizer = torch.optim.AdamW(sane.parameters(), lr=config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    run, dropout = Run(sane, optimizer, schedule), sane.config.dropout
    done, history = load_state(folder / STATE_FILE, run, config) if resume else (0, [])
    with deferred_interrupt() as interrupted, progress_bar("tuning", config.steps, done=done) as advance:
        for step in range(done + 1, config.steps + 1):
            last = step == config.steps
            with own_randomness(derive_seed(config.seed, "dropout", step) if dropout else None, CPU):
                losses = _step(run, draw("step", step), config, scales)
            due = [observer for every, observer in observers if step % every == 0 or last]
            if due or step % config.log_every == 0 or last:
                history.append({"step": step, **_row(losses)})
            for observer in due:
                sane.eval()
                history[-1].update({name: float(value) for name, value in observer(step, sane).items()})
            stopped = interrupted() and not last
            if stopped or step % config.save_every == 0:
                save_state(folder / STATE_FILE, run, step, history, config)
            if stopped:
                raise TrainingStopped(f"stopped after step {step} of {config.steps}; --resume continues")
            advance(note=f"agreement {history[-1]['agreement']:.3f}" if history else "")
    return history


def _step(run: Run, drawn: Drawn, config: BehaviourConfig, scales: dict[str, float]) -> BehaviourLosses:
    losses = behaviour_losses(run.sane.train(), drawn)
    terms = [getattr(config, f"{name}_weight") * getattr(losses, name) / scales[name] for name in TERMS]
    total = torch.stack(terms).sum()
    if not torch.isfinite(total):
        raise InputError(f"expected a finite loss, found {total.item()}: lower the learning rate")
    total.backward()
    torch.nn.utils.clip_grad_norm_(run.sane.parameters(), config.clip or torch.inf)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.schedule.step()
    return losses


def _row(losses: BehaviourLosses) -> Row:
    return {name: float(value.detach()) for name, value in losses._asdict().items()}
