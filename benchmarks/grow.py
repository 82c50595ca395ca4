"""How much faster growing is than a plain loop: one process, one thread, images in memory.

The plain loop is what one writes first: a module, Adam, batches by index, loss.item() for the log. It trains some of
the members, and its time is scaled to all of them. Growing is `weightspace.grow` as a whole with `--plan auto`:
measuring the plan, starting processes, scoring and writing are in its time, and scoring the same checkpoints is in the
loop's. The last line is one JSON object.

    python benchmarks/grow.py [--quick] [--device cuda]
    python benchmarks/grow.py --where        where the time of one cnn-s goes, one by one and side by side
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from weightspace.images import Images, ImageSet
from weightspace.randomness import derive_generator, derive_seed
from weightspace.side_by_side import BESIDE_EACH_OTHER, SideBySide, fit_side_by_side, score_side_by_side
from weightspace.supervised import FitConfig, fit_one, score, stack_weights
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.growing.members import Member, draw_members
from weightspace.zoo.growing.networks import initialize
from weightspace.zoo.growing.recipes import find_recipe

Shape = tuple[int, int, int]
# network, image shape, members, members that the plain loop trains, training images
CASES = {
    "cnn-s": ("cnn-s", (1, 28, 28), 40, 6, 6_400),
    "cnn-l": ("cnn-l", (3, 32, 32), 12, 2, 6_400),
    "mlp": ("mlp:16,16", (1, 8, 8), 1_600, 16, 6_400),
    "mlp of 196 inputs": ("mlp:20,20", (1, 14, 14), 600, 12, 6_400),
}
TARGETS = {"cnn-s": 2.3, "cnn-l": 2.3, "mlp": 12.0, "mlp of 196 inputs": 12.0}
BATCH, EPOCHS, TEST = 64, 2, 256


def make_images(shape: Shape, count: int) -> ImageSet:
    """Noise around ten class means: speed does not depend on what is in the images."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(10, *shape, generator=generator)

    def part(size: int) -> Images:
        labels = torch.randint(0, 10, (size,), generator=generator)
        return Images(means[labels] + torch.randn(size, *shape, generator=generator), labels)

    channels = (0.0,) * shape[0]
    return ImageSet("made", part(count), part(TEST), part(TEST), channels, channels, 10, 0)


def train_plainly(network: str, images: ImageSet, members: list[Member], config: GrowConfig, device: str) -> float:
    """Seconds of the plain loop over members."""
    recipe = find_recipe(network, images)
    parts = {name: Images(*(t.to(device) for t in getattr(images, name))) for name in ("train", "validation", "test")}
    start = time.perf_counter()
    for member in members:
        module = recipe.architecture(member.activation, member.dropout).build().to(device)
        cpu = initialize(module.cpu(), member.initialization, derive_generator(0, member.name, "initialization"))
        module = cpu.to(device)
        optimizer = torch.optim.Adam(module.parameters(), lr=member.learning_rate, weight_decay=member.weight_decay)
        generator = derive_generator(derive_seed(0, member.name, "training"), "order")
        score_plainly(module, parts)
        for _ in range(config.epochs):
            module.train()
            order = torch.randperm(len(parts["train"].labels), generator=generator).to(device)
            for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
                loss = torch.nn.functional.cross_entropy(
                    module(parts["train"].inputs[batch]), parts["train"].labels[batch]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss.item()
            score_plainly(module, parts)
    return time.perf_counter() - start


def score_plainly(module: torch.nn.Module, parts: dict[str, Images]) -> None:
    module.eval()
    with torch.no_grad():
        for part in parts.values():
            outputs = torch.cat([module(batch) for batch in part.inputs.split(1_000)])
            (outputs.argmax(1) == part.labels).float().mean().item()


def half(network: str, shape: Shape, count: int, members: list[Member], config: GrowConfig) -> float:
    torch.set_num_threads(1)
    return train_plainly(network, make_images(shape, count), members, config, "cpu")


def two_processes(network: str, shape: Shape, count: int, members: list[Member], config: GrowConfig) -> float:
    """Seconds of two plain processes that share the members (the slower one; without their start)."""
    with ProcessPoolExecutor(2) as pool:
        halves = [members[0::2], members[1::2]]
        return max(pool.map(half, [network] * 2, [shape] * 2, [count] * 2, halves, [config] * 2))


def grow_ours(network: str, images: ImageSet, config: GrowConfig) -> tuple[float, dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        zoo = grow(network, images, config, Path(folder) / "zoo")
        return time.perf_counter() - start, zoo.about["plan"]


def measure(name: str, *, quick: bool, device: str) -> dict[str, object]:
    network, shape, members, few, count = CASES[name]
    if device == "cuda":
        members = max(256, members)
    if quick:
        members, few, count = max(4, members // 4), max(2, few // 2), count // 4
    images = make_images(shape, count)
    config = GrowConfig(members=members, epochs=EPOCHS, batch_size=BATCH, device=device)
    drawn = draw_members(config, find_recipe(network, images))
    share = len(drawn) / few
    plain = train_plainly(network, images, drawn[:few], config, device) * share
    ours, plan = grow_ours(network, images, config)
    result: dict[str, object] = {"plain": plain, "ours": ours, "ratio": plain / ours, "plan": plan["way"]}
    result |= {"workers": plan["workers"], "target": 50.0 if device == "cuda" else TARGETS[name]}
    if device == "cpu" and network.startswith("cnn"):
        pair = two_processes(network, shape, count, drawn[:few], config) * share
        result |= {"two_plain_processes": pair, "ratio_to_two": pair / ours}
    print(f"{name}: " + ", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items()))
    return result


# What an epoch's time goes into, by the names of torch's operations.
KINDS = {
    "convolutions": ("convolution",),
    "pooling": ("max_pool2d",),
    "activations": ("tanh",),
    "optimiser": ("adam", "Adam", "lerp", "Optimizer"),
    "taking batches": ("index", "randperm"),
}


def where_time_goes(name: str) -> dict[str, dict[str, float]]:
    """Milliseconds of one step of one member by kind of operation, and of scoring it on a thousand images."""
    network, shape, _, _, count = CASES[name]
    images = make_images(shape, count // 4)
    recipe = find_recipe(network, images)
    modules = [recipe.architecture("tanh", 0.0).build(seed=seed) for seed in range(BESIDE_EACH_OTHER)]
    config, steps = FitConfig(epochs=3, batch_size=BATCH), count // 4 // BATCH
    alone = fit_one(modules[0], images.train, config, learning_rate=1e-3, seed=0, channels_last=True)
    networks = SideBySide(modules[1], stack_weights([module.state_dict() for module in modules]))
    rates = torch.full((len(modules),), 1e-3)
    beside = fit_side_by_side(
        networks, images.train, config, learning_rates=rates, weight_decays=rates * 0, seeds=range(len(modules))
    )
    found = {}
    for way, fitting, members, scoring in (
        ("one by one", alone, 1, lambda: score(modules[0], images.train)),
        ("side by side", beside, len(modules), lambda: score_side_by_side(networks, images.train)),
    ):
        next(fitting), next(fitting)
        start = time.perf_counter()
        next(fitting)
        whole = 1_000 * (time.perf_counter() - start) / steps / members
        start = time.perf_counter()
        scoring()
        scored = 1e6 * (time.perf_counter() - start) / len(images.train.labels) / members
        with torch.profiler.profile() as profile:
            next(fitting)
        parts = dict.fromkeys(KINDS, 0.0)
        for event in profile.key_averages():
            kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), None)
            if kind is not None:
                parts[kind] += event.self_cpu_time_total / 1_000 / steps / members
        rest = whole - sum(parts.values())
        found[way] = {"step": whole, **parts, "dispatch and all else": rest, "scoring 1,000 images": scored}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller run, for trying out")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--where", action="store_true", help="where the time goes, and nothing else")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # its first use imports for seconds
    if given.where:
        for way, parts in where_time_goes("cnn-s").items():
            print(f"{way}: " + ", ".join(f"{kind} {value:.2f} ms" for kind, value in parts.items()))
        return
    results = {name: measure(name, quick=given.quick, device=given.device) for name in CASES}
    print(json.dumps({"benchmark": "grow", "torch": torch.__version__, "device": given.device, "results": results}))


if __name__ == "__main__":
    main()
