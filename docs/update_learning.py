"""Render how well and how fast a SANE learns from `docs/tables/learning-*.json`: `python docs/update_learning.py`.

Writes the blocks of `docs/pages/results/learning.md` and the figure beside it.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from update_reading import markdown
from update_readme import replace_block

from weightspace.autoencoder.network import BASE_WIDTH
from weightspace.report.figures import COLORS, PRINTED

ROOT = Path(__file__).parent
PAGE = ROOT / "pages" / "results" / "learning.md"
Row = dict[str, Any]
COMPARED = ("ours", "writing", "before", "published", "published, 1e-3")
WORDS = {"ours": "ours, the default", "writing": "ours, `--writing`", "before": "ours, as it was"}
WIDTH, STEPS = 256, 196
ZOO = "mnist-cnn-s-raytune"


def load() -> list[Row]:
    """All runs."""
    return [row for path in sorted((ROOT / "tables").glob("learning-*.json")) for row in json.loads(path.read_text())]


def mean(rows: list[Row], name: str) -> float:
    """Over seeds."""
    return float(np.mean([row[name] for row in rows]))


def compared(rows: list[Row], zoo: str) -> str:
    """Recipes at equal latents per weight, steps and width; means over seeds."""
    body = []
    for latents in sorted({row["latents_per_weight"] for row in rows}, reverse=True):
        for recipe in COMPARED:
            own = [row for row in rows if (row["recipe"], row["latents_per_weight"]) == (recipe, latents)]
            if own:
                reading = np.mean([[row["reading"][kind][0] for kind in ("mean", "readout")] for row in own], axis=0)
                names = ("latents_per_weight_exactly", "r2", "r2_standardised")
                shown = [f"{mean(own, name):.3f}" for name in names]
                body.append(
                    [
                        f"{latents:g}",
                        WORDS.get(recipe, recipe),
                        *shown,
                        f"{mean(own, 'kept'):.1%}",
                        *(f"{value:.2f}" for value in reading),
                        f"{mean(own, 'cpu_seconds'):.0f}",
                        str(len(own)),
                    ]
                )
    columns = ["latents a weight", "recipe", "exactly", "R² of weights", "standardised", "accuracy kept"]
    columns += ["mean reads, R²", "readout reads, R²", "CPU seconds", "seeds"]
    members = rows[0]["members"]
    about = (
        f"`{zoo}`, {members[0]} members trained on, {members[2]} tested, width {WIDTH}, {STEPS} steps of 32 windows."
    )
    return f"{about}\n\n{markdown(columns, body)}"


def by_width(rows: list[Row]) -> str:
    """Width by width, at 0.6 latents a weight; means over seeds."""
    body = []
    for width in sorted({row["width"] for row in rows}):
        for recipe in ("ours", "published, 1e-3"):
            own = [
                row for row in rows if (row["recipe"], row["width"], row["latents_per_weight"]) == (recipe, width, 0.6)
            ]
            if own:
                shown = [f"{mean(own, name):.3f}" for name in ("r2", "r2_standardised")]
                seconds = f"{mean(own, 'cpu_seconds'):.0f}"
                body.append([str(width), WORDS.get(recipe, recipe), *shown, f"{mean(own, 'kept'):.1%}", seconds])
    return markdown(["width", "recipe", "R² of weights", "standardised", "accuracy kept", "CPU seconds"], body)


def by_depth(rows: list[Row]) -> str:
    """What becomes of rates at every depth: R² of standardised weights of unseen members, width 64, 98 steps."""
    alike = [row for row in rows if (row["recipe"], row["width"], row["steps"]) == ("ours", BASE_WIDTH, 98)]
    rates = sorted({row["learning_rate"] for row in alike if row.get("layers", 4) != 4})
    depths = sorted({row.get("layers", 4) for row in alike})
    body = []
    for depth in depths:
        found = {row["learning_rate"]: row for row in alike if row.get("layers", 4) == depth}
        cells = [f"{found[rate]['r2_standardised']:.3f}" if "r2" in found[rate] else "diverges" for rate in rates]
        body.append([f"{depth} + {depth}", *cells])
    return markdown(["layers", *(f"{rate:g}" for rate in rates)], body)


def time_to(rows: list[Row], reached: float) -> float | None:
    """CPU seconds until validation members were reconstructed so well; the mean over seeds."""
    times = [next((point["cpu_seconds"] for point in row["curve"] if point["r2"] >= reached), None) for row in rows]
    return float(np.mean(times)) if times and None not in times else None  # type: ignore[arg-type]


def faster(rows: list[Row]) -> str:
    """When the default has what a published recipe ends with."""
    body = []
    for recipe in ("published", "published, 1e-3"):
        for latents in sorted({row["latents_per_weight"] for row in rows}, reverse=True):
            theirs = [r for r in rows if (r["recipe"], r["latents_per_weight"]) == (recipe, latents)]
            ours = [r for r in rows if (r["recipe"], r["latents_per_weight"]) == ("ours", latents)]
            if not theirs:
                continue
            final = float(np.mean([row["curve"][-1]["r2"] for row in theirs]))
            seconds, needed = mean(theirs, "cpu_seconds"), time_to(ours, final)
            speed = "not reached" if needed is None else f"{seconds / needed:.0f} times sooner"
            needs = "–" if needed is None else f"{needed:.0f} s"
            body.append([recipe, f"{latents:g}", f"{final:.3f}", f"{seconds:.0f} s", needs, speed])
    columns = ["recipe", "latents a weight", "its last R²", "its CPU seconds", "ours, at the first look after", ""]
    return markdown(columns, body)


def by_tensor(rows: list[Row]) -> str:
    """R² tensor by tensor, first seeds."""
    chosen = [row for row in rows if row["seed"] == 0 and row["recipe"] in ("ours", "published, 1e-3")]
    names = [name for name in chosen[0]["r2_by_tensor"] if name.endswith("weight")]
    body = [
        [f"{row['latents_per_weight']:g}", WORDS.get(str(row["recipe"]), str(row["recipe"]))]
        + [f"{row['r2_by_tensor'][name]:.2f}" for name in names]
        for row in sorted(chosen, key=lambda row: (-row["latents_per_weight"], row["recipe"]))
    ]
    return markdown(["latents a weight", "recipe", *(name.removeprefix("module_list.") for name in names)], body)


def reading() -> str:
    """With the linear path and without, zoo by zoo."""
    found = json.loads((ROOT / "tables" / "reading-kept.json").read_text())
    body = []
    for zoo, own in found.items():
        shown = []
        for kind in ("readout", "mean"):
            value, low, high = own[kind]["difference"]
            ways = f"{own[kind]['with']:.3f} / {own[kind]['without']:.3f}"
            shown += [ways, f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"]
        survived = [own[way]["reconstructed"] / own[way]["accuracy"] for way in ("with", "without")]
        body.append([zoo, *shown, " / ".join("–" if np.isnan(share) else f"{share:.0%}" for share in survived)])
    columns = ["zoo", "readout, with / without", "difference", "mean, with / without", "difference"]
    return markdown([*columns, "accuracy kept, with / without"], body)


def valleys(axes: Axes, rows: list[Row]) -> None:
    """What the loss becomes, by rate, for every width."""
    for number, width in enumerate(sorted({row["width"] for row in rows})):
        # At width 64 the rule changes nothing.
        for recipe, style in (("ours", "-"), ("one rate", ":"))[: 1 if width == BASE_WIDTH else 2]:
            own = sorted(
                (row for row in rows if (row["recipe"], row["width"]) == (recipe, width)),
                key=lambda row: float(row["learning_rate"]),
            )
            if not own:
                continue
            rates = [row["learning_rate"] for row in own]
            lost = [1 - row["r2_standardised"] if "r2" in row else np.nan for row in own]
            label = f"width {width}" if recipe == "ours" else f"{width}, one rate for all"
            axes.plot(rates, lost, style, marker="o", markersize=3, color=COLORS[number], label=label)
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="variance lost, unseen members", title="One rate, every width"
    )
    axes.legend(fontsize=7)


def kept(axes: Axes, rows: list[Row]) -> None:
    """The share of accuracy that survives, by latents per weight."""
    for number, recipe in enumerate(("ours", "published, 1e-3", "published")):
        points = sorted({row["latents_per_weight"] for row in rows if row["recipe"] == recipe})
        values = [
            mean([r for r in rows if (r["recipe"], r["latents_per_weight"]) == (recipe, point)], "kept")
            for point in points
        ]
        label = WORDS.get(recipe, "published recipe, rate 1e-3" if "1e-3" in recipe else "published recipe, rate 1e-4")
        axes.plot(points, values, marker="o", color=COLORS[number], label=label)
    axes.set(xlabel="latents per weight", ylabel="share of accuracy kept", ylim=(0, 1.02), title="What survives")
    axes.legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.7))


def main() -> None:
    """Rewrite the blocks and the figure."""
    rows = load()
    trained = [row for row in rows if row["steps"] == STEPS and row["width"] == WIDTH and "r2" in row]
    zoos = {zoo: [row for row in trained if row["zoo"] == zoo] for zoo in sorted({row["zoo"] for row in trained})}
    first = zoos[ZOO]
    with mpl.rc_context({**PRINTED, "svg.hashsalt": "learning"}):
        figure = Figure(figsize=(8, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        kept(left, first)
        valleys(right, [row for row in rows if row["steps"] != STEPS and row.get("layers", 4) == 4])
        figure.savefig(PAGE.with_name("learning.svg"), facecolor="white", metadata={"Date": None})
    page = replace_block(PAGE.read_text(), "compared", compared(first, ZOO))
    others = [compared(own, zoo) for zoo, own in zoos.items() if zoo != ZOO]
    page = replace_block(page, "elsewhere", "\n\n".join(others))
    page = replace_block(page, "time", faster(first))
    page = replace_block(page, "widths", by_width([row for row in rows if row["steps"] == STEPS and row["zoo"] == ZOO]))
    page = replace_block(page, "depths", by_depth([row for row in rows if row["zoo"] == ZOO]))
    page = replace_block(page, "reading", reading())
    PAGE.write_text(replace_block(page, "tensors", by_tensor(first)))


if __name__ == "__main__":
    main()
