"""Ctrl-C in the middle of long work: finish the step, save, then stop; or stop at once, without fail."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets the current step finish; a second one stops at once."""
    with _handled(lambda pressed_before: pressed_before) as pressed:
        yield pressed


@contextlib.contextmanager
def noted_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C stops at once; where a library's callback swallows that, what is yielded still tells of it."""
    with _handled(lambda pressed_before: True) as pressed:
        yield pressed


@contextlib.contextmanager
def _handled(stops: Callable[[bool], bool]) -> Iterator[Callable[[], bool]]:
    """Note every Ctrl-C, and raise `KeyboardInterrupt` where `stops(pressed before)` says so."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        again = pressed.is_set()
        pressed.set()
        if stops(again):
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
