"""Code in the documentation runs."""

import sys
import types
from pathlib import Path

import pytest
import torch

from test_writing import Own
from weightspace.images import ImageSet

PAGE = Path(__file__).parent.parent / "docs" / "pages" / "writing.md"


def test_the_drop_in_snippet_of_the_docs_runs(
    sane_folder: Path,
    digits: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = PAGE.read_text()
    snippet = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    Path("sane").symlink_to(sane_folder)
    for name in ("a.pt", "b.pt", "c.pt"):
        torch.save(Own().state_dict(), name)
    nets = types.ModuleType("my_nets")
    nets.SmallCNN = Own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_nets", nets)
    scope = {"train_inputs": digits.train.inputs[:64]}
    exec(snippet, scope)
    assert "numbers generated" in capsys.readouterr().out
    model = scope["model"]
    assert isinstance(model, Own) and torch.isfinite(model(digits.test.inputs[:4])).all()
