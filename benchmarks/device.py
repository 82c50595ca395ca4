"""What an accelerator does for weightspace, in minutes: is it right, how fast, and where does the time go.

    python benchmarks/device.py [--minutes 9] [--dry] [--data FOLDER] [--out device.json] [--zoos FOLDER]

Stages, most valuable first; each has a time of its own, and one that breaks or takes too long says why and leaves the
others alone. Results are written after every stage as one JSON object; started again with the same --out, stages that
are in it already are not run again. Without an accelerator it runs on the CPU. --dry takes a tenth of the sizes.
--data names a folder with mnist.npz and cifar10.npz (train_images, train_labels, test_images, test_labels); without
them, scikit-learn's digits take their place. --zoos keeps the population that is grown, in shards of at most 15 MiB.
"""

import argparse
import json
import platform
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from device_sanity import compare_with_cpu
from embed_large import write_file
from grow import make_images, train_plainly
from pretrain import write_zoo
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.presets import SizeName, sized
from weightspace.autoencoder.provenance import Provenance
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.autoencoder.training.distilling import distill
from weightspace.autoencoder.training.loop import Loop
from weightspace.autoencoder.training.pretraining import Pretraining, pretrain
from weightspace.corpus.asking import ask_zoo
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.preparation import Preparation
from weightspace.devices import choose_device
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.fine_tuning import Population, fine_tune
from weightspace.generation.config import SelectConfig
from weightspace.generation.generating import generate
from weightspace.images import ImageSet, open_images
from weightspace.randomness import derive_generator
from weightspace.responses.config import AskConfig
from weightspace.weights.files import open_weights
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.growing.members import draw_members
from weightspace.zoo.growing.networks import initialize
from weightspace.zoo.growing.planning import STACKS, Way
from weightspace.zoo.growing.recipes import find_recipe
from weightspace.zoo.zoo import Zoo

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how large: `dry` takes a tenth of everything; `folder` is for files that nobody needs afterwards."""

    device: torch.device
    dry: bool
    folder: Path
    data: Path | None
    zoos: Path | None

    def sized(self, size: int) -> int:
        """A size, or a tenth of it."""
        return max(2, size // 10) if self.dry else size

    def sync(self) -> None:
        """Wait for the accelerator."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """How long work takes on the device."""
        self.sync()
        started = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - started

    def mnist(self, train: int, test: int) -> ImageSet:
        """The first images of MNIST; digits of the same size where it is not at hand."""
        if self.data is None:
            return open_images("digits", size=28)
        return open_images(str(self.data / "mnist.npz"), limits=(train, test))

    def cifar(self, train: int, test: int) -> ImageSet:
        """The first images of CIFAR-10; digits, of one channel and smaller where all is, where it is not at hand."""
        if self.data is None or not (self.data / "cifar10.npz").exists():
            return open_images("digits", size=16 if self.dry else 32)
        return open_images(str(self.data / "cifar10.npz"), limits=(train, test))


class Stage(NamedTuple):
    """What is measured, and how many seconds it may take; all of it with `--dry`, as a CPU may be busy."""

    run: Callable[[Setting], Result]
    seconds: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="no stage begins that might end later")
    parser.add_argument("--dry", action="store_true", help="a tenth of the sizes")
    parser.add_argument("--data", type=Path, help="a folder with mnist.npz")
    parser.add_argument("--out", type=Path, default=Path("device.json"))
    parser.add_argument("--zoos", type=Path, help="where the population is kept")
    parser.add_argument("--only", nargs="*", choices=list(STAGES), help="these stages")
    options = parser.parse_args()
    device = choose_device()
    about = {"device": name_of(device), "torch": torch.__version__, "python": platform.python_version()}
    results = json.loads(options.out.read_text()) if options.out.is_file() else {**about, "dry": options.dry}
    stages = results.setdefault("stages", {})
    end = time.monotonic() + 60 * options.minutes
    for name in options.only or STAGES:
        if "result" in stages.get(name, {}):
            continue
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(device=device, dry=options.dry, folder=Path(folder), data=options.data, zoos=options.zoos)
            stages[name] = run_stage(STAGES[name], setting, end - time.monotonic())
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps({name: stages[name]}), flush=True)


def run_stage(stage: Stage, setting: Setting, left: float) -> Result:
    """The result of a stage, or the reason why there is none."""
    if left < stage.seconds:
        return {"skipped": f"it may take {stage.seconds} s, and {max(0, left):.0f} s were left"}
    started = time.monotonic()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with time_limit(stage.seconds):
            outcome: Result = {"result": stage.run(setting)}
    except Exception as error:  # noqa: BLE001  whatever it is: the stages after it are to run
        trace = traceback.format_exception(error)[-6:]
        outcome = {"failed": f"{type(error).__name__}: {error}", "trace": "".join(trace)}
    outcome["seconds"] = time.monotonic() - started
    if setting.device.type == "cuda":
        outcome["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return outcome


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` in whatever runs longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{device.type} ({platform.machine()})"


# --- What is measured -------------------------------------------------------------------------------------------------


def sanity(setting: Setting) -> Result:
    """Every path on the device gives the CPU's numbers, up to a stated tolerance."""
    return compare_with_cpu(setting.device, setting.folder)


def growing(setting: Setting) -> Result:
    """Many small networks at once, in both ways, against the plain loop, one by one, all on the device."""
    images = make_images((1, 28, 28), setting.sized(6_400))
    config = GrowConfig(members=setting.sized(256), epochs=2, keep=(2,), together=256, workers=1)
    few = draw_members(config, find_recipe("cnn-s", images))[:2]
    plain = train_plainly("cnn-s", images, few, config, setting.device.type) / len(few)

    def taken(way: Way) -> float:
        return setting.seconds(lambda: grow("cnn-s", images, replace(config, plan=way), setting.folder / way))

    ways = {way: taken(way) for way in STACKS}
    seconds = min(ways.values())
    return {
        "members": config.members,
        "seconds": seconds,
        "seconds_by_way": ways,
        "plain_seconds_a_member": plain,
        "speed_up": plain * config.members / seconds,
        "target": 50.0,
    }


def population(setting: Setting) -> Result:
    """The paper's kind of zoo: members that differ in their seed alone, on MNIST."""
    images = setting.mnist(setting.sized(6_250), setting.sized(2_000))
    config = GrowConfig(
        members=setting.sized(1_000),
        epochs=setting.sized(25),
        keep=(setting.sized(25),),
        learning_rate="1e-3",
        weight_decay="0",
        activation="tanh",
        initialization="kaiming_uniform",
        plan="auto",
        together=1_000,
        workers=1,
    )
    out = (setting.zoos or setting.folder) / "mnist-cnn-s-seed"
    seconds = setting.seconds(lambda: grow("cnn-s", images, config, out, existing="replace"))
    accuracy = Zoo.open(out).table["test_accuracy"]
    quantiles = {f"{share:g}": float(accuracy.quantile(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    return {"members": len(accuracy), "epochs": config.epochs, "seconds": seconds, "test_accuracy": quantiles}


def matrix_rate(setting: Setting, size: int = 8_192) -> float:
    """Operations a second of one product of random matrices, in bf16 on an accelerator and in 32 bits elsewhere."""
    kind = torch.bfloat16 if setting.device.type == "cuda" else torch.float32
    size = size if setting.device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=setting.device, dtype=kind) for _ in range(2))
    setting.seconds(lambda: [left @ right for _ in range(3)])
    return 10 * 2 * size**3 / setting.seconds(lambda: [left @ right for _ in range(10)])


def throughput(name: SizeName, network: str, members: int) -> Callable[[Setting], Result]:
    """A stage: how fast a model of a size is pre-trained, eager and compiled, and where the time goes."""

    def run(setting: Setting) -> Result:
        sane, training, preparation = sized(name)
        if setting.dry and name != "small":
            sane = replace(sane, model_width=sane.model_width // 16, layers=2, heads=4)
        zoo = write_zoo(setting.folder / "zoo", network, members // 4 if setting.dry else members)
        fitted, corpus = fit_preparation(zoo, replace(preparation, align=False), setting.folder / "corpus")
        ways: dict[str, Result] = {}
        for compile_it in ("off", "on") if setting.device.type == "cuda" else ("off",):
            config = replace(training, compile=compile_it, log_every=10**6, save_every=10**6)
            ways["compiled" if compile_it == "on" else "eager"] = train_for_a_while(
                setting, sane, config, fitted, corpus
            )
        rate = matrix_rate(setting)
        for way in ways.values():
            way["share_of_matrix_rate"] = way["operations_a_second"] / rate
        return {"matrix_rate": rate, "target_share": 0.4, **ways}

    return run


def train_for_a_while(
    setting: Setting, sane: SANEConfig, config: TrainConfig, fitted: Preparation, corpus: Corpus
) -> Result:
    """Steps a second of the training loop as users run it, once it is warm; then a profile of a few steps."""
    network = Network(sane, fitted.config.token_width, window=config.window)
    stage = Pretraining.of(network, corpus, config)

    def loop(steps: int) -> Any:
        return Loop(stage, replace(config, steps=steps), stage.accelerator).run()[-1]

    starting = setting.seconds(lambda: loop(3))
    each = setting.seconds(lambda: loop(5)) / 5
    steps = max(5, min(1_000, round((0.5 if setting.dry else 6) / each)))
    rows: list[Any] = []
    seconds = setting.seconds(lambda: rows.append(loop(steps)))
    tokens = 2 * stage.queue.source.batch_size * config.window  # two views
    operations = steps * tokens * operations_per_token(network, config.window)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "tokens_a_step": tokens,
        "steps": steps,
        "first_three_steps_seconds": starting,
        "steps_a_second": steps / seconds,
        "weights_a_second": rows[0]["weights_per_second"],
        "waiting_for_batches": rows[0]["waiting_for_batches"],
        "operations_a_second": operations / seconds,
        "time_by_operation": profile_of(setting, lambda: loop(3)),
    }


def operations_per_token(network: Network, window: int) -> int:
    """Of a training step: two for every weight of a matrix going forward, four going back; and attention's products."""
    config = network.config
    matrices = sum(parameter.numel() for name, parameter in network.named_parameters() if ".blocks." in name)
    return 6 * matrices + 12 * 2 * config.layers * config.model_width * window


def profile_of(setting: Setting, work: Callable[[], object]) -> dict[str, float]:
    """The ten operations that take most of the device's time, and their shares of it."""
    cuda = setting.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiled:
        setting.seconds(work)
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    # On an accelerator what ran there, its kernels, and not the calls that started them.
    events = [event for event in profiled.key_averages() if not cuda or event.device_type == DeviceType.CUDA]
    times = {event.key: float(getattr(event, name)) for event in events}
    whole = max(1e-9, sum(times.values()))
    longest = sorted(times.items(), key=lambda item: -item[1])[:10]
    return {key[:80]: round(time / whole, 4) for key, time in longest}


def embedding(setting: Setting) -> Result:
    """A full ResNet-18, and a network of a billion weights, read from its file as it is encoded."""
    found: Result = {}
    preparation = Preparation(config=PreparationConfig(token_width=288))
    sane = SANE(
        network=Network(SANEConfig(), 288, window=64).eval(),
        preparation=preparation,
        provenance=Provenance(training=TrainConfig()),
    )
    for name, weights in (("ResNet-18", 11_000_000), ("a billion weights", setting.sized(1_000_000_000))):
        path = setting.folder / "large.safetensors"
        written = write_file(path, weights)
        embed = partial(sane.to(setting.device).embed_network, open_weights(path))
        embed()  # the second time is measured: the file is in memory
        seconds = setting.seconds(embed)
        found[name] = {"weights": written, "seconds": seconds, "weights_a_second": written / seconds}
    return found


def asking(setting: Setting) -> Result:
    """What networks do on synthetic inputs: many small ones, and a ResNet-18 at its full size."""
    found: Result = {}
    for name, network, members in (("cnn-s", "cnn-s", setting.sized(250)), ("ResNet-18", "resnet18", setting.sized(8))):
        zoo = write_zoo(setting.folder / name, network, members)
        found[name] = {"networks": len(zoo), "networks_a_second": len(zoo) / seconds_of_asking(setting, zoo)}
    return found


def seconds_of_asking(setting: Setting, zoo: Zoo) -> float:
    return setting.seconds(lambda: list(ask_zoo(zoo, AskConfig(), setting.device)))


def writing(setting: Setting) -> Result:
    """From images to new networks, everything on the device: grow, pre-train, distill, generate."""
    images = setting.mnist(setting.sized(5_000), setting.sized(1_000))
    config = GrowConfig(members=setting.sized(60), epochs=setting.sized(20) // 2, keep=(setting.sized(20) // 2,))
    zoo_folder, model, distilled = (setting.folder / name for name in ("zoo", "sane", "distilled"))
    seconds = {"grow": setting.seconds(lambda: grow("cnn-s", images, config, zoo_folder))}
    zoo = Zoo.open(zoo_folder)
    zoo = zoo.where(lambda table: table["architecture"] == table["architecture"].iloc[0])
    sane, training, preparation = sized("medium", writing=True)
    training = replace(training, steps=setting.sized(400), window=64)
    seconds["pretrain"] = setting.seconds(lambda: pretrain(zoo, sane, training, preparation, out=model))
    steps = DistillConfig(steps=setting.sized(200))
    seconds["distill"] = setting.seconds(lambda: distill(model, zoo, images.train, steps, out=distilled))
    made: list[Any] = []
    trained = SANE.open(distilled).to(setting.device)
    anchors = zoo.best(min(5, len(zoo)), by="validation_accuracy")
    seconds["generate"] = setting.seconds(lambda: made.extend(generate(trained, anchors, 10, images=images)))
    history = json.loads((model / "history.json").read_text())
    return {"seconds": seconds, "generated": len(made), "last_loss": history[-1]["loss"]}


def resnets(setting: Setting) -> Result:
    """ResNet-18 at its full size, a zoo in miniature: the paper's Table 4, eight members instead of a thousand."""
    images = setting.cifar(setting.sized(20_000), setting.sized(5_000))
    grown = GrowConfig(
        members=max(3, setting.sized(8)),
        epochs=1 if setting.dry else 6,
        keep=(1,) if setting.dry else (4, 5, 6),
        learning_rate="1e-3",
        weight_decay="0",
        initialization="kaiming_uniform",
        batch_size=128,
        plan="channels-last",
        precision="bf16" if setting.device.type == "cuda" else "fp32",
        workers=1,
    )
    network, model = "resnet18:8" if setting.dry else "resnet18", setting.folder / "resnet-sane"
    seconds = {"grow": setting.seconds(lambda: grow(network, images, grown, setting.folder / "resnets"))}
    zoo = Zoo.open(setting.folder / "resnets")
    sane, training, preparation = sized("paper-resnet", writing=True)
    sane = replace(sane, model_width=64, layers=2, heads=4) if setting.dry else sane
    training = replace(training, steps=setting.sized(800), batch_size=2 if setting.dry else training.batch_size)
    seconds["pretrain"] = setting.seconds(lambda: pretrain(zoo, sane, training, preparation, out=model))
    trained, best = SANE.open(model, str(setting.device)), zoo.best(3, by="validation_accuracy")
    made: list[Any] = []
    select = SelectConfig(draws=2 if setting.dry else 15)
    count = 2 if setting.dry else 5
    draw = partial(generate, trained, best, count, images=images, select=select)
    seconds["generate"] = setting.seconds(lambda: made.extend(draw()))
    architecture = made[0].architecture
    fresh = [
        initialize(architecture.build(seed=number), "kaiming_uniform", derive_generator(number, "scratch"))
        for number in range(count)
    ]
    populations = [
        Population("generated", "SANE", architecture, [one.weights for one in made]),
        Population("scratch", "scratch", architecture, [module.state_dict() for module in fresh]),
        Population("anchors", "anchors", architecture, [best.weights(row) for row in range(len(best))]),
    ]
    outcomes: list[Any] = []
    schedule = EvaluateConfig(epochs=(0, 1), learning_rate=1e-3, batch_size=128)
    moved = images.to(setting.device)
    seconds["fine-tune"] = setting.seconds(lambda: outcomes.extend(fine_tune(populations, moved, schedule)))
    history = json.loads((model / "history.json").read_text())
    return {
        "images": list(images.train.inputs.shape),
        "members": len(zoo.members),
        "zoo_test_accuracy": sorted(zoo.last().table["test_accuracy"]),
        "reconstruction_loss": history[-1]["reconstruction"],
        "accuracy": [[one.method, one.epochs, one.accuracy, one.low, one.high] for one in outcomes],
        "seconds": seconds,
    }


STAGES = {
    "sanity": Stage(sanity, 40),
    "growing": Stage(growing, 60),
    "embedding": Stage(embedding, 90),
    "asking": Stage(asking, 40),
    "writing": Stage(writing, 60),
    "population": Stage(population, 120),
    "ResNet-18": Stage(resnets, 420),
    "throughput: paper-resnet": Stage(throughput("paper-resnet", "resnet18", 32), 120),
    "throughput: paper": Stage(throughput("paper", "cnn-s", 32), 90),
    "throughput: small": Stage(throughput("small", "cnn-s", 64), 130),
}


if __name__ == "__main__":
    main()
