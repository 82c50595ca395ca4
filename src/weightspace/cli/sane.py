"""Commands that train autoencoders, and embed networks with them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.presets import PresetName
from weightspace.cli.shared import (
    THIRDS,
    Flat,
    Fold,
    Force,
    Json,
    Out,
    Resume,
    Split,
    chosen_mode,
    open_card_zoos,
    prepare_torch,
    print_result,
)
from weightspace.corpus.config import PreparationConfig
from weightspace.errors import InputError, require_between


def pretrain(
    *folders: Path,
    out: Out,
    preset: PresetName = "small",
    sane: Annotated[SANEConfig, Flat] = SANEConfig(),
    training: Annotated[TrainConfig, Flat] = TrainConfig(),
    preparation: Annotated[PreparationConfig, Flat] = PreparationConfig(),
    split: Split = THIRDS,
    fold: Fold = 0,
    data: str | None = None,
    observe_every: int = 0,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Pre-train a SANE on the training members of one zoo or of several, and write its card.

    On several GPUs or machines: the same command behind `torchrun` or `accelerate launch`.

    Parameters
    ----------
    folders
        Zoos; only the first part of each one's split is trained on.
    preset
        `small`, for a CPU; `writing`, which reconstructs networks best and reads them worse; or the paper's. Every
        option that is given goes before it.
    data
        Images (see grow) to score reconstructed networks on; without them those that the zoo names, if they are
        here, else random inputs.
    observe_every
        Reconstruct validation members after every so many steps; 0 does so four times.
    """
    prepare_torch()
    from weightspace.autoencoder.fidelity import FidelityObserver
    from weightspace.autoencoder.training.devices import team
    from weightspace.autoencoder.training.pretraining import pretrain as pretrain_sane
    from weightspace.report.model_card import CARD_FILE, held_out_networks, write_model_card
    from weightspace.zoo.concatenating import concatenate

    require_between("observe every", observe_every, 0)
    zoos = open_card_zoos(folders, split, training.seed, data, fold)
    train = concatenate([zoo.parts[0] for zoo in zoos]) if len(zoos) > 1 else zoos[0].parts[0]
    observer = FidelityObserver([(held_out_networks(zoo.parts[1]), zoo.images) for zoo in zoos])
    every = observe_every or max(1, training.steps // 4)
    mode = chosen_mode(resume, force)
    model = pretrain_sane(train, sane, training, preparation, out=out, mode=mode, observers=[(every, observer)])
    if not team().is_main_process:
        return
    with _model_kept(out, folders):
        write_model_card(out, zoos)
    final = model.about["final"]
    result = {"members": len(model.members), **final, "latents_per_weight": model.latents_per_weight}
    line = f"reconstruction loss {final['reconstruction']:.3f} after {training.steps} steps"
    print_result(out, f"{line} on {len(model.members)} members; see {out / CARD_FILE}", result, as_json)


def card(
    model: Path,
    /,
    *folders: Path,
    split: Split = THIRDS,
    fold: Fold = 0,
    seed: int = 0,
    data: str | None = None,
    as_json: Json = False,
) -> None:
    """Measure a trained SANE on members that it never saw, and write its card into its folder.

    Parameters
    ----------
    model
        A trained SANE.
    folders
        The zoos it was trained on.
    seed
        The one it was trained with, so that the zoos are split alike.
    data
        Images to score reconstructed networks on; see pretrain.
    """
    prepare_torch()
    from weightspace.report.model_card import CARD_FILE, write_model_card

    numbers = write_model_card(model, open_card_zoos(folders, split, seed, data, fold))
    kept = [f"{own['zoo']} R² {own['r2']:.3f}" for own in numbers["fidelity"]]
    print_result(model / CARD_FILE, ", ".join(kept), numbers, as_json)


@contextlib.contextmanager
def _model_kept(out: Path, folders: Sequence[Path]) -> Iterator[None]:
    """Whatever happens to the card, the model is there; say so."""
    again = f"the model is in {out}: weightspace card {out} {' '.join(map(str, folders))} writes its card"
    try:
        yield
    except InputError as refusal:
        raise InputError(f"{refusal}; {again}") from refusal
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt(f"stopped; {again}") from stopped


def embed(
    model: Path,
    /,
    *networks: Path,
    out: Out,
    aggregation: str = "mean",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write one embedding per checkpoint of a zoo, or per network file, beside what is known of it, as a Parquet table.

    Parameters
    ----------
    model
        A trained SANE.
    networks
        A zoo; or files, model folders and folders of checkpoints, of any architecture and size: they are read as
        they are embedded, and the table says what had to be assumed.
    aggregation
        mean; mean+spread (mean and standard deviation per layer); readout (the same of the statistics head);
        or sequence (all latents in a row).
    """
    prepare_torch()
    from weightspace.autoencoder.sane import SANE
    from weightspace.autoencoder.streaming import embed_files
    from weightspace.autoencoder.training.devices import best_device
    from weightspace.outputs import new_file, require_apart
    from weightspace.zoo.zoo import ZOO_FILE, Zoo

    if not networks:
        raise InputError("expected a zoo or networks to embed, found none")
    require_apart(out, [model, *networks])
    with new_file(out, force=force) as path:
        sane = SANE.open(model).to(best_device())
        zoos = [path for path in networks if (path / ZOO_FILE).is_file()]
        if zoos and len(networks) > 1:
            raise InputError(f"expected one zoo, or networks that are in none, found the zoo {zoos[0]} among others")
        if zoos:
            embeddings = sane.embed(Zoo.open(networks[0]), aggregation)
        else:
            embeddings = embed_files(sane, networks, aggregation)
        embeddings.to_table().to_parquet(path, index=False)
    count, width = embeddings.features.shape
    assumed = sorted({own for own in embeddings.table.get("assumed", []) if own})
    line = f"{count} embeddings of width {width}" + (f"; assumed: {'; '.join(assumed)}" if assumed else "")
    print_result(out, line, {"checkpoints": count, "width": width, "assumed": assumed}, as_json)
