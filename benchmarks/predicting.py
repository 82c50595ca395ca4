"""Do intervals hold, and which networks are taken for unlike the zoo? `python benchmarks/predicting.py`.

Reads the models that tables_reading.sh trained: a predictor for every zoo and fold, calibrated on validation members;
what it says of test members, of other zoos of the same architecture, and of test members' networks that were disturbed.
Writes `docs/tables/predicting.json`.
"""

import argparse
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables_reading import FOLDS, SMALL, Setting
from torch import Tensor

from weightspace.analysis.predicting.calibrating import fit_predictor
from weightspace.analysis.predicting.predictor import Predictor
from weightspace.autoencoder.sane import SANE
from weightspace.outputs import to_json
from weightspace.weights.values import Weights
from weightspace.zoo.zoo import Zoo

ZOOS = (*SMALL, "mnist-raytune")
Disturb = Callable[[Tensor, torch.Generator], Tensor]
DISTURBED: dict[str, Disturb] = {
    "noise of half its spread": lambda t, g: t + 0.5 * t.std(correction=0) * torch.randn(t.shape, generator=g),
    "noise of its spread": lambda t, g: t + t.std(correction=0) * torch.randn(t.shape, generator=g),
    "twice as large": lambda t, g: 2 * t,
    "half as large": lambda t, g: 0.5 * t,
    "weights in random order": lambda t, g: t.flatten()[torch.randperm(t.numel(), generator=g)].view_as(t),
    "standard normal": lambda t, g: torch.randn(t.shape, generator=g),
    "all zero": lambda t, g: torch.zeros_like(t),
}


def flagged(predictor: Predictor, sane: SANE, zoo: Zoo) -> float:
    features = sane.embed(zoo, predictor.aggregation).features
    return float(np.mean([bool(own.reason) for own in predictor.predict_many(features)]))


def disturbed(predictor: Predictor, sane: SANE, zoo: Zoo, disturb: Disturb) -> float:
    found = []
    for row in range(len(zoo)):
        generator = torch.Generator().manual_seed(row)
        weights: Weights = {name: disturb(tensor, generator) for name, tensor in zoo.weights(row).items()}
        found.append(bool(predictor.predict(sane, weights).reason))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoos", type=Path, default=Path.home() / ".cache" / "weightspace" / "zoos")
    parser.add_argument("--models", type=Path, default=Path("runs/reading"))
    parser.add_argument("--out", type=Path, default=Path("docs/tables/predicting.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(options.zoos, options.models)
    held: list[dict[str, Any]] = []
    strange: dict[str, list[float]] = {}
    for name in ZOOS:
        for fold in range(FOLDS):
            sane, parts = setting.sane(name, fold), setting.parts(name, fold)
            predictor = fit_predictor(sane, parts)
            fields = ("target", "r2", "usual_radius", "coverage")
            held += [
                {"zoo": name, "fold": fold, "members": predictor.members, "outlier_share": predictor.outlier_share}
                | {field: getattr(own, field) for field in fields}
                for own in predictor.properties
            ]
            if name == SMALL[0]:
                strange.setdefault("held-out members", []).append(flagged(predictor, sane, parts[2]))
                for other in SMALL[1:]:
                    strange.setdefault(f"{other}, last epoch", []).append(
                        flagged(predictor, sane, setting.zoo(other).last())
                    )
                for kind, disturb in DISTURBED.items():
                    share = disturbed(predictor, sane, parts[2].last(), disturb)
                    strange.setdefault(f"held-out members, {kind}", []).append(share)
        print(name, flush=True)
    shares = {kind: float(np.mean(own)) for kind, own in strange.items()}
    about = {"command": "python benchmarks/predicting.py", "date": date.today().isoformat()}
    options.out.write_text(to_json({**about, "held": held, "unlike": {"zoo": SMALL[0], "shares": shares}}, indent=1))
    print(options.out)


if __name__ == "__main__":
    main()
