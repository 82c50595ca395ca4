"""Networks that the package is tried on: what people use, and what no part of the package was written for."""

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from garden.sequences import SEQUENCES
from garden.small import SMALL
from garden.vision import VISION
from weightspace.symmetry.tracing import Trace, trace

GARDEN: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {**SMALL, **VISION, **SEQUENCES}


@functools.cache
def _planted(name: str) -> tuple[nn.Module, Tensor, Trace]:
    build, example = GARDEN[name]
    torch.manual_seed(0)
    module = build().eval()
    return module, example, trace(module, example)


def planted(name: str) -> tuple[nn.Module, Tensor, Trace]:
    """A network of the garden in evaluation mode (a copy), an example of its inputs, and its trace."""
    module, example, found = _planted(name)
    return copy.deepcopy(module), example, found


# How many groups a human counts. Residual streams are one group each; an attention block has its heads, what
# queries and keys share within a head, and what values and outputs share; a concatenated axis has one per part.
GROUPS = {
    "mlp": 2,
    "mlp-dropout": 2,
    "cnn-s": 4,
    "cnn-s-color": 4,
    "residual": 2,
    "depthwise": 1,
    "gated": 2,
    "tied-transformer": 5,  # stream; heads, query-key, value; hidden
    "recurrent": 1,
    "channel-shuffle": 4,  # the stem's 8 channels as (2, 2, 2), the 4 outputs of each group
    "concatenating": 2,
    "odd-ones": 1,
    "tied-layers": 1,
    "LeNet": 4,
    "AlexNet": 7,
    "VGG-11, batch norm": 10,
    "ResNet-18": 12,  # 4 streams, 8 blocks
    "ResNet-20, padded shortcuts": 14,  # 5 pieces of streams, 9 blocks
    "ResNet-50": 37,  # stem, 4 streams, 16 blocks x 2
    "pre-activation ResNet": 9,
    "WideResNet": 9,
    "ResNeXt": 15,  # 3 streams; per block the groups, and inputs and outputs within a group
    "SE-ResNet": 10,
    "DenseNet": 21,  # stem, 2 transitions, 9 layers x 2
    "MobileNetV2": 9,
    "EfficientNet-like": 14,
    "U-Net": 12,
    "ConvNeXt": 6,
    "autoencoder": 5,
    "GAN generator": 3,
    "3-d convolutions": 2,
    "MLP-Mixer": 5,
    "ViT": 9,
    "GPT-2 (transformers)": 9,
    "BERT (transformers)": 10,
    "Llama with grouped queries (transformers)": 9,  # rotary positions freeze queries and keys within a head
    "grouped queries, no rotary positions": 6,
    "grouped queries, rotary positions": 5,
    "LSTM, two layers, both ways": 5,  # the embedding; 4 cells
    "GRU, two layers, both ways": 5,
    "RNN, two layers, both ways": 5,
    "LSTM and GRU cells": 2,
    "LSTM language model, tied": 1,
}

# Llama's norms compute in float32 whatever they are given, so outputs agree to that only.
ROUNDED_INSIDE = {"Llama with grouped queries (transformers)": 1e-5}
