"""What checkpoints of a folder have to do with each other."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tools import run
from weightspace.analysis.inspecting.checkpoints import inspect_folder
from weightspace.analysis.inspecting.kinship import aligned_distance, learned_names, relate, relative_distances, rooted
from weightspace.analysis.inspecting.looking import look_at_folder
from weightspace.analysis.inspecting.relating_folders import given_symmetries, relate_folder
from weightspace.autoencoder.sane import SANE
from weightspace.symmetry.axes import Symmetry, permute, random_permutations
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.networks import mlp

FACTORY = "weightspace.zoo.growing.networks:mlp"


def near(weights: dict[str, Tensor], share: float, seed: int) -> dict[str, Tensor]:
    """A fine-tuned network, as it were: moved by so much of its norm."""
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, tensor in weights.items():
        noise = torch.randn(tensor.shape, generator=generator)
        moved[name] = tensor + noise / noise.norm() * tensor.norm() * share
    return moved


@pytest.fixture
def symmetry() -> Symmetry:
    return trace_symmetry(mlp([6, 9, 7, 4]), torch.randn(3, 6))


@pytest.fixture
def folder(tmp_path: Path, symmetry: Symmetry) -> Path:
    """A network, two fine-tuned from it, one of them from the other, a permuted one, and a stranger with a child."""
    torch.manual_seed(0)
    base, stranger = (dict(mlp([6, 9, 7, 4]).state_dict()) for _ in range(2))
    child = near(base, 0.2, 1)
    permutations = random_permutations(symmetry, generator=torch.Generator().manual_seed(1))
    folder = tmp_path / "nets"
    folder.mkdir()
    networks = {
        "base": base,
        "child": child,
        "grandchild": near(child, 0.2, 2),
        "mixed": permute(base, symmetry, permutations),
        "stranger": stranger,
        "stranger-child": permute(near(stranger, 0.1, 3), symmetry, permutations),
    }
    for name, weights in networks.items():
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / f"{name}.safetensors")
    return folder


def architecture(symmetry: Symmetry) -> Architecture:
    described = Architecture.of_module(
        mlp([6, 9, 7, 4]), id="mlp", factory=FACTORY, arguments={"widths": [6, 9, 7, 4]}, example_shape=(3, 6)
    )
    return Architecture(**{**vars(described), "symmetry": symmetry.to_json()})


def test_distances_are_relative_to_norms() -> None:
    generator = torch.Generator().manual_seed(0)
    first = {"a": torch.randn(40, 50, generator=generator), "count": torch.tensor(3)}
    networks = [first, first, near({"a": first["a"]}, 0.1, 1), {"a": torch.randn(40, 50, generator=generator)}]
    found = relative_distances(networks)
    assert found[0, 1] == 0 and found[0, 2] == pytest.approx(0.1, rel=0.02)
    assert found[0, 3] == pytest.approx(2**0.5, rel=0.05) and np.array_equal(found, found.T)


def test_families_are_found_and_reordered_networks_named(folder: Path, symmetry: Symmetry) -> None:
    inspection = inspect_folder(folder)
    known = given_symmetries([architecture(symmetry)])
    (found,) = relate_folder(folder, inspection, known).values()
    (group,) = found.reordered
    assert group.paths == ["base.safetensors", "mixed.safetensors"] and group.confirmed
    edges = [{(edge.first.split(".")[0], edge.second.split(".")[0]) for edge in tree} for tree in found.trees]
    assert [{frozenset(edge) for edge in tree} for tree in edges] == [
        {frozenset({"base", "child"}), frozenset({"child", "grandchild"})},
        {frozenset({"stranger", "stranger-child"})},
    ]
    assert [edge.aligned for tree in found.trees for edge in tree] == [False, False, True]
    assert found.alone == 0 and not found.notes
    lines = rooted(found.trees[0])
    names = ["base.safetensors", "child.safetensors", "grandchild.safetensors"]
    assert [line[:2] for line in lines] == list(enumerate(names)), "parents stand above their children"
    assert all(edge.kind in ("noised", "fine-tuned") and edge.parent and edge.told for edge in found.trees[0])


def test_without_an_architecture_nothing_is_aligned(folder: Path) -> None:
    (found,) = relate_folder(folder, inspect_folder(folder)).values()
    assert [group.confirmed for group in found.reordered] == [False]
    assert len(found.trees) == 1 and found.alone == 2 and "nothing is aligned" in found.notes[0]


def test_the_same_numbers_in_another_order_need_not_be_the_same_network(symmetry: Symmetry) -> None:
    torch.manual_seed(1)
    base = dict(mlp([6, 9, 7, 4]).state_dict())
    mixed = {name: tensor.flatten()[torch.randperm(tensor.numel())].view_as(tensor) for name, tensor in base.items()}
    found = relate({"a": base, "b": mixed}, symmetry, {"a": "same", "b": "same"})
    assert [group.confirmed for group in found.reordered] == [False]
    assert aligned_distance(mixed, base, symmetry) > 0.1


def test_fingerprints_do_not_depend_on_order_but_on_every_number(folder: Path) -> None:
    prints = {found.path: found.fingerprint for found in inspect_folder(folder).checkpoints}
    assert prints["base.safetensors"] == prints["mixed.safetensors"] and len(set(prints.values())) == 5


def test_a_sane_names_neighbours_and_leaves_broken_checkpoints_out(folder: Path, sane_folder: Path) -> None:
    broken = dict(mlp([6, 9, 7, 4]).state_dict())
    broken["module_list.1.bias"] = torch.full((9,), float("nan"))
    save_file(broken, folder / "broken.safetensors")
    inspection = inspect_folder(folder)
    seen = look_at_folder(folder, inspection, SANE.open(sane_folder), None)
    assert len(seen) == 6 and all(own.path != "broken.safetensors" for own in seen)
    by_path = {own.path: own for own in seen}
    for own in seen:
        assert own.nearest != own.path and own.distance is not None and own.distance >= 0
    assert by_path["mixed.safetensors"].nearest == "base.safetensors"


def test_inspect_writes_a_page(folder: Path, sane_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from weightspace.cli.app import main

    page = tmp_path / "page.html"
    words = ["inspect", str(folder), "--sane", str(sane_folder), "--out", str(page)]
    with pytest.raises(SystemExit) as end:
        main(words)
    out = capsys.readouterr().out
    assert end.value.code == 0 and "1 group equal up to order, 1 family" in out and "nothing is aligned" in out
    text = page.read_text()
    assert (
        "<svg" in text
        and "Related checkpoints" in text
        and "What SANE says" in text
        and f"<h1>What is in {folder.name}</h1>" in text
    )
    with pytest.raises(SystemExit) as end:
        main([*words[:2], "--json"])
    found = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and len(next(iter(found["related"].values()))["trees"]) == 1
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and "found something: choose another --out" in capsys.readouterr().err


def test_inspect_aligns_networks_of_a_given_architecture(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from weightspace.cli.app import main

    (tmp_path / "own_nets.py").write_text(
        "from weightspace.zoo.growing.networks import mlp\n\ndef net():\n    return mlp([6, 9, 7, 4])\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(folder), "--architecture", "own_nets:net", "--example", "3,6"])
    assert end.value.code == 0 and "1 group equal up to order, 2 families" in capsys.readouterr().out


def test_networks_that_cannot_be_read_are_named_and_the_others_seen(folder: Path, sane_folder: Path) -> None:
    save_file({"whole": torch.arange(4)}, folder / "integers.safetensors")
    save_file({"whole": torch.arange(4) + 1}, folder / "others.safetensors")
    inspection = inspect_folder(folder)
    seen = {own.path: own for own in look_at_folder(folder, inspection, SANE.open(sane_folder), None)}
    assert "floating-point weights" in seen["integers.safetensors"].prediction
    assert seen["integers.safetensors"].nearest == "" and seen["base.safetensors"].nearest != ""
    related = relate_folder(folder, inspection)
    assert [own.notes for own in related.values() if "no floating-point" in " ".join(own.notes)] != []


class Positions(nn.Module):
    """Adds a table of sines and cosines, which is saved with the weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        angle = torch.arange(3_000)[:, None] * 1e4 ** (-torch.arange(0, width, 2) / width)
        self.register_buffer("table", torch.stack([angle.sin(), angle.cos()], -1).flatten(1))
        self.register_buffer("rates", 1e4 ** (-torch.arange(0, width, 2) / width))
        self.register_buffer("future", torch.ones(64, 64).triu())


def tagger(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(64)
    norm(torch.randn(32, 64) + 5)  # running statistics that all seeds share
    return nn.Sequential(
        nn.Embedding(50, 64), Positions(64), nn.Linear(64, 64), norm, nn.LayerNorm(64), nn.Linear(64, 9)
    )


def test_what_was_computed_alike_is_no_kinship() -> None:
    networks = [tagger(seed).state_dict() for seed in range(4)]
    distances = relative_distances(networks)
    assert distances[~np.eye(4, dtype=bool)].min() > 1.3
    assert not {"1.table", "1.rates", "1.future", "3.running_mean"} & set(learned_names(networks))


def test_a_frozen_body_is_kinship() -> None:
    networks = [tagger(0).state_dict() for _ in range(3)]
    for seed, network in enumerate(networks):
        torch.manual_seed(seed)
        network["5.weight"] = torch.randn(9, 64)
    assert "2.weight" in learned_names(networks) and "0.weight" in learned_names(networks)
    assert relative_distances(networks).max() < 0.7


def test_families_reach_across_architectures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A body with a head for other classes is its parent's child; a stranger with that head is not."""

    def net(classes: int, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        layers = (nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, classes))
        return nn.Sequential(*layers).state_dict()

    parent, child = net(10, 0), net(7, 1)
    child |= {name: tensor.clone() for name, tensor in parent.items() if not name.startswith("4.")}
    tuned = {name: tensor + 0.02 * tensor.std() * torch.randn_like(tensor) for name, tensor in child.items()}
    third = net(5, 2) | {name: tensor for name, tensor in parent.items() if not name.startswith("4.")}
    for name, weights in {"a": parent, "b": child, "c": tuned, "d": net(7, 9), "e": third}.items():
        save_file(weights, tmp_path / f"{name}.safetensors")
    status, text, _ = run(capsys, "inspect", tmp_path, "--json")
    edge = next(edge for edge in json.loads(text)["across"] if "b.safetensors" in (edge["first"], edge["second"]))
    assert status == 0 and (edge["first"], edge["second"]) == ("a.safetensors", "b.safetensors")
    assert edge["kind"] == "head replaced" and edge["distance"] < 1e-6
    text = run(capsys, "inspect", tmp_path)[1]
    tree = [line.partition("│")[0] for line in text.partition("Related checkpoints")[2].splitlines()]
    # A family is a tree: each of its files has one line.
    assert sorted(line.strip("└ \xa0") for line in tree if "safetensors" in line) == [
        f"{name}.safetensors" for name in "abce"
    ]
    assert "1 family" in text
    page = tmp_path / "page.html"
    assert run(capsys, "inspect", tmp_path, "--out", page)[0] == 0 and "one network with another" in page.read_text()
