"""Adapters of one base together: where they meet, their sum as one adapter, and a population of them as a zoo."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import weightspace as ws
from test_adapters import LINEAR, LORA, Net, gpt2, llama, merged_by_peft, rewritten, saved, widened
from tools import refused, run
from weightspace.analysis.inspecting.adapters import inner_products
from weightspace.errors import InputError
from weightspace.generation.joining import Joining, join_adapters, overlap
from weightspace.weights.adapters.merging import merge_adapter
from weightspace.weights.adapters.opening import open_adapter
from weightspace.weights.adapters.pairs import adapter_of, most_pairs, pairs_of

CONFIGS: dict[str, tuple[Callable[[], nn.Module], list[str], dict[str, Any]]] = {
    "linear": (Net, LINEAR, {}),
    "kernel": (Net, ["conv", "q_proj"], {}),
    "ranks": (Net, LINEAR, {"rank_pattern": {"v_proj": 2}, "use_rslora": True}),
    "embedding": (llama, ["embed_tokens", "q_proj"], {}),
    "inputs-first": (gpt2, ["c_attn"], {"fan_in_fan_out": True}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_sum_of_adapters_is_one_that_peft_loads(name: str, tmp_path: Path) -> None:
    build, modules, options = CONFIGS[name]
    base, _ = saved(build, LORA(r=4, lora_alpha=16, target_modules=modules, **options), tmp_path / "one")
    saved(build, LORA(r=2, target_modules=modules[:1]), tmp_path / "two") if not options else rewritten(
        tmp_path / "one", tmp_path / "two", lambda tensors, config: config.update(lora_alpha=4)
    )
    parts = [open_adapter(tmp_path / name) for name in ("one", "two")]
    expected = dict(merge_adapter(dict(merge_adapter(base, parts[0])), parts[1]))
    ways: tuple[tuple[Joining, float], ...] = (("sum", 1.0), ("average", 0.5))
    for how, factor in ways:
        join_adapters(parts, how, tmp_path / how)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about itself
            model = peft.PeftModel.from_pretrained(build(), str(tmp_path / how))
        merged = merged_by_peft(model)
        for tensor in base:
            halfway = base[tensor] + factor * (expected[tensor] - base[tensor])
            torch.testing.assert_close(merged[tensor], halfway, rtol=1e-4, atol=1e-5)


def test_where_adapters_meet_is_what_their_matrices_say(tmp_path: Path) -> None:
    """Against projections of the changes themselves, which the code never forms."""
    saved(Net, LORA(r=3, lora_alpha=9, target_modules=LINEAR), tmp_path / "one")
    saved(Net, LORA(r=5, target_modules=["q_proj"]), tmp_path / "two")
    one, two = open_adapter(tmp_path / "one"), open_adapter(tmp_path / "two")
    met = overlap(one, two)
    first, second = (adapter.changes["q_proj.weight"].product().product.double() for adapter in (one, two))
    onto = [torch.linalg.svd(matrix) for matrix in (first, second)]
    columns = [svd.U[:, :rank] @ svd.U[:, :rank].T for svd, rank in zip(onto, (3, 5), strict=True)]
    rows = [svd.Vh[:rank].T @ svd.Vh[:rank] for svd, rank in zip(onto, (3, 5), strict=True)]

    def share(part: torch.Tensor, whole: torch.Tensor) -> float:
        return float(part.square().sum() / whole.square().sum())

    (row,) = met.rows
    outputs = (share(columns[1] @ first, first) + share(columns[0] @ second, second)) / 2
    inputs = (share(first @ rows[1], first) + share(second @ rows[0], second)) / 2
    both = (share(columns[1] @ first @ rows[1], first) + share(columns[0] @ second @ rows[0], second)) / 2
    assert (row.outputs, row.inputs, row.both) == pytest.approx((outputs, inputs, both), abs=1e-6)
    assert row.cosine == pytest.approx(float((first * second).sum() / first.norm() / second.norm()), abs=1e-6)
    assert met.alone == (1, 0) and 0 < met.both < row.both and row.ranks == (3, 5)
    assert row.by_chance == pytest.approx((9 + 25) / 2 / (24 * 16))


def test_diff_and_merge_say_how_two_adapters_are_related(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(Net, LORA(r=4, target_modules=LINEAR), tmp_path / "one")
    rewritten(tmp_path / "one", tmp_path / "wider", widened)
    rewritten(tmp_path / "one", tmp_path / "stronger", lambda tensors, config: config.update(lora_alpha=64))
    saved(Net, LORA(r=2, target_modules=["conv"]), tmp_path / "elsewhere")
    rewritten(
        tmp_path / "one", tmp_path / "other-base", lambda tensors, config: config.update(base_model_name_or_path="b")
    )
    rewritten(
        tmp_path / "one", tmp_path / "this-base", lambda tensors, config: config.update(base_model_name_or_path="a")
    )
    one, wider, stronger, elsewhere = (tmp_path / name for name in ("one", "wider", "stronger", "elsewhere"))
    assert "one and wider are the same change: their sum" in run(capsys, "diff", one, wider)[1]
    assert "the same change, the second 8 times as large" in run(capsys, "diff", one, stronger)[1]
    assert "change no tensor in common" in run(capsys, "diff", one, elsewhere)[1]
    _, said, _ = run(capsys, "merge", one, wider, "--adapters", "average", "--out", tmp_path / "mean")
    assert "the average of one and wider, of rank 4 at most" in said
    (pair,) = json.loads(run(capsys, "diff", one, tmp_path / "mean", "--json")[1])["rows"][:1]
    assert pair["sizes"][0] == pytest.approx(pair["sizes"][1], rel=1e-4) and pair["cosine"] == pytest.approx(1.0)
    saved(Net, LORA(r=4, use_dora=True, target_modules=LINEAR), tmp_path / "dora")
    assert "found DoRA, which needs the base" in refused(capsys, "diff", one, tmp_path / "dora")
    said = refused(capsys, "merge", tmp_path / "this-base", tmp_path / "other-base", "--out", tmp_path / "no")
    assert "expected adapters of one base, found adapters of a and of b" in said and not (tmp_path / "no").exists()
    assert "expected a .safetensors file to write merged tensors into one by one, found m.pt" in refused(
        capsys, "merge", one, tmp_path / "nowhere", "--out", tmp_path / "m.pt"
    )
    assert "found nothing there" in refused(
        capsys, "merge", one, tmp_path / "nowhere", "--out", tmp_path / "no.safetensors"
    )


def test_pairs_are_the_change_whatever_factors_it_has(tmp_path: Path) -> None:
    saved(Net, LORA(r=4, lora_alpha=16, target_modules=LINEAR), tmp_path / "one")
    rewritten(tmp_path / "one", tmp_path / "wider", widened)
    one, wider = open_adapter(tmp_path / "one"), open_adapter(tmp_path / "wider")
    assert (most_pairs(one), most_pairs(wider)) == (4, 8)
    paired, again = pairs_of(one, 6), pairs_of(wider, 6)
    back = adapter_of(tmp_path, paired.weights, paired.outputs)
    for target, change in one.changes.items():
        rows = paired.weights[f"{target}.pairs"]
        assert rows.shape[0] == 6 and not rows[4:].any() and rows[3].any()
        torch.testing.assert_close(rows, again.weights[f"{target}.pairs"], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(back.changes[target].product().product, change.product().product)
    with pytest.raises(InputError, match="expected singular pairs"):
        adapter_of(tmp_path, {"weight": torch.zeros(2, 3)}, {})


def test_a_folder_of_adapters_becomes_a_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also out of an archive, with the configuration that lies beside each; and a member is an adapter again."""
    folder = tmp_path / "adapters"
    base, _ = saved(Net, LORA(r=4, lora_alpha=16, target_modules=LINEAR), folder / "one")
    rewritten(folder / "one", folder / "stronger", lambda tensors, config: config.update(lora_alpha=32))
    saved(Net, LORA(r=2, target_modules=LINEAR), folder / "small")
    saved(Net, LORA(r=4, use_dora=True, target_modules=LINEAR), folder / "dora")
    save_file(base, folder / "base.safetensors")
    _, _said, _ = run(capsys, "import", folder, "--out", tmp_path / "zoo")
    zoo = ws.Zoo.open(tmp_path / "zoo")
    adapters = zoo.where(architecture=next(id for id in zoo.architectures if id.startswith("adapter-")))
    assert sorted(adapters.table["member"]) == ["one/adapter_model", "small/adapter_model", "stronger/adapter_model"]
    assert sorted(adapters.table["rank"]) == [2, 4, 4] and sorted(adapters.table["alpha"]) == [8, 16, 32]
    assert {tuple(tensor.shape) for tensor in adapters.weights(0).values()} == {(4, 40), (4, 36)}
    assert len(zoo) == 4 and "DoRA" in (tmp_path / "zoo" / "zoo.json").read_text()
    save_file(base, tmp_path / "base.safetensors")
    for name in ("one", "stronger"):
        run(capsys, "merge", tmp_path / "base.safetensors", folder / name, "--out", tmp_path / f"{name}.safetensors")
        member = f"{tmp_path / 'zoo'}:{name}/adapter_model"
        run(capsys, "merge", tmp_path / "base.safetensors", member, "--out", tmp_path / f"{name}-again.safetensors")
        merged = [load_file(tmp_path / f"{file}.safetensors") for file in (name, f"{name}-again")]
        for tensor in base:
            torch.testing.assert_close(merged[0][tensor], merged[1][tensor])
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    run(capsys, "import", tmp_path / "packed.zip", "--out", tmp_path / "unpacked")
    packed = ws.Zoo.open(tmp_path / "unpacked")
    assert sorted(packed.table["alpha"].dropna()) == [8, 16, 32]


@pytest.mark.parametrize("at_once", [1, 300, 10**9])
def test_inner_products_of_changes_are_those_of_the_matrices(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many go together; of different ranks, tensors and shapes."""
    monkeypatch.setattr("weightspace.analysis.inspecting.adapters.NUMBERS_AT_ONCE", at_once)
    for number, (outputs, rank) in enumerate([(12, 2), (10, 1), (12, 3), (12, 2), (10, 2), (12, 1)]):
        torch.manual_seed(number)
        tensors = {"q_proj.lora_A.weight": torch.randn(rank, 8), "q_proj.lora_B.weight": torch.randn(outputs, rank)}
        if number % 2:
            tensors |= {"v_proj.lora_A.weight": torch.randn(2, 6), "v_proj.lora_B.weight": torch.randn(5, 2)}
        save_file(tensors, tmp_path / f"{number}.safetensors")
    adapters = [open_adapter(tmp_path / f"{number}.safetensors") for number in range(6)]
    matrices = [{name: change.product().product for name, change in one.changes.items()} for one in adapters]
    expected = [
        [
            sum(float((one[name] * other[name]).sum()) for name in one if one[name].shape == _shape(other, name))
            for other in matrices
        ]
        for one in matrices
    ]
    assert inner_products(adapters) == pytest.approx(np.array(expected), rel=1e-4, abs=1e-4)


def _shape(matrices: dict[str, Tensor], name: str) -> torch.Size | None:
    return matrices[name].shape if name in matrices else None


def test_inspect_finds_networks_with_an_adapter_merged_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of changes that need the base, and rounded to 16 bits; not of another adapter, nor of another network."""
    folder = tmp_path / "folder"
    base, _ = saved(Net, LORA(r=4, lora_alpha=16, target_modules=LINEAR), folder / "lora")
    saved(Net, LORA(r=4, use_dora=True, target_modules=LINEAR), folder / "dora")
    rewritten(folder / "lora", folder / "stronger", lambda tensors, config: config.update(lora_alpha=64))
    save_file(base, folder / "base.safetensors")
    for name in ("lora", "dora"):
        merged = dict(merge_adapter(base, open_adapter(folder / name)))
        save_file(merged, folder / f"merged-{name}.safetensors")
    rounded = {n: t.bfloat16().float() for n, t in load_file(folder / "merged-lora.safetensors").items()}
    save_file(rounded, folder / "rounded.safetensors")
    save_file({n: torch.randn_like(t) for n, t in base.items()}, folder / "stranger.safetensors")
    _, said, _ = run(capsys, "inspect", folder, "--json")
    found = {(twin["network"], twin["base"], twin["adapter"]) for twin in json.loads(said)["adapters"]["merged"]}
    files = {"lora": "lora/adapter_model.safetensors", "dora": "dora/adapter_model.safetensors"}
    assert found == {
        ("merged-lora.safetensors", "base.safetensors", files["lora"]),
        ("rounded.safetensors", "base.safetensors", files["lora"]),
        ("merged-dora.safetensors", "base.safetensors", files["dora"]),
    }
    assert "Merged adapters" in run(capsys, "inspect", folder)[1]


def test_names_of_other_writers_are_the_same_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A twin that kohya's scripts would have written, without dots in its names."""
    saved(Net, LORA(r=4, lora_alpha=8, target_modules=LINEAR), tmp_path / "folder" / "peft")
    tensors = load_file(tmp_path / "folder" / "peft" / "adapter_model.safetensors")
    words = {"base_model.model.": "lora_unet_", "lora_A": "lora_down", "lora_B": "lora_up"}
    twin = {}
    for name, tensor in tensors.items():
        for word, other in words.items():
            name = name.replace(word, other)
        twin[name] = tensor
        twin[f"{name.partition('.')[0]}.alpha"] = torch.tensor(8.0)
    save_file(twin, tmp_path / "folder" / "kohya.safetensors")
    _, said, _ = run(capsys, "inspect", tmp_path / "folder", "--json")
    (pair,) = json.loads(said)["adapters"]["alike"]
    assert pair["told"] == "the same change"
    _, said, _ = run(capsys, "diff", tmp_path / "folder" / "peft", tmp_path / "folder" / "kohya.safetensors")
    assert "are the same change" in said


def test_adapters_of_bases_of_two_widths_are_strangers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, width in (("one", 8), ("two", 6)):
        factors = {"q.lora_A.weight": torch.randn(2, width), "q.lora_B.weight": torch.randn(4, 2)}
        save_file(factors, tmp_path / f"{name}.safetensors")
    status, said, _ = run(capsys, "inspect", tmp_path, "--json")
    assert status == 0 and json.loads(said)["adapters"]["alike"] == []


def test_a_folder_of_adapters_that_no_file_tells_is_no_folder_of_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(Net, LORA(r=4, use_dora=True, target_modules=LINEAR), tmp_path / "folder" / "dora")
    said = refused(capsys, "import", tmp_path / "folder", "--out", tmp_path / "zoo")
    assert "found DoRA: rows of base and product" in said


def noised(seed: int) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in tensors.items():
            tensors[name] = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)

    return change


def test_sane_trains_on_adapters_and_writes_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a folder of adapters to a network with a generated one merged in, by commands alone."""
    base, _ = saved(Net, LORA(r=4, lora_alpha=16, target_modules=LINEAR), tmp_path / "source")
    save_file(base, tmp_path / "base.safetensors")
    (tmp_path / "adapters").mkdir()
    for number in range(8):
        rewritten(tmp_path / "source", tmp_path / "adapters" / f"a{number}", noised(number))
    run(capsys, "import", tmp_path / "adapters", "--out", tmp_path / "zoo")
    options = ["--steps", 20, "--layers", 1, "--model-width", 16, "--latent-width", 8, "--heads", 2, "--window", 8]
    status, _, why = run(capsys, "pretrain", tmp_path / "zoo", "--out", tmp_path / "sane", *options)
    assert status == 0, why
    made = tmp_path / "generated"
    words = ["generate", tmp_path / "sane", "--anchors", tmp_path / "zoo", "--count", 2, "--out", made]
    status, _, why = run(capsys, *words)
    assert status == 0, why
    member = ws.Zoo.open(made).members[0]
    _, said, why = run(
        capsys, "merge", tmp_path / "base.safetensors", f"{made}:{member}", "--out", tmp_path / "m.safetensors"
    )
    assert "2 of 8 tensors" in said, why
