"""The demo: grow a zoo, align it, train a SANE on it, read networks, write networks, report."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from weightspace.analysis.comparing import compare_representations, standard_representations
from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.inference import embed
from weightspace.autoencoder.pretraining import HISTORY_FILE, pretrain
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.config import PreparationConfig
from weightspace.demo.config import DemoConfig
from weightspace.demo.figures import accuracy_figure, fine_tuning_figure, loss_figure, map_figure
from weightspace.demo.findings import describe_findings
from weightspace.generation.choosing import choose_anchors
from weightspace.generation.comparing import Comparison, compare
from weightspace.generation.config import EvaluateConfig
from weightspace.generation.generating import describe_generation, generate_networks, write_generated
from weightspace.generation.kernel_density import KernelDensity
from weightspace.images import ImageSet, open_images
from weightspace.outputs import called_as, installed_versions, new_folder, write_json, write_manifest
from weightspace.report.page import FIGURES_FILE, REPORT_FILE, RESULTS_FILE, render_report
from weightspace.zoo.config import GrowConfig
from weightspace.zoo.growing import grow
from weightspace.zoo.zoo import Zoo

NETWORK = "mlp:16,16"
SHARES = (0.7, 0.15, 0.15)
TARGETS = ("test_accuracy", "epoch", "generalization_gap")
log = logging.getLogger("weightspace.demo")


class Split(NamedTuple):
    """A zoo's three parts, split by member."""

    train: Zoo
    validation: Zoo
    test: Zoo


def run_demo(out: str | Path, config: DemoConfig | None = None, *, force: bool = False) -> Mapping[str, Any]:
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
    with new_folder(out, force=force) as folder:
        images = open_images("digits", seed=config.seed)
        zoo = _grow(folder, images, config)
        split = Split(*zoo.split(*SHARES, seed=config.seed))
        sane = _pretrain(folder, split.train, config)
        reading = _read(sane, split, config)
        comparison = _write(folder, sane, split.train, images, config)
        seconds = time.perf_counter() - started
        log.info("[5/5] report     after %.0f seconds", seconds)
        results = _results(config, split, sane, reading, comparison.rows, seconds)
        figures = {
            "accuracy": accuracy_figure(zoo),
            "losses": loss_figure(json.loads((folder / "sane" / HISTORY_FILE).read_text())),
            "map": map_figure(embed(sane, split.test)),
            "fine_tuning": fine_tuning_figure(comparison.outcomes, config.networks),
        }
        write_json(folder / RESULTS_FILE, results)
        write_json(folder / FIGURES_FILE, figures)
        (folder / REPORT_FILE).write_text(render_report(folder), encoding="utf-8")
        write_manifest(folder, configuration=asdict(config), seed=config.seed)
    return results


def _grow(folder: Path, images: ImageSet, config: DemoConfig) -> Zoo:
    log.info("[1/5] zoo        %d networks of the kind %s on scikit-learn's digits", config.members, NETWORK)
    growing = GrowConfig(members=config.members, epochs=config.epochs, keep=config.keep, seed=config.seed)
    return grow(NETWORK, images, growing, folder / "zoo")


def _pretrain(folder: Path, train: Zoo, config: DemoConfig) -> SANE:
    log.info("[2/5] pre-train  align, tokenise, %d steps of SANE on %d members", config.steps, len(train.members))
    training = TrainConfig(steps=config.steps, seed=config.seed)
    return pretrain(train, SANEConfig(), training, PreparationConfig(), out=folder / "sane")


def _read(sane: SANE, split: Split, config: DemoConfig) -> list[dict[str, Any]]:
    log.info("[3/5] read       probes, tested on %d members that SANE never saw", len(split.test.members))
    return compare_representations(split, standard_representations(sane), TARGETS, seed=config.seed)


def _write(folder: Path, sane: SANE, train: Zoo, images: ImageSet, config: DemoConfig) -> Comparison:
    log.info("[4/5] write      %d networks around the best %d members", config.networks, config.anchors)
    anchors, sampler = choose_anchors(sane, train, config.anchors), KernelDensity()
    networks = generate_networks(sane, anchors, config.networks, seed=config.seed, sampler=sampler)
    about = describe_generation(folder / "sane", anchors, sampler, relative_to=folder / "generated")
    generated = write_generated(networks, folder / "generated", about=about, seed=config.seed)
    return compare(sane, train, anchors, generated, images, EvaluateConfig(seed=config.seed))


def _results(
    config: DemoConfig,
    split: Split,
    sane: SANE,
    reading: list[dict[str, Any]],
    writing: list[dict[str, Any]],
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
        "findings": describe_findings(reading, writing),
        "seconds": round(seconds, 1),
        "reading": reading,
        "writing": writing,
        "made": {
            "command": called_as(),
            "seed": config.seed,
            "architectures": ", ".join(split.train.architectures),
            "members": ", ".join(f"{count} {name}" for name, count in members.items()),
            "latents per weight": f"{sane.latents_per_weight:.2f}",
            "seconds": f"{seconds:.0f}",
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        },
    }
