"""What files hold: other people's wrappers, names and leftovers, and the same answer from every command."""

import argparse
import json
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
from weightspace.zoo.fitting import fit_weights
from weightspace.zoo.importing.importing import import_zoo

# Old files are the point.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
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
