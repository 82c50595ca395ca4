"""Do intervals hold, and which networks are taken for unlike the zoo? `python benchmarks/predicting.py`.

Reads the models that tables_reading.sh trained: two predictors for every zoo and fold, of weights alone and of what
networks do as well, calibrated on validation members; what they say of test members, of other zoos of the same
architecture, and of test members' networks that were disturbed.
Writes `docs/tables/predicting.json`.
"""

import argparse
from collections.abc import Callable
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables_reading import FOLDS, SMALL, Setting
from torch import Tensor

from weightspace.analysis.predicting.calibrating import fit_predictor
from weightspace.analysis.predicting.predictor import Predictor
from weightspace.analysis.representations.catalog import side_by_side
from weightspace.analysis.representations.responses import network_responses
from weightspace.autoencoder.sane import SANE
from weightspace.outputs import to_json
from weightspace.responses.config import AskConfig
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
    embeddings = sane.embed(zoo, predictor.aggregation)
    if predictor.ask is not None:
        embeddings = side_by_side(embeddings, network_responses([zoo], predictor.ask)[0])
    return float(np.mean([bool(said.reason) for said in predictor.predict_many(embeddings.features)]))


def disturbed(predictor: Predictor, sane: SANE, zoo: Zoo, disturb: Disturb) -> float:
    found = []
    for row in range(len(zoo)):
        generator = torch.Generator().manual_seed(row)
        weights: Weights = {name: disturb(tensor, generator) for name, tensor in zoo.weights(row).items()}
        architecture = zoo.architectures[str(zoo.table["architecture"].iloc[row])]
        found.append(bool(predictor.predict(sane, weights, architecture).reason))
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
    strange: dict[str, dict[str, list[float]]] = {}
    for name, fold, asking in product(ZOOS, range(FOLDS), (False, True)):
        sane, parts = setting.sane(name, fold), setting.parts(name, fold)
        predictor = fit_predictor(sane, parts, ask=AskConfig() if asking else None)
        about = {"zoo": name, "fold": fold, "asking": asking, "members": predictor.members}
        about["outlier_share"] = predictor.outlier_share
        fields = ("target", "r2", "usual_radius", "coverage")
        held += [about | {field: getattr(told, field) for field in fields} for told in predictor.properties]
        if name == SMALL[0]:
            shares = {"held-out members": flagged(predictor, sane, parts[2])}
            shares |= {f"{zoo}, last epoch": flagged(predictor, sane, setting.zoo(zoo).last()) for zoo in SMALL[1:]}
            for kind, disturb in DISTURBED.items():
                shares[f"held-out members, {kind}"] = disturbed(predictor, sane, parts[2].last(), disturb)
            for kind, share in shares.items():
                strange.setdefault("asking" if asking else "weights alone", {}).setdefault(kind, []).append(share)
        print(name, fold, flush=True)
    means = {by: {kind: float(np.mean(folds)) for kind, folds in kinds.items()} for by, kinds in strange.items()}
    head = {"command": "python benchmarks/predicting.py", "date": date.today().isoformat()}
    options.out.write_text(to_json({**head, "held": held, "unlike": {"zoo": SMALL[0], "shares": means}}, indent=1))
    print(options.out)


if __name__ == "__main__":
    main()
