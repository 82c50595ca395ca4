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


def cnn_l(channels: int = 3, classes: int = 10, activation: str = "tanh", dropout: float = 0.0) -> nn.Module:
    """The paper's larger CNN for 32 x 32 images: 10,853 parameters with three channels.

    Its dropouts are always there, as in the published zoos, so its names never shift.
    """

    def act() -> list[nn.Module]:
        return [make_activation(activation), nn.Dropout(dropout)]

    return Sequence(
        [
            *[nn.Conv2d(channels, 16, 3), nn.MaxPool2d(2), *act()],
            *[nn.Conv2d(16, 32, 3), nn.MaxPool2d(2), *act()],
            *[nn.Conv2d(32, 15, 3), nn.MaxPool2d(2), *act(), nn.Flatten()],
            *[nn.Linear(60, 20), *act(), nn.Linear(20, classes)],
        ]
    )


def small_cnn(channels: int = 1, classes: int = 10, activation: str = "relu", dropout: float = 0.0) -> nn.Module:
    """The network of the Small CNN Zoo (Unterthiner et al. 2020): 4,970 parameters with one channel.

    Three convolutions of 16 channels, global average pooling, one linear layer. The publication states no
    stride and no padding; here they are 2 and none, so recorded accuracies need not come out again.
    """
    modules: list[nn.Module] = []
    for inputs in (channels, 16, 16):
        modules += [nn.Conv2d(inputs, 16, 3, stride=2), make_activation(activation), *_dropout(dropout)]
    return Sequence([*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)])


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norms around a skip connection (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs `[batch, inputs, height, width]`, outputs `[batch, outputs, height / stride, width / stride]`."""
        skip = inputs if self.downsample is None else self.downsample(inputs)
        hidden = self.bn1(self.conv1(inputs)).relu()
        return (self.bn2(self.conv2(hidden)) + skip).relu()


class ResNet18(nn.Module):
    """ResNet-18 with the 3 x 3 stem for small images, under the published key names."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            first = ResidualBlock(inputs, outputs, 1 if number == 1 else 2)
            self.add_module(f"layer{number}", nn.Sequential(first, ResidualBlock(outputs, outputs, 1)))
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs `[batch, channels, height, width]`, outputs `[batch, classes]`."""
        hidden = self.bn1(self.conv1(inputs)).relu()
        for number in range(1, 5):
            hidden = self.get_submodule(f"layer{number}")(hidden)
        return self.fc(hidden.mean((2, 3)))


def resnet18(channels: int = 3, classes: int = 10, width: int = 64) -> nn.Module:
    """ResNet-18 for small images: 11,173,962 parameters at width 64 and 10 classes."""
    return ResNet18(channels, classes, width)


def make_activation(name: str) -> nn.Module:
    """An activation by its published name."""
    if name not in ACTIVATIONS:
        raise InputError(f"expected an activation among {', '.join(ACTIVATIONS)}, found '{name}'")
    return ACTIVATIONS[name]()


def initialize(module: nn.Module, scheme: str, generator: torch.Generator) -> nn.Module:
    """Draw new parameters in place; returns the module.

    `uniform` and `normal` have standard deviation 0.1 (the published zoos' order of size); biases are 0 except
    under `uniform` and `normal`, where they are drawn like the weights. Parameters of norms, and vectors that
    are no biases, keep the values their module gave them; under `default` all parameters do.
    """
    require_scheme(scheme)
    if scheme != "default":
        for part in module.modules():
            if not isinstance(part, NORMS):
                for name, parameter in part.named_parameters(recurse=False):
                    if parameter.ndim > 1 or "bias" in name:
                        _initialize_tensor(parameter, scheme, generator)
    return module


def require_scheme(scheme: str) -> None:
    """Raise `InputError` unless `initialize` knows the scheme."""
    known = ("default", *_SCALED, *_FAN_SCHEMES)
    if scheme not in known:
        raise InputError(f"expected an initialisation among {', '.join(known)}, found '{scheme}'")


def _initialize_tensor(parameter: nn.Parameter, scheme: str, generator: torch.Generator) -> None:
    with torch.no_grad():
        if scheme in _SCALED:
            _SCALED[scheme](parameter, generator)
        elif parameter.ndim < 2:
            parameter.zero_()
        else:
            _FAN_SCHEMES[scheme](parameter, generator=generator)


NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_SCALED: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "uniform": lambda tensor, generator: nn.init.uniform_(tensor, -0.1732, 0.1732, generator=generator),
    "normal": lambda tensor, generator: nn.init.normal_(tensor, std=0.1, generator=generator),
}
_FAN_SCHEMES: dict[str, Callable[..., Tensor]] = {
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
}


def _dropout(rate: float) -> list[nn.Module]:
    return [nn.Dropout(rate)] if rate > 0 else []
