"""Run the command line and turn what went wrong into an exit status."""

import os
import re
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from weightspace import __version__
from weightspace.autoencoder.presets import PRESETS, preset_options
from weightspace.cli import reading, reports, sane, symmetries, writing, zoos
from weightspace.errors import InputError

LIST_OPTIONS = ("--keep", "--epochs", "--split", "--position-limits")

app = App(
    name="weightspace",
    help="Trained neural networks as a data type: read them, and write new ones.",
    version=__version__,
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=""),
)
for command in (
    *(reports.demo, zoos.grow, zoos.zoo, zoos.inspect, zoos.publish, symmetries.symmetry, symmetries.align),
    *(sane.pretrain, sane.card, sane.embed, reading.probe, reading.predict, reading.layers),
    *(reading.similar, writing.tune, writing.generate, writing.evaluate, reports.report),
):
    app.command(command)
app.command(zoos.import_, name="import")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; never returns, the exit status says how it went."""
    tokens = split_lists(written_out(sys.argv[1:] if arguments is None else arguments))
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (InputError, CycloptsError) as mistake:
        sys.stderr.write(f"weightspace: {' '.join(str(mistake).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"\nweightspace: {str(stopped) or 'stopped'}\n")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain again while it closes down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def written_out(tokens: Sequence[str]) -> list[str]:
    """`--preset NAME` as the options that it stands for, but for those that are given."""
    names = [token.partition("=")[0].replace("_", "-") for token in tokens]
    if "pretrain" not in tokens[:1] or "--preset" not in names:
        return list(tokens)
    place = names.index("--preset")
    _, equals, value = tokens[place].partition("=")
    name = value if equals else next(iter(tokens[place + 1 : place + 2]), "")
    options = preset_options(name) if name in PRESETS else {}
    missing = (words for option, words in options.items() if not {option, f"--no-{option[2:]}"} & set(names))
    return [*tokens, *(word for words in missing for word in words)]


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
