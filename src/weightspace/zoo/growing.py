"""Grow a zoo: train a population of networks, many at once."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from weightspace.errors import InputError, require_between
from weightspace.images import ImageSet
from weightspace.outputs import new_folder, write_manifest
from weightspace.progress import Advance, progress_bar
from weightspace.randomness import derive_generator, derive_seed
from weightspace.supervised import FitConfig, Stack, fit_stack, score_stack, stack_weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.config import GrowConfig
from weightspace.zoo.networks import cnn_s, initialize, make_activation, mlp, require_scheme
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo

CNN_S_SIZE = 28
EXAMPLE_BATCH = 2


class Member(NamedTuple):
    """One network to be: its name and what was drawn for it."""

    name: str
    activation: str
    initialization: str
    learning_rate: float
    weight_decay: float


def grow(network: str, images: ImageSet, config: GrowConfig, out: str | Path, *, force: bool = False) -> Zoo:
    """Train a zoo of small networks on images and write it to `out`.

    Args:
        network: `cnn-s`, or `mlp`, or `mlp:32,16` for hidden layers of these widths (16,16 without).
        images: train, validation and test images; accuracy and loss on each are recorded per checkpoint.
        config: what varies between members, and how they are trained.
        out: a folder that does not exist yet.
        force: replace `out` if it exists.

    Members whose training ends in NaN or infinite weights are left out, counted and named in `zoo.json`.

    Raises:
        InputError: an unknown network, a malformed range, or `out` exists.
    """
    _check(config, len(images.train.labels))
    members = draw_members(config)
    kept = _kept_epochs(config)
    left_out: list[str] = []
    with new_folder(out, force=force) as folder:
        writer = ZooWriter(folder)
        with progress_bar("growing", total=len(members) * config.epochs) as advance:
            for group in _groups(members, config.together):
                architecture = describe_network(network, group[0].activation, images)
                broken = _grow_group(architecture, group, images, config, kept, writer, advance)
                left_out += broken
        if len(left_out) == len(members):
            raise InputError(f"expected members that can be trained, found NaN weights in all {len(members)} of them")
        writer.finish({"images": images.describe(), "grown": asdict(config), "left_out": left_out})
        write_manifest(folder, configuration=asdict(config) | {"network": network}, seed=config.seed)
    return Zoo.open(out)


def _check(config: GrowConfig, images: int) -> None:
    require_between("epochs", config.epochs, 1)
    require_between("batch size", config.batch_size, 1, images)
    require_between("together", config.together, 1)


def draw_members(config: GrowConfig) -> list[Member]:
    """Draw every member's hyper-parameters, each from a generator of its own."""
    require_between("members", config.members, 1)
    members = []
    for number in range(config.members):
        name = f"member-{number:04d}"
        drawn = {
            field: draw(getattr(config, field), derive_generator(config.seed, name, field))
            for field in ("activation", "initialization", "learning_rate", "weight_decay")
        }
        for field in ("learning_rate", "weight_decay"):
            drawn[field] = _number(drawn[field], field)
        require_between("the learning rate", drawn["learning_rate"], 1e-12)
        require_between("the weight decay", drawn["weight_decay"], 0)
        make_activation(drawn["activation"])
        require_scheme(drawn["initialization"])
        members.append(Member(name, **drawn))
    return members


def draw(choices: str, generator: torch.Generator) -> Any:
    """Draw from `a,b,c` (uniformly), from `low..high`, or from `log:low..high`.

    Raises:
        InputError: a range that is not two increasing numbers.
    """
    share = float(torch.rand((), generator=generator, dtype=torch.float64))
    if ".." not in choices:
        listed = [choice.strip() for choice in choices.split(",")]
        return listed[int(share * len(listed))]
    logarithmic = choices.startswith("log:")
    ends = choices.removeprefix("log:").split("..")
    try:
        low, high = (float(end) for end in ends)
    except ValueError as error:
        raise InputError(f"expected a range such as log:1e-3..1e-2, found '{choices}'") from error
    if not low < high or (logarithmic and low <= 0):
        raise InputError(f"expected an increasing range, positive if logarithmic, found '{choices}'")
    if logarithmic:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def describe_network(network: str, activation: str, images: ImageSet) -> Architecture:
    """The architecture of a named network for a set of images.

    Raises:
        InputError: an unknown name, or images of a size the network does not take.
    """
    name, _, widths = network.partition(":")
    shape = tuple(images.train.inputs.shape[1:])
    arguments: dict[str, Any]
    example = (EXAMPLE_BATCH, *shape)
    if name == "mlp":
        hidden = _widths(widths or "16,16")
        arguments = {"widths": [math.prod(shape), *hidden, images.classes], "activation": activation}
        identity = "-".join(["mlp", *map(str, arguments["widths"]), activation])
        return Architecture.of_module(
            mlp(**arguments),
            id=identity,
            factory="weightspace.zoo.networks:mlp",
            arguments=arguments,
            example_shape=example,
        )
    if name == "cnn-s" and not widths:
        if shape[1:] != (CNN_S_SIZE, CNN_S_SIZE):
            raise InputError(
                f"expected images of 28 x 28 for cnn-s, found {shape[1]} x {shape[2]}: resize with --size 28"
            )
        arguments = {"channels": shape[0], "classes": images.classes, "activation": activation}
        return Architecture.of_module(
            cnn_s(**arguments),
            id=f"cnn-s-{shape[0]}-{images.classes}-{activation}",
            factory="weightspace.zoo.networks:cnn_s",
            arguments=arguments,
            example_shape=example,
        )
    raise InputError(f"expected a network among cnn-s, mlp, mlp:WIDTH,WIDTH..., found '{network}'")


def native_size(network: str) -> int | None:
    """The image size a named network needs, or None if it takes any."""
    return CNN_S_SIZE if network == "cnn-s" else None


def _grow_group(
    architecture: Architecture,
    group: list[Member],
    images: ImageSet,
    config: GrowConfig,
    kept: list[int],
    writer: ZooWriter,
    advance: Advance,
) -> list[str]:
    """Train members of one architecture together, write their checkpoints; returns the names left out."""
    module = architecture.build()
    stack = stack_weights([_initial_weights(architecture, member, config.seed) for member in group])
    fitting = fit_stack(
        module,
        stack,
        images.train,
        FitConfig(epochs=config.epochs, batch_size=config.batch_size, optimizer=config.optimizer),
        learning_rates=torch.tensor([member.learning_rate for member in group]),
        weight_decays=torch.tensor([member.weight_decay for member in group]),
        seeds=[derive_seed(config.seed, member.name, "training") for member in group],
    )
    stacks, tables = [], []
    for epoch, trained in fitting:
        if epoch in kept:
            stacks.append({name: trained[name].clone() for name in architecture.shapes})
            tables.append(_describe_checkpoints(module, stacks[-1], images, group, epoch))
        if epoch:
            advance(len(group))
    table = pd.concat(tables, ignore_index=True)
    stack = {name: torch.cat([part[name] for part in stacks]) for name in architecture.shapes}
    finite = torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in stack.values()]).all(0)
    broken = sorted(set(table["member"][~finite.numpy()]))
    keep = ~table["member"].isin(broken)
    if keep.any():
        rows = torch.tensor(keep.to_numpy(copy=True))
        writer.add(architecture, {name: tensor[rows] for name, tensor in stack.items()}, table[keep])
    return broken


def _initial_weights(architecture: Architecture, member: Member, seed: int) -> Stack:
    module = architecture.build()
    initialize(module, member.initialization, derive_generator(seed, member.name, "initialization"))
    return module.state_dict()


def _describe_checkpoints(
    module: torch.nn.Module, stack: Stack, images: ImageSet, group: list[Member], epoch: int
) -> pd.DataFrame:
    table = pd.DataFrame([member._asdict() for member in group]).rename(columns={"name": "member"})
    table.insert(1, "epoch", epoch)
    for part in ("train", "validation", "test"):
        scores = score_stack(module, stack, getattr(images, part))
        table[f"{part}_accuracy"] = scores.accuracy.numpy()
        table[f"{part}_loss"] = scores.loss.numpy()
    table["generalization_gap"] = table["train_accuracy"] - table["test_accuracy"]
    return table


def _groups(members: list[Member], together: int) -> Iterator[list[Member]]:
    """Members of one activation, at most `together` of them."""
    ordered = sorted(members, key=lambda member: member.activation)
    for _, same in itertools.groupby(ordered, key=lambda member: member.activation):
        for group in _batched(same, together):
            yield list(group)


def _batched(values: Iterator[Member], size: int) -> Iterator[tuple[Member, ...]]:
    while batch := tuple(itertools.islice(values, size)):
        yield batch


def _kept_epochs(config: GrowConfig) -> list[int]:
    kept = sorted(set(config.keep)) or list(range(config.epochs + 1))
    if config.epochs < 1 or kept[0] < 0 or kept[-1] > config.epochs:
        raise InputError(f"expected kept epochs between 0 and {config.epochs}, found {kept}")
    return kept


def _widths(text: str) -> list[int]:
    try:
        widths = [int(width) for width in text.split(",")]
    except ValueError:
        widths = []
    if not widths or min(widths) < 1:
        raise InputError(f"expected hidden widths such as mlp:16,16, found 'mlp:{text}'")
    return widths


def _number(value: Any, field: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InputError(f"expected numbers for {field}, found '{value}'") from error
