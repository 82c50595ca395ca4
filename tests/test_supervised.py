import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from weightspace.batch_norms import recalibrate_batch_norm
from weightspace.errors import InputError
from weightspace.images import Images, ImageSet
from weightspace.randomness import derive_generator
from weightspace.supervised import (
    FitConfig,
    Stack,
    faster_alone,
    fit_one,
    fit_stack,
    predict_stack,
    score,
    score_stack,
    stack_weights,
    unstack_weights,
)
from weightspace.zoo.growing.networks import mlp


def train_alone(
    module: nn.Module, images: Images, config: FitConfig, rate: float, decay: float, seed: int
) -> nn.Module:
    """The obvious loop that `fit_stack` must agree with."""
    module = copy.deepcopy(module).train()
    if config.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(module.parameters(), lr=rate, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    generator = derive_generator(seed, "order")
    for _ in range(config.epochs):
        order = torch.randperm(len(images.labels), generator=generator)
        for step in range(len(order) // config.batch_size):
            batch = order[step * config.batch_size : (step + 1) * config.batch_size]
            loss = nn.functional.cross_entropy(module(images.inputs[batch]), images.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return module


def fit(module: nn.Module, images: Images, config: FitConfig, *, learning_rate: float, seed: int) -> nn.Module:
    assert list(fit_one(module, images, config, learning_rate=learning_rate, seed=seed)) == [*range(config.epochs + 1)]
    return module


def fit_in_stack(module: nn.Module, images: Images, config: FitConfig, *, learning_rate: float, seed: int) -> nn.Module:
    rates = torch.tensor([learning_rate])
    fitting = fit_stack(
        module,
        stack_weights([module.state_dict()]),
        images,
        config,
        learning_rates=rates,
        weight_decays=rates * 0,
        seeds=[seed],
    )
    *_, (_, stack) = fitting
    module.load_state_dict(unstack_weights(stack)[0])
    return module


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10))


@pytest.mark.parametrize("build", [lambda: mlp([64, 8, 10]), with_batch_norm], ids=["mlp", "batch-norm"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_many_at_once_is_each_alone(digits: ImageSet, optimizer: str, build: object) -> None:
    # In float64, since Adam blows gradients that are 0 but for rounding up to full steps.
    images = Images(digits.train.inputs.double(), digits.train.labels)
    config = FitConfig(epochs=2, batch_size=64, optimizer=optimizer)  # type: ignore[arg-type]
    modules = [build().double() for _ in range(3)]  # type: ignore[operator]
    rates, decays = [0.003, 0.01, 0.02], [0.0, 1e-3, 1e-2]
    alone = [
        train_alone(module, images, config, rate, decay, seed)
        for seed, (module, rate, decay) in enumerate(zip(modules, rates, decays, strict=True))
    ]
    *_, (_, stack) = fit_stack(
        modules[0],
        stack_weights([module.state_dict() for module in modules]),
        images,
        config,
        learning_rates=torch.tensor(rates, dtype=torch.float64),
        weight_decays=torch.tensor(decays, dtype=torch.float64),
        seeds=range(3),
    )
    for weights, module in zip(unstack_weights(stack), alone, strict=True):
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-6, atol=1e-8)


def test_stacking_has_an_inverse() -> None:
    networks = [mlp([4, 3, 2]).state_dict() for _ in range(3)]
    for before, after in zip(networks, unstack_weights(stack_weights(networks)), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_scores_of_a_stack_are_those_of_its_networks(digits: ImageSet) -> None:
    modules = [mlp([64, 8, 10]) for _ in range(2)]
    together = score_stack(modules[0], stack_weights([module.state_dict() for module in modules]), digits.test)
    for number, module in enumerate(modules):
        outputs = module(digits.test.inputs)
        accuracy = (outputs.argmax(1) == digits.test.labels).float().mean()
        torch.testing.assert_close(together.accuracy[number], accuracy)
        torch.testing.assert_close(
            together.loss[number], nn.functional.cross_entropy(outputs, digits.test.labels), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(score(modules[1], digits.test).accuracy[0], together.accuracy[1])


def test_fitting_one_module_learns(digits: ImageSet) -> None:
    module = fit(mlp([64, 16, 10]), digits.train, FitConfig(epochs=4), learning_rate=0.01, seed=0)
    assert float(score(module, digits.test).accuracy) > 0.8


def test_the_one_cycle_schedule_learns_too(digits: ImageSet) -> None:
    config = FitConfig(epochs=4, schedule="one-cycle")
    module = fit(mlp([64, 16, 10]), digits.train, config, learning_rate=0.02, seed=0)
    assert float(score(module, digits.test).accuracy) > 0.8


def test_recalibration_gives_exact_averages() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3))
    inputs = 5 + 2 * torch.randn(512, 3)
    recalibrate_batch_norm(module, inputs, batch_size=128)
    torch.testing.assert_close(module[0].running_mean, inputs.mean(0))
    torch.testing.assert_close(module[0].running_var, inputs.var(0))
    assert module[0].momentum == 0.1 and module.training
    drifting = torch.arange(4.0).repeat_interleave(64)[:, None] + 0.1 * torch.randn(256, 3)
    recalibrate_batch_norm(module, drifting, batch_size=64)
    torch.testing.assert_close(module[0].running_var, drifting.var(0)), "what differs between batches counts"


def test_recalibration_drops_nothing_and_leaves_modes_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    module.train()
    module[3].eval()
    inputs = torch.randn(64, 3)
    first = recalibrate_batch_norm(module, inputs).get_buffer("2.running_var").clone()
    assert torch.equal(recalibrate_batch_norm(module, inputs).get_buffer("2.running_var"), first)
    assert module.training and module[1].training and not module[3].training
    with pytest.raises(RuntimeError):
        recalibrate_batch_norm(module, torch.randn(64, 7))
    assert torch.equal(module.get_buffer("2.running_var"), first) and module[1].training and not module[3].training


def test_networks_that_are_scored_on_the_way_are_trained_alike(digits: ImageSet) -> None:
    modules = [with_batch_norm() for _ in range(2)]
    stack, images = (
        stack_weights([module.state_dict() for module in modules]),
        Images(*(own[:256] for own in digits.train)),
    )

    def trained(scored: bool) -> Stack:
        rates, decays = torch.full((2,), 0.01), torch.zeros(2)
        fitting = fit_stack(
            modules[0], stack, images, FitConfig(epochs=2), learning_rates=rates, weight_decays=decays, seeds=[0, 1]
        )
        for _, found in fitting:
            if scored:
                score_stack(modules[0], found, digits.test)
        return {name: tensor.clone() for name, tensor in found.items()}

    alone, scored = trained(False), trained(True)
    for name, tensor in alone.items():
        assert torch.equal(tensor, scored[name]), name
    counters = [tensor for name, tensor in alone.items() if name.endswith("num_batches_tracked")]
    assert counters and all((counter == 8).all() for counter in counters), "two epochs of four batches"


def test_predictions_do_not_depend_on_the_batch() -> None:
    module = mlp([64, 8, 10])
    stack, inputs = stack_weights([module.state_dict()]), torch.randn(1500, 1, 8, 8)
    torch.testing.assert_close(predict_stack(module, stack, inputs)[0], module(inputs), rtol=1e-4, atol=1e-5)


def test_stacks_of_convolutions_predict_as_their_networks() -> None:
    modules = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)) for _ in range(3)]
    assert faster_alone(modules[0], torch.device("cpu")) and not faster_alone(modules[0], torch.device("cuda"))
    assert not faster_alone(mlp([4, 2]), torch.device("cpu"))
    inputs = torch.randn(1_500, 1, 8, 8)
    found = predict_stack(modules[0], stack_weights([module.state_dict() for module in modules]), inputs)
    for module, own in zip(modules, found, strict=True):
        torch.testing.assert_close(own, module.eval()(inputs), rtol=1e-4, atol=1e-5)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.a, self.b, self.out = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 10)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(self.a(self.inp(x.flatten(1)).relu()).relu()).relu())


@pytest.mark.parametrize("fit", [fit, fit_in_stack])
def test_tied_networks_are_trained_and_stay_tied(digits: ImageSet, fit: Callable[..., nn.Module]) -> None:
    images, start = Images(digits.train.inputs.double(), digits.train.labels), Tied().double()
    alone = train_alone(start, images, FitConfig(epochs=1), 0.01, 0.0, 0)
    module = fit(start, images, FitConfig(epochs=1), learning_rate=0.01, seed=0)
    assert torch.equal(module.get_parameter("a.weight"), module.get_parameter("b.weight"))
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fit", [fit, fit_in_stack])
def test_dropout_follows_the_seed(digits: ImageSet, fit: Callable[..., nn.Module]) -> None:
    start = mlp([64, 8, 10], "relu", 0.5).state_dict()
    made = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        module = mlp([64, 8, 10], "relu", 0.5)
        module.load_state_dict(start)
        made.append(fit(module, digits.train, FitConfig(epochs=1), learning_rate=0.01, seed=3).state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in start)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_one_alone_is_the_obvious_loop(digits: ImageSet, optimizer: str, channels_last: bool) -> None:
    images = Images(digits.train.inputs.double(), digits.train.labels)
    start = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)
    ).double()
    config = FitConfig(epochs=2, batch_size=64, optimizer=optimizer)  # type: ignore[arg-type]
    expected = train_alone(start, images, config, 0.01, 1e-3, 5).state_dict()
    options = {"learning_rate": 0.01, "weight_decay": 1e-3, "seed": 5, "channels_last": channels_last}
    for _ in fit_one(start, images, config, **options):  # type: ignore[arg-type]
        pass
    for name, tensor in start.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [0, -3, 10_000])
def test_impossible_batches_are_refused(digits: ImageSet, size: int) -> None:
    with pytest.raises(InputError, match="expected a batch size between 1 and 958"):
        fit(mlp([64, 10]), digits.train, FitConfig(batch_size=size), learning_rate=0.1, seed=0)
    with pytest.raises(InputError, match="at least 2 inputs"):
        recalibrate_batch_norm(with_batch_norm(), digits.train.inputs[:1])
