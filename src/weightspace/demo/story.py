"""The demo: grow a zoo, align it, train a SANE on it, read networks, write networks, report."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.pretraining import HISTORY_FILE, pretrain
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.config import PreparationConfig
from weightspace.demo.config import DemoConfig
from weightspace.demo.findings import describe_findings
from weightspace.demo.reading import Split, read_networks
from weightspace.demo.writing import choose_anchors, write_networks
from weightspace.generation.generating import describe_generation, generate_networks, write_generated
from weightspace.generation.kernel_density import KernelDensity
from weightspace.images import open_images
from weightspace.outputs import called_as, installed_versions, new_folder, write_json, write_manifest
from weightspace.report.page import FIGURES_FILE, REPORT_FILE, RESULTS_FILE, render_report
from weightspace.zoo.config import GrowConfig
from weightspace.zoo.growing import grow
from weightspace.zoo.zoo import Zoo

NETWORK = "mlp:16,16"
SHARES = (0.7, 0.15, 0.15)
log = logging.getLogger("weightspace.demo")


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
        log.info("[3/5] read      probes on %d unseen members", len(split.test.members))
        reading, map_figure = read_networks(sane, split, config.seed)
        log.info("[4/5] write     %d networks around %d anchors", config.networks, config.anchors)
        anchors = choose_anchors(split.train, config.anchors)
        sampler = KernelDensity()
        generated = generate_networks(sane, anchors, config.networks, seed=config.seed, sampler=sampler)
        about = describe_generation(folder / "sane", anchors, sampler, relative_to=folder / "generated")
        write_generated(generated, folder / "generated", about=about, seed=config.seed)
        writing, curves = write_networks(sane, split.train, anchors, generated, images, config)
        seconds = time.perf_counter() - started
        log.info("[5/5] report    after %.0f seconds", seconds)
        results = _results(config, split, sane, reading, writing, seconds)
        write_json(folder / RESULTS_FILE, results)
        write_json(folder / FIGURES_FILE, {**_zoo_figures(zoo, folder / "sane"), **map_figure, **curves})
        (folder / REPORT_FILE).write_text(render_report(folder), encoding="utf-8")
        write_manifest(folder, configuration=asdict(config), seed=config.seed)
    return results


def _grow(folder: Path, images: Any, config: DemoConfig) -> Zoo:
    log.info("[1/5] zoo       %d networks of the kind %s on scikit-learn's digits", config.members, NETWORK)
    growing = GrowConfig(members=config.members, epochs=config.epochs, keep=config.keep, seed=config.seed)
    return grow(NETWORK, images, growing, folder / "zoo")


def _pretrain(folder: Path, train: Zoo, config: DemoConfig) -> SANE:
    log.info("[2/5] pre-train align, tokenise and %d steps of SANE on %d members", config.steps, len(train.members))
    training = TrainConfig(steps=config.steps, seed=config.seed)
    return pretrain(train, SANEConfig(), training, PreparationConfig(), out=folder / "sane")


def _zoo_figures(zoo: Zoo, sane_folder: Path) -> dict[str, Any]:
    epochs = sorted(int(epoch) for epoch in zoo.table["epoch"].unique())
    quantiles = zoo.table.groupby(["activation", "epoch"])["test_accuracy"].quantile([0.25, 0.5, 0.75]).unstack()
    history = _read_history(sane_folder)
    return {
        "accuracy": {
            "epochs": epochs,
            "groups": {name: quantiles.loc[name].to_numpy().tolist() for name in sorted(zoo.table["activation"].unique())},
            "facts": {"members": len(zoo.members)},
        },
        "losses": {
            **{name: [row[name] for row in history] for name in ("step", "reconstruction", "contrastive")},
            "facts": {"steps": int(history[-1]["step"])},
        },
    }


def _read_history(sane_folder: Path) -> list[dict[str, float]]:
    history: list[dict[str, float]] = json.loads((sane_folder / HISTORY_FILE).read_text())
    return history


def _results(
    config: DemoConfig,
    split: Split,
    sane: SANE,
    reading: list[dict[str, Any]],
    writing: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    members = {name: len(part.members) for name, part in split._asdict().items()}
    architectures = list(split.train.architectures)
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
            "architectures": ", ".join(architectures),
            "members": ", ".join(f"{count} {name}" for name, count in members.items()),
            "latents per weight": f"{sane.latents_per_weight:.2f}",
            "seconds": f"{seconds:.0f}",
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        },
    }
