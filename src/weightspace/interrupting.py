"""Ctrl-C, and what ends a process, in the middle of long work: finish the step, save, then stop; or stop at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# What is asked for in the middle of an import is asked for again so much later.
AGAIN_SECONDS = 0.05
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(KeyboardInterrupt):
    """The process was told to end (SIGTERM): what holds work cleans up and keeps what it keeps for Ctrl-C."""


def status_of(stopped: BaseException) -> int:
    """The exit status of a process that ends for it, as shells tell it."""
    cause: BaseException | None = stopped
    while cause is not None and not isinstance(cause, Terminated):
        cause = cause.__cause__ or cause.__context__
    return 128 + (signal.SIGINT if cause is None else signal.SIGTERM)


class Pressed:
    """Whether the user, or the system, asked for an end; `reason()` is what to raise for it."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        """Whether there was a signal."""
        return self.number is not None

    def reason(self) -> KeyboardInterrupt:
        """What the signal means where nobody waits with it."""
        return KeyboardInterrupt() if self.number in (None, signal.SIGINT) else Terminated("terminated")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does; so does the end of the terminal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        if not _put_off(number, frame):
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated("terminated")

    usual = (signal.SIG_DFL, signal.default_int_handler)
    with _replaced(end, [kind for kind in (signal.SIGINT, *ENDS) if signal.getsignal(kind) in usual]):
        yield


def _put_off(number: int, frame: Any) -> bool:
    """Whether a signal came in the middle of an import, and will come again: libraries that are half set up take what
    is raised there for something else, and some end the process.
    """
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None:
        return False
    later = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
    later.daemon = True
    later.start()
    return True


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Pressed]:
    """Ctrl-C lets the current step finish; a second one stops at once."""
    with _handled(lambda pressed_before: pressed_before) as pressed:
        yield pressed


@contextlib.contextmanager
def noted_interrupt() -> Iterator[Pressed]:
    """Ctrl-C stops at once; where a library's callback swallows that, what is yielded still tells of it."""
    with _handled(lambda pressed_before: True) as pressed:
        yield pressed


@contextlib.contextmanager
def _handled(stops: Callable[[bool], bool]) -> Iterator[Pressed]:
    """Note every signal that asks for an end, and raise for it where `stops(pressed before)` says so."""
    pressed = Pressed()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def note(number: int, frame: Any) -> None:
        if _put_off(number, frame):
            return
        again = pressed()
        pressed.number = number
        if stops(again):
            raise pressed.reason()

    # Without a handler of ours nobody asked for another end than the system's.
    with _replaced(note, [signal.SIGINT, *(kind for kind in ENDS if callable(signal.getsignal(kind)))]):
        yield pressed


@contextlib.contextmanager
def _replaced(handler: Callable[[int, Any], None], kinds: Sequence[int]) -> Iterator[None]:
    before = {kind: signal.signal(kind, handler) for kind in kinds}
    try:
        yield
    finally:
        for kind, own in before.items():
            signal.signal(kind, own)
