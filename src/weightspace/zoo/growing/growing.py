"""Grow a zoo: train a population of networks in the way that is fastest here, resumable at any member."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from weightspace.errors import MOST, InputError, require_between
from weightspace.images import Images, ImageSet
from weightspace.inputs import read_object
from weightspace.outputs import Existing, new_folder, to_json, write_json, write_manifest
from weightspace.progress import progress_bar
from weightspace.randomness import derive_generator, derive_seed
from weightspace.side_by_side import SideBySide, fit_side_by_side, score_side_by_side, unfold_convolutions
from weightspace.spreading import Tick, Where, spread
from weightspace.supervised import FitConfig, Scores, Stack, fit_one, fit_stack, score, score_stack, stack_weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.members import Member, draw_members
from weightspace.zoo.growing.networks import initialize
from weightspace.zoo.growing.planning import GrowTask, Plan, make_plan, plan_tasks, resumed
from weightspace.zoo.growing.recipes import Recipe, find_recipe
from weightspace.zoo.resumable import BEGUN, PART_FOLDER, Part, PartStore
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Checkpoints, Zoo

PLAN_FILE = "growing.json"
PARTS = ("train", "validation", "test")


# Members, their epoch, their stacked weights (still being trained), and what scores them on images.
Trained = tuple[list[Member], int, Stack, Callable[[Images], Scores]]


class Shared(NamedTuple):
    """What every task needs; images as numpy arrays, which processes share."""

    recipe: Recipe
    config: GrowConfig
    plan: Plan
    kept: list[int]
    images: dict[str, tuple[np.ndarray, np.ndarray]]


def grow(
    network: str,
    images: ImageSet,
    config: GrowConfig,
    out: str | Path,
    *,
    existing: Existing = "refuse",
    ray: str | None = None,
) -> Zoo:
    """Train a zoo of networks on images and write it to `out`.

    Args:
        network: `cnn-s`, `cnn-l`, `resnet18` (`resnet18:8` for a width), `mlp` (`mlp:32,16` for hidden widths), or
            `package.module:callable`, which is imported and called without arguments.
        images: train, validation and test images; accuracy and loss on each are recorded per checkpoint.
        config: what varies between members, and how they are trained.
        out: a folder that does not exist yet.
        existing: `resume` goes on with interrupted growing of the same settings, training no finished member again;
            `replace` replaces an existing `out`.
        ray: a Ray cluster's address, `local` for one on this machine, None for no Ray.

    Every member's numbers derive from the seed and its name. The plan (see `planning.py`) changes them by rounding
    only, except under dropout, which draws differently in a stack. Members whose training ends in NaN or infinite
    weights are left out, counted and named in `zoo.json`. Memory holds the images and a few tasks' checkpoints.

    Raises:
        InputError: an unknown network, a malformed range, nothing to resume or other settings, or `out` exists.

    Examples:
        >>> small = grow("mlp:8", images, GrowConfig(members=2, epochs=1), folder / "grown")
        >>> len(small.members)
        2
    """
    _check(config, len(images.train.labels))
    recipe = find_recipe(network, images)
    members, kept = draw_members(config, recipe), _kept_epochs(config)
    with new_folder(out, existing=existing, resumable=BEGUN, scratch=(PART_FOLDER, PLAN_FILE)) as folder:
        plan = _settle_plan(folder, network, members, images, config, on_ray=ray is not None)
        tasks, store = plan_tasks(members, plan, config.epochs), PartStore(folder)
        open_tasks = [task for task in tasks if not store.has(task.key)]
        shared = Shared(recipe, config, plan, kept, _to_numpy(images))
        done = sum(task.units for task in tasks) - sum(task.units for task in open_tasks)
        with progress_bar("growing", total=len(members) * config.epochs, done=done) as advance:
            for number, part in spread(grow_task, shared, open_tasks, Where(plan.workers, ray), advance):
                store.save(open_tasks[number].key, part)
        left_out = _merge(folder, tasks, len(members), images, config, plan)
        write_manifest(
            folder, configuration=asdict(config) | {"network": network, "left_out": left_out}, seed=config.seed
        )
    return Zoo.open(out)


def grow_task(shared: Shared, task: GrowTask, tick: Tick) -> Part:
    """Train the members of a task; their checkpoints at the epochs kept."""
    device = torch.device(shared.plan.device)
    images = {part: Images(*map(torch.from_numpy, shared.images[part])).to(device) for part in PARTS}
    architecture = shared.recipe.architecture(task.members[0].activation, task.members[0].dropout)
    train = TRAINING.get(shared.plan.way, _train_alone)
    pieces = []
    for group, epoch, stack, score_part in train(architecture, shared, task, images, tick):
        if epoch in shared.kept:
            table = pd.DataFrame([_properties(member) for member in group])
            table.insert(1, "epoch", epoch)
            for part in PARTS:
                accuracy, loss = score_part(images[part])
                table[f"{part}_accuracy"], table[f"{part}_loss"] = accuracy.cpu().numpy(), loss.cpu().numpy()
            table["generalization_gap"] = table["train_accuracy"] - table["test_accuracy"]
            weights = {name: stack[name].to("cpu", copy=True).contiguous() for name in architecture.shapes}
            pieces.append((table, weights))
    return _join(architecture, pieces)


def _train_stacked(
    architecture: Architecture, shared: Shared, task: GrowTask, images: dict[str, Images], tick: Tick
) -> Iterator[Trained]:
    device = images["train"].labels.device
    modules = [_initial(architecture, shared, member) for member in task.members]
    stack = stack_weights([one.state_dict() for one in modules])
    module = modules[0].to(device)
    if shared.plan.way == "unfolded":
        module = unfold_convolutions(module)
    config = _fit_config(shared.config, task.members[0])
    for epoch, fitted in fit_stack(module, stack, images["train"], config, **_training(shared, task)):
        yield task.members, epoch, fitted, partial(score_stack, module, fitted)
        if epoch:
            tick(len(task.members))


def _train_side_by_side(
    architecture: Architecture, shared: Shared, task: GrowTask, images: dict[str, Images], tick: Tick
) -> Iterator[Trained]:
    device = images["train"].labels.device
    modules = [_initial(architecture, shared, member).to(device) for member in task.members]
    networks = SideBySide(modules[0], stack_weights([one.state_dict() for one in modules]))
    config = _fit_config(shared.config, task.members[0])
    for epoch in fit_side_by_side(networks, images["train"], config, **_training(shared, task)):
        yield task.members, epoch, networks.stack, partial(score_side_by_side, networks)
        if epoch:
            tick(len(task.members))


def _training(shared: Shared, task: GrowTask) -> dict[str, Any]:
    """What differs between members that are trained together."""
    return {
        "learning_rates": torch.tensor([member.learning_rate for member in task.members]),
        "weight_decays": torch.tensor([member.weight_decay for member in task.members]),
        "seeds": [derive_seed(shared.config.seed, member.name, "training") for member in task.members],
    }


def _train_alone(
    architecture: Architecture, shared: Shared, task: GrowTask, images: dict[str, Images], tick: Tick
) -> Iterator[Trained]:
    for member in task.members:
        module = _initial(architecture, shared, member).to(images["train"].labels.device)
        fitting = fit_one(
            module,
            images["train"],
            _fit_config(shared.config, member),
            learning_rate=member.learning_rate,
            weight_decay=member.weight_decay,
            seed=derive_seed(shared.config.seed, member.name, "training"),
            channels_last=shared.plan.way == "channels-last",
        )
        for epoch in fitting:
            stack = stack_weights([module.state_dict()])
            yield [member], epoch, stack, partial(score, module)
            if epoch:
                tick(1)


TRAINING = {"stacked": _train_stacked, "unfolded": _train_stacked, "side-by-side": _train_side_by_side}


def _join(architecture: Architecture, pieces: list[tuple[pd.DataFrame, Stack]]) -> Part:
    """One stack of all checkpoints, without the members that diverged."""
    table = pd.concat([own for own, _ in pieces], ignore_index=True)
    stack = {name: torch.cat([own[name] for _, own in pieces]) for name in architecture.shapes}
    finite = torch.stack([tensor.reshape(len(table), -1).isfinite().all(1) for tensor in stack.values()]).all(0)
    broken = sorted(set(table["member"][~finite.numpy()]))
    left_out = [{"what": name, "why": "its training ended in NaN or infinite weights"} for name in broken]
    keep = ~table["member"].isin(broken)
    if not keep.any():
        return Part([], left_out)
    rows = torch.tensor(keep.to_numpy(copy=True))
    return Part([Checkpoints(architecture, table[keep], {name: own[rows] for name, own in stack.items()})], left_out)


def _initial(architecture: Architecture, shared: Shared, member: Member) -> torch.nn.Module:
    seed = shared.config.seed
    module = architecture.build([shared.recipe.factory], seed=derive_seed(seed, member.name, "building"))
    return initialize(module, member.initialization, derive_generator(seed, member.name, "initialization"))


def _properties(member: Member) -> dict[str, Any]:
    drawn = {name: value for name, value in member._asdict().items() if value is not None}
    return {"member": drawn.pop("name"), **drawn}


def _fit_config(config: GrowConfig, member: Member) -> FitConfig:
    return FitConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer=member.optimizer,  # type: ignore[arg-type]
        precision=config.precision,
    )


def _settle_plan(
    folder: Path, network: str, members: list[Member], images: ImageSet, config: GrowConfig, *, on_ray: bool
) -> Plan:
    """The plan of the work found in `folder`, or a new one, which is written there."""
    settings = {"network": network, "images": images.describe(), "config": _decisive(config)}
    path = folder / PLAN_FILE
    if path.is_file():
        found = read_object(path)
        if found["settings"] != json.loads(to_json(settings)):
            raise InputError(
                f"expected the settings that the unfinished work in {folder} began with, found others; "
                "--force drops it and begins anew"
            )
        return resumed(Plan(**found["plan"]), config.workers)
    recipe = find_recipe(network, images)
    cells = dict.fromkeys((member.activation, member.dropout) for member in members)
    architectures = {cell: recipe.architecture(*cell) for cell in cells}
    plan = make_plan(config, architectures, members, images, allow=[recipe.factory], on_ray=on_ray)
    write_json(path, {"settings": settings, "plan": plan.to_json()})
    return plan


def _decisive(config: GrowConfig) -> dict[str, Any]:
    """The settings that decide the numbers; how the work is done may change while it is interrupted."""
    return {name: value for name, value in asdict(config).items() if name not in ("plan", "workers", "device")}


def _merge(
    folder: Path, tasks: list[GrowTask], members: int, images: ImageSet, config: GrowConfig, plan: Plan
) -> list[dict[str, str]]:
    """Make a zoo of the finished parts, which stay until it has its name; returns what was left out."""
    writer, store = ZooWriter(folder), PartStore(folder)
    left_out, _ = store.merge([task.key for task in tasks], writer)
    if len(left_out) == members:
        store.give_up()
        raise InputError(f"expected members that can be trained, found NaN weights in all {members} of them")
    about = {"images": images.describe(), "grown": asdict(config), "plan": plan.to_json(), "left_out": left_out}
    writer.finish(about)
    return left_out


def _to_numpy(images: ImageSet) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    parts = {part: getattr(images, part) for part in PARTS}
    return {name: (part.inputs.numpy(), part.labels.numpy()) for name, part in parts.items()}


def _check(config: GrowConfig, images: int) -> None:
    require_between("epochs", config.epochs, 1, MOST)
    require_between("batch size", config.batch_size, 1, images)


def _kept_epochs(config: GrowConfig) -> list[int]:
    kept = sorted(set(config.keep)) or list(range(config.epochs + 1))
    if kept[0] < 0 or kept[-1] > config.epochs:
        raise InputError(f"expected kept epochs between 0 and {config.epochs}, found {kept}")
    return kept
