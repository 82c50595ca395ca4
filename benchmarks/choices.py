"""What the choices of preparation and pre-training do: one SANE per choice on one zoo, all else as by default.

For each choice: R² of the standardised weights of members that it never saw (test members, last epoch), the accuracy
of these networks as they are and reconstructed, and R² of linear probes on its embeddings, all kept epochs. The
windows of the paper's figure 6 are those of training; each is reconstructed with several windows of inference.
Prints one JSON line per choice and seed; `--out` keeps them in a file that `docs/update_tables.py` reads, and
goes on where it stopped.

    python benchmarks/choices.py ZOO --data mnist.npz --limits 6250 2000 --out docs/tables/choices-mnist-cnn-s.json
"""

import argparse
import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from weightspace.analysis.fidelity import last_of_first_members, measure_fidelity
from weightspace.analysis.probing.probe import probe
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.corpus.config import PreparationConfig
from weightspace.images import Images, open_images
from weightspace.zoo.zoo import Zoo

TARGETS = ("test_accuracy", "epoch", "generalization_gap")
INFERENCE_WINDOWS = (8, 16, 32, 64)
SHARES = (0.7, 0.15, 0.15)


@dataclass(frozen=True)
class Choice:
    """What differs from the defaults.

    `latent_share` sets the latents of a token so that there are so many for every weight or, in the table `tokens`,
    so many times those that the default has.
    """

    table: str
    sane: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    preparation: dict[str, Any] = field(default_factory=dict)
    latent_share: float = 0.0


def unscaled(loss_scale: str) -> Choice:
    return Choice("normalisation", training={"loss_scale": loss_scale}, preparation={"standardize": "none"})


CHOICES = {
    "default": Choice("default"),
    "standardised by layer kind": Choice("normalisation", preparation={"standardize": "kind"}),
    "not standardised": unscaled("none"),
    "not standardised, loss by batch": unscaled("batch"),
    "not standardised, loss by token": unscaled("token"),
    "not standardised, loss by layer": unscaled("layer"),
    "standardised, loss by layer": Choice("normalisation", training={"loss_scale": "layer"}),
    "aligned, canonical views": Choice("views", training={"permute_second_view": False}),
    "not aligned, permuted views": Choice("views", preparation={"align": False}),
    "not aligned, views as they are": Choice(
        "views", training={"permute_second_view": False}, preparation={"align": False}
    ),
    "no contrastive loss": Choice("views", training={"contrastive_weight": 0.0}),
    "flattened projection": Choice("projection", sane={"projection": "flatten"}),
    "packed tokens": Choice("tokens", preparation={"token_style": "packed"}, latent_share=1.0),
    "packed tokens of 64": Choice("tokens", preparation={"token_style": "packed", "token_width": 64}, latent_share=1.0),
    "reference mean": Choice("alignment", preparation={"reference": "mean"}),
    "reference worst": Choice("alignment", preparation={"reference": "worst"}),
    "canonical scale": Choice("alignment", preparation={"rescale": "scale"}),
    "canonical sign": Choice("alignment", preparation={"rescale": "sign"}),
    "multiplicative noise 0.1": Choice("paper", training={"noise": 0.1, "noise_kind": "multiplicative"}),
    "noisy targets": Choice("paper", training={"denoise": False}),
    "no statistics head": Choice("paper", training={"statistics_weight": 0.0}),
    "learned positions": Choice("paper", sane={"positions": "learned"}),
    "initial std 0.02": Choice("paper", sane={"initial_std": 0.02}),
    "no clipping": Choice("paper", training={"clip": 0.0}),
    "learning rate 1e-3": Choice("paper", training={"learning_rate": 1e-3}),
    "window 8": Choice("window", training={"window": 8}),
    "window 16": Choice("window", training={"window": 16}),
    "window 32": Choice("window", training={"window": 32}),
    "latents 0.1 per weight": Choice("latents", latent_share=0.1),
    "latents 0.25 per weight": Choice("latents", latent_share=0.25),
    "latents 0.5 per weight": Choice("latents", latent_share=0.5),
    "latents 1 per weight": Choice("latents", latent_share=1.0),
}


class Setting(NamedTuple):
    """A zoo in three parts, the images of its task, and how long each model is trained."""

    parts: tuple[Zoo, ...]
    images: Images
    steps: int


def train(choice: Choice, setting: Setting, seed: int, folder: Path) -> SANE:
    preparation = replace(PreparationConfig(), **choice.preparation)
    if preparation.reference == "worst":
        table = setting.parts[0].last().table
        worst = table.loc[table["validation_accuracy"].idxmin(), "member"]
        preparation = replace(preparation, reference=str(worst))
    sane = replace(SANEConfig(), **choice.sane)
    training = replace(TrainConfig(), steps=setting.steps, seed=seed, **choice.training)
    return pretrain(setting.parts[0], sane, training, preparation, out=folder / "sane")


def with_latents(choice: Choice, setting: Setting, folder: Path) -> Choice:
    """The choice with the latents of a token that its `latent_share` asks for."""
    if not choice.latent_share:
        return choice

    def per_weight(name: str, preparation: PreparationConfig) -> float:
        brief = TrainConfig(steps=1, batch_size=2, window=8)
        return pretrain(setting.parts[0].last(), SANEConfig(), brief, preparation, out=folder / name).latents_per_weight

    usual = SANEConfig().latent_width
    own = per_weight("own", replace(PreparationConfig(), **choice.preparation))
    goal = per_weight("default", PreparationConfig()) if choice.table == "tokens" else 1.0
    width = max(1, round(choice.latent_share * goal * usual / own))
    return replace(choice, sane={**choice.sane, "latent_width": width})


def measure(sane: SANE, setting: Setting) -> dict[str, Any]:
    held_out = last_of_first_members(setting.parts[-1])
    found = measure_fidelity(sane, held_out, setting.images)
    row: dict[str, Any] = {
        "r2": found.overall_r2,
        "original_accuracy": found.original,
        "reconstructed_accuracy": found.reconstructed,
        "latents_per_weight": found.latents_per_weight,
        "parameters": sum(parameter.numel() for parameter in sane.network.parameters()),
    }
    for aggregation in ("mean", "readout"):
        embedded = [sane.embed(part, aggregation) for part in setting.parts]
        for target in TARGETS:
            row[f"{aggregation} {target}"] = probe(*embedded, target=target).r2
    return row


def windows(sane: SANE, setting: Setting) -> dict[str, float]:
    """R² with other windows of inference than that of training."""
    held_out = last_of_first_members(setting.parts[-1])
    scores = {}
    for window in INFERENCE_WINDOWS:
        network = Network(sane.config, sane.preparation.config.token_width, window=window)
        network.load_state_dict(sane.network.state_dict())
        scores[f"window {window}"] = measure_fidelity(replace(sane, network=network.eval()), held_out).overall_r2
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limits", type=int, nargs=2, default=(None, None))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--choices", nargs="*", default=list(CHOICES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = open_images(options.data, limits=tuple(options.limits)).test
    known = json.loads(options.out.read_text())["rows"] if options.out and options.out.exists() else []
    done = {(row["choice"], row["seed"], row["steps"]) for row in known}
    for seed in options.seeds:
        setting = Setting(Zoo.open(options.zoo).split(*SHARES, seed=seed), images, options.steps)
        for name in options.choices:
            if (name, seed, options.steps) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                choice = with_latents(CHOICES[name], setting, Path(folder))
                sane = train(choice, setting, seed, Path(folder))
                row = {"choice": name, "table": choice.table, "seed": seed, "steps": options.steps}
                row |= {"latent_width": sane.config.latent_width, **measure(sane, setting)}
                if choice.table in ("window", "default"):
                    row |= windows(sane, setting)
                known.append(row)
            print(json.dumps(row), flush=True)
            if options.out:
                command = f"python benchmarks/choices.py {options.zoo.name} --steps {options.steps}"
                options.out.write_text(
                    json.dumps({"zoo": options.zoo.name, "command": command, "rows": known}, indent=1)
                )


if __name__ == "__main__":
    main()
