"""Networks side by side: each of them learns and answers as it does alone, and what cannot stand so is found out."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.images import Images
from weightspace.side_by_side import (
    SideBySide,
    UnfoldedConv2d,
    can_stand_side_by_side,
    fit_side_by_side,
    score_side_by_side,
    unfold_convolutions,
)
from weightspace.supervised import FitConfig, fit_one, score, stack_weights, unstack_weights
from weightspace.zoo.growing.networks import cnn_l, cnn_s, mlp, resnet18

IMAGES = Images(torch.randn(96, 3, 8, 8, dtype=torch.float64), torch.arange(96) % 10)


class Mixing(nn.Module):
    """One that takes a mean over its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(36, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.last((hidden - hidden.mean(1, keepdim=True)).relu()[:, :1].flatten(1))


class Scaled(nn.Module):
    """One with a parameter that has no axis."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.last = nn.Parameter(torch.tensor(2.0)), nn.Linear(192, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.scale * inputs.flatten(1))


def small() -> nn.Module:
    """Strided, grouped and reflecting convolutions, both norms that mix no channels of others, a frozen bias."""
    layers = [
        *[nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3, bias=False), nn.GroupNorm(2, 6), nn.Tanh()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)],
    ]
    layers[-1].bias.requires_grad_(False)
    return nn.Sequential(*layers)


def tied() -> nn.Module:
    """The same layer in two places."""
    layer = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), layer, nn.Tanh(), layer, nn.Flatten(), nn.Linear(144, 10))


@pytest.mark.parametrize("build", [small, tied, lambda: resnet18(3, 10, 2)], ids=["small", "tied", "resnet"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_each_learns_as_it_does_alone(build: Callable[[], nn.Module], optimizer: str) -> None:
    """The law. In float64, since Adam blows gradients that are 0 but for rounding up to full steps."""
    config = FitConfig(epochs=2, batch_size=32, optimizer=optimizer)  # type: ignore[arg-type]
    modules = [build().double() for _ in range(3)]
    rates, decays, seeds = [0.003, 0.01, 0.02], [0.0, 1e-3, 1e-2], [5, 6, 7]
    networks = SideBySide(modules[0], stack_weights([module.state_dict() for module in modules]))
    fitting = fit_side_by_side(
        networks,
        IMAGES,
        config,
        learning_rates=torch.tensor(rates).double(),
        weight_decays=torch.tensor(decays).double(),
        seeds=seeds,
    )
    scores = [score_side_by_side(networks, IMAGES) for _ in fitting][-1]
    for place, module in enumerate(modules):
        alone = {"learning_rate": rates[place], "weight_decay": decays[place], "seed": seeds[place]}
        for _ in fit_one(module, IMAGES, config, **alone):  # type: ignore[arg-type]
            score(module, IMAGES)
        weights = unstack_weights(networks.stack)[place]
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-6, atol=1e-7)
        accuracy, loss = score(module, IMAGES)
        assert scores.accuracy[place] == accuracy[0]
        torch.testing.assert_close(scores.loss[place], loss[0], check_dtype=False)


def test_networks_are_copied_and_come_back_as_they_went_in() -> None:
    modules = [small() for _ in range(2)]
    stack = stack_weights([module.state_dict() for module in modules])
    before = copy.deepcopy(stack)
    networks = SideBySide(modules[0], stack)
    assert list(networks.stack) == list(stack)
    assert all(torch.equal(networks.stack[name], tensor) for name, tensor in before.items())
    with torch.no_grad():
        networks.numbers.zero_()
    assert all(torch.equal(stack[name], tensor) for name, tensor in before.items())
    assert networks.stack["0.weight"].abs().sum() == 0 and networks.stack["9.bias"].abs().sum() > 0


@pytest.mark.parametrize(
    ("build", "shape", "stands"),
    [
        (cnn_s, (1, 28, 28), True),
        (cnn_l, (3, 32, 32), True),
        (lambda: mlp([64, 8, 10]), (1, 8, 8), True),
        (lambda: resnet18(3, 10, 8), (3, 8, 8), True),
        # torch writes beyond its memory in the gradients of such strided 1 x 1 convolutions.
        (lambda: resnet18(3, 10, 2), (3, 8, 8), False),
        (small, (3, 8, 8), True),
        (tied, (3, 8, 8), True),
        (Mixing, (1, 5, 5), False),
        (Scaled, (3, 8, 8), False),
        (lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 10)), (3, 8, 8), False),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.Softmax(1)), (3, 8, 8), False),
        (lambda: nn.Conv2d(3, 10, 3), (3, 8, 8), False),
    ],
    ids=[
        "cnn-s",
        "cnn-l",
        "mlp",
        "resnet",
        "narrow-resnet",
        "small",
        "tied",
        "mixing",
        "scaled",
        "layer-norm",
        "softmax",
        "no-classes",
    ],
)
def test_what_mixes_channels_is_found_out(build: Callable[[], nn.Module], shape: tuple[int, ...], stands: bool) -> None:
    assert can_stand_side_by_side(build(), torch.randn(4, *shape)) is stands


def test_a_parameter_without_an_axis_is_refused() -> None:
    with pytest.raises(InputError, match="expected parameters with an axis for networks side by side, found scale"):
        SideBySide(Scaled(), stack_weights([Scaled().state_dict()] * 2))


@pytest.mark.parametrize(
    ("kernel", "options"),
    [(3, {}), ((2, 3), {"stride": (2, 1), "padding": (0, 1)}), (3, {"dilation": 2, "bias": False}), (1, {"stride": 2})],
)
def test_an_unfolded_convolution_is_the_same_one(kernel: int | tuple[int, int], options: dict[str, object]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, kernel, **options)).double()  # type: ignore[arg-type]
    unfolded = unfold_convolutions(module)
    assert isinstance(unfolded[0], UnfoldedConv2d) and not isinstance(module[0], UnfoldedConv2d)  # type: ignore[index]
    torch.testing.assert_close(unfolded(IMAGES.inputs), module(IMAGES.inputs), rtol=1e-12, atol=1e-12)
    assert list(unfolded.state_dict()) == list(module.state_dict())


def test_convolutions_in_groups_or_with_other_padding_stay_as_they_are() -> None:
    kinds = [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding_mode="reflect"),
    ]
    assert not any(isinstance(part, UnfoldedConv2d) for part in unfold_convolutions(nn.Sequential(*kinds)).modules())
