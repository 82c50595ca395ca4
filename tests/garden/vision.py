"""The vision architectures people use, written as they are published but narrow: the symmetry is the same."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """LeNet-5: tanh, average pooling, three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.tanh(self.conv1(x)))
        x = self.pool(torch.tanh(self.conv2(x))).flatten(1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


def alexnet() -> nn.Module:
    """Five convolutions with overlapping max pooling, dropout, three linear layers."""
    c = [8, 12, 16, 12, 12]
    features = nn.Sequential(
        nn.Conv2d(3, c[0], 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(c[0], c[1], 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(c[1], c[2], 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(c[2], c[3], 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(c[3], c[4], 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(48, 24), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(24, 20), nn.ReLU(inplace=True), nn.Linear(20, 10),
    )  # fmt: skip
    return nn.Sequential(features, classifier)


def vgg_bn() -> nn.Module:
    """VGG-11 with batch norm: eight convolutions, three linear layers."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (4, "M", 8, "M", 12, 12, "M", 16, 16, "M", 16, 16, "M"):
        if width == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, int(width), 3, padding=1), nn.BatchNorm2d(int(width)), nn.ReLU()]
            channels = int(width)
    head = [nn.Linear(16, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 18), nn.ReLU(), nn.Dropout(), nn.Linear(18, 10)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def conv_norm(inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_norm(inputs, width, 3, stride=stride), conv_norm(width, width, 3)
        self.shortcut = conv_norm(inputs, width, stride=stride) if stride > 1 or inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x).relu()) + self.shortcut(x)).relu()


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (grouped in ResNeXt), 1 x 1 and a shortcut."""

    expansion = 4
    groups = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1, self.conv3 = conv_norm(inputs, width), conv_norm(width, out)
        self.conv2 = conv_norm(width, width, 3, stride=stride, groups=self.groups)
        self.shortcut = conv_norm(inputs, out, stride=stride) if stride > 1 or inputs != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv3(self.conv2(self.conv1(x).relu()).relu()) + self.shortcut(x)).relu()


class GroupedBottleneck(Bottleneck):
    groups = 4


class PreActivation(nn.Module):
    """Norm and ReLU before each convolution, as in ResNet v2 and WideResNet."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if stride > 1 or inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x).relu()
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(self.norm2(self.conv1(y)).relu()) + shortcut


class PaddedShortcut(BasicBlock):
    """The CIFAR ResNets' shortcut: every second pixel, and zeros for the new channels."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.added = (width - inputs) // 2
        self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        short = x
        if self.added:
            short = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return (self.conv2(self.conv1(x).relu()) + short).relu()


class SqueezeExcitation(BasicBlock):
    """A residual block whose channels are weighted by a small gate."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.squeeze, self.excite = nn.Linear(width, 3), nn.Linear(3, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x).relu())
        gate = torch.sigmoid(self.excite(self.squeeze(y.mean((2, 3))).relu()))
        return (y * gate[:, :, None, None] + self.shortcut(x)).relu()


Block = type[BasicBlock] | type[Bottleneck] | type[PreActivation]


class ResNet(nn.Module):
    """A stem, stages of blocks, pooling, a head."""

    def __init__(self, block: Block, depths: Sequence[int], widths: Sequence[int], last_norm: bool = False) -> None:
        super().__init__()
        self.stem = conv_norm(3, widths[0], 3)
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for number in range(depth):
                blocks.append(block(channels, width, 2 if stage and not number else 1))
                channels = width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if last_norm else nn.Identity()
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(x).relu()))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class DenseLayer(nn.Module):
    """A bottleneck whose output joins its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(2 * growth)
        self.conv1 = nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())], 1)


def densenet() -> nn.Module:
    """Dense blocks with halving transitions; the head sees all that was made since the last one."""
    growth, channels = 4, 8
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for stage in range(3):
        for _ in range(3):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if stage < 2:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class InvertedResidual(nn.Module):
    """Expand, depth-wise, project; EfficientNet gates the middle."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type, gated: bool) -> None:
        super().__init__()
        width = 3 * inputs
        self.expand = nn.Sequential(conv_norm(inputs, width), activation())
        self.depthwise = nn.Sequential(conv_norm(width, width, 3, stride=stride, groups=width), activation())
        self.project, self.residual = conv_norm(width, outputs), stride == 1 and inputs == outputs
        gate = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 2, 1), nn.SiLU(), nn.Conv2d(2, width, 1), nn.Sigmoid()]
        self.gate = nn.Sequential(*gate) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        y = self.project(y * self.gate(y) if self.gate is not None else y)
        return x + y if self.residual else y


def inverted_residuals(activation: type, gated: bool) -> nn.Module:
    """MobileNetV2 (ReLU6) and EfficientNet (SiLU, squeeze-excitation)."""
    shapes = [(6, 6, 1), (6, 8, 2), (8, 8, 1), (8, 10, 2), (10, 10, 1)]
    blocks = [InvertedResidual(*shape, activation, gated) for shape in shapes]
    stem, last = nn.Sequential(conv_norm(3, 6, 3), activation()), nn.Sequential(conv_norm(10, 24), activation())
    return nn.Sequential(stem, *blocks, last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(24, 10))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2: half of the channels pass, the two halves are then interleaved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            conv_norm(half, half), nn.ReLU(), conv_norm(half, half, 3, groups=half), conv_norm(half, half), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        x = torch.cat([kept, self.branch(changed)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    units = [ShuffleUnit(12) for _ in range(3)]
    return nn.Sequential(
        conv_norm(3, 12, 3), nn.ReLU(), *units, conv_norm(12, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip


class UNet(nn.Module):
    """Down, up by transposed convolutions, skip connections by concatenation."""

    def __init__(self) -> None:
        super().__init__()

        def double(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(conv_norm(inputs, outputs, 3), nn.ReLU(), conv_norm(outputs, outputs, 3), nn.ReLU())

        self.down1, self.down2, self.bottom = double(1, 4), double(4, 6), double(6, 8)
        self.up2, self.up1 = nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 4, 2, 2)
        self.merge2, self.merge1, self.head = double(12, 6), double(8, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        x = self.up2(self.bottom(nn.functional.max_pool2d(second, 2)))
        x = self.up1(self.merge2(torch.cat([second, x], 1)))
        return self.head(self.merge1(torch.cat([first, x], 1)))


class ConvNeXtBlock(nn.Module):
    """Depth-wise 7 x 7, layer norm over channels, an inverted bottleneck, layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(nn.functional.gelu(self.up(y)))).permute(0, 3, 1, 2)


class ChannelsFirstNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    stages: list[nn.Module] = [nn.Conv2d(3, 6, 4, 4), ChannelsFirstNorm(6), ConvNeXtBlock(6), ConvNeXtBlock(6)]
    stages += [ChannelsFirstNorm(6), nn.Conv2d(6, 8, 2, 2), ConvNeXtBlock(8), ConvNeXtBlock(8)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 10))


def autoencoder() -> nn.Module:
    """Convolutions down to a code and transposed ones up again."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 49, 5),
        nn.Linear(5, 6 * 49), nn.Unflatten(1, (6, 7, 7)), nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.LeakyReLU(),
        nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


def generator() -> nn.Module:
    """A DCGAN generator: noise to images."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((10, 8, 1), (8, 6, 2), (6, 4, 2)):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride, int(stride > 1), bias=False), nn.BatchNorm2d(outputs)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Tanh())


def group_norm_net() -> nn.Module:
    """Group, instance and layer norm over whole images, PReLU, pixel shuffle."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.PReLU(8), nn.Conv2d(8, 6, 3, padding=1),
        nn.InstanceNorm2d(6, affine=True), nn.ReLU(), nn.Conv2d(6, 12, 3, padding=1), nn.PixelShuffle(2),
        nn.Conv2d(3, 5, 3, padding=1), nn.Softplus(), nn.Conv2d(5, 2, 1),
    )  # fmt: skip


def volume_net() -> nn.Module:
    """Three-dimensional convolutions."""
    return nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ELU(), nn.MaxPool3d(2), nn.Conv3d(4, 6, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(48, 3),
    )  # fmt: skip


VISION: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "LeNet": (LeNet, torch.zeros(2, 1, 28, 28)),
    "AlexNet": (alexnet, torch.zeros(2, 3, 96, 96)),
    "VGG-11, batch norm": (vgg_bn, torch.zeros(2, 3, 32, 32)),
    "ResNet-18": (lambda: ResNet(BasicBlock, (2, 2, 2, 2), (4, 6, 8, 10)), torch.zeros(2, 3, 16, 16)),
    "ResNet-20, padded shortcuts": (lambda: ResNet(PaddedShortcut, (3, 3, 3), (4, 8, 16)), torch.zeros(2, 3, 16, 16)),
    "ResNet-50": (lambda: ResNet(Bottleneck, (3, 4, 6, 3), (3, 4, 5, 6)), torch.zeros(2, 3, 16, 16)),
    "pre-activation ResNet": (lambda: ResNet(PreActivation, (2, 2, 2), (4, 6, 8), True), torch.zeros(2, 3, 16, 16)),
    "WideResNet": (lambda: ResNet(PreActivation, (2, 2, 2), (8, 16, 24), True), torch.zeros(2, 3, 16, 16)),
    "ResNeXt": (lambda: ResNet(GroupedBottleneck, (2, 2), (8, 12)), torch.zeros(2, 3, 16, 16)),
    "SE-ResNet": (lambda: ResNet(SqueezeExcitation, (2, 2), (4, 6)), torch.zeros(2, 3, 16, 16)),
    "DenseNet": (densenet, torch.zeros(2, 3, 16, 16)),
    "MobileNetV2": (lambda: inverted_residuals(nn.ReLU6, False), torch.zeros(2, 3, 16, 16)),
    "EfficientNet-like": (lambda: inverted_residuals(nn.SiLU, True), torch.zeros(2, 3, 16, 16)),
    "ShuffleNetV2": (shufflenet, torch.zeros(2, 3, 16, 16)),
    "U-Net": (UNet, torch.zeros(2, 1, 16, 16)),
    "ConvNeXt": (convnext, torch.zeros(2, 3, 32, 32)),
    "autoencoder": (autoencoder, torch.zeros(2, 1, 28, 28)),
    "GAN generator": (generator, torch.zeros(2, 10, 1, 1)),
    "norms and pixel shuffle": (group_norm_net, torch.zeros(2, 3, 8, 8)),
    "3-d convolutions": (volume_net, torch.zeros(2, 1, 8, 8, 8)),
}
