"""Pre-training against the straightforward way (`plain.py`): real weights per second, and from a zoo to the first step.

Both train a model of equal width, depth and batch (our defaults, and a larger one), loader included, on one thread
beside their loaders: ours draws windows of `packed` and of `rows` tokens, the straightforward way reads files of 201
permuted copies of `rows` tokens with two workers. Rates count real weights, since padding is no work. From a zoo's
folder to the first step: five checkpoints, with as many windows of each as the published scripts take (3 for CNNs;
50 for ResNet-18, whose files are extrapolated from a few copies of one window). Also how long our own way takes for
1,000 cnn-s and 20 ResNet-18, alignment apart, and what it writes.
Prints one JSON object as its last line; takes about four minutes.
`--profile` alone says where the CPU seconds of a step go, by operation and for drawing its batch: width 256, 4 + 4
layers, 32 windows of 32 tokens of cnn-s in two views.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import torch._dynamo  # imported here, as imports are not what is measured
from plain import COPIES, PlainSANE, batches, plain_step, write_sample
from torch import nn
from torch.profiler import ProfilerActivity, profile

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.devices import multiplies_bf16
from weightspace.autoencoder.training.loop import Loop
from weightspace.autoencoder.training.pretraining import Pretraining
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.views import Views, WindowSource
from weightspace.supervised import stack_weights
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.tokens.layout import plan_layout
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.networks import cnn_l, cnn_s, resnet18
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo

BATCH, WINDOW = 32, 64
MODELS = {"small": SANEConfig(), "width 256": SANEConfig(model_width=256, heads=8, latent_width=64)}
NETWORKS = {"cnn-s": (cnn_s, (2, 1, 28, 28), 201), "cnn-l": (cnn_l, (2, 3, 32, 32), 289)}
PUBLISHED_WINDOWS = {"cnn-s": 3, "resnet18": 50}
FEW_COPIES = (2, 6)
Style = Literal["rows", "packed"]
STYLES: tuple[Style, ...] = ("rows", "packed")


def write_zoo(folder: Path, name: str, members: int) -> Zoo:
    """Networks as they are initialised: what is in the weights does not matter here."""
    build, example = (resnet18, (2, 3, 32, 32)) if name == "resnet18" else NETWORKS[name][:2]
    architecture = Architecture.of_module(
        build(), id=name, factory=f"{build.__module__}:{build.__name__}", arguments={}, example_shape=example
    )
    writer = ZooWriter(folder)
    for member in range(members):
        stack = stack_weights([build().state_dict()])
        writer.add(architecture, stack, pd.DataFrame({"member": [f"member-{member:04d}"], "epoch": 0}))
    writer.finish({})
    return Zoo.open(folder)


def modules(name: str) -> nn.Module:
    return resnet18() if name == "resnet18" else NETWORKS[name][0]()


def our_rate(zoo: Zoo, config: SANEConfig, style: Style, steps: int, folder: Path) -> dict[str, float]:
    preparation = PreparationConfig(token_style=style)
    fitted, corpus = fit_preparation(zoo, preparation, folder / f"corpus-{style}")
    tokens = len(corpus.parts[0].frame.layout)
    training = TrainConfig(
        steps=steps,
        batch_size=BATCH,
        window=min(WINDOW, tokens),
        statistics_weight=0.0,
        save_every=10**6,
        log_every=steps,
    )
    network = Network(config, fitted.config.token_width, window=training.window)
    stage = Pretraining.of(network, corpus, training)
    last = Loop(stage, training, stage.accelerator, folder).run()[-1]
    return {"weights_per_second": last["weights_per_second"], "waiting": last["waiting_for_batches"], "tokens": tokens}


def plain_rate(zoo: Zoo, config: SANEConfig, width: int, paths: list[Path], steps: int) -> dict[str, float]:
    tokens = len(plan_layout(zoo.weights(0), width))
    window = min(WINDOW, tokens)
    model = PlainSANE(width, config.model_width, config.layers, config.heads, config.latent_width, window, 1024)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=3e-9)
    loader = batches([paths[row % BATCH] for row in range(BATCH * (steps + 1))], BATCH, window, workers=2)
    views, mask, positions = next(loader)
    plain_step(model, optimizer, views, mask, positions)
    started, weights, waited = time.perf_counter(), 0, 0.0
    before = started
    for views, mask, positions in loader:
        waited += time.perf_counter() - before
        plain_step(model, optimizer, views, mask, positions)
        weights += 2 * int(mask.sum())
        before = time.perf_counter()
    seconds = time.perf_counter() - started
    return {"weights_per_second": weights / seconds, "waiting": waited / seconds, "tokens": tokens}


def rates(name: str, steps: int, folder: Path) -> dict[str, Any]:
    build, example, width = NETWORKS[name]
    zoo, symmetry = write_zoo(folder / name, name, BATCH), trace_symmetry(build(), torch.zeros(example))
    paths = [folder / f"sample-{row}.pt" for row in range(BATCH)]
    for row, path in enumerate(paths):
        write_sample(zoo.weights(row), symmetry, width, path)
    found = {}
    for model, config in MODELS.items():
        plain = plain_rate(zoo, config, width, paths, steps)
        own: dict[str, dict[str, float]] = {style: our_rate(zoo, config, style, steps, folder) for style in STYLES}
        ratios = {style: rate["weights_per_second"] / plain["weights_per_second"] for style, rate in own.items()}
        found[model] = {"straightforward": plain, **own, "speed_up": ratios}
    return found


def profile_step(folder: Path, steps: int) -> dict[str, Any]:
    """CPU seconds of a step of width 256 by precision, the operations that take most of them, and its pieces."""
    config = SANEConfig(model_width=256, layers=4, heads=4, latent_width=64)
    fitted, corpus = fit_preparation(write_zoo(folder / "zoo", "cnn-s", BATCH), PreparationConfig(), folder / "corpus")
    window = min(32, len(corpus.parts[0].frame.layout))
    found: dict[str, Any] = {}
    for precision in ("fp32", "bf16") if multiplies_bf16() else ("fp32",):
        training = TrainConfig(
            steps=steps, batch_size=BATCH, window=window, precision=precision, log_every=10**6, save_every=10**6
        )
        stage = Pretraining.of(Network(config, fitted.config.token_width, window=window), corpus, training)

        def loop(stage: Pretraining = stage, training: TrainConfig = training) -> None:
            Loop(stage, training, stage.accelerator).run()

        loop()  # once to warm up
        before = time.process_time()
        loop()
        seconds = (time.process_time() - before) / steps
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            loop()
        times = {event.key: float(event.self_cpu_time_total) for event in profiled.key_averages()}
        longest = sorted(times.items(), key=lambda item: -item[1])[:10]
        drawing = time.process_time()
        for step in range(steps):
            stage.queue.draw(step)
        found[precision] = {
            "cpu_seconds_a_step": seconds,
            "of_which_drawing": (time.process_time() - drawing) / steps,
            "share_by_operation": {name: round(value / sum(times.values()), 3) for name, value in longest},
        }
    return found


def first_batch(zoo: Zoo, folder: Path, *, align: bool) -> tuple[float, Preparation, Corpus]:
    """Seconds from an opened folder to the first batch."""
    started = time.perf_counter()
    zoo = Zoo.open(zoo.folder)
    fitted, corpus = fit_preparation(zoo, PreparationConfig(align=align), folder)
    WindowSource(corpus, window=64, batch_size=32).draw(torch.Generator(), Views(permuted=(False, True)))
    return time.perf_counter() - started, fitted, corpus


def first_step(name: str, folder: Path) -> dict[str, float]:
    """Five checkpoints, aligned by us; the straightforward way is not even charged for its alignment."""
    zoo = write_zoo(folder / f"five-{name}", name, 5)
    module = modules(name)
    symmetry = trace_symmetry(module, torch.zeros(2, *(zoo.architectures[name].example_shape or ())[1:]))
    width = 288 if name == "resnet18" else NETWORKS[name][2]

    def sample(copies: int) -> float:
        started = time.perf_counter()
        write_sample(zoo.weights(0), symmetry, width, folder / "sample.pt", copies)
        return time.perf_counter() - started

    if name == "resnet18":
        few, more = (sample(copies) for copies in FEW_COPIES)
        one = few + (COPIES - FEW_COPIES[0]) * (more - few) / (FEW_COPIES[1] - FEW_COPIES[0])
    else:
        one = sample(COPIES)
    own = first_batch(zoo, folder / f"five-{name}-corpus", align=True)[0]
    windows = PUBLISHED_WINDOWS[name]
    return {
        "seconds": own,
        "straightforward_seconds": 5 * windows * one,
        "speed_up": 5 * windows * one / own,
        "speed_up_with_one_window_each": 5 * one / own,
        "extrapolated": name == "resnet18",
    }


def many(name: str, members: int, folder: Path) -> dict[str, float]:
    zoo = write_zoo(folder / f"many-{name}", name, members)
    seconds, _, corpus = first_batch(zoo, folder / f"many-{name}-corpus", align=False)
    raw, written = (sum(path.stat().st_size for path in own) for own in _files(zoo, corpus))
    return {"checkpoints": members, "seconds": seconds, "bytes_over_raw": written / raw}


def _files(zoo: Zoo, corpus: Corpus) -> Iterator[list[Path]]:
    yield list(zoo.folder.rglob("*.safetensors"))
    yield [part.path for part in corpus.parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.profile:
        with tempfile.TemporaryDirectory() as parent:
            print(json.dumps(profile_step(Path(parent), options.steps)))
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        for name in NETWORKS:
            results[name] = rates(name, options.steps, folder)
            print(json.dumps({name: results[name]}), flush=True)
        for name in PUBLISHED_WINDOWS:
            results[f"first_step_{name}"] = first_step(name, folder)
            print(json.dumps(results[f"first_step_{name}"]), flush=True)
        results["1,000 cnn-s"] = many("cnn-s", 1_000, folder)
        results["20 ResNet-18"] = many("resnet18", 20, folder)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
