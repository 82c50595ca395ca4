"""Networks layer by layer."""

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tools import run
from weightspace.analysis.layers import (
    Layer,
    fit_line,
    layer_similarity,
    layers_of,
    mean_feature,
    watch_layers,
    watch_network,
)
from weightspace.autoencoder.coding import encode_tokens
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.weights.files import open_weights
from weightspace.weights.values import natural_key
from weightspace.zoo.addressing import known_accuracies, open_networks, short_names
from weightspace.zoo.importing.importing import import_zoo
from weightspace.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def sane(sane_folder: Path) -> SANE:
    return SANE.open(sane_folder)


def resnet(blocks: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(blocks)
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (8, 3, 3, 3),
        **{f"layer{n}.weight": (8, 8, 3, 3) for n in range(blocks)},
    }
    shapes |= {"bn1.weight": (8,), "linear.weight": (10, 8), "linear.bias": (10,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_layers_are_the_matrices_in_order_with_the_spread_of_their_tokens(sane: SANE, zoo: Zoo) -> None:
    weights = zoo.weights(7)
    layers = layers_of(sane, weights)
    assert [layer.name for layer in layers] == [name for name, tensor in weights.items() if tensor.ndim > 1]
    assert layers[0].depth == 0 and layers[-1].depth == 1
    prepared = sane.preparation.prepare(weights)
    summaries = encode_tokens(sane.network, prepared.tokens[None], prepared.frame.layout, summaries=True)[0]
    block = prepared.frame.layout.blocks[0]
    own = summaries[block.first : block.first + block.count]
    assert layers[0].features["spread"] == pytest.approx(float(own.std(0, correction=0).mean()), rel=1e-4)
    assert layers[0].features["size"] == pytest.approx(float(own.mean(0).norm()), rel=1e-4)


def test_layers_of_networks_nobody_knows_stand_in_the_order_of_their_file(sane: SANE, tmp_path: Path) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.rnn, self.attend = nn.Embedding(9, 4), nn.LSTM(4, 5, 2), nn.Linear(5, 3)

    weights = Tagger().state_dict()
    written = [name for name, tensor in weights.items() if tensor.ndim > 1]
    (tmp_path / "runs").mkdir()
    torch.save(weights, tmp_path / "runs" / "net.pt")
    save_file(weights, tmp_path / "net.safetensors")
    layers = {name: layers_of(sane, open_weights(tmp_path / name)) for name in ("runs/net.pt", "net.safetensors")}
    assert [layer.name for layer in layers["runs/net.pt"]] == written
    assert {layer.order for layer in layers["runs/net.pt"]} == {"file"}
    assert [layer.name for layer in layers["net.safetensors"]] == sorted(written, key=natural_key)
    assert {layer.order for layer in layers["net.safetensors"]} == {"names"}
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert [layer.name for layer in layers_of(sane, zoo.weights(0))] == written
    # The numbers do not depend on the file: only what is drawn first does.
    by_name = {layer.name: layer.features["spread"] for layer in layers["net.safetensors"]}
    assert by_name == pytest.approx({layer.name: layer.features["spread"] for layer in layers["runs/net.pt"]})


def test_networks_of_any_depth_have_layers(sane: SANE) -> None:
    deep, shallow = (layers_of(sane, resnet(blocks)) for blocks in (6, 2))
    assert len(deep) == 8 and len(shallow) == 4 and deep[-1].name == "linear.weight"
    similarity = layer_similarity(deep, shallow)
    assert similarity.shape == (8, 4) and np.abs(similarity).max() <= 1 + 1e-9
    np.testing.assert_allclose(np.diag(layer_similarity(deep, deep)), 1, rtol=1e-6)
    with pytest.raises(InputError, match="expected matrices in a network, found none"):
        layers_of(sane, {"scale": torch.randn(4)})


def test_a_line_through_networks() -> None:
    fit = fit_line([1.0, 2.0, 3.0, float("nan")], [0.3, 0.5, 0.7, 0.1])
    assert fit is not None and fit.slope == pytest.approx(0.2) and fit.r2 == pytest.approx(1)
    assert fit_line([1.0, 2.0], [0.3, 0.5]) is None and fit_line([1.0, 1.0, 1.0], [0.3, 0.5, 0.7]) is None
    layers = [Layer("a", 0, "file", {"alpha": 2.0}, np.zeros(2)), Layer("b", 1, "file", {}, np.zeros(2))]
    assert mean_feature(layers, "alpha") == 2 and np.isnan(mean_feature(layers, "spread"))


def test_weightwatcher_values_are_its_own() -> None:
    weightwatcher = pytest.importorskip("weightwatcher")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 32, 3, bias=False), nn.Linear(60, 80, bias=False))
    convolution, head = (network.get_parameter(f"{number}.weight").detach() for number in range(2))
    weights = {"conv.weight": convolution, "head.weight": head}
    found = watch_layers(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about how it makes tables
        expected = weightwatcher.WeightWatcher(model=network, log_level="ERROR").analyze()
    assert list(found) == ["conv.weight", "head.weight"]
    for own, (_, row) in zip(found.values(), expected.iterrows(), strict=True):
        assert own == pytest.approx({name: float(row[name]) for name in own}, rel=1e-5)


def test_weightwatcher_sees_a_few_layers_at_a_time_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("weightwatcher")
    torch.manual_seed(0)
    weights = {f"layers.{number}.weight": torch.randn(60, 80) for number in range(5)}
    at_once: list[int] = []

    def watched(shown: Mapping[str, torch.Tensor]) -> dict[str, dict[str, float]]:
        at_once.append(len(shown))
        return watch_layers(shown)

    monkeypatch.setattr("weightspace.analysis.layers.watch_layers", watched)
    monkeypatch.setattr("weightspace.analysis.layers.NUMBERS_AT_ONCE", 2 * 60 * 80)
    assert watch_network(weights, list(weights)) == watch_layers(weights)
    assert at_once == [2, 2, 1]


def test_weightwatcher_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weightwatcher", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'weightspace\[weightwatcher\]'"):
        watch_layers({"weight": torch.randn(20, 20)})
    assert watch_layers({"bias": torch.randn(20)}) == {}


def test_pretrained_models_of_libraries_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, *, pretrained: bool) -> nn.Module:
        if name != "tiny" or not pretrained:
            raise RuntimeError("unknown model")
        return nn.Linear(3, 2)

    library = ModuleType("timm")
    library.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", library)
    ((name, weights),) = open_networks(["timm:tiny"])
    assert name == "timm:tiny" and weights["weight"].shape == (2, 3)
    with pytest.raises(InputError, match=r"expected a pretrained model of timm, found 'other' \(unknown model\)"):
        list(open_networks(["timm:other"]))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="expected timm to be installed for timm:tiny, found it missing"):
        list(open_networks(["timm:tiny"]))


def test_accuracies_by_name(tmp_path: Path, zoo: Zoo) -> None:
    (tmp_path / "a.safetensors").touch()
    member = f"{zoo.folder}:{zoo.members[0]}"
    names = short_names([str(tmp_path / "a.safetensors"), member])
    assert names[str(tmp_path / "a.safetensors")] == "a"
    (tmp_path / "known.json").write_text(json.dumps({"a": {"test_acc": 91.5}, "b": 3}))
    found = known_accuracies(names, tmp_path / "known.json")
    last = zoo.where(member=zoo.members[0]).last().table["test_accuracy"].iloc[0]
    assert found == {"a": 91.5, names[member]: pytest.approx(float(last))}
    for text in ("[]", "{", '{"a": {"other": 1}}', '{"a": "x"}'):
        (tmp_path / "known.json").write_text(text)
        with pytest.raises(InputError, match="expected accuracies by network as a JSON object"):
            known_accuracies(names, tmp_path / "known.json")
    again = short_names(["x/net.pt", "y/net.pt"])
    assert again == {"x/net.pt": "x/net.pt", "y/net.pt": "y/net.pt"}


def test_layers_on_the_command_line(
    sane_folder: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from weightspace.cli.app import main

    for blocks in (1, 3, 6):
        save_file(resnet(blocks), tmp_path / f"net{blocks}.safetensors")
    (tmp_path / "accuracy.json").write_text(json.dumps({"net1": 0.5, "net3": 0.6, "net6": 0.7}))
    member = f"{zoo.folder}:{zoo.members[0]}"
    words = ["layers", str(sane_folder), *(str(tmp_path / f"net{n}.safetensors") for n in (1, 3, 6)), member]
    plots = ["--out", str(tmp_path / "layers.png"), "--similarity", str(tmp_path / "alike.svg")]
    with pytest.raises(SystemExit) as end:
        main([*words, *plots, "--accuracy", str(tmp_path / "accuracy.json"), "--no-weightwatcher", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and len(found["accuracy"]) == 4 and len(found["layers"]["net6"]) == 8
    assert found["means"]["net1"]["alpha"] is None
    assert (tmp_path / "layers.png").stat().st_size > 10_000 and "<svg" in (tmp_path / "alike.svg").read_text()
    assert SimpleNamespace(**found["layers"]["net1"][0]).name == "conv1.weight"
    for wrong, sentence in (
        (["layers", str(sane_folder), "--out", "x.png"], "expected networks to look into, found none"),
        ([*words[:3], "--out", "x.txt"], "expected a plot as .png, .svg, .pdf"),
        ([*words[:3], "--out", str(tmp_path / "y.png"), "--similarity", "z.png", "--no-weightwatcher"], "two networks"),
    ):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_layers_are_drawn_without_weightwatcher_and_say_so(
    sane_folder: Path, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "weightwatcher", None)
    monkeypatch.setattr("weightspace.analysis.layers.importlib.util.find_spec", lambda name: None)
    torch.save(zoo.weights(0), tmp_path / "net.pt")
    status, out, err = run(capsys, "layers", sane_folder, tmp_path / "net.pt", "--out", tmp_path / "layers.svg")
    assert status == 0 and (tmp_path / "layers.svg").is_file(), err
    assert "without WeightWatcher's values, as it is not installed" in out
