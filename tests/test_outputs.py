import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from weightspace.errors import InputError
from weightspace.outputs import (
    hash_input,
    new_file,
    new_folder,
    partial_path,
    require_apart,
    write_json,
    write_manifest,
)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        raise RuntimeError
    with pytest.raises(RuntimeError), new_file(tmp_path / "out.txt") as path:
        path.write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("1")
    with pytest.raises(InputError, match="expected nothing at"), new_folder(tmp_path / "out"):
        pass
    with pytest.raises(InputError, match="expected nothing at"), new_file(tmp_path / "out"):
        pass
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", existing="replace"):
        raise RuntimeError
    assert (tmp_path / "out" / "precious").read_text() == "1"
    with new_folder(tmp_path / "out", existing="replace"):
        pass
    assert not (tmp_path / "out" / "precious").exists()


def test_resumable_work_is_kept_and_continued(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(InputError, match="found none"), new_folder(target, existing="resume", resumable="state"):
        pass
    with pytest.raises(KeyboardInterrupt), new_folder(target, resumable="state") as folder:
        (folder / "state").write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="--resume continues it"), new_folder(target, resumable="state"):
        pass
    with new_folder(target, existing="resume", resumable="state") as folder:
        assert (folder / "state").read_text() == "half"
    assert (target / "state").exists() and not partial_path(target).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="expected permission to write"), new_folder(tmp_path / "out"):
        pass


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "expected permission to write"),
        (errno.ENOSPC, "expected room on the disk"),
        (errno.EROFS, "expected a writable file system"),
    ],
)
def test_the_systems_refusals_are_one_sentence(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(InputError, match=message), new_folder(tmp_path / "out"):
        raise OSError(number, os.strerror(number), "somewhere")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_parent_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder as parent"), new_folder(tmp_path / "file" / "out"):
        pass


def test_only_work_worth_resuming_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", resumable="state") as folder:
        (folder / "other").write_text("")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_like_with_like_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(InputError, match="found a file, which --force does not"),
        new_folder(tmp_path / "file", existing="replace"),
    ):
        pass
    with pytest.raises(InputError, match="found a folder, which"), new_file(tmp_path / "folder", existing="replace"):
        pass
    assert (tmp_path / "file").read_text() == "precious" and (tmp_path / "folder").is_dir()


def test_inputs_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo").mkdir()
    for target in (tmp_path, tmp_path / "zoo"):
        with pytest.raises(InputError, match="apart from the inputs"):
            require_apart(target, [tmp_path / "zoo"])
    require_apart(tmp_path / "zoo" / "inside", [tmp_path / "zoo"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="apart from the inputs"), new_folder(".", existing="replace"):
        pass


@pytest.mark.parametrize("kind", [RuntimeError, SafetensorError])
def test_a_full_disk_is_one_sentence_whoever_reports_it(tmp_path: Path, kind: type[Exception]) -> None:
    with pytest.raises(InputError, match="expected room on the disk"), new_folder(tmp_path / "out"):
        raise kind("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(kind), new_folder(tmp_path / "out"):
        raise kind("something else")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a shorter name"), new_folder(tmp_path / ("n" * 300)):
        pass


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"nan": float("nan"), "path": Path("x"), 1: (2, {3})})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "path": "x", "1": [2, [3]]}


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text("{}")
    write_manifest(tmp_path, configuration={"steps": 3}, seed=5, inputs=[tmp_path / "input.json"])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seed"] == 5 and manifest["configuration"] == {"steps": 3}
    assert manifest["inputs"][str(tmp_path / "input.json")] == hash_input(tmp_path / "input.json")
    assert {"command", "weightspace", "created", "versions"} <= set(manifest)


def test_a_folders_hash_follows_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    before = hash_input(tmp_path)
    assert hash_input(tmp_path) == before
    (tmp_path / "a.json").write_text("2")
    assert hash_input(tmp_path) != before
