"""Adapters: their changes against PEFT's own, canonical forms, names of other writers, and what is refused."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from tools import refused, run
from weightspace.errors import InputError
from weightspace.weights.adapters.changes import Adapter, Factors, canonical_form
from weightspace.weights.adapters.merging import base_names, merge_adapter
from weightspace.weights.adapters.opening import is_adapter, open_adapter
from weightspace.weights.files import open_weights
from weightspace.weights.safetensors_files import write_in_turn

LORA, ALL = peft.LoraConfig, ["q_proj", "v_proj", "conv"]
LINEAR = ALL[:2]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(16, 24), nn.Linear(24, 12)
        self.conv, self.grouped = nn.Conv2d(4, 8, 3), nn.Conv2d(16, 32, 3, groups=4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.v_proj(self.q_proj(inputs).relu())


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.randn(6, 16))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.scores.T


class Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.gate = nn.Linear(16, 16), Gate()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gate(self.q_proj(inputs))


def llama(*, tied: bool = False) -> PreTrainedModel:
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return LlamaForCausalLM(
        LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    )


def gpt2() -> PreTrainedModel:
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def mixtral() -> PreTrainedModel:
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    return MixtralForCausalLM(MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4))


def net_of(base: dict[str, Tensor]) -> nn.Module:
    net = Net()
    net.load_state_dict(base)
    return net


def saved(
    build: Callable[[], nn.Module], config: peft.PeftConfig, folder: Path
) -> tuple[dict[str, Tensor], peft.PeftModel]:
    """The base's weights, and an adapter of it that was moved and saved."""
    torch.manual_seed(0)
    module = build()
    base = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it would rather have one do
        model = peft.get_peft_model(module, config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(str(folder))
    return base, model


def merged_by_peft(model: peft.PeftModel) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(model.merge_and_unload().state_dict())


METHODS: dict[str, tuple[Callable[[], nn.Module], Callable[[], peft.PeftConfig], str, str]] = {
    "lora": (Net, lambda: LORA(r=4, lora_alpha=16, target_modules=ALL), "LoRA", "from the file"),
    "rslora": (
        Net,
        lambda: LORA(r=4, use_rslora=True, target_modules=LINEAR, rank_pattern={"v_proj": 2}, alpha_pattern={"q_": 3}),
        "rsLoRA",
        "from the file",
    ),
    "biases": (Net, lambda: LORA(r=2, target_modules=["v_proj"], bias="all"), "LoRA", "from the file"),
    "its-own-bias": (Net, lambda: LORA(r=2, target_modules=["v_proj"], lora_bias=True), "LoRA", "from the file"),
    "saved-module": (
        Net,
        lambda: LORA(r=2, target_modules=["q_proj"], modules_to_save=["v_proj"]),
        "LoRA",
        "from the file",
    ),
    "dora": (Net, lambda: LORA(r=4, use_dora=True, target_modules=ALL), "DoRA", "needs the base"),
    "pissa": (Net, lambda: LORA(r=4, init_lora_weights="pissa", target_modules=LINEAR), "PiSSA", "needs the base"),
    "olora": (Net, lambda: LORA(r=4, init_lora_weights="olora", target_modules=LINEAR), "OLoRA", "needs the base"),
    "kasa": (Net, lambda: LORA(r=4, kasa_config=peft.KasaConfig(), target_modules=LINEAR), "KaSA", "needs the base"),
    "loha": (Net, lambda: peft.LoHaConfig(r=3, alpha=6, target_modules=ALL), "LoHa", "from the file"),
    "adalora": (
        Net,
        lambda: peft.AdaLoraConfig(init_r=6, target_r=3, total_step=10, lora_alpha=4, target_modules=LINEAR),
        "AdaLoRA",
        "from the file",
    ),
    "lokr": (Net, lambda: peft.LoKrConfig(r=3, alpha=6, target_modules=ALL), "LoKr", "from the file"),
    "loha-on-kernels": (
        Net,
        lambda: peft.LoHaConfig(r=3, alpha=6, target_modules=ALL, use_effective_conv2d=True),
        "LoHa",
        "from the file",
    ),
    "lokr-on-kernels": (
        Net,
        lambda: peft.LoKrConfig(r=1, alpha=6, target_modules=ALL, use_effective_conv2d=True, decompose_both=True),
        "LoKr",
        "from the file",
    ),
    "lokr-of-products": (
        Net,
        lambda: peft.LoKrConfig(r=1, alpha=6, decompose_both=True, target_modules=LINEAR),
        "LoKr",
        "from the file",
    ),
    "vera": (Net, lambda: peft.VeraConfig(r=4, target_modules=LINEAR), "VeRA", "from the file"),
    "ia3": (
        Net,
        lambda: peft.IA3Config(target_modules=LINEAR, feedforward_modules=["v_proj"]),
        "IA3",
        "needs the base",
    ),
    "delora": (Net, lambda: peft.DeloraConfig(r=4, target_modules=LINEAR), "DeLoRA", "from the file"),
    "hira": (Net, lambda: peft.HiraConfig(r=4, target_modules=LINEAR), "HiRA", "needs the base"),
    "oft": (Net, lambda: peft.OFTConfig(oft_block_size=8, r=0, target_modules=LINEAR), "OFT", "needs the base"),
    "oft-exactly": (
        Net,
        lambda: peft.OFTConfig(oft_block_size=8, r=0, use_cayley_neumann=False, target_modules=LINEAR),
        "OFT",
        "needs the base",
    ),
    "inputs-first": (
        gpt2,
        lambda: LORA(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
        "LoRA",
        "from the file",
    ),
    "inputs-first-square-dora": (
        gpt2,
        lambda: LORA(r=2, use_dora=True, target_modules=["attn.c_proj", "mlp.c_proj"], fan_in_fan_out=True),
        "DoRA",
        "needs the base",
    ),
    "inputs-first-ia3": (
        gpt2,
        lambda: peft.IA3Config(
            target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True
        ),
        "IA3",
        "needs the base",
    ),
    "ia3-of-kernels": (
        Net,
        lambda: peft.IA3Config(target_modules=["conv", "q_proj"], feedforward_modules=["q_proj"]),
        "IA3",
        "needs the base",
    ),
    "dora-on-pissa": (
        Net,
        lambda: LORA(r=4, use_dora=True, init_lora_weights="pissa", target_modules=LINEAR),
        "DoRA",
        "needs the base",
    ),
    "inputs-first-dora": (
        gpt2,
        lambda: LORA(r=2, use_dora=True, target_modules=["c_attn"], fan_in_fan_out=True),
        "DoRA",
        "needs the base",
    ),
    "embedding": (llama, lambda: LORA(r=4, target_modules=["embed_tokens", "q_proj"]), "LoRA", "from the file"),
    "embedding-with-lengths": (
        llama,
        lambda: LORA(r=4, use_dora=True, target_modules=["embed_tokens", "q_proj"]),
        "DoRA",
        "needs the base",
    ),
    "tokens": (
        llama,
        lambda: LORA(r=4, target_modules=["q_proj"], trainable_token_indices=[5, 1]),
        "LoRA",
        "from the file",
    ),
    "experts": (
        mixtral,
        lambda: LORA(r=2, target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
        "LoRA",
        "from the file",
    ),
    "a-matrix-of-no-module": (
        Router,
        lambda: LORA(r=2, target_modules=["q_proj"], target_parameters=["gate.scores"]),
        "LoRA",
        "from the file",
    ),
    "one-of-experts": (
        mixtral,
        lambda: LORA(r=2, target_modules=[], target_parameters=["experts.down_proj"]),
        "LoRA",
        "from the file",
    ),
    "blocks": (
        Net,
        lambda: LORA(
            r=4,
            target_modules=LINEAR,
            use_bdlora=peft.tuners.lora.config.BdLoraConfig(
                target_modules_bd_a=["v_proj"], target_modules_bd_b=["q_proj"], nblocks=2
            ),
        ),
        "LoRA",
        "from the file",
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_merged_network_is_that_of_peft(name: str, tmp_path: Path) -> None:
    build, config, method, known = METHODS[name]
    base, model = saved(build, config(), tmp_path)
    adapter = open_adapter(tmp_path)
    assert is_adapter(tmp_path) and (adapter.method, adapter.known) == (method, known)
    merged, expected = dict(merge_adapter(base, adapter)), merged_by_peft(model)
    assert list(merged) == list(expected)
    for tensor in expected:
        torch.testing.assert_close(merged[tensor], expected[tensor], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(merged[tensor], base[tensor]) for tensor in base)
    for change in adapter.changes.values():
        if known == "from the file":
            assert change.canonical().rank > 0
        elif change.factors is None:
            with pytest.raises(InputError, match=f"expected a change that its file tells, found {change.method}"):
                change.canonical()


def test_a_module_that_kept_no_rank_is_not_changed(tmp_path: Path) -> None:
    """AdaLoRA's budget: one module keeps some of its directions, another none; the scale does not move."""
    config = peft.AdaLoraConfig(init_r=6, target_r=3, total_step=10, lora_alpha=4, target_modules=LINEAR)
    base, model = saved(Net, config, tmp_path / "all")
    kept = [True, False, True, True, False, False]
    model.peft_config["default"].rank_pattern = {"q_proj.lora_E": kept, "v_proj.lora_E": [False] * 6}
    with warnings.catch_warnings():
        # Of shards that were not gathered, which it takes a rank of zero for, and of patterns that it does not ignore.
        warnings.simplefilter("ignore")
        model.save_pretrained(str(tmp_path / "some"))
        again = peft.PeftModel.from_pretrained(net_of(base), str(tmp_path / "some"))
    adapter = open_adapter(tmp_path / "some")
    merged, expected = dict(merge_adapter(base, adapter)), merged_by_peft(again)
    torch.testing.assert_close(merged["q_proj.weight"], expected["q_proj.weight"], rtol=1e-5, atol=1e-6)
    assert torch.equal(merged["v_proj.weight"], base["v_proj.weight"])
    assert [change.canonical().rank for change in adapter.changes.values()] == [3, 0]


def test_a_tied_matrix_that_an_adapter_changes_alone_is_tied_no_longer(tmp_path: Path) -> None:
    """The merged network answers as the base with the adapter does, which PEFT's does not."""
    inputs = torch.arange(12).view(2, 6)
    for module in ("lm_head", "embed_tokens"):
        folder = tmp_path / module
        base, model = saved(lambda: llama(tied=True), LORA(r=4, target_modules=[module]), folder)
        with torch.no_grad():
            expected = model(input_ids=inputs).logits
        del base["lm_head.weight"]  # files hold one of the two names
        adapter = open_adapter(folder)
        assert torch.equal(next(iter(adapter.told.values()))(), base["model.embed_tokens.weight"])
        merged = dict(merge_adapter(base, adapter))
        untied = llama()
        untied.load_state_dict({"lm_head.weight": base["model.embed_tokens.weight"], **merged})
        with torch.no_grad():
            torch.testing.assert_close(untied(input_ids=inputs).logits, expected, rtol=1e-4, atol=1e-4)


def test_two_pairs_of_one_tied_matrix_are_one_change(tmp_path: Path) -> None:
    config = LORA(r=4, target_modules=["embed_tokens"], ensure_weight_tying=True)
    base, _ = saved(lambda: llama(tied=True), config, tmp_path)
    adapter = open_adapter(tmp_path)
    assert len(adapter.changes) == 2 and is_adapter(tmp_path / "file", list(adapter.stored))
    merged = dict(merge_adapter(base, adapter))
    torch.testing.assert_close(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    head = adapter.changes["lm_head.weight"].product().product
    torch.testing.assert_close(merged["lm_head.weight"], base["lm_head.weight"] + head)


def test_patterns_count_in_the_order_of_the_file(tmp_path: Path) -> None:
    """PEFT sorts them on saving, and the first that fits wins: what it loads is not what it saved."""
    pattern = {"q_proj": 64, ".*_proj": 8}
    base, _ = saved(Net, LORA(r=4, target_modules=LINEAR, alpha_pattern=pattern), tmp_path)
    torch.manual_seed(0)
    loaded = merged_by_peft(peft.PeftModel.from_pretrained(Net(), str(tmp_path)))
    merged = dict(merge_adapter(base, open_adapter(tmp_path)))
    torch.testing.assert_close(merged["q_proj.weight"], loaded["q_proj.weight"])


def test_a_kernel_that_spans_groups_is_no_weight_of_its_layer(tmp_path: Path) -> None:
    base, _ = saved(Net, LORA(r=8, target_modules=["grouped"]), tmp_path)
    adapter = open_adapter(tmp_path)
    assert adapter.known == "cannot be known" and "4 groups" in adapter.remarks[0]
    with pytest.raises(InputError, match="expected a change that can be merged, found LoRA: its kernel spans 4 groups"):
        dict(merge_adapter(base, adapter))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (lambda: LORA(r=4, init_lora_weights="pissa_niter_4", target_modules=LINEAR), "fast SVD"),
        (lambda: peft.FourierFTConfig(n_frequency=10, target_modules=LINEAR), "drawn from a seed"),
        (lambda: peft.VeraConfig(r=4, save_projection=False, target_modules=LINEAR), "were not saved"),
    ],
    ids=["fast-svd", "fourier", "vera"],
)
@pytest.mark.filterwarnings("ignore:Specified to not save vera_A")
def test_what_no_file_holds_cannot_be_known(config: Callable[[], peft.PeftConfig], why: str, tmp_path: Path) -> None:
    base, _ = saved(Net, config(), tmp_path)
    adapter = open_adapter(tmp_path)
    assert adapter.known == "cannot be known" and why in adapter.remarks[-1]
    with pytest.raises(InputError, match="expected a change that can be merged"):
        dict(merge_adapter(base, adapter))


def test_a_state_dict_with_an_adapter_in_it_has_the_base_and_the_change(tmp_path: Path) -> None:
    base, model = saved(Net, LORA(r=4, target_modules=LINEAR), tmp_path / "peft")
    save_file(model.base_model.model.state_dict(), tmp_path / "whole.safetensors")
    adapter = open_adapter(tmp_path / "whole.safetensors")
    assert not is_adapter(adapter.path, list(open_weights(adapter.path)))  # it is a network too
    assert set(adapter.changes) == {"q_proj.weight", "v_proj.weight"}
    assert torch.equal(adapter.told["q_proj.weight"](), base["q_proj.weight"])
    model.add_adapter("second", LORA(r=4, target_modules=LINEAR))
    save_file(model.base_model.model.state_dict(), tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="expected one adapter in .*, found several: default, second"):
        open_adapter(tmp_path / "two.safetensors")


def kohya(adapter: Adapter, path: Path, alpha: float) -> None:
    """The same factors as kohya's scripts name them."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(Path(str(adapter.path)) / "adapter_model.safetensors").items():
        module, _, part = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        flat = "lora_unet_" + module.replace(".", "_")
        tensors[f"{flat}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight"] = tensor
        tensors[f"{flat}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)


def test_the_names_of_kohya_find_their_tensors(tmp_path: Path) -> None:
    base, model = saved(Net, LORA(r=4, lora_alpha=32, target_modules=ALL), tmp_path / "peft")
    kohya(open_adapter(tmp_path / "peft"), tmp_path / "kohya.safetensors", 32.0)
    merged = dict(merge_adapter(base, open_adapter(tmp_path / "kohya.safetensors")))
    for name, tensor in merged_by_peft(model).items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-6)


def test_alpha_is_found_in_the_metadata_or_said_to_be_missing(tmp_path: Path) -> None:
    base, model = saved(Net, LORA(r=4, lora_alpha=32, target_modules=ALL), tmp_path / "peft")
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    about = {"r": 4, "lora_alpha": 32, "target_modules": ALL}
    save_file(tensors, tmp_path / "with.safetensors", {"lora_adapter_metadata": json.dumps(about)})
    save_file(tensors, tmp_path / "without.safetensors")
    expected = merged_by_peft(model)["q_proj.weight"]
    told, bare = (open_adapter(tmp_path / f"{name}.safetensors") for name in ("with", "without"))
    torch.testing.assert_close(dict(merge_adapter(base, told))["q_proj.weight"], expected)
    assert not told.remarks and "no configuration and no alpha" in bare.remarks[0]
    once = bare.changes["q_proj.weight"].product().product
    torch.testing.assert_close(base["q_proj.weight"] + 8 * once, expected)


def test_parts_of_a_pipeline_have_configurations_of_their_own(tmp_path: Path) -> None:
    """As diffusers packs them into the metadata of one file."""
    tensors = {f"{part}.q.lora_{side}.weight": torch.randn(2, 2) for part in ("unet", "text_encoder") for side in "AB"}
    config = {"unet.r": 2, "unet.lora_alpha": 8, "text_encoder.r": 2, "text_encoder.lora_alpha": 2}
    save_file(tensors, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    changes = open_adapter(tmp_path / "lora.safetensors").changes
    for part, scale in (("unet", 4.0), ("text_encoder", 1.0)):
        expected = scale * tensors[f"{part}.q.lora_B.weight"] @ tensors[f"{part}.q.lora_A.weight"]
        torch.testing.assert_close(changes[f"{part}.q.weight"].product().product, expected)


VARIANTS: dict[str, dict[str, Any]] = {
    "aLoRA": {"alora_invocation_tokens": [1, 2]},
    "LoftQ": {"init_lora_weights": "loftq"},
    "QALoRA": {"use_qalora": True},
    "AdaLoRA": {"peft_type": "ADALORA"},
    "RANDLORA": {"peft_type": "RANDLORA"},
}


@pytest.mark.parametrize("method", VARIANTS)
def test_what_only_looks_like_lora_is_not_taken_for_it(method: str, tmp_path: Path) -> None:
    saved(Net, LORA(r=4, target_modules=LINEAR), tmp_path / "source")
    rewritten(tmp_path / "source", tmp_path / "variant", lambda tensors, config: config.update(VARIANTS[method]))
    adapter = open_adapter(tmp_path / "variant")
    assert adapter.method == method
    with pytest.raises(InputError, match=f"found {method}"):
        adapter.changes["q_proj.weight"].product()


def test_parts_that_are_not_understood_make_a_change_unknown(tmp_path: Path) -> None:
    """As LoCon's middle factor; and names that only end like a part are none."""
    tensors = {"a.lora_down.weight": torch.randn(2, 4), "a.lora_up.weight": torch.randn(4, 2)}
    save_file({**tensors, "a.lora_mid.weight": torch.randn(2, 2, 3, 3)}, tmp_path / "mid.safetensors")
    adapter = open_adapter(tmp_path / "mid.safetensors")
    assert adapter.known == "cannot be known" and "lora_mid" in adapter.changes["a.weight"].why
    assert not is_adapter(tmp_path / "x.safetensors", ["q.tinylora_A", "q.tinylora_B", "q.randlora_A"])


DAMAGE: dict[str, dict[str, Any]] = {
    "a-word": {"r": "x"},
    "alpha": {"lora_alpha": "many"},
    "rows": {"trainable_token_indices": 5},
    "parameters": {"target_parameters": 5},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_configuration_is_refused_in_a_sentence(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(Net, LORA(r=4, target_modules=LINEAR), tmp_path / "source")
    rewritten(tmp_path / "source", tmp_path / "damaged", lambda tensors, config: config.update(DAMAGE[damage]))
    try:
        open_adapter(tmp_path / "damaged").changes["q_proj.weight"].product()
    except InputError as refusal:
        assert "expected an adapter's tensors, and a configuration" in str(refusal)
    assert run(capsys, "inspect", tmp_path)[0] == 0


def test_adapters_of_sixteen_bits_are_scaled_in_thirty_two(tmp_path: Path) -> None:
    """As PEFT does, which reads them so; no component is taken for rounding."""
    left, right = torch.diag(torch.tensor([1.0, 0.005])).bfloat16(), torch.eye(2).bfloat16()
    save_file({"a.lora_B.weight": left, "a.lora_A.weight": right}, tmp_path / "a.safetensors")
    change = open_adapter(tmp_path / "a.safetensors").changes["a.weight"]
    assert change.canonical().rank == 2 and change.product().left.dtype == torch.float32


def test_a_whole_kronecker_product_of_lycoris_is_scaled_by_one(tmp_path: Path) -> None:
    tensors = {"lycoris_q_proj.lokr_w1": torch.randn(4, 4), "lycoris_q_proj.lokr_w2": torch.randn(6, 4)}
    save_file({**tensors, "lycoris_q_proj.alpha": torch.tensor(64.0)}, tmp_path / "lokr.safetensors")
    (change,) = open_adapter(tmp_path / "lokr.safetensors").changes.values()
    torch.testing.assert_close(change.product().product, torch.kron(*tensors.values()))


def test_compiled_modules_are_found_under_their_plain_names(tmp_path: Path) -> None:
    base, _ = saved(Net, LORA(r=4, target_modules=LINEAR), tmp_path / "peft")
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    renamed = {name.replace("q_proj.", "q_proj._orig_mod."): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "peft" / "adapter_model.safetensors")
    assert set(base_names(open_adapter(tmp_path / "peft"), {n: tuple(t.shape) for n, t in base.items()})) == {
        "q_proj.weight",
        "v_proj.weight",
    }


def test_a_base_that_is_not_the_adapters_is_refused(tmp_path: Path) -> None:
    base, _ = saved(Net, LORA(r=4, target_modules=LINEAR), tmp_path)
    adapter = open_adapter(tmp_path)
    with pytest.raises(
        InputError, match="expected tensors of the base that the adapter changes, found no single q_proj"
    ):
        dict(merge_adapter({"v_proj.weight": base["v_proj.weight"]}, adapter))
    with pytest.raises(InputError, match="expected a tensor of the base with 24 rows and 384 numbers"):
        dict(merge_adapter({**base, "q_proj.weight": torch.zeros(24, 20)}, adapter))
    with pytest.raises(InputError, match="expected an adapter in"):
        torch.save(base, tmp_path / "base.pt")
        open_adapter(tmp_path / "base.pt")


def test_the_command_merges_a_base_and_its_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the precision of the base, rounded once, as PEFT does unless it is asked for a safe merge."""
    build = lambda: llama().bfloat16()  # noqa: E731 # as the other builders
    base, model = saved(build, LORA(r=4, target_modules=["q_proj"]), tmp_path / "one")
    saved(build, LORA(r=2, target_modules=["q_proj", "v_proj"]), tmp_path / "two")
    save_file({name: tensor.clone() for name, tensor in base.items()}, tmp_path / "base.safetensors")
    names = [str(tmp_path / name) for name in ("base.safetensors", "one", "two")]
    _, said, _ = run(capsys, "merge", *names[:2], "--out", tmp_path / "merged.safetensors")
    assert "2 of 21 tensors" in said and "q_proj" in said
    merged, expected = load_file(tmp_path / "merged.safetensors"), merged_by_peft(model)
    assert list(merged) == sorted(base) and all(torch.equal(merged[name], expected[name]) for name in expected)
    _, said, _ = run(capsys, "merge", *names, "--out", tmp_path / "both.safetensors", "--json")
    both = json.loads(said)
    assert len(both["rows"]) == 4 and {row["rank"] for row in both["rows"]} == {4, 2}
    name = "model.layers.0.self_attn.q_proj.weight"
    changes = [open_adapter(folder).changes[name].product().product.float() for folder in names[1:]]
    reached = load_file(tmp_path / "both.safetensors")[name]
    assert torch.equal(reached, (base[name].float() + changes[0] + changes[1]).bfloat16())


def test_diff_says_what_an_adapter_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, model = saved(Net, LORA(r=4, use_dora=True, target_modules=LINEAR), tmp_path / "dora")
    save_file(base, tmp_path / "base.safetensors")
    _, said, _ = run(capsys, "diff", tmp_path / "base.safetensors", tmp_path / "dora", "--json")
    expected = merged_by_peft(model)
    for row in json.loads(said)["rows"]:
        before = base[row["tensor"]]
        moved = float((expected[row["tensor"]] - before).norm() / before.norm())
        assert row["relative"] == pytest.approx(moved, rel=1e-4) and row["methods"] == "DoRA"
    _, said, _ = run(capsys, "diff", tmp_path / "base.safetensors", tmp_path / "dora")
    assert "2 of 8 tensors" in said and "What adapters changed" in said
    assert "expected no --expect" in refused(
        capsys, "diff", tmp_path / "base.safetensors", tmp_path / "dora", "--expect", "equal"
    )


def test_what_cannot_be_merged_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, _ = saved(Net, LORA(r=4, target_modules=LINEAR), tmp_path / "lora")
    saved(Net, LORA(r=4, use_dora=True, target_modules=LINEAR), tmp_path / "dora")
    save_file(base, tmp_path / "base.safetensors")
    network, lora, dora = (str(tmp_path / name) for name in ("base.safetensors", "lora", "dora"))
    for names, out, message in (
        ([lora, lora], "m.safetensors", "expected a folder to write an adapter into, found m.safetensors"),
        ([lora, dora], "m", "found DoRA, which needs the base"),
        ([network, network, lora], "m.safetensors", "expected one base network to add"),
        ([network, lora, dora], "m.safetensors", "found dora (DoRA), which has to be merged alone"),
        ([network, lora], "m.pt", "expected a .safetensors file"),
    ):
        status, _, refusal = run(capsys, "merge", *names, "--out", tmp_path / out)
        assert status == 2 and message in refusal and not (tmp_path / out).exists()


def rewritten(source: Path, target: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    """A copy of an adapter whose tensors and configuration were changed."""
    tensors = load_file(source / "adapter_model.safetensors")
    config = json.loads((source / "adapter_config.json").read_text())
    change(tensors, config)
    target.mkdir()
    save_file(tensors, target / "adapter_model.safetensors")
    (target / "adapter_config.json").write_text(json.dumps(config))


def widened(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """The same change with factors of twice the rank, and in another basis."""
    for name in list(tensors):
        if "lora_A" in name:
            down, up = tensors[name], tensors[name.replace("lora_A", "lora_B")]
            mixed = torch.eye(len(down)) + 0.1 * torch.randn(len(down), len(down))
            down = torch.cat([mixed @ down, torch.zeros_like(down)])
            tensors[name.replace("lora_A", "lora_B")] = torch.cat([up @ mixed.inverse(), torch.randn_like(up)], 1)
            tensors[name] = down
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}


def untrained(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = torch.zeros_like(tensors[name])


def test_inspect_compares_the_changes_of_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "adapters"
    saved(Net, LORA(r=4, lora_alpha=16, target_modules=LINEAR), folder / "one")
    rewritten(folder / "one", folder / "wider", widened)
    rewritten(folder / "one", folder / "stronger", lambda tensors, config: config.update(lora_alpha=64))
    rewritten(folder / "one", folder / "untrained", untrained)
    rewritten(folder / "one", folder / "elsewhere", lambda tensors, config: config.update(base_model_name_or_path="b"))
    _, said, _ = run(capsys, "inspect", folder, "--json")
    found = json.loads(said)
    views = {view["path"].partition("/")[0]: view for view in found["adapters"]["seen"]}
    assert {view["method"] for view in views.values()} == {"LoRA"} and views["elsewhere"]["base"] == "b"
    assert (views["one"]["rank"], views["one"]["used"]) == (4, 4)
    assert (views["wider"]["rank"], views["wider"]["used"]) == (8, 4)
    assert views["untrained"]["used"] == 0 and views["untrained"]["note"] == "this one changes nothing"
    assert views["stronger"]["size"] == pytest.approx(4 * views["one"]["size"], rel=1e-4)
    told = {
        tuple(sorted(pair[side].partition("/")[0] for side in ("first", "second"))): pair["told"]
        for pair in found["adapters"]["alike"]
    }
    assert told["one", "wider"] == told["elsewhere", "one"] == "the same change"
    assert "times as large" in told["one", "stronger"] and len(told) == 6
    # Equal tensors are equal adapters only if they count as much.
    assert found["equal_tensors"] == [[f"{name}/adapter_model.safetensors" for name in ("elsewhere", "one")]]
    assert not found["related"] and all(checkpoint["adapter"] == "LoRA" for checkpoint in found["checkpoints"])
    _, said, _ = run(capsys, "inspect", folder)
    assert "Adapters alike" in said and "of them 5 adapters" in said


def redrawn(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = torch.randn_like(tensor)


def test_changes_that_have_nothing_in_common_are_strangers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(Net, LORA(r=4, target_modules=LINEAR), tmp_path / "source")
    (tmp_path / "adapters").mkdir()
    for number in range(3):
        rewritten(tmp_path / "source", tmp_path / "adapters" / str(number), redrawn)
    _, said, _ = run(capsys, "inspect", tmp_path / "adapters", "--json")
    assert json.loads(said)["adapters"]["alike"] == []


def test_tensors_written_in_turn_are_read_back(tmp_path: Path) -> None:
    """By the library, metadata and all: whole numbers, none, one, half precision, another order than the text's."""
    tensors = {
        "z": torch.randn(3, 4).bfloat16(),
        "a": torch.tensor(7),
        "turned": torch.randn(4, 5).T,
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "file.safetensors"
    write_in_turn(
        path, {name: tensor.to("meta") for name, tensor in tensors.items()}, iter(tensors.items()), {"k": "v"}
    )
    read = load_file(path)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert list(open_weights(path)) == list(tensors) and open_weights(path).metadata == {"k": "v"}


@given(
    st.integers(1, 6), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1_000), st.sampled_from([1e-3, 1.0, 1e3])
)
def test_factorings_of_one_change_have_one_canonical_form(
    rank: int, rows: int, columns: int, seed: int, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(rows, rank, generator=generator), size * torch.randn(rank, columns, generator=generator)
    mixed = torch.eye(rank) + 0.2 * torch.randn(rank, rank, generator=generator) / rank
    one = canonical_form(Factors(left, right))
    other = canonical_form(
        Factors((left.double() @ mixed.double()), torch.linalg.solve(mixed.double(), right.double()))
    )
    assert one.rank <= min(rank, rows, columns) and one.rank <= other.rank
    product = left.double() @ right.double()
    scale = float(product.norm())
    for form in (one, other):
        rebuilt = form.left * form.values @ form.right
        assert float((rebuilt - product).norm()) <= 1e-5 * scale
        torch.testing.assert_close(form.left.T @ form.left, torch.eye(form.rank, dtype=torch.float64))
        torch.testing.assert_close(form.pairs.product, rebuilt)
    torch.testing.assert_close(one.values, other.values[: one.rank], rtol=1e-4, atol=1e-5 * scale)


def test_a_higher_rank_of_the_same_change_leaves_no_trace() -> None:
    left, right = torch.randn(9, 2), torch.randn(2, 7)
    one = canonical_form(Factors(left, right))
    wider = Factors(torch.cat([left, left, torch.randn(9, 1)], 1), torch.cat([right / 2, right / 2, torch.zeros(1, 7)]))
    other = canonical_form(wider)
    assert one.rank == other.rank == 2
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    nothing = canonical_form(Factors(torch.zeros(9, 2), right))
    assert nothing.rank == 0 and nothing.norm == 0 and nothing.pairs.product.shape == (9, 7)
