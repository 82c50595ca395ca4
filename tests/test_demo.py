"""The demo at a small size, its results and its page; the full demo as a slow test."""

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import markupsafe
import pytest

from weightspace.analysis.probing.comparing import CHOSEN, ProbeRow
from weightspace.demo.config import DemoConfig
from weightspace.demo.findings import describe_findings, tell_story
from weightspace.demo.story import run_demo
from weightspace.errors import InputError
from weightspace.evaluation.comparing import GENERATED, WritingRow
from weightspace.evaluation.controls import CONTROLS
from weightspace.report.figures import FIGURES, look_of
from weightspace.report.page import render_report
from weightspace.zoo.zoo import Zoo

SMALL = DemoConfig(members=40, epochs=2, keep=(0, 1, 2), steps=10, anchors=4, networks=5)
READING = {"representation", "target", "subset", "r2", "r2_low", "r2_high", "tau"}
WRITING = {"method", "epochs", "accuracy", "accuracy_low", "accuracy_high", "novelty", "functional_novelty"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    run_demo(folder, SMALL)
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def test_the_results_have_the_promised_rows(demo: Path) -> None:
    results = results_of(demo)
    assert results["seconds"] > 0
    assert all(set(row) >= READING for row in results["reading"])
    assert all(WRITING | {"latents_per_weight"} <= set(row) for row in results["writing"])
    assert {row["subset"] for row in results["reading"]} == {"pooled", "last_epoch"}
    assert {row["target"] for row in results["reading"]} >= {"test_accuracy", "activation", "learning_rate"}
    assert {row["epochs"] for row in results["writing"]} == {0, 1, 5}


def test_everything_the_demo_made_can_be_used(demo: Path) -> None:
    assert len(Zoo.open(demo / "zoo").members) == 40 and len(Zoo.open(demo / "generated")) == 5
    assert Zoo.open(demo / "generated").about["generated"]["anchors"]["zoo"] == "../zoo"


class Page(html.parser.HTMLParser):
    """Collects addresses and checks that tags are balanced."""

    void = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.append(value)


def test_the_page_is_one_whole_file_without_outside_resources(demo: Path) -> None:
    text = (demo / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and len(text) < 5_000_000
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids)), "identifiers of one figure must not meet those of another"
    assert text.count("<figcaption>") == text.count("<svg") == len(FIGURES)
    assert "prefers-color-scheme: dark" in text and "#010203" not in text and "viewport" in text


def test_the_page_is_rendered_from_the_results(demo: Path, tmp_path: Path) -> None:
    text = (demo / "report.html").read_text()
    assert render_report(demo) == text
    results = results_of(demo)
    shown = results["writing"][0]["accuracy"]
    assert f"{shown:.3f}" in text
    missing = [own for own in results["findings"] if str(markupsafe.escape(own)).split(":")[0] not in text]
    assert not missing
    for name in ("results.json", "figures.json"):
        (tmp_path / name).write_text((demo / name).read_text())
    changed = json.loads((tmp_path / "results.json").read_text())
    changed["title"] = "A <title> of its own"
    (tmp_path / "results.json").write_text(json.dumps(changed))
    assert "A &lt;title&gt; of its own" in render_report(tmp_path)


def test_the_page_tells_three_findings_first_and_folds_the_rest(demo: Path) -> None:
    text = (demo / "report.html").read_text()
    first = text.index("<details>")
    told = results_of(demo)["story"]
    assert [part["figure"] for part in told] == ["bars", "fine_tuning", "novelty"]
    assert all(str(markupsafe.escape(part["sentence"])) in text[:first] for part in told)
    assert text[:first].count("<svg") == 3 and "<table" not in text[:first]


def test_findings_follow_the_numbers() -> None:
    def rows(ours: float, noise: float) -> tuple[list[ProbeRow], list[WritingRow]]:
        reading = [
            ProbeRow(name, "epoch", "pooled", source, r2, r2 - 0.05, r2 + 0.05)
            for name, source, r2 in (("s(W)", "baseline", 0.5), (*CHOSEN, ours))
        ]
        reading += [row._replace(target="test_accuracy") for row in reading]
        methods = (
            ("SANE, kernel density", "generated", ours),
            ("anchor + noise", "noise", noise),
            ("another", "average", 0.6),
            ("from scratch", "scratch", 0.1),
        )
        writing = [
            WritingRow(name, 0, value, value - 0.05, value + 0.05, 5, value, None, 0.3, 0.3, None, 0.0, key)
            for name, key, value in methods
        ]
        return reading, writing

    good, bad = " ".join(describe_findings(*rows(0.9, 0.5))), " ".join(describe_findings(*rows(0.4, 0.5)))
    assert "clearly ahead" in good and "generated networks are clearly ahead" in good
    assert "another is better than that: 60.0%" in bad and "another" not in good
    assert "behind, but their intervals overlap" in bad and "generated networks are behind, but" in bad
    told = [part["sentence"] for part in tell_story(*rows(0.4, 0.5))]
    assert "R² 0.400 with SANE" in told[0] and "0.500 with the best baseline, s(W)" in told[0]
    assert "40.0% test accuracy, random ones have 10.0%" in told[1]
    assert "noise that moves weights as far has 50.0%" in told[2]
    assert "More accurate untrained were 2 of the other methods, 0 of them less new" in told[2]


def test_an_existing_demo_is_kept(demo: Path) -> None:
    with pytest.raises(InputError, match="found something"):
        run_demo(demo, SMALL)


def test_no_two_methods_of_a_figure_look_alike() -> None:
    looks = [tuple(look_of(number).values()) for number in range(36)]
    assert len(set(looks)) == 36


@pytest.mark.slow
def test_the_whole_demo_reaches_its_targets(tmp_path: Path) -> None:
    results = run_demo(tmp_path / "demo")
    accuracy = {(row["method"], row["epochs"]): row for row in results["writing"]}
    generated, noise, scratch = (
        [accuracy[method, epoch]["accuracy"] for epoch in (0, 1, 5)]
        for method in (GENERATED, CONTROLS["noise"].label, CONTROLS["scratch"].label)
    )
    assert accuracy[GENERATED, 0]["novelty"] >= 0.2
    assert generated[0] > scratch[0] + 0.5 and generated[0] > noise[0]
    assert generated[1] > scratch[1] and generated[2] > scratch[2]
    for subset in ("pooled", "last_epoch"):
        rows = [row for row in results["reading"] if (row["target"], row["subset"]) == ("test_accuracy", subset)]
        r2 = {row["representation"]: row["r2"] for row in rows}
        assert r2[CHOSEN.label] > r2["s(W)"] - 0.03 and r2[CHOSEN.label] > r2["W"]
