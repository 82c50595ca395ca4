"""Modules as users name them: arguments, files, several inputs."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tools import run
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.frame import describe_module, plan_frame
from weightspace.errors import InputError
from weightspace.user_code import split_arguments
from weightspace.weights.files import write_weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.importing.importing import import_zoo

CAPTIONS = """
import torch
from torch import nn
from beside import WIDTH


class Captions(nn.Module):
    def __init__(self, width=WIDTH, vocabulary=50, name="plain"):
        super().__init__()
        self.name = name
        self.image, self.text = nn.Conv2d(3, width, 3), nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, 4)

    def forward(self, image, text):
        return self.head(torch.relu(self.image(image).mean((2, 3)))) * self.head(self.text(text).mean(1))


def inputs():
    return {"image": torch.zeros(2, 3, 8, 8), "text": torch.arange(10).reshape(2, 5)}


def nothing():
    return None
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "beside.py").write_text("WIDTH = 6\n")
    (tmp_path / "folder" / "captions.py").write_text(CAPTIONS)
    return str(tmp_path / "folder" / "captions.py")


@pytest.mark.parametrize(
    ("address", "arguments"),
    [
        ("my_nets:Net", {}),
        ("my_nets:Net?width=8&deep=true&name=wide", {"width": 8, "deep": True, "name": "wide"}),
        ('my_nets:Net?{"sizes": [3, 4]}', {"sizes": [3, 4]}),
        ("my_nets:Net?sizes=[3,4]", {"sizes": [3, 4]}),
    ],
)
def test_arguments_follow_a_question_mark(address: str, arguments: dict[str, object]) -> None:
    assert split_arguments(address) == ("my_nets:Net", arguments)


@pytest.mark.parametrize("address", ["my_nets:Net?width", 'my_nets:Net?{"width"', "my_nets:Net?a b=1"])
def test_other_arguments_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="expected arguments"):
        split_arguments(address)


def test_several_inputs_are_found_by_what_runs(nets: str) -> None:
    described = describe_module(f"{nets}:Captions?width=8&name=wide", ["2,3,8,8", "2,5"], [50])
    assert described.id == "captions.Captions-width8-namewide" and described.arguments == {"width": 8, "name": "wide"}
    assert described.several_inputs == (((2, 3, 8, 8), 0), ((2, 5), 50)) and described.example_shape is None
    assert described.symmetry is not None and described.symmetry["groups"] == {"image.weight:0": 8}
    again = Architecture.from_json(json.loads(json.dumps(described.to_json())))
    assert again == described
    frame = plan_frame(again, PreparationConfig(token_width=16), [str(described.factory)])
    assert frame.symmetry is not None and not frame.note
    with pytest.raises(InputError, match="expected an example shape"):
        described.example()


def test_a_function_gives_inputs_by_name_and_is_run_only_if_named(nets: str) -> None:
    described = describe_module(f"{nets}:Captions", f"{nets}:inputs")
    assert described.inputs([described.inputs_from]).named["text"].shape == (2, 5)
    with pytest.raises(InputError, match="which was not imported"):
        Architecture.from_json({**described.to_json(), "trusted": True}).inputs()
    with pytest.raises(InputError, match="which was not imported"):
        Architecture.from_json({**described.to_json(), "trusted": True}).build()
    with pytest.raises(InputError, match=r"expected .*nothing to return a module's inputs, found no tensor"):
        describe_module(f"{nets}:Captions", f"{nets}:nothing")
    with pytest.raises(InputError, match="expected an importable"):
        describe_module(f"{nets}:Captions", f"{nets}:absent")


def test_a_wrong_example_is_told_from_an_untraceable_module(nets: str) -> None:
    with pytest.raises(
        InputError, match=r"expected inputs that Captions takes, found some of shape \[2, 4, 8, 8\] and"
    ):
        describe_module(f"{nets}:Captions", ["2,4,8,8", "2,5"], 50)
    with pytest.raises(InputError, match="at which it fails: .*argument: 'text'"):
        describe_module(f"{nets}:Captions", "2,3,8,8")
    with pytest.raises(InputError, match="one --integers for each --example, found 3 for 2"):
        describe_module(f"{nets}:Captions", ["2,3,8,8", "2,5"], [0, 50, 1])
    with pytest.raises(InputError, match="expected an importable"):
        describe_module(f"{Path(nets).parent / 'absent.py'}:Captions", "2,3")


def test_encoders_with_decoders_have_a_symmetry(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "symmetry", f"{__name__}:translator", "--example", "2,5,8", "--example", "2,7,8")
    assert status == 0 and "11 groups move" in out


def translator() -> nn.Module:
    return nn.Transformer(8, 2, 1, 1, 16, batch_first=True)


def test_networks_of_several_inputs_are_imported_inspected_and_aligned(
    nets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--architecture", f"{nets}:Captions", "--example", "2,3,8,8", "--example", "2,5", "--integers", "50"]
    shapes = describe_module(f"{nets}:Captions", ["2,3,8,8", "2,5"], 50).shapes
    (tmp_path / "runs").mkdir()
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        write_weights(tmp_path / "runs" / f"{number}.safetensors", weights)
    assert run(capsys, "import", str(tmp_path / "runs"), "--out", str(tmp_path / "zoo"), *given)[0] == 0
    assert run(capsys, "inspect", str(tmp_path / "runs"), *given)[0] == 0
    first, second = (str(tmp_path / "runs" / f"{number}.safetensors") for number in (0, 1))
    assert run(capsys, "align", first, second, "--out", str(tmp_path / "aligned.safetensors"), *given)[0] == 0
    zoo = import_zoo(
        tmp_path / "runs", tmp_path / "again", architectures=[describe_module(f"{nets}:Captions", f"{nets}:inputs")]
    )
    assert [own.id for own in zoo.architectures.values()] == ["captions.Captions"]
