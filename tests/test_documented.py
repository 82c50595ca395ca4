"""Code in the documentation runs."""

import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tools import Own
from weightspace.analysis.representations.catalog import REPRESENTATIONS, represent
from weightspace.autoencoder.sane import SANE
from weightspace.evaluation.controls import CONTROLS
from weightspace.generation.config import SamplerConfig
from weightspace.generation.generating import generate
from weightspace.generation.sampling import SAMPLERS
from weightspace.images import ImageSet
from weightspace.symmetry.rules.table import RULES
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.zoo.importing.identifying import READERS
from weightspace.zoo.importing.importing import import_zoo
from weightspace.zoo.zoo import Zoo

PAGES = Path(__file__).parent.parent / "docs" / "pages"
PAGE = PAGES / "guides" / "start-a-training.md"


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


EXTENDING = PAGE.with_name("extending.md")


@pytest.fixture
def extended() -> Iterator[dict[str, Any]]:
    """What the page of extending defines; its rows of tables are taken out again."""
    tables: list[dict[str, Any]] = [RULES, SAMPLERS, REPRESENTATIONS, CONTROLS]
    before, readers = [dict(table) for table in tables], list(READERS)
    parts = EXTENDING.read_text().split("```python\n")[1:]
    source = "\n".join(part.split("```")[0] for part in parts)
    module = types.ModuleType("extending")
    sys.modules["extending"] = module  # dataclasses look their module up
    scope = module.__dict__
    exec(source, scope)
    yield scope
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)
    READERS[:] = readers
    del sys.modules["extending"]


class Running(torch.nn.Module):
    """Hidden units, summed over windows of the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(3, 6), torch.nn.Linear(6, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(inputs)).unfold(1, 2, 1).sum(-1))


def test_a_rule_added_moves_what_stood_still(request: pytest.FixtureRequest) -> None:
    example = torch.randn(2, 5, 3)
    assert not trace_symmetry(Running(), example).groups
    request.getfixturevalue("extended")
    symmetry = trace_symmetry(Running(), example)  # and it is proved
    assert list(symmetry.groups.values()) == [6]


def test_a_sampler_added_generates(extended: dict[str, Any], sane_folder: Path, parts: tuple[Zoo, ...]) -> None:
    sane, anchors = SANE.open(sane_folder), parts[0].last()
    anchors = anchors.where(architecture=anchors.table["architecture"].iloc[0])
    (network,) = generate(sane, anchors, 1, sampling=extended["Jitter"](0.2), seed=3)
    assert all(torch.isfinite(tensor.float()).all() for tensor in network.values())
    assert isinstance(SAMPLERS["jitter"](SamplerConfig(bandwidth=0.2)), extended["Jitter"])


def test_a_reader_added_imports(extended: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for night in (1, 2):
        torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "runs" / f"nightly-{night:03d}.pt")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert zoo.table["epoch"].tolist() == [1, 2] and set(zoo.table["member"]) == {"run"}


def test_a_representation_added_is_probed(extended: dict[str, Any], parts: tuple[Zoo, ...]) -> None:
    embeddings = represent(parts, "norms")
    first = parts[0].weights(0)
    expected = [float(tensor.float().norm()) for tensor in first.values()]
    assert embeddings[0].features[0] == pytest.approx(expected, rel=1e-5)


def test_a_control_added_stands_among_the_others(extended: dict[str, Any]) -> None:
    contest = types.SimpleNamespace(anchors=[{"weight": torch.ones(2), "count": torch.tensor(4)}])
    (network,) = CONTROLS["halved"].make(contest)  # type: ignore[arg-type]
    assert network["weight"].tolist() == [0.5, 0.5] and network["count"] == 2 and network["count"].dtype == torch.int64


def test_the_page_of_json_says_what_commands_print() -> None:
    update = runpy.run_path(str(PAGES.parent / "update_json.py"))
    for name in ("page", "schema"):
        assert update[name.upper()].read_text() == update[name](), "run: python docs/update_json.py"


def test_the_page_of_commands_is_their_help() -> None:
    update = runpy.run_path(str(PAGES.parent / "update_commands.py"))
    assert update["PAGE"].read_text() == update["page"](), "run: python docs/update_commands.py"


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    check = runpy.run_path(str(PAGES.parent / "check_site.py"))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "index.html").write_text("<p id='a'><a href='../'>up</a></p>")
    links = ("there/", "there/#a", "gone/", "there/#b", "https://example.org/")
    (tmp_path / "index.html").write_text("".join(f"<a href='{link}'>x</a>" for link in links))
    assert check["dead_links"](tmp_path) == ["/index.html: gone/", "/index.html: no b in there/#b"]
    assert check["COMPLAINT"].findall('CONSOLE:1] "it broke", source: http://a (1)') == ["it broke"]
