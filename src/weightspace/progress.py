"""How far long work has come, on standard error: a bar on a terminal, elsewhere a line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from weightspace.plain_text import one_sentence

Advance = Callable[..., None]
# Where there is no terminal: the first line after so many seconds, and no more than one in so many.
FIRST_LINE, BETWEEN_LINES = 10.0, 60.0


@contextlib.contextmanager
def progress_bar(description: str, total: int, *, done: int = 0, shown: bool = True) -> Iterator[Advance]:
    """Call `advance(note="...")` after each of the `total` steps; `done` of them are from earlier."""
    if not (shown and sys.stderr.isatty()):
        yield _Lines(description, total, done).advance if shown else lambda steps=1, note="": None
        return
    # Only here: where nobody looks, nothing is loaded for it.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            progress.update(task, advance=steps, note=note)

        yield advance


def say(line: str) -> None:
    """A line on standard error for who waits; a bar stays below it."""
    sys.stderr.write(f"{one_sentence(line)}\n")


class _Lines:
    """`pre-training: 40 of 500, about 3 min left`, for work that takes long enough."""

    def __init__(self, description: str, total: int, done: int) -> None:
        self._description, self._total, self._begun_at, self._done = description, total, done, done
        self._start = time.monotonic()
        self._next = self._start + FIRST_LINE

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if now < self._next or self._done >= self._total:
            return
        self._next = now + BETWEEN_LINES
        left = (now - self._start) / max(1, self._done - self._begun_at) * (self._total - self._done)
        text = f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"
        remark = f" ({note})" if note else ""
        sys.stderr.write(f"{self._description}: {self._done:,} of {self._total:,}, {text}{remark}\n")
