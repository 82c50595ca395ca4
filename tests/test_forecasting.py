"""The end of a training from its beginning: planted ends, refusals, and the command line end to end."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from tools import run
from weightspace.analysis.config import ForecastConfig
from weightspace.analysis.forecasting import (
    ASKED,
    SO_FAR,
    WEIGHTS,
    Beginnings,
    begin,
    fit_forecaster,
    forecast,
    forecast_files,
    forecast_member,
    represent_checkpoints,
    shared_epochs,
)
from weightspace.errors import InputError
from weightspace.zoo.zoo import Zoo

CONFIG = ForecastConfig(split=(0.5, 0.25, 0.25), level=0.8)


def planted(members: int, seed: int, noise: float = 0.0) -> Beginnings:
    """Two representations, of which the second tells the end and the first does not."""
    generator = np.random.default_rng(seed)
    telling = generator.normal(size=(members, 3))
    ends = telling[:, 0] + noise * generator.normal(size=members)
    return Beginnings([generator.normal(size=(members, 4)), telling], ends, np.arange(members) + 1_000 * seed)


def test_what_tells_is_found_and_intervals_hold_as_often_as_they_say() -> None:
    train, calibration, test = planted(200, 1, 0.3), planted(100, 2, 0.3), planted(400, 3, 0.3)
    forecaster = fit_forecaster(train, calibration, "linear", 0.9)
    errors = np.abs(forecaster.predict(test) - test.ends)
    assert 0.85 < (errors <= forecaster.radius).mean() < 0.96
    assert np.corrcoef(forecaster.predict(test), test.ends)[0, 1] > 0.9
    assert forecaster.mixture.coef_[1] > 0.8 > 0.2 > forecaster.mixture.coef_[0] >= 0


def test_a_row_for_every_number_of_checkpoints_and_every_representation(zoo: Zoo) -> None:
    rows = forecast(zoo, CONFIG)
    labels = [SO_FAR, WEIGHTS, ASKED, f"{WEIGHTS} + {ASKED}", f"{SO_FAR} + {ASKED}"]
    assert [(row.seen, row.epoch, row.representation) for row in rows] == [
        (seen, seen - 1, label) for seen in (1, 2) for label in labels
    ]
    for row in rows:
        assert row.members == len(zoo.members) and row.r2_low <= row.r2 <= row.r2_high
        assert (row.over_obvious is None) == (row.representation == SO_FAR)
        assert 0 <= row.coverage <= 1 and row.width > 0


def test_nothing_of_the_end_is_read(zoo: Zoo) -> None:
    """The last checkpoint, and all accuracies from the end on, may be anything."""
    known = represent_checkpoints(zoo, CONFIG, None)
    last = (zoo.table["epoch"] == 2).to_numpy()
    for embeddings in known.values():
        spoilt = replace(embeddings, features=np.where(last[:, None], np.nan, embeddings.features))
        first, second = (begin([own], [0, 1], 2, "test_accuracy") for own in (embeddings, spoilt))
        np.testing.assert_array_equal(first.features[0], second.features[0])


def test_too_few_members_for_an_interval_are_told_of(zoo: Zoo) -> None:
    rows = forecast(zoo, replace(CONFIG, level=0.95))
    assert all(math.isnan(row.coverage) and math.isnan(row.width) for row in rows)


def test_the_accuracy_so_far_and_responses_are_left_out_where_nobody_knows_them(zoo: Zoo) -> None:
    unknown = zoo.table.assign(validation_accuracy=np.nan)
    strangers = {name: replace(own, factory=None) for name, own in zoo.architectures.items()}
    rows = forecast(replace(zoo, table=unknown, architectures=strangers), CONFIG)
    assert {row.representation for row in rows} == {WEIGHTS}
    assert all(row.over_obvious is None for row in rows)


def test_what_cannot_be_forecast_is_refused(zoo: Zoo) -> None:
    with pytest.raises(InputError, match="expected at least 2 epochs that every member has a checkpoint of, found 1"):
        shared_epochs(zoo.where(lambda table: table["epoch"] == 2))
    with pytest.raises(InputError, match="expected a property among .*, found color"):
        forecast(zoo, ForecastConfig(target="color"))
    with pytest.raises(InputError, match="expected checkpoints of some of the epochs 0, 1, found 3 of 0, 1, 2"):
        forecast_member(zoo, [zoo.weights(0)] * 3, CONFIG)
    with pytest.raises(InputError, match="expected checkpoints of some of the epochs 0, 1, found 1 of 7"):
        forecast_member(zoo, [zoo.weights(0)], CONFIG, epochs=[7])
    with pytest.raises(InputError, match="expected level to be between 0.5 and 0.99, found 2"):
        ForecastConfig(level=2.0)


def test_on_the_command_line(zoo: Zoo, zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    member = zoo.members[0]
    files = []
    for epoch in (0, 1):
        (row,) = np.flatnonzero(((zoo.table["member"] == member) & (zoo.table["epoch"] == epoch)).to_numpy())
        files.append(tmp_path / f"epoch-{epoch}.safetensors")
        save_file(zoo.weights(int(row)), files[-1])
    shares = ("--split", "0.5", "0.25", "0.25", "--level", "0.8")
    _, said, _ = run(capsys, "forecast", zoo_folder, *files, *shares)
    assert "test accuracy at epoch 2: 0." in said and "read s(W) of epochs 0, 1" in said
    assert "told by weights alone: expected to know what a network computes to ask it, found 2 architectures" in said
    alike = zoo.where(lambda table: table["architecture"] == table["architecture"].iloc[0])
    told = forecast_files(alike, list(map(str, files)), replace(CONFIG, split=(0.4, 0.3, 0.3)))
    assert str(told).endswith("read s(W) + r(W) of epochs 0, 1") and not told.not_asked
    told = json.loads(run(capsys, "forecast", zoo_folder, files[1], "--epochs", "1", *shares, "--json")[1])
    interval = told["interval"]
    assert interval["low"] < interval["value"] < interval["high"] and told["epochs"] == [1] and told["last"] == 2
    _, table, _ = run(capsys, "forecast", zoo_folder, *shares)
    assert "Last test accuracy: R² by what was seen" in table and "accuracy so far + r(W)" in table
    rows = json.loads(run(capsys, "forecast", zoo_folder, *shares, "--json")[1])
    assert len(rows) == 10 and {row["seen"] for row in rows} == {1, 2}
