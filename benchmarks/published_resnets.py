"""A SANE of one published ResNet-20 writes ResNets of depths that it never saw.

`python benchmarks/published_resnets.py` trains for 500 steps on the weights of one network, fills deeper ones by
`ws.initialize` with their own published weights as the only anchor, averages batch norms over 1,000 training images and
scores 2,000 test images of CIFAR-10 (as `benchmarks/zoos.sh` unpacks it). Beside it: the weights as published, the same
through a SANE that was not trained, and noise that moves weights as far. Writes
`docs/tables/writing-published-resnets.json` in ten minutes of one core.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tables_writing import RESNET_PREPARATION, RESNET_TRAINING
from torch import Tensor, nn
from torch.nn import functional

import weightspace as ws
from weightspace.batch_norms import recalibrate_batch_norm
from weightspace.outputs import hash_input, to_json

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = ws.SANEConfig(latent_width=64, linear_path=True)
TRAINING = replace(RESNET_TRAINING, steps=500, window=128)
SEEN, DEPTHS = 20, (20, 32, 44)
BANDWIDTH = 0.1
SCORED = slice(5_000, 7_000)  # settings were tried on the first 1,000


class Block(nn.Module):
    """Two convolutions around a skip connection that pads what it lacks with zeros (He et al., 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, inputs: Tensor) -> Tensor:
        thinned = inputs[:, :, :: self.stride, :: self.stride]
        skip = functional.pad(thinned, (0, 0, 0, 0, self.padding, self.padding))
        return (self.bn2(self.conv2(self.bn1(self.conv1(inputs)).relu())) + skip).relu()


class ResNet(nn.Module):
    """6n + 2 layers, under the published names."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.bn1, width = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), 16
        for number, outputs in enumerate((16, 32, 64), start=1):
            first = Block(width, outputs, 1 if number == 1 else 2)
            rest = [Block(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            width = outputs
        self.linear = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(inputs)).relu()
        for number in (1, 2, 3):
            hidden = self.get_submodule(f"layer{number}")(hidden)
        return self.linear(hidden.mean((2, 3)))


def normalised(images: np.ndarray) -> Tensor:
    """Bytes `[n, 32, 32, 3]` as the published networks want them."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(DEVIATION).view(1, 3, 1, 1)


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float((torch.cat([model(part) for part in inputs.split(250)]).argmax(1) == labels).float().mean())


def change(model: nn.Module, published: dict[str, Tensor]) -> float:
    """How far convolutions and the last layer moved, as a share of their length."""
    state = model.state_dict()
    names = [name for name, tensor in published.items() if tensor.ndim > 1]
    moved, length = (
        sum(float(own.square().sum()) for own in tensors)
        for tensors in ((state[name] - published[name] for name in names), (published[name] for name in names))
    )
    return math.sqrt(moved / length)


def with_noise(published: dict[str, Tensor], share: float, train: Tensor, depth: int) -> nn.Module:
    """Every matrix and convolution moved by noise of a share of its length; batch norms averaged as for the others."""
    model, generator = ResNet(depth), torch.Generator().manual_seed(0)
    noisy = {}
    for name, own in published.items():
        noise = torch.randn(own.shape, generator=generator) if own.ndim > 1 else torch.zeros_like(own)
        noisy[name] = own + share * own.norm() / noise.norm() * noise if own.ndim > 1 else own
    model.load_state_dict(noisy)
    recalibrate_batch_norm(model, train)
    return model


def made(sane: ws.SANE, untrained: ws.SANE, published: dict[str, Tensor], train: Tensor, depth: int) -> Iterator[Any]:
    """Every method's name and network."""
    model = ResNet(depth)
    model.load_state_dict(published)
    yield "as published", model
    share = 0.0
    for method, own, bandwidth in (
        ("SANE, encoded and decoded", sane, 0.0),
        ("SANE, kernel density", sane, BANDWIDTH),
        ("untrained SANE, encoded and decoded", untrained, 0.0),
    ):
        model = ResNet(depth)
        sampler = ws.samplers.KernelDensity(bandwidth=bandwidth, relative=False)
        ws.initialize(model, own, anchors=[published], data=train, sampler=sampler)
        share = share or change(model, published)
        yield method, model
    yield "noise that moves weights as far", with_noise(published, share, train, depth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=Path, default=Path("../shared/weights/akamaster_cifar10"))
    parser.add_argument("--data", type=Path, default=Path.home() / ".cache/weightspace/zoos/images/cifar10.npz")
    parser.add_argument("--out", type=Path, default=Path("docs/tables/writing-published-resnets.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    arrays = np.load(given.data)
    train = normalised(arrays["train_images"][:1_000])
    test, labels = normalised(arrays["test_images"][SCORED]), torch.from_numpy(arrays["test_labels"][SCORED]).long()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        zoo = ws.import_zoo(given.networks, Path(folder) / "zoo").where(member=f"resnet{SEEN}")
        sane = ws.pretrain(zoo, SHAPE, TRAINING, RESNET_PREPARATION, out=Path(folder) / "sane")
        untrained = sane.untrained(0)
        for depth in DEPTHS:
            published = load_file(given.networks / f"resnet{depth}.safetensors")
            layout = sane.preparation.prepare(published).frame.layout
            density = len(layout) * SHAPE.latent_width / layout.size
            for method, model in made(sane, untrained, published, train, depth):
                found = accuracy(model, test, labels)
                spread = 1.96 * math.sqrt(found * (1 - found) / len(labels))
                row = {
                    "zoo": f"published ResNet-{depth}",
                    "method": method,
                    "epochs": 0,
                    "accuracy": found,
                    "accuracy_low": found - spread,
                    "accuracy_high": found + spread,
                    "novelty": None,
                    "functional_novelty": None,
                    "diversity": None,
                    "latents_per_weight": density if "SANE" in method else 0.0,
                    "relative_change": change(model, published),
                }
                rows.append(row)
                print(row["zoo"], method, f"{found:.3f}", f"{row['relative_change']:.3f}", flush=True)
    value = {
        "table": "published-resnets",
        "command": "python benchmarks/published_resnets.py",
        "seed": TRAINING.seed,
        "date": date.today().isoformat(),
        "zoos": {given.networks.name: hash_input(given.networks)},
        "rows": rows,
    }
    given.out.write_text(to_json(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
