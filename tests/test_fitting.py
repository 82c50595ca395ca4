"""Other people's files of a network that somebody vouches for: the same network, or one sentence that says why not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tools import run
from weightspace.corpus.frame import describe_module
from weightspace.errors import InputError
from weightspace.weights.files import open_weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights
from weightspace.zoo.importing.importing import import_zoo


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.norm(self.first(inputs)).relu().mean((2, 3)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(13, 8), nn.Linear(8, 8), nn.Linear(8, 13, bias=False)
        self.head.weight = self.table.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.inner(self.table(inputs)).relu())


@pytest.fixture(scope="module")
def normed() -> Architecture:
    return describe_module("test_fitting:Normed", "2,3,8,8", 0)


CHANGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "as it is": lambda weights: weights,
    "wrapped": lambda weights: {f"model.net.{name}": tensor for name, tensor in weights.items()},
    "without counters": lambda weights: {name: tensor for name, tensor in weights.items() if "tracked" not in name},
    "in half precision": lambda weights: {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    },
    "in another order": lambda weights: dict(reversed(weights.items())),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_of_one_network_are_one_network(change: str, normed: Architecture) -> None:
    module = Normed()
    fitted = fit_weights(CHANGES[change](module.state_dict()), normed)
    assert list(fitted.weights) == list(normed.shapes) and len(fitted.notes) == (change in list(CHANGES)[1:4])
    other = Normed()
    other.load_state_dict(dict(fitted.weights))
    tolerance = 1e-3 if "half" in change else 0.0
    assert all(
        torch.allclose(tensor.double(), module.state_dict()[name].double(), atol=tolerance)
        for name, tensor in other.state_dict().items()
        if "tracked" not in name
    )


@pytest.mark.parametrize("kept", ["table.weight", "head.weight"])
def test_a_tied_tensor_may_be_saved_once(kept: str) -> None:
    architecture = describe_module("test_fitting:Tied", "2,5", 13)
    weights = {
        name: tensor for name, tensor in Tied().state_dict().items() if name not in {"table.weight", "head.weight"}
    }
    fitted = fit_weights({**weights, kept: torch.ones(13, 8)}, architecture)
    assert torch.equal(fitted.weights["table.weight"], fitted.weights["head.weight"])


def test_another_network_is_refused_in_one_sentence(normed: Architecture) -> None:
    weights = Normed().state_dict()
    weights["second.weight"], weights["extra"] = torch.zeros(3, 8), torch.zeros(2)
    del weights["first.bias"]
    expected = r"no first.bias; extra too; second.weight of shape \[3, 8\], not \[2, 8\]"
    with pytest.raises(InputError, match=f"expected a network of test_fitting.Normed, found {expected}"):
        fit_weights(weights, normed)


def test_what_is_no_weight_of_the_module_is_left_aside_and_named(normed: Architecture) -> None:
    beside = {"positions": torch.arange(9), "loss_scale": torch.tensor([2.0])}
    fitted = fit_weights({**Normed().state_dict(), **beside}, normed)
    assert fitted.weights.keys() == normed.shapes.keys()
    assert fitted.notes == (
        "positions, loss_scale were left aside: test_fitting.Normed has no such buffers or single numbers",
    )


def test_an_import_says_what_does_not_fit(normed: Architecture, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    torch.save(CHANGES["wrapped"](Normed().state_dict()), tmp_path / "runs" / "good.pt")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "runs" / "other.pt")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo", architectures=[normed])
    assert len(zoo) == 2 and "test_fitting.Normed" in zoo.architectures
    notes = zoo.about["imported"]["notes"]
    assert any(note.startswith("expected a network of test_fitting.Normed, found no first.weight") for note in notes)
    assert notes["the prefix 'model.net.' was dropped from all names"] == 1


def test_align_takes_files_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("wrapped", "without counters"):
        torch.save(CHANGES[name](Normed().state_dict()), tmp_path / f"{name}.pt")
    words = ("align", tmp_path / "wrapped.pt", tmp_path / "without counters.pt", "--out", tmp_path / "out.safetensors")
    status, said, _ = run(capsys, *words, "--architecture", "test_fitting:Normed", "--example", "2,3,8,8")
    assert (
        status == 0
        and "units moved" in said
        and set(open_weights(tmp_path / "out.safetensors")) == set(Normed().state_dict())
    )


# --- Files ------------------------------------------------------------------------------------------------------------


def test_numbers_of_numpy_beside_the_weights_are_read(tmp_path: Path) -> None:
    beside = {
        "best": np.float64(0.83),
        "small": np.float32(0.5),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "epoch": 7,
    }
    torch.save({"model": nn.Linear(3, 4).state_dict(), **beside}, tmp_path / "a.pt")
    assert open_weights(tmp_path / "a.pt").metadata == {
        "best": 0.83,
        "small": 0.5,
        "count": 3,
        "flag": True,
        "epoch": 7,
    }


def test_another_state_dict_in_a_file_is_named(tmp_path: Path) -> None:
    weights = nn.Linear(3, 4).state_dict()
    average = {f"module.{name}": tensor + 1 for name, tensor in weights.items()}
    (tmp_path / "runs").mkdir()
    held = {
        "state_dict": weights,
        "state_dict_ema": {**average, "steps": 3},
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(held, tmp_path / "runs" / "a.pth")
    assert open_weights(tmp_path / "runs" / "a.pth").others == ("state_dict_ema",)
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert "another state dict, 'state_dict_ema', is in the file and was not read" in zoo.about["imported"]["notes"]


def test_an_index_of_any_name_makes_shards_one_network(tmp_path: Path) -> None:
    folder = tmp_path / "pipe" / "unet"
    folder.mkdir(parents=True)
    weights = {f"{part}.{name}": tensor for part in "ab" for name, tensor in nn.Linear(3, 4).state_dict().items()}
    files = {name: f"diffusion_pytorch_model-0000{1 + name.startswith('b')}-of-00002.safetensors" for name in weights}
    for file in set(files.values()):
        save_file({name: weights[name] for name in weights if files[name] == file}, folder / file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert set(open_weights(folder)) == set(weights)
    assert len(import_zoo(tmp_path / "pipe", tmp_path / "zoo")) == 1


def test_one_file_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model.pt", "model.pth.tar"):
        torch.save({"state_dict": nn.Linear(3, 4).state_dict()}, tmp_path / name)
        status, said, _ = run(capsys, "inspect", tmp_path / name)
        assert status == 0 and "1 checkpoint," in said
        assert len(import_zoo(tmp_path / name, tmp_path / f"zoo-{name}")) == 1
