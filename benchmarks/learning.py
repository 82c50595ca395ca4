"""How well and how fast a SANE learns: recipes side by side, at equal latents per weight, steps and windows.

    python benchmarks/learning.py ZOO --data IMAGES --recipes ours published --latents 1.25 0.6 0.3 --out FILE
    python benchmarks/learning.py --render docs/tables docs/pages/results        the page and its figures

Every run adds a row to FILE, and a run that is there already is skipped, so that what was stopped goes on. Trained on
training members only. The curves (over steps and CPU seconds) are of validation members, the last figures of test
members, all at their last epoch and aligned: R² of raw weights and of standardised ones, by tensor, around each
tensor's mean; the share of their accuracy that decoded networks keep; and what linear probes read of test accuracy.

The published recipe is run through our own code: learned positions, flattened projection, multiplicative noise on
inputs and targets, one-cycle at a peak of 1e-4 without clipping, in fp32; and at 1e-3, which suits so few steps better.
`before` is what was the default here until the linear path, with a rate made for width 64 at every width.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from weightspace.analysis.fidelity import measure_fidelity
from weightspace.analysis.probing.probe import probe
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.presets import PUBLISHED, WRITING
from weightspace.autoencoder.reconstructing import reconstruct
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.fitting import resolve_width
from weightspace.corpus.frame import plan_frame
from weightspace.errors import InputError
from weightspace.images import Images, open_images
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.patterns import entries_of
from weightspace.zoo.zoo import Zoo

FULL = {"precision": "fp32", "rate_by_width": False}
RECIPES: dict[str, dict[str, Any]] = {
    "ours": {},
    "writing": WRITING,
    "one rate": {"rate_by_width": False},
    "before": {"linear_path": False, **FULL},
    "published": {**PUBLISHED, **FULL, "learning_rate": 1e-4},
    "published, 1e-3": {**PUBLISHED, **FULL, "learning_rate": 1e-3},
}
WINDOWS, IMAGES = 32, 2_000
WINDOW_SHARE = 32 / 48
# 56, 12 and 12 members of mnist-cnn-s-raytune.
SPLIT = 10


class Run(NamedTuple):
    """What is trained."""

    zoo: str
    recipe: str
    width: int
    latents_per_weight: float
    seed: int
    steps: int
    learning_rate: float
    layers: int = 4


def configurations(zoo: Zoo, run: Run) -> tuple[SANEConfig, TrainConfig, PreparationConfig]:
    """The recipe's, with as many latents in a token as the run has for each of its weights."""
    values = {**RECIPES[run.recipe], "model_width": run.width, "layers": run.layers, "heads": 4}
    values |= {"steps": run.steps, "batch_size": WINDOWS, "seed": run.seed, "save_every": run.steps}
    if run.learning_rate:
        values["learning_rate"] = run.learning_rate

    def of(kind: Any, **more: Any) -> Any:
        return kind(**{name: value for name, value in {**values, **more}.items() if name in kind.__dataclass_fields__})

    used = [zoo.architectures[name] for name in zoo.table["architecture"].unique()]
    preparation = resolve_width(of(PreparationConfig), used)
    layout = plan_frame(used[0], preparation).layout
    window = round(len(layout) * WINDOW_SHARE)
    latent = latent_width(layout, run.latents_per_weight, capped=values.get("linear_path", SANEConfig.linear_path))
    return of(SANEConfig, latent_width=latent), of(TrainConfig, window=window), preparation


def latent_width(layout: TokenLayout, share: float, *, capped: bool) -> int:
    """The width with which the latents of a network come closest to so many for each of its weights."""
    if not capped:
        return round(share * layout.size / len(layout))
    entries = entries_of(layout).mask.sum(-1)
    widths = range(1, layout.width + 1)
    return min(widths, key=lambda width: abs(int(entries.clamp_max(width).sum()) - share * layout.size))


def r2_of_weights(sane: SANE, zoo: Zoo) -> dict[str, Any]:
    """R² of weights and of standardised ones, in all and by tensor: around each tensor's mean over networks."""
    sums: dict[str, np.ndarray] = {}
    for name in zoo.table["architecture"].unique():
        architecture, alike = zoo.architectures[str(name)], zoo.where(architecture=str(name))
        frame = sane.preparation.frame_of(architecture)
        own = frame.own_names(architecture)
        std = dict(zip(frame.layout.names, frame.statistics.std, strict=True))
        pairs = reconstruct(sane, [alike.weights(row) for row in range(len(alike))], architecture)
        for tensor in frame.layout.names:
            true, made = (
                torch.stack([getattr(pair, which)[own[tensor]] for pair in pairs]).double()
                for which in ("original", "decoded")
            )
            added = [true.numel(), float(true.sum()), float(true.square().sum()), float((true - made).square().sum())]
            before = sums.get(tensor, np.zeros(5))
            sums[tensor] = np.array([*(before[:4] + np.array(added)), std[tensor]])
    table = np.stack(list(sums.values()))
    spread, error = table[:, 2] - table[:, 1] ** 2 / table[:, 0], table[:, 3]
    scale = table[:, 4] ** -2
    return {
        "r2": float(1 - error.sum() / spread.sum()),
        "r2_standardised": float(1 - (error * scale).sum() / (spread * scale).sum()),
        "r2_by_tensor": {name: float(1 - error[i] / spread[i]) for i, name in enumerate(sums)},
    }


def quality(sane: SANE, zoo: Zoo, images: Images) -> dict[str, Any]:
    """What is left of networks at their last epoch."""
    last = zoo.last()
    found = measure_fidelity(sane, last, images)
    return {**r2_of_weights(sane, last), "accuracy": found.original, "kept": found.reconstructed / found.original}


def reading(sane: SANE, parts: list[Zoo]) -> dict[str, list[float]]:
    """R² of test accuracy on test members, with its interval, by aggregation."""
    results = {}
    for kind in ("mean", "mean+spread", "readout"):
        embeddings = [sane.embed(part, kind) for part in parts]
        found = probe(embeddings[0], *embeddings[1:], target="test_accuracy")
        results[kind] = [found.r2, found.r2_low, found.r2_high]
    return results


def carry_out(run: Run, zoo: Zoo, images: Images, observations: int) -> dict[str, Any]:
    """Train, and measure on the way and at the end."""
    parts = list(zoo.split(0.7, 0.15, 0.15, seed=SPLIT))
    sane, training, preparation = configurations(zoo, run)
    measuring, curve = 0.0, []

    def observe(step: int, model: SANE) -> dict[str, float]:
        nonlocal measuring
        before = time.process_time()
        found = quality(model, parts[1], images)
        shown = {name: found[name] for name in ("r2", "r2_standardised", "kept")}
        curve.append({"step": step, "cpu_seconds": before - started - measuring, **shown})
        measuring += time.process_time() - before
        return {}

    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        every = max(1, run.steps // observations)
        model = pretrain(parts[0], sane, training, preparation, out=Path(folder) / "sane", observers=[(every, observe)])
        history = json.loads((Path(folder) / "sane" / "history.json").read_text())
    return {
        **run._asdict(),
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "token_width": model.preparation.config.token_width,
        "latent_width": sane.latent_width,
        "latents_per_weight_exactly": model.latents_per_weight,
        "window": training.window,
        "cpu_seconds": curve[-1]["cpu_seconds"],
        "members": [len(part.members) for part in parts],
        "losses": [[row["step"], row["reconstruction"]] for row in history],
        "curve": curve,
        **quality(model, parts[2], images),
        "reading": reading(model, parts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--data", required=True, help="images that decoded networks are scored on")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--widths", nargs="+", type=int, default=[256])
    parser.add_argument("--latents", nargs="+", type=float, default=[1.25, 0.6, 0.3], help="for every weight")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0], help="learning rates; 0: the recipe's")
    parser.add_argument("--layers", nargs="+", type=int, default=[4], help="of the encoder, and as many of the decoder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=196)
    parser.add_argument("--observations", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    zoo = Zoo.open(given.zoo).where(lambda table: table["epoch"] >= 1)
    tested = open_images(given.data).test
    images = tested._replace(inputs=tested.inputs[:IMAGES], labels=tested.labels[:IMAGES])
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    done = {tuple(row.get(name, Run._field_defaults.get(name)) for name in Run._fields) for row in rows}
    choices = itertools.product(given.recipes, given.widths, given.latents, given.seeds, given.rates, given.layers)
    for recipe, width, latents, seed, rate, layers in choices:
        run = Run(given.zoo.name, recipe, width, latents, seed, given.steps, rate, layers)
        if tuple(run) in done:
            continue
        try:
            row = carry_out(run, zoo, images, given.observations)
        except InputError as error:  # a rate at which the loss is not finite is a result too
            row = {**run._asdict(), "failed": str(error)}
        rows.append(row)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(rows, indent=1))
        print({key: row.get(key) for key in (*Run._fields, "r2", "r2_standardised", "kept", "cpu_seconds", "failed")})


if __name__ == "__main__":
    main()
