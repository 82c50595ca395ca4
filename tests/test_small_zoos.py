"""Three to eleven networks are what most people have."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from tools import refused, run
from weightspace.errors import InputError
from weightspace.zoo.importing.importing import import_zoo
from weightspace.zoo.splitting import FEW, leave_one_out, split_any
from weightspace.zoo.zoo import Zoo

SHARES = (0.7, 0.15, 0.15)


def small_zoo(folder: Path, members: int) -> Zoo:
    """Networks with an accuracy, a category, and nothing called validation."""
    (folder / "runs").mkdir(parents=True)
    rows = []
    for number in range(members):
        torch.manual_seed(number)
        last = nn.Linear(6, 3)
        module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), last)
        with torch.no_grad():
            last.weight.mul_(1 + number)  # so that something can be read
        torch.save(module.state_dict(), folder / "runs" / f"net{number}.pt")
        rows.append(
            {"file": f"net{number}.pt", "accuracy": 0.5 + 0.04 * number, "kind": ["low", "high"][2 * number >= members]}
        )
    pd.DataFrame(rows).to_csv(folder / "runs" / "results.csv", index=False)
    return import_zoo(folder / "runs", folder / "zoo")


@pytest.mark.parametrize("members", range(2, FEW))
def test_small_zoos_are_split_by_rank(members: int, tmp_path: Path) -> None:
    zoo = small_zoo(tmp_path, members)
    for fold in range(members):
        split = split_any(zoo, SHARES, seed=1, fold=fold)
        train, validation, test = (set(part.members) for part in split.parts)
        assert train and test and not train & test and not validation & (train | test)
        assert train | validation | test == set(zoo.members)
        assert bool(validation) or "none validate" in split.note
    tested = [part[2].members for part in leave_one_out(zoo, seed=1)]
    assert sorted(member for one in tested for member in one) == sorted(zoo.members)


def test_one_network_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least 2 networks of different trainings to split, found 1"):
        split_any(small_zoo(tmp_path, 1), SHARES, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("members", [3, 5, 8, 11])
def test_every_command_takes_a_small_zoo(members: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo, sane = small_zoo(tmp_path, members).folder, tmp_path / "sane"
    network = tmp_path / "runs" / "net0.pt"
    training = ("--steps", 4, "--window", 8, "--model-width", 16, "--heads", 2, "--layers", 1, "--latent-width", 8)
    status, out, err = run(capsys, "pretrain", zoo, "--out", sane, *training)
    assert status == 0, err
    if members < 6:
        assert f"{members} trainings are few: {members - 1} train, none validate, 1 test" in out
    status, out, err = run(capsys, "probe", zoo, "--targets", "accuracy")
    assert status == 0 and "each is left out once, and nothing validates" in out, err
    assert f"tested on {members} of {members} members" in out
    status, out, err = run(capsys, "generate", sane, "--anchors", zoo, "--count", 2, "--out", tmp_path / "new")
    assert status == 0, err
    assert "no validation_accuracy in the zoo: anchors are the best by accuracy" in out
    assert "--best 20 asks for more members than there are" in out
    if members < 5:  # two members are no population to predict from
        assert "expected a predictor" in refused(capsys, "predict", sane, network)
        return
    status, out, err = run(capsys, "predict", sane, network)
    assert status == 0, err
    assert "accuracy 0." in out and "kind low" in out
    assert "too few members were held out for an interval" in out and "members calibrate, and 9 are needed" in out
    assert "100%" not in out
    status, out, _ = run(capsys, "predict", sane, network, "--json")
    told = next(iter(json.loads(out)["networks"].values()))
    assert told["categories"]["kind"]["value"] == "low" and set(told["categories"]["kind"]["possible"]) == {
        "low",
        "high",
    }
    status, out, err = run(capsys, "card", sane, zoo, "--targets", "kind")
    assert status == 0, err
    numbers = json.loads((sane / "card.json").read_text())["predicting"]["rows"]
    assert {row["name"] for row in numbers} == {"kind low", "kind high"}
    assert all(row["coverage"] is None or not math.isnan(row["coverage"]) for row in numbers)


def test_a_sane_that_has_seen_all_but_one_member_cannot_be_probed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo, sane = small_zoo(tmp_path, 4).folder, tmp_path / "sane"
    assert run(capsys, "pretrain", zoo, "--out", sane, "--steps", 2, "--window", 8)[0] == 0
    said = refused(capsys, "probe", zoo, "--sane", sane, "--targets", "accuracy")
    assert "the SANE was trained on all other members; without --sane each is left out once" in said
