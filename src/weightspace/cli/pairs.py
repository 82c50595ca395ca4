"""Commands about pairs of networks, and what may be permuted in them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weightspace.analysis.config import AlignConfig, DiffConfig
from weightspace.cli.shared import (
    OUTPUT,
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
from weightspace.errors import InputError, require_between
from weightspace.generation.config import MergeConfig
from weightspace.responses.config import AskConfig

if TYPE_CHECKING:
    from weightspace.analysis.pairs.diffing import Diff
    from weightspace.generation.adding import Sorted
    from weightspace.generation.joining import Joining
    from weightspace.report.tables import Table


def diff(
    first: str,
    second: str,
    /,
    *,
    config: Annotated[DiffConfig, options("Comparing")] = DiffConfig(),
    ask: Annotated[AskConfig, options("Asking")] = AskConfig(),
    module: Given = GivenModule(),
    expect: str = "",
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    rows: int = 40,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what two checkpoints are to each other: equal, one made from the other, or strangers; and what changed.

    Parameters
    ----------
    first
        A file or folder of weights, FILE:KEY, or ZOO:MEMBER.
    second
        Another one, or an adapter of the first, such as LoRA's: what it changes, and by how much. Of two adapters:
        where their changes meet.
    expect
        End with exit status 1 unless the verdict is this relation (equal, derived, independent, unknown) or kind.
    out
        Write all of it into this .html page too; must not exist yet.
    rows
        So many tensors are listed, those that changed first.
    """
    prepare_torch()
    from weightspace.analysis.pairs.diffing import diff_networks, require_verdict
    from weightspace.generation.adding import sort_networks
    from weightspace.outputs import new_files
    from weightspace.report.pairs import diff_lines, diff_tables

    require_verdict(expect)
    require_between("rows", rows, 1)
    if (networks := sort_networks([first, second])).adapters:
        _weigh(networks, refused=bool(expect or out), as_json=as_json)
        return
    with new_files(*([out] if out is not None else []), existing=existing(force)) as pages:
        first, second = module.addresses([first, second])
        seen = diff_networks(first, second, config, ask=ask, given=module.describe())
        for page in pages:
            _write_page(page, seen)
    _show([] if as_json else diff_tables(seen, rows))
    print_json(seen.to_json()) if as_json else say(*diff_lines(seen))
    if expect and not seen.is_expected(expect):
        sys.exit(1)


def _write_page(page: Path, seen: "Diff") -> None:
    from weightspace.report.page import render_diff  # figures take two seconds to import, and few ask for a page

    page.write_text(render_diff(seen), encoding="utf-8")


def _weigh(networks: "Sorted", *, refused: bool, as_json: bool) -> None:
    """What an adapter changes in its base, or where two adapters meet."""
    from weightspace.generation.adding import open_named, weigh_adapters
    from weightspace.generation.joining import overlap
    from weightspace.report.pairs import added_table, overlap_table

    if refused:
        raise InputError("expected no --expect and no --out for an adapter, which is no network of its own")
    if networks.bases:
        added = weigh_adapters(networks.bases[0], networks.adapters)
        table, value, lines = added_table(added), added.to_json(), [*added.notes, added.describe()]
    else:
        met = overlap(*map(open_named, networks.adapters))
        table, value, lines = overlap_table(met), met.to_json(), [met.describe()]
    _show([] if as_json else [table])
    print_json(value) if as_json else say(*lines)


def align(
    reference: str,
    model: str,
    /,
    *,
    out: Out,
    config: Annotated[AlignConfig, options("Comparing")] = AlignConfig(),
    ask: Annotated[AskConfig, options("Asking")] = AskConfig(),
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
    from weightspace.analysis.pairs.aligning import align_networks
    from weightspace.outputs import new_files
    from weightspace.report.plots import save_lines
    from weightspace.weights.files import write_weights
    from weightspace.zoo.addressing import require_network_output

    figure = plot or out.with_suffix(".svg")
    require_plot(figure)
    require_network_output(out, (reference, model))
    reference, model = module.addresses([reference, model])
    given = next(iter(module.describe()), None)
    with new_files(out, *([figure] if config.data else []), existing=existing(force)) as paths:
        alignment = align_networks(reference, model, config, ask=ask, given=given, symmetry=symmetry)
        write_weights(paths[0], alignment.weights)
        if alignment.lines:
            save_lines(alignment.lines, paths[1])
    hint = "; no loss barrier without --data" + ("" if alignment.buildable else " and --architecture")
    drawn = f"; {alignment.describe_barriers()}, drawn in {figure}" if alignment.lines else hint
    print_result(out, alignment.describe() + drawn, alignment.to_json(), as_json)


def merge(
    *networks: str,
    out: Out,
    config: Annotated[MergeConfig, options("Merging")] = MergeConfig(),
    ask: Annotated[AskConfig, options("Asking")] = AskConfig(),
    module: Given = GivenModule(),
    symmetry: Path | None = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Average networks, if that is worth it; or add adapters, such as LoRA's, to their base, or to one another.

    Says how good the average is, and writes it if it is as good as its best part: ends with exit status 1, and writes
    nothing, if it is not. What adapters change is written whatever it is worth.

    Parameters
    ----------
    networks
        Files or folders of weights, FILE:KEY, or ZOO:MEMBER, two or more of one architecture; or a base and adapters of
        it (PEFT's folders, files of lora_A and lora_B); or adapters alone: their sum, one adapter in a folder.
    symmetry
        A symmetry by hand, as `weightspace symmetry --json` prints it; without --architecture it is not proved.
    """
    prepare_torch()
    from weightspace.generation.merging import merge_networks
    from weightspace.outputs import new_files
    from weightspace.report.pairs import merge_tables
    from weightspace.weights.files import write_weights

    if _add(networks, out, config.adapters, force=force, as_json=as_json):
        return
    with new_files(out, existing=existing(force)) as paths:
        given = next(iter(module.describe()), None)
        merged = merge_networks(module.addresses(networks), config, ask=ask, given=given, symmetry=symmetry)
        if kept := config.anyway or not merged.worse:
            write_weights(paths[0], merged.weights)
    _show([] if as_json else merge_tables(merged))
    said = merged.describe() + ("" if kept else "; nothing was written: --anyway writes it")
    print_result(out, said, {"written": kept, **merged.to_json()}, as_json, merged.notes)
    sys.exit(0 if kept else 1)


def _show(tables: "Sequence[Table]") -> None:
    from weightspace.report.tables import print_table

    for number, table in enumerate(tables):
        if number:
            print()
        print_table(table)


def _add(names: Sequence[str], out: Path, how: "Joining", *, force: bool, as_json: bool) -> bool:
    """Add adapters, if there are any, to their base or to one another; returns whether there are."""
    from weightspace.generation.adding import add_adapters, open_named, require_streamed, sort_networks
    from weightspace.generation.joining import join_adapters
    from weightspace.outputs import new_files
    from weightspace.report.pairs import added_table, overlap_table
    from weightspace.zoo.addressing import require_network_output

    require_network_output(out, names)
    networks = sort_networks(names)
    if networks.bases and networks.adapters:
        require_streamed(out)
        with new_files(out, existing=existing(force)) as paths:
            added = add_adapters(networks.bases[0], networks.adapters, paths[0])
        _show([] if as_json else [added_table(added)])
        print_result(out, added.describe(), added.to_json(), as_json, added.notes)
    elif networks.adapters:
        joined = join_adapters([open_named(name) for name in networks.adapters], how, out, existing=existing(force))
        _show([] if as_json else [overlap_table(met) for met in joined.overlaps])
        print_result(out, joined.describe(), joined.to_json(), as_json)
    return bool(networks.adapters)


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
