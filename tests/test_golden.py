"""What every command says of a small zoo, number by number: a rebuilding changes none of them.

`python tests/test_golden.py` writes `golden.json` anew; do so only where a number is meant to change, and say why.
"""

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

GOLDEN = Path(__file__).with_name("golden.json")
# Sums in another order, on another processor, differ by so much after a few steps of training.
RELATIVE, ABSOLUTE = 5e-3, 2e-3
# Rank correlations move in steps: one pair the other way round, by another processor's rounding.
RANKS = 1e-2
# Figures of this machine and moment; digests are of exact bytes, which the order of a sum decides.
TIMED = ("weights_per_second", "waiting_for_batches", "bytes", "out", "command", "digest", "file_hash", "values_hash")
# All but the hyper-representation, whose 300 steps on so few networks turn a rounding into another model.
REPRESENTATIONS = "standard,spectra,views"
SPLIT = ("--split", "0.5,0.25,0.25")
SMALL = ("--model-width", 16, "--layers", 1, "--heads", 2, "--latent-width", 8, "--projection-width", 8)
TRAINED = ("--steps", 12, "--window", 16, "--batch-size", 8, "--observe-every", 6)


def command(*words: object) -> Any:
    """What a command prints as JSON."""
    from weightspace.cli.app import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        main([*map(str, words), "--json"])
    assert end.value.code == 0, words
    return json.loads(printed.getvalue())


def tell(folder: Path) -> dict[str, Any]:
    """Every command on one small zoo with fixed seeds: name -> its JSON, and figures of what it wrote."""
    zoo, sane, files = folder / "zoo", folder / "sane", folder / "files"
    found: dict[str, Any] = {}
    growing = ("--members", 24, "--epochs", 2, "--vary", "lr=log:3e-3..2e-2", "--plan", "stacked", "--workers", 1)
    found["grow"] = command("grow", "mlp:8", "--data", "digits", *growing, "--out", zoo)
    found["zoo"] = command("zoo", zoo)
    found["pretrain"] = command("pretrain", zoo, *SMALL, *TRAINED, *SPLIT, "--out", sane)
    found["card"] = command("card", sane, zoo, *SPLIT)
    found["embed"] = command("embed", sane, zoo, "--aggregation", "readout", "--out", folder / "embedded.parquet")
    found["embedded"] = sizes(pd.read_parquet(folder / "embedded.parquet").filter(regex=r"^z\d").to_numpy())
    probed = ("--representations", REPRESENTATIONS, "--targets", "all")
    found["probe"] = command("probe", zoo, "--sane", sane, *SPLIT, *probed)
    members = list(dict.fromkeys(pd.read_parquet(zoo / "models.parquet")["member"]))
    first, second = f"{zoo}:{members[0]}", f"{zoo}:{members[1]}"
    found["predict"] = list(command("predict", sane, first, second)["networks"].values())
    plots = ("--out", folder / "layers.svg", "--similarity", folder / "alike.svg")
    found["layers"] = command("layers", sane, first, second, *plots, "--no-weightwatcher")
    found["similar"] = command("similar", sane, zoo, first, "-k", 3)
    found["publish"] = command("publish", zoo, "--out", folder / "hub")
    write_files(zoo, files)
    found["inspect"] = command("inspect", files, "--sane", sane)
    found["import"] = command("import", files, "--out", folder / "imported")
    found["diff"] = command("diff", first, second, "--data", "digits")
    found["align"] = command("align", first, second, "--data", "digits", "--points", 5, "--out", folder / "a.pt")
    table = pd.read_parquet(zoo / "models.parquet")
    alike = sorted(table["member"][table["architecture"] == table["architecture"].iloc[0]].unique())
    pair = (f"{zoo}:{alike[0]}", f"{zoo}:{alike[1]}", "--data", "digits", "--per", "layer", "--anyway")
    found["merge"] = command("merge", *pair, "--out", folder / "m.safetensors")
    stage = ("--steps", 6, "--networks", 4, "--queries", 8, "--log-every", 2, "--mixed", 0.5)
    found["distill"] = command("distill", sane, zoo, *stage, *SPLIT, "--out", folder / "d")
    found |= dict(writing(folder, zoo, sane))
    return found


def writing(folder: Path, zoo: Path, sane: Path) -> Iterator[tuple[str, Any]]:
    """Networks of every sampler and way of choosing, and what one set of them is worth."""
    blends = ("--architecture", "mlp-64-8-10-tanh")
    ways: dict[str, tuple[object, ...]] = {
        "kernel-density": (),
        "selected": ("--draws", 6, "--rounds", 2, "--keep", 2, "--refine", 3),
        "published": ("--sampler", "published", "--bandwidth", 0.1),
        "gaussian": ("--sampler", "gaussian", *blends),
        "mixture": ("--sampler", "mixture", "--components", 2, *blends),
        "interpolation": ("--sampler", "interpolation", "--along", "sphere", "--noisy", *blends),
        "random": ("--sampler", "random", "--rounds", 2),
        "by layer": ("--anchor", "layer", *blends),
        "chosen": ("--choose-bandwidth", *SPLIT),
        "novel": ("--novelty", 0.05),
    }
    for name, options in ways.items():
        out = folder / name
        made = command("generate", sane, "--anchors", zoo, "--best", 3, "--count", 2, *options, "--out", out)
        yield f"generate, {name}", {**made, "weights": sizes_of_shards(out)}
    yield (
        "evaluate",
        command("evaluate", folder / "selected", "--data", "digits", "--epochs", "0,1", "--hyper-steps", 3),
    )


def write_files(zoo: Path, folder: Path) -> None:
    """Four checkpoints of a zoo as files, one of them twice."""
    from safetensors.torch import save_file

    import weightspace as ws

    folder.mkdir()
    opened = ws.Zoo.open(zoo)
    for row in (0, 1, 2, 3):
        save_file(opened.weights(row), folder / f"{row}.safetensors")
    save_file(opened.weights(0), folder / "copy.safetensors")


def sizes_of_shards(folder: Path) -> list[float]:
    from safetensors.numpy import load_file

    shards = [load_file(path) for path in sorted((folder / "shards").iterdir())]
    return [value for shard in shards for name in sorted(shard) for value in sizes(shard[name])]


def sizes(values: np.ndarray) -> list[float]:
    """Two numbers that stand for many."""
    flat = values.astype(np.float64).ravel()
    return [float(np.abs(flat).mean()), float((flat * np.sin(np.arange(flat.size))).mean())]


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of a JSON value by its place; times, sizes of files and paths apart."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name not in TIMED:
                yield from leaves(item, f"{place}/{'*' if '/tmp' in str(name) else name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, f"{place}/{number}")
    elif not (isinstance(value, str) and "/" in value):
        yield place, value


def agree(place: str, value: Any, golden: Any) -> bool:
    if isinstance(golden, float) and isinstance(value, int | float):
        absolute = RANKS if place.endswith("/tau") else ABSOLUTE
        return math.isclose(value, golden, rel_tol=RELATIVE, abs_tol=absolute)
    return bool(value == golden)


@pytest.mark.timeout(480)
def test_every_command_says_what_it_said(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = dict(leaves(tell(tmp_path)))
    assert sorted(found) == sorted(golden)
    other = {place: (value, golden[place]) for place, value in found.items() if not agree(place, value, golden[place])}
    assert not other


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(dict(leaves(tell(Path(folder)))), indent=0) + "\n")
