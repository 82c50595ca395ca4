"""One `--device` with one meaning everywhere, and nothing left behind on another one."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from weightspace import devices
from weightspace.analysis.config import ProbeConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.autoencoder.training.devices import make_accelerator, training_device
from weightspace.batch_norms import recalibrate_batch_norm
from weightspace.devices import choose_device, count_operations, require_one_device
from weightspace.errors import InputError
from weightspace.evaluation.config import EvaluateConfig
from weightspace.generation.config import GenerateConfig
from weightspace.images import Images
from weightspace.supervised import FitConfig, answer_stack, fit_one, predict, predict_stack, stack_weights
from weightspace.symmetry.matching import match_weights
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.zoo import Zoo


class Convolutions(nn.Sequential):
    """With a norm, and a constant that is no weight."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + self.shift


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two accelerators; nothing runs on them."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.mark.parametrize(
    "config", [TrainConfig, DistillConfig, GrowConfig, GenerateConfig, EvaluateConfig, ProbeConfig]
)
def test_every_configuration_asks_for_a_device_in_the_same_words(config: type) -> None:
    assert next(field.default for field in fields(config) if field.name == "device") == "auto"


def test_auto_stays_on_the_cpu_without_an_accelerator() -> None:
    assert choose_device("auto", devices.WORTH_MOVING) == torch.device("cpu")


def test_auto_takes_the_accelerator_for_large_work_only(accelerator: None) -> None:
    assert choose_device("auto", devices.WORTH_MOVING) == torch.device("cuda")
    assert choose_device("auto", lambda: devices.WORTH_MOVING / 2) == torch.device("cpu")
    assert choose_device("cuda:1", 0.0) == torch.device("cuda:1")
    assert choose_device("cpu", torch.inf) == torch.device("cpu")


def test_work_is_counted_only_where_there_is_a_choice() -> None:
    def refuse() -> float:
        raise AssertionError("counted")

    assert choose_device("auto", refuse) == choose_device("cpu", refuse) == torch.device("cpu")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("gpu", "expected a device such as auto, cpu, cuda or cuda:1, found 'gpu'"),
        ("meta", "expected a device such as"),
        ("cuda", "expected a device of this machine, found 'cuda', and it has only cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(asked: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        choose_device(asked)


def test_an_accelerator_too_many_is_refused(accelerator: None) -> None:
    with pytest.raises(InputError, match="found 'cuda:2', and it has 2 of them"):
        choose_device("cuda:2")


def test_training_alone_takes_what_is_asked_for(accelerator: None) -> None:
    assert training_device(make_accelerator(), "cuda:1", 0.0) == torch.device("cuda:1")


def test_operations_are_those_of_the_products() -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 5), nn.Flatten(), nn.Linear(8 * 24 * 24, 10))
    expected = 2 * (24 * 24 * 8 * 25 + 8 * 24 * 24 * 10)
    assert count_operations(module, torch.zeros(4, 1, 28, 28)) == expected
    assert all(not parameter.is_meta for parameter in module.parameters())


def test_operations_of_a_module_that_runs_nowhere_else_are_estimated() -> None:
    class Reading(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) * inputs.sum().item()

    assert count_operations(Reading(3, 2), torch.zeros(1, 3)) == 2 * 8


def test_mixed_devices_are_refused(sane_folder: Path, zoo: Zoo) -> None:
    sane = SANE.open(sane_folder)
    here, elsewhere = torch.zeros(2), torch.zeros(2, device="meta")
    with pytest.raises(InputError, match="expected what belongs together on one device, found tensors on cpu and meta"):
        require_one_device("what belongs together", [here, elsewhere])
    with pytest.raises(InputError, match="expected images and labels on one device"):
        next(
            fit_one(
                nn.Linear(2, 2), Images(elsewhere, here), FitConfig(epochs=1, batch_size=1), learning_rate=1.0, seed=0
            )
        )
    weights = zoo.weights(0)
    first = next(iter(weights))
    with pytest.raises(InputError, match="expected the weights of a network on one device"):
        sane.embed_network({**weights, first: weights[first].to("meta")})
    with pytest.raises(InputError, match="expected weights with values, found tensors on the device meta"):
        sane.embed_network({name: tensor.to("meta") for name, tensor in weights.items()})
    architecture = zoo.architectures[str(zoo.table["architecture"].iloc[0])]
    symmetry = trace_symmetry(architecture.build(), architecture.example())
    with pytest.raises(InputError, match="expected two networks to match on one device"):
        match_weights(weights, {name: tensor.to("meta") for name, tensor in weights.items()}, symmetry)


def test_networks_are_asked_where_the_inputs_are() -> None:
    """On the device meta, whose tensors torch refuses beside others, as it does those of a GPU."""
    there = torch.device("meta")
    inputs = torch.zeros(10, 1, 8, 8, device=there)
    for ask in (predict_stack, answer_stack):
        stack = stack_weights([Convolutions().state_dict()] * 2)  # on the CPU
        assert ask(Convolutions(), stack, inputs).device == there
    assert predict(Convolutions().to(there), inputs).device == there
    normed = recalibrate_batch_norm(Convolutions().to(there), inputs)
    assert {tensor.device for tensor in normed.state_dict().values()} == {there}
    with pytest.raises(RuntimeError, match="device"):
        predict(Convolutions(), inputs)  # so that what passes above can fail
