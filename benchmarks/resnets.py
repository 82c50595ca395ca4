"""ResNets for small images in several depths and widths, to look at layer by layer: `grow resnets:resnet20w8`."""

import itertools

from torch import Tensor, nn

from weightspace.zoo.growing.networks import ResidualBlock

CLASSES = 10


class ResNet(nn.Module):
    """6n + 2 layers in three stages (He et al., 2016, section 4.2)."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width]
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            first = ResidualBlock(inputs, outputs, 1 if number == 1 else 2)
            rest = [ResidualBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(4 * width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(inputs)).relu()
        for number in (1, 2, 3):
            hidden = self.get_submodule(f"layer{number}")(hidden)
        return self.linear(hidden.mean((2, 3)))


def resnet8w8() -> nn.Module:
    return ResNet(8, 8)


def resnet14w8() -> nn.Module:
    return ResNet(14, 8)


def resnet20w8() -> nn.Module:
    return ResNet(20, 8)


def resnet8w16() -> nn.Module:
    return ResNet(8, 16)


def resnet14w4() -> nn.Module:
    return ResNet(14, 4)
