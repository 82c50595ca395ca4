"""Run the command line and turn what went wrong into an exit status."""

import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter, Token
from cyclopts.help import DefaultFormatter, HelpPanel

from weightspace import __version__
from weightspace.autoencoder.presets import SIZES, WRITING
from weightspace.cli import pairs, reading, reports, sane, shared, writing, zoos
from weightspace.errors import InputError
from weightspace.interrupting import ended_by_signals, status_of
from weightspace.outputs import Finished
from weightspace.plain_text import one_sentence
from weightspace.remote import with_revision, without_secrets

# What torch and its allocators say of memory that is not there.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory", "bad_alloc")
LIST_OPTIONS = ("--keep", "--epochs", "--split", "--position-limits")
# In the order of the data's way.
COMMANDS: dict[str, tuple[Any, ...]] = {
    "See it all": (reports.demo, reports.doctor),
    "Make and look": (zoos.grow, zoos.import_, zoos.zoo, zoos.publish),
    "Learn": (sane.pretrain, sane.distill, sane.card),
    "Read": (sane.embed, reading.probe, reading.predict, reading.forecast, reading.layers, reading.similar),
    "Folders and pairs of checkpoints": (zoos.inspect, pairs.diff, pairs.align, pairs.merge, pairs.symmetry),
    "Write": (writing.generate, writing.evaluate, reports.report),
}


EXAMPLES = """\
* `weightspace inspect FOLDER`: what is in this folder of checkpoints?
* `weightspace predict small-cnns FILE`: how good is this network, by its weights alone?

`weightspace COMMAND --help` explains a command. Wherever a path of weights is taken, an address such as `hf://org/name`
is too, at a `--revision` if need be.

`weightspace --install-completion` lets the shell complete them.
"""


class BriefHelp(DefaultFormatter):
    """Help without the panels of configurations, which `--help-all` shows."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Print a panel, or how many options it would have."""
        if panel.title in shared.LONG:
            console.print(f"{panel.title}: {len(panel.entries)} more options, shown by --help-all", highlight=False)
        else:
            super().__call__(console, options, panel)


def make_app(*, full: bool = False) -> App:
    """The command line; with `full` help, every option of every configuration is in it."""
    app = App(
        name="weightspace",
        help="Trained neural networks as a data type: read them, and write new ones.",
        help_epilogue=EXAMPLES,
        version=__version__,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(consume_multiple=True, negative_iterable=""),
        config=fill_size,
        help_formatter=DefaultFormatter() if full else BriefHelp(),
    )
    for number, (title, commands) in enumerate(COMMANDS.items()):
        group = Group(title, sort_key=number)
        for place, command in enumerate(commands):
            app.command(command, name=command.__name__.rstrip("_"), group=group, sort_key=place, help_epilogue="")
    app.register_install_completion_command(add_to_startup=False, help_epilogue="")
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; never returns, the exit status says how it went.

    Processes that are started from here do not put the working folder on their import path either.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    for stream in (sys.stdout, sys.stderr):
        # Where letters cannot be written as they are, their codes are.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    tokens = split_lists(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(tokens)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain again while it closes down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def _run(tokens: Sequence[str]) -> int:
    """The exit status of a command, with a sentence where it is not 0; a bug of ours is raised."""
    full = "--help-all" in tokens
    words = ["--help" if token == "--help-all" else token for token in tokens]
    try:
        words = at_revision(words)
    except InputError as mistake:
        return _say(str(mistake), 2)
    if not _has_working_folder() and "--help" not in words:
        return _say("expected a working folder, found that it was deleted", 2)
    try:
        with ended_by_signals():
            make_app(full=full)(words, exit_on_error=False, print_error=False, result_action="return_value")
    except (InputError, CycloptsError) as mistake:
        return _say(str(mistake), 2)
    except KeyboardInterrupt as stopped:
        sys.stderr.write("\n")
        return _say(str(stopped) or "stopped", status_of(stopped))
    except Finished as finished:
        line = "finished already, nothing to resume"
        shared.print_result(finished.target, line, {"finished": True}, "--json" in words)
    except Exception as failure:
        lack = "" if isinstance(failure, BrokenPipeError) else _lack(failure)
        if not lack:
            raise
        return _say(lack, 2)
    return 0


def _say(sentence: str, status: int) -> int:
    sys.stderr.write(f"weightspace: {one_sentence(without_secrets(' '.join(sentence.split())))}\n")
    return status


def _lack(failure: BaseException) -> str:
    """What this machine lacks, if that is why work failed; everything else is a bug of ours."""
    text = " ".join(str(failure).split())
    if isinstance(failure, MemoryError) or any(sign in text for sign in NO_MEMORY):
        return f"expected enough memory for this, found too little ({one_sentence(text) or 'none was left'})"
    if isinstance(failure, OSError) and failure.errno in (errno.EMFILE, errno.ENFILE):
        return "expected to open more files, found that this process may not: `ulimit -n` says how many it may"
    return ""


def _has_working_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def fill_size(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """`pretrain --size NAME` sets the options that it stands for, but for those that are given; says which they are."""
    if commands != ("pretrain",):
        return
    words = {argument.name: [token.value for token in argument.tokens] for argument in arguments}
    name = next(iter(words.get("--size", [])), "small")
    fields = {**SIZES.get(name, {}), **(WRITING if "--writing" in _given(arguments) else {})}
    written = []
    for argument in arguments:
        field = argument.name.removeprefix("--").replace("-", "_")
        if field in fields and not argument.tokens:
            values = fields[field] if isinstance(fields[field], tuple) else (fields[field],)
            for number, value in enumerate(values):
                text = str(value).lower() if isinstance(value, bool) else str(value)
                index = number if len(values) > 1 else 0
                argument.append(Token(keyword=argument.name, value=text, source=f"--size {name}", index=index))
            written.append(f"{argument.name} {' '.join(map(str, values))}")
    if written:
        sys.stderr.write(f"--size {name} sets {', '.join(written)}\n")


def _given(arguments: ArgumentCollection) -> set[str]:
    return {argument.name for argument in arguments if argument.tokens}


def at_revision(words: Sequence[str]) -> list[str]:
    """`--revision NAME`, of whatever command, is that of all addresses of the hub that name none themselves.

    Raises:
        InputError: no revision, or no such address.
    """
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--revision=") else [word])]
    if "--revision" not in words:
        return words
    place = words.index("--revision")
    revision = "".join(words[place + 1 : place + 2])
    rest = [*words[:place], *words[place + 2 :]]
    named = [with_revision(word, revision) for word in rest]
    if not revision or revision.startswith("-"):
        raise InputError("expected a branch, tag or commit after --revision, found none")
    if named == rest:
        raise InputError(f"expected an address of the hub without a revision beside --revision {revision}, found none")
    return named


def split_lists(tokens: Sequence[str]) -> list[str]:
    """`--keep 0,1,2` is `--keep 0 1 2`, for the options that take several numbers."""
    split: list[str] = []
    for token in tokens:
        name, equals, value = token.partition("=")
        if name in LIST_OPTIONS and equals:
            split += [name, *value.split(",")]
        elif split and split[-1] in LIST_OPTIONS and re.fullmatch(r"[\d.]+(,[\d.]+)+", token):
            split += token.split(",")
        else:
            split.append(token)
    return split


app = make_app()
