"""Which row of a table belongs to which file: by evidence, or not at all."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from weightspace.errors import InputError
from weightspace.zoo.importing.config import ImportConfig
from weightspace.zoo.importing.importing import import_zoo
from weightspace.zoo.importing.properties import plain
from weightspace.zoo.zoo import Zoo

PATTERN = ImportConfig(pattern="{member}/epoch-{epoch:d}.pt")


def networks(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(nn.Linear(3, 2).state_dict(), folder / name)
    return folder


def notes(zoo: Zoo) -> str:
    return "; ".join(zoo.about["imported"]["notes"])


def accuracies(zoo: Zoo) -> dict[str, float]:
    column = zoo.table.get("accuracy", pd.Series(float("nan"), index=zoo.table.index))
    return {name: value for name, value in zip(zoo.table["member"], column, strict=True) if value == value}


def test_a_separator_at_the_end_of_lines_moves_no_column(tmp_path: Path) -> None:
    networks(tmp_path / "in", "a.pt", "b.pt")
    (tmp_path / "in" / "r.csv").write_text("run,file,accuracy,loss\nr0,a.pt,0.9,3.5,\nr1,b.pt,0.8,4.5,\n")
    zoo = import_zoo(tmp_path / "in", tmp_path / "zoo")
    assert accuracies(zoo) == {"a": 0.9, "b": 0.8} and list(zoo.table["loss"]) == [3.5, 4.5]
    (tmp_path / "in" / "r.csv").write_text("file,accuracy\na.pt,0.9,3.5\n")
    with pytest.raises(InputError, match="line 2 has more values than the head has names"):
        import_zoo(tmp_path / "in", tmp_path / "other", ImportConfig(table="r.csv"))


def test_folders_that_contradict_each_other_are_no_match(tmp_path: Path) -> None:
    networks(tmp_path / "in", "lr0.1/seed1.pt", "lr0.01/seed2.pt")
    (tmp_path / "in" / "r.csv").write_text(
        "file,accuracy\nlr0.1/seed1.pt,0.5\nlr0.1/seed2.pt,0.7\nruns/lr0.01/seed3,1\n"
    )
    assert accuracies(import_zoo(tmp_path / "in", tmp_path / "zoo", ImportConfig(by="file"))) == {"lr0.1/seed1": 0.5}


@pytest.mark.parametrize(
    "text",
    [
        "name,init,accuracy\nfinetune one,a.pt,0.9\nfinetune two,scratch,0.8\n",  # what it began with, not what it is
        ",model,accuracy\n3,x,0.1\n1,y,0.2\n0,z,0.3\n",  # row numbers in another order
        "epoch,accuracy\n0,0.1\n1,0.2\n2,0.3\n",  # a log
    ],
)
def test_what_hits_by_chance_names_nothing(text: str, tmp_path: Path) -> None:
    networks(tmp_path / "in", "a.pt", "0.pt", "1.pt")
    (tmp_path / "in" / "r.csv").write_text(text)
    zoo = import_zoo(tmp_path / "in", tmp_path / "zoo")
    assert accuracies(zoo) == {} and "r.csv was not used" in notes(zoo)


def test_rows_of_epochs_are_asked_about_where_two_columns_fit(tmp_path: Path) -> None:
    networks(tmp_path / "in", *(f"{member}/epoch-1.pt" for member in (1, 2, 3)))
    (tmp_path / "in" / "r.csv").write_text("layers,run,epoch,accuracy\n2,1,1,0.1\n3,2,1,0.2\n1,3,1,0.3\n")
    with pytest.raises(InputError, match="layers and run fit equally well"):
        import_zoo(tmp_path / "in", tmp_path / "zoo", PATTERN)
    by = ImportConfig(pattern=PATTERN.pattern, by="run")
    assert accuracies(import_zoo(tmp_path / "in", tmp_path / "zoo", by)) == {"1": 0.1, "2": 0.2, "3": 0.3}


@pytest.mark.parametrize("shift", [-1, 1])
def test_epochs_that_are_one_apart_are_used_by_nobody(shift: int, tmp_path: Path) -> None:
    networks(tmp_path / "in", *(f"a/epoch-{epoch}.pt" for epoch in (1, 2, 3)))
    rows = "\n".join(f"a,{epoch + shift},0.{epoch}" for epoch in (1, 2, 3))
    (tmp_path / "in" / "r.csv").write_text(f"run,epoch,accuracy\n{rows}\n")
    zoo = import_zoo(tmp_path / "in", tmp_path / "zoo", PATTERN)
    assert accuracies(zoo) == {} and "one apart" in notes(zoo)


def test_members_that_lost_their_zeros_are_found(tmp_path: Path) -> None:
    networks(tmp_path / "in", "00/epoch-1.pt", "01/epoch-1.pt")
    pd.DataFrame({"run": [0, 1], "epoch": [1, 1], "accuracy": [0.1, 0.2]}).to_parquet(tmp_path / "in" / "r.parquet")
    assert accuracies(import_zoo(tmp_path / "in", tmp_path / "zoo", PATTERN)) == {"00": 0.1, "01": 0.2}


def test_tables_as_pandas_writes_them(tmp_path: Path) -> None:
    networks(tmp_path / "in", "a.pt", "b.pt")
    table = pd.DataFrame({"file": ["a.pt", "b.pt"], "accuracy": [0.1, 0.2], "when": pd.to_datetime(["2020-01-01"] * 2)})
    (tmp_path / "t.json").write_text(json.dumps(json.loads(table.drop(columns="when").to_json())))
    assert accuracies(import_zoo(tmp_path / "in", tmp_path / "json", ImportConfig(table=str(tmp_path / "t.json")))) == {
        "a": 0.1,
        "b": 0.2,
    }
    table.set_index("file").to_parquet(tmp_path / "t.parquet")
    zoo = import_zoo(tmp_path / "in", tmp_path / "parquet", ImportConfig(table=str(tmp_path / "t.parquet")))
    assert accuracies(zoo) == {"a": 0.1, "b": 0.2} and str(zoo.table["when"].iloc[0]).startswith("2020")
    table.drop(columns="when").to_csv(tmp_path / "t.csv", index=False, sep=";")
    zoo = import_zoo(tmp_path / "in", tmp_path / "csv", ImportConfig(table=str(tmp_path / "t.csv")))
    assert accuracies(zoo) == {"a": 0.1, "b": 0.2}


def test_signs_of_percent_beside_numbers_of_percent(tmp_path: Path) -> None:
    networks(tmp_path / "in", "a.pt", "b.pt", "c.pt")
    (tmp_path / "in" / "r.csv").write_text("file,test_acc,train_acc,ggap\na,92%,95,3\nb,90,93,3\nc,80,82,2\n")
    table = import_zoo(tmp_path / "in", tmp_path / "zoo").table
    assert list(table["test_accuracy"]) == pytest.approx([0.92, 0.9, 0.8])
    assert list(table["generalization_gap"]) == pytest.approx([0.03, 0.03, 0.02])


def test_text_that_only_looks_like_a_number_stays_text() -> None:
    assert [plain(text) for text in ("1_2", "007", "7", "1e-3", "0", "0.5")] == ["1_2", "007", 7, 1e-3, 0, 0.5]
