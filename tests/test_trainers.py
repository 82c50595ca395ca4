"""Folders that trainers left behind (made by the real libraries, small): whose epoch, whose accuracy, whose weights.

In those of Ray the bias was set to the number of the epoch, so that it says after which one the weights were written.
Made with ray 2.60.0, lightning 2.6.6, transformers 5.24.0, accelerate 1.15.0, skorch 1.4.0 and stable-baselines3 2.9.2.
"""

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tools import run
from weightspace.errors import InputError
from weightspace.zoo.importing.config import ImportConfig
from weightspace.zoo.importing.counting import finished_epochs, with_late_results
from weightspace.zoo.importing.importing import import_zoo
from weightspace.zoo.zoo import Zoo

FOLDERS = Path(__file__).parent / "trainers"


def imported(name: str, out: Path) -> Zoo:
    return import_zoo(FOLDERS / name, out / "zoo")


def bias(zoo: Zoo) -> list[float]:
    return [float(zoo.weights(row)["bias"][0]) for row in range(len(zoo))]


def places(zoo: Zoo) -> list[tuple[str, int]]:
    return list(zip(zoo.table["member"], zoo.table["epoch"], strict=True))


def test_a_trial_that_began_anew_is_two_members_of_one_lineage(tmp_path: Path) -> None:
    zoo = imported("ray-retry", tmp_path)
    trial = "train_29c8a_00000_0"
    assert places(zoo) == [*((f"{trial}, part 1", epoch) for epoch in (1, 2)), *((trial, n) for n in (1, 2, 3, 4))]
    assert bias(zoo) == list(zoo.table["epoch"])
    assert np.allclose(zoo.table["test_accuracy"] * 10, zoo.table["epoch"])
    assert set(zoo.lineages) == {trial}


def test_what_a_trial_kept_has_the_results_of_its_own_moment(tmp_path: Path) -> None:
    zoo = imported("ray-keep", tmp_path)
    assert bias(zoo) == list(zoo.table["epoch"]) == [2, 5]
    assert list(zoo.table["test_accuracy"]) == [0.5, 0.15]
    assert (
        "a line names a checkpoint that Ray deleted: what it kept was chosen by a score"
        in zoo.about["imported"]["notes"]
    )


def test_trials_that_took_over_each_other_are_one_lineage(tmp_path: Path) -> None:
    zoo = imported("ray-pbt", tmp_path)
    assert zoo.lineages.nunique() == 1 and len(zoo.members) > 2
    # Its settings were written over: those of a line that does not say are not there.
    taken_over = zoo.table[zoo.table["member"].str.contains("_00000_")]
    assert taken_over["learning_rate"].isna().any() and set(taken_over["learning_rate"].dropna()) <= {
        0.1,
        0.2,
        0.3,
        0.4,
    }
    with pytest.raises(InputError, match="expected members in every part"):
        zoo.split(0.5, 0.5, seed=0)


def test_ray_train_names_folders_by_the_clock(tmp_path: Path) -> None:
    zoo = imported("ray-train", tmp_path)
    assert bias(zoo) == list(zoo.table["epoch"]) == [1, 2, 3] and len(zoo.members) == 1
    assert np.allclose(zoo.table["validation_accuracy"], [0.1, 0.2, 0.3])


def test_lightning_counts_the_open_pass(tmp_path: Path) -> None:
    zoo = imported("lightning", tmp_path)
    assert places(zoo) == [("version_0", 1), ("version_0", 2), ("version_0", 3)]
    assert np.allclose(zoo.table["validation_accuracy"], [0.453125, 0.53125, 0.5625])
    assert np.allclose(zoo.table["train_loss"], [1.0992441, 1.0404184, 0.9902040])
    (names,) = zoo.about["names"].values()
    assert sorted(name.rpartition("/")[2] for name in names) == ["final.ckpt", "last.ckpt"]


def test_averages_stand_beside_what_was_trained(tmp_path: Path) -> None:
    zoo = imported("lightning-average", tmp_path)
    assert zoo.members == ["version_1", "version_1 (average)"] and set(zoo.lineages) == {"version_1"}
    trained, average = (zoo.table[zoo.table["averaged"] == kind] for kind in (False, True))
    assert trained["validation_accuracy"].isna().all() and average["validation_accuracy"].notna().all()
    assert average["train_loss"].isna().all()


def test_the_trainer_keeps_its_best_twice(tmp_path: Path) -> None:
    zoo = imported("trainer-best", tmp_path)
    assert places(zoo) == [(run, epoch) for run in ("run0", "run1") for epoch in (3, 4)]
    assert list(zoo.table["validation_accuracy"]) == [0.96875, 0.96875, 0.9375, 0.9375]
    assert zoo.about["names"] == {f"{run}/checkpoint-12": [run] for run in ("run0", "run1")}
    assert list(zoo.table["batch_size"]) == [16] * 4


def test_what_was_written_within_a_pass_says_so(tmp_path: Path) -> None:
    zoo = imported("trainer-steps", tmp_path)
    assert list(zoo.table["passes"]) == [3.0, 3.75, 4.0] and list(zoo.table["epoch"]) == [3, 3, 4]
    assert zoo.lineages.nunique() == 1 and zoo.members[1] == "run0, run0/checkpoint-15"
    assert zoo.table["train_loss"].notna().tolist() == [True, False, True]


def test_states_of_accelerate_have_no_epochs(tmp_path: Path) -> None:
    zoo = imported("accelerate", tmp_path)
    assert list(zoo.table["saved"]) == [0, 1, 0] and zoo.lineages.nunique() == 2
    assert "an epoch is not known and counts as 0" in zoo.about["imported"]["notes"]


def test_skorch_ends_its_history_where_the_weights_are(tmp_path: Path) -> None:
    zoo = imported("skorch", tmp_path)
    assert places(zoo) == [("exp1", 5)] and zoo.table["validation_accuracy"].iloc[0] == pytest.approx(0.923077)
    assert len(zoo.about["names"]["exp1/params.pt"]) == 1


def test_steps_of_an_environment_are_no_networks(tmp_path: Path) -> None:
    zoo = imported("baselines", tmp_path)
    assert places(zoo) == [("rl_model", 0), ("rl_model", 10)]
    assert zoo.about["names"] == {"rl_model_100_steps.zip": ["rl_model_200_steps.zip"]}


def test_the_import_says_where_each_number_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = run(capsys, "import", FOLDERS / "trainer-best", "--out", tmp_path / "zoo", "--explain")
    from_where = "validation_accuracy 0.96875: run0/checkpoint-12/trainer_state.json, log_history 5, eval_accuracy"
    assert status == 0 and from_where in said and "the same weights: run0" in said
    assert from_where in run(capsys, "zoo", tmp_path / "zoo", "--explain")[1]


# --- Plain files and their tables -------------------------------------------------------------------------------------


def networks(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        network = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(network.bias, number)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), folder / name)


def accuracies(zoo: Zoo) -> dict[str, float]:
    return dict(zip(zoo.table["member"], zoo.table["test_accuracy"], strict=True))


@pytest.mark.parametrize("index", [False, True])
def test_row_numbers_never_win_over_names(index: bool, tmp_path: Path) -> None:
    networks(tmp_path / "runs", [f"{number}.pt" for number in range(6)])
    truth = {str(number): 0.5 + 0.05 * number for number in range(6)}
    table = pd.DataFrame({"model": list(truth), "test_acc": list(truth.values())}).sort_values(
        "test_acc", ascending=False
    )
    table.reset_index(drop=True).to_csv(tmp_path / "runs" / "results.csv", index=index)
    assert accuracies(import_zoo(tmp_path / "runs", tmp_path / "zoo")) == pytest.approx(truth)


def test_row_numbers_alone_are_not_taken_for_names(tmp_path: Path) -> None:
    networks(tmp_path / "runs", [f"{number}.pt" for number in range(4)])
    pd.DataFrame({"test_acc": [0.1, 0.2, 0.3, 0.4]}).to_csv(tmp_path / "runs" / "results.csv")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert "test_accuracy" not in zoo.table
    assert any("results.csv was not used" in note for note in zoo.about["imported"]["notes"])
    by = ImportConfig(by="Unnamed: 0")
    assert accuracies(import_zoo(tmp_path / "runs", tmp_path / "asked", by))["2"] == 0.3


def test_two_columns_that_fit_equally_well_are_asked_about(tmp_path: Path) -> None:
    networks(tmp_path / "runs", [f"{number}.pt" for number in range(4)])
    table = pd.DataFrame({"run": [3, 2, 1, 0], "model": [0, 1, 2, 3], "test_acc": [0.1, 0.2, 0.3, 0.4]})
    table.to_csv(tmp_path / "runs" / "results.csv", index=False)
    with pytest.raises(InputError, match="run and model fit equally well and say otherwise: --by run or --by model"):
        import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert accuracies(import_zoo(tmp_path / "runs", tmp_path / "zoo", ImportConfig(by="run")))["3"] == 0.1
    with pytest.raises(InputError, match="expected a column of .* among run, model, test_acc, found 'name'"):
        import_zoo(tmp_path / "runs", tmp_path / "other", ImportConfig(by="name"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "index"])
def test_names_are_compared_as_text(kind: str, tmp_path: Path) -> None:
    networks(tmp_path / "runs", ["a/0007.pt", "b/0010.pt", "b/0011.pt"])
    table = pd.DataFrame({"network": ["0007", "b/0010", "checkpoints/b/0011.pt"], "test_acc": [0.1, 0.2, 0.3]})
    if kind == "csv":
        table.to_csv(tmp_path / "runs" / "results.csv", index=False)
    elif kind == "parquet":
        table.to_parquet(tmp_path / "runs" / "results.parquet", index=False)
    else:
        table.set_index("network").to_parquet(tmp_path / "runs" / "results.parquet")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert accuracies(zoo) == {"a/0007": 0.1, "b/0010": 0.2, "b/0011": 0.3}


def test_percent_become_shares_column_by_column(tmp_path: Path) -> None:
    networks(tmp_path / "runs", ["a.pt", "b.pt"])
    table = {"file": ["a", "b"], "train_acc": [0.9, 1.0], "test_acc": [0.8, 91.5], "val_acc": ["70%", "80%"]}
    pd.DataFrame(table).to_csv(tmp_path / "runs" / "results.csv", index=False)
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert list(zoo.table["test_accuracy"]) == pytest.approx([0.008, 0.915])
    assert list(zoo.table["train_accuracy"]) == [0.9, 1.0] and list(zoo.table["validation_accuracy"]) == [0.7, 0.8]
    assert list(zoo.table["generalization_gap"]) == pytest.approx([0.892, 0.085])
    assert "test_accuracy was given in percent and is stored as a share" in zoo.about["imported"]["notes"]


# --- Lineages ---------------------------------------------------------------------------------------------------------


def test_equal_weights_and_forks_are_never_on_two_sides(tmp_path: Path) -> None:
    """The law: copies are one checkpoint, and members that share weights at some moment are split together."""
    for number in range(24):
        folder = tmp_path / "runs" / f"net{number:02d}"
        networks(folder, ["epoch-0.pt", "epoch-1.pt"])
        if number % 3 == 2:  # goes on from the one before
            shutil.copy(tmp_path / "runs" / f"net{number - 1:02d}" / "epoch-1.pt", folder / "epoch-0.pt")
        if number % 2:
            shutil.copy(folder / "epoch-1.pt", folder / "last.pt")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo", ImportConfig(pattern="{member}/epoch-{epoch:d}.pt"))
    assert zoo.lineages.nunique() == 16 and len(zoo.members) == 24
    for seed in range(5):
        parts = zoo.split(0.5, 0.25, 0.25, seed=seed)
        digests = [set(part.digests) for part in parts]
        lineages = [set(part.lineages) for part in parts]
        for seen in (digests, lineages):
            assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


# --- Counting ---------------------------------------------------------------------------------------------------------


def test_epochs_are_counted_as_finished_or_not_at_all() -> None:
    assert finished_epochs([{"epoch": 0}, {"epoch": 1}]) == [1, 2]
    assert finished_epochs([{"epoch": 1}, {"epoch": 2}]) == [1, 2]
    assert finished_epochs([{"epoch": 0}, {"epoch": 0}, {"epoch": 1}]) is None
    assert finished_epochs([{"epoch": 5}]) is None and finished_epochs([{"loss": 1}]) is None
    assert finished_epochs([{"epoch": 0}, {"epoch": 1}, {"epoch": 0}], restarts=[2]) == [1, 2, 1]


def test_a_training_loss_that_is_written_late_is_moved_to_its_moment() -> None:
    lines: list[dict[str, object]] = [
        {"val_loss": 3},
        {"val_loss": 2, "train_loss": 0.3},
        {"val_loss": 1, "train_loss": 0.2},
    ]
    values = [values for values, _ in with_late_results(lines)]
    assert values == [{"val_loss": 3, "train_loss": 0.3}, {"val_loss": 2, "train_loss": 0.2}, {"val_loss": 1}]
    always: list[dict[str, object]] = [{"train_loss": 1.0}, {"train_loss": 0.5}]
    assert [values for values, _ in with_late_results(always)] == always


def test_function_trainables_are_told_by_any_trial(tmp_path: Path) -> None:
    """One trial has all its folders, from 0; of the other the first was deleted."""
    for number, kept in enumerate(([0, 1, 2], [1, 2])):
        trial = tmp_path / "runs" / f"train_{number}"
        for folder in kept:
            (trial / f"checkpoint_{folder:06d}").mkdir(parents=True)
            network = torch.nn.Linear(3, 2)
            torch.nn.init.constant_(network.bias, folder + 1 + number / 10)
            torch.save(network.state_dict(), trial / f"checkpoint_{folder:06d}" / "model.pt")
        lines = [{"training_iteration": count, "test_acc": count / 10} for count in (1, 2, 3)]
        (trial / "result.json").write_text("\n".join(map(json.dumps, lines)))
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert [int(value) for value in bias(zoo)] == list(zoo.table["epoch"]) == [1, 2, 3, 2, 3]
    assert np.allclose(zoo.table["test_accuracy"] * 10, zoo.table["epoch"])


def test_runs_of_mlflow_have_parameters_and_no_epochs(tmp_path: Path) -> None:
    names = [f"ab12/artifacts/{name}/state_dict.pth" for name in ("early", "late")]
    networks(tmp_path / "runs" / "mlruns" / "1", names)
    whole = tmp_path / "runs" / "mlruns" / "1" / "models" / "m-1" / "artifacts" / "data" / "model.pt2"
    whole.parent.mkdir(parents=True)
    whole.write_bytes(b"")
    with closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        database.execute("create table params (key text, value text, run_uuid text)")
        database.execute("insert into params values ('lr', '0.25', 'ab12'), ('depth', '3', 'ab12')")
        database.commit()
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert zoo.members == ["ab12", "ab12, mlruns/1/ab12/artifacts/late/state_dict.pth"] and set(zoo.lineages) == {
        "ab12"
    }
    assert list(zoo.table["learning_rate"]) == [0.25] * 2 and list(zoo.table["depth"]) == [3] * 2
    (left_out,) = zoo.about["left_out"]
    assert left_out["what"].endswith("model.pt2") and "log its state dict" in left_out["why"]


def test_files_of_other_frameworks_are_named(tmp_path: Path) -> None:
    networks(tmp_path / "runs", ["a.pt"])
    for name in ("b.h5", "c.onnx"):
        (tmp_path / "runs" / name).write_bytes(b"")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert [entry["what"] for entry in zoo.about["left_out"]] == ["b.h5", "c.onnx"]


def test_compiled_parts_have_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("plain", "compiled"):
        weights = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)).state_dict()
        renamed = {key.replace("0.", "0._orig_mod."): tensor for key, tensor in weights.items()}
        torch.save(renamed if name == "compiled" else weights, tmp_path / "runs" / f"{name}.pt")
    assert len(import_zoo(tmp_path / "runs", tmp_path / "zoo").architectures) == 1


def test_a_table_may_have_a_row_for_every_epoch(tmp_path: Path) -> None:
    members = ["seed1", "seed2"]
    networks(tmp_path / "runs", [f"{member}/epoch-{epoch}.pt" for member in members for epoch in (1, 2)])
    rows = [(member, epoch, 0.1 * epoch + 0.01 * place) for place, member in enumerate(members) for epoch in (1, 2, 3)]
    table = pd.DataFrame(rows, columns=["run", "epoch", "test_acc"])
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "runs" / "results.csv", index=False)
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo", ImportConfig(pattern="{member}/epoch-{epoch:d}.pt"))
    assert list(zoo.table["test_accuracy"]) == pytest.approx([0.1, 0.2, 0.11, 0.21])
    assert [entry["what"] for entry in zoo.about["left_out"]] == [
        f"results.csv: {member} at epoch 3"
        for member in table.sample(frac=1, random_state=0).query("epoch == 3")["run"]
    ]
    with pytest.raises(InputError, match="of 1 lineage, which are never split,"):
        imported("ray-pbt", tmp_path / "other").split(0.5, 0.5, seed=0)


def test_a_log_beside_files_is_not_taken_for_their_results(tmp_path: Path) -> None:
    networks(tmp_path / "runs", ["0.pt", "1.pt"])
    pd.DataFrame({"epoch": [0, 1, 0, 1], "loss": [4, 3, 2, 1]}).to_csv(tmp_path / "runs" / "log.csv", index=False)
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert "loss" not in zoo.table and any("log.csv was not used" in note for note in zoo.about["imported"]["notes"])


def test_sources_name_the_line_of_a_table(tmp_path: Path) -> None:
    networks(tmp_path / "runs", ["seed1/epoch-1.pt", "seed1/epoch-2.pt"])
    (tmp_path / "runs" / "results.csv").write_text("run,epoch,test_acc\nseed1,2,0.4\nseed1,1,0.3\n")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo", ImportConfig(pattern="{member}/epoch-{epoch:d}.pt"))
    assert [source["numbers"]["test_accuracy"]["from"] for source in zoo.about["sources"]] == [
        "results.csv, line 3, column test_acc",
        "results.csv, line 2, column test_acc",
    ]


@pytest.mark.parametrize(
    ("name", "said"), [("baselines", "1 group of duplicates"), ("lightning-average", "4 checkpoints, 0")]
)
def test_inspect_reads_what_trainers_left(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, told, _ = run(capsys, "inspect", FOLDERS / name)
    assert status == 0 and said in told.splitlines()[-1] and "0 with remarks" in told
    if name == "lightning-average":
        assert "state_dict, beside current_model_state" in told


def test_a_copy_is_found_whoever_had_the_weights_first(tmp_path: Path) -> None:
    """A fork's own copies are copies, though its first weights are another's."""
    networks(tmp_path / "runs", ["a/epoch-1.pt", "a/epoch-2.pt", "b/epoch-3.pt"])
    for name in ("b/epoch-2.pt", "b/epoch-9.pt"):
        shutil.copy(tmp_path / "runs" / "a" / "epoch-2.pt", tmp_path / "runs" / name)
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo", ImportConfig(pattern="{member}/epoch-{epoch:d}.pt"))
    assert places(zoo) == [("a", 1), ("a", 2), ("b", 2), ("b", 3)] and zoo.lineages.nunique() == 1
    assert zoo.about["names"] == {"b/epoch-2.pt": ["b/epoch-9.pt"]}


# --- Folders written here, for what no small real one shows -----------------------------------------------------------


def trial(
    folder: Path, lines: Sequence[dict[str, Any]], folders: list[int], settings: dict[str, Any] | None = None
) -> None:
    for number in folders:
        networks(folder / f"checkpoint_{number:06d}", ["model.pt"])
    (folder / "result.json").write_text("\n".join(map(json.dumps, lines)))
    (folder / "params.json").write_text(json.dumps(settings or {}))


def test_reports_of_every_fifth_epoch_and_of_half_epochs(tmp_path: Path) -> None:
    fifth = [{"training_iteration": n, "epoch": 5 * n, "test_acc": n / 10} for n in (1, 2, 3)]
    halves = [{"training_iteration": n, "epoch": (n + 1) // 2, "test_acc": n / 10} for n in (1, 2, 3, 4)]
    trial(tmp_path / "runs" / "fifth", fifth, [1, 2, 3])
    trial(tmp_path / "runs" / "halves", halves, [1, 2, 3, 4])
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert list(zoo.where(lambda table: table["member"] == "fifth").table["epoch"]) == [5, 10, 15]
    rest = zoo.where(lambda table: table["member"] != "fifth").table
    assert len(rest) == 4 and list(rest["epoch"]) == [0] * 4 and sorted(rest["epoch_given"]) == [1, 1, 2, 2]
    assert any("cannot be told as finished passes" in note for note in zoo.about["imported"]["notes"])


def test_one_folder_more_than_results_is_nobodys(tmp_path: Path) -> None:
    trial(tmp_path / "runs" / "a", [{"training_iteration": n, "test_acc": n / 10} for n in (1, 2, 3)], [0, 1, 2, 3])
    networks(tmp_path / "runs" / "a", ["final_model.pt"])
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert "test_accuracy" not in zoo.table or zoo.table["test_accuracy"].isna().all()
    assert [entry["what"] for entry in zoo.about["left_out"]] == ["a/final_model.pt"]
    assert [(told["epoch"], "epoch" in told["numbers"]) for told in zoo.about["sources"]] == [(None, False)] * 3


def test_results_of_a_script_are_no_trial(tmp_path: Path) -> None:
    networks(tmp_path / "runs", ["seed1/model.pt", "seed2/model.pt"])
    (tmp_path / "runs" / "seed1" / "result.json").write_text('{"acc": 0.1}')
    assert import_zoo(tmp_path / "runs", tmp_path / "zoo").about["imported"]["layout"] == "plain files"


@pytest.mark.parametrize(("epochs", "expected"), [([7, 8, 9], [8, 9, 10]), ([8, 9, 10], [8, 9, 10]), ([1, 2, 3], None)])
def test_what_is_left_of_a_ray_train_run(epochs: list[int], expected: list[int] | None, tmp_path: Path) -> None:
    names = [f"checkpoint_{number}" for number in range(3)]
    networks(tmp_path / "runs", [f"{name}/model.pt" for name in names])
    kept = [
        {"checkpoint_dir_name": n, "metrics": {"epoch": e, "val_acc": 0.5}} for n, e in zip(names, epochs, strict=True)
    ]
    snapshot = {"checkpoint_results": kept, "checkpoint_report_indices": [7, 8, 9]}
    (tmp_path / "runs" / "checkpoint_manager_snapshot.json").write_text(json.dumps(snapshot))
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert list(zoo.table["epoch"]) == (expected or [0, 0, 0]) and zoo.lineages.nunique() == 1


def lightning(path: Path, epoch: int, *, optimizers: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    passes = {"ready": epoch + 1, "completed": epoch, "started": epoch + 1, "processed": epoch + 1}
    stepped = {"_batches_that_stepped": 4 * (epoch + 1)}
    fit = {"epoch_loop.state_dict": stepped, "epoch_loop.batch_progress": {"is_last_batch": True}}
    loops = {"fit_loop": {**fit, "epoch_progress": {"current": passes}}}
    weights = nn.Linear(3, 2).state_dict()
    torch.save(
        {"epoch": epoch, "global_step": 4 * (epoch + 1) * optimizers, "state_dict": weights, "loops": loops}, path
    )


METRICS = "epoch,step,val_loss\n" + "".join(f"{epoch},{4 * (epoch + 1) - 1},0.{epoch + 1}\n" for epoch in range(6))


def test_two_optimizers_step_twice_a_batch(tmp_path: Path) -> None:
    for epoch in range(4):
        lightning(tmp_path / "in" / "version_0" / "checkpoints" / f"epoch={epoch}.ckpt", epoch, optimizers=2)
    (tmp_path / "in" / "version_0" / "metrics.csv").write_text(METRICS)
    table = import_zoo(tmp_path / "in", tmp_path / "zoo").table
    assert list(table["validation_loss"]) == [0.1, 0.2, 0.3, 0.4] and list(table["epoch"]) == [1, 2, 3, 4]


def test_runs_are_told_by_their_folders(tmp_path: Path) -> None:
    lightning(tmp_path / "two" / "runA_checkpoints" / "epoch=3-step=16.ckpt", 3)
    lightning(tmp_path / "two" / "runB_checkpoints" / "epoch=5-step=24.ckpt", 5)
    assert len(import_zoo(tmp_path / "two", tmp_path / "zoo-two").members) == 2
    lightning(tmp_path / "one" / "version_0" / "checkpoints" / "best" / "epoch=1.ckpt", 1)
    lightning(tmp_path / "one" / "version_0" / "checkpoints" / "all" / "epoch=4.ckpt", 4)
    (tmp_path / "one" / "version_0" / "metrics.csv").write_text(METRICS)
    one = import_zoo(tmp_path / "one", tmp_path / "zoo-one")
    assert places(one) == [("version_0", 2), ("version_0", 5)] and list(one.table["validation_loss"]) == [0.2, 0.5]
    for name in ("epoch=0-step=4.ckpt", "epoch=0-step=4-v1.ckpt"):
        lightning(tmp_path / "again" / "version_0" / "checkpoints" / name, 0)
    (tmp_path / "again" / "version_0" / "metrics.csv").write_text(METRICS)
    again = import_zoo(tmp_path / "again", tmp_path / "zoo-again")
    assert len(again) == 2 and "validation_loss" not in again.table
    assert any("two trainings share a folder" in note for note in again.about["imported"]["notes"])


def test_a_fine_tune_is_of_its_parents_lineage(tmp_path: Path) -> None:
    for run_name, base in (("A", "bert"), ("B", "runs/A/checkpoint-20"), ("C", "bert-large")):
        for step in (10, 20):
            folder = tmp_path / "runs" / run_name / f"checkpoint-{step}"
            networks(folder, ["pytorch_model.bin"])
            (folder / "config.json").write_text(json.dumps({"architectures": ["Net"], "_name_or_path": base}))
            (folder / "trainer_state.json").write_text(json.dumps({"epoch": step / 10, "global_step": step}))
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    lineage = dict(zip(zoo.table["member"], zoo.lineages, strict=True))
    assert lineage["A"] == lineage["B"] != lineage["C"]


def test_networks_that_only_begin_alike_are_no_lineage(tmp_path: Path) -> None:
    networks(tmp_path / "runs", ["a/epoch-0.pt", "a/epoch-1.pt", "b/epoch-1.pt"])
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "runs" / "b" / "epoch-1.pt")
    shutil.copy(tmp_path / "runs" / "a" / "epoch-0.pt", tmp_path / "runs" / "b" / "epoch-0.pt")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo", ImportConfig(pattern="{member}/epoch-{epoch:d}.pt"))
    assert len(zoo) == 4 and zoo.lineages.nunique() == 2


def test_parameters_without_a_history_are_named(tmp_path: Path) -> None:
    networks(tmp_path / "runs", ["train_end_params.pt", "params_1.pt"])
    (tmp_path / "runs" / "train_end_history.json").write_text(json.dumps([{"epoch": 1, "valid_acc": 0.5}]))
    zoo = import_zoo(tmp_path / "runs", tmp_path / "zoo")
    assert len(zoo) == 1 and zoo.about["left_out"][0]["what"] == "params_1.pt"
