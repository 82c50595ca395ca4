"""Commands that make and show zoos."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from weightspace.cli.shared import Flat, Force, Json, Out, Ray, Resume, prepare_torch, print_json, print_result
from weightspace.errors import InputError
from weightspace.zoo.config import GrowConfig, apply_choices

if TYPE_CHECKING:
    from weightspace.zoo.architecture import Architecture

REASONS_SHOWN, NAMES_SHOWN = 5, 3


def grow(
    network: str,
    /,
    *,
    data: str,
    out: Out,
    config: Annotated[GrowConfig, Flat] = GrowConfig(),
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
        What varies between members: lr=log:1e-4..1e-2 activation=tanh,relu wd=0..1e-3 init=... dropout=... optimizer=...
    size
        Resize images to so many pixels a side; cnn-s and cnn-l take theirs without being told.
    train_images
        Use the first so many training images only.
    test_images
        Use the first so many test images only.
    """
    prepare_torch()
    from weightspace.images import open_images
    from weightspace.zoo.growing import grow as grow_zoo
    from weightspace.zoo.recipes import native_size

    limits = (train_images, test_images)
    images = open_images(data, size=native_size(network) if size is None else size, limits=limits)
    mode = [name for name, on in (("resume", resume), ("force", force)) if on]
    zoo = grow_zoo(network, images, apply_choices(config, vary), out, mode=mode, ray=ray)
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
    pattern: str = "",
    table: str = "",
    architecture: str = "",
    example: str = "",
    largest_weight: float = math.inf,
    workers: int = 0,
    ray: Ray = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Convert a folder of checkpoints into a zoo. Ctrl-C is safe: --resume continues.

    Recognised are modelzoos.cc and other Ray Tune folders, the Small CNN Zoo, and plain files: .safetensors, .pt,
    .pth, .bin, .ckpt, and folders with a config.json. Files that need code to load are never run.

    Parameters
    ----------
    folder
        A folder, a .zip or .tar of one, or an fsspec URL.
    pattern
        For plain files: what their paths tell, such as '{member}/epoch-{epoch:d}.pt'.
    table
        For plain files: a .csv, .parquet or .json with one row per file; one table at the top is found by itself.
    architecture
        module:callable that returns an nn.Module; checkpoints of its names and shapes are networks of it.
    example
        Shape of an input of that module, batch first, such as 2,3,32,32.
    largest_weight
        Leave out checkpoints with a weight beyond this.
    workers
        Processes; 0: as many as it is worth.
    """
    prepare_torch()
    from weightspace.spreading import Where
    from weightspace.zoo.importing import import_zoo

    given = [describe_given(architecture, example)] if architecture else []
    mode = [name for name, on in (("resume", resume), ("force", force)) if on]
    imported = import_zoo(
        folder,
        out,
        pattern=pattern,
        table=table,
        architectures=given,
        largest_weight=largest_weight,
        where=Where(workers, ray),
        mode=mode,
    )
    about, left_out = imported.about["imported"], imported.about["left_out"]
    line = f"{about['layout']}: {len(imported.members)} members, {len(imported)} checkpoints"
    result = {"members": len(imported.members), "checkpoints": len(imported), "left_out": left_out, **about}
    print_result(out, line, result, as_json)
    if not as_json:
        print_remarks(about["notes"], left_out)


def zoo(folder: Path, /, *, as_json: Json = False) -> None:
    """Say what is in a zoo.

    Parameters
    ----------
    folder
        A zoo.
    """
    from weightspace.report.tables import print_table, zoo_tables
    from weightspace.zoo.summary import summarize
    from weightspace.zoo.zoo import Zoo

    summary = summarize(Zoo.open(folder))
    if as_json:
        print_json(summary)
        return
    for table in zoo_tables(summary):
        print_table(table)
        print()
    print(f"{folder}: {summary['members']} members, {summary['checkpoints']} checkpoints, {summary['bytes']:,} bytes")


def symmetry(factory: str, /, *, example: str, as_json: Json = False) -> None:
    """Derive a module's permutation symmetry from its graph, prove it, and print it.

    Parameters
    ----------
    factory
        module:callable that returns an nn.Module; it is imported and called.
    example
        Shape of an input, batch first, such as 2,3,32,32.
    """
    prepare_torch()
    from weightspace.symmetry.tracing import trace_symmetry
    from weightspace.zoo.architecture import build_module, example_input

    found = trace_symmetry(build_module(factory), example_input(example))
    if as_json:
        print_json(found.to_json())
    else:
        print(found.report())


def describe_given(factory: str, example: str) -> "Architecture":
    """The architecture of a module that the user names, with its symmetry if one can be derived."""
    from dataclasses import replace

    from weightspace.symmetry.tracing import SymmetryDisproved, trace_symmetry
    from weightspace.zoo.architecture import Architecture, build_module, example_input

    if not example:
        raise InputError("expected --example with the shape of an input for --architecture, found none")
    inputs, module = example_input(example), build_module(factory)
    shape = tuple(inputs.shape)
    described = Architecture.of_module(
        module, id=factory.replace(":", "."), factory=factory, arguments={}, example_shape=shape
    )
    try:
        return replace(described, symmetry=trace_symmetry(module, inputs).to_json())
    except (InputError, SymmetryDisproved) as refusal:
        return replace(described, note=f"no symmetry: {refusal}")


def print_remarks(notes: Mapping[str, int], left_out: Sequence[Mapping[str, str]]) -> None:
    """What was understood in a special way, and what could not be used: counted, with a few names."""
    for note, count in notes.items():
        print(f"  {count:,} x {note}")
    reasons: dict[str, list[str]] = {}
    for entry in left_out:
        reasons.setdefault(entry["why"].replace(entry["what"], "the file"), []).append(entry["what"])
    if left_out:
        print(f"  left out: {len(left_out):,} (all are named in zoo.json)")
    for reason, names in list(reasons.items())[:REASONS_SHOWN]:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        print(f"    {', '.join(names[:NAMES_SHOWN])}{more}: {reason}")
    if len(reasons) > REASONS_SHOWN:
        print(f"    and {len(reasons) - REASONS_SHOWN} more reasons")
