"""Growing zoos: the plans agree, interrupted work goes on, processes and clusters change nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from weightspace.errors import InputError
from weightspace.images import ImageSet, open_images
from weightspace.outputs import partial_path
from weightspace.zoo.growing import growing, planning
from weightspace.zoo.growing.config import GrowConfig, apply_choices
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.growing.members import draw_members
from weightspace.zoo.growing.networks import cnn_l, initialize, resnet18, small_cnn
from weightspace.zoo.growing.recipes import find_recipe
from weightspace.zoo.zoo import Zoo

ALONE = {"plan": "alone", "workers": 1}


def by_checkpoint(zoo: Zoo) -> pd.DataFrame:
    return zoo.table.sort_values(["member", "epoch"]).reset_index(drop=True)


def largest_difference(first: Zoo, second: Zoo) -> float:
    """Of any weight of any checkpoint."""
    places = [
        {(m, e): row for row, (m, e) in enumerate(zip(z.table["member"], z.table["epoch"], strict=True))}
        for z in (first, second)
    ]
    assert places[0].keys() == places[1].keys()
    return max(
        float((tensor - second.weights(places[1][key])[name]).abs().max())
        for key, row in places[0].items()
        for name, tensor in first.weights(row).items()
    )


def test_plans_change_an_mlp_by_rounding_only(digits: ImageSet, tmp_path: Path) -> None:
    config = {"members": 6, "epochs": 3, "learning_rate": "log:3e-3..2e-2", "optimizer": "adam,sgd"}
    zoos = {
        name: grow("mlp:8", digits, GrowConfig(**config, plan=plan, workers=1, together=together), tmp_path / name)  # type: ignore[arg-type]
        for name, plan, together in (("stacked", "stacked", 200), ("pairs", "stacked", 2), ("alone", "alone", 200))
    }
    for name in ("pairs", "alone"):
        assert largest_difference(zoos["stacked"], zoos[name]) < 1e-4
        assert zoos[name].about["plan"]["way"] == ("alone" if name == "alone" else "stacked")
    assert set(zoos["alone"].table["optimizer"]) == {"adam", "sgd"}


def test_plans_change_a_cnn_by_little(tmp_path: Path) -> None:
    images = open_images("digits", size=28, limits=(300, 50))
    config = {"members": 2, "epochs": 1, "keep": (1,), "activation": "tanh", "workers": 1}
    zoos = [
        grow("cnn-s", images, GrowConfig(**config, plan=plan), tmp_path / plan)  # type: ignore[arg-type]
        for plan in ("alone", "channels-last", "side-by-side", "stacked", "unfolded")
    ]
    assert all(largest_difference(zoos[0], other) < 1e-3 for other in zoos[1:])


def test_side_by_side_is_refused_where_channels_mix(tmp_path: Path) -> None:
    images = open_images("digits", limits=(200, 40))
    with pytest.raises(InputError, match="expected a network whose channels can stand side by side"):
        grow("test_side_by_side:Mixing", images, GrowConfig(members=2, plan="side-by-side"), tmp_path / "no")


def test_auto_takes_what_it_measured_to_be_fastest(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "PROBE_SECONDS", 0.05)
    zoo = grow("mlp:8", digits, GrowConfig(members=10, epochs=1), tmp_path / "zoo")
    plan = zoo.about["plan"]
    assert set(plan["milliseconds"]) == {"stacked", "alone"} and plan["workers"] == 1
    assert plan["way"] == min(plan["milliseconds"], key=plan["milliseconds"].get)
    assert not {"growing.json", "parts"} & {path.name for path in (tmp_path / "zoo").iterdir()}


def test_a_way_that_does_not_fit_into_memory_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(module: nn.Module) -> nn.Module:
        class Full(type(module)):  # type: ignore[misc]
            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                raise torch.OutOfMemoryError("CUDA out of memory")

        module.__class__ = Full
        return module

    images = open_images("digits", size=28, limits=(200, 40))
    monkeypatch.setattr(planning, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(planning, "unfold_convolutions", full)
    monkeypatch.setattr(planning, "_ways", lambda *_: ("unfolded", "alone"))
    plan = grow("cnn-s", images, GrowConfig(members=2, epochs=1, workers=1), tmp_path / "zoo").about["plan"]
    assert plan["way"] == "alone" and set(plan["milliseconds"]) == {"alone"}
    with pytest.raises(torch.OutOfMemoryError):
        grow("cnn-s", images, GrowConfig(members=2, epochs=1, plan="unfolded"), tmp_path / "no")


def test_long_work_gets_a_worker_for_each_core_and_stacks_for_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "count_cpus", lambda: 4)
    assert planning._choose_workers(1.0, "cpu") == 1 and planning._choose_workers(1_000.0, "cpu") == 4
    assert planning._choose_workers(1_000.0, "cuda") == 1
    assert planning._choose_together(200, "stacked", 100, 4, 1.0, False) == 25
    assert planning._choose_together(200, "stacked", 1_000, 4, 1.0, False) == 200
    assert planning._choose_together(200, "alone", 100, 4, 1.0, False) == 1
    assert planning._choose_together(200, "side-by-side", 100, 4, 1.0, False) == planning.BESIDE_EACH_OTHER
    assert planning._choose_together(200, "channels-last", 100, 4, 1.0, True) == 10


def test_stacks_are_bounded_by_the_size_of_the_networks(digits: ImageSet) -> None:
    small = find_recipe("mlp:8", digits).architecture("tanh")
    large = find_recipe("mlp:4000,4000", digits).architecture("tanh")
    assert planning._fitting(small, 10) > 1_000 and planning._fitting(large, 10) <= 2


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ctrl-C while the task after `count` tasks is at work; returns the list that tasks are noted in."""
    real, seen = growing.grow_task, []

    def stops(shared: growing.Shared, task: planning.GrowTask, tick: Callable[[int], None]) -> object:
        seen.append(task.key)
        if len(seen) == count + 1:
            raise KeyboardInterrupt
        return real(shared, task, tick)

    monkeypatch.setattr(growing, "grow_task", stops)
    return seen


def test_interrupted_growing_goes_on_and_trains_nobody_twice(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GrowConfig(members=5, epochs=2, activation="tanh", **ALONE)  # type: ignore[arg-type]
    whole = grow("mlp:8", digits, config, tmp_path / "whole")
    seen = stop_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        grow("mlp:8", digits, config, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(InputError, match="--resume continues it"):
        grow("mlp:8", digits, config, tmp_path / "zoo")
    other = GrowConfig(members=5, epochs=2, activation="tanh", seed=1, **ALONE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected the settings that the unfinished work"):
        grow("mlp:8", digits, other, tmp_path / "zoo", existing="resume")
    again = GrowConfig(members=5, epochs=2, activation="tanh")  # the plan of the first run is used again
    zoo = grow("mlp:8", digits, again, tmp_path / "zoo", existing="resume")
    assert seen == [f"member-{number:04d}" for number in (0, 1, 2, 3, 3, 4)]
    assert zoo.about["plan"]["way"] == "alone" and by_checkpoint(zoo).equals(by_checkpoint(whole))
    assert largest_difference(zoo, whole) == 0


def test_growing_stopped_before_the_first_member_leaves_nothing(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(0, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        grow("mlp:8", digits, GrowConfig(members=2, epochs=1, **ALONE), tmp_path / "zoo")  # type: ignore[arg-type]
    assert not partial_path(tmp_path / "zoo").exists()


def test_growing_stopped_while_it_is_put_together_goes_on(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GrowConfig(members=3, epochs=1, **ALONE)  # type: ignore[arg-type]
    with monkeypatch.context() as patched:
        patched.setattr(growing, "write_manifest", lambda *given, **named: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            grow("mlp:8", digits, config, tmp_path / "zoo")
    seen = stop_after(99, monkeypatch)
    assert len(grow("mlp:8", digits, config, tmp_path / "zoo", existing="resume")) == 6 and seen == []


def test_two_processes_grow_the_same_zoo(digits: ImageSet, tmp_path: Path) -> None:
    zoos = [
        grow("mlp:8", digits, GrowConfig(members=4, epochs=1, plan="alone", workers=workers), tmp_path / str(workers))
        for workers in (1, 2)
    ]
    assert by_checkpoint(zoos[0]).equals(by_checkpoint(zoos[1])) and largest_difference(*zoos) == 0


def test_dropout_makes_architectures_of_its_own(digits: ImageSet, tmp_path: Path) -> None:
    config = GrowConfig(members=6, epochs=1, activation="relu", dropout="0,0.2", plan="stacked", workers=1)
    zoo = grow("mlp:8", digits, config, tmp_path / "zoo")
    assert set(zoo.architectures) == {"mlp-64-8-10-relu", "mlp-64-8-10-relu-dropout0.2"}
    assert set(zoo.table["dropout"]) == {0.0, 0.2}


def test_any_module_grows_from_its_own_initialisation(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images("digits", size=8)
    zoo = grow(
        "garden.small:digit_net", images, GrowConfig(members=3, epochs=2, plan="stacked", workers=1), tmp_path / "zoo"
    )
    (architecture,) = zoo.architectures.values()
    assert architecture.id == "garden.small.digit_net" and "activation" not in zoo.properties
    first = {member: zoo.where(member=member, epoch=0).weights(0)["1.weight"] for member in zoo.members}
    assert not torch.equal(first["member-0000"], first["member-0001"])
    with pytest.raises(InputError, match="expected no activation for garden.small:digit_net"):
        grow("garden.small:digit_net", images, GrowConfig(members=3, activation="relu"), tmp_path / "no")
    with pytest.raises(InputError, match="expected an importable"):
        grow("garden.small:nobody", images, GrowConfig(members=3, epochs=1), tmp_path / "no")


def test_a_resnet_grows_with_its_batch_norms(tmp_path: Path) -> None:
    images = open_images("digits", limits=(200, 40))
    config = GrowConfig(members=1, epochs=1, plan="alone", workers=1, batch_size=32)
    zoo = grow("resnet18:2", images, config, tmp_path / "zoo")
    weights = zoo.where(epoch=1).weights(0)
    assert int(weights["bn1.num_batches_tracked"]) == 5 and zoo.weights(0)["bn1.num_batches_tracked"] == 0
    module = zoo.architectures["resnet18-1-2-10"].build()
    module.load_state_dict(weights)
    ways = planning._ways(zoo.architectures["resnet18-1-2-10"], images.train, [], "cpu")
    assert ways == ("alone", "stacked")
    assert planning._ways(zoo.architectures["resnet18-1-2-10"], images.train, [], "cuda") == (*ways, "unfolded")
    with pytest.raises(InputError, match="expected at least 8 channels into the strided 1 x 1 convolution layer2.0"):
        grow("resnet18:2", images, replace(config, plan="channels-last"), tmp_path / "crash")
    assert len(grow("resnet18:8", images, replace(config, plan="channels-last"), tmp_path / "wide")) == 2


def test_initialising_leaves_norms_alone() -> None:
    module = initialize(resnet18(width=2), "kaiming_normal", torch.Generator().manual_seed(0))
    assert all(
        torch.equal(part.weight, torch.ones_like(part.weight))
        for part in module.modules()
        if isinstance(part, nn.BatchNorm2d)
    )
    assert not module.get_parameter("fc.bias").any()


def test_the_published_networks_have_their_sizes_and_names() -> None:
    assert sum(p.numel() for p in cnn_l().parameters()) == 10_853
    assert [name for name in cnn_l().state_dict() if "weight" in name] == [
        f"module_list.{number}.weight" for number in (0, 4, 8, 13, 16)
    ]
    assert sum(p.numel() for p in small_cnn().parameters()) == 4_970
    assert sum(p.numel() for p in resnet18().parameters()) == 11_173_962 and len(resnet18(width=2).state_dict()) == 122
    assert "layer2.0.downsample.1.running_var" in resnet18(width=2).state_dict()


def test_choices_have_short_names() -> None:
    config = apply_choices(GrowConfig(), ["lr=1e-3", "wd=0", "init=normal", "activation=tanh", "dropout=0.1"])
    assert (config.learning_rate, config.weight_decay, config.initialization) == ("1e-3", "0", "normal")
    for wrong in ("lr", "lr=", "members=3", "=3"):
        with pytest.raises(InputError, match="expected name=choices"):
            apply_choices(GrowConfig(), [wrong])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "gpu"}, "expected a device such as auto, cpu"),
        ({"workers": -1}, "expected workers to be at least 0"),
        ({"optimizer": "adagrad"}, "expected an optimizer among"),
        ({"dropout": "1.5"}, "expected the dropout rate to be between"),
        ({"dropout": "much"}, "expected numbers for dropout"),
        ({"plan": "side-by-side", "precision": "bf16"}, "expected --plan alone or channels-last with --precision bf16"),
    ],
)
def test_bad_plans_are_refused(changes: dict[str, object], message: str, digits: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        grow("mlp", digits, GrowConfig(**{"members": 2, "epochs": 1, **changes}), tmp_path / "zoo")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(digits: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a device of this machine, found 'cuda', and it has only cpu"):
        grow("mlp", digits, GrowConfig(members=2, device="cuda"), tmp_path / "zoo")


def test_members_of_a_network_are_drawn_alike_whatever_else_varies(digits: ImageSet) -> None:
    recipe = find_recipe("mlp", digits)
    plain, varied = (draw_members(GrowConfig(members=4, dropout=rate), recipe) for rate in ("0", "0..0.5"))
    assert [member.learning_rate for member in plain] == [member.learning_rate for member in varied]


def test_the_limits_of_an_image_set_are_kept_with_the_zoo(tmp_path: Path) -> None:
    images = open_images("digits", limits=(500, 100))
    assert images.describe()["limits"] == [500, 100] and len(images.test.labels) == 100
    assert len(images.train.labels) + len(images.validation.labels) == 500
    zoo = grow("mlp:4", images, GrowConfig(members=1, epochs=1, **ALONE), tmp_path / "zoo")  # type: ignore[arg-type]
    assert json.loads((tmp_path / "zoo" / "zoo.json").read_text())["images"]["limits"] == [500, 100]
    assert len(zoo) == 2
    with pytest.raises(InputError, match="expected the number of images to be at least 5"):
        open_images("digits", limits=(2, None))


def test_dropout_rates_of_one_name_are_one_architecture(digits: ImageSet) -> None:
    config = GrowConfig(members=400, dropout="0.1..0.1001", activation="tanh")
    members = draw_members(config, find_recipe("mlp", digits))
    rates = {member.dropout for member in members}
    assert {float(f"{rate:g}") for rate in rates} == rates and len({f"{rate:g}" for rate in rates}) == len(rates)


@pytest.mark.slow
def test_ctrl_c_with_two_workers_is_one_line_and_goes_on(tmp_path: Path) -> None:
    words = [
        "grow",
        "mlp:8",
        "--data",
        "digits",
        "--members",
        "64",
        "--epochs",
        "15",
        "--keep",
        "15",
        "--plan",
        "alone",
    ]
    command = [sys.executable, "-m", "weightspace", *words, "--workers", "2", "--out", str(tmp_path / "zoo")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    begun = partial_path(tmp_path / "zoo") / "parts" / "begun"
    end = time.monotonic() + 120
    while not begun.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err.strip()) == (130, "weightspace: stopped")
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert "64 members, 64 checkpoints" in done.stdout


class Careful(nn.Module):
    """Looks at a value, which vmap cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs.flatten(1)).relu()
        return self.second(hidden * 0.5 if hidden.detach().abs().max().item() > 50 else hidden)


class Random(nn.Module):
    """Draws from the global states of torch, numpy and Python, none of them by a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.dropout(self.first(inputs.flatten(1)).relu(), 0.3, self.training)
        if self.training:
            hidden = hidden * (1 + 0.1 * random.random()) + 0.1 * float(np.random.rand())  # noqa: NPY002 # on purpose
        return self.second(hidden)


def test_a_module_that_cannot_be_stacked_is_trained_alone(digits: ImageSet, tmp_path: Path) -> None:
    zoo = grow("test_growing:Careful", digits, GrowConfig(members=2, epochs=1), tmp_path / "zoo")
    assert len(zoo) == 4 and "stacked" not in zoo.about["plan"]["milliseconds"]


def test_whatever_a_module_draws_is_its_members_own(digits: ImageSet, tmp_path: Path) -> None:
    """The law: the same command gives the same networks, whatever ran before, and leaves the global states alone."""
    config = GrowConfig(members=2, epochs=1, workers=1, seed=3)
    grown = []
    for run in range(2):
        torch.manual_seed(run)
        random.seed(run)
        np.random.seed(run)  # noqa: NPY002 # the state that a module draws from
        before = torch.get_rng_state()
        grown.append(grow("test_growing:Random", digits, config, tmp_path / str(run)))
        assert torch.equal(torch.get_rng_state(), before)
    for row in range(len(grown[0])):
        first, second = (zoo.weights(row) for zoo in grown)
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert "stacked" not in grown[0].about["plan"]["milliseconds"]
