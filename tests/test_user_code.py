"""Code in the working folder is only ever run if its module was named by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from weightspace.cli.app import main
from weightspace.images import open_images
from weightspace.user_code import import_named, working_folder_last
from weightspace.weights.files import write_weights
from weightspace.zoo.architecture import build_module
from weightspace.zoo.recorded_images import recorded_images
from weightspace.zoo.zoo import Zoo

# Libraries, large and small, that commands import late.
NAMES = ("fsspec", "parse", "sklearn", "pandas", "joblib", "fonts", "ast", "jinja2", "rich")


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """A folder of checkpoints with files that are called like libraries, and leave a mark when they are run."""
    folder = tmp_path / "download"
    folder.mkdir()
    for number in range(2):
        write_weights(folder / f"{number}.safetensors", dict(torch.nn.Linear(4, 3).state_dict()))
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'RUN')!r}).touch()\n")
    return folder


@pytest.mark.parametrize("start", [["-m", "weightspace"], ["-c", "from weightspace.cli import main; main()"]])
def test_a_file_that_is_called_like_a_library_is_not_run(download: Path, tmp_path: Path, start: list[str]) -> None:
    # As an installed command starts: its own folder is first on the path, never the working folder.
    safe = ["-P"] if start[0] == "-c" else []
    words = [sys.executable, *safe, *start, "inspect", ".", "--json"]
    done = subprocess.run(words, cwd=download, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "RUN").exists()


def test_processes_of_ours_do_not_look_there_either(monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.cli.app import main

    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["PYTHONSAFEPATH"] == "1"
    monkeypatch.delenv("PYTHONSAFEPATH")


def test_a_module_that_is_named_is_found_behind_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_nets.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 3)\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('taken for the library')\n")
    before = list(sys.path)
    assert isinstance(build_module("their_nets:net"), torch.nn.Linear)
    assert import_named("json:dumps")([1]) == "[1]" and sys.path == before
    with working_folder_last():
        assert sys.path[-1] == str(tmp_path)
    assert sys.path == before


def test_images_that_a_zoo_names_are_files_or_nothing(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.chdir(tmp_path)
    (tmp_path / "other:main").touch()
    (tmp_path / "other.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'RUN')!r}).touch()\n")
    assert recorded_images(replace(zoo, about={"images": {**zoo.about["images"], "source": "other:main"}})) is None
    assert not (tmp_path / "RUN").exists()
    assert open_images("digits").classes == 10


def test_what_a_module_of_the_users_raises_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_raising.py").write_text(
        "import torch\ndef broken():\n    raise RuntimeError('not today')\n"
        "def flat():\n    return torch.nn.Linear(64, 10)\n"
    )
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["symmetry", "mine_raising:broken", "--example", "2,64"], "to build a module, found RuntimeError: not today"),
        (["grow", "mine_raising:flat", "--data", "digits", "--out", "zoo"], "to take images of shape [1, 8, 8], found"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2 and message in capsys.readouterr().err
