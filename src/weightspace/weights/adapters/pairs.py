"""A change as rows of numbers, its scaled singular pairs, as many for each adapter; back; and as PEFT writes it."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from weightspace.errors import InputError
from weightspace.weights.adapters.changes import Adapter, Canonical, Change, Factors
from weightspace.weights.files import StoredWeights
from weightspace.weights.sources import InMemory
from weightspace.weights.values import Weights, some_of

# What a row of pairs is called, by the tensor that it changes; and where a zoo keeps how long its left side is.
PAIRS, OUTPUTS = ".pairs", "outputs"


class Paired(NamedTuple):
    """An adapter's changes as weights.

    Attributes:
        weights: by `TENSOR.pairs`, with the base's name of the tensor, rows `[left | right]` of float32: left times
            right is one singular component of the change, largest first, and both sides are of one length. Rows beyond
            its rank are 0.
        outputs: by the base's tensor, how long `left` is.
    """

    weights: dict[str, Float[Tensor, "rank outputs+inputs"]]
    outputs: dict[str, int]


def most_pairs(adapter: Adapter) -> int:
    """The highest rank that any of its changes can have, by the shapes of their factors.

    Raises:
        InputError: see `pairs_of`.
    """
    products = [change.product() for change in _told(adapter).values()]
    return max(min(len(left), *right.shape) for left, right in products)


def pairs_of(adapter: Adapter, rank: int) -> Paired:
    """The changes of an adapter as their scaled singular pairs, of which the first `rank` are kept.

    Which factors a change is stored as leaves no trace: see `canonical_form`.

    Raises:
        InputError: changes that the file alone does not tell, or none at all.

    Examples:
        >>> paired = pairs_of(open_adapter("my-adapter"), rank=16)  # doctest: +SKIP
        >>> paired.weights["model.layers.0.self_attn.q_proj.weight.pairs"].shape  # doctest: +SKIP
        torch.Size([16, 4096])
    """
    weights, outputs = {}, {}
    for target, change in _told(adapter).items():
        left, right = change.canonical().pairs
        rows = torch.cat([left.T, right], dim=1)[:rank].float()
        weights[target + PAIRS] = functional.pad(rows, (0, 0, 0, rank - len(rows)))
        outputs[target] = len(left)
    return Paired(weights, outputs)


def _told(adapter: Adapter) -> Mapping[str, Change]:
    """Its changes, all of which the file tells."""
    for change in adapter.changes.values():
        if change.known == "from the file" and change.why:
            raise InputError(f"expected changes of known widths, found {change.method}, {change.why}")
        if change.factors is None:
            raise InputError(f"expected changes that the file alone tells, found {change.method}: {change.why}")
    if not adapter.changes:
        raise InputError(f"expected changes of the base's tensors, found {adapter.method} alone")
    return adapter.changes


def adapter_of(path: Path, weights: Mapping[str, Tensor], outputs: Mapping[str, int]) -> Adapter:
    """The inverse of `pairs_of`: an adapter with these pairs, whatever made them.

    Raises:
        InputError: weights that are no pairs.
    """
    strange = [name for name in weights if name.removesuffix(PAIRS) not in outputs]
    if strange or not weights:
        raise InputError(f"expected singular pairs in {path}, found {some_of(strange) or 'nothing'}")
    changes = {}
    for name, rows in weights.items():
        target = name.removesuffix(PAIRS)
        left, right = rows.float().split([outputs[target], rows.shape[1] - outputs[target]], dim=1)
        changes[target] = Change("pairs", stored_rank=len(rows), factors=partial(Factors, left.T, right))
    stored = StoredWeights(dict.fromkeys(weights, InMemory(dict(weights))), {})
    return Adapter(path, "pairs", changes, {}, {}, {}, None, (), stored)


def write_adapter(folder: Path, changes: Mapping[str, Canonical], like: Sequence[Adapter]) -> None:
    """Write changes as PEFT writes LoRA: every module with the rank of its change, and alpha as large.

    Args:
        folder: that is there.
        changes: by the base's tensor.
        like: adapters of the same base, which tell how it stores layers and kernels.

    Raises:
        InputError: changes that LoRA's files cannot hold, such as those of biases or of stacked experts.
    """
    strange = [target for target in changes if not target.endswith(".weight")]
    if strange:
        raise InputError(f"expected changes of the weights of modules to write as LoRA, found {some_of(strange)}")
    tensors: Weights = {}
    ranks: dict[str, int] = {}
    for target, canonical in changes.items():
        module = target.removesuffix(".weight")
        change = next((one.changes[target] for one in like if target in one.changes), None)
        left, right = _some_pairs(canonical)
        ranks[module] = len(right)
        tensors |= _as_stored(f"base_model.model.{module}", left.float(), right.float(), change)
    usual = max(ranks.values())
    # As PEFT matches names: by their ends, unless a pattern says where they begin.
    others = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != usual}
    ends = all("." in module for module in ranks)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": next((one.base for one in like if one.base), None),
        "r": usual,
        "lora_alpha": usual,
        "target_modules": list(ranks) if ends else "|".join(map(re.escape, ranks)),
        "rank_pattern": others,
        "alpha_pattern": others,
        "fan_in_fan_out": any(one.config.get("fan_in_fan_out") for one in like),
        "bias": "none",
        "inference_mode": True,
    }
    save_file(tensors, str(folder / "adapter_model.safetensors"), {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _some_pairs(canonical: Canonical) -> Factors:
    """Its pairs; of what changes nothing one pair of zeros, as PEFT knows no rank of 0."""
    if canonical.rank:
        return canonical.pairs
    outputs, inputs = len(canonical.left), canonical.right.shape[1]
    return Factors(canonical.left.new_zeros(outputs, 1), canonical.right.new_zeros(1, inputs))


def _as_stored(module: str, left: Tensor, right: Tensor, change: Change | None) -> Weights:
    """The two factors under the names, and with the axes, that they have for this kind of layer."""
    inputs = change.inputs if change is not None else ()
    if change is not None and change.embedding:
        return {f"{module}.lora_embedding_A": left.T.contiguous(), f"{module}.lora_embedding_B": right.T.contiguous()}
    down = right.reshape(len(right), *inputs) if inputs else right
    up = left.reshape(*left.shape, *[1] * (down.ndim - 2))
    return {f"{module}.lora_A.weight": down.contiguous(), f"{module}.lora_B.weight": up.contiguous()}
