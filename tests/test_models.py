"""The models that come with the package: small, whole, found by name, and honest about what they are."""

import json
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.analysis.predicting.predictor import Predictor
from weightspace.autoencoder.sane import BOX, boxed_models, leading_model, model_folder
from weightspace.cli.app import main
from weightspace.zoo.growing.networks import cnn_s, mlp, resnet18


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_both_open_by_name_and_have_a_card() -> None:
    assert boxed_models() == ["any", "small-cnns"]
    for name in boxed_models():
        sane = ws.SANE.open(name)
        assert sane.provenance.checkpoints > 1_000
        card = (BOX / name / "README.md").read_text()
        assert "## What its embeddings are good for" in card and "weightspace pretrain ZOOS/" in card
    assert ws.Predictor.open("small-cnns").properties


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in BOX.rglob("*") if path.is_file()) < 6_000_000


def test_a_folder_of_that_name_goes_before_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder("any") == BOX / "any"
    monkeypatch.chdir(tmp_path)
    Path("any").mkdir()
    assert model_folder("any") == Path("any")


def test_the_model_stands_first_or_is_the_one_for_any_network(sane_folder: Path) -> None:
    assert leading_model([str(sane_folder), "a.pt"]) == (sane_folder, ["a.pt"])
    assert leading_model(["small-cnns", "a.pt"]) == (BOX / "small-cnns", ["a.pt"])
    assert leading_model(["a.pt", "b.pt"]) == (BOX / "any", ["a.pt", "b.pt"])


def test_commands_read_networks_that_nobody_trained_a_model_for(
    tmp_path: Path, zoo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, module in enumerate((mlp([12, 7, 3]), cnn_s())):
        torch.save(module.state_dict(), tmp_path / f"{number}.pt")
    first, second = tmp_path / "0.pt", tmp_path / "1.pt"
    embedded = json.loads(run(capsys, "embed", first, second, "--out", tmp_path / "e.parquet", "--json"))
    assert embedded["checkpoints"] == 2 and embedded["width"] == 32
    assert "2 networks" in run(capsys, "layers", first, second, "--no-weightwatcher")
    assert "member" in run(capsys, "similar", zoo_folder, first, "-k", 2)
    assert "What SANE says" in run(capsys, "inspect", tmp_path, "--sane", "any")
    assert "test accuracy" in run(capsys, "predict", "small-cnns", second)


def test_a_network_unlike_the_small_cnns_gets_no_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(mlp([12, 7, 3]).state_dict(), tmp_path / "net.pt")
    assert "unlike the zoo" in run(capsys, "predict", "small-cnns", tmp_path / "net.pt")


def test_similar_wants_a_zoo_and_a_network(zoo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["similar", str(zoo_folder)])
    assert end.value.code == 2
    assert "expected a zoo and a network, found" in capsys.readouterr().err


def test_the_doctor_says_what_would_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--device auto takes" in run(capsys, "doctor")
    told = json.loads(run(capsys, "doctor", "--json"))
    assert set(told) == {"versions", "processors", "threads", "device", "half_precision", "extras"}


def test_a_broken_file_among_others_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(mlp([12, 7, 3]).state_dict(), tmp_path / "whole.pt")
    torch.save({"weight": torch.full((3, 3), torch.nan)}, tmp_path / "broken.pt")
    said = run(capsys, "embed", tmp_path / "whole.pt", tmp_path / "broken.pt", "--out", tmp_path / "e.parquet")
    assert "1 embeddings of width 32" in said
    assert "left out: " in said and "broken.pt: expected finite weights" in said
    with pytest.raises(SystemExit) as end:
        main(["embed", str(tmp_path / "broken.pt"), "--out", str(tmp_path / "f.parquet")])
    assert end.value.code == 2 and "expected finite weights" in capsys.readouterr().err


def test_what_comes_with_the_package_is_never_written_to(
    zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(cnn_s().state_dict(), tmp_path / "net.pt")
    before = {path: path.read_bytes() for path in BOX.rglob("*") if path.is_file()}
    for words, message in (
        (("card", "any", zoo_folder), "expected a model of your own, found any"),
        (("predict", "any", tmp_path / "net.pt"), "found any, which has none: small-cnns has one"),
        (("embed", tmp_path / "net.pt", "--out", tmp_path / "e.csv"), "expected --out to end in .parquet"),
    ):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        assert end.value.code == 2 and message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in BOX.rglob("*") if path.is_file()} == before


def test_a_predictor_refuses_layouts_that_it_was_not_fitted_on() -> None:
    sane, predictor = ws.SANE.open("any"), Predictor.open(BOX / "small-cnns")
    assert "no network of its shapes" in predictor.predict(sane, resnet18(width=8).state_dict()).reason
