"""Does a model that reconstructs better read worse? The default against the same without its linear path, zoo by zoo.

    python benchmarks/reading_kept.py --out docs/tables/reading-kept.json ZOO [ZOO ...]

Both at the default size, with the same split and seed. R² of test accuracy on test members by a linear probe, and the
paired interval of the difference over members, for `readout` and `mean`. A zoo that is in FILE already is skipped.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from weightspace.analysis.fidelity import measure_fidelity
from weightspace.analysis.probing.probe import ProbeResult, probe, r2_difference
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.zoo.recorded_images import recorded_images
from weightspace.zoo.zoo import Zoo

TARGET, KINDS = "test_accuracy", ("readout", "mean")


def compare(zoo: Zoo, steps: int) -> dict[str, Any]:
    """Train both, and read with both."""
    parts = zoo.split(0.7, 0.15, 0.15, seed=0)
    images = recorded_images(zoo)
    probes: dict[tuple[str, str], ProbeResult] = {}
    shown: dict[str, Any] = {}
    for name, path in (("with", True), ("without", False)):
        config = SANEConfig(linear_path=path)
        with tempfile.TemporaryDirectory() as folder:
            sane = pretrain(parts[0], config, TrainConfig(steps=steps), out=Path(folder) / "sane")
        for kind in KINDS:
            embeddings = [sane.embed(part, kind) for part in parts]
            probes[kind, name] = probe(embeddings[0], *embeddings[1:], target=TARGET)
        left = measure_fidelity(sane, parts[2].last(), images.test if images is not None else None)
        shown[name] = {
            "r2": left.overall_r2,
            "accuracy": left.original,
            "reconstructed": left.reconstructed,
            "latents_per_weight": left.latents_per_weight,
        }
    for kind in KINDS:
        difference = r2_difference(probes[kind, "with"], probes[kind, "without"])
        shown[kind] = {
            "with": probes[kind, "with"].r2,
            "without": probes[kind, "without"].r2,
            "difference": list(difference),
        }
    return {"members": [len(part.members) for part in parts], "steps": steps, **shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(given.out.read_text()) if given.out.exists() else {}
    for folder in given.zoos:
        if folder.name not in found:
            found[folder.name] = compare(Zoo.open(folder), given.steps)
            given.out.write_text(json.dumps(found, indent=1))
            print(folder.name, found[folder.name], flush=True)


if __name__ == "__main__":
    main()
