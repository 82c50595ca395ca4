"""Decide how a zoo is grown fastest, by measuring: together or alone, in which memory format, by how many workers."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from weightspace.devices import choose_device, count_operations
from weightspace.errors import InputError, require_between
from weightspace.images import Images, ImageSet
from weightspace.side_by_side import (
    BESIDE_EACH_OTHER,
    SideBySide,
    can_stand_side_by_side,
    fit_side_by_side,
    unfold_convolutions,
)
from weightspace.spreading import count_cpus
from weightspace.supervised import (
    FitConfig,
    bears_channels_last,
    can_be_stacked,
    draws_at_random,
    fit_one,
    fit_stack,
    stack_weights,
)
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.members import Member

Way = Literal["stacked", "alone", "channels-last", "side-by-side", "unfolded"]
# All that are trained at once in one stack of weights.
STACKS: tuple[Way, ...] = ("stacked", "unfolded")
PROBE_SECONDS = 2.0
# Images that show how a module behaves.
FEW = 4
# Stacks of convolutional networks are slow on CPUs; so many are enough to see it.
PROBED_TOGETHER = 16
# Processes take a few seconds to start, so shorter work than this stays in one.
WORTH_WORKERS = 20.0
# A stack's weights, gradients, moments of the optimiser and kept checkpoints stay below this.
STACK_BYTES = 2**30
# What is copied to a cluster and back should be worth the way.
SECONDS_ON_RAY = 10.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How members are trained; written to `zoo.json`, and used again when growing is resumed.

    Attributes:
        way: a stack at once, convolutions unfolded or not; a few side by side; or one after the other, plainly or with
            channels-last memory.
        together: members of a task: the size of a stack, or how many are trained one after the other.
        workers: processes.
        device: where tensors are.
        milliseconds: measured time of one step of one member, by way; empty if nothing was measured.
    """

    way: Way
    together: int
    workers: int
    device: str
    milliseconds: Mapping[Way, float]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `Plan(**value)` turns back into an equal plan."""
        return asdict(self)


class GrowTask(NamedTuple):
    """Members of one architecture and optimiser that are trained in one go; named after the first of them."""

    key: str
    members: list[Member]
    epochs: int

    @property
    def units(self) -> int:
        """Epochs of members."""
        return len(self.members) * self.epochs


def make_plan(
    config: GrowConfig,
    architectures: dict[tuple[str | None, float | None], Architecture],
    members: Sequence[Member],
    images: ImageSet,
    *,
    allow: Sequence[str] = (),
    on_ray: bool = False,
) -> Plan:
    """Choose what `config` leaves open; `auto` trains each way for a moment on the first architecture.

    Raises:
        InputError: no such device, limits below 1, or networks that cannot be trained side by side as asked.
    """
    require_between("together", config.together, 1)
    require_between("workers", config.workers, 0)
    if config.precision == "bf16" and config.plan in ("auto", *STACKS, "side-by-side"):
        raise InputError(f"expected --plan alone or channels-last with --precision bf16, found {config.plan}")
    device = str(choose_device(config.device, lambda: _operations(architectures, members, images, config)))
    measured: dict[Way, float] = {}
    first = next(iter(architectures.values()))
    if config.plan == "side-by-side" and not can_stand_side_by_side(first.build(allow), images.train.inputs[:FEW]):
        raise InputError(f"expected a network whose channels can stand side by side, found {first.id}: use --plan auto")
    limit = min(config.together, len(members), _fitting(first, len(config.keep) or config.epochs + 1))
    if config.plan == "auto" or config.workers == 0 or on_ray:
        ways = _ways(first, images.train, allow, device) if config.plan == "auto" else (config.plan,)
        stack = limit if device != "cpu" or not _convolves(first) else min(PROBED_TOGETHER, limit)
        sizes: dict[Way, int] = {**dict.fromkeys(STACKS, stack), "side-by-side": min(BESIDE_EACH_OTHER, limit)}
        measured = _measure(first, {way: sizes.get(way, 1) for way in ways}, images.train, config, device, allow)
    way: Way = min(measured, key=lambda name: measured[name]) if config.plan == "auto" else config.plan
    steps = len(images.train.labels) // config.batch_size * config.epochs
    each = measured.get(way, 0.0) * steps / 1_000
    workers = config.workers or _choose_workers(each * len(members), device)
    together = _choose_together(limit, way, len(members), workers, each, on_ray)
    return Plan(way=way, together=together, workers=workers, device=device, milliseconds=dict(measured))


def plan_tasks(members: Sequence[Member], plan: Plan, epochs: int) -> list[GrowTask]:
    """Members of one activation, dropout rate and optimiser, at most `plan.together` in a task."""

    def cell(member: Member) -> tuple[str, float, str]:
        return member.activation or "", member.dropout or 0.0, member.optimizer

    tasks = []
    for _, same in itertools.groupby(sorted(members, key=cell), key=cell):
        for group in _batched(same, plan.together):
            tasks.append(GrowTask(group[0].name, list(group), epochs))
    return tasks


def _batched(values: Iterator[Member], size: int) -> Iterator[tuple[Member, ...]]:
    while batch := tuple(itertools.islice(values, size)):
        yield batch


def _operations(
    architectures: Mapping[Any, Architecture], members: Sequence[Member], images: ImageSet, config: GrowConfig
) -> float:
    """Of training all members: forward, and twice as many backward."""
    first = next(iter(architectures.values()))
    each = count_operations(first.build(), images.train.inputs[:1])
    return 3.0 * each * len(images.train.labels) * config.epochs * len(members)


def _choose_workers(seconds: float, device: str) -> int:
    return 1 if device != "cpu" or seconds < WORTH_WORKERS else count_cpus()


def _choose_together(limit: int, way: Way, members: int, workers: int, each: float, on_ray: bool) -> int:
    """Stacks as large as allowed, but one for each worker; alone, one member a task, or ten seconds' worth on Ray."""
    if way in (*STACKS, "side-by-side"):
        most = limit if way in STACKS else min(BESIDE_EACH_OTHER, limit)
        return max(1, min(most, math.ceil(members / workers)))
    return max(1, min(limit, math.ceil(SECONDS_ON_RAY / max(each, 1e-3)))) if on_ray else 1


def _fitting(architecture: Architecture, kept: int) -> int:
    """How many networks fit into a stack."""
    return max(1, STACK_BYTES // (4 * architecture.parameters * (kept + 4)))


def _ways(architecture: Architecture, images: Images, allow: Sequence[str], device: str) -> tuple[Way, ...]:
    """The ways worth measuring.

    Networks that draw at random in training are trained alone: stacked, they would draw together, and which way is
    faster must not decide what they become.
    """
    module, few = architecture.build(allow), images.inputs[:FEW]
    alone: tuple[Way, ...] = ("alone",)
    if _convolves(architecture) and bears_channels_last(module):
        alone = ("channels-last", "alone")
    if draws_at_random(module, few):
        return alone
    # On other devices a convolution of many groups is not what they are fast at.
    if device == "cpu" and _convolves(architecture) and can_stand_side_by_side(module, few):
        alone = (*alone, "side-by-side")
    if not can_be_stacked(module, few):
        return alone
    return (*alone, *STACKS) if device != "cpu" and _convolves(architecture) else (*alone, "stacked")


def _convolves(architecture: Architecture) -> bool:
    return any(len(shape) > 3 for shape in architecture.shapes.values())


def _measure(
    architecture: Architecture,
    together: Mapping[Way, int],
    images: Images,
    config: GrowConfig,
    device: str,
    allow: Sequence[str],
) -> dict[Way, float]:
    """Milliseconds of one step of one member, for each way and the members that it trains at once."""
    batch = min(config.batch_size, len(images.labels))
    few = Images(images.inputs[:batch].to(device), images.labels[:batch].to(device))
    seconds = PROBE_SECONDS / len(together)

    def step_alone(way: Way) -> Callable[[], object]:
        module = architecture.build(allow).to(device)
        last = way == "channels-last"
        steps = fit_one(module, few, _endless(batch), learning_rate=1e-4, seed=0, channels_last=last)
        return lambda: next(steps)

    def step_together(way: Way) -> Callable[[], object]:
        module, count = architecture.build(allow).to(device), together[way]
        stack = stack_weights([module.state_dict()] * count)
        rates = torch.full((count,), 1e-4, device=device)
        fitting: dict[str, Any] = {"learning_rates": rates, "weight_decays": rates * 0, "seeds": range(count)}
        if way == "unfolded":
            module = unfold_convolutions(module)
        if way == "side-by-side":
            beside = fit_side_by_side(SideBySide(module, stack), few, _endless(batch), **fitting)
            return lambda: next(beside)
        steps = fit_stack(module, stack, few, _endless(batch), **fitting)
        return lambda: next(steps)

    measured: dict[Way, float] = {}
    for way, count in together.items():
        step = step_together(way) if way in (*STACKS, "side-by-side") else step_alone(way)
        try:
            measured[way] = 1_000 * _time(step, seconds, device) / count
        except torch.OutOfMemoryError:
            # An unfolded input is copied for every place of a kernel: too much for some devices that hold the stack.
            if len(together) == 1:
                raise
    return measured


def _endless(batch: int) -> FitConfig:
    """Epochs of a single step, for as long as one asks."""
    return FitConfig(epochs=1_000_000, batch_size=batch)


def _time(step: Callable[[], object], seconds: float, device: str) -> float:
    """The fastest step within `seconds`, after the start and one to warm up."""
    step(), step()
    best, end = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        if device != "cpu":
            torch.accelerator.synchronize(torch.device(device))
        best = min(best, time.perf_counter() - start)
    return best


def resumed(plan: Plan, workers: int) -> Plan:
    """The same plan with another number of workers (0: the same): tasks do not depend on it."""
    return replace(plan, workers=workers) if workers else plan
