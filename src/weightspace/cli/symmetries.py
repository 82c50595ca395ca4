"""Commands about symmetry: what may be permuted, and one network aligned to another."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.cli.shared import Force, Json, Out, prepare_torch, print_json, print_result, require_plot
from weightspace.errors import InputError

if TYPE_CHECKING:
    from weightspace.symmetry.axes import Symmetry
    from weightspace.zoo.addressing import Network
    from weightspace.zoo.architecture import Architecture


def symmetry(factory: str, /, *, example: str, integers: int = 0, every: bool = False, as_json: Json = False) -> None:
    """Derive a module's permutation symmetry from its graph, prove it, and print it.

    Parameters
    ----------
    factory
        module:callable that returns an nn.Module; it is imported and called.
    example
        Shape of an input, batch first, such as 2,3,32,32.
    integers
        The input holds whole numbers below this one, as token ids are; 0 for real numbers.
    every
        Name every axis; without it, a few of each group.
    """
    prepare_torch()
    from weightspace.report.symmetry_tables import symmetry_tables
    from weightspace.report.tables import print_table
    from weightspace.symmetry.tracing import trace_symmetry
    from weightspace.zoo.architecture import build_module, example_input

    found = trace_symmetry(build_module(factory), example_input(example, integers))
    if as_json:
        print_json(found.to_json())
        return
    for table in symmetry_tables(found, every=every):
        print_table(table)
    print(f"{factory}: {len(found.groups)} groups move {found.coverage:.1%} of the parameters; outputs stay equal")


def align(
    reference: str,
    model: str,
    /,
    *,
    out: Out,
    architecture: str = "",
    example: str = "",
    integers: int = 0,
    symmetry: Path | None = None,
    data: str = "",
    plot: Path | None = None,
    points: int = 25,
    test_images: int = 2_000,
    restarts: int = 0,
    seed: int = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Permute a network to match a reference; its function stays the same.

    With images it also draws the loss between the two networks before and after.

    Parameters
    ----------
    reference
        A file or folder of weights, or ZOO:MEMBER.
    model
        The network that is permuted, named in the same way.
    architecture
        module:callable that builds them; not needed for members of a zoo that knows.
    example
        Shape of an input for --architecture, batch first, such as 2,3,32,32.
    integers
        Inputs hold whole numbers below this one; 0 for real numbers.
    symmetry
        A symmetry by hand, as `weightspace symmetry --json` prints it; without --architecture it is not proved.
    data
        Images to measure the loss with, as for grow; without them there is no figure.
    plot
        Where the figure goes; next to the aligned network by default.
    points
        So many networks between the two are measured.
    test_images
        On the first so many test images.
    restarts
        So many further starts of the search; the best end is kept.
    seed
        Decides these.
    """
    prepare_torch()
    from weightspace.analysis.aligning import align as align_weights
    from weightspace.analysis.aligning import walk_lines
    from weightspace.images import open_images
    from weightspace.outputs import new_file, require_apart
    from weightspace.report.line_plot import save_lines
    from weightspace.weights.files import write_weights
    from weightspace.zoo.addressing import open_network

    figure = plot or out.with_suffix(".svg")
    require_plot(figure)
    require_apart(out, [Path(name) for name in (reference, model)])
    first, second = open_network(reference), open_network(model)
    known = _architecture(architecture, example, integers, first, second)
    found = _symmetry(known, architecture, symmetry)
    alignment = align_weights(second.weights, first.weights, found, restarts=restarts, seed=seed)
    if data and known is not None:
        module = known.build([architecture] if architecture else [])
        size = known.example_shape[-1] if known.example_shape else None
        images = open_images(data, size=size, limits=(None, test_images))
        lines = walk_lines(module, alignment, second.weights, first.weights, images, points=points)
        alignment = replace(alignment, lines=lines)
    with new_file(out, force=force) as path:
        write_weights(path, alignment.weights)
    if alignment.lines:
        with new_file(figure, force=force) as path:
            save_lines(alignment.lines, path)
    before, after = alignment.distances
    line = f"{alignment.moved:.0%} of {sum(found.groups.values()):,} units moved; distance {before:.4g} -> {after:.4g}"
    barriers = {name: path.barrier for name, path in alignment.lines.items()}
    if barriers:
        line += f"; loss barrier {barriers['as given']:.3g} -> {barriers['aligned']:.3g}, drawn in {figure}"
    else:
        line += "; no loss barrier without --data" + ("" if known is not None else " and --architecture")
    result = {
        "distance": {"as given": before, "aligned": after},
        "moved": alignment.moved,
        "barriers": barriers,
        "lines": {name: path._asdict() for name, path in alignment.lines.items()},
    }
    print_result(out, line, result, as_json)


def describe_given(factory: str, example: str, integers: int = 0) -> "Architecture":
    """The architecture of a module that the user names, with its symmetry if one can be derived."""
    from weightspace.symmetry.proving import SymmetryDisproved
    from weightspace.symmetry.tracing import trace_symmetry
    from weightspace.zoo.architecture import Architecture, build_module, example_input

    if not example:
        raise InputError("expected --example with the shape of an input for --architecture, found none")
    inputs, module = example_input(example, integers), build_module(factory)
    shape = tuple(inputs.shape)
    described = Architecture.of_module(
        module, id=factory.replace(":", "."), factory=factory, arguments={}, example_shape=shape, integers=integers
    )
    try:
        return replace(described, symmetry=trace_symmetry(module, inputs).to_json())
    except (InputError, SymmetryDisproved) as refusal:
        return replace(described, note=f"no symmetry: {refusal}")


def _architecture(
    factory: str, example: str, integers: int, first: "Network", second: "Network"
) -> "Architecture | None":
    """What the two networks are: as the user says, or as a zoo does."""
    if factory:
        return describe_given(factory, example, integers)
    return first.architecture or second.architecture


def _symmetry(known: "Architecture | None", factory: str, given: Path | None) -> "Symmetry":
    """A symmetry by hand, or that of the architecture, derived and proved where it may be built."""
    from weightspace.symmetry.axes import Symmetry

    if given is not None:
        return _read_symmetry(given)
    if known is None:
        raise InputError(
            "expected --architecture my_nets:Net --example SHAPE, --symmetry FILE, or ZOO:MEMBER, found files alone, "
            "which do not say how the network is built"
        )
    if known.symmetry is None:
        from weightspace.symmetry.tracing import trace_symmetry

        return trace_symmetry(known.build([factory] if factory else []), known.example())
    return Symmetry.from_json(known.symmetry)


def _read_symmetry(path: Path) -> "Symmetry":
    from weightspace.symmetry.axes import Symmetry

    try:
        value: Any = json.loads(path.read_text())
        return Symmetry.from_json(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected a symmetry as `weightspace symmetry --json` prints it in {path}, found none ({error})"
        ) from error
