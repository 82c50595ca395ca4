"""Adapters and candidate bases: names that differ between memory and file, and what a file proves of its base."""

import warnings
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralForCausalLM

from test_adapters import LINEAR, LORA, Net, llama, merged_by_peft, mixtral, saved
from tools import refused, run
from weightspace.errors import InputError
from weightspace.weights.adapters.merging import base_names, prove_base, unstacked
from weightspace.weights.adapters.opening import open_adapter


@pytest.mark.parametrize("parameters", [["gate_up_proj", "down_proj"], ["down_proj"]])
def test_experts_that_a_file_holds_one_by_one_are_merged_there(
    parameters: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transformers writes Mixtral's experts one by one, stacks them in memory, and PEFT knows them there."""
    config = LORA(r=2, target_modules=["q_proj"], target_parameters=[f"experts.{name}" for name in parameters])
    _, model = saved(mixtral, config, tmp_path / "adapter")
    torch.manual_seed(0)
    mixtral().save_pretrained(tmp_path / "base")
    files = load_file(tmp_path / "base" / "model.safetensors")
    assert not any("gate_up_proj" in name for name in files)
    (tmp_path / "merged").mkdir()
    out = tmp_path / "merged" / "model.safetensors"
    _, said, _ = run(capsys, "merge", tmp_path / "base", tmp_path / "adapter", "--out", out)
    assert f"{1 + 4 * (3 if len(parameters) > 1 else 1)} of {len(files)} tensors" in said
    (tmp_path / "merged" / "config.json").write_text((tmp_path / "base" / "config.json").read_text())
    expected = merged_by_peft(model)
    again = MixtralForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-5, atol=1e-6)


def test_names_that_transformers_turned_round_are_found(tmp_path: Path) -> None:
    """As Llava's: `model.language_model.layers` in memory, `language_model.model.layers` in its file."""
    factors = {"A": torch.randn(2, 8), "B": torch.randn(8, 2)}
    for module in ("model.language_model.layers.0.self_attn.q_proj", "model.layers.1.mlp.gate"):
        names = {f"base_model.model.{module}.lora_{side}.weight": tensor for side, tensor in factors.items()}
        save_file(names, tmp_path / "adapter.safetensors")
        base: dict[str, tuple[int, ...]] = {
            "language_model.model.layers.0.self_attn.q_proj.weight": (8, 8),
            "vision_tower.layers.0.self_attn.q_proj.weight": (8, 8),
            "model.layers.1.block_sparse_moe.gate.weight": (8, 8),
            "model.layers.0.block_sparse_moe.gate.weight": (8, 8),
        }
        (found,) = base_names(open_adapter(tmp_path / "adapter.safetensors"), base).values()
        assert found.startswith("language_model" if "q_proj" in module else "model.layers.1")
    del base["language_model.model.layers.0.self_attn.q_proj.weight"]
    base["text.layers.0.self_attn.q_proj.weight"] = (8, 8)
    names = {f"model.layers.0.self_attn.q_proj.lora_{side}.weight": tensor for side, tensor in factors.items()}
    save_file(names, tmp_path / "adapter.safetensors")
    with pytest.raises(InputError, match="found no single model.layers.0.self_attn.q_proj.weight"):
        base_names(open_adapter(tmp_path / "adapter.safetensors"), base)


def test_a_stored_embedding_proves_or_refutes_a_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, that the embedding is saved
        base, _ = saved(llama, LORA(r=4, target_modules=["embed_tokens", "q_proj"]), tmp_path / "adapter")
    adapter = open_adapter(tmp_path / "adapter")
    assert prove_base(adapter, base).equal == ["model.embed_tokens.weight"]
    other = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in base.items()}
    assert prove_base(adapter, other).differing == ["model.embed_tokens.weight"]
    halved = {name: tensor.bfloat16() for name, tensor in base.items()}
    assert prove_base(adapter, halved).equal == ["model.embed_tokens.weight"]
    save_file({name: tensor.clone() for name, tensor in base.items()}, tmp_path / "base.safetensors")
    save_file(other, tmp_path / "other.safetensors")
    _, said, _ = run(capsys, "diff", tmp_path / "base.safetensors", tmp_path / "adapter")
    assert "adapter: its base, by model.embed_tokens.weight, which its file holds too" in said
    refusal = refused(
        capsys, "merge", tmp_path / "other.safetensors", tmp_path / "adapter", "--out", tmp_path / "m.safetensors"
    )
    assert "this is not the base it was made on: its file holds another model.embed_tokens.weight" in refusal


def test_stored_lengths_of_columns_prove_or_refute_a_base(tmp_path: Path) -> None:
    """DeLoRA keeps those of its base."""
    base, _ = saved(Net, peft.DeloraConfig(r=4, target_modules=LINEAR), tmp_path / "adapter")
    adapter = open_adapter(tmp_path / "adapter")
    assert prove_base(adapter, base).equal == ["q_proj.weight", "v_proj.weight"]
    other = {name: torch.randn_like(tensor) for name, tensor in base.items()}
    assert prove_base(adapter, other).differing == ["q_proj.weight", "v_proj.weight"]


def test_stored_singular_vectors_prove_or_refute_a_base(tmp_path: Path) -> None:
    """TinyLoRA keeps the largest of its base, times the roots of singular values."""
    base, _ = saved(Net, peft.TinyLoraConfig(r=2, target_modules=LINEAR), tmp_path / "adapter")
    adapter = open_adapter(tmp_path / "adapter")
    assert (adapter.method, adapter.known) == ("TINYLORA", "needs the base")
    assert prove_base(adapter, base).equal == ["q_proj.weight", "v_proj.weight"]
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in base.items()}
    assert prove_base(adapter, halved).equal == ["q_proj.weight", "v_proj.weight"]
    other = {name: torch.randn_like(tensor) for name, tensor in base.items()}
    assert prove_base(adapter, other).differing == ["q_proj.weight", "v_proj.weight"]


def test_what_a_file_holds_stacked_stays_stacked(tmp_path: Path) -> None:
    config = LORA(r=2, target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    base, _ = saved(mixtral, config, tmp_path / "adapter")
    adapter = open_adapter(tmp_path / "adapter")
    assert list(unstacked(adapter, list(base)).changes) == list(adapter.changes)
    assert len(adapter.changes) == 8
