"""The tables of writing networks; see tables_writing.sh, which runs this.

Every SANE is trained on the training members of one zoo (70 %); anchors are training members, ranked on validation
images; novelty is measured against all their checkpoints. Each table is a file of rows with the command, the seed, the
date and the hashes of the zoos it was made from.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.presets import sized
from weightspace.autoencoder.reconstructing import LatentDescent, reconstruct
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.autoencoder.training.distilling import distill
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.corpus.config import PreparationConfig
from weightspace.evaluation.comparing import Competitors, compare_with_controls, writing_rows
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.fine_tuning import Population, fine_tune
from weightspace.generation.anchors import Anchors, encode_anchors
from weightspace.generation.config import SamplerConfig, SelectConfig
from weightspace.generation.novelty import Novelty, NoveltyReference
from weightspace.generation.samplers.gaussian import Gaussian, Mixture, RandomLatents
from weightspace.generation.samplers.interpolation import Interpolation
from weightspace.generation.samplers.kernel_density import KernelDensity, published_sampler
from weightspace.generation.samplers.sampler import Sampler
from weightspace.generation.sampling import Generated
from weightspace.generation.selecting import best_networks
from weightspace.generation.widths import BANDWIDTHS, novelty_of, width_for_novelty
from weightspace.images import Images, ImageSet
from weightspace.outputs import hash_input, partial_path, to_json
from weightspace.supervised import predict_stack, stack_weights
from weightspace.tokens.windows import WindowCut
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import recorded_images
from weightspace.zoo.zoo import Zoo

SMALL = ("mnist-cnn-s", "usps-cnn-s", "scene_digits-cnn-s", "cifar10-cnn-s")
HYPER_STEPS = {"mnist-cnn-s": 100}
TRANSFERS = (
    ("scene_digits-cnn-s", "mnist-cnn-s"),
    ("mnist-cnn-s", "usps-cnn-s"),
    ("usps-cnn-s", "mnist-cnn-s"),
    ("mnist-cnn-s", "scene_digits-cnn-s"),
)
SHARES, SEED = (0.7, 0.15, 0.15), 0
SHAPE, TRAINING, PREPARATION = sized("small", writing=True)
DISTILLING = DistillConfig(seed=SEED)
NARROW = replace(SHAPE, latent_width=18)
SAMPLER = KernelDensity(bandwidth=0.1)
RESNET_SHAPE = SANEConfig(latent_width=64, model_width=96, linear_path=True)
RESNET_PREPARATION = PreparationConfig(token_width=73)
RESNET_TRAINING = TrainConfig(
    steps=400,
    window=256,
    batch_size=16,
    learning_rate=1e-3,
    contrastive_weight=0.0,
    statistics_weight=0.0,
    noise=0.0,
    seed=SEED,
)
RESNET_DISTILLING = DistillConfig(
    steps=150, networks=4, mixed=0.0, latent_noise=0.1, statistics_weight=0.0, windows=3, seed=SEED
)
DRAWS, KEPT, ANCHORS, NOVELTY = 50, 5, 10, 0.3
RESNET_DRAWS, RESNET_KEPT = 12, 3
Row = dict[str, Any]
COMMAND = "benchmarks/tables_writing.sh"


class Setting(NamedTuple):
    """Where zoos are, and where trained models are kept."""

    zoos: Path
    models: Path

    def zoo(self, name: str) -> Zoo:
        return Zoo.open(self.zoos / name)

    def parts(self, name: str) -> tuple[Zoo, ...]:
        return self.zoo(name).split(*SHARES, seed=SEED)

    def images(self, name: str) -> ImageSet:
        found = recorded_images(self.zoo(name))
        if found is None:
            raise SystemExit(f"the images of {name} are not here: see zoos.sh")
        return found

    def plain(self, name: str, narrow: bool = False) -> SANE:
        """Pre-trained on training members (see `members_of`)."""
        out = self.folder(name, narrow)
        if not out.exists():
            self.models.mkdir(parents=True, exist_ok=True)
            existing: Literal["refuse", "resume"] = "resume" if partial_path(out).exists() else "refuse"
            shape = NARROW if narrow else SHAPE
            pretrain(members_of(self.parts(name)[0], narrow), shape, TRAINING, PREPARATION, out=out, existing=existing)
        return SANE.open(out)

    def residual(self, name: str) -> SANE:
        """Pre-trained on residual networks, and distilled a little."""
        plain, out = self.models / name, self.models / f"{name}-distilled"
        train = self.parts(name)[0]
        if not plain.exists():
            pretrain(train, RESNET_SHAPE, RESNET_TRAINING, RESNET_PREPARATION, out=plain)
        if not out.exists():
            distill(plain, trained(train), self.images(name).train, RESNET_DISTILLING, out=out)
        return SANE.open(out)

    def folder(self, name: str, narrow: bool) -> Path:
        return self.models / f"{name}{'-narrow' if narrow else '-half'}"

    def distilled(self, name: str, narrow: bool = False) -> SANE:
        """The same, distilled."""
        self.plain(name, narrow)
        before = self.folder(name, narrow)
        out = before.with_name(f"{before.name}-distilled")
        if not out.exists():
            members = trained(members_of(self.parts(name)[0], narrow))
            existing: Literal["refuse", "resume"] = "resume" if partial_path(out).exists() else "refuse"
            distill(before, members, self.images(name).train, DISTILLING, out=out, existing=existing)
        return SANE.open(out)


def members_of(train: Zoo, narrow: bool) -> Zoo:
    """All their checkpoints for narrow latents; else the first half of the epochs, the protocol of table 3."""
    return train if narrow else train.where(lambda table: table["epoch"] <= table["epoch"].max() // 2)


def trained(zoo: Zoo) -> Zoo:
    """The later half of the checkpoints: those worth imitating."""
    return zoo.where(lambda table: table["epoch"] >= table["epoch"].max() // 2)


def best_architecture(train: Zoo) -> str:
    """The architecture whose better members are best, by validation accuracy."""
    return str(train.last().table.groupby("architecture")["validation_accuracy"].quantile(0.8).idxmax())


def anchors_of(train: Zoo, count: int = ANCHORS, epoch: int | None = None) -> Zoo:
    """The best training members of one architecture, by validation accuracy, at one epoch or at their last."""
    own = train.where(architecture=best_architecture(train))
    own = own.last() if epoch is None else own.where(epoch=epoch)
    return own.best(min(count, len(own.members)), by="validation_accuracy")


def without_halo(length: int, window: int) -> WindowCut:
    """Windows that see no context."""
    return WindowCut(length, min(length, window), 0)


class Method(NamedTuple):
    """A model, a sampler, and how networks are selected."""

    sane: SANE
    sampler: Sampler
    select: SelectConfig

    def make(self, anchors: Zoo, images: ImageSet, count: int = KEPT) -> list[Generated]:
        encoded: Anchors = encode_anchors(self.sane, anchors)
        return best_networks(self.sane, encoded, count, images, self.select, seed=SEED, sampler=self.sampler).networks


PLAIN, SUBSAMPLED = SelectConfig(), SelectConfig(draws=DRAWS)
BOOTSTRAPPED = SelectConfig(draws=DRAWS, rounds=3)
REFINED = SelectConfig(draws=DRAWS, refine=50)


def same(setting: Setting, name: str) -> list[Row]:
    """Table 3: pre-train on the first half of the epochs, prompt with the last; every baseline beside it."""
    plain, sane = setting.plain(name), setting.distilled(name)
    chosen = anchors_of(setting.parts(name)[0])
    sampler = new_sampler(setting, name, sane, chosen)
    methods = {
        "SANE, subsampled": Method(sane, sampler, SUBSAMPLED),
        "SANE, bandwidth 0.05": Method(sane, KernelDensity(bandwidth=BANDWIDTHS[0]), SUBSAMPLED),
        "SANE, kernel density": Method(sane, sampler, PLAIN),
        "SANE, bootstrapped": Method(sane, sampler, BOOTSTRAPPED),
        "SANE, refined": Method(sane, sampler, REFINED),
        "SANE, interpolation, subsampled": Method(sane, Interpolation(), SUBSAMPLED),
        "SANE, published sampler": Method(sane, published_sampler(), PLAIN),
        "SANE, random start, bootstrapped": Method(sane, RandomLatents(), SelectConfig(draws=DRAWS, rounds=5)),
        "SANE before tuning, subsampled": Method(plain, sampler, SUBSAMPLED),
    }
    config = EvaluateConfig(epochs=(0, 1, 5), long=25, hyper_steps=HYPER_STEPS.get(name, 0), seed=SEED)
    rows = rows_of(setting, name, sane, methods, chosen, config)
    return [{**row, "bandwidth": sampler.bandwidth} for row in rows]


def new_sampler(setting: Setting, name: str, sane: SANE, anchors: Zoo) -> KernelDensity:
    """With the narrowest bandwidth whose best networks, of fifty, are as new as aimed at."""
    images = setting.images(name)

    def make(sampler: Sampler) -> list[Generated]:
        return Method(sane, sampler, SUBSAMPLED).make(anchors, images)

    measure = novelty_of(sane, setting.parts(name)[0], images)
    return KernelDensity(bandwidth=width_for_novelty(SamplerConfig(), NOVELTY, make, measure).sampling.bandwidth)


def samplers(setting: Setting, name: str) -> list[Row]:
    """Choices of the sampler, without fine-tuning; all subsampled alike."""
    sane = setting.distilled(name)
    kinds: dict[str, Sampler] = {
        f"kernel density {width:g}": KernelDensity(bandwidth=width) for width in (0.05, 0.1, 0.2, 0.4)
    }
    kinds |= {
        "kernel density, an anchor for each layer": KernelDensity(bandwidth=0.1, anchor="layer"),
        "kernel density, an anchor for each token": KernelDensity(bandwidth=0.1, anchor="independent"),
        "kernel density, shared noise": KernelDensity(bandwidth=0.1, noise="shared"),
        "published": published_sampler(),
        "Gaussian": Gaussian(),
        "Gaussian, half as wide": Gaussian(scale=0.5),
        "mixture of 3": Mixture(components=3),
        "interpolation": Interpolation(),
        "interpolation, 2 neighbours": Interpolation(neighbors=2),
        "interpolation on the sphere": Interpolation(along="sphere"),
        "random": RandomLatents(),
    }
    methods = {f"SANE, {kind}": Method(sane, sampler, SUBSAMPLED) for kind, sampler in kinds.items()}
    return rows_of(
        setting, name, sane, methods, anchors_of(setting.parts(name)[0]), EvaluateConfig(epochs=(0,), full_length=1)
    )


def anchors(setting: Setting, name: str) -> list[Row]:
    """How many anchors: 1, 3, 5, 20."""
    sane, found = setting.distilled(name), []
    for count in (1, 3, 5, 20):
        chosen = anchors_of(setting.parts(name)[0], count)
        sampler = (
            SAMPLER if count > 1 else KernelDensity(bandwidth=latent_bandwidth(sane, setting, name), relative=False)
        )
        methods = {"SANE, subsampled": Method(sane, sampler, SUBSAMPLED)}
        config = EvaluateConfig(epochs=(0, 1), full_length=1, seed=SEED)
        found += [{**row, "anchors": count} for row in rows_of(setting, name, sane, methods, chosen, config)]
    return found


def latent_bandwidth(sane: SANE, setting: Setting, name: str) -> float:
    """For one anchor, which has no spread: the usual noise in latent units."""
    encoded = encode_anchors(sane, anchors_of(setting.parts(name)[0]))
    return SAMPLER.bandwidth * float(encoded.latents.std(0).mean())


def transfer(setting: Setting, pair: str) -> list[Row]:
    """Table 13: the SANE of table 3 of one task, anchors trained for 2 epochs on another, networks for that other."""
    return prompted(setting, pair, EvaluateConfig(epochs=(0, 1), long=5, seed=SEED))


def architectures(setting: Setting, pair: str) -> list[Row]:
    """Figure 5: a SANE that never saw the architecture of its anchors (2 epochs of training)."""
    return prompted(setting, pair, EvaluateConfig(epochs=(0, 1), long=5, seed=SEED))


def prompted(setting: Setting, pair: str, config: EvaluateConfig) -> list[Row]:
    """Networks from the SANE of one zoo, with anchors of another that were trained for 2 epochs."""
    source, target = pair.split("->")
    chosen = anchors_of(setting.parts(target)[0], 5, epoch=2)
    sane = setting.distilled(source).adopting(chosen)
    methods = {
        "SANE, subsampled": Method(sane, SAMPLER, SUBSAMPLED),
        "SANE, kernel density": Method(sane, SAMPLER, PLAIN),
        "SANE, refined": Method(sane, SAMPLER, REFINED),
    }
    return [{**row, "source": source} for row in rows_of(setting, target, sane, methods, chosen, config)]


def resnet(setting: Setting, name: str) -> list[Row]:
    """Tables 4 and 7: residual networks, with batch norms conditioned or as generated, with and without halo."""
    sane, images = setting.residual(name), setting.images(name)
    chosen = anchors_of(setting.parts(name)[0], 5)
    draws = SelectConfig(draws=RESNET_DRAWS)
    methods = {
        "SANE, subsampled": Method(sane, SAMPLER, draws),
        "SANE, bootstrapped": Method(sane, SAMPLER, replace(draws, rounds=3)),
        "SANE, halo and conditioning": Method(sane, SAMPLER, PLAIN),
        "SANE, halo, statistics as generated": Method(sane, SAMPLER, SelectConfig(condition=0)),
    }
    without = {
        "SANE, conditioning, no halo": methods["SANE, halo and conditioning"],
        "SANE, neither": methods["SANE, halo, statistics as generated"],
    }
    generated = {label: method.make(chosen, images, RESNET_KEPT) for label, method in methods.items()}
    with patch("weightspace.autoencoder.coding.cut_windows", without_halo):
        generated |= {label: method.make(chosen, images, RESNET_KEPT) for label, method in without.items()}
    config = EvaluateConfig(epochs=(0, 1), long=5, seed=SEED)
    competitors = Competitors(sane, setting.parts(name)[0], chosen, generated, draws)
    found = compare_with_controls(competitors, images, config)
    return [{"zoo": name, **row.to_json()} for row in found.rows]


def fidelity(setting: Setting, name: str) -> list[Row]:
    """What held-out members keep of half a latent per weight, as encoded and encoded in gradient steps."""
    train, _, held_out = setting.parts(name)
    images = setting.images(name)
    narrow, descent = setting.distilled(name, narrow=True), LatentDescent(images.train)
    untrained = narrow.untrained(0)
    kinds: dict[str, tuple[SANE, LatentDescent | None]] = {
        "pre-trained": (setting.plain(name, narrow=True), None),
        "distilled": (narrow, None),
        "distilled, encoded closely": (narrow, descent),
        "untrained, encoded closely": (untrained, descent),
    }
    populations: list[Population] = []
    novelty: dict[str, list[Novelty]] = {}
    agreement: dict[str, list[Tensor]] = {}
    for architecture in held_out.architectures.values():
        own = held_out.last().where(architecture=architecture.id)
        networks = [own.weights(row) for row in range(len(own))]
        reference = NoveltyReference(train, narrow.preparation, architecture)
        made = {"held-out members": Decoded(networks, 0.0)}
        for kind, (sane, closely) in kinds.items():
            pairs = reconstruct(sane, networks, architecture, descent=closely)
            per_weight = pairs[0].latents / sum(own.numel() for own in pairs[0].original.values())
            made[kind] = Decoded([own.decoded for own in pairs], per_weight)
        for kind, decoded in made.items():
            populations.append(Population(kind, kind, architecture, *decoded))
            novelty.setdefault(kind, []).append(reference.measure(decoded.networks, architecture, images.test))
            agreement.setdefault(kind, []).append(agreeing(architecture, decoded.networks, networks, images.test))
    joined = {kind: Novelty(*map(np.concatenate, zip(*parts, strict=True))) for kind, parts in novelty.items()}
    rows = writing_rows(populations, fine_tune(populations, images, EvaluateConfig(epochs=(0,))), joined)
    return [{"zoo": name, **r.to_json(), "agreement": float(torch.cat(agreement[r.method]).mean())} for r in rows]


class Decoded(NamedTuple):
    """Networks that went through an autoencoder, and how many latent numbers it keeps per weight."""

    networks: list[Weights]
    latents_per_weight: float


def agreeing(architecture: Architecture, first: list[Weights], second: list[Weights], images: Images) -> Tensor:
    """For every pair of networks the share of images on which they give the same answer."""
    module = architecture.build()
    answers = [predict_stack(module, stack_weights(own), images.inputs).argmax(-1) for own in (first, second)]
    return (answers[0] == answers[1]).float().mean(1)


def rows_of(
    setting: Setting, name: str, sane: SANE, methods: dict[str, Method], anchors: Zoo, config: EvaluateConfig
) -> list[Row]:
    """Networks of every method beside the controls; the first method's draws are everybody's."""
    images = setting.images(name)
    generated = {label: method.make(anchors, images) for label, method in methods.items()}
    train = setting.parts(name)[0]
    competitors = Competitors(sane, train, anchors, generated, next(iter(methods.values())).select)
    found = compare_with_controls(competitors, images, config)
    return [{"zoo": name, **row.to_json()} for row in found.rows]


TABLES: dict[str, tuple[Callable[[Setting, str], list[Row]], tuple[str, ...]]] = {
    "same": (same, SMALL),
    "samplers": (samplers, ("mnist-cnn-s",)),
    "anchors": (anchors, ("mnist-cnn-s",)),
    "transfer": (transfer, tuple("->".join(pair) for pair in TRANSFERS)),
    "architectures": (architectures, ("cifar10-cnn-s->cifar10-cnn-l",)),
    "fidelity": (fidelity, SMALL),
    "resnet": (resnet, ("cifar10-resnet18w8",)),
}


def write(out: Path, table: str, subject: str, rows: list[Row], zoos: list[Path]) -> None:
    """One file of rows, with what they were made from."""
    value = {
        "table": table,
        "command": f"{COMMAND} {table}",
        "seed": SEED,
        "date": date.today().isoformat(),
        "zoos": {zoo.name: hash_input(zoo) for zoo in zoos},
        "rows": rows,
    }
    (out / f"writing-{table}-{subject.replace('->', '-to-')}.json").write_text(to_json(value, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--zoos", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="one zoo, or one pair of zoos")
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(given.zoos, given.models)
    unknown = [table for table in given.tables if table not in TABLES]
    if unknown:
        parser.error(f"expected {', '.join(TABLES)}, found {unknown[0]}")
    for table in given.tables or TABLES:
        make, subjects = TABLES[table]
        for subject in subjects:
            target = given.out / f"writing-{table}-{subject.replace('->', '-to-')}.json"
            if target.exists() or (given.only and subject != given.only):
                continue
            print(f"{table}: {subject}", flush=True)
            rows = make(setting, subject)
            write(given.out, table, subject, rows, [given.zoos / name for name in subject.split("->")])


if __name__ == "__main__":
    main()
