"""Render when networks can be averaged: `python docs/update_averaging.py`.

From `docs/tables/averaging.json` (`benchmarks/averaging.py`).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from update_reading import markdown
from update_readme import replace_block

ROOT = Path(__file__).parent
PAGE = ROOT / "pages" / "results" / "averaging.md"
GUIDE = ROOT / "pages" / "guides" / "align-two-networks.md"
WAYS = {
    "as they are": "average, as they are",
    "by weights": "average, aligned by weights",
    "by activations": "average, aligned by activations",
    "by activations on noise": "average, aligned by activations",
}
Pair = dict[str, Any]


def value(pair: Pair, table: str, way: str, *, repaired: bool = False) -> float:
    """Accuracy or barrier of an average, batch norms set anew where there are any."""
    noise = " (noise)" if way.endswith("noise") else ""
    names = [f"{WAYS[way]}{norms}" for norms in (", batch norms set anew", "")]
    names = [f"{name}{', repaired' if repaired else ''}{noise}" for name in names]
    return next((pair[table][name] for name in names if name in pair[table]), float("nan"))


def mean(values: Iterable[float]) -> float:
    """Of all numbers among the values."""
    return float(np.nanmean(list(values)))


def lost(pairs: list[Pair], way: str, *, repaired: bool = False) -> str:
    """Percentage points of accuracy that the average loses to the mean of its parts."""
    losses = [mean(pair["parts"]) - value(pair, "averages", way, repaired=repaired) for pair in pairs]
    return f"{100 * mean(losses):+.1f}"


def by_kinship(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Pairs of one kinship together."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair["kinship"], []).append(pair)
    return groups


def table_of_averaging(families: dict[str, list[Pair]]) -> str:
    """A row for each architecture and kinship."""
    rows = []
    for family, pairs in families.items():
        for kinship, alike in by_kinship(pairs).items():
            parts = mean(mean(pair["parts"]) for pair in alike)
            ensemble = mean(pair["ensemble"] for pair in alike) - parts
            shown = [f"{parts:.1%}", f"{-100 * ensemble:+.1f}", *(lost(alike, way) for way in WAYS)]
            shown += [lost(alike, "by weights", repaired=True)]
            rows.append([family, kinship, str(sum(pair["pairs"] for pair in alike)), *shown])
    columns = ["network", "kinship", "pairs", "parts", "ensemble", *WAYS, "by weights, repaired"]
    return markdown(columns, rows)


def table_of_widths(families: dict[str, list[Pair]]) -> str:
    """Barriers of networks from other seeds, and how near alignment brings them."""
    rows = []
    for family, pairs in families.items():
        alike = [pair for pair in pairs if pair["kinship"] == "independent"]
        if not alike:
            continue
        barriers = [f"{mean(value(pair, 'barriers', way) for pair in alike):.2f}" for way in WAYS]
        barriers += [f"{mean(value(pair, 'barriers', 'by weights', repaired=True) for pair in alike):.2f}"]
        ratio = mean(pair["objectives"] for pair in alike)
        rows.append([family, str(sum(pair["pairs"] for pair in alike)), *barriers, f"{ratio:.2f}"])
    columns = ["network", "pairs", *WAYS, "by weights, repaired", "objective, activations / weights"]
    return markdown(columns, rows)


def table_of_predictors(told: dict[str, Any]) -> str:
    """How well the accuracy lost is told for architectures that nothing was fitted on."""
    rows = [
        [
            name,
            f"{one['r2']:.2f}",
            f"{100 * one['mean_error']:.1f}",
            f"± {100 * one['width']:.0f}",
            f"{one['held']:.0%}",
            ", ".join(f"{group} {share:.0%}" for group, share in one["held_by"].items() if share < 0.8) or "–",
        ]
        for name, one in told.items()
    ]
    return markdown(["told from", "R²", "mean error", "interval of 90 %", "holds for", "below 80 %"], rows)


def table_of_kinship(told: dict[str, Any]) -> str:
    """What averages lose, with and without a common past."""
    rows = [
        [
            name,
            str(one["pairs"]),
            f"{100 * one['mean']:+.1f}",
            f"{100 * one['below_for_95']:+.1f}",
            f"{100 * one['largest']:+.1f}",
            f"{one['held']:.0%}",
        ]
        for name, one in told.items()
    ]
    return markdown(
        ["the two have", "pairs", "lost, mean", "95 % lose less than", "most", "bound of 90 % holds for"], rows
    )


def guide_table(families: dict[str, list[Pair]]) -> str:
    """What to expect of two networks from other seeds, by width."""
    rows = []
    for family, pairs in families.items():
        alike = [pair for pair in pairs if pair["kinship"] == "independent"]
        if alike:
            barriers = [f"{mean(value(pair, 'barriers', way) for pair in alike):.2f}" for way in list(WAYS)[:3]]
            rows.append([family, *barriers, lost(alike, "by weights")])
    return markdown(["two of these, from other seeds", *list(WAYS)[:3], "points of accuracy lost, by weights"], rows)


def main() -> None:
    """Rewrite all blocks."""
    measured = json.loads((ROOT / "tables" / "averaging.json").read_text())
    families = measured["families"]
    page = PAGE.read_text(encoding="utf-8")
    blocks = {
        "averaging": table_of_averaging(families),
        "widths": table_of_widths(families),
        "kinship": table_of_kinship(measured["by_kinship"]),
        "told": table_of_predictors(measured["told"]),
    }
    for name, text in blocks.items():
        page = replace_block(page, name, text)
    PAGE.write_text(page, encoding="utf-8")
    guide = replace_block(GUIDE.read_text(encoding="utf-8"), "widths", guide_table(families))
    GUIDE.write_text(guide, encoding="utf-8")


if __name__ == "__main__":
    main()
