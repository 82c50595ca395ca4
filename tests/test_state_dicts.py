"""What files hold: other people's wrappers, names and leftovers, and the same answer from every command."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm
from torch.nn.utils.parametrizations import weight_norm as new_weight_norm

from tools import run
from weightspace.analysis.inspecting.checkpoints import inspect_folder
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.frame import describe_module
from weightspace.errors import InputError
from weightspace.weights.files import open_weights
from weightspace.weights.values import is_mask
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights
from weightspace.zoo.importing.importing import import_zoo

# Old files are the point.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype.*:UserWarning"),
]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def state(seed: int = 0) -> dict[str, Tensor]:
    return dict(net(seed).state_dict())


def optimizer_state() -> dict[str, Any]:
    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.zeros(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


READ: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "under a key of its own": (lambda: {"backbone": state(), "epoch": 3}, ("backbone",)),
    "beside an optimizer": (lambda: {"net": state(), "opt": optimizer_state()}, ("net",)),
    "with leftovers": (lambda: {**state(), "_extra_state": None, "version": "1", "score": np.float64(0.5)}, ()),
    "with states of modules": (lambda: {**state(), "0._extra_state": torch.zeros(3, dtype=torch.uint8)}, ()),
    "compiled in part": (lambda: {name.replace("0.", "0._orig_mod."): t for name, t in state().items()}, ()),
    "sharded": (lambda: {f"module._fsdp_wrapped_module.{name}": tensor for name, tensor in state().items()}, ()),
    "as parameters": (lambda: {name: nn.Parameter(t) if t.ndim else t for name, t in state().items()}, ()),
    "beside its loss": (lambda: {"model": state(), "confusion": torch.zeros(5, 5)}, ("model",)),
}


@pytest.mark.parametrize("how", READ)
def test_the_network_in_a_file_is_found(how: str, tmp_path: Path) -> None:
    make, path = READ[how]
    torch.save(make(), tmp_path / "net.pt")
    stored = open_weights(tmp_path / "net.pt")
    assert stored.wrapper == path and list(stored) == list(state())
    assert all(torch.equal(stored[name], tensor) for name, tensor in state().items())
    assert not any(tensor.requires_grad for tensor in stored.read().values())
    # Every command gives the same answer.
    (checkpoint,) = inspect_folder(tmp_path).checkpoints
    assert checkpoint.parameters == sum(tensor.numel() for tensor in state().values()) and not checkpoint.problem
    zoo = import_zoo(tmp_path, tmp_path.with_suffix(".zoo"))
    assert all(torch.equal(zoo.weights(0)[name], tensor) for name, tensor in state().items())


def test_what_is_no_weight_is_named(tmp_path: Path) -> None:
    torch.save({**state(), "_extra_state": None, "shard": torch.empty(0)}, tmp_path / "net.pt")
    remarks = "; ".join(open_weights(tmp_path / "net.pt").remarks)
    assert "1 entries that are no tensors were left aside (_extra_state)" in remarks
    assert "1 tensors without entries, as sharded training leaves them (shard)" in remarks


@pytest.mark.parametrize("ending", ["th", "npz", "pth.tar"])
def test_other_endings_are_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{ending}"
    if ending == "npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in state().items()}
        np.savez(path, **arrays)
    else:
        torch.save(state(), path)
    assert torch.equal(open_weights(path)["4.weight"], state()["4.weight"])
    assert len(import_zoo(tmp_path, tmp_path.with_suffix(".zoo"))) == 1


def test_images_are_no_network(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 4), np.float32), y=np.zeros(3, np.int64))
    with pytest.raises(InputError, match="as in data"):
        open_weights(tmp_path / "data.npz")


def test_several_networks_in_a_file_are_listed_and_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / "gan.pt"
    torch.save({"netG": state(1), "deep": {"netD": state(2)}, "epoch": 3}, path)
    with pytest.raises(InputError, match=r"found several: netG, deep/netD; --key netG takes one"):
        open_weights(path)
    assert torch.equal(open_weights(path, "netG")["4.weight"], state(1)["4.weight"])
    assert torch.equal(open_weights(path, "deep/netD")["4.weight"], state(2)["4.weight"])
    assert open_weights(path, "netG").metadata == {"epoch": 3}
    with pytest.raises(InputError, match="expected a network under netE in .*, found netG, deep/netD"):
        open_weights(path, "netE")
    status, out, _ = run(capsys, "import", tmp_path / "runs", "--out", tmp_path / "zoo", "--key", "netG", "--json")
    assert status == 0 and json.loads(out)["checkpoints"] == 1
    status, out, _ = run(capsys, "inspect", tmp_path / "runs", "--key", "deep/netD", "--json")
    assert status == 0 and not json.loads(out)["checkpoints"][0]["problem"]
    status, out, _ = run(capsys, "embed", f"{path}:netG", "--out", tmp_path / "e.parquet", "--json")
    assert status == 0 and json.loads(out)["checkpoints"] == 1
    status, out, _ = run(capsys, "embed", path, "--key", "netG", "--out", tmp_path / "f.parquet", "--json")
    assert status == 0 and json.loads(out)["checkpoints"] == 1


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_an_average_beside_the_weights_is_said_and_chosen_by_its_key(kind: str, tmp_path: Path) -> None:
    both = {f"model.{n}": t for n, t in state(1).items()} | {f"model_ema.{n}": t for n, t in state(2).items()}
    path = tmp_path / f"net.{kind}"
    torch.save(both, path) if kind == "pt" else save_file(both, path)
    stored = open_weights(path)
    assert stored.others == ("model_ema",) and all(name.startswith("model.") for name in stored)
    assert torch.equal(open_weights(path, "model_ema")["4.weight"], state(2)["4.weight"])


def test_an_optimizer_is_told_by_its_content_and_never_by_its_name(tmp_path: Path) -> None:
    torch.save(optimizer_state(), tmp_path / "model.pt")
    torch.save(state(1), tmp_path / "best_optimal.pt")
    torch.save(state(2), tmp_path / "scheduler_free.pt")
    torch.save(optimizer_state(), tmp_path / "optimizer.pt")
    zoo = import_zoo(tmp_path, tmp_path.with_suffix(".zoo"))
    assert set(zoo.members) == {"best_optimal", "scheduler_free"}
    assert {entry["what"] for entry in zoo.about["left_out"]} == {"model.pt", "optimizer.pt"}


def test_what_needs_code_is_named_and_nothing_unsafe_is_advised(tmp_path: Path) -> None:
    torch.save({"model": state(), "args": argparse.Namespace(rate=0.1)}, tmp_path / "args.pt")
    torch.jit.script(net()).save(str(tmp_path / "script.pt"))
    program = torch.export.export(net().eval(), (torch.zeros(2, 3, 4, 4),))
    torch.export.save(program, tmp_path / "program.pt2")
    (tmp_path / "program.pt2").rename(tmp_path / "program.pt")
    sentences = {}
    for name in ("args", "script", "program"):
        with pytest.raises(InputError) as refused:
            open_weights(tmp_path / f"{name}.pt")
        sentences[name] = str(refused.value)
    assert "argparse.Namespace" in sentences["args"] and "model.state_dict()" in sentences["args"]
    assert "a TorchScript archive" in sentences["script"] and "exported by torch" in sentences["program"]
    assert not any("weights_only" in text or "corrupt" in text or "trust" in text for text in sentences.values())


def test_masks_of_infinities_are_by_design(tmp_path: Path) -> None:
    mask = torch.full((6, 6), -torch.inf).triu(1)
    broken = mask.clone()
    broken[3, 0] = torch.nan
    assert is_mask(mask) and not is_mask(broken) and not is_mask(torch.zeros(3, 3)) and not is_mask(torch.eye(3) * 2)
    (tmp_path / "runs").mkdir()
    torch.save({**state(), "attention.mask": mask}, tmp_path / "runs" / "net.pt")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert torch.equal(zoo.weights(0)["attention.mask"], mask)
    (checkpoint,) = inspect_folder(tmp_path / "runs").checkpoints
    assert not checkpoint.broken
    sane = SANE.open("any")
    stored = open_weights(tmp_path / "runs" / "net.pt")
    plain, *masked = (sane.embed_network(weights).vector for weights in (state(), zoo.weights(0), stored))
    assert all(torch.allclose(plain, vector) for vector in masked), "a mask is carried beside the tokens"
    assert np.isfinite(sane.embed(zoo).features).all()


def test_tied_tensors_are_one_whoever_wrote_the_file(tmp_path: Path) -> None:
    module = nn.ModuleDict({"table": nn.Embedding(20, 4), "head": nn.Linear(4, 20, bias=False)})
    module["head"].weight = module["table"].weight
    save_model(module, str(tmp_path / "a.safetensors"))
    torch.save(module.state_dict(), tmp_path / "b.pt")
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "c.safetensors", {"aliases": "not json", "note": "w"})
    one, other = (open_weights(tmp_path / name) for name in ("a.safetensors", "b.pt"))
    assert set(one) == set(other) == {"table.weight", "head.weight"}
    assert list(open_weights(tmp_path / "c.safetensors")) == ["w"]
    found = {checkpoint.path: checkpoint for checkpoint in inspect_folder(tmp_path).checkpoints}
    assert found["a.safetensors"].architecture == found["b.pt"].architecture
    assert found["b.pt"].parameters == found["a.safetensors"].parameters == 80


def test_of_shards_and_a_single_file_the_one_is_read_that_a_loader_reads(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    save_file({"w": torch.ones(2)}, tmp_path / "part.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "part.safetensors"}}))
    stored = open_weights(tmp_path)
    assert stored["w"].tolist() == [0, 0]
    assert stored.remarks == (
        "model.safetensors was read, as transformers reads it, and not model.safetensors.index.json beside it",
    )


def test_quantised_networks_are_not_embedded_by_their_scales() -> None:
    packed = {"q.packed": torch.zeros(64, 64, dtype=torch.uint8), "q.scales": torch.ones(64, 2)}
    with pytest.raises(InputError, match=r"found 4,096 of 4,224 that are not \(q.packed: uint8\).*dequantise them"):
        SANE.open("any").embed_network(packed)


class Tower(nn.Module):
    """A layer, under what reparametrises it."""

    def __init__(self, how: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = how(nn.Linear(3, 4)), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs).relu())


HOW: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda layer: layer,
    "weight norm": weight_norm,
    "weight norm, new": new_weight_norm,
    "spectral norm": spectral_norm,
    "spectral norm, new": new_spectral_norm,
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}


def tower(how: str) -> Tower:
    torch.manual_seed(0)
    return Tower(HOW[how])


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("wanted", HOW)
@pytest.mark.parametrize("stored", HOW)
def test_old_and_new_names_of_one_thing_are_one_network(stored: str, wanted: str, prefix: str) -> None:
    kinds = {how: how.removesuffix(", new") for how in HOW}
    possible = kinds[stored] == kinds[wanted] or wanted == "plain"
    possible |= stored == "plain" and kinds[wanted] in ("weight norm", "pruned")
    module, inputs = tower(stored), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    module.train()(inputs)
    weights = {prefix + name: tensor for name, tensor in module.eval().state_dict().items()}
    architecture = describe_module(f'{__name__}:tower?{{"how": "{wanted}"}}', "5,3")
    if not possible:
        with pytest.raises(InputError, match="expected a network of"):
            fit_weights(weights, architecture)
        return
    target = tower(wanted)
    target.load_state_dict(fit_weights(weights, architecture).weights)
    assert torch.allclose(target.eval()(inputs), module(inputs), atol=1e-6)


def test_a_base_that_was_saved_while_an_adapter_was_on(tmp_path: Path) -> None:
    weights = tower("plain").state_dict()
    saved = {f"base_model.model.{n.replace('first.', 'first.base_layer.')}": t for n, t in weights.items()}
    saved["base_model.model.first.lora_A.default.weight"] = torch.zeros(2, 3)
    saved["base_model.model.first.lora_B.default.weight"] = torch.zeros(4, 2)
    fitted = fit_weights(saved, describe_module(f'{__name__}:tower?{{"how": "plain"}}', "5,3"))
    assert all(torch.equal(fitted.weights[name], tensor) for name, tensor in weights.items())
    assert "this is the base without it, and without its 2 tensors" in " ".join(fitted.notes)


def test_an_untied_twin_is_another_network() -> None:
    tied = describe_module("test_fitting:Tied", "2,5", 13)
    weights = {name: torch.randn(shape) for name, shape in tied.shapes.items()}
    with pytest.raises(
        InputError, match=r"other numbers in head.weight than in table.weight, which are one tensor there"
    ):
        fit_weights(weights, tied)
    weights["head.weight"] = weights["table.weight"].clone()
    assert fit_weights(weights, tied).weights.keys() == weights.keys()


class Small(nn.Module):
    """Two layers, the first with what is between them."""

    def __init__(self, between: str = "relu", wrapped: str = "") -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.between = nn.PReLU() if between == "prelu" else nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.b(self.between(self.a(inputs)))


def wrapped_in_parallel() -> nn.Module:
    return nn.DataParallel(Small())


def half() -> nn.Module:
    return Small().half()


def small(name: str = "Small", **arguments: str) -> Any:
    query = f"?{json.dumps(arguments)}" if arguments else ""
    return describe_module(f"{__name__}:{name}{query}", "2,4")


def test_a_learned_number_of_a_layer_is_no_leftover() -> None:
    with pytest.raises(InputError, match="found between.weight too"):
        fit_weights(Small("prelu").state_dict(), small())
    with pytest.raises(InputError, match="found bias too"):
        fit_weights(nn.Linear(4, 1).state_dict(), describe_module(f"{__name__}:without_bias", "2,4"))


def without_bias() -> nn.Module:
    return nn.Linear(4, 1, bias=False)


def test_8_bit_floats_beside_their_scales_are_not_taken_for_weights() -> None:
    weights = Small().state_dict()
    scale = weights["a.weight"].abs().max() / 448
    weights["a.weight"] = (weights["a.weight"] / scale).to(torch.float8_e4m3fn)
    with pytest.raises(InputError, match="a.weight_scale too; 8-bit floats in a.weight"):
        fit_weights({**weights, "a.weight_scale": scale.reshape(1)}, small())


def test_numbers_that_half_precision_cannot_hold_are_refused() -> None:
    weights = Small().state_dict()
    weights["a.weight"][0, 0] = 1e5
    with pytest.raises(InputError, match=r"numbers that float16 can hold in a.weight, found some up to 1e\+05"):
        fit_weights(weights, Architecture.of_module(half(), id="half", factory="", arguments={}, example_shape=None))
    assert small("half").dtypes == {}, "built in single precision"


@pytest.mark.parametrize("norm", [spectral_norm, new_spectral_norm])
def test_spectral_norm_of_a_square_transposed_convolution_is_folded_along_its_axis(norm: Any) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(norm(nn.ConvTranspose2d(4, 4, 3)))
    for _ in range(30):
        module(torch.randn(1, 4, 5, 5))
    fitted = fit_weights(module.eval().state_dict(), describe_module(f"{__name__}:deconvolution", "1,4,5,5"))
    computed: Any = module[0].weight
    assert torch.allclose(fitted.weights["0.weight"], computed, atol=1e-5)


def deconvolution() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(4, 4, 3))


def test_names_that_only_training_gave_are_no_other_network() -> None:
    weights = Small().state_dict()
    parallel = {name.replace(".", ".module."): tensor for name, tensor in weights.items()}
    average = {f"online_model.{n}": t for n, t in weights.items()} | {
        "initted": torch.tensor(True),
        "step": torch.tensor(3),
    }
    for stored in (parallel, average):
        fitted = fit_weights(stored, small())
        assert all(torch.equal(fitted.weights[name], tensor) for name, tensor in weights.items())
    assert small("wrapped_in_parallel").shapes == small().shapes
    counted = {name: t.float() if "tracked" in name else t for name, t in state().items()}
    assert fit_weights(counted, describe_module(f"{__name__}:net", "2,3,4,4")).weights["1.num_batches_tracked"] == 0


def shards(folder: Path, index: str, weights: dict[str, Tensor], aliases: dict[str, str] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    name = index.replace(".index.json", "").replace(".safetensors", "-1.safetensors")
    save_file(weights, folder / name, aliases)
    listed = dict.fromkeys((*weights, *(aliases or {})), name)
    (folder / index).write_text(json.dumps({"weight_map": listed}))


def test_shards_keep_their_ties_and_variants_are_said(tmp_path: Path) -> None:
    embed = torch.randn(5, 3)
    shards(tmp_path / "tied", "model.safetensors.index.json", {"embed.weight": embed}, {"head.weight": "embed.weight"})
    stored = open_weights(tmp_path / "tied")
    read = stored.read()
    assert stored.aliases == {"head.weight": "embed.weight"} and read["head.weight"] is read["embed.weight"]
    shards(tmp_path / "two", "d.fp16.safetensors.index.json", {"w": torch.ones(2)})
    shards(tmp_path / "two", "d.safetensors.index.json", {"w": torch.zeros(2)})
    stored = open_weights(tmp_path / "two")
    assert stored["w"].tolist() == [0, 0]
    assert stored.remarks == ("d.safetensors.index.json was read, and not d.fp16.safetensors.index.json beside it",)
    (tmp_path / "one").mkdir()
    save_file({"w": torch.zeros(2)}, tmp_path / "one" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "one" / "config.json").write_text("{}")
    assert list(open_weights(tmp_path / "one")) == ["w"]


def test_tensors_of_other_kinds_are_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a.weight": torch.quantize_per_tensor(torch.rand(3, 3), 0.1, 0, torch.qint8)}, tmp_path / "q.pt")
    torch.save({"a.weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, tmp_path / "n.pt")
    for name, message in (("q.pt", "found torch.qint8 in a.weight"), ("n.pt", "expected dense tensors")):
        with pytest.raises(InputError, match=message):
            open_weights(tmp_path / name)
    torch.save(state(), tmp_path / "good.pt")
    status, out, err = run(capsys, "layers", tmp_path)
    assert status == 0 and "1 networks" in out and "left out" in out, err
    status, out, err = run(capsys, "embed", tmp_path, "--out", tmp_path / "e.parquet", "--json")
    assert status == 0 and len(json.loads(out)["left_out"]) == 2, err


def test_archives_of_numpy_as_others_write_them(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"a.weight": np.ones((2, 3), ">f4"), "a.position_index": np.arange(3), "epoch": 3}
    np.savez(tmp_path / "net.npz", **arrays)
    stored = open_weights(tmp_path / "net.npz")
    assert set(stored) == {"a.weight", "a.position_index"} and stored.metadata == {"epoch": 3}
    assert stored["a.weight"].sum() == 6


def test_a_key_reaches_the_files_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        torch.save({"netG": state(number), "netD": state(number + 2)}, tmp_path / f"gan{number}.pt")
    status, out, err = run(capsys, "layers", tmp_path, "--key", "netG")
    assert status == 0 and "2 networks" in out, err
    status, out, err = run(capsys, "embed", tmp_path, "--key", "netG", "--out", tmp_path / "e.parquet", "--json")
    assert status == 0 and json.loads(out)["checkpoints"] == 2, err


def test_files_of_other_kinds_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(state(), tmp_path / "net.pt")
    kinds = {
        "a.onnx": "an ONNX graph",
        "b.gguf": "a GGUF file",
        "c.h5": "an HDF5 file",
        "d.jit": "a TorchScript archive",
    }
    for name in kinds:
        (tmp_path / name).write_bytes(b"not read")
    for words in (("inspect", tmp_path), ("import", tmp_path, "--out", tmp_path.with_suffix(".zoo"))):
        status, out, err = run(capsys, *words)
        assert status == 0, err
        assert all(name in out and kind in out for name, kind in kinds.items()), out


SPREAD_OUT = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}.store", rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
weights = {"a.weight": torch.arange(12.0).reshape(4, 3), "a.bias": torch.ones(4)}
torch.save({name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in weights.items()}, sys.argv[1])
dist.destroy_process_group()
"""


def test_tensors_that_one_process_held_are_read_where_none_is_set_up(tmp_path: Path) -> None:
    path = str(tmp_path / "net.pt")
    subprocess.run([sys.executable, "-c", SPREAD_OUT, path], check=True, capture_output=True)
    code = "import sys, weightspace as ws; print(ws.open_weights(sys.argv[1]).read()['a.weight'].sum().item())"
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "66.0"
