"""Checkpoints as transformers and its kin write them: sharded, tied, compiled, quantized, and what they leave."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import weightspace as ws
from test_adapters import llama
from tools import refused, run
from weightspace.errors import InputError

WIDTH, ROWS = 192, 24


def quantized(kind: str) -> tuple[nn.Module, Tensor]:
    """A linear layer as bitsandbytes quantizes it, and its weight as bitsandbytes reads it again."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    weight = torch.randn(ROWS, WIDTH)
    if kind == "int8":
        layer = bitsandbytes.nn.Linear8bitLt(WIDTH, ROWS, bias=False, has_fp16_weights=False)
        layer.load_state_dict({"weight": weight})
        layer = layer.to("cpu")
        return layer, bitsandbytes.functional.int8_vectorwise_dequant(layer.weight.data, layer.weight.SCB)
    layer = bitsandbytes.nn.Linear4bit(
        WIDTH, ROWS, bias=False, quant_type=kind[:3], compress_statistics=kind.endswith("nested")
    )
    layer.load_state_dict({"weight": weight})
    layer = layer.to("cpu")
    return layer, bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)


@pytest.mark.parametrize("kind", ["int8", "nf4", "nf4-nested", "fp4"])
def test_what_bitsandbytes_quantized_is_read_as_it_reads_it(kind: str, tmp_path: Path) -> None:
    layer, expected = quantized(kind)
    tensors = {f"proj.{name}": tensor for name, tensor in layer.state_dict().items()}
    save_file({**tensors, "norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    torch.save({**tensors, "norm.weight": torch.ones(3)}, tmp_path / "model.pt")
    for file in ("model.safetensors", "model.pt"):
        stored = ws.open_weights(tmp_path / file)
        assert sorted(stored) == ["norm.weight", "proj.weight"]
        assert stored.meta()["proj.weight"].shape == expected.shape
        torch.testing.assert_close(stored["proj.weight"], expected.float(), rtol=1e-6, atol=1e-7)
        assert torch.equal(stored.numbers("proj.weight", 5, 9), stored["proj.weight"].flatten()[5:9])
        assert any(remark.startswith("1 tensors quantized by bitsandbytes") for remark in stored.remarks)


def numbers_of_four_bits(codes: Tensor) -> Tensor:
    """By sign, exponent and fraction (E2M1), of pairs whose lower half comes first."""
    halves = torch.stack([codes % 16, codes // 16], dim=-1).flatten(-2).int()
    sign, exponent, fraction = 1 - 2 * (halves // 8), (halves // 2) % 4, (halves % 2).float()
    sizes = torch.where(exponent == 0, fraction / 2, 2.0 ** (exponent - 1) * (1 + fraction / 2))
    return sign * sizes


@pytest.mark.parametrize("kind", ["ModelOpt", "compressed-tensors", "powers", "pairs in blocks", "pairs alone"])
def test_numbers_of_four_bits_are_read_with_their_scales(kind: str, tmp_path: Path) -> None:
    """Under the names that their writers give, and by the formula of the format; bit for bit."""
    codes = torch.randint(0, 256, (6, 48), dtype=torch.uint8)
    values, pairs = numbers_of_four_bits(codes), codes.view(torch.float4_e2m1fn_x2)
    blocks, whole = (torch.rand(6, 6) * 400).to(torch.float8_e4m3fn), torch.tensor([0.0015])
    exponents = torch.randint(110, 140, (6, 3), dtype=torch.uint8)
    powers = (2.0 ** (exponents.int() - 127)).repeat_interleave(32, 1)
    by, over = blocks.float() * whole, blocks.float() / whole
    cases: dict[str, tuple[dict[str, Tensor], Tensor]] = {
        "ModelOpt": (
            {"weight": codes, "weight_scale": blocks, "weight_scale_2": whole[0]},
            values * by.repeat_interleave(16, 1),
        ),
        "compressed-tensors": (
            {"weight_packed": codes, "weight_scale": blocks, "weight_global_scale": whole},
            values * over.repeat_interleave(16, 1),
        ),
        "powers": ({"weight_packed": codes, "weight_scale": exponents}, values * powers),
        "pairs in blocks": ({"weight": pairs, "weight_scale": exponents.view(torch.float8_e8m0fnu)}, values * powers),
        "pairs alone": ({"weight": pairs}, values),
    }
    parts, expected = cases[kind]
    stored = {f"a.{name}": tensor.clone() for name, tensor in parts.items()} | {"a.bias": torch.ones(6)}
    save_file(stored, tmp_path / "model.safetensors")
    torch.save(stored, tmp_path / "model.pt")
    for file in ("model.safetensors", "model.pt"):
        read = ws.open_weights(tmp_path / file)
        assert sorted(read) == ["a.bias", "a.weight"] and torch.equal(read["a.weight"], expected)
        assert read.meta()["a.weight"].shape == (6, 96) and "were read as float32" in read.remarks[-1]
    index = {name: f"model-{place}.safetensors" for place, name in enumerate(stored)}
    for name, shard in index.items():
        save_file({name: stored[name]}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(ws.open_weights(tmp_path)["a.weight"], expected)


def words(numbers: Tensor, bits: int, order: tuple[int, ...] = tuple(range(32))) -> Tensor:
    """Numbers from 0 in words of 32 bits along the last axis, the lowest bits first; `order`: which lies where."""
    each = 32 // bits
    rows = []
    for row in numbers.tolist():
        row += [0] * (-len(row) % each)
        packed = [
            sum(row[start + order[place]] << (bits * place) for place in range(each))
            for start in range(0, len(row), each)
        ]
        rows.append([word - 2**32 if word >= 2**31 else word for word in packed])
    return torch.tensor(rows, dtype=torch.int32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["by row", "by group", "with zero points", "with packed ones", "in another order"])
def test_whole_numbers_of_compressed_tensors_are_read(bits: int, kind: str, tmp_path: Path) -> None:
    rows, columns, groups = 6, 48, 1 if kind == "by row" else 3
    half = 2 ** (bits - 1)
    numbers, scales = torch.randint(-half, half, (rows, columns)), torch.rand(rows, groups).bfloat16()
    group, zeros = torch.arange(columns) // (columns // groups), torch.zeros(rows, groups, dtype=torch.int64)
    parts = {"weight_packed": words(numbers + half, bits), "weight_shape": torch.tensor([rows, columns])}
    if kind == "in another order":
        group = group[torch.randperm(columns)]
        parts["weight_g_idx"] = group.int()
    if kind.startswith("with"):
        zeros = torch.randint(-half, half, (rows, groups))
        packed = words((zeros + half).mT, bits).mT.contiguous()
        parts["weight_zero_point"] = packed if "packed" in kind else zeros.to(torch.int8)
    save_file({f"a.{n}": t for n, t in {**parts, "weight_scale": scales}.items()}, tmp_path / "model.safetensors")
    read = ws.open_weights(tmp_path / "model.safetensors")
    assert list(read) == ["a.weight"] and read.meta()["a.weight"].shape == (rows, columns)
    expected = (numbers - zeros[:, group]) * scales.float()[:, group]
    assert torch.equal(read["a.weight"], expected) and f"({bits} bits)" in read.remarks[-1]


def test_whole_numbers_that_cannot_be_told_stay_in_their_words(tmp_path: Path) -> None:
    """Of seven bits (four a word, as eight are), of words that are not filled, of shapes that are none."""
    plain = {"0": torch.ones(1)}  # whoever checks types reads the first tensor
    whole = {"weight_packed": words(torch.randint(0, 256, (6, 48)), 8), "weight_scale": torch.rand(6, 3)}
    shape = torch.tensor([6, 48])
    cases: dict[str, dict[str, Tensor]] = {
        "unfilled": {"weight_packed": words(torch.randint(0, 4, (6, 10)), 2), "weight_shape": torch.tensor([6, 10])},
        "no shape": {"weight_shape": torch.tensor(3)},
        "not a number": {"weight_shape": torch.tensor([float("nan"), 48.0])},
        "no scales": {"weight_shape": shape, "weight_scale": torch.ones(())},
        "short order": {"weight_shape": shape, "weight_g_idx": torch.zeros(3, dtype=torch.int32)},
        "flat zeros": {"weight_shape": shape, "weight_zero_point": torch.zeros(18, dtype=torch.int8)},
    }
    for name, parts in cases.items():
        save_file({f"a.{n}": t for n, t in {**whole, **parts}.items()}, tmp_path / f"{name}.safetensors")
        assert "a.weight_packed" in ws.open_weights(tmp_path / f"{name}.safetensors"), name
    seven = {**whole, "weight_packed": words(torch.randint(0, 128, (6, 48)), 7), "weight_shape": shape}
    save_file({f"a.{n}": t for n, t in seven.items()} | plain, tmp_path / "seven.safetensors")
    with pytest.raises(InputError, match="found words filled as with 7"):
        ws.open_weights(tmp_path / "seven.safetensors")["a.weight"]
    far = {**whole, "weight_shape": shape, "weight_g_idx": torch.full((48,), 3)}
    save_file({f"a.{n}": t for n, t in far.items()} | plain, tmp_path / "far.safetensors")
    with pytest.raises(InputError, match="expected groups below 3 in a.weight_g_idx, found 3"):
        ws.open_weights(tmp_path / "far.safetensors")["a.weight"]


@pytest.mark.parametrize("ending", ["safetensors", "pt", "index", "bin index"])
def test_tied_tensors_that_were_quantized_are_tied_as_numbers(ending: str, tmp_path: Path) -> None:
    """An embedding and a head of one matrix; a scale that two others share ties nothing."""
    layer, others = nn.Module(), [nn.Module(), nn.Module()]
    codes, whole = torch.randint(0, 256, (6, 48), dtype=torch.uint8), torch.tensor(0.5)
    blocks = (torch.rand(6, 6) + 1).to(torch.float8_e4m3fn)
    for module, held in [(layer, codes), *zip(others, (codes + 1, codes + 2), strict=True)]:
        for name, tensor in (("weight", held), ("weight_scale", blocks.clone()), ("weight_scale_2", whole)):
            module.register_buffer(name, tensor)
    layer.weight_scale_2 = whole.clone()
    tied = nn.ModuleDict({"embed": layer, "head": layer, "first": others[0], "second": others[1]}).state_dict()
    kept = {name: tensor.clone() for name, tensor in tied.items() if not name.startswith("head")}
    notes = {name: name.replace("head", "embed") for name in tied if name.startswith("head")}
    path = tmp_path / "model.safetensors"
    if ending == "safetensors":
        save_file(kept, path, notes)
    elif ending == "pt":
        path = tmp_path / "model.pt"
        torch.save(tied, path)
    else:
        shard, name = "model-1.safetensors", "model.safetensors.index.json"
        if ending == "bin index":
            shard, name = "model-1.bin", "pytorch_model.bin.index.json"
            torch.save(tied, tmp_path / shard)
        else:
            save_file(kept, tmp_path / shard, notes)
        (tmp_path / name).write_text(json.dumps({"weight_map": dict.fromkeys(tied, shard)}))
        path = tmp_path
    read = ws.open_weights(path)
    names = ["embed.weight", "first.weight", "head.weight", "second.weight"]
    assert sorted(read) == names and sorted(read.meta()) == names and sorted(read.read()) == names
    assert torch.equal(read["head.weight"], read["embed.weight"]) and set(read.aliases) <= {
        "embed.weight",
        "head.weight",
    }
    if ending != "bin index":
        assert len(read.aliases) == 1
    expected = numbers_of_four_bits(codes + 2) * (blocks.float() * 0.5).repeat_interleave(16, 1)
    assert torch.equal(read["second.weight"], expected)


def test_pairs_beside_others_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scale of four bits, codes under a library's name, a tensor without axes."""
    pairs = torch.randint(0, 256, (6, 48), dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    blocks = torch.ones(6, 6).to(torch.float8_e4m3fn)
    packed = {"a.weight_packed": pairs, "a.weight_scale": blocks, "a.weight_global_scale": torch.full((1,), 2.0)}
    save_file({**packed, "b_scale": pairs[0].clone(), "b.weight": pairs.clone()}, tmp_path / "net.safetensors")
    read = ws.open_weights(tmp_path / "net.safetensors")
    assert sorted(read) == ["a.weight", "b.weight", "b_scale"]
    assert torch.equal(read["a.weight"], read["b.weight"] / 2)
    torch.save({"w": pairs[0, 0]}, tmp_path / "one.pt")
    assert ws.open_weights(tmp_path / "one.pt")["w"].shape == (2,)
    assert run(capsys, "inspect", tmp_path)[0] == 0


def test_words_of_awq_are_read_and_those_of_gptq_are_not(tmp_path: Path) -> None:
    inputs, outputs, groups = 32, 16, 2
    numbers, zeros = torch.randint(0, 16, (inputs, outputs)), torch.randint(0, 16, (groups, outputs))
    scales = torch.rand(groups, outputs).half()
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    awq = {"qweight": words(numbers, 4, order), "qzeros": words(zeros, 4, order), "scales": scales}
    save_file({f"a.{name}": tensor for name, tensor in awq.items()}, tmp_path / "awq.safetensors")
    read, group = ws.open_weights(tmp_path / "awq.safetensors"), torch.arange(inputs) // (inputs // groups)
    assert list(read) == ["a.weight"] and "by AWQ" in read.remarks[-1]
    assert torch.equal(read["a.weight"], ((numbers - zeros[group]) * scales.float()[group]).mT)
    gptq = {**awq, "qweight": words(numbers.mT, 4).mT.contiguous()}
    save_file({f"a.{name}": tensor for name, tensor in gptq.items()}, tmp_path / "gptq.safetensors")
    assert "a.qweight" in ws.open_weights(tmp_path / "gptq.safetensors")


def test_scales_of_floats_of_eight_bits_may_be_exponents(tmp_path: Path) -> None:
    codes = torch.randn(6, 64).to(torch.float8_e4m3fn)
    exponents = torch.randint(110, 140, (6, 2), dtype=torch.uint8)
    save_file({"a.weight": codes, "a.weight_scale": exponents}, tmp_path / "model.safetensors")
    expected = codes.float() * (2.0 ** (exponents.int() - 127)).repeat_interleave(32, 1)
    assert torch.equal(ws.open_weights(tmp_path / "model.safetensors")["a.weight"], expected)


def test_experts_of_gpt_oss_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    blocks = torch.randint(0, 256, (3, 6, 4, 16), dtype=torch.uint8)
    scales = torch.randint(110, 135, (3, 6, 4), dtype=torch.uint8)
    save_file({"experts.up_proj_blocks": blocks, "experts.up_proj_scales": scales}, tmp_path / "model.safetensors")
    read = ws.open_weights(tmp_path / "model.safetensors")
    assert list(read) == ["experts.up_proj"] and read.meta()["experts.up_proj"].shape == (3, 128, 6)
    expected = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert torch.equal(read["experts.up_proj"], expected)


def test_bytes_that_are_no_numbers_of_four_bits_stay_bytes(tmp_path: Path) -> None:
    codes, blocks = torch.zeros(6, 48, dtype=torch.uint8), torch.ones(6, 6).to(torch.float8_e4m3fn)
    others: list[dict[str, Tensor]] = [
        {"weight": codes, "weight_scale": torch.ones(6, 1), "weight_scale_2": torch.ones(1)},
        {"weight": codes, "weight_scale": blocks},
        {"weight": codes, "weight_scale": codes[:, :3]},
        {"weight": codes, "weight_scale": blocks.reshape(18, 2), "weight_scale_2": torch.ones(1)},
        {"weight": codes, "weight_scale": blocks.flatten(), "weight_scale_2": torch.ones(1)},
        {"weight_scale": codes[:0], "foo_scales": blocks, "up_blocks": codes, "up_scales": blocks},
        {"weight_packed": codes, "weight_scale": blocks, "weight_global_scale": blocks, "weight_zero_point": blocks},
    ]
    for number, parts in enumerate(others):
        save_file({name: tensor.clone() for name, tensor in parts.items()}, tmp_path / f"{number}.safetensors")
        assert set(ws.open_weights(tmp_path / f"{number}.safetensors")) == set(parts)


def test_numbers_of_four_bits_with_other_scales_are_refused(tmp_path: Path) -> None:
    pairs = torch.zeros(6, 48, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    save_file({"w": pairs, "w_scale": torch.ones(6, 1)}, tmp_path / "rows.safetensors")
    with pytest.raises(InputError, match=r"every 16 or 32 numbers of w, found \[6, 1\]"):
        ws.open_weights(tmp_path / "rows.safetensors")


def test_parts_of_a_quantized_tensor_may_be_in_two_shards(tmp_path: Path) -> None:
    layer, expected = quantized("nf4-nested")
    tensors = {f"proj.{name}": tensor for name, tensor in layer.state_dict().items()}
    weight_map = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(tensors)}
    for shard in sorted(set(weight_map.values())):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    stored = ws.open_weights(tmp_path)
    torch.testing.assert_close(stored["proj.weight"], expected.float(), rtol=1e-6, atol=1e-7)
    (tmp_path / "lacking").mkdir()
    del tensors["proj.weight.absmax"]
    save_file(tensors, tmp_path / "lacking" / "model.safetensors")
    with pytest.raises(InputError, match=r"all parts of the quantized proj.weight, found no proj.weight.absmax"):
        ws.open_weights(tmp_path / "lacking")


@pytest.mark.parametrize("scales", ["tensor", "row", "block"])
def test_floats_of_eight_bits_are_read_with_their_scales(scales: str, tmp_path: Path) -> None:
    codes = torch.randn(200, 300).to(torch.float8_e4m3fn)
    if scales == "block":  # of 128 x 128, the last ones shorter
        scale = torch.rand(2, 3) + 0.5
        expected = codes.float() * scale.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
    else:
        scale = torch.rand(1) if scales == "tensor" else torch.rand(200, 1)
        expected = codes.float() * scale
    suffix = "_inv" if scales == "block" else ""
    save_file({"a.weight": codes, f"a.weight_scale{suffix}": scale}, tmp_path / "model.safetensors")
    stored = ws.open_weights(tmp_path / "model.safetensors")
    assert list(stored) == ["a.weight"] and torch.equal(stored["a.weight"], expected)
    save_file({"a.weight": codes, "a.weight_scale": torch.rand(7)}, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="expected scales that divide"):
        ws.open_weights(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("library", ["GPTQ", "compressed-tensors"])
def test_what_is_packed_otherwise_is_named(library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the shapes that their specifications give."""
    packed = torch.zeros(8, 16, dtype=torch.int32)
    parts: dict[str, dict[str, Tensor]] = {
        "GPTQ": {"qweight": packed, "qzeros": packed[:1], "scales": torch.ones(1, 16), "g_idx": packed[:, 0]},
        "compressed-tensors": {"weight_packed": packed, "weight_scale": torch.ones(8, 1)},
    }
    save_file({f"layer.{n}": t.clone() for n, t in parts[library].items()}, tmp_path / "model.safetensors")
    _, said, _ = run(capsys, "inspect", tmp_path, "--json")
    (note,) = json.loads(said)["checkpoints"][0]["notes"]
    assert note.startswith(f"1 modules are packed by {library} (layer)")


def test_one_network_is_one_however_it_was_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """bf16 in shards, in one file, as a state dict, compiled; tied matrices once or twice."""
    model: Any = llama(tied=True).bfloat16()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "compiled.pt")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    for name in ("sharded", "state.pt", "compiled.pt"):
        _, said, _ = run(capsys, "diff", tmp_path / "one", tmp_path / name, "--json")
        assert json.loads(said)["verdict"]["relation"] == "equal", (name, said)


def test_what_training_in_parts_leaves_is_named_with_what_converts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    weights = nn.Linear(8, 4).state_dict()
    dcp.save({"model": weights}, checkpoint_id=str(tmp_path / "fsdp" / "pytorch_model_fsdp_0"))
    for words in (["inspect", tmp_path / "fsdp"], ["diff", tmp_path / "fsdp", tmp_path / "fsdp"]):
        assert "format_utils dcp_to_torch FOLDER net.pt` makes one file" in refused(capsys, *words)
    with pytest.raises(InputError, match="dcp_to_torch"):
        ws.open_weights(tmp_path / "fsdp" / "pytorch_model_fsdp_0")
    # As DeepSpeed's engine writes the third stage, after its `_get_zero_ckpt_name` and `module_state_dict`.
    empty = {name: torch.empty(0) for name in weights}
    step = tmp_path / "deepspeed" / "global_step10"
    step.mkdir(parents=True)
    held = {"module": empty, "ds_version": "0.18.2", "param_shapes": [{n: t.shape for n, t in weights.items()}]}
    torch.save(held, step / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(InputError, match=r"found 2 tensors without entries.*zero_to_fp32.py"):
        ws.open_weights(step / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    torch.save({**held, "module": weights}, step / "mp_rank_00_model_states.pt")
    assert torch.equal(ws.open_weights(step / "mp_rank_00_model_states.pt")["weight"], weights["weight"])


def test_a_file_that_load_file_reads_is_left_as_it_is(tmp_path: Path) -> None:
    """Names that only look quantized are a network's own."""
    own = {"a.SCB": torch.ones(3), "b.weight_scale": torch.ones(2), "c.weight": torch.ones(2, 2, dtype=torch.int8)}
    save_file(own, tmp_path / "model.safetensors")
    stored = ws.open_weights(tmp_path / "model.safetensors")
    assert {name: stored[name].tolist() for name in stored} == {
        name: tensor.tolist() for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
