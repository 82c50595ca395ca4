"""From a zoo to a trained SANE folder, in one call."""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training import STATE_FILE, Observer, train
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import fit_preparation
from weightspace.errors import InputError
from weightspace.outputs import hash_input, new_folder, require_apart, write_json, write_manifest
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

    Args:
        zoo: training members only (`zoo.split` first); statistics and alignment come from them.
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
    resume = "resume" in mode
    sane.check()
    training.check()
    preparation.check()
    require_apart(out, zoo.folders)
    run = {
        "sane": asdict(sane),
        "preparation": asdict(preparation),
        "zoo": [hash_input(folder) for folder in zoo.folders],
        "checkpoints": [[str(m), int(e)] for m, e in zip(zoo.table["member"], zoo.table["epoch"], strict=True)],
    }
    with new_folder(out, force="force" in mode, resume=resume, resumable=STATE_FILE) as folder:
        _check_run(folder, run, resume)
        fitted, corpus = fit_preparation(zoo, preparation, folder / CORPUS_FOLDER)
        longest = max(len(part.frame.layout) for part in corpus.parts)
        training = replace(training, window=min(training.window, longest))
        model = SANE(sane, fitted, window=training.window, seed=training.seed)
        history = train(model, corpus, training, folder, resume=resume, observers=observers)
        model = model.cpu().eval()
        model.members = zoo.members
        model.about = {
            "training": asdict(training),
            "checkpoints": len(zoo),
            "final": history[-1] if history else {},
        }
        del corpus
        shutil.rmtree(folder / CORPUS_FOLDER)
        (folder / STATE_FILE).unlink()
        (folder / RUN_FILE).unlink()
        model.save(folder)
        write_json(folder / HISTORY_FILE, history)
        configuration = {name: run[name] for name in ("sane", "preparation")} | {"training": asdict(training)}
        write_manifest(folder, configuration=configuration, seed=training.seed, inputs=zoo.folders)
    return model


def _check_run(folder: Path, run: Mapping[str, object], resume: bool) -> None:
    """A resumed run must be the run that was begun."""
    path = folder / RUN_FILE
    if not resume or not path.exists():
        write_json(path, run)
        return
    begun = json.loads(path.read_text())
    changed = [name for name, value in json.loads(json.dumps(run)).items() if begun.get(name) != value]
    if changed:
        raise InputError(f"expected the run that was begun for this folder, found another {', '.join(changed)}")
