"""Which reference, and whether canonical scales and signs help: one SANE per choice on one zoo, compared.

For each choice: the reconstruction loss it ends with, how much accuracy members that it never saw keep when they
are encoded and decoded, and R² of linear probes of its readout on test members. Every choice is one JSON line.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from weightspace.analysis.probe import probe
from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.inference import embed, encode_network, restore
from weightspace.autoencoder.pretraining import pretrain
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.config import PreparationConfig
from weightspace.images import ImageSet, open_images
from weightspace.supervised import score
from weightspace.zoo.zoo import Zoo

TARGETS = ("test_accuracy", "epoch", "generalization_gap")
PLAIN = PreparationConfig()
CHOICES: dict[str, tuple[PreparationConfig, float]] = {
    "reference best": (PLAIN, 0.0),
    "reference mean": (replace(PLAIN, reference="mean"), 0.0),
    "reference worst": (replace(PLAIN, reference="worst"), 0.0),
    "not aligned": (replace(PLAIN, align=False), 0.0),
    "scale": (replace(PLAIN, rescale="scale"), 0.0),
    "sign": (replace(PLAIN, rescale="sign"), 0.0),
    "both": (replace(PLAIN, rescale="both"), 0.0),
    "both, in views too": (replace(PLAIN, rescale="both"), 0.3),
}


def reconstructed(sane: SANE, zoo: Zoo, images: ImageSet) -> tuple[float, float]:
    """Mean test accuracy of networks at their last epoch, as they are and decoded."""
    last = zoo.last()
    before, after = [], []
    for number in range(len(last)):
        architecture = last.architectures[str(last.table["architecture"].iloc[number])]
        module, weights = architecture.build(), last.weights(number)
        prepared, latents = encode_network(sane, weights)
        for column, own in ((before, weights), (after, restore(sane, latents, architecture, prepared.carried))):
            module.load_state_dict(own)
            column.append(float(score(module, images.test).accuracy))
    return statistics.mean(before), statistics.mean(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--test-images", type=int, default=500)
    parser.add_argument("--choices", nargs="*", default=list(CHOICES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo = Zoo.open(options.zoo)
    shape = next(iter(zoo.architectures.values())).example_shape
    images = open_images(options.data, size=shape[-1] if shape else None, limits=(None, options.test_images))
    for seed in options.seeds:
        train, validation, test = zoo.split(0.7, 0.15, 0.15, seed=seed)
        worst = train.last().table.sort_values("validation_accuracy")["member"].iloc[0]
        for name in options.choices:
            preparation, spread = CHOICES[name]
            if preparation.reference == "worst":
                preparation = replace(preparation, reference=str(worst))
            training = TrainConfig(steps=options.steps, seed=seed, rescale_second_view=spread)
            with tempfile.TemporaryDirectory() as folder:
                sane = pretrain(train, SANEConfig(), training, preparation, out=Path(folder) / "sane")
                parts = [embed(sane, part, "readout") for part in (train, validation, test)]
                r2 = {target: round(probe(*parts, target=target).r2, 3) for target in TARGETS}
                before, after = reconstructed(sane, test, images)
            print(
                json.dumps(
                    {
                        "choice": name,
                        "seed": seed,
                        "loss": round(sane.about["final"]["reconstruction"], 3),
                        "accuracy": round(before, 3),
                        "reconstructed": round(after, 3),
                        **r2,
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
