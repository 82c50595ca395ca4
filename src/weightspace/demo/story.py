"""The demo: grow a zoo, align it, train a SANE on it, read networks, write networks, report."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from weightspace.analysis.fidelity import reconstruction_r2
from weightspace.analysis.probing.comparing import Fold, ReadingComparison, compare_representations
from weightspace.analysis.representations.catalog import choose_representations
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.loop import TrainingStopped
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.autoencoder.training.states import HISTORY_FILE
from weightspace.corpus.config import PreparationConfig
from weightspace.demo import figures
from weightspace.demo.config import DemoConfig
from weightspace.demo.findings import describe_findings, tell_story
from weightspace.evaluation.comparing import GENERATED, Competitors, WritingComparison, compare_with_controls
from weightspace.evaluation.config import EvaluateConfig
from weightspace.generation.anchors import Anchors, choose_anchors, encode_anchors
from weightspace.generation.config import SamplerConfig, SelectConfig
from weightspace.generation.generating import describe_generation, write_generated
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.sampling import Generated, sample_networks
from weightspace.images import ImageSet, open_images
from weightspace.outputs import Existing, called_as, installed_versions, new_folder, write_json, write_manifest
from weightspace.report.page import FIGURES_FILE, REPORT_FILE, RESULTS_FILE, render_report
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.zoo import Zoo

NETWORK = "mlp:16,16"
SHARES = (0.7, 0.15, 0.15)
TARGETS = ("test_accuracy", "epoch", "generalization_gap")
HYPER_PARAMETERS = ("learning_rate", "weight_decay", "activation", "initialization")
SAMPLERS = {
    GENERATED: KernelDensity(),
    "SANE, noise shared by tokens": KernelDensity(noise="shared"),
    "SANE, anchor of each token's own": KernelDensity(anchor="independent"),
}
SEEDS = 3
log = logging.getLogger("weightspace.demo")


class Split(NamedTuple):
    """A zoo's three parts, split by member."""

    train: Zoo
    validation: Zoo
    test: Zoo


def run_demo(out: str | Path, config: DemoConfig | None = None, *, existing: Existing = "refuse") -> Mapping[str, Any]:
    """Tell the whole story on scikit-learn's digits and write it to `out`.

    `out` then has `zoo/`, `sane/`, `generated/` (each usable by itself), `results.json`, `figures.json` and
    `report.html`. Progress is logged to the logger `weightspace.demo`, a line per stage.

    Returns:
        The content of `results.json`: `seconds`, `reading` and `writing` rows, and what the page says.

    Raises:
        InputError: `out` exists, or a configuration too small to split.
    """
    config = config or DemoConfig()
    started = time.perf_counter()
    with new_folder(out, existing=existing) as folder:
        images = open_images("digits")
        zoo = _grow(folder, images, config)
        split = Split(*zoo.split(*SHARES, seed=config.seed))
        sane = _pretrain(folder, split.train, config)
        read = _read(sane, split, config)
        generated, written = _write(folder, sane, split.train, images, config)
        log.info("[5/5] report     after %.0f seconds", time.perf_counter() - started)
        drawn = _figures(folder, zoo, sane, split, read) | _writing_figures(sane, generated, written, split.train)
        seconds = time.perf_counter() - started
        results = _results(config, split, sane, read, written, seconds)
        write_json(folder / RESULTS_FILE, results)
        write_json(folder / FIGURES_FILE, drawn)
        (folder / REPORT_FILE).write_text(render_report(folder), encoding="utf-8")
        write_manifest(folder, configuration=asdict(config), seed=config.seed)
    return results


def _grow(folder: Path, images: ImageSet, config: DemoConfig) -> Zoo:
    log.info("[1/5] zoo        %d networks of the kind %s on scikit-learn's digits", config.members, NETWORK)
    growing = GrowConfig(
        members=config.members,
        epochs=config.epochs,
        keep=config.keep,
        seed=config.seed,
        plan="stacked",  # not measured, so that the numbers are the same anywhere
        workers=1,
    )
    return grow(NETWORK, images, growing, folder / "zoo")


def _pretrain(folder: Path, train: Zoo, config: DemoConfig) -> SANE:
    log.info("[2/5] pre-train  align, tokenise, %d steps of SANE on %d members", config.steps, len(train.members))
    training = TrainConfig(steps=config.steps, seed=config.seed)
    try:
        return pretrain(train, SANEConfig(), training, PreparationConfig(), out=folder / "sane")
    except TrainingStopped as stopped:
        raise KeyboardInterrupt("the demo was stopped; nothing is kept of it") from stopped


def _read(sane: SANE, split: Split, config: DemoConfig) -> ReadingComparison:
    log.info("[3/5] read       probes, tested on %d members that SANE never saw", len(split.test.members))
    fold = Fold(split, choose_representations(sane=sane))
    return compare_representations([fold], TARGETS, hyper_parameters=HYPER_PARAMETERS, seed=config.seed)


def _write(
    folder: Path, sane: SANE, train: Zoo, images: ImageSet, config: DemoConfig
) -> tuple[list[Generated], WritingComparison]:
    anchors = choose_anchors(sane, _one_architecture(train), config.anchors)
    encoded = encode_anchors(sane, anchors)
    log.info("[4/5] write      %d networks a method around the best %d members", config.networks, len(anchors))
    made = {method: _generate(sane, encoded, sampler, config) for method, sampler in SAMPLERS.items()}
    about = describe_generation(folder / "sane", anchors, SamplerConfig(), relative_to=folder / "generated")
    write_generated(made[GENERATED], folder / "generated", about=about, seed=config.seed)
    competitors = Competitors(sane, train, anchors, made, SelectConfig())
    written = compare_with_controls(competitors, images, EvaluateConfig(seed=config.seed))
    return made[GENERATED], written


def _generate(sane: SANE, anchors: Anchors, sampler: KernelDensity, config: DemoConfig) -> list[Generated]:
    """Networks from several seeds, as many as the configuration says in all."""
    counts = [len(range(seed, config.networks, SEEDS)) for seed in range(SEEDS)]
    return [
        network
        for seed, count in enumerate(counts)
        if count
        for network in sample_networks(sane, anchors, count, seed=config.seed + seed, sampler=sampler)
    ]


def _one_architecture(train: Zoo) -> Zoo:
    """The members of the architecture whose best members are best, by validation accuracy."""
    last = train.last()
    medians = last.table.groupby("architecture")["validation_accuracy"].quantile(0.9)
    return train.where(architecture=str(medians.idxmax()))


def _figures(folder: Path, zoo: Zoo, sane: SANE, split: Split, read: ReadingComparison) -> dict[str, Any]:
    last = split.test.last()
    return {
        "accuracy": figures.accuracy_figure(zoo),
        "losses": figures.loss_figure(json.loads((folder / "sane" / HISTORY_FILE).read_text())),
        "layers": figures.layer_figure(reconstruction_r2(sane, last), len(last)),
        "map": figures.map_figure(sane.embed(split.test, "readout")),
        "bars": figures.bars_figure(read),
        "prediction": figures.prediction_figure(read),
    }


def _writing_figures(sane: SANE, generated: list[Generated], written: WritingComparison, train: Zoo) -> dict[str, Any]:
    shown = generated[0]
    nearest = train.weights(int(written.novelty[GENERATED].nearest[0]))
    matched = sane.preparation.match_to(shown.weights, nearest, shown.architecture)
    return {
        "fine_tuning": figures.fine_tuning_figure(written, len(generated)),
        "novelty": figures.novelty_figure(written),
        "filters": figures.filter_figure(shown, matched),
    }


def _results(
    config: DemoConfig,
    split: Split,
    sane: SANE,
    read: ReadingComparison,
    written: WritingComparison,
    seconds: float,
) -> dict[str, Any]:
    members = {name: len(part.members) for name, part in split._asdict().items()}
    versions = installed_versions()
    return {
        "title": "What a population of small networks tells, and what it can write",
        "summary": (
            f"{config.members} networks trained on scikit-learn's handwritten digits; a SANE autoencoder trained on "
            f"the weights of {members['train']} of them; {members['validation']} members to choose with and "
            f"{members['test']} to test on, which it never saw."
        ),
        "story": tell_story(read.rows, written.rows),
        "findings": describe_findings(read.rows, written.rows),
        "seconds": round(seconds, 1),
        "reading": [row.to_json() for row in read.rows],
        "writing": [row.to_json() for row in written.rows],
        "made": {
            "command": called_as(),
            "seed": config.seed,
            "sampling seeds": SEEDS,
            "architectures": ", ".join(split.train.architectures),
            "members": ", ".join(f"{count} {name}" for name, count in members.items()),
            "latents per weight": f"{sane.latents_per_weight:.2f}",
            "seconds": f"{seconds:.0f}",
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        },
    }
