"""Commands about symmetry: what may be permuted, and one network aligned to another."""

from pathlib import Path
from typing import Annotated

from weightspace.analysis.config import AlignConfig
from weightspace.cli.shared import (
    Examples,
    Force,
    Given,
    GivenModule,
    Integers,
    Json,
    Out,
    existing,
    options,
    prepare_torch,
    print_json,
    print_result,
    require_plot,
    say,
)


def symmetry(
    factory: str, /, *, example: Examples, integers: Integers = (), every: bool = False, as_json: Json = False
) -> None:
    """Derive a module's permutation symmetry from its graph, prove it, and print it.

    Parameters
    ----------
    factory
        module:callable that returns an nn.Module, or folder/file.py:callable; it is imported and called, from the
        working folder if need be. Arguments follow a question mark: my_nets:Net?width=8&deep=true.
    example
        Shape of an input, batch first, such as 2,3,32,32; once for each input. Or a module:callable that returns them.
    integers
        Inputs hold whole numbers below this one, as token ids are; 0 for real numbers. Once, or once for each input.
    every
        Name every axis; without it, a few of each group.
    """
    prepare_torch()
    from weightspace.corpus.frame import build_named
    from weightspace.report.tables import print_table, symmetry_tables
    from weightspace.symmetry.tracing import trace_symmetry

    module, inputs, _ = build_named(factory, example, integers)
    traced = trace_symmetry(module, *inputs.positional, **inputs.named)
    if as_json:
        print_json(traced.to_json())
        return
    for table in symmetry_tables(traced, every=every):
        print_table(table)
    say(f"{factory}: {len(traced.groups)} groups move {traced.coverage:.1%} of the parameters; outputs stay equal")


def align(
    reference: str,
    model: str,
    /,
    *,
    out: Out,
    config: Annotated[AlignConfig, options("Comparing")] = AlignConfig(),
    module: Given = GivenModule(),
    symmetry: Path | None = None,
    plot: Path | None = None,
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
    symmetry
        A symmetry by hand, as `weightspace symmetry --json` prints it; without --architecture it is not proved.
    plot
        Where the figure goes; next to the aligned network by default.
    """
    prepare_torch()
    from weightspace.analysis.aligning import align_networks
    from weightspace.outputs import new_files, require_apart
    from weightspace.report.plots import save_lines
    from weightspace.weights.files import write_weights

    figure = plot or out.with_suffix(".svg")
    require_plot(figure)
    require_apart(out, [Path(name) for name in (reference, model)])
    reference, model = module.addresses([reference, model])
    given = next(iter(module.describe()), None)
    with new_files(out, *([figure] if config.data else []), existing=existing(force)) as paths:
        alignment = align_networks(reference, model, config, given=given, symmetry=symmetry)
        write_weights(paths[0], alignment.weights)
        if alignment.lines:
            save_lines(alignment.lines, paths[1])
    hint = "; no loss barrier without --data" + ("" if alignment.buildable else " and --architecture")
    drawn = f"; {alignment.describe_barriers()}, drawn in {figure}" if alignment.lines else hint
    print_result(out, alignment.describe() + drawn, alignment.to_json(), as_json)
