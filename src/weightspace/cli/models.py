"""Commands that train autoencoders and read networks with them."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.cli.shared import (
    THIRDS,
    Flat,
    Force,
    Json,
    Out,
    Resume,
    Split,
    chosen_mode,
    open_split,
    prepare_torch,
    print_json,
    print_result,
)
from weightspace.corpus.config import PreparationConfig


def pretrain(
    folder: Path,
    /,
    *,
    out: Out,
    sane: Annotated[SANEConfig, Flat] = SANEConfig(),
    training: Annotated[TrainConfig, Flat] = TrainConfig(),
    preparation: Annotated[PreparationConfig, Flat] = PreparationConfig(),
    split: Split = THIRDS,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Pre-train a SANE on the training members of a zoo.

    Parameters
    ----------
    folder
        A zoo; only the first part of its split is trained on.
    """
    prepare_torch()
    from weightspace.autoencoder.pretraining import pretrain as pretrain_sane

    train, _, _ = open_split(folder, split, training.seed)
    mode = chosen_mode(resume, force)
    model = pretrain_sane(train, sane, training, preparation, out=out, mode=mode)
    final = model.about["final"]
    result = {"members": len(model.members), **final, "latents_per_weight": model.latents_per_weight}
    line = f"reconstruction loss {final['reconstruction']:.3f} after {training.steps} steps"
    print_result(out, f"{line} on {len(model.members)} members", result, as_json)


def embed(
    model: Path,
    folder: Path,
    /,
    *,
    out: Out,
    aggregation: str = "mean",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write one embedding per checkpoint of a zoo, beside its properties, as a Parquet table.

    Parameters
    ----------
    model
        A trained SANE.
    folder
        A zoo.
    aggregation
        mean; mean+spread (mean and standard deviation per layer); readout (the same of the statistics head);
        or sequence (all latents in a row).
    """
    prepare_torch()
    from weightspace.autoencoder.inference import embed as embed_zoo
    from weightspace.autoencoder.sane import SANE
    from weightspace.outputs import new_file, require_apart
    from weightspace.zoo.zoo import Zoo

    require_apart(out, [model, folder])
    with new_file(out, force=force) as path:
        embeddings = embed_zoo(SANE.open(model), Zoo.open(folder), aggregation)
        embeddings.to_table().to_parquet(path, index=False)
    count, width = embeddings.features.shape
    print_result(out, f"{count} embeddings of width {width}", {"checkpoints": count, "width": width}, as_json)


def probe(
    folder: Path,
    /,
    *,
    sane: Path | None = None,
    targets: str = "test_accuracy,epoch,generalization_gap",
    split: Split = THIRDS,
    seed: int = 0,
    allow_overlap: Annotated[bool, Parameter(negative="")] = False,
    as_json: Json = False,
) -> None:
    """Probe representations for properties, baselines beside each other.

    Parameters
    ----------
    folder
        A zoo.
    sane
        A trained SANE; without it only the baselines are probed.
    targets
        Properties to predict, separated by commas.
    seed
        Seed of the split: the one the SANE was trained with, so that it has not seen the test members.
    allow_overlap
        Probe all the same if the SANE was trained on test members.
    """
    prepare_torch()
    from weightspace.analysis.comparing import compare_representations
    from weightspace.analysis.representations import standard_representations
    from weightspace.autoencoder.sane import SANE
    from weightspace.report.tables import print_table, reading_tables

    parts = open_split(folder, split, seed)
    representations = standard_representations(SANE.open(sane) if sane is not None else None)
    names = [target.strip() for target in targets.split(",")]
    rows = compare_representations(parts, representations, names, seed=seed, allow_overlap=allow_overlap).rows
    if as_json:
        print_json(rows)
        return
    for table in reading_tables(rows):
        print_table(table)
        print()
    print(f"{folder}: probes trained on {len(parts[0].members)} members, tested on {len(parts[2].members)}")
