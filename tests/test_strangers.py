"""What a stranger hands over runs nothing, breaks nothing, and is told of in one sentence."""

import ast
import json
import os
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import weightspace
from tools import refused, run
from weightspace.archives import open_archive, read_entry
from weightspace.cli.app import COMMANDS
from weightspace.errors import InputError
from weightspace.inputs import config_from, parse_json, read_table
from weightspace.outputs import write_table
from weightspace.plain_text import figure_text, markdown_cell, one_line
from weightspace.weights.files import open_weights, read_weights, write_weights
from weightspace.zoo.architecture import OUR_FACTORIES, Architecture
from weightspace.zoo.importing.source import Source
from weightspace.zoo.zoo import Zoo

PACKAGE = Path(weightspace.__file__).parent
COMMAND = Path(sys.executable).with_name("weightspace")
NAMES = [command.__name__.rstrip("_") for commands in COMMANDS.values() for command in commands]
MARK = "ran.txt"


def imported() -> set[str]:
    """The first names of all that the package imports, late imports and those under conditions included."""
    names = {"parse", "sitecustomize", "usercustomize", "utils", "conftest"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - {"weightspace"}


def python_needs() -> list[str]:
    """What `python -m` imports before any code of a package."""
    return run_python("import runpy, sys; print(*sys.modules)").split()


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def words(zoo: Path, sane: Path, out: Path) -> dict[str, list[Any]]:
    """A use of every command that reads, or begins to write, what lies in the working folder."""
    member = f"{zoo}:member-0001"
    return {
        "demo": ["--out", zoo],
        "doctor": [],
        "grow": ["mlp:4", "--data", "digits", "--members", 2, "--epochs", 1, "--workers", 1, "--out", out / "grown"],
        "import": ["nets", "--out", out / "imported"],
        "zoo": [zoo],
        "publish": [zoo, "--out", out / "published"],
        "pretrain": [zoo, "--steps", 2, "--model-width", 8, "--heads", 1, "--latent-width", 4, "--out", out / "sane"],
        "distill": [sane, zoo, "--steps", 1, "--out", out / "distilled"],
        "card": [out / "nowhere", zoo],
        "embed": [sane, zoo, "--out", out / "e.parquet"],
        "probe": [zoo, "--targets", "test_accuracy", "--model", "linear"],
        "predict": [sane, member],
        "forecast": [zoo, member],
        "layers": [sane, member, "--out", out / "l.svg"],
        "similar": [sane, zoo, member],
        "inspect": ["nets"],
        "diff": [member, f"{zoo}:member-0002"],
        "align": [member, f"{zoo}:member-0002", "--out", out / "aligned.safetensors"],
        "merge": [member, f"{zoo}:member-0002", "--anyway", "--out", out / "merged.safetensors"],
        "symmetry": ["weightspace.zoo.growing.networks:cnn_s", "--example", "1,1,28,28"],
        "generate": [sane, "--anchors", zoo, "--best", 2, "--count", 1, "--out", out / "generated"],
        "evaluate": [out / "nowhere"],
        "report": [out / "nowhere", "--out", out / "r.html"],
    }


def test_every_command_is_tried_with_decoys(tmp_path: Path) -> None:
    assert set(words(tmp_path, tmp_path, tmp_path)) == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("command", NAMES)
def test_no_file_of_the_working_folder_is_run(
    command: str, zoo_folder: Path, sane_folder: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    (here / "nets").mkdir(parents=True)
    torch.save({"w": torch.randn(3, 3)}, here / "nets" / "net.pt")
    for name in imported():
        decoy = f"open({str(tmp_path / MARK)!r}, 'a').write({name!r})\nraise SystemExit('a decoy ran')\n"
        (here / f"{name}.py").write_text(decoy)
        (here / "nets" / f"{name}.py").write_text(decoy)
    given = [str(word) for word in words(zoo_folder, sane_folder, tmp_path)[command]]
    for program in ([str(COMMAND)], [sys.executable, "-m", "weightspace"]):
        if "-m" in program:  # Python itself looks there for what it needs to begin with, unless it is run with -P
            for name in python_needs():
                (here / f"{name}.py").unlink(missing_ok=True)
        done = subprocess.run([*program, command, *given], cwd=here, capture_output=True, text=True, timeout=300)
        assert not (tmp_path / MARK).exists(), f"{(tmp_path / MARK).read_text()} of the working folder ran"
        assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr


def network(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(4, 3, generator=generator), "a.bias": torch.randn(4, generator=generator)}


def test_names_are_text() -> None:
    assert one_line("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert one_line("x" * 5_000, 5) == "xxxxx… (5,000 characters)"
    assert markdown_cell("<b>|[x](y)") == "&lt;b&gt;\\|\\[x\\](y)"
    assert figure_text("$x$") == r"\$x\$"


def test_names_do_nothing_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_weights(folder / "run[b]:warning:.safetensors", {"a[/]": torch.zeros(2, 2)})
    write_weights(folder / "\x1b[31mred.safetensors", network())
    (folder / ("9" * 200 + ".pt")).write_bytes(b"nothing")
    status, out, _ = run(capsys, "inspect", folder)
    assert status == 0 and "run[b]:warning:" in out and "\x1b" not in out and "\\x1b[31mred" in out


def test_files_named_in_no_encoding_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_weights(folder / "good.safetensors", network())
    (folder / "good.safetensors").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.safetensors"))
    write_weights(folder / "good.safetensors", network())
    status, out, _ = run(capsys, "import", folder, "--out", tmp_path / "zoo")
    assert status == 0 and "its name is no UTF-8" in out and len(Zoo.open(tmp_path / "zoo")) == 1


def test_tensors_named_in_no_encoding_are_refused(tmp_path: Path) -> None:
    torch.save({"a\ud800": torch.zeros(2)}, tmp_path / "net.pt")
    with pytest.raises(InputError, match="expected names in UTF-8"):
        read_weights(tmp_path / "net.pt")


def test_folders_with_many_ways_are_listed_once(tmp_path: Path) -> None:
    """Fifteen folders with two links each to the next have 32,768 paths, one file each."""
    for level in range(15):
        (tmp_path / f"{level}").mkdir()
        for way in ("a", "b"):
            (tmp_path / f"{level}" / way).symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "15").mkdir()
    write_weights(tmp_path / "15" / "net.safetensors", network())
    assert Source(tmp_path).files == ["15/net.safetensors"]
    assert Source(tmp_path / "0").files == ["b" + "/b" * 14 + "/net.safetensors"]


def test_workers_unpack_an_archive_once(tmp_path: Path) -> None:
    write_weights(tmp_path / "net.safetensors", network())
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "net.safetensors", "net.safetensors")
    handed = pickle.dumps(Source(tmp_path / "a.tar.gz"))
    first, second = pickle.loads(handed), pickle.loads(handed)
    assert first.files == ["net.safetensors"] and first._archive is second._archive


def test_records_of_one_checksum_are_told_apart(tmp_path: Path) -> None:
    """Of ten thousand tensors two have one checksum by chance once in a hundred files."""
    chance, seen = random.Random(0), dict[int, bytes]()  # no secrets
    while True:
        numbers = chance.randbytes(16)
        other = seen.setdefault(zlib.crc32(numbers), numbers)
        if other != numbers:
            break
    pair = {
        name: torch.frombuffer(bytearray(held), dtype=torch.int32)
        for name, held in zip("ab", (numbers, other), strict=True)
    }
    torch.save(pair, tmp_path / "a.pt")
    for keep in (True, False):
        opened = open_weights(tmp_path / "a.pt", keep=keep)
        assert all(torch.equal(opened[name], tensor) for name, tensor in pair.items())


def test_folders_with_links_and_pipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write_weights(folder / "deep" / "good.safetensors", network())
    (folder / "deep" / "again").symlink_to(folder)
    (folder / "nowhere.pt").symlink_to(tmp_path / "nothing.pt")
    os.mkfifo(folder / "pipe.pt")
    (folder / "device.pt").symlink_to("/dev/zero")
    status, out, _ = run(capsys, "inspect", folder)
    assert status == 0 and "1 checkpoint," in out
    for name, why in (
        ("deep/again", "a link to a folder that is there already"),
        ("pipe.pt", "no regular file"),
        ("device.pt", "no regular"),
    ):
        assert f"{name}" in out and why in out


def test_entries_of_archives_that_lead_elsewhere(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "net.pt")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "net.pt", "good.pt")
        for name, target in (("out.pt", "../../net.pt"), ("circle.pt", "circle.pt"), ("last.pt", "good.pt")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    opened = open_archive(tmp_path / "a.tar")
    assert set(opened.entries) == {"good.pt", "last.pt"}
    assert opened.refused == {"out.pt": "a link that leads out of the archive", "circle.pt": "a link in a circle"}
    assert read_entry(opened, "last.pt") == (tmp_path / "net.pt").read_bytes()


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz", ".tar.bz2"])
def test_what_comes_before_a_cut_is_read(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mode: Any = {".tar": "w:", ".tar.gz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"}[ending]
    with tarfile.open(tmp_path / f"a{ending}", mode) as archive:
        for seed in range(3):
            write_weights(
                tmp_path / "n.safetensors", {"w": torch.randn(300, 300, generator=torch.Generator().manual_seed(seed))}
            )
            archive.add(tmp_path / "n.safetensors", f"{seed}.safetensors")
    whole = (tmp_path / f"a{ending}").read_bytes()
    (tmp_path / f"a{ending}").write_bytes(whole[: int(len(whole) * 0.8)])
    status, out, err = run(capsys, "inspect", tmp_path / f"a{ending}")
    # What bzip2 packs in one block is lost as a whole.
    assert (status == 0 and "0.safetensors" in out and "damaged from" in out) or (
        ending.endswith("bz2") and status == 2
    ), err


def test_archives_far_larger_than_they_look_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.weight.npy", bytes(80 * 2**20))
    with pytest.raises(InputError, match="expected at most 100 times"):
        read_weights(tmp_path / "a.npz")


def test_entries_far_larger_than_they_look_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(network(), tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.pt", bytes(80 * 2**20))
        archive.write(tmp_path / "net.pt", "good.pt")
    status, out, _ = run(capsys, "inspect", tmp_path / "a.zip")
    assert (
        status == 0 and "2 checkpoints, 1 with remarks" in out and "expected at most 100 times" in " ".join(out.split())
    )


def test_tables_of_very_many_columns_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_weights(folder / "a.safetensors", network())
    (folder / "results.csv").write_text("file," + "," * 20_000 + "\na," + "," * 20_000 + "\n")
    status, out, _ = run(capsys, "inspect", folder)
    assert status == 0 and "results.csv" in out


def test_expanded_tensors_are_not_made_whole(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(50_000_000)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="expected tensors about as large as their file"):
        read_weights(tmp_path / "a.pt")


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(network(), tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_weights(tmp_path / "a.pt")["a.weight"], network()["a.weight"])


def test_deep_json_is_one_sentence() -> None:
    with pytest.raises(InputError, match="nested too deep"):
        parse_json("[" * 100_000, "a file")


def test_tables_that_unpack_to_very_much_are_refused(tmp_path: Path) -> None:
    rows = 3_000
    pd.DataFrame({"text": ["x" * 300_000] * rows}).to_parquet(tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 2**20
    with pytest.raises(InputError, match="expected at most 512 MiB"):
        read_table(tmp_path / "t.parquet")


def test_configurations_have_types() -> None:
    from weightspace.autoencoder.config import SANEConfig

    assert config_from(SANEConfig, {"layers": 3, "position_limits": [1, 2, 3, 4]}, "a file").layers == 3
    wrongs: list[Any] = [
        {"layers": "3"},
        {"layers": True},
        {"dropout": None},
        {"positions": "x"},
        {"unknown": 1},
        [],
        {"layers": 0},
    ]
    for wrong in wrongs:
        with pytest.raises(InputError):
            config_from(SANEConfig, wrong, "a file")


ENTRY = {"id": "net", "shapes": {"w": [2, 2]}}


ODD: dict[str, list[Any]] = {
    "id": [["x"], "", 5],
    "shapes": [[], {"w": 5}, {"w": [-1]}, {"w": [2**41]}, {"w": ["2"]}, {"w": [True]}],
    "dtypes": [{"w": "load"}, {"w": "nonsense"}, {"v": "float16"}],
    "integers": [-5, "x", 1.5],
    "example_shape": ["x", [0.5], 5],
    "arguments": [[], "x"],
    "aliases": [{"v": "nothing"}],
    "masks": [["v"]],
    "order": [[5]],
    "symmetry": [5],
    "note": [5],
    "factory": [5],
}


@pytest.mark.parametrize("change", [{name: value} for name, values in ODD.items() for value in values])
def test_entries_of_architectures_are_checked(change: dict[str, Any]) -> None:
    Architecture.from_json(ENTRY)
    with pytest.raises(InputError, match="expected an architecture entry"):
        Architecture.from_json(ENTRY | change)


def test_arguments_of_a_strangers_own_modules_are_their_own() -> None:
    """Of our factories a list is of widths, each of which is a layer; a list of classes may be longer."""
    arguments = {"arguments": {"widths": [1] * 1_000}}
    assert Architecture.from_json(ENTRY | {"factory": "nets:Net"} | arguments).arguments == arguments["arguments"]
    with pytest.raises(InputError, match="lists as long as it has tensors"):
        Architecture.from_json(ENTRY | {"factory": OUR_FACTORIES[0]} | arguments)


def test_large_inputs_are_for_those_who_ask_for_them() -> None:
    entry = Architecture.from_json(ENTRY | {"example_shape": [2, 2**24]})
    with pytest.raises(InputError, match="expected an input of at most 16,777,216 numbers"):
        entry.inputs()
    assert replace(entry, trusted=True).example().shape == (2, 2**24)


def test_rows_of_any_whole_type_are_the_same_rows(zoo_folder: Path, tmp_path: Path) -> None:
    import shutil

    expected = [zoo.weights(row) for zoo in [Zoo.open(zoo_folder)] for row in (0, 5, 9)]
    for kind in ("int8", "uint8", "uint64", "int16"):
        folder = Path(shutil.copytree(zoo_folder, tmp_path / kind))
        table = pd.read_parquet(folder / "models.parquet")
        table.assign(row=table["row"].astype(kind)).to_parquet(folder / "models.parquet", index=False)
        zoo = Zoo.open(folder)
        for one, other in zip(expected, (zoo.weights(row) for row in (0, 5, 9)), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
        assert sum(len(piece.table) for piece in zoo.stacks()) == len(zoo)


@pytest.mark.parametrize("members", [["a", "b"], 5, "", None])
def test_members_have_names(members: object, zoo_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(zoo_folder, tmp_path / "zoo"))
    table = pd.read_parquet(folder / "models.parquet")
    table.assign(member=[members] * len(table)).to_parquet(folder / "models.parquet", index=False)
    with pytest.raises(InputError, match="expected names in the column member"):
        Zoo.open(folder)


def test_weights_that_are_not_those_of_the_table_are_refused(zoo_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(zoo_folder, tmp_path / "zoo"))
    table = pd.read_parquet(folder / "models.parquet")
    swapped = table.assign(row=table["row"].replace({0: 1, 1: 0}))
    swapped.to_parquet(folder / "models.parquet", index=False)
    with pytest.raises(InputError, match="expected the weights that models.parquet was written for"):
        list(Zoo.open(folder).stacks())


def test_a_published_zoo_tells_no_local_path(
    zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = Path(shutil.copytree(zoo_folder, tmp_path / "jane.doe" / "zoo"))
    about = json.loads((folder / "zoo.json").read_text())
    about["images"]["source"] = "/home/jane.doe/data/mnist.npz"
    about["architectures"][0] |= {"factory": "/home/jane.doe/nets.py:Net", "note": "see /home/jane.doe/notes"}
    table = pd.read_parquet(folder / "models.parquet")
    write_table(folder / "models.parquet", table.assign(run="/home/jane.doe/runs/1", rate=0.1))
    about["left_out"] = [{"what": "a.pt", "why": "expected a file at /home/jane.doe/runs/a.pt, found none"}]
    (folder / "zoo.json").write_text(json.dumps(about))
    assert run(capsys, "publish", folder, "--out", tmp_path / "out")[0] == 0
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"jane" not in path.read_bytes(), path
    published = Zoo.open(tmp_path / "out")
    assert published.about["images"]["source"] == "mnist.npz"
    assert "nets.py:Net" in [entry.factory for entry in published.architectures.values()]
    assert list(published.table["run"].unique()) == ["1"] and published.table["rate"].eq(0.1).all()


def test_an_id_names_no_file_elsewhere(zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    folder = Path(shutil.copytree(zoo_folder, tmp_path / "zoo"))
    about = json.loads((folder / "zoo.json").read_text())
    names = {entry["id"]: f"../../{entry['id']}" for entry in about["architectures"]}
    about["architectures"] = [{**entry, "id": names[entry["id"]]} for entry in about["architectures"]]
    (folder / "zoo.json").write_text(json.dumps(about))
    table = pd.read_parquet(folder / "models.parquet")
    table.assign(architecture=table["architecture"].map(names)).to_parquet(folder / "models.parquet", index=False)
    before = set(tmp_path.rglob("*"))
    assert run(capsys, "publish", folder, "--out", tmp_path / "out")[0] == 0
    assert all(path.is_relative_to(tmp_path / "out") for path in set(tmp_path.rglob("*")) - before)


ABSURD = {
    ("grow", "mlp:1000000000", "--data", "digits", "--out", "OUT"): "width",
    ("grow", "mlp:8", "--data", "digits", "--members", "1000000000", "--out", "OUT"): "members",
    ("grow", "mlp:8", "--data", "digits", "--size", "20000", "--out", "OUT"): "image size",
    ("grow", "mlp:8", "--data", "digits", "--epochs", "-1", "--out", "OUT"): "epochs",
    ("pretrain", "ZOO", "--steps", "-5", "--out", "OUT"): "steps",
    ("pretrain", "ZOO", "--latent-width", "1000000000", "--out", "OUT"): "latent width",
    ("pretrain", "ZOO", "--model-width", "1000000000", "--out", "OUT"): "model width",
    ("pretrain", "ZOO", "--window", "1000000000", "--out", "OUT"): "window",
    ("pretrain", "ZOO", "--batch-size", "1000000000", "--out", "OUT"): "batch size",
    ("pretrain", "ZOO", "--token-width", "1000000000", "--out", "OUT"): "token width",
    ("generate", "SANE", "--anchors", "ZOO", "--best", "0", "--out", "OUT"): "best",
    ("generate", "SANE", "--anchors", "ZOO", "--best", "2", "--count", "1000000000", "--out", "OUT"): "count",
    ("generate", "SANE", "--anchors", "ZOO", "--best", "2", "--draws", "1000000000", "--out", "OUT"): "draws",
    ("distill", "SANE", "ZOO", "--networks", "1000000000", "--out", "OUT"): "networks",
    ("predict", "SANE", "ZOO:member-0001", "--inputs", "1000000000"): "inputs",
    ("similar", "SANE", "ZOO", "ZOO:member-0001", "--count", "-1"): "",
    ("publish", "ZOO", "--shard-mib", "0", "--out", "OUT"): "shard",
    ("inspect", "ZOO", "--rows", "-1"): "rows",
    ("symmetry", "weightspace.zoo.growing.networks:cnn_s", "--example", "1000000,1,28,28"): "input",
}


@pytest.mark.parametrize("given", ABSURD, ids=" ".join)
def test_absurd_options_are_one_sentence(
    given: tuple[str, ...], zoo_folder: Path, sane_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "OUT": tmp_path / "out",
        "ZOO": zoo_folder,
        "SANE": sane_folder,
        "ZOO:member-0001": f"{zoo_folder}:member-0001",
    }
    said = refused(capsys, *(places.get(word, word) for word in given))
    assert ABSURD[given] in said
    assert not list(tmp_path.iterdir())
