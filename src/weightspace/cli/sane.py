"""Commands that train autoencoders, and embed networks with them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.presets import SizeName
from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.cli.shared import (
    SHARES,
    Device,
    Fold,
    Force,
    Given,
    GivenModule,
    Json,
    Model,
    Out,
    Resume,
    Split,
    existing,
    options,
    prepare_torch,
    print_result,
)
from weightspace.corpus.config import PreparationConfig
from weightspace.errors import InputError, require_between
from weightspace.responses.config import AskConfig

if TYPE_CHECKING:
    from weightspace.analysis.examining import SplitZoo


def pretrain(
    *folders: Path,
    out: Out,
    size: SizeName = "small",
    writing: bool = False,
    sane: Annotated[SANEConfig, options("Model")] = SANEConfig(),
    training: Annotated[TrainConfig, options("Training")] = TrainConfig(),
    preparation: Annotated[PreparationConfig, options("Preparation")] = PreparationConfig(),
    module: Given = GivenModule(),
    split: Split = SHARES,
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
    size
        small, for a CPU; medium, for a GPU; paper and paper-resnet, as published for CNNs and ResNets. It sets widths,
        learning rate, steps and window, and says so; every option that is given goes before it.
    writing
        Reconstruct networks as well as possible, for writing them; embeddings read worse.
    data
        Images (see grow) to score reconstructed networks on; without them those that the zoo names, if they are
        here, else random inputs.
    observe_every
        Reconstruct validation members after every so many steps; 0 does so four times.
    """
    prepare_torch()
    from weightspace.analysis.examining import split_zoos, together
    from weightspace.analysis.fidelity import watch_fidelity
    from weightspace.autoencoder.training.devices import team
    from weightspace.autoencoder.training.pretraining import pretrain as pretrain_sane

    zoos = split_zoos(folders, split, seed=training.seed, fold=fold, data=data, given=module.describe())
    every = watched(observe_every, training.steps)
    observers = [(every, watch_fidelity([(zoo.parts[1], zoo.test_images) for zoo in zoos]))]
    train, how = together([zoo.parts[0] for zoo in zoos]), existing(force, resume)
    model = pretrain_sane(train, sane, training, preparation, out=out, existing=how, observers=observers)
    if not team().is_main_process:
        return
    with _model_kept(out, folders):
        write_examination(out, zoos, training.device, module)
    members, final = len(model.provenance.members), model.provenance.final
    result = {"members": members, **final, "latents_per_weight": model.latents_per_weight}
    line = f"reconstruction loss {final['reconstruction']:.3f} after {training.steps} steps on {members} members"
    said = "".join(f"; {zoo.note}" for zoo in zoos if zoo.note)
    print_result(out, f"{line}{said}; see {out / 'README.md'}", result, as_json)


def distill(
    model: Model,
    zoo: Path,
    /,
    *,
    out: Out,
    data: str | None = None,
    config: Annotated[DistillConfig, options("Distilling")] = DistillConfig(),
    module: Given = GivenModule(),
    split: Split = SHARES,
    fold: Fold = 0,
    from_epoch: int = 0,
    observe_every: int = 0,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Teach a trained SANE that what it decodes should compute what it encoded, and that mixtures should work.

    Parameters
    ----------
    model
        A trained SANE; it stays as it is.
    zoo
        What it was trained on.
    data
        Images that decoded networks are asked about; without them those that the zoo names, if they are here.
    from_epoch
        Use checkpoints from this epoch on only.
    observe_every
        Reconstruct validation members after every so many steps; 0 does so four times.
    """
    prepare_torch()
    from weightspace.analysis.fidelity import watch_fidelity
    from weightspace.autoencoder.training.distilling import distill as distill_sane
    from weightspace.autoencoder.training.distilling import distilling_parts
    from weightspace.zoo.zoo import Zoo

    opened = Zoo.open(zoo, module.describe())
    train, validation, images = distilling_parts(model, opened, split, fold=fold, data=data, from_epoch=from_epoch)
    observers = [(watched(observe_every, config.steps), watch_fidelity([(validation, images.validation)]))]
    how = existing(force, resume)
    distilled = distill_sane(model, train, images.train, config, out=out, existing=how, observers=observers)
    final = distilled.provenance.distilled
    kept = final.get("held_out_reconstructed_accuracy")
    line = f"decoded networks agree on {final['agreement']:.1%} of queries"
    if kept is not None:
        line += f"; unseen ones keep {kept:.3f} of {final['held_out_accuracy']:.3f} accuracy"
    print_result(out, line, {"members": len(train.members), **final}, as_json)


def card(
    model: Model,
    /,
    *folders: Path,
    split: Split = SHARES,
    fold: Fold = 0,
    seed: int = 0,
    data: str | None = None,
    targets: str = "",
    module: Given = GivenModule(),
    device: Device = "auto",
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
    targets
        Properties that predict tells, numbers or categories, separated by commas; without any accuracy, epoch and
        generalisation gap, or all that vary where a zoo has none of these.
    """
    prepare_torch()
    from weightspace.analysis.examining import split_zoos

    zoos = split_zoos(folders, split, seed=seed, fold=fold, data=data, given=module.describe())
    wanted = [target.strip() for target in targets.split(",") if target.strip()]
    numbers = write_examination(model, zoos, device, module, wanted)
    kept = [f"{zoo['zoo']} R² {zoo['r2']:.3f}" for zoo in numbers["fidelity"]]
    kept += [f"no predictor: {why}" for why in [numbers["predicting"]["note"]] if why]
    print_result(model / "README.md", ", ".join(kept), numbers, as_json)


def embed(
    *networks: str,
    out: Out,
    aggregation: str = "mean",
    ask: Annotated[AskConfig, options("Asking")] = AskConfig(),
    module: Given = GivenModule(),
    device: Device = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write one embedding per checkpoint of a zoo, or per network file, beside what is known of it, as a Parquet table.

    Parameters
    ----------
    networks
        A zoo; or files, model folders and folders of checkpoints, of any architecture and size: they are read as
        they are embedded, and the table says what had to be assumed. Before them a trained SANE or the name of one
        that comes with the package (any, small-cnns); without one, any.
    aggregation
        mean; mean+spread (mean and standard deviation per layer); readout (the same of the statistics head);
        sequence (all tokens in a row); or responses: no SANE, but what networks do when they are asked (those in files
        need --architecture).
    """
    prepare_torch()
    from weightspace.analysis.representations.responses import embed_or_respond
    from weightspace.autoencoder.sane import leading_model
    from weightspace.outputs import new_file, require_apart, write_table

    model, names = leading_model(networks)
    paths = [Path(name) for name in module.addresses(names)]
    require_apart(out, [model, *paths])
    if out.suffix not in ("", ".parquet"):
        raise InputError(f"expected --out to end in .parquet, found {out}")
    with new_file(out, existing=existing(force)) as path:
        embeddings, result = embed_or_respond(model, paths, aggregation, device, module.describe(), ask)
        write_table(path, embeddings.to_table())
    line = f"{result['checkpoints']} embeddings of width {result['width']}"
    passes = result["forward_passes"]
    line += f"; every network that was asked cost {passes} forward passes" if passes else ""
    line += f"; assumed: {'; '.join(result['assumed'])}" if result["assumed"] else ""
    left_out = [f"  left out: {why}" for why in embeddings.left_out.values()]
    print_result(out, line, result, as_json, left_out)


def watched(every: int, steps: int) -> int:
    """How many steps lie between two measurements; four in all, unless asked otherwise."""
    require_between("observe every", every, 0)
    return every or max(1, steps // 4)


def write_examination(
    folder: Path, zoos: "Sequence[SplitZoo]", device: str, module: GivenModule, targets: Sequence[str] = ()
) -> dict[str, Any]:
    """Examine the model of a folder and write its card."""
    from weightspace.analysis.examining import examine
    from weightspace.autoencoder.sane import SANE, require_own, stored_weights
    from weightspace.report.card import write_card

    require_own(folder)
    weights = stored_weights(path for zoo in zoos for path in zoo.parts[0].folders)
    return write_card(
        folder, examine(SANE.open(folder, device, weights, module.describe()), zoos, targets or None), list(zoos)
    )


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
