"""Render what is said of adapters and of the hub: `python docs/update_adapters.py`.

From `docs/tables/adapters.json` (`benchmarks/adapters.py`), `hub.json` (`benchmarks/hub.py`) and
`large_transformer.json` (`benchmarks/large_transformer.py`), and from the methods that the package knows.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from update_reading import markdown
from update_readme import replace_block

from weightspace.weights.adapters.methods import FAST_SVD, NOT_HERE, OTHERS

ROOT = Path(__file__).parent
TABLES, GUIDES = ROOT / "tables", ROOT / "pages" / "guides"
FILE, BASE, NOBODY = "from the file", "needs the base", "cannot be known"
# What is computed here: the method, and what its change is.
COMPUTED = {
    "LoRA, rsLoRA, BD-LoRA; of linear layers, kernels, embeddings, experts, biases": (FILE, "scale · B A"),
    "AdaLoRA": (FILE, "α / (r at first) · B diag(E) A"),
    "LoHa": (FILE, "scale · (B₁ A₁) ∘ (B₂ A₂); of kernels with Tucker's cores too"),
    "LoKr": (FILE, "scale · W₁ ⊗ W₂; PEFT and LyCORIS scale whole factors apart"),
    "VeRA with its projections": (
        FILE,
        "diag(b) B diag(d) A, as wide as the widest module: narrower ones with the base",
    ),
    "DeLoRA": (FILE, "B diag(λ / r / lengths) A, in units of the base's columns"),
    "RandLoRA, C3A, SHiRA, GraLoRA, VB-LoRA, pVeRA": (FILE, NOT_HERE),
    "new rows of tokens, saved modules": (FILE, "they take the place of the base's"),
    "DoRA": (BASE, "rows of W + scale · B A (of embeddings columns) have stored lengths"),
    "PiSSA": (BASE, "W without its principal part, + scale · B A"),
    "OLoRA": (BASE, "W without a part of its QR decomposition, + scale · B A"),
    "KaSA": (BASE, "W without its smallest components, + scale · B diag(d) A"),
    "HiRA (stored like LoRA)": (BASE, "W ∘ (1 + B A)"),
    "IA3": (BASE, "rows or columns of W, multiplied"),
    "OFT": (BASE, "inputs of W, turned block by block"),
    "PiSSA by a fast SVD": (NOBODY, FAST_SVD),
    "VeRA without its projections": (NOBODY, "its shared matrices are drawn from a seed and were not saved"),
    "LoRA-GA, CorDA, LoftQ": (NOBODY, "a part that is in no file was taken out of the base"),
    "aLoRA": (NOBODY, "it changes answers only after certain tokens"),
    "QALoRA": (NOBODY, "it takes inputs in groups"),
    "layers counted after replication; parts of a module that are not understood": (NOBODY, "refused, by name"),
    "LoRA of a grouped convolution": (NOBODY, "its kernel spans groups: no weight of the layer is that"),
}
NAMES = {
    "TINYLORA": "TinyLoRA",
    "FOURIERFT": "FourierFT",
    "WAVEFT": "WaveFT",
    "UNILORA": "UniLoRA",
    "GLORA": "GLoRA",
    "ROAD": "RoAd",
}


def table_of_methods() -> str:
    """Every method, by what it takes to know its change."""
    rows = [
        [name, known, what, "–" if known == NOBODY or what == NOT_HERE else "yes"]
        for name, (known, what) in COMPUTED.items()
    ]
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, (known, why) in OTHERS.items():
        grouped.setdefault((known, why), []).append(
            NAMES.get(name, name.replace("_", " ").capitalize() if "_" in name else name)
        )
    rows += [[", ".join(names), known, why, "–"] for (known, why), names in grouped.items()]
    order = (FILE, BASE, NOBODY)
    rows.sort(key=lambda row: order.index(row[1]))
    return markdown(["method", "its change is known", "it is", "computed here"], rows)


def table_of_reading(rows: list[dict[str, Any]]) -> str:
    """Each representation on each split; the mean over the folds."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    scores = {(row["split"], row["by"], row["target"]): float(np.mean(row["scores"])) for row in rows}
    best = {
        (split, target): max(value for (s, _, t), value in scores.items() if (s, t) == (split, target))
        for split, _, target in scores
    }
    lines = []
    for split, by in dict.fromkeys((row["split"], row["by"]) for row in rows):
        cells = []
        for target in targets:
            value = scores.get((split, by, target))
            text = "–" if value is None else f"{value:.0%}" if target == "task" else f"{value:.2f}"
            cells.append(f"**{text}**" if value is not None and value == best[split, target] else text)
        lines.append([split, by, *cells])
    return markdown(["members split", "by", *(target.replace("_", " ") for target in targets)], lines)


def population(held: dict[str, Any]) -> str:
    """What the population is, what is read from it, its relatives, and what sums lose."""
    about = held["grow"]
    losses = ", ".join(
        f"{task} {about['base_loss'][task]:.2f} → {row['median']:.2f} ({row['min']:.2f} to {row['max']:.2f})"
        for task, row in about["loss"].items()
    )
    text = [
        f"`python benchmarks/adapters.py`: a transformer of bytes of {about['parameters']:,} parameters, trained on "
        f"Python's language reference ({about['base_loss']['documentation']:.2f} nats a byte), and {about['adapters']} "
        "LoRAs of it on the code of five packages of the standard library, of ranks 1 to 16, two learning rates, two "
        "lengths of training and two seeds. Nats a byte on files that nobody trained on, of the base → the median "
        f"adapter (best to worst): {losses}.",
        "Accuracy for the task (chance: 20 %), R² for the others, on members that nobody trained on: at random; each "
        "task in turn left out; ranks of 8 and 16 left out. The best of each column and split is bold.",
        table_of_reading(held["read"]),
    ]
    if "alike" in held:
        text.append(table_of_cosines(held["alike"]))
    if "relatives" in held:
        text.append(table_of_relatives(held["relatives"]))
    if "interfere" in held:
        text.append(interference(held["interfere"]))
    return "\n\n".join(text)


def table_of_cosines(rows: list[dict[str, Any]]) -> str:
    """How alike the changes of two adapters are, by what they have in common."""
    ordered = sorted(rows, key=lambda row: -row["cosines"][3])
    lines = [
        [row["task"], row["begun"], f"{row['pairs']:,}", *(f"{value:.2f}" for value in row["cosines"])]
        for row in ordered
    ]
    columns = ["", "first factors", "pairs", "least", "1 %", "5 %", "half", "95 %", "99 %", "most"]
    return (
        "**How alike are two changes?** Cosines by what two adapters have in common. Adapters that *begin* with the "
        "same random factors stay alike whatever they learn, more than adapters of one task that do not.\n\n"
        + markdown(columns, lines)
    )


def table_of_relatives(rows: list[dict[str, Any]]) -> str:
    """What inspect says of what was made of one adapter, and of a network with it merged in."""
    first = next(row["first"] for row in rows if row.get("second", "").startswith("copy/"))
    lines = []
    for row in rows:
        pair = {str(row.get("first")), str(row.get("second"))}
        if first in pair:
            (other,) = pair - {first}
            lines.append([other.partition("/")[0], f"{row['cosine']:.3f}", row["told"]])
        if row.get("adapter") == first:
            lines.append([row["network"], "", f"{row['base']} with it merged in, off by {row['off']:.1%}"])
    return (
        "**Known relatives.** What `inspect` says of a folder with an adapter, a copy of it, its change in other "
        "factors, half as large, trained on for 60 steps, summed with another, and merged: beside the first one\n\n"
        + markdown(["", "cosine", "what it is to the first, as `inspect` has it"], lines)
    )


def interference(rows: list[dict[str, Any]]) -> str:
    """How far overlap foretells what a sum loses."""
    other = [row for row in rows if not row["same_task"]]
    same = [row for row in rows if row["same_task"]]
    lost = np.array([row["lost"] for row in other])
    words = {"both": "read from and written to the same directions", "inputs": "read", "outputs": "written"}
    told = ", ".join(
        f"{np.corrcoef(np.argsort(np.argsort(lost)), np.argsort(np.argsort([row[name] for row in other])))[0, 1]:+.2f} "
        f"({text})"
        for name, text in words.items()
    )
    of_one = np.mean([row["lost"] for row in same])
    return (
        f"**May they be added?** Sums of two adapters of different tasks lose {lost.mean():.3f} nats on both tasks "
        f"({lost.min():.3f} to {lost.max():.3f}; {len(other)} pairs), of one task {of_one:.3f} ({len(same)} pairs). "
        f"Rank correlation with how far their changes meet: {told}. **Overlap is no sign of interference here**: those "
        "that meet more have more in common, and their sum loses less. What a sum is worth has to be measured."
    )


def table_of_bytes(held: dict[str, Any]) -> str:
    """What each command fetched."""
    rows = []
    for number, row in enumerate(held["rows"]):
        total = held["total"] if number < 2 else held["torch"]
        rows.append([f"`{row['command']}`", f"{row['bytes']:,}", f"{row['bytes'] / total:.2g} of {total:,}"])
    about = f"`python benchmarks/hub.py`: a gigabyte in four shards, and a torch file of {held['torch']:,} bytes."
    return f"{about}\n\n{markdown(['', 'bytes fetched', 'share'], rows)}"


def table_of_memory(held: dict[str, Any]) -> str:
    """What each command took of a large transformer."""
    rows = [
        [f"`{row['command']}`", f"{row['peak_gib']:.2f}", f"{row['seconds']:,.0f}", f"{row['times_reading']:,.0f}"]
        for row in held["rows"]
    ]
    about = (
        f"`python benchmarks/large_transformer.py`: {held['parameters'] / 1e6:,.0f} M parameters in bfloat16, "
        f"{held['bytes'] / 2**30:.2f} GiB in shards; one core."
    )
    columns = ["", "peak of memory, GiB", "seconds", "times reading the files once"]
    return f"{about}\n\n{markdown(columns, rows)}"


def main() -> None:
    """Rewrite both guides, as far as the tables are there."""
    place, held = GUIDES / "adapters.md", loaded("adapters.json")
    text = replace_block(place.read_text(), "methods", table_of_methods())
    place.write_text(replace_block(text, "population", population(held)) if "read" in held else text)
    place, fetched, large = GUIDES / "on-the-hub.md", loaded("hub.json"), loaded("large_transformer.json")
    first = fetched["rows"][0]
    printed = "\n".join(line.rstrip() for line in first["printed"].strip().splitlines())
    text = replace_block(place.read_text(), "inspect", f"```bash\n{first['command']}\n```\n```text\n{printed}\n```")
    text = replace_block(text, "bytes", table_of_bytes(fetched))
    place.write_text(replace_block(text, "memory", table_of_memory(large)) if large else text)


def loaded(name: str) -> dict[str, Any]:
    """A table; nothing where there is none."""
    return json.loads((TABLES / name).read_text()) if (TABLES / name).exists() else {}


if __name__ == "__main__":
    main()
