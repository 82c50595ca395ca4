import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from weightspace.errors import InputError
from weightspace.images import ImageSet
from weightspace.randomness import derive_generator
from weightspace.supervised import score
from weightspace.zoo.architecture import Architecture, build_module
from weightspace.zoo.cards import summarize
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.growing.members import draw, draw_members
from weightspace.zoo.growing.networks import cnn_s, initialize, mlp
from weightspace.zoo.growing.recipes import find_recipe
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo

STACKED: dict[str, Any] = {"plan": "stacked", "workers": 1}


@pytest.fixture
def copied(zoo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(zoo_folder, tmp_path / "zoo"))


def edit_table(folder: Path, table: pd.DataFrame) -> None:
    table.to_parquet(folder / "models.parquet", index=False)


def test_a_grown_zoo_says_what_it_is(zoo: Zoo) -> None:
    assert len(zoo.members) == 24 and len(zoo) == 72
    assert sorted(zoo.table["epoch"].unique()) == [0, 1, 2]
    varied = {"activation", "initialization", "learning_rate", "weight_decay"}
    scored = {f"{part}_{what}" for part in ("train", "validation", "test") for what in ("accuracy", "loss")}
    assert varied | scored | {"generalization_gap"} <= set(zoo.properties)
    assert all(zoo.table[name].nunique() > 1 for name in varied)
    assert (
        zoo.table["generalization_gap"] - (zoo.table["train_accuracy"] - zoo.table["test_accuracy"])
    ).abs().max() < 1e-6
    assert set(zoo.architectures) == {"mlp-64-8-10-relu", "mlp-64-8-10-tanh"}


def test_recorded_accuracies_are_those_of_the_weights(zoo: Zoo, digits: ImageSet) -> None:
    for row in (0, 30, 71):
        place = zoo.table.iloc[row]
        module = zoo.architectures[place["architecture"]].build()
        module.load_state_dict(zoo.weights(row))
        assert abs(float(score(module, digits.test).accuracy) - place["test_accuracy"]) < 1e-6


def test_epoch_0_is_the_initialisation_and_training_helps(zoo: Zoo) -> None:
    by_epoch = zoo.table.groupby("epoch")["test_accuracy"].median()
    assert by_epoch[0] < 0.25 < 0.6 < by_epoch[2]


def test_growing_is_reproducible(zoo: Zoo, digits: ImageSet, tmp_path: Path) -> None:
    config = GrowConfig(members=24, epochs=2, learning_rate="log:3e-3..2e-2", together=5, **STACKED)
    again = grow("mlp:8", digits, config, tmp_path / "again")
    key = ["member", "epoch"]
    merged = zoo.table.merge(again.table, on=key, suffixes=("", "_again"))
    assert len(merged) == len(zoo)
    assert (merged["learning_rate"] == merged["learning_rate_again"]).all()
    assert (merged["test_loss"] - merged["test_loss_again"]).abs().max() < 1e-3


def test_cnn_s_grows_on_resized_digits(tmp_path: Path) -> None:
    from weightspace.images import open_images

    images = open_images("digits", size=28)
    zoo = grow(
        "cnn-s",
        images,
        GrowConfig(members=3, epochs=1, keep=(1,), activation="tanh,gelu", plan="channels-last", workers=1),
        tmp_path / "cnn",
    )
    assert len(zoo) == 3
    for architecture in zoo.architectures.values():
        assert architecture.parameters == 2464 and architecture.example_shape == (2, 1, 28, 28)


def test_the_papers_cnn_has_the_published_size_and_names() -> None:
    assert sum(p.numel() for p in cnn_s(1).parameters()) == 2464
    assert sum(p.numel() for p in cnn_s(3).parameters()) == 2864
    names = [name for name in cnn_s(1).state_dict() if name.endswith("weight")]
    assert names == [f"module_list.{n}.weight" for n in (0, 3, 6, 9, 11)]
    assert "module_list.4.weight" in cnn_s(1, dropout=0.1).state_dict()


@pytest.mark.parametrize(
    "scheme", ["uniform", "normal", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal"]
)
def test_initialisations_depend_on_the_generator_only(scheme: str) -> None:
    first, second, other = (
        initialize(mlp([9, 5, 2]), scheme, derive_generator(seed)).state_dict() for seed in (0, 0, 1)
    )
    weight = "module_list.1.weight"
    assert torch.equal(first[weight], second[weight]) and not torch.equal(first[weight], other[weight])


def test_filtering_returns_a_zoo(zoo: Zoo) -> None:
    relu = zoo.where(activation="relu", epoch=2)
    assert isinstance(relu, Zoo) and 0 < len(relu) < 24 and set(relu.table["epoch"]) == {2}
    good = zoo.where(lambda table: table["test_accuracy"] > 0.5)
    assert good.table["test_accuracy"].min() > 0.5
    place = good.table.iloc[0]
    assert torch.equal(good.weights(0)["module_list.1.weight"], zoo.weights(int(place.name))["module_list.1.weight"])
    assert set(zoo.last().table["epoch"]) == {2} and len(zoo.last()) == 24


def test_the_best_are_of_different_members(zoo: Zoo) -> None:
    best = zoo.best(5, by="validation_accuracy")
    assert len(set(best.table["member"])) == 5
    assert best.table["validation_accuracy"].is_monotonic_decreasing
    assert best.table["validation_accuracy"].iloc[0] == zoo.table["validation_accuracy"].max()


def test_the_best_by_validation_ignores_the_test_score(copied: Path) -> None:
    table = Zoo.open(copied).table
    planted = table.index[(table["member"] == "member-0003") & (table["epoch"] == 2)]
    table.loc[planted, "test_accuracy"] = 1.0
    table.loc[planted, "validation_accuracy"] = 0.0
    edit_table(copied, table)
    best = Zoo.open(copied).where(epoch=2).best(20, by="validation_accuracy")
    assert "member-0003" not in set(best.table["member"])


def test_splits_keep_members_together_and_ignore_order(copied: Path) -> None:
    zoo = Zoo.open(copied)
    parts = zoo.split(0.5, 0.25, 0.25, seed=3)
    members = [set(part.table["member"]) for part in parts]
    assert sum(map(len, members)) == 24 and set.union(*members) == set(zoo.members)
    assert all(len(part) == 3 * len(own) for part, own in zip(parts, members, strict=True))
    edit_table(copied, zoo.table.sample(frac=1, random_state=1))
    again = [set(part.table["member"]) for part in Zoo.open(copied).split(0.5, 0.25, 0.25, seed=3)]
    assert again == members
    assert [set(part.table["member"]) for part in zoo.split(0.5, 0.25, 0.25, seed=4)] != members


def test_splitting_a_part_leaves_every_members_place_alone(zoo: Zoo) -> None:
    whole = zoo.split(0.5, 0.5, seed=0)[0]
    part = zoo.where(activation="tanh").split(0.5, 0.5, seed=0)[0]
    assert set(part.members) <= set(whole.members)


def test_bad_splits_are_refused(zoo: Zoo) -> None:
    with pytest.raises(InputError, match="sum to 1, found 0.5, 0.4"):
        zoo.split(0.5, 0.4, seed=0)
    with pytest.raises(InputError, match="none in the part of share 0.0001"):
        zoo.split(0.9999, 0.0001, seed=0)


def test_unknown_properties_are_refused(zoo: Zoo) -> None:
    for use in (lambda: zoo.values("accuracy"), lambda: zoo.where(acc=1), lambda: zoo.best(1, by="acc")):
        with pytest.raises(InputError, match="expected a property among epoch, activation"):
            use()
    with pytest.raises(InputError, match="between 1 and 24 members"):
        zoo.best(25, by="test_accuracy")


def test_stacks_and_rows_agree(zoo: Zoo) -> None:
    seen = 0
    for piece in zoo.where(epoch=1).stacks():
        for number, label in enumerate(piece.table.index):
            alone = zoo.weights(int(label))
            assert all(torch.equal(piece.stack[name][number], alone[name]) for name in alone)
            seen += 1
    assert seen == 24
    assert sum(len(piece.table) for piece in zoo.load()) == 72


def test_damaged_zoos_are_refused(copied: Path) -> None:
    table = pd.read_parquet(copied / "models.parquet")
    shard = sorted((copied / "shards").iterdir())[0]
    kept = shard.read_bytes()

    def refuses(message: str) -> None:
        with pytest.raises(InputError, match=message):
            Zoo.open(copied)

    shard.write_bytes(kept[:-50])
    refuses("expected a whole safetensors file")
    shard.unlink()
    refuses("found no such file")
    shard.write_bytes(kept)
    edit_table(copied, table[:-1])
    refuses("expected one row of models.parquet for each of the")
    edit_table(copied, table[table["shard"] != shard.name])
    refuses("expected rows in models.parquet for")
    edit_table(copied, table.drop(columns="row"))
    refuses("found none named row")
    for column, wrong in (("row", -1), ("row", 0.5), ("epoch", "two"), ("epoch", None)):
        edit_table(copied, table.assign(**{column: wrong}))
        refuses(f"expected whole numbers from 0 in the column {column}")
    edit_table(copied, table.assign(member=[None, *table["member"][1:]]))
    refuses("expected names in the column member")
    edit_table(copied, table.assign(member="same", epoch=0))
    refuses("expected one row per member and epoch")
    edit_table(copied, table)
    extra = load_file(shard)
    save_file({name: tensor[:-1].contiguous() for name, tensor in extra.items()}, shard)
    refuses("expected one row of models.parquet for each of the")
    name = next(iter(extra))
    save_file({**extra, name: extra[name][:, :1].contiguous()}, shard)
    refuses(f"expected {name} of shape")
    save_file({other: tensor for other, tensor in extra.items() if other != name}, shard)
    refuses("found none")
    shard.write_bytes(kept)
    (copied / "models.parquet").write_bytes(b"no")
    refuses("expected a Parquet table")
    edit_table(copied, table)
    (copied / "zoo.json").write_text("{")
    refuses("expected JSON")
    (copied / "zoo.json").write_text('{"format": 1, "architectures": null}')
    refuses("expected a list of architectures")
    (copied / "zoo.json").write_text('{"format": 99}')
    refuses("expected a zoo of format 1")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "an empty folder"), ("absent", "no such folder")):
        with pytest.raises(InputError, match=message):
            Zoo.open(tmp_path / name)


def test_a_factory_from_a_file_is_not_imported(zoo: Zoo, tmp_path: Path) -> None:
    ours = next(iter(zoo.architectures.values()))
    for factory in (
        "os:getcwd",
        "weightspace.zoo.growing.networks:make_activation",
        "weightspace.weights.files:os.system",
    ):
        foreign = Architecture.from_json({**ours.to_json(), "factory": factory})
        with pytest.raises(InputError, match="which was not imported"):
            foreign.build()
    named = Architecture.from_json({**ours.to_json(), "factory": "garden.small:ResidualNet", "arguments": {}})
    with pytest.raises(InputError, match="the weights do not fit"):
        named.build(allow=["garden.small:ResidualNet"])


def test_building_leaves_the_random_state_alone(zoo: Zoo) -> None:
    before = torch.get_rng_state()
    next(iter(zoo.architectures.values())).build()
    assert torch.equal(torch.get_rng_state(), before)


def test_factories_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="expected an importable"):
        build_module("no_such_module:Net")
    with pytest.raises(InputError, match="found a str"):
        build_module("os:getcwd")


def test_architectures_go_through_json(zoo: Zoo) -> None:
    for architecture in zoo.architectures.values():
        assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    with pytest.raises(InputError, match="expected an architecture entry"):
        Architecture.from_json({"id": "a"})


def test_ranges_are_drawn_inside() -> None:
    for seed in range(50):
        generator = derive_generator(seed)
        assert 1e-4 <= draw("log:1e-4..1e-2", generator) <= 1e-2
        assert 2 <= draw("2..3", generator) <= 3
        assert draw("a, b", generator) in ("a", "b")
    logs = [draw("log:1e-4..1e-2", derive_generator(seed)) for seed in range(400)]
    assert 0.4 < sum(value < 1e-3 for value in logs) / 400 < 0.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": "3..1"}, "increasing range"),
        ({"learning_rate": "log:0..1"}, "positive if logarithmic"),
        ({"learning_rate": "1..x"}, "expected a range such as"),
        ({"weight_decay": "much"}, "expected numbers for weight_decay, found 'much'"),
        ({"activation": "swish2"}, "expected an activation among"),
        ({"initialization": "zeros"}, "expected an initialisation among"),
        ({"members": 0}, "expected members to be at least 1"),
        ({"batch_size": -3}, "expected batch size to be between 1 and 958"),
        ({"batch_size": 5000}, "expected batch size to be between 1 and 958"),
        ({"together": 0}, "expected together to be at least 1"),
        ({"learning_rate": "-1"}, "expected the learning rate to be at least"),
        ({"learning_rate": "nan"}, "expected the learning rate to be at least"),
        ({"learning_rate": "1e38", "optimizer": "sgd"}, "expected members that can be trained"),
        ({"keep": (0, 9)}, "expected kept epochs between 0 and 1"),
    ],
)
def test_bad_growing_is_refused(changes: dict[str, Any], message: str, digits: ImageSet, tmp_path: Path) -> None:
    config = GrowConfig(**{"members": 2, "epochs": 1, **STACKED, **changes})
    with pytest.raises(InputError, match=message):
        grow("mlp", digits, config, tmp_path / "zoo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", ["resnet", "resnet18:wide", "mlp:a", "mlp:0", "cnn-s:3", "cnn-s"])
def test_bad_networks_are_refused(network: str, digits: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a network|expected hidden widths|expected images of 28"):
        grow(network, digits, GrowConfig(members=2, epochs=1), tmp_path / "zoo")


def test_members_are_drawn_from_their_names_alone(digits: ImageSet) -> None:
    recipe = find_recipe("mlp", digits)
    few, many = draw_members(GrowConfig(members=3), recipe), draw_members(GrowConfig(members=6), recipe)
    assert few == many[:3]


def test_diverged_members_are_left_out_and_named(digits: ImageSet, tmp_path: Path) -> None:
    config = GrowConfig(
        members=4, epochs=2, learning_rate="1e-2,1e38", activation="relu", optimizer="sgd", seed=1, **STACKED
    )
    expected = [member.name for member in draw_members(config, find_recipe("mlp", digits)) if member.learning_rate > 1]
    assert 0 < len(expected) < 4
    zoo = grow("mlp", digits, config, tmp_path / "zoo")
    assert [entry["what"] for entry in zoo.about["left_out"]] == expected and not set(expected) & set(zoo.members)


def test_the_summary_counts(zoo: Zoo) -> None:
    summary = summarize(zoo)
    assert summary["members"] == 24 and sum(entry["checkpoints"] for entry in summary["architectures"]) == 72
    accuracy = next(entry for entry in summary["properties"] if entry["name"] == "test_accuracy")
    assert accuracy["missing"] == 0 and 0 <= accuracy["low"] <= accuracy["median"] <= accuracy["high"] <= 1


def test_integer_and_half_tensors_go_through_a_zoo(tmp_path: Path) -> None:
    stack = {"a": torch.randn(2, 3).half(), "n": torch.tensor([5, 6])}
    architecture = Architecture(id="odd", shapes={"a": (3,), "n": ()}, dtypes={"a": "float16", "n": "int64"})
    writer = ZooWriter(tmp_path)
    writer.add(architecture, stack, pd.DataFrame({"member": ["x", "y"], "epoch": 0}))
    writer.finish({})
    weights = Zoo.open(tmp_path).weights(1)
    assert torch.equal(weights["a"], stack["a"][1]) and int(weights["n"]) == 6
