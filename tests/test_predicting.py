"""Predictions with intervals, and when there is none."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from weightspace.analysis.predicting.calibrating import conformal_radius, coverage, fit_predictor
from weightspace.analysis.predicting.predictor import (
    Interval,
    Predictor,
    PropertyModel,
)
from weightspace.analysis.predicting.telling import Predictors, predict_networks
from weightspace.analysis.representations.catalog import side_by_side
from weightspace.analysis.representations.responses import network_responses
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.responses.config import AskConfig
from weightspace.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def sane(sane_folder: Path) -> SANE:
    return SANE.open(sane_folder)


@pytest.fixture(scope="module")
def predictor(sane: SANE, parts: tuple[Zoo, ...]) -> Predictor:
    return fit_predictor(sane, parts, level=0.6)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_intervals_hold_as_often_as_they_say(level: float) -> None:
    generator = np.random.default_rng(0)
    held = []
    for _ in range(400):
        # Members differ in how hard they are, and have 1 to 6 checkpoints that share their difficulty.
        hard, counts = generator.lognormal(size=21), generator.integers(1, 7, size=21)
        errors = [np.abs(generator.normal(size=count)) * own for count, own in zip(counts, hard, strict=True)]
        owners = np.repeat(np.arange(20), counts[:20])
        radius = conformal_radius(np.concatenate(errors[:20]), owners, level)
        held.append(np.mean(errors[20] <= radius))
    assert level - 0.04 < np.mean(held) < level + 0.12


def test_a_radius_is_a_quantile_over_members() -> None:
    errors = np.arange(1.0, 10.0)
    assert conformal_radius(errors, np.arange(9), 0.9) == 9 and conformal_radius(errors, np.arange(9), 0.5) == 5
    assert conformal_radius(errors[:8], np.arange(8), 0.9) == np.inf
    # A member with many checkpoints counts as one.
    many = np.concatenate([np.full(100, 50.0), errors])
    owners = np.concatenate([np.full(100, 99), np.arange(9)])
    assert conformal_radius(many, owners, 0.8) == 9
    assert coverage(many, owners, 9.0) == 0.9


def test_intervals_stop_at_what_is_possible() -> None:
    own = PropertyModel("test_accuracy", 0.5, 2.0, 0.1, 0.0, 1.0, 0.9, 0.9)
    assert own.interval(0.95, 0.1) == Interval(0.95, 0.75, 1.0)
    assert str(own.interval(0.5, 0.05)) == "0.50 [0.40, 0.60]"
    few = replace(own, factor=np.inf).interval(0.95, 0.1)
    assert str(few) == "0.95 (too few members were held out for an interval)"


def test_a_predictor_comes_back_from_its_folder(predictor: Predictor, tmp_path: Path, sane: SANE, zoo: Zoo) -> None:
    predictor.save(tmp_path)
    again = Predictor.open(tmp_path)
    features = sane.embed(zoo, predictor.aggregation).features
    for first, second in zip(predictor.predict_many(features), again.predict_many(features), strict=True):
        assert first.reason == second.reason and first.outlier_factor == pytest.approx(second.outlier_factor, rel=1e-4)
        for name, interval in first.intervals.items():
            assert tuple(interval) == pytest.approx(tuple(second.intervals[name]), rel=1e-4, abs=1e-6)
    assert [own.target for own in again.properties] == ["test_accuracy", "epoch", "generalization_gap"]


def test_one_network_is_predicted_as_in_its_zoo(predictor: Predictor, sane: SANE, parts: tuple[Zoo, ...]) -> None:
    last = parts[2].last()
    (whole, *_) = predictor.predict_many(sane.embed(last, predictor.aggregation).features)
    alone = predictor.predict(sane, last.weights(0))
    assert alone.outlier_factor == pytest.approx(whole.outlier_factor, rel=1e-3)


def test_networks_unlike_the_zoo_are_not_predicted(predictor: Predictor, sane: SANE, zoo: Zoo) -> None:
    other = predictor.predict(sane, {"layer.weight": torch.randn(5, 7)})
    assert other.reason == "no network of its shapes and types was in the zoo" and not other.intervals
    wild = {name: 50 * torch.randn(tensor.shape) for name, tensor in zoo.weights(0).items()}
    found = predictor.predict(sane, wild)
    huge = {name: 1e30 * tensor for name, tensor in zoo.weights(0).items()}
    with pytest.raises(InputError, match="expected weights of ordinary size"):
        predictor.predict(sane, huge)
    assert found.outlier_factor > 1 and str(found).startswith("this network is unlike the zoo: no prediction (")


def test_what_cannot_be_fitted_is_refused(sane: SANE, parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"validation and test members that the SANE was not trained on, found \d"):
        fit_predictor(sane, (parts[1], parts[0], parts[2]))
    with pytest.raises(InputError, match="expected a property that varies among beauty, found none"):
        fit_predictor(sane, parts, ["beauty"])
    with pytest.raises(InputError, match=r"expected a predictor \(predictor.json, .*`weightspace card SANE ZOO`"):
        Predictor.open(tmp_path)
    (tmp_path / "predictor.json").write_text("{}")
    with pytest.raises(InputError, match="found none"):
        Predictor.open(tmp_path)


def test_predict_on_the_command_line(
    predictor: Predictor, sane: SANE, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from weightspace.cli.app import main

    folder = tmp_path / "sane"
    folder.mkdir()
    sane.save(folder)
    predictor.save(folder)
    save_file(zoo.weights(4), tmp_path / "own.safetensors")
    save_file({"other": torch.randn(3, 4)}, tmp_path / "other.safetensors")
    names = [str(tmp_path / name) for name in ("own.safetensors", "other.safetensors")]
    with pytest.raises(SystemExit) as end:
        main(["predict", str(folder), *names, "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["level"] == 0.6 and found["networks"][names[1]]["intervals"] == {}
    with pytest.raises(SystemExit) as end:
        main(["predict", str(folder), f"{zoo.folder}:{zoo.members[0]}"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "unlike the zoo" in out and "Intervals" not in out
    with pytest.raises(SystemExit) as end:
        main(["predict", str(folder), names[0]])
    out = capsys.readouterr().out
    assert end.value.code == 0 and ("Intervals are for 60% of networks; on" in out) == ("unlike" not in out)
    for words, sentence in (
        (["predict", str(folder)], "expected a trained SANE and networks to predict properties of, found"),
        (["predict", str(folder), "nowhere"], "expected a file of weights or ZOO:MEMBER, found 'nowhere'"),
        (["predict", str(zoo.folder), names[0]], "expected a trained SANE"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_networks_that_can_be_run_are_asked_and_it_is_said(sane: SANE, parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    folder, network = tmp_path / "sane", tmp_path / "own.safetensors"
    folder.mkdir()
    sane.save(folder)
    for ask in (None, AskConfig(inputs=16)):
        fit_predictor(sane, parts, level=0.6, ask=ask).save(folder)
    asking, alone = Predictor.open(folder, asking=True), Predictor.open(folder)
    assert asking.ask == AskConfig(inputs=16) and alone.ask is None
    assert asking.slopes.shape[1] > alone.slopes.shape[1]
    last = parts[2].last()
    save_file(last.weights(0), network)
    name = str(last.table["architecture"].iloc[0])
    given = [replace(last.architectures[name], trusted=True)]
    embedded = side_by_side(sane.embed(last, "readout"), network_responses([last], asking.ask)[0])
    (whole, *_) = asking.predict_many(embedded.features)
    told = predict_networks(folder, [str(network)], given=given)
    assert next(told.networks)[1].outlier_factor == pytest.approx(whole.outlier_factor, rel=1e-3)
    assert told.closing([whole])[-1].endswith("asked with 16 noise inputs: 32 forward passes.") and not told.not_asked


def test_what_a_network_computes_is_not_guessed(sane: SANE, parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    """Two activations leave the same names and shapes: without a word it is told by weights alone, and that is said."""
    sane.save(tmp_path)
    for ask in (None, AskConfig(inputs=16)):
        fit_predictor(sane, parts, level=0.6, ask=ask).save(tmp_path)
    save_file(parts[2].weights(0), tmp_path / "own.safetensors")
    told = predict_networks(tmp_path, [str(tmp_path / "own.safetensors")])
    ((_, prediction),) = told.networks
    assert prediction == Predictor.open(tmp_path).predict(sane, parts[2].weights(0))
    assert "2 architectures with its names and shapes" in told.closing([prediction])[-1]
    strangers = {name: replace(own, factory=None) for name, own in sane.preparation.architectures.items()}
    nameless = replace(sane, preparation=replace(sane.preparation, architectures=strangers))
    (first, *_) = parts[2].weights(0), None
    assert Predictors.open(tmp_path).choose(nameless, first)[0].ask is None
