"""The examples in the docstrings of the public names run, on a small zoo and its model."""

import doctest
import inspect
import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import weightspace as ws
from weightspace.images import ImageSet
from weightspace.zoo.embeddings import Representation
from weightspace.zoo.zoo import Zoo

FOLDER = Path(__file__).parent.parent / "examples"
NAMES = [name for name in ws.__all__ if not inspect.ismodule(getattr(ws, name))]


@pytest.fixture(scope="module")
def scope(
    zoo: Zoo,
    zoo_folder: Path,
    parts: tuple[Zoo, ...],
    sane_folder: Path,
    digits: ImageSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What examples may speak of."""
    folder = tmp_path_factory.mktemp("examples")
    train, validation, test = parts
    data = {"zoo": zoo, "train": train, "validation": validation, "test": test, "images": digits}
    places = {
        "folder": folder,
        "zoo_folder": zoo_folder,
        "model_folder": sane_folder,
        "sane": ws.SANE.open(sane_folder),
    }
    libraries = {"np": np, "pd": pd, "torch": torch, "ws": ws, "Path": Path, "Representation": Representation}
    return {name: getattr(ws, name) for name in ws.__all__} | data | places | libraries


def test_every_public_name_has_an_example_that_runs(scope: dict[str, Any]) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    before = Path.cwd()
    os.chdir(scope["folder"])
    try:
        for name in NAMES:
            text = inspect.getdoc(getattr(ws, name)) or ""
            assert ">>>" in text, f"{name} has no example"
            runner.run(doctest.DocTestParser().get_doctest(text, dict(scope), name, None, None))
    finally:
        os.chdir(before)
    assert not runner.summarize(verbose=False).failed


SCRIPTS = {
    "look_into_a_folder": "or the other way round: they differ by",
    "align_two_networks": "halfway between them",
    "read_a_zoo": "s(W): test_accuracy R²",
    "write_networks": "a network nobody trained",
    "start_a_training": "from scratch: test accuracy",
    "add_a_sampler": "numbers generated",
    "adapters_of_digits": "other-factors.safetensors: the same change",
}


def test_all_scripts_are_short_and_run_below() -> None:
    lengths = {path.stem: len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")}
    assert set(lengths) == set(SCRIPTS)
    assert max(lengths.values()) <= 40


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_promises(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / f"{name}.py"))["main"](tmp_path)
    assert SCRIPTS[name] in capsys.readouterr().out
