"""Commands that make and show zoos."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from weightspace.cli.shared import (
    Device,
    Force,
    Given,
    GivenModule,
    Json,
    Model,
    Out,
    Ray,
    Resume,
    existing,
    options,
    plots,
    prepare_torch,
    print_json,
    print_result,
    say,
)
from weightspace.errors import require_between
from weightspace.responses.config import AskConfig
from weightspace.zoo.growing.config import GrowConfig, apply_choices
from weightspace.zoo.importing.config import ImportConfig

REASONS_SHOWN, NAMES_SHOWN = 5, 3

if TYPE_CHECKING:
    from weightspace.analysis.inspecting.studying import FolderStudy
    from weightspace.zoo.zoo import Zoo


def grow(
    network: str,
    /,
    *,
    data: str,
    out: Out,
    config: Annotated[GrowConfig, options("Growing")] = GrowConfig(),
    vary: tuple[str, ...] = (),
    size: int | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    ray: Ray = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train a zoo in the way that is fastest on this machine. Ctrl-C is safe: --resume continues.

    Parameters
    ----------
    network
        cnn-s or cnn-l (the paper's CNNs, 28 x 28 and 32 x 32 images), resnet18 or resnet18:8 for a width, mlp or
        mlp:32,16 for hidden layers of these widths, or module:callable that returns an nn.Module of yours.
    data
        digits, an .npz with train_images, train_labels, test_images, test_labels, or module:function.
    vary
        What varies between members: lr=log:1e-4..1e-2 activation=tanh,relu wd=0..1e-3 init=... dropout=...
        optimizer=adam,sgd
    size
        Resize images to so many pixels a side; cnn-s and cnn-l take theirs without being told.
    train_images
        Use the first so many training images only.
    test_images
        Use the first so many test images only.
    """
    prepare_torch()
    from weightspace.images import open_images
    from weightspace.zoo.growing.growing import grow as grow_zoo
    from weightspace.zoo.growing.recipes import native_size

    limits = (train_images, test_images)
    images = open_images(data, size=native_size(network) if size is None else size, limits=limits)
    how = existing(force, resume)
    zoo = grow_zoo(network, images, apply_choices(config, vary), out, existing=how, ray=ray)
    median, left_out = float(zoo.last().table["test_accuracy"].median()), zoo.about["left_out"]
    line = f"{len(zoo.members)} members, {len(zoo)} checkpoints, median test accuracy {median:.3f}"
    if left_out:
        line += f"; left out for NaN weights: {', '.join(entry['what'] for entry in left_out)}"
    result = {"members": len(zoo.members), "checkpoints": len(zoo), "left_out": left_out}
    print_result(out, line, {**result, "median_test_accuracy": median}, as_json)


def import_(
    folder: str,
    /,
    *,
    out: Out,
    config: Annotated[ImportConfig, options("Reading files")] = ImportConfig(),
    module: Given = GivenModule(),
    explain: bool = False,
    ray: Ray = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Convert a folder of checkpoints into a zoo. Ctrl-C is safe: --resume continues.

    Recognised are folders of Ray Tune (modelzoos.cc), Ray Train, PyTorch Lightning, the Hugging Face Trainer,
    accelerate, skorch and stable-baselines3, the Small CNN Zoo, and plain files: .safetensors, .pt, .pth, .bin, .ckpt,
    and folders with a config.json. Files that need code to load are never run. Every number in the zoo's table is of
    that file at that moment, or is not there.

    Parameters
    ----------
    folder
        A folder, a .zip or .tar of one, or an fsspec URL.
    module
        Checkpoints of its names and shapes are networks of it.
    explain
        Say where every number of the first three checkpoints of each kind comes from, and name all that was left out.
        `weightspace zoo ZOO --explain` says it again.
    """
    prepare_torch()
    from weightspace.zoo.importing.importing import import_zoo

    how, given = existing(force, resume), module.describe()
    imported = import_zoo(folder, out, config, architectures=given, key=module.key, ray=ray, existing=how)
    about, left_out = imported.about["imported"], imported.about["left_out"]
    line = f"{about['layout']}: {len(imported.members)} members, {len(imported)} checkpoints"
    result = {"members": len(imported.members), "checkpoints": len(imported), "left_out": left_out, **about}
    print_result(out, line, result, as_json)
    if not as_json:
        print_remarks(about["notes"], left_out)
    if explain and not as_json:
        _print_sources(imported.about)


def zoo(
    folder: Path,
    /,
    *,
    plot: Path | None = None,
    explain: bool = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what is in a zoo.

    Parameters
    ----------
    folder
        A zoo.
    plot
        Draw accuracy over epochs and how each property is distributed into this .png, .svg or .pdf.
    explain
        Of an imported zoo: say where the numbers of its first checkpoints come from, and what was left out.
    force
        Replace the plot if it exists.
    """
    prepare_torch()
    from weightspace.report.tables import print_table, zoo_tables
    from weightspace.zoo.cards import summarize
    from weightspace.zoo.zoo import Zoo

    with plots(plot, force=force) as (figure,):
        opened = Zoo.open(folder)
        summary = summarize(opened)
        if figure is not None:
            _draw(opened, figure)
    if as_json:
        print_json(summary)
        return
    for table in zoo_tables(summary):
        print_table(table)
        print()
    if explain:
        _print_sources(opened.about)
    say(f"{folder}: {summary['members']} members, {summary['checkpoints']} checkpoints, {summary['bytes']:,} bytes")


def inspect(
    folder: str,
    /,
    *,
    sane: Model | None = None,
    by: Literal["weights", "responses"] = "weights",
    values: Annotated[bool, Parameter(negative="")] = False,
    ask: Annotated[AskConfig, options("Asking")] = AskConfig(),
    module: Given = GivenModule(),
    out: Path | None = None,
    rows: int = 40,
    fail_on: str = "",
    device: Device = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what is in a folder of checkpoints: broken weights, duplicates, families. Runs none of it, unless asked to.

    Parameters
    ----------
    folder
        A folder of .safetensors, .pt, .pth, .bin or .ckpt files, one such file, a .zip or .tar, or an address such as
        hf://org/name.
    sane
        A trained SANE: says which checkpoints are nearest in its space, and predicts properties of each.
    by
        responses also runs them, as --architecture says, on noise: which do the same, and which are damaged.
    values
        Behind an address: read all numbers, and not the headers of files alone.
    module
        The networks are aligned before they are compared.
    out
        Write all of it into this .html page too; must not exist yet.
    rows
        So many checkpoints are listed, those with remarks first.
    fail_on
        End with exit status 1 if a checkpoint is one of these: unreadable, nan, dead, duplicate, outlying.
    """
    prepare_torch()
    from weightspace.analysis.inspecting.studying import require_faults, study_folder
    from weightspace.outputs import new_files
    from weightspace.report.tables import folder_tables, print_table

    require_between("rows", rows, 1)
    faults = require_faults(fail_on)
    asking = ask if by == "responses" else None
    with new_files(*([out] if out is not None else []), existing=existing(force)) as pages:
        study = study_folder(folder, sane, module.describe(), key=module.key, device=device, ask=asking, values=values)
        for page in pages:
            _write_page(page, study)
    for table in [] if as_json else folder_tables(study, rows):
        print_table(table)
        print()
    closing = [*(f"  {note}" for note in study.notes()), f"{out or folder}: {study.summary()}"]
    print_json(study.to_json()) if as_json else say(*closing)
    if any(study.faults()[name] for name in faults):
        sys.exit(1)


def _draw(opened: "Zoo", figure: Path) -> None:
    from weightspace.report.plots import save_zoo_plot  # takes two seconds to import, and few ask for a plot

    save_zoo_plot(opened, figure)


def _write_page(page: Path, study: "FolderStudy") -> None:
    from weightspace.report.page import render_inspection  # figures take two seconds to import, and few ask for a page

    page.write_text(render_inspection(study), encoding="utf-8")


def publish(
    folder: Path,
    /,
    *,
    out: Out,
    title: str = "A zoo of trained networks",
    license: str = "",
    source: str = "",
    shard_mib: int = 15,
    to: str = "",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a zoo so that it can be uploaded to Hugging Face as it is: card, Parquet, shards of bounded size.

    Parameters
    ----------
    folder
        A zoo.
    title
        Heading of the card.
    license
        The weights' licence, as Hugging Face spells it, such as cc-by-4.0.
    source
        A sentence for the card: where the networks come from, whom to cite.
    shard_mib
        At most so many MiB in a shard, unless one checkpoint alone is larger.
    to
        Upload it there too: hf://datasets/org/name, which is made if there is none; private until you say otherwise.
    """
    from weightspace.outputs import require_apart
    from weightspace.remote import require_repository, upload
    from weightspace.zoo.cards import CardText
    from weightspace.zoo.writing import publish as publish_zoo
    from weightspace.zoo.zoo import Zoo

    require_apart(out, [folder])
    require_repository(to)
    about = CardText(title=title, license=license, source=source)
    published = publish_zoo(Zoo.open(folder), out, about, shard_mib=shard_mib, existing=existing(force))
    line = f"{published['checkpoints']:,} checkpoints in {published['shards']:,} shards, {published['bytes']:,} bytes"
    if to:
        published["to"] = upload(out, to)
        line += f"; uploaded to {published['to']}"
    print_result(out, line, published, as_json)


def print_remarks(notes: Mapping[str, int], left_out: Sequence[Mapping[str, str]]) -> None:
    """What was understood in a special way, and what could not be used: counted, with a few names."""
    for note, count in notes.items():
        say(f"  {count:,} x {note}")
    reasons: dict[str, list[str]] = {}
    for entry in left_out:
        reasons.setdefault(entry["why"], []).append(entry["what"])
    if left_out:
        say(f"  left out: {len(left_out):,} (all are named in zoo.json)")
    for reason, names in list(reasons.items())[:REASONS_SHOWN]:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        say(f"    {', '.join(names[:NAMES_SHOWN])}{more}: {reason}")
    if len(reasons) > REASONS_SHOWN:
        say(f"    and {len(reasons) - REASONS_SHOWN} more reasons")


def _print_sources(about: Mapping[str, Any]) -> None:
    """Where the numbers of an imported zoo's first checkpoints come from, their other names, and what was left out."""
    if "sources" not in about:
        say("not imported, so that its numbers are its own")
        return
    names = about.get("names", {})
    for checkpoint in about["sources"]:
        epoch = "an unknown epoch" if checkpoint["epoch"] is None else f"epoch {checkpoint['epoch']}"
        say(f"{checkpoint['member']} at {epoch}: {checkpoint['path']}")
        for name, number in checkpoint["numbers"].items():
            say(f"  {name} {number['value']}: {number['from']}")
        for other in names.get(checkpoint["path"], []):
            say(f"  the same weights: {other}")
    for entry in about.get("left_out", []):
        say(f"left out: {entry['what']}: {entry['why']}")
