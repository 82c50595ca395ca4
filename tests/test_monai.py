"""Medical networks of MONAI, which nothing here was written for: all are traced, and proved by tracing.

Run by `make test-slow`, with the extra weightspace[garden].
"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("monai", reason="needs the extra weightspace[garden]")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI warns of what its own dependencies will change
    from monai.networks import nets

from weightspace.symmetry.tracing import trace_symmetry

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # as above, when networks are built

IMAGE = torch.zeros(2, 1, 16, 16)
WIDE = torch.zeros(2, 1, 32, 32)
UNETR = {"feature_size": 4, "hidden_size": 12, "mlp_dim": 20, "num_heads": 3, "spatial_dims": 2}
VIT = {"hidden_size": 12, "mlp_dim": 20, "num_layers": 2, "num_heads": 3, "spatial_dims": 2}
KL = {"norm_num_groups": 4, "latent_channels": 2, "with_encoder_nonlocal_attn": True}
DIFFUSION = {"channels": (8, 8), "attention_levels": (False, True), "norm_num_groups": 4, "num_head_channels": 4}
SMALL = {"blocks_down": (1, 1), "blocks_up": (1,)}

# name: (how to build it, inputs, share of parameters that move at least)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, float]] = {
    "UNet": (lambda: nets.UNet(2, 1, 2, (4, 6, 8), (2, 2), num_res_units=1), IMAGE, 0.95),
    "BasicUNet": (lambda: nets.BasicUNet(2, 1, 2, (4, 4, 6, 8, 8, 4)), WIDE, 0.99),
    "AttentionUnet": (lambda: nets.AttentionUnet(2, 1, 2, (4, 6, 8), (2, 2)), IMAGE, 0.99),
    "DenseNet121": (lambda: nets.DenseNet121(2, 1, 3, init_features=8, growth_rate=4), WIDE, 0.99),
    "SEResNet50": (lambda: nets.SEResNet50(spatial_dims=2, in_channels=1, num_classes=3), WIDE, 0.99),
    "ResNet, 3-d": (
        lambda: nets.ResNet("basic", [1, 1, 1, 1], [4, 6, 8, 10], n_input_channels=1, num_classes=3),
        torch.zeros(2, 1, 16, 16, 16),
        0.99,
    ),
    # It returns the hidden states of all blocks, so the residual stream stands still.
    "ViT": (lambda: nets.ViT(1, (16, 16), (4, 4), classification=True, num_classes=3, **VIT), IMAGE, 0.7),
    "UNETR": (lambda: nets.UNETR(1, 2, (16, 16), **UNETR), IMAGE, 0.99),
    "SegResNet": (lambda: nets.SegResNet(2, 8, 1, 2, **SMALL), IMAGE, 0.99),
    "VNet": (lambda: nets.VNet(2, 1, 2), WIDE, 0.99),
    "AutoEncoder": (lambda: nets.AutoEncoder(2, 1, 1, (4, 6), (2, 2)), IMAGE, 0.95),
    "EfficientNetBN": (
        lambda: nets.EfficientNetBN("efficientnet-b0", False, spatial_dims=2, in_channels=1, num_classes=3),
        WIDE,
        0.99,
    ),
    "SwinUNETR": (lambda: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2), torch.zeros(2, 1, 64, 64), 0.95),
    "HighResNet": (lambda: nets.HighResNet(2, 1, 2), IMAGE, 0.99),
    "DynUNet": (
        lambda: nets.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 6, 8]),
        IMAGE,
        0.99,
    ),
    "Discriminator": (lambda: nets.Discriminator((1, 16, 16), (4, 6), (2, 2)), IMAGE, 0.99),
    "Generator": (lambda: nets.Generator((5,), (4, 4, 4), (6, 4), (2, 2)), torch.zeros(2, 5), 0.95),
    "VarAutoEncoder": (lambda: nets.VarAutoEncoder(2, (1, 16, 16), 1, 3, (4, 6), (2, 2)), IMAGE, 0.95),
    # Max unpooling tells where maxima were; it has no rule and freezes the streams.
    "Quicknat": (lambda: nets.Quicknat(2, 1, 4), WIDE, 0.5),
    "MedNeXt": (
        lambda: nets.MedNeXt(2, 8, 1, 2, blocks_bottleneck=1, blocks_down=(1, 1), blocks_up=(1, 1)),
        IMAGE,
        0.99,
    ),
    # It returns the features of all layers, which therefore stand still.
    "PatchDiscriminator": (lambda: nets.PatchDiscriminator(2, 4, 1, num_layers_d=2), WIDE, 0.0),
    "AutoencoderKL": (
        lambda: nets.AutoencoderKL(2, 1, 1, (1, 1), (8, 8), (False, False), **KL),
        IMAGE,
        0.99,
    ),
    "DiffusionModelUNet": (
        lambda: nets.DiffusionModelUNet(2, 1, 1, num_res_blocks=(1, 1), **DIFFUSION),
        (IMAGE, torch.tensor([1, 5])),
        0.99,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_symmetry_of_a_medical_network_is_proved(name: str) -> None:
    build, inputs, share = NETWORKS[name]
    symmetry = trace_symmetry(build(), *([inputs] if isinstance(inputs, Tensor) else inputs))
    assert symmetry.coverage >= share and (symmetry.groups or share == 0)
