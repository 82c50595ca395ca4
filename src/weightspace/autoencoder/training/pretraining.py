"""From a zoo to a trained SANE folder, in one call."""

import contextlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.devices import team
from weightspace.autoencoder.training.loop import Observer, train
from weightspace.autoencoder.training.states import STATE_FILE, History
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus, fit_preparation
from weightspace.corpus.preparation import Preparation
from weightspace.errors import InputError
from weightspace.outputs import hash_input, new_folder, partial_path, require_apart, write_json, write_manifest
from weightspace.zoo.zoo import Zoo

HISTORY_FILE, RUN_FILE, CORPUS_FOLDER = "history.json", "run.json", "corpus"


def pretrain(
    zoo: Zoo,
    sane: SANEConfig | None = None,
    training: TrainConfig | None = None,
    preparation: PreparationConfig | None = None,
    *,
    out: str | Path,
    mode: Collection[str] = (),
    observers: Sequence[tuple[int, Observer]] = (),
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
        mode: `resume` continues an interrupted run for `out`; `force` replaces an existing `out`.
        observers: see `train`.

    Returns:
        The model in evaluation mode, with its preparation. `out` also has `history.json`.

    Raises:
        InputError: no checkpoints, NaN weights, `out` exists, or a resumed run was configured otherwise.
        TrainingStopped: Ctrl-C; `mode={"resume"}` continues.
    """
    sane, training = sane or SANEConfig(), training or TrainConfig()
    preparation = preparation or PreparationConfig()
    sane.check()
    training.check()
    preparation.check()
    require_apart(out, zoo.folders)
    processes = team()
    with _new_folder(Path(out), mode, processes) as folder:
        if processes.is_main_process:
            check_run(folder, _describe_run(zoo, sane, preparation), "resume" in mode)
        fitted, corpus = _prepare(zoo, preparation, folder, processes)
        longest = max(len(part.frame.layout) for part in corpus.parts)
        training = replace(training, window=min(training.window, longest))
        model = SANE(sane, fitted, window=training.window, seed=training.seed)
        history = train(model, corpus, training, folder, resume="resume" in mode, observers=observers)
        model = model.cpu().eval()
        model.members = zoo.members
        model.about = {
            "training": asdict(training),
            "checkpoints": len(zoo),
            "zoos": [folder.absolute().name for folder in zoo.folders],
            "final": history[-1] if history else {},
        }
        del corpus
        if processes.is_main_process:
            _finish(folder, model, history, preparation, zoo)
    return model


def _new_folder(out: Path, mode: Collection[str], processes: PartialState) -> contextlib.AbstractContextManager[Path]:
    """The folder to write into, which the first of several processes makes."""
    if not processes.is_main_process:
        return contextlib.nullcontext(partial_path(out))
    return new_folder(out, force="force" in mode, resume="resume" in mode, resumable=STATE_FILE)


def _prepare(zoo: Zoo, config: PreparationConfig, folder: Path, processes: PartialState) -> tuple[Preparation, Corpus]:
    """The fitted preparation and the corpus, made by the first process and mapped by all."""
    if processes.num_processes == 1:
        return fit_preparation(zoo, config, folder / CORPUS_FOLDER)
    made: list[Any] = [None]
    if processes.is_main_process:
        fitted, corpus = fit_preparation(zoo, config, folder / CORPUS_FOLDER)
        made = [(fitted, corpus.closed())]
    fitted, corpus = broadcast_object_list(made)[0]
    return fitted, corpus.opened()


def _finish(folder: Path, model: SANE, history: History, preparation: PreparationConfig, zoo: Zoo) -> None:
    """Drop what only training needed, and write what it made."""
    shutil.rmtree(folder / CORPUS_FOLDER)
    (folder / STATE_FILE).unlink()
    (folder / RUN_FILE).unlink()
    model.save(folder)
    write_json(folder / HISTORY_FILE, history)
    training = model.about["training"]
    configuration = {"sane": asdict(model.config), "preparation": asdict(preparation), "training": training}
    write_manifest(folder, configuration=configuration, seed=training["seed"], inputs=zoo.folders)


def _describe_run(zoo: Zoo, sane: SANEConfig, preparation: PreparationConfig) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was begun."""
    return {
        "sane": asdict(sane),
        "preparation": asdict(preparation),
        "zoo": [hash_input(folder) for folder in zoo.folders],
        "checkpoints": zoo.checkpoints,
    }


def check_run(folder: Path, run: Mapping[str, object], resume: bool) -> None:
    """Raise `InputError` if a resumed run is not the run that was begun; a new one is written down."""
    path = folder / RUN_FILE
    if not resume or not path.exists():
        write_json(path, run)
        return
    begun = json.loads(path.read_text())
    changed = [name for name, value in json.loads(json.dumps(run)).items() if begun.get(name) != value]
    if changed:
        raise InputError(f"expected the run that was begun for this folder, found another {', '.join(changed)}")
