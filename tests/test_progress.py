"""Progress where there is no terminal: a line now and then."""

import pytest

from weightspace import progress
from weightspace.progress import progress_bar


def test_long_work_says_how_far_it_is_and_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress_bar("training", 100, done=20) as advance:
        for _ in range(80):
            clock[0] += 5.0
            advance(note="loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 22 of 100, about 6 min left (loss 0.5)"
    assert lines[1] == "training: 34 of 100, about 6 min left (loss 0.5)"
    assert len(lines) == 7


def test_short_work_and_work_that_is_not_shown_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with progress_bar("training", 3, shown=shown) as advance:
            advance()
    assert capsys.readouterr().err == ""
