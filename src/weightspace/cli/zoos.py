"""Commands that make and show zoos."""

from pathlib import Path
from typing import Annotated

from weightspace.cli.shared import Flat, Force, Json, Out, Ray, Resume, prepare_torch, print_json, print_result
from weightspace.zoo.config import GrowConfig, apply_choices


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
