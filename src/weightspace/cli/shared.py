"""Options and endings that all commands share."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from weightspace.errors import InputError
from weightspace.plain_text import one_sentence
from weightspace.remote import without_secrets

if TYPE_CHECKING:
    from weightspace.outputs import Existing
    from weightspace.zoo.architecture import Architecture

# Panels of options; those of whole configurations are long, and `--help` leaves them to `--help-all`.
LONG = ("Model", "Training", "Preparation", "Distilling", "Growing", "Sampling", "Selecting", "Schedule")


def options(title: str) -> Parameter:
    """A configuration's fields as options, in a panel of their own."""
    return Parameter(name="*", group=Group(title, sort_key=1))


def _find_model(kind: Any, tokens: Any) -> Path:
    """A folder, or the name of a model that comes with the package."""
    from weightspace.autoencoder.sane import model_folder

    return model_folder(tokens[0].value)


Model = Annotated[Path, Parameter(converter=_find_model)]
Shares = tuple[float, float, float]
SHARES: Shares = (0.7, 0.15, 0.15)
OUTPUT, SPLIT = Group("Output", sort_key=3), Group("Split", sort_key=2)
Out = Annotated[Path, Parameter(help="Where the result goes; must not exist yet.", group=OUTPUT)]
Force = Annotated[bool, Parameter(negative="", help="Replace what --out names if it exists.", group=OUTPUT)]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.", group=OUTPUT)]
Resume = Annotated[bool, Parameter(negative="", help="Continue the interrupted work for --out.", group=OUTPUT)]
Ray = Annotated[
    str | None,
    Parameter(
        help="Run on a Ray cluster: its address, or 'local' for one on this machine (needs the extra weightspace[ray])."
    ),
]
Device = Annotated[
    str,
    Parameter(
        help="cpu, an accelerator as torch names it (cuda, cuda:1, mps), or auto: the accelerator, if there is one and "
        "the work is worth it."
    ),
]
Split = Annotated[Shares, Parameter(help="Shares of members for training, validation and test.", group=SPLIT)]
Fold = Annotated[
    int,
    Parameter(help="Other members for each part: those of fold 0, moved on by so many test parts.", group=SPLIT),
]
# Once for each input; a shape has commas, so that one option takes one word.
Examples = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)]
Integers = Annotated[tuple[int, ...], Parameter(negative="", consume_multiple=False)]
PLOTS = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True)
class GivenModule:
    """A module of the user's own that networks are of."""

    architecture: str = ""
    """module:callable or folder/file.py:callable that returns an nn.Module; it is imported and called, from the working
    folder if need be. Arguments follow a question mark: my_nets:Net?width=8."""

    example: Examples = ()
    """Shape of an input of that module, batch first, such as 2,3,32,32; once for each input. Or a module:callable that
    returns them."""

    integers: Integers = ()
    """Inputs are whole numbers below this one, as token ids are; 0 for real numbers. Once, or once for each input."""

    key: str = ""
    """Of files that hold several networks read the one under this key, or prefix of names, such as netG."""

    def addresses(self, names: Sequence[str]) -> list[str]:
        """Names of networks, those of files and folders of files with the key."""
        from weightspace.zoo.addressing import is_file

        return [f"{name}:{self.key}" if self.key and is_file(name) else name for name in names]

    def describe(self) -> "list[Architecture]":
        """The architecture with its symmetry; none, if no module is named."""
        from weightspace.corpus.frame import describe_module

        return [describe_module(self.architecture, self.example, self.integers)] if self.architecture else []


Given = Annotated[GivenModule, options("Module")]


def prepare_torch() -> None:
    """One thread, as small operations on two wait for each other whenever the machine has other work.

    `WEIGHTSPACE_THREADS` asks for more.
    """
    if "torch" not in sys.modules:
        _import_torch()
    import torch

    threads = os.environ.get("WEIGHTSPACE_THREADS", "1")
    if not threads.isdecimal() or int(threads) < 1:
        raise InputError(f"expected a number of threads from 1 in WEIGHTSPACE_THREADS, found '{threads}'")
    torch.set_num_threads(int(threads))


def _import_torch() -> None:
    """Import torch without looking for garbage among what it makes, now and at exit: a quarter of its time."""
    gc.disable()
    import torch  # noqa: F401

    gc.freeze()
    gc.enable()


def existing(force: bool, resume: bool = False) -> "Existing":
    """The library's `existing` for the two options about earlier work.

    Raises:
        InputError: both.
    """
    if force and resume:
        raise InputError("expected --resume or --force, found both")
    return "resume" if resume else "replace" if force else "refuse"


def require_plot(plot: Path) -> None:
    """Refuse a picture in a format that we do not draw."""
    if plot.suffix not in PLOTS:
        raise InputError(f"expected a plot as {', '.join(PLOTS)}, found '{plot}'")


@contextlib.contextmanager
def plots(*targets: Path | None, force: bool) -> Iterator[list[Path | None]]:
    """Files to draw into, where they are asked for; settled before any work."""
    from weightspace.outputs import new_files

    wanted = [target for target in targets if target is not None]
    for target in wanted:
        require_plot(target)
    with new_files(*wanted, existing=existing(force)) as paths:
        places = iter(paths)
        yield [None if target is None else next(places) for target in targets]


def print_result(out: Path, line: str, result: dict[str, Any], as_json: bool, more: Sequence[str] = ()) -> None:
    """The path that was written and one line of result, with more below it, or both as JSON."""
    if as_json:
        print_json({"out": str(out), **result})
    else:
        say(f"{out}: {line}", *more)


def print_json(value: Any) -> None:
    """Strict JSON on one line."""
    from weightspace.outputs import to_json

    print(without_secrets(to_json(value)))


def say(*lines: str) -> None:
    """Print lines as they are: what is in names does nothing to a terminal."""
    for line in lines:
        print(one_sentence(without_secrets(line)))
