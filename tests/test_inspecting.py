"""What `inspect`, `zoo --plot` and `publish` tell of checkpoints and zoos, and zoos put together."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.patches import Rectangle
from safetensors.torch import save_file

from tools import refused, run
from weightspace.analysis.inspecting.asking import _Asked, _view
from weightspace.analysis.inspecting.checkpoints import Inspected, Inspection, inspect_folder
from weightspace.errors import InputError
from weightspace.report.plots import draw_zoo
from weightspace.responses.asking import Responses, agreement
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.weights.files import write_weights
from weightspace.zoo.cards import CardText
from weightspace.zoo.growing.networks import mlp
from weightspace.zoo.splitting import concatenate
from weightspace.zoo.writing import publish
from weightspace.zoo.zoo import Zoo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six networks of one architecture, each but the first with something the matter, and files of other kinds."""
    folder = tmp_path / "nets"
    folder.mkdir()
    networks = [mlp([6, 5, 4]).state_dict() for _ in range(6)]
    first, second = "module_list.1.weight", "module_list.3.weight"
    networks[1][first][2] = 0
    networks[2][first][3] = networks[2][first][1]
    networks[3][second][0, 0] = float("inf")
    networks[4][second] *= 500
    for number, weights in enumerate(networks):
        torch.save(weights, folder / f"net{number}.pt")
    shutil.copy(folder / "net0.pt", folder / "copy of net0.pt")
    write_weights(folder / "net0.safetensors", networks[0])
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in networks[5].items()}}, folder / "wrapped.ckpt"
    )
    (folder / "cut.safetensors").write_bytes((folder / "net0.safetensors").read_bytes()[:100])
    save_file({"w": torch.zeros(3, 2, dtype=torch.float16), "n": torch.tensor([1])}, folder / "other.safetensors")
    torch.save({}, folder / "optimizer.pt")
    return folder


def by_path(inspection: Inspection) -> dict[str, Inspected]:
    return {found.path: found for found in inspection.checkpoints}


def test_inspecting_finds_what_was_planted(folder: Path) -> None:
    inspection = inspect_folder(folder)
    found = by_path(inspection)
    assert len(found) == 11 and [entry["what"] for entry in inspection.left_out] == ["optimizer.pt"]
    assert found["net0.pt"].remarks() == [] and found["net0.pt"].parameters == 59
    assert found["net1.pt"].zero_units == {"module_list.1.weight": 1}
    assert found["net2.pt"].duplicate_units == {"module_list.1.weight": 1}
    assert found["net3.pt"].broken == {"module_list.3.weight": 1}
    assert found["net4.pt"].outlying_layers["module_list.3.weight"] == pytest.approx(500, rel=0.5)
    assert not any("module_list.3.weight" in found[f"net{number}.pt"].outlying_layers for number in (0, 1, 2, 3, 5))
    assert "a damaged one" in found["cut.safetensors"].problem and str(folder) not in found["cut.safetensors"].problem
    assert found["wrapped.ckpt"].wrapping == "state_dict/module."
    assert found["other.safetensors"].dtypes == {"float16": 6, "int64": 1}
    assert found["other.safetensors"].zero_units == {"w": 3} and not found["other.safetensors"].duplicate_units
    assert len({found[name].architecture for name in ("net0.pt", "net0.safetensors", "wrapped.ckpt")}) == 1
    assert found["net0.pt"].architecture != found["other.safetensors"].architecture


def test_zero_rows_of_either_sign_are_no_duplicates(tmp_path: Path) -> None:
    rows = torch.randn(6, 5)
    rows[:3] *= torch.zeros(3, 1)  # some are -0
    rows[5] = rows[4]
    save_file({"w": rows, "thin": torch.zeros(4, 1)}, tmp_path / "pruned.safetensors")
    (found,) = inspect_folder(tmp_path).checkpoints
    assert found.zero_units == {"w": 3, "thin": 4} and found.duplicate_units == {"w": 1}


def test_inspecting_finds_duplicates_by_bytes_and_by_tensors(folder: Path) -> None:
    inspection = inspect_folder(folder)
    assert inspection.equal_files == [["copy of net0.pt", "net0.pt"]]
    assert inspection.equal_tensors == [["copy of net0.pt", "net0.pt", "net0.safetensors"], ["net5.pt", "wrapped.ckpt"]]


def test_the_same_numbers_under_other_names_are_found(tmp_path: Path) -> None:
    experts = [torch.randn(4, 6) for _ in range(3)]
    apart = {f"experts.{n}.weight": expert for n, expert in enumerate(experts)} | {"gate": torch.randn(3, 6)}
    stacked = {"experts.weight": torch.stack(experts).transpose(1, 2).contiguous(), "router": apart["gate"]}
    near = {**apart, "gate": apart["gate"] + 1e-6}
    for name, weights in {"apart": apart, "stacked": stacked, "near": near, "copy": apart}.items():
        save_file(weights, tmp_path / f"{name}.safetensors")
    inspection = inspect_folder(tmp_path)
    assert inspection.equal_numbers == [["apart.safetensors", "stacked.safetensors"]]
    assert inspection.equal_files == [["apart.safetensors", "copy.safetensors"]]


def test_inspecting_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, ("executed",))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    torch.save({"a": Code()}, tmp_path / "nets" / "evil.pt")
    (only,) = inspect_folder(tmp_path / "nets").checkpoints
    assert "pickle that needs code to load" in only.problem and not (tmp_path / "executed").exists()


def test_inspecting_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Files of 64 MB in all, in a process that may not grow by more than 40 MB."""
    import subprocess
    import sys

    (tmp_path / "nets").mkdir()
    for number in range(4):
        tensors = {f"w{place}": torch.randn(1024, 1024) for place in range(4)}
        write_weights(tmp_path / "nets" / f"{number}.safetensors", tensors)
    code = (
        "import resource, torch, sys\n"
        "from weightspace.analysis.inspecting.checkpoints import inspect_folder\n"
        "import weightspace.zoo.importing.identifying, weightspace.progress\n"
        "torch.randn(1024, 1024).square().mean()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "inspect_folder(sys.argv[1])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "nets")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 60, f"{grown} MiB more, for files of 64 MiB in all"


def test_folders_without_checkpoints_are_refused(tmp_path: Path, zoo_folder: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for place, message in ((tmp_path, "found none that inspect reads"), (zoo_folder, "to be a zoo already")):
        with pytest.raises(InputError, match=message):
            inspect_folder(place)


def test_the_plot_shows_what_varies(zoo: Zoo) -> None:
    figure = draw_zoo(zoo)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "members over epochs" and {"test accuracy", "activation", "learning rate"} <= set(titles)
    assert "dropout" not in titles and "optimizer" not in titles
    assert next(axes for axes in figure.axes if axes.get_title() == "weight decay").get_xscale() == "log"
    counts = next(axes for axes in figure.axes if axes.get_title() == "test accuracy").patches
    bars = [patch for patch in counts if isinstance(patch, Rectangle)]
    assert len(bars) == len(counts) and sum(bar.get_height() for bar in bars) == len(zoo)


def test_a_published_zoo_is_the_same_zoo_in_bounded_shards(zoo: Zoo, tmp_path: Path) -> None:
    from weightspace.zoo import writing

    about = CardText(title="Digits: a zoo", license="cc-by-4.0", source="Grown by a test.")
    writer = writing.ZooWriter(tmp_path / "small", shard_bytes=30_000)
    for piece in zoo.stacks():
        writer.add(piece.architecture, piece.stack, piece.table.drop(columns=["architecture", "shard", "row"]))
    writer.finish(zoo.about, about)
    small = Zoo.open(tmp_path / "small")
    shards = list((tmp_path / "small" / "shards").iterdir())
    assert len(shards) > 4 and max(path.stat().st_size for path in shards) < 32_000
    published = publish(small, tmp_path / "out", about)
    assert published["checkpoints"] == 72 and published["shards"] == 2
    again = Zoo.open(tmp_path / "out")
    key = ["member", "epoch"]
    merged = zoo.table.merge(again.table, on=key, suffixes=("", "_again"))
    assert len(merged) == 72 and (merged["test_loss"] == merged["test_loss_again"]).all()
    row = again.table.index[(again.table["member"] == "member-0003") & (again.table["epoch"] == 2)][0]
    own = zoo.table.index[(zoo.table["member"] == "member-0003") & (zoo.table["epoch"] == 2)][0]
    assert all(torch.equal(tensor, again.weights(int(row))[name]) for name, tensor in zoo.weights(int(own)).items())


def test_the_card_is_one_that_the_hub_reads(zoo: Zoo, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the card is checked with the hub's own reader")
    publish(zoo, tmp_path / "out", CardText(title='Digits: a "zoo"', license="mit", source="From a test."))
    card = hub.DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit" and card.data.pretty_name == 'Digits: a "zoo"'
    assert card.data.size_categories == ["n<1K"] and "model-zoo" in card.data.tags
    configuration = card.data.to_dict()["configs"][0]
    assert (tmp_path / "out" / configuration["data_files"]).is_file()
    assert "| test_accuracy |" in card.text and "From a test." in card.text


def test_files_of_a_zoo_can_be_read_by_others(zoo: Zoo, tmp_path: Path) -> None:
    publish(zoo, tmp_path / "out", CardText())
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_zoos_are_concatenated_without_copying(zoo: Zoo, tmp_path: Path) -> None:
    shutil.copytree(zoo.folder, tmp_path / "other")
    other = Zoo.open(tmp_path / "other")
    both = concatenate([zoo, other])
    assert (len(both) == 144 and both.members[0] == f"{zoo.folder.name}/member-0000") or len(both.members) == 48
    assert len(both.architectures) == 2 and both.folders == [zoo.folder, tmp_path / "other"]
    assert torch.equal(both.weights(80)["module_list.1.weight"], other.weights(8)["module_list.1.weight"])
    assert sum(len(piece.table) for piece in both.batches(10)) == 144
    assert max(len(piece.table) for piece in both.batches(10)) == 10
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(InputError, match="more than once"):
        concatenate([zoo, zoo])
    with pytest.raises(InputError, match="at least 1 zoo"):
        concatenate([])
    with pytest.raises(InputError, match="size of a batch"):
        next(zoo.batches(0))


def test_architectures_of_one_name_that_differ_are_kept_apart(zoo: Zoo, tmp_path: Path) -> None:
    shutil.copytree(zoo.folder, tmp_path / "other")
    about = json.loads((tmp_path / "other" / "zoo.json").read_text())
    about["architectures"][0]["note"] = "another"
    (tmp_path / "other" / "zoo.json").write_text(json.dumps(about))
    table = pd.read_parquet(tmp_path / "other" / "models.parquet")
    table["member"] += "-b"
    table.to_parquet(tmp_path / "other" / "models.parquet", index=False)
    both = concatenate([zoo, Zoo.open(tmp_path / "other")])
    first = about["architectures"][0]["id"]
    assert f"other-{first}" in both.architectures and both.members[-1].endswith("-b")
    assert set(both.table["architecture"]) == set(both.architectures)


def test_plots_bear_odd_columns(zoo: Zoo, tmp_path: Path) -> None:
    table = zoo.table.assign(
        close=[0.3, 0.30000000000000004] * 36,
        infinite=[float("inf"), float("-inf")] * 36,
        money=["$1", "$2$"] * 36,
        test_accuracy=zoo.table["test_accuracy"] * 100,
    )
    figure = draw_zoo(replace(zoo, table=table))
    figure.savefig(tmp_path / "z.png")
    assert figure.axes[0].get_ylim()[1] > 1 and "infinite" not in [axes.get_title() for axes in figure.axes]
    words = draw_zoo(
        replace(zoo, table=table.assign(test_accuracy="high", validation_accuracy="x", train_accuracy="y"))
    )
    words.savefig(tmp_path / "w.png")


def test_publishing_a_concatenation_names_no_local_folder(zoo: Zoo, tmp_path: Path) -> None:
    shutil.copytree(zoo.folder, tmp_path / "other")
    publish(concatenate([zoo, Zoo.open(tmp_path / "other")]), tmp_path / "out", CardText(license="mit\nfoo: bar"))
    assert Zoo.open(tmp_path / "out").folders == [tmp_path / "out"]
    assert str(tmp_path) not in (tmp_path / "out" / "zoo.json").read_text()
    assert "\nfoo: bar" not in (tmp_path / "out" / "README.md").read_text()


def test_what_checkpoints_do_tells_copies_from_damaged_ones(
    zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A permuted copy answers alike; one whose last layer was overwritten has nearly the weights and does not."""
    last = zoo.last()
    weights, row = last.weights(2), last.table.iloc[2]
    symmetry = trace_symmetry(last.architectures[row["architecture"]].build(), torch.zeros(1, 1, 8, 8))
    final = list(weights)[-1]
    damaged = {**weights, final: weights[final] + 1e3 * torch.eye(len(weights[final]))[0]}
    slightly = {name: tensor + 1e-4 * torch.randn_like(tensor) for name, tensor in weights.items()}
    files = {
        "good": weights,
        "moved": permute(weights, symmetry, random_permutations(symmetry, torch.Generator().manual_seed(0))),
        "slightly": slightly,
        "damaged": damaged,
        "silent": {name: torch.zeros_like(tensor) for name, tensor in weights.items()},
    }
    for name, tensors in files.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / f"{name}.safetensors")
    activation = str(row["activation"])
    module = f"weightspace.zoo.growing.networks:mlp?widths=[64,8,10]&activation={activation}"
    words = ("inspect", tmp_path, "--by", "responses", "--architecture", module, "--example", "1,1,8,8")
    code, said, trouble = run(capsys, *words, "--json")
    assert code == 0, trouble
    asked = {view["path"].removesuffix(".safetensors"): view for view in json.loads(said)["asked"]}
    assert asked["good"]["agreement"] == 1 and asked["good"]["nearest"] in ("moved.safetensors", "slightly.safetensors")
    assert not asked["good"]["note"] and not asked["moved"]["note"]
    assert asked["silent"]["note"] == "answers every input alike"
    assert asked["damaged"]["note"] == "answers every input alike"
    _, table, _ = run(capsys, *words)
    assert "What they do" in table and "answers every input alike" in table
    assert "expected --architecture" in refused(capsys, "inspect", tmp_path, "--by", "responses")


def test_nearly_the_weights_of_another_and_other_answers() -> None:
    answers = torch.eye(4).repeat(8, 1)
    good, other = (Responses({}, [], 1.0, (values,), True) for values in (answers, answers.roll(1, dims=1)))
    asked = {name: _Asked(one, "net") for name, one in (("a", good), ("b", good), ("broken", other))}
    view = _view("broken", asked, ["a"])
    assert view.note == "nearly the weights of a, but answers alike on 0% of inputs only"
    assert _view("a", asked, ["b", "broken"]).note == "" and agreement(good, good) == 1
    flat = [Responses({}, [], 1.0, (values,), False) for values in (answers, answers, -answers)]
    assert agreement(*flat[:2]) == 1 and agreement(*flat[1:]) == 0
