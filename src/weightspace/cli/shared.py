"""Options and endings that all commands share."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weightspace.errors import InputError, require_between

if TYPE_CHECKING:
    from weightspace.report.model_card import CardZoo
    from weightspace.zoo.zoo import Zoo

Flat = Parameter(name="*")
Shares = tuple[float, float, float]
THIRDS: Shares = (0.7, 0.15, 0.15)
Out = Annotated[Path, Parameter(help="Where the result goes; must not exist yet.")]
Force = Annotated[bool, Parameter(negative="", help="Replace what --out names if it exists.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
Resume = Annotated[bool, Parameter(negative="", help="Continue the interrupted work for --out.")]
Ray = Annotated[
    str | None,
    Parameter(
        help="Run on a Ray cluster: its address, or 'local' for one on this machine (needs the extra weightspace[ray])."
    ),
]
PLOTS = (".png", ".svg", ".pdf")
Split = Annotated[Shares, Parameter(help="Shares of members for training, validation and test.")]
Fold = Annotated[int, Parameter(help="Other members for each part: those of fold 0, moved on by so many test parts.")]


def prepare_torch() -> None:
    """One thread, as small operations on two wait for each other whenever the machine has other work.

    `WEIGHTSPACE_THREADS` asks for more. The working folder joins the import path, so that `module:function`
    finds the user's own file.
    """
    import torch

    sys.path.insert(0, str(Path.cwd()))
    threads = os.environ.get("WEIGHTSPACE_THREADS", "1")
    if not threads.isdecimal() or int(threads) < 1:
        raise InputError(f"expected a number of threads from 1 in WEIGHTSPACE_THREADS, found '{threads}'")
    torch.set_num_threads(int(threads))


def chosen_mode(resume: bool, force: bool) -> list[str]:
    """The library's `mode` for the two options about earlier work."""
    return [name for name, on in (("resume", resume), ("force", force)) if on]


def open_split(folder: Path, shares: Shares, seed: int, fold: int = 0) -> "tuple[Zoo, ...]":
    """A zoo's training, validation and test members."""
    from weightspace.zoo.zoo import Zoo

    require_between("fold", fold, 0)
    return Zoo.open(folder).split(*shares, seed=seed, fold=fold)


def open_card_zoos(
    folders: Sequence[Path], shares: Shares, seed: int, data: str | None, fold: int = 0
) -> "list[CardZoo]":
    """Zoos in three parts each, with the images to score their networks on: those given, or those that they name."""
    from weightspace.images import open_images
    from weightspace.report.model_card import CardZoo
    from weightspace.zoo.recorded_images import recorded_images
    from weightspace.zoo.zoo import require_finite_zoo

    if not folders:
        raise InputError("expected a zoo to train on, found none")
    given = open_images(data) if data is not None else None
    zoos = []
    for folder in folders:
        parts = open_split(folder, shares, seed, fold)
        for part in parts[1:]:
            require_finite_zoo(part)
        images = given or recorded_images(parts[0])
        zoos.append(CardZoo(folder.absolute().name, parts, images.test if images is not None else None))
    return zoos


def require_plot(plot: Path) -> None:
    """Refuse a picture in a format that we do not draw."""
    if plot.suffix not in PLOTS:
        raise InputError(f"expected a plot as {', '.join(PLOTS)}, found '{plot}'")


def print_result(out: Path, line: str, result: dict[str, Any], as_json: bool) -> None:
    """The path that was written and one line of result, or both as JSON."""
    if as_json:
        print_json({"out": str(out), **result})
    else:
        print(f"{out}: {line}")


def print_json(value: Any) -> None:
    """Strict JSON on one line."""
    from weightspace.outputs import to_json

    print(to_json(value))
