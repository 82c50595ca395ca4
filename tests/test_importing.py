"""Foreign zoos: every layout, the traps of the published ones, and what cannot be used."""

import gzip
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from weightspace.analysis.inspecting.checkpoints import inspect_folder
from weightspace.errors import InputError
from weightspace.outputs import partial_path
from weightspace.supervised import score
from weightspace.weights.files import write_weights
from weightspace.zoo.growing.networks import cnn_l, cnn_s, mlp, small_cnn
from weightspace.zoo.importing import importing
from weightspace.zoo.importing.config import ImportConfig
from weightspace.zoo.importing.importing import import_zoo
from weightspace.zoo.zoo import Zoo

REAL = Path(__file__).parents[2] / "shared" / "zoos" / "mnist-cnn-s-raytune"
SETTINGS = {"model::type": "CNN", "model::channels_in": 1, "model::o_dim": 10, "model::nlin": "tanh", "optim::lr": 1e-3}


def write_trial(
    folder: Path, *, first: int = 0, settings: dict | None = None, network: nn.Module | None = None
) -> None:
    """A trial with three epochs from `first`, in the published layout."""
    settings = {**SETTINGS, "seed": 7, **(settings or {})}
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(settings))
    lines = []
    for epoch in range(first, first + 3):
        result = {"train_acc": 0.5 + epoch / 10, "test_acc": 0.4 + epoch / 10, "training_iteration": epoch, "pid": 1}
        lines.append(json.dumps({**result, "config": settings}))
        checkpoint = folder / f"checkpoint_{epoch:06d}"
        checkpoint.mkdir()
        weights = (network or cnn_s(1, 10, settings["model::nlin"])).state_dict()
        trained = {name: tensor + epoch / 1_000 for name, tensor in weights.items()}  # no two moments are alike
        torch.save(trained, checkpoint / "checkpoints")
    (folder / "result.json").write_text("\n".join(lines) + "\n")


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    for number in range(3):
        write_trial(tmp_path / "zoo" / f"NN_tune_trainable_{number}")
    return tmp_path / "zoo"


def test_a_published_layout_becomes_a_zoo(trials: Path, tmp_path: Path) -> None:
    zoo = import_zoo(trials, tmp_path / "out")
    assert zoo.members == [f"NN_tune_trainable_{number}" for number in range(3)] and len(zoo) == 9
    row = zoo.table.iloc[1]
    assert row["epoch"] == 1 and row["test_accuracy"] == 0.5 and row["learning_rate"] == 1e-3
    assert row["generalization_gap"] == pytest.approx(0.1) and row["activation"] == "tanh" and row["seed"] == 7
    original = torch.load(trials / row["member"] / "checkpoint_000001" / "checkpoints", weights_only=True)
    module = zoo.architectures["cnn-s-1-10-tanh"].build()
    module.load_state_dict(zoo.weights(1))
    assert all(torch.equal(module.state_dict()[name], original[name]) for name in original)
    assert zoo.about["imported"]["ignored"] == ["pid"] and zoo.about["left_out"] == []
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["configuration"]["imported"]["layout"].startswith("Ray Tune")


def test_trap_1_names_that_shift_with_dropout(tmp_path: Path) -> None:
    for number, rate in enumerate((0.0, 0.5)):
        settings = {"model::dropout": rate}
        network = cnn_s(1, 10, "tanh", rate)
        write_trial(tmp_path / "zoo" / f"t{number}", settings=settings, network=network)
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "out")
    without, with_dropout = zoo.architectures["cnn-s-1-10-tanh"], zoo.architectures["cnn-s-1-10-tanh-dropout0.5"]
    assert list(without.shapes) != list(with_dropout.shapes) and without.signature == with_dropout.signature
    assert "module_list.4.weight" in with_dropout.shapes and with_dropout.build()


def test_trap_2_results_that_begin_at_1_are_matched_by_iteration(tmp_path: Path) -> None:
    write_trial(tmp_path / "zoo" / "t", first=1)
    extra = tmp_path / "zoo" / "t" / "checkpoint_000000"
    extra.mkdir()
    torch.save(cnn_s(1).state_dict(), extra / "checkpoints")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "out")
    assert list(zoo.table["epoch"]) == [0, 1, 2, 3]
    assert np.isnan(zoo.table["test_accuracy"].iloc[0]) and zoo.table["test_accuracy"].iloc[1] == 0.5
    assert zoo.about["imported"]["notes"] == {"a checkpoint has no line in result.json, so its results are missing": 1}


def test_trap_3_broken_weights_large_weights_and_cut_lines_are_counted(trials: Path, tmp_path: Path) -> None:
    for number, value in ((0, float("nan")), (1, 300.0)):
        path = trials / f"NN_tune_trainable_{number}" / "checkpoint_000002" / "checkpoints"
        weights = torch.load(path, weights_only=True)
        weights["module_list.3.bias"][0] = value
        torch.save(weights, path)
    results = trials / "NN_tune_trainable_2" / "result.json"
    results.write_text(results.read_text()[:-60])
    zoo = import_zoo(trials, tmp_path / "out", ImportConfig(largest_weight=100.0))
    assert len(zoo) == 7
    whys = [entry["why"] for entry in zoo.about["left_out"]]
    assert whys == ["NaN or infinite weights in module_list.3.bias", "a weight beyond 100 in module_list.3.bias"]
    assert "a line of result.json is cut off or names no training_iteration" in zoo.about["imported"]["notes"]
    assert zoo.table["test_accuracy"].isna().sum() == 1


def test_trap_4_the_split_ignores_the_order_and_place_of_files(trials: Path, tmp_path: Path) -> None:
    zoo = import_zoo(trials, tmp_path / "out")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "zoo")
    packed = import_zoo(tmp_path / "packed.zip", tmp_path / "unpacked")
    assert packed.table.equals(zoo.table)
    for row in range(len(zoo)):
        assert all(torch.equal(tensor, packed.weights(row)[name]) for name, tensor in zoo.weights(row).items())


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))  # type: ignore[return-value]


def test_trap_5_pickles_that_need_code_are_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    torch.save({"samples": Code()}, tmp_path / "zoo" / "dataset.pt")
    with pytest.raises(InputError, match=r"dataset.pt .*pickle that needs code to load.*re-save it"):
        import_zoo(tmp_path / "zoo", tmp_path / "out")
    assert not (tmp_path / "executed").exists() and not (tmp_path / "out").exists()
    torch.save(mlp([4, 2]).state_dict(), tmp_path / "zoo" / "good.pt")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "out")
    assert zoo.members == ["good"] and [entry["what"] for entry in zoo.about["left_out"]] == ["dataset.pt"]


def test_a_ray_run_of_ones_own(tmp_path: Path) -> None:
    """Ray numbers its checkpoint folders from 0 and notes in the results which is which."""
    trial = tmp_path / "runs" / "train_0001"
    for number in range(2):
        (trial / f"checkpoint_{number:06d}").mkdir(parents=True)
        module = nn.DataParallel(nn.Linear(3, 2)).state_dict()
        torch.save({"model_state": module, "epoch": 9}, trial / f"checkpoint_{number:06d}" / "model.pt")
        torch.save({}, trial / f"checkpoint_{number:06d}" / "optimizer.pt")
    lines = [
        {
            "training_iteration": 5 * (number + 1),
            "checkpoint_dir_name": f"checkpoint_{number:06d}",
            "loss": 1.0 - number,
        }
        | {"config": {"lr": 0.1, "model": {"width": 3}, "sizes": [1, 2]}}
        for number in range(2)
    ]
    (trial / "result.json").write_text("\n".join(map(json.dumps, lines)))
    zoo = import_zoo(tmp_path / "runs", tmp_path / "out")
    assert list(zoo.table["epoch"]) == [5, 10] and list(zoo.table["loss"]) == [1.0, 0.0]
    row = zoo.table.iloc[0]
    assert row["learning_rate"] == 0.1 and row["model.width"] == 3 and row["sizes"] == "[1, 2]"
    assert set(zoo.weights(0)) == {"weight", "bias"}
    assert zoo.about["imported"]["notes"] == {
        "a state dict was taken out of 'model_state'": 2,
        "the prefix 'module.' was dropped from all names": 2,
    }


@pytest.mark.parametrize(("name", "build"), [("CNN3", cnn_l), ("Unheard", lambda: nn.Linear(2, 2))])
def test_model_types_of_ours_can_be_built_and_others_say_why_not(name: str, build: object, tmp_path: Path) -> None:
    settings = {"model::type": name, "model::channels_in": 3, "model::dropout": 0.1}
    network = build()  # type: ignore[operator]
    write_trial(tmp_path / "zoo" / "t", settings=settings, network=network)
    (architecture,) = import_zoo(tmp_path / "zoo", tmp_path / "out").architectures.values()
    if name == "CNN3":
        assert architecture.id == "cnn-l-3-10-tanh-dropout0.1" and architecture.build()
    else:
        assert architecture.id.startswith("unheard-tanh-dropout0.1-") and architecture.factory is None
        assert "--architecture" in architecture.note


@pytest.mark.skipif(not REAL.exists(), reason="the real zoo lies beside the repository only where it is built")
def test_a_real_zoo_keeps_its_accuracies(tmp_path: Path) -> None:
    for trial in sorted(REAL.iterdir())[:4]:
        shutil.copytree(trial, tmp_path / "zoo" / trial.name)
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "out")
    assert len(zoo) == 36 and {"test_accuracy", "validation_accuracy", "initialization"} <= set(zoo.properties)
    images = REAL.parents[1] / "data" / "mnist.npz"
    if images.exists():
        from weightspace.images import open_images

        test = open_images(str(images), limits=(14_000, 4_000)).test
        row = zoo.table.iloc[8]
        module = zoo.architectures[row["architecture"]].build()
        module.load_state_dict(zoo.weights(8))
        # Within one image in a hundred: its images were normalised with the statistics of other images.
        assert abs(float(score(module, test).accuracy) - row["test_accuracy"]) < 0.01


def write_small_cnn_zoo(folder: Path, rows: list[nn.Module], activation: str = "relu") -> None:
    """Two members of each half of the rows, in the published form."""
    folder.mkdir(parents=True)
    names = ["sequential/conv2d", "sequential/conv2d_1", "sequential/conv2d_2", "sequential/dense"]
    vectors, layout, start = [], [], 0
    for module in rows:
        state, parts = list(module.state_dict().values()), []
        for number in range(4):
            kernel, bias = state[2 * number].numpy(), state[2 * number + 1].numpy()
            parts += [bias, kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T]
        vectors.append(np.concatenate([part.ravel() for part in parts]))
    for number, name in enumerate(names):
        for part, values in zip(("bias", "kernel"), parts[2 * number : 2 * number + 2], strict=True):
            layout.append((f"{name}/{part}:0", start, start + values.size, str(values.shape)))
            start += values.size
    np.save(folder / "weights.npy", np.stack(vectors))
    pd.DataFrame(layout, columns=["varname", "start_idx", "end_idx", "shape"]).to_csv(folder / "layout.csv")
    metrics = pd.DataFrame(
        {
            "modeldir": [f"/there/{row // 2}" for row in range(len(rows))],
            "step": [0, 86] * (len(rows) // 2),
            "config.activation": activation,
            "config.learning_rate": 0.01,
            "config.l2reg": 1e-4,
            "config.dropout": 0.0,
            "train_accuracy": 0.5,
            "test_accuracy": 0.25,
        }
    )
    with gzip.open(folder / "metrics.csv.gz", "wt") as file:
        metrics.to_csv(file, index=False)


@pytest.mark.parametrize("packed", [False, True])
def test_the_small_cnn_zoo_turns_its_kernels_around(tmp_path: Path, packed: bool) -> None:
    modules = [small_cnn(1, 10, "relu") for _ in range(4)]
    write_small_cnn_zoo(tmp_path / "cnnzoo" / "mnist", modules)
    source = tmp_path / "cnnzoo"
    if packed:
        source = Path(shutil.make_archive(str(tmp_path / "mnist"), "gztar", tmp_path / "cnnzoo"))
    zoo = import_zoo(source, tmp_path / "out")
    assert len(zoo) == 4 and zoo.members == ["member-00000", "member-00001"] and list(zoo.table["epoch"]) == [0, 86] * 2
    row = zoo.table.iloc[0]
    assert (row["learning_rate"], row["weight_decay"], row["generalization_gap"]) == (0.01, 1e-4, 0.25)
    for number, module in enumerate(modules):
        rebuilt = zoo.architectures["small-cnn-1-10-relu"].build()
        rebuilt.load_state_dict(zoo.weights(number))
        images = torch.randn(2, 1, 32, 32)
        torch.testing.assert_close(rebuilt.eval()(images), module.eval()(images))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "manifest.json", "models.parquet", "shards", "zoo.json")
    ]


def test_damaged_small_cnn_zoos_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    write_small_cnn_zoo(folder, [small_cnn() for _ in range(2)])
    np.save(folder / "weights.npy", np.zeros((2, 9), dtype=np.float32))
    with pytest.raises(InputError, match=r"expected 4970 columns in weights.npy, .* found shape \(2, 9\)"):
        import_zoo(folder, tmp_path / "out")
    np.save(folder / "weights.npy", np.zeros((1, 4970), dtype=np.float32))
    zoo = import_zoo(folder, tmp_path / "short")
    assert len(zoo) == 1 and "expected as many rows" in zoo.about["left_out"][0]["why"]
    (folder / "weights.npy").write_bytes(b"no")
    with pytest.raises(InputError, match="expected a numpy matrix"):
        import_zoo(folder, tmp_path / "none")
    (folder / "layout.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="expected the columns varname"):
        import_zoo(folder, tmp_path / "none")
    (folder / "metrics.csv.gz").write_bytes(b"no")
    with pytest.raises(InputError, match="expected a table in metrics.csv.gz"):
        import_zoo(folder, tmp_path / "none")
    with gzip.open(folder / "metrics.csv.gz", "wt") as file:
        file.write("a\n1\n")
    with pytest.raises(InputError, match="expected the columns modeldir and step"):
        import_zoo(folder, tmp_path / "none")


def test_a_pattern_tells_members_and_epochs_apart(tmp_path: Path) -> None:
    for member in ("a", "b"):
        (tmp_path / "runs" / member).mkdir(parents=True)
        for epoch in (0, 10, 2):
            torch.save(mlp([4, 3, 2]).state_dict(), tmp_path / "runs" / member / f"epoch-{epoch}.pt")
    torch.save(mlp([4, 3, 2]).state_dict(), tmp_path / "runs" / "final.pt")
    zoo = import_zoo(tmp_path / "runs", tmp_path / "out", ImportConfig(pattern="{member}/epoch-{epoch:d}.pt"))
    assert list(zip(zoo.table["member"], zoo.table["epoch"], strict=True)) == [(m, e) for m in "ab" for e in (0, 2, 10)]
    assert zoo.about["left_out"][0]["what"] == "final.pt"
    more = import_zoo(tmp_path / "runs" / "a", tmp_path / "more", ImportConfig(pattern="epoch-{step:d}.pt"))
    assert list(more.table["step"]) == [0, 2, 10]
    with pytest.raises(InputError, match="expected a pattern such as"):
        import_zoo(tmp_path / "runs", tmp_path / "bad", ImportConfig(pattern="{member"))
    with pytest.raises(InputError, match="does not fit the pattern"):
        import_zoo(tmp_path / "runs", tmp_path / "bad", ImportConfig(pattern="{member}.ckpt"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_a_table_gives_properties_by_file_name(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "nets"
    folder.mkdir()
    for number in range(3):
        torch.save(mlp([4, 3, 2]).state_dict(), folder / f"net{number}.pth")
    table = pd.DataFrame({"model": ["net0", "net2.pth", "gone"], "val_acc": [0.1, 0.3, 0.9], "epoch": [1, 2, 3]})
    path = tmp_path / f"about.{kind}"
    if kind == "csv":
        table.to_csv(path, index=False)
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records")
    zoo = import_zoo(folder, tmp_path / "out", ImportConfig(table=str(path)))
    assert zoo.members == ["net0", "net1", "net2"] and list(zoo.table["epoch"]) == [1, 0, 2]
    assert list(zoo.table["validation_accuracy"].fillna(-1)) == [0.1, -1, 0.3]
    assert [entry["what"] for entry in zoo.about["left_out"]] == [f"{path}: gone"]
    assert zoo.about["imported"]["notes"][f"a file has no row in about.{kind}"] == 1


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    torch.save(mlp([4, 2]).state_dict(), tmp_path / "nets" / "a.pt")
    path = tmp_path / "t.csv"
    for text, message in (
        ("x\nnothing\n", "expected a column of .* to name files"),
        ("f,v\na,1\na.pt,2\n", "expected one row of .* per file, found a.pt twice"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            import_zoo(tmp_path / "nets", tmp_path / "out", ImportConfig(table=str(path)))
    for name, message in (("none.csv", "expected a file at"), ("t.xlsx", "expected a table as .csv")):
        (tmp_path / "t.xlsx").write_bytes(b"PK")
        with pytest.raises(InputError, match=message):
            import_zoo(tmp_path / "nets", tmp_path / "out", ImportConfig(table=str(tmp_path / name)))


def test_metadata_of_files_become_properties(tmp_path: Path) -> None:
    folder = tmp_path / "nets"
    folder.mkdir()
    write_weights(folder / "a.safetensors", mlp([4, 2]).state_dict(), {"epoch": "7", "val_acc": "0.75", "author": "me"})
    compiled = {f"_orig_mod.module.{name}": value for name, value in mlp([4, 2]).state_dict().items()}
    torch.save({"state_dict": compiled, "epoch": 3, "optimizer": {"state": {}}}, folder / "b.ckpt")
    zoo = import_zoo(folder, tmp_path / "out")
    assert list(zoo.table["epoch"]) == [7, 3] and zoo.table["validation_accuracy"].iloc[0] == 0.75
    assert zoo.table["author"].iloc[0] == "me" and len(zoo.architectures) == 1
    assert "the prefix '_orig_mod.module.' was dropped from all names" in zoo.about["imported"]["notes"]


def test_hugging_face_folders_are_one_member_each(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / "models" / f"net-{number}"
        folder.mkdir(parents=True)
        weights = mlp([4, 3, 2]).state_dict()
        (folder / "config.json").write_text(json.dumps({"architectures": ["TinyNet"], "hidden_size": 3}))
        names = list(weights)
        for shard, own in enumerate((names[:2], names[2:])):
            write_weights(folder / f"model-{shard}.safetensors", {name: weights[name] for name in own})
        index = {name: f"model-{int(place >= 2)}.safetensors" for place, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        torch.save({}, folder / "optimizer.pt")
    zoo = import_zoo(tmp_path / "models", tmp_path / "out")
    assert zoo.members == ["net-0", "net-1"] and next(iter(zoo.architectures)).startswith("tinynet-")
    assert "config.json: hidden_size" in zoo.about["imported"]["ignored"]
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "models")
    packed = import_zoo(tmp_path / "packed.zip", tmp_path / "unpacked")
    assert torch.equal(packed.weights(0)["module_list.1.weight"], zoo.weights(0)["module_list.1.weight"])


def test_an_architecture_can_be_given_and_is_proved(tmp_path: Path) -> None:
    from garden.small import ResidualNet
    from weightspace.corpus.config import PreparationConfig
    from weightspace.corpus.frame import describe_module, plan_frame

    (tmp_path / "nets").mkdir()
    for number in range(2):
        torch.save(ResidualNet().state_dict(), tmp_path / "nets" / f"{number}.pt")
    given = describe_module("garden.small:ResidualNet", "2,3,6,6")
    zoo = import_zoo(tmp_path / "nets", tmp_path / "out", architectures=[given])
    architecture = zoo.architectures["garden.small.ResidualNet"]
    with pytest.raises(InputError, match="which was not imported"):
        architecture.build()
    frame = plan_frame(architecture, PreparationConfig(token_width=8))
    assert frame.symmetry is not None and len(frame.symmetry.groups) == 2 and "as recorded" in frame.note
    with pytest.raises(InputError, match="expected --example"):
        describe_module("garden.small:ResidualNet", "")
    language = describe_module("garden.sequences:LanguageLSTM", "2,5", 9)
    assert not language.example().is_floating_point() and language.symmetry is not None


def test_two_files_for_one_epoch_are_counted(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    for name in ("a.pt", "a.pth"):
        torch.save(mlp([4, 2]).state_dict(), tmp_path / "nets" / name)
    zoo = import_zoo(tmp_path / "nets", tmp_path / "out")
    assert zoo.members == ["a", "a, a.pth"] and zoo.lineages.nunique() == 1


def test_epochs_that_only_files_know_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "nets" / "a").mkdir(parents=True)
    for number, epoch in enumerate((4, 2, 2, -1)):
        torch.save({"model": mlp([4, 2]).state_dict(), "epoch": epoch}, tmp_path / "nets" / "a" / f"{number}.pt")
    zoo = import_zoo(tmp_path / "nets", tmp_path / "out", ImportConfig(pattern="{member}/{file}.pt"))
    assert list(zoo.table["epoch"]) == [4, 2, 2, 0]
    assert list(zoo.table["member"]) == ["a", "a", "a, a/2.pt", "a, a/3.pt"]
    assert set(zoo.lineages) == {"a"}


def test_a_zoo_among_the_files_is_not_taken_for_checkpoints(zoo: Zoo, tmp_path: Path) -> None:
    shutil.copytree(zoo.folder, tmp_path / "nets" / "zoo")
    torch.save(mlp([4, 2]).state_dict(), tmp_path / "nets" / "a.pt")
    made = import_zoo(tmp_path / "nets", tmp_path / "out")
    assert made.members == ["a"] and made.about["left_out"][0]["what"] == "zoo"


def test_a_model_in_a_folder_of_a_model_is_not_taken_for_it_in_an_archive(tmp_path: Path) -> None:
    for number, place in enumerate((".", "m", "m/sub")):
        folder = tmp_path / "models" / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        write_weights(folder / "model.safetensors", {"w": torch.full((2,), float(number))})
    zoo = import_zoo(tmp_path / "models", tmp_path / "out")
    packed = import_zoo(shutil.make_archive(str(tmp_path / "p"), "zip", tmp_path / "models"), tmp_path / "unpacked")
    assert len(zoo) == 3 and packed.table.equals(zoo.table)
    assert [float(packed.weights(row)["w"][0]) for row in range(3)] == [float(zoo.weights(r)["w"][0]) for r in range(3)]


def test_several_data_sets_of_the_small_cnn_zoo_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("cifar", "mnist"):
        write_small_cnn_zoo(tmp_path / "zoos" / name, [small_cnn() for _ in range(2)])
    with pytest.raises(InputError, match="expected one data set of the Small CNN Zoo, found cifar, mnist"):
        import_zoo(tmp_path / "zoos", tmp_path / "out")


def test_checkpoints_without_results_are_named(trials: Path, tmp_path: Path) -> None:
    (trials / "NN_tune_trainable_1" / "result.json").unlink()
    zoo = import_zoo(trials, tmp_path / "out")
    assert len(zoo) == 6 and len(zoo.about["left_out"]) == 3
    assert "no result.json" in zoo.about["left_out"][0]["why"]


def test_a_row_that_names_several_files_is_left_out(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / "nets" / place).mkdir(parents=True)
        torch.save(mlp([4, 2]).state_dict(), tmp_path / "nets" / place / "model.pt")
    (tmp_path / "nets" / "t.csv").write_text("file,x\nmodel.pt,1\na/model.pt,2\n")
    zoo = import_zoo(tmp_path / "nets", tmp_path / "out")
    assert zoo.table.set_index("member")["x"].to_dict()["a/model"] == 2 and zoo.table["x"].isna().sum() == 1
    assert zoo.about["left_out"] == [{"what": "t.csv: model.pt", "why": "a row of the table that names several files"}]


def test_resuming_with_another_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "TASK_BYTES", 1)
    (tmp_path / "nets").mkdir()
    for number in range(2):
        torch.save(mlp([4, 2]).state_dict(), tmp_path / "nets" / f"{number}.pt")
        (tmp_path / f"t{number}.csv").write_text(f"file,x\n0.pt,{number}\n1.pt,{number}\n")
    with monkeypatch.context() as patched:
        patched.setattr(importing, "write_manifest", lambda *given, **named: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_zoo(tmp_path / "nets", tmp_path / "out", ImportConfig(table=str(tmp_path / "t0.csv")))
    with pytest.raises(InputError, match="expected the same files and settings"):
        import_zoo(tmp_path / "nets", tmp_path / "out", ImportConfig(table=str(tmp_path / "t1.csv")), existing="resume")


@pytest.mark.parametrize(
    "odd",
    [
        {"seed": 2**70},
        {"x": [1, {"y": 2}]},
        {"model::channels_in": -5},
        {"model::o_dim": 10**12},
        {"model::dropout": 5},
        {"model::nlin": "../../evil"},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_odd_settings_do_no_harm(odd: dict[str, object], tmp_path: Path) -> None:
    for number, settings in enumerate((odd, {"x": "text", "seed": 1})):
        network = cnn_s(1)
        write_trial(tmp_path / "zoo" / f"t{number}", settings=settings if number else {}, network=network)
        if not number:
            (tmp_path / "zoo" / "t0" / "params.json").write_text(json.dumps({**SETTINGS, **odd}))
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "out")
    assert len(zoo) == 6 and not list(tmp_path.rglob("*evil*.safetensors"))[1:]


@pytest.mark.parametrize("line", ['{"training_iteration": 1e30}', '{"training_iteration": -1}', "[1]", "[" * 5000, "7"])
def test_odd_lines_of_results_are_counted(line: str, trials: Path, tmp_path: Path) -> None:
    results = trials / "NN_tune_trainable_0" / "result.json"
    results.write_text(results.read_text() + line + "\n")
    zoo = import_zoo(trials, tmp_path / "out")
    assert len(zoo) == 9
    assert zoo.about["imported"]["notes"] == {"a line of result.json is cut off or names no training_iteration": 1}


# Making one warns that quantized tensors are going away; files with them are not.
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_odd_tensors_do_not_end_an_import(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    odd = {
        "float8": {"w": torch.zeros(3).to(torch.float8_e4m3fn)},
        "bfloat16": {"w": torch.ones(3, dtype=torch.bfloat16)},
        "whole": {"w": torch.tensor(3)},
        "complex": {"w": torch.zeros(3, dtype=torch.complex64)},
        "quantized": {"w": torch.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, torch.qint8)},
        "none": {"w": torch.zeros(0, 4)},
    }
    for name, weights in odd.items():
        torch.save(weights, tmp_path / "nets" / f"{name}.pt")
    save_file({}, tmp_path / "nets" / "empty.safetensors")
    zoo = import_zoo(tmp_path / "nets", tmp_path / "out")
    assert set(zoo.members) == {"float8", "bfloat16", "whole", "none", "complex"}
    assert {entry["what"] for entry in zoo.about["left_out"]} == {"quantized.pt", "empty.safetensors"}
    assert len(inspect_folder(tmp_path / "nets").checkpoints) == 7


def test_folders_without_anything_are_refused(trials: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    (tmp_path / "nan").mkdir()
    torch.save({"w": torch.tensor([float("nan")])}, tmp_path / "nan" / "a.pt")
    import_zoo(trials, tmp_path / "done")
    for name, message in (
        ("empty", "found an empty folder"),
        ("absent", "found nothing there"),
        ("text", "found none that can be used"),
        ("text/a.txt", "found a file"),
        ("broken.zip", "expected a readable archive"),
        ("nan", r"found none: a.pt \(NaN or infinite weights in w\)"),
        ("done", "to be a zoo already"),
    ):
        with pytest.raises(InputError, match=message):
            import_zoo(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not partial_path(tmp_path / "out").exists()
    with pytest.raises(InputError, match="expected an --out apart from the inputs"):
        import_zoo(trials, trials, existing="replace")


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    torch.save(mlp([4, 2]).state_dict(), tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(tmp_path / "net.pt", "../../escaped.pt")
        archive.write(tmp_path / "net.pt", "good.pt")
    import_zoo(tmp_path / "evil.zip", tmp_path / "inside" / "deep" / "out")
    assert not list(tmp_path.rglob("escaped.pt"))


def test_interrupted_imports_go_on(trials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "TASK_BYTES", 1)
    real, seen = importing.import_task, []

    def stops(shared: object, task: importing.ImportTask, tick: object) -> object:
        seen.append(task.key)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(shared, task, tick)  # type: ignore[arg-type]

    monkeypatch.setattr(importing, "import_task", stops)
    with pytest.raises(KeyboardInterrupt):
        import_zoo(trials, tmp_path / "out")
    with pytest.raises(InputError, match="--resume continues it"):
        import_zoo(trials, tmp_path / "out")
    with pytest.raises(InputError, match="expected the same files and settings"):
        import_zoo(trials, tmp_path / "out", ImportConfig(largest_weight=5.0), existing="resume")
    zoo = import_zoo(trials, tmp_path / "out", existing="resume")
    assert seen == [f"{number:06d}" for number in (0, 1, 2, 3, 3, 4, 5, 6, 7, 8)]
    assert zoo.table.equals(import_zoo(trials, tmp_path / "whole").table)


def test_tasks_and_shards_are_cut_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "TASK_BYTES", 3 * 2**20)
    (tmp_path / "nets").mkdir()
    for number in range(40):
        torch.save({"w": torch.full((512, 512), float(number))}, tmp_path / "nets" / f"{number}.pt")
    zoo = import_zoo(tmp_path / "nets", tmp_path / "out")
    assert [len(task.entries) for task in importing.plan_tasks(_entries(5))] == [2, 2, 1]
    sizes = [path.stat().st_size for path in (tmp_path / "out" / "shards").iterdir()]
    assert len(sizes) == 3 and max(sizes) < 16 * 2**20
    assert [float(zoo.weights(row)["w"][0, 0]) for row in range(40)] == [float(member) for member in zoo.members]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_stays_bounded_while_importing(tmp_path: Path, workers: int) -> None:
    """A zoo of 1.2 GB goes through a process that grows by less than a third of that."""
    (tmp_path / "nets").mkdir()
    for number in range(120):
        torch.save({"w": torch.randn(1600, 1600)}, tmp_path / "nets" / f"{number}.pt")
    code = (
        "import resource, sys\nfrom weightspace.zoo.importing.importing import import_zoo\n"
        "from weightspace.zoo.importing.config import ImportConfig\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "import_zoo(sys.argv[1], sys.argv[2], ImportConfig(workers=int(sys.argv[3])))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "nets"), str(tmp_path / "zoo"), str(workers)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 500, f"{grown} MiB more, for files of 1,170 MiB"


def _entries(count: int) -> list[importing.Entry]:
    from weightspace.zoo.importing.reader import Kind

    return [importing.Entry(str(n), 0, {}, Kind(), f"{n}.pt", 2**20 + 1) for n in range(count)]


def test_importing_in_two_processes_gives_the_same(
    trials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "TASK_BYTES", 20_000)
    alone, spread = (
        import_zoo(trials, tmp_path / name, ImportConfig(workers=n)) for name, n in (("one", 1), ("two", 2))
    )
    assert Zoo.open(tmp_path / "two").table.equals(alone.table)
    assert torch.equal(alone.weights(5)["module_list.0.weight"], spread.weights(5)["module_list.0.weight"])
