"""Small networks that tests are run on, including ones no part of the package was written for."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from weightspace.zoo.growing.networks import cnn_s, mlp


class ResidualNet(nn.Module):
    """A stem, a residual block with batch norms, pooling, a head."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.inner1, self.inner2 = nn.Conv2d(width, 5, 3, padding=1), nn.Conv2d(5, width, 3, padding=1, bias=False)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.stem(x)).relu()
        x = (x + self.norm2(self.inner2(self.inner1(x).relu()))).relu()
        return self.head(x.mean((2, 3)))


class DepthwiseNet(nn.Module):
    """Depth-wise and point-wise convolutions, flatten into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.depth = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6)
        self.head = nn.Linear(6 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.depth(self.point(x).relu()).tanh(), 1))


class Gated(nn.Module):
    """A gated MLP with a layer norm and a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.norm = nn.Linear(5, 8), nn.LayerNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        normed = self.norm(x)
        return self.out(x + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed)))


class TiedTransformer(nn.Module):
    """Embedding tied to the output layer, one attention block."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 7)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.block(self.embedding(tokens)))


class Recurrent(nn.Module):
    """An LSTM: no rule of ours covers it, so it must come out frozen, not wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class ChannelShuffle(nn.Module):
    """Grouped convolutions with a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.group = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.group(x).mean((2, 3)))


class Concatenating(nn.Module):
    """Two branches concatenated, as in DenseNet and U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 5), nn.Linear(4, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x).relu(), self.right(x).tanh()], dim=1))


class OddOnes(nn.Module):
    """A constant buffer that is not saved, a shared weight, a transposed convolution, PReLU, softmax over channels."""

    pattern: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 4, 2)
        self.act, self.mix = nn.PReLU(4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.register_buffer("pattern", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.up(self.first(x))).mean((2, 3))
        x = self.mix(self.mix(x).tanh())
        return self.head(x.softmax(1) * self.pattern)


class TiedLayers(nn.Module):
    """One weight used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(self.inp(x).relu()).relu()).relu())


def digit_net() -> nn.Module:
    """A network for 8 x 8 digits that takes no arguments."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10))


SMALL: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (lambda: mlp([16, 6, 5, 3], "tanh"), torch.zeros(2, 1, 4, 4)),
    "mlp-dropout": (lambda: mlp([16, 6, 5, 3], "relu", 0.3), torch.zeros(2, 1, 4, 4)),
    "cnn-s": (lambda: cnn_s(1, 10, "gelu"), torch.zeros(2, 1, 28, 28)),
    "cnn-s-color": (lambda: cnn_s(3, 10, "tanh"), torch.zeros(2, 3, 28, 28)),
    "residual": (ResidualNet, torch.zeros(2, 3, 6, 6)),
    "depthwise": (DepthwiseNet, torch.zeros(2, 2, 6, 6)),
    "gated": (Gated, torch.zeros(2, 5)),
    "tied-transformer": (TiedTransformer, torch.arange(10).reshape(2, 5) % 7),
    "recurrent": (Recurrent, torch.zeros(2, 3, 4)),
    "channel-shuffle": (ChannelShuffle, torch.zeros(2, 2, 8, 8)),
    "concatenating": (Concatenating, torch.zeros(2, 4)),
    "odd-ones": (OddOnes, torch.zeros(2, 2, 6, 6)),
    "tied-layers": (TiedLayers, torch.zeros(2, 5)),
}
