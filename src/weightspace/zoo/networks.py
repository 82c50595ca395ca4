"""The networks that zoos are made of, as plain `nn.Module`s with the published key names.

`module_list.N.*` counts every module, activations and pooling included, as the published zoos do; a dropout
is only there when its rate is above 0, which shifts the later names (that is how the published zoos are).
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from weightspace.errors import InputError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "leakyrelu": nn.LeakyReLU,
}


class Sequence(nn.Module):
    """Modules one after the other, under the published name `module_list`."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(modules)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs `[batch, channels, height, width]`, outputs `[batch, classes]`."""
        for module in self.module_list:
            inputs = module(inputs)
        return inputs


def mlp(widths: list[int], activation: str = "tanh", dropout: float = 0.0) -> nn.Module:
    """A fully connected network: flatten, then linear layers of the given widths, the first being the input's."""
    modules: list[nn.Module] = [nn.Flatten()]
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        if number:
            modules += [make_activation(activation), *_dropout(dropout)]
        modules.append(nn.Linear(inputs, outputs))
    return Sequence(modules)


def cnn_s(channels: int = 1, classes: int = 10, activation: str = "tanh", dropout: float = 0.0) -> nn.Module:
    """The paper's small CNN for 28 x 28 images: 2,464 parameters with one channel, 2,864 with three."""

    def act() -> nn.Module:
        return make_activation(activation)

    return Sequence(
        [
            *[nn.Conv2d(channels, 8, 5), nn.MaxPool2d(2), act(), *_dropout(dropout)],
            *[nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), act(), *_dropout(dropout)],
            *[nn.Conv2d(6, 4, 2), act(), nn.Flatten()],
            *[nn.Linear(36, 20), act(), *_dropout(dropout), nn.Linear(20, classes)],
        ]
    )


def make_activation(name: str) -> nn.Module:
    """An activation by its published name."""
    if name not in ACTIVATIONS:
        raise InputError(f"expected an activation among {', '.join(ACTIVATIONS)}, found '{name}'")
    return ACTIVATIONS[name]()


def initialize(module: nn.Module, scheme: str, generator: torch.Generator) -> nn.Module:
    """Draw new parameters in place; returns the module.

    `uniform` and `normal` have standard deviation 0.1 (the published zoos' order of size); biases are 0 except
    under `uniform` and `normal`, where they are drawn like the weights.
    """
    require_scheme(scheme)
    for parameter in module.parameters():
        _initialize_tensor(parameter, scheme, generator)
    return module


def require_scheme(scheme: str) -> None:
    """Raise `InputError` unless `initialize` knows the scheme."""
    known = ("uniform", "normal", *_FAN_SCHEMES)
    if scheme not in known:
        raise InputError(f"expected an initialisation among {', '.join(known)}, found '{scheme}'")


def _initialize_tensor(parameter: nn.Parameter, scheme: str, generator: torch.Generator) -> None:
    with torch.no_grad():
        if scheme == "uniform":
            nn.init.uniform_(parameter, -0.1732, 0.1732, generator=generator)
        elif scheme == "normal":
            nn.init.normal_(parameter, std=0.1, generator=generator)
        elif parameter.ndim < 2:
            parameter.zero_()
        else:
            _FAN_SCHEMES[scheme](parameter, generator=generator)


_FAN_SCHEMES: dict[str, Callable[..., Tensor]] = {
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
}


def _dropout(rate: float) -> list[nn.Module]:
    return [nn.Dropout(rate)] if rate > 0 else []
