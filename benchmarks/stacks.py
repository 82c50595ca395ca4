"""How much faster networks are one by one than stacked: an epoch of training, and scoring, on one core.

    python benchmarks/stacks.py

Convolutions in channels-last memory. Eight networks a kind, 960 images of noise, process time.
"""

import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import nn

from weightspace.images import Images
from weightspace.supervised import (
    FitConfig,
    bears_channels_last,
    faster_alone,
    fit_one,
    fit_stack,
    predict_stack,
    stack_weights,
    unstack_weights,
)
from weightspace.weights.values import Weights
from weightspace.zoo.growing.networks import cnn_l, cnn_s, mlp, resnet18

NETWORKS, IMAGES, RATE = 8, 960, 3e-3
CONFIG, CPU = FitConfig(epochs=1, batch_size=64), torch.device("cpu")
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn-s": (cnn_s, (1, 28, 28)),
    "cnn-l": (cnn_l, (3, 32, 32)),
    "resnet18:8": (lambda: resnet18(width=8), (3, 32, 32)),
    "mlp 64-16-16-10": (lambda: mlp([64, 16, 16, 10]), (64,)),
}


def train_stack(module: nn.Module, stack: Weights, images: Images) -> None:
    rates, decays = torch.full((NETWORKS,), RATE), torch.zeros(NETWORKS)
    list(fit_stack(module, stack, images, CONFIG, learning_rates=rates, weight_decays=decays, seeds=range(NETWORKS)))


def train_alone(module: nn.Module, stack: Weights, images: Images) -> None:
    last = faster_alone(module, CPU) and bears_channels_last(module)
    for seed, weights in enumerate(unstack_weights(stack)):
        module.load_state_dict(weights)
        list(fit_one(module, images, CONFIG, learning_rate=RATE, seed=seed, channels_last=last))


def score_alone(module: nn.Module, stack: Weights, images: Images) -> None:
    for weights in unstack_weights(stack):
        predict_stack(module, stack_weights([weights]), images.inputs)


def score_stacked(module: nn.Module, stack: Weights, images: Images) -> None:
    with patch("weightspace.supervised.faster_alone", lambda module, device: False):
        predict_stack(module, stack, images.inputs)


def main() -> None:
    torch.set_num_threads(1)
    for kind, (build, shape) in KINDS.items():
        images = Images(torch.randn(IMAGES, *shape), torch.randint(0, 10, (IMAGES,)))
        stack = stack_weights([build().state_dict() for _ in range(NETWORKS)])
        seconds = []
        for action in (train_stack, train_alone, score_stacked, score_alone):
            start = time.process_time()
            action(build(), stack, images)
            seconds.append(time.process_time() - start)
        training, scoring = seconds[0] / seconds[1], seconds[2] / seconds[3]
        print(f"{kind}: one by one trains {training:.1f} and scores {scoring:.1f} times as fast", flush=True)


if __name__ == "__main__":
    main()
