"""The command line end to end on a small real zoo, and what a user sees who makes a mistake."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

import weightspace
from garden.small import ResidualNet
from tools import refused, run
from weightspace.cli.app import split_lists
from weightspace.weights.files import write_weights
from weightspace.zoo.zoo import Zoo


def test_the_pipeline_end_to_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    zoo, sane, made = tmp_path / "zoo", tmp_path / "sane", tmp_path / "made"
    grown = (
        "grow",
        "mlp:8",
        "--data",
        "digits",
        "--members",
        20,
        "--epochs",
        2,
        "--keep",
        "0,2",
        "--plan",
        "stacked",
        "--out",
        zoo,
    )
    status, out, _ = run(capsys, *grown)
    assert status == 0 and out.startswith(f"{zoo}: 20 members, 40 checkpoints")
    status, out, _ = run(capsys, "zoo", zoo)
    assert status == 0 and "mlp-64-8-10-tanh" in out and "generalization_gap" in out
    assert json.loads(run(capsys, "zoo", zoo, "--json")[1])["members"] == 20
    small = ("--steps", 6, "--model-width", 16, "--layers", 1, "--heads", 2, "--latent-width", 4)
    split = ("--split", "0.5,0.25,0.25")
    status, out, _ = run(capsys, "pretrain", zoo, "--out", sane, *small, *split, "--json")
    assert status == 0 and json.loads(out)["out"] == str(sane)
    status, out, _ = run(capsys, "embed", sane, zoo, "--out", tmp_path / "e.parquet")
    assert status == 0 and out == f"{tmp_path / 'e.parquet'}: 40 embeddings of width 4\n"
    assert len(pd.read_parquet(tmp_path / "e.parquet")) == 40
    status, out, _ = run(capsys, "probe", zoo, "--sane", sane, *split, "--targets", "test_accuracy")
    assert status == 0 and "s(W)" in out and "SANE (mean+spread)" in out
    assert "among its training members" in refused(capsys, "probe", zoo, "--sane", sane, *split, "--seed", 1)
    status, out, _ = run(capsys, "generate", sane, "--anchors", zoo, "--best", 3, "--count", 2, "--out", made)
    assert status == 0 and out == f"{made}: 2 networks: 1,220 numbers generated\n"
    status, out, _ = run(capsys, "evaluate", made, "--data", "digits", "--epochs", "0,1", "--json")
    assert status == 0 and {row["epochs"] for row in json.loads(out)} == {0, 1, 2}  # 2: scratch, as long as the zoo
    assert Zoo.open(made).members == ["generated-0000", "generated-0001"]
    for folder in (zoo, sane, made):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["command"] and manifest["versions"]["torch"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.parquet", "made", "sane", "zoo"]


def test_zoos_of_others_end_to_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from weightspace.zoo.growing.networks import mlp

    for member in ("a", "b"):
        (tmp_path / "runs" / member).mkdir(parents=True)
        for epoch in (1, 2):
            torch.save({"model": mlp([4, 3, 2]).state_dict()}, tmp_path / "runs" / member / f"{epoch}.pt")
    (tmp_path / "runs" / "notes.pt").write_bytes(b"no")
    status, out, _ = run(capsys, "inspect", tmp_path / "runs")
    assert status == 0 and "5 checkpoints, 1 with remarks, 0 groups of duplicates" in out and "notes.pt" in out
    assert len(json.loads(run(capsys, "inspect", tmp_path / "runs", "--json")[1])["checkpoints"]) == 5
    words = ("import", tmp_path / "runs", "--pattern", "{member}/{epoch:d}.pt", "--out", tmp_path / "zoo")
    status, out, _ = run(capsys, *words)
    assert status == 0 and out.startswith(f"{tmp_path / 'zoo'}: plain files: 2 members, 4 checkpoints")
    assert "4 x a state dict was taken out of 'model'" in out and "left out: 1 (all are named in zoo.json)" in out
    assert json.loads(run(capsys, *words, "--force", "--json")[1])["left_out"][0]["what"] == "notes.pt"
    assert "choose another --out" in refused(capsys, *words)
    status, out, _ = run(capsys, "zoo", tmp_path / "zoo", "--plot", tmp_path / "zoo.png")
    assert status == 0 and (tmp_path / "zoo.png").stat().st_size > 1_000
    assert "expected a plot as .png" in refused(capsys, "zoo", tmp_path / "zoo", "--plot", tmp_path / "zoo.gif")
    status, out, _ = run(capsys, "publish", tmp_path / "zoo", "--out", tmp_path / "hub", "--license", "mit")
    assert status == 0 and "4 checkpoints in 1 shards" in out
    assert "expected a dataset" not in out and Zoo.open(tmp_path / "hub").members == ["a", "b"]


def test_growing_takes_choices_in_one_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("grow", "mlp:4", "--data", "digits", "--members", 3, "--epochs", 1, "--workers", 1, "--plan", "stacked")
    status, _, _ = run(capsys, *words, "--vary", "lr=1e-3,1e-2", "activation=gelu", "--out", tmp_path / "zoo")
    assert status == 0 and set(Zoo.open(tmp_path / "zoo").architectures) == {"mlp-64-4-10-gelu"}
    assert set(Zoo.open(tmp_path / "zoo").table["learning_rate"]) <= {1e-3, 1e-2}
    assert "expected name=choices" in refused(capsys, *words, "--vary", "speed=3", "--out", tmp_path / "no")


def test_ray_that_is_not_installed_is_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("grow", "mlp:4", "--data", "digits", "--members", 2, "--epochs", 1, "--plan", "stacked", "--ray", "local")
    assert "pip install 'weightspace[ray]'" in refused(capsys, *words, "--out", tmp_path / "zoo")


def test_align_moves_units_and_measures_the_wall(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, zoo_folder: Path
) -> None:
    first, second, *_ = Zoo.open(zoo_folder).members
    out, drawn = tmp_path / "aligned.safetensors", tmp_path / "line.png"
    words = ("align", f"{zoo_folder}:{first}", f"{zoo_folder}:{second}", "--out", str(out), "--json")
    status, text, _ = run(capsys, *words, "--data", "digits", "--points", "5", "--plot", str(drawn))
    found = json.loads(text)
    assert status == 0 and found["distance"]["aligned"] < found["distance"]["as given"]
    assert len(found["lines"]["aligned"]["losses"]) == 5 and drawn.stat().st_size > 1000
    ends = [found["lines"][name]["losses"][-1] for name in ("as given", "aligned")]
    assert abs(ends[0] - ends[1]) < 1e-5  # the function is the same
    status, text, _ = run(
        capsys, "align", f"{zoo_folder}:{first}", str(out), "--out", str(tmp_path / "again.pt"), "--json"
    )
    assert json.loads(text)["moved"] == 0 and not json.loads(text)["barriers"]


def test_align_by_hand(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    files = [tmp_path / f"{n}.safetensors" for n in range(2)]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        write_weights(file, ResidualNet().state_dict())
    hand = tmp_path / "symmetry.json"
    hand.write_text(run(capsys, "symmetry", "garden.small:ResidualNet", "--example", "2,3,6,6", "--json")[1])
    words = ["align", *map(str, files), "--out", str(tmp_path / "out.safetensors")]
    assert "no loss barrier without --data" in run(capsys, *words, "--symmetry", str(hand))[1]
    given = ("--architecture", "garden.small:ResidualNet", "--example", "2,3,6,6", "--force")
    assert "units moved" in run(capsys, *words, *given)[1]
    assert "found files alone" in refused(capsys, *words, "--force")
    assert "which is neither" in refused(capsys, "align", "nothing.pt", *words[2:], "--force")
    hand.write_text("{}")
    assert "expected a symmetry as" in refused(capsys, *words, "--symmetry", str(hand), "--force")


def test_symmetry_prints_what_moves(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    status, out, _ = run(capsys, "symmetry", "garden.small:ResidualNet", "--example", "2,3,6,6")
    assert status == 0 and "2 groups move" in out and "stem.weight:0" in out and "and 9 more" in out
    assert "What stands still" in out and "space" in out
    full = run(capsys, "symmetry", "garden.small:ResidualNet", "--example", "2,3,6,6", "--every")[1]
    assert "more" not in full and "norm2.running_var[0]" in full.replace("\n", "")
    words = ("symmetry", "garden.sequences:GroupedQueries", "--example", "2,5", "--integers", "11")
    assert "5 groups move" in run(capsys, *words)[1]
    assert "expected a shape such as" in refused(capsys, "symmetry", "garden.small:ResidualNet", "--example", "two")
    assert "expected an importable" in refused(capsys, "symmetry", "garden.small:Nothing", "--example", "2,3")


def test_mistakes_get_one_sentence(capsys: pytest.CaptureFixture[str], zoo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    out = tmp_path / "out"
    cases = {
        ("zoo", tmp_path / "empty"): "found an empty folder",
        ("zoo", tmp_path / "file.txt"): "found a file",
        ("zoo", tmp_path / "absent"): "found no such folder",
        ("pretrain", zoo_folder, "--out", tmp_path / "empty"): "found something: choose another --out",
        ("pretrain", zoo_folder, "--out", out, "--resume"): "found none",
        ("pretrain", zoo_folder, "--out", out, "--split", "0.5,0.6,0.1"): "shares that sum to 1",
        ("embed", tmp_path / "empty", zoo_folder, "--out", out): "expected one zoo, or networks that are in none",
        ("predict", tmp_path / "empty", zoo_folder): "expected a trained SANE",
        ("probe", zoo_folder, "--targets", "acc"): "expected a property among",
        ("grow", "mlp", "--data", tmp_path / "file.txt", "--out", out): "expected images as 'digits'",
        ("grow", "vgg", "--data", "digits", "--out", out): "expected a network among",
        ("grow", "mlp", "--data", "digits", "--out", tmp_path / "file.txt" / "zoo"): "expected a folder as parent",
        ("report", tmp_path / "empty", "--out", out): "expected the results of a run",
        ("grow", "mlp", "--data", "digits"): "--out",
        ("grow", "mlp", "--data", "digits", "--out", out, "--members", "many"): "many",
        ("fly",): "fly",
        ("pretrain", zoo_folder, "--out", out, "--heads", 3): "expected heads that divide the model width 64, found 3",
        ("pretrain", zoo_folder, "--out", out, "--latent-width", 0): "expected latent width to be at least 1, found 0",
        ("pretrain", zoo_folder, "--out", out, "--learning-rate", "nan"): "expected learning rate to be between",
        ("pretrain", zoo_folder, "--out", out, "--clip", -1): "expected clip to be at least 0",
        ("pretrain", zoo_folder, "--out", out, "--token-width", -1): "expected the token width to be at least 0",
        ("pretrain", zoo_folder, "--out", out, "--reference", "nobody"): "expected a training member as reference",
        ("pretrain", zoo_folder, "--out", zoo_folder, "--force"): "apart from the inputs",
        ("probe", zoo_folder, "--targets", "member"): "expected a property among",
        ("grow", "mlp", "--data", "digits", "--out", out, "--size", 0): "image size to be between 1 and 4096, found 0",
        ("grow", "mlp", "--data", "digits", "--out", out, "--batch-size", 0): "batch size to be between 1 and 958",
        ("symmetry", "torch.nn:Linear", "--example", "1,2"): "callable with the arguments given",
        ("symmetry", "torch.nn:Identity", "--example", "0,2"): "expected a shape of positive sizes",
    }
    for words, message in cases.items():
        assert message in refused(capsys, *words), words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file.txt"]
    assert list((tmp_path / "empty").iterdir()) == []


class Hostile:
    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.trap}",)


def test_a_hostile_training_state_is_never_run(zoo_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weightspace", "pretrain", str(zoo_folder), "--out", str(tmp_path / "sane")]
    command += ["--steps", "20", "--model-width", "16", "--layers", "1", "--heads", "2"]
    partial = tmp_path / ".sane.partial"
    partial.mkdir()
    with (partial / "state.pt").open("wb") as file:
        pickle.dump(Hostile(tmp_path / "trap"), file, protocol=2)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "expected a saved state" in done.stderr and not (tmp_path / "trap").exists()
    assert "Traceback" not in done.stderr


def test_lists_may_be_written_with_commas() -> None:
    assert split_lists(["--keep", "0,1,2", "mlp:1,2"]) == ["--keep", "0", "1", "2", "mlp:1,2"]
    assert split_lists(["--split=0.5,0.5"]) == ["--split", "0.5", "0.5"]
    assert split_lists(["--learning-rate", "1,2"]) == ["--learning-rate", "1,2"]


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "weightspace", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == weightspace.__version__


def test_embedding_again_is_refused_and_keeps_the_file(
    capsys: pytest.CaptureFixture[str], sane_folder: Path, zoo_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.parquet"
    out.write_text("precious")
    assert "found something" in refused(capsys, "embed", sane_folder, zoo_folder, "--out", out)
    assert out.read_text() == "precious"
    assert run(capsys, "embed", sane_folder, zoo_folder, "--out", out, "--force")[0] == 0
    assert torch.isfinite(torch.tensor(pd.read_parquet(out)["z0"])).all()


def test_inputs_are_never_replaced(
    capsys: pytest.CaptureFixture[str], sane_folder: Path, zoo_folder: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in zoo_folder.iterdir())
    for words in (("embed", sane_folder, zoo_folder), ("generate", sane_folder, "--anchors", zoo_folder)):
        assert "apart from the inputs" in refused(capsys, *words, "--out", zoo_folder, "--force")
    assert sorted(path.name for path in zoo_folder.iterdir()) == before


def test_ctrl_c_says_how_to_go_on(zoo_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weightspace", "pretrain", str(zoo_folder), "--out", str(tmp_path / "sane")]
    command += "--steps 100000 --save-every 2 --model-width 16 --layers 1 --heads 2".split()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / ".sane.partial" / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume continues" in err and "Traceback" not in err
    assert not (tmp_path / "sane").exists() and (tmp_path / ".sane.partial").exists()


def test_evaluation_without_its_anchors_is_refused(
    capsys: pytest.CaptureFixture[str], sane_folder: Path, zoo_folder: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    assert (
        run(capsys, "generate", sane_folder, "--anchors", zoo_folder, "--best", 3, "--count", 2, "--out", made)[0] == 0
    )
    about = json.loads((made / "zoo.json").read_text())
    about["generated"]["anchors"]["checkpoints"][0] = ["nobody", 1]
    (made / "zoo.json").write_text(json.dumps(about))
    assert "expected 3 anchors" in refused(capsys, "evaluate", made, "--data", "digits")
    del about["generated"]["anchors"]
    (made / "zoo.json").write_text(json.dumps(about))
    assert "found no such entry" in refused(capsys, "evaluate", made, "--data", "digits")


def test_threads_are_a_number(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSPACE_THREADS", "many")
    assert "expected a number of threads" in refused(capsys, "grow", "mlp", "--data", "digits", "--out", "x")


def test_reports_of_other_folders_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("results.json", "figures.json"):
        (tmp_path / name).write_text("{}")
    assert "found no title" in refused(capsys, "report", tmp_path, "--out", tmp_path / "report.html")
