"""Who a model was trained on: members are known by what they are, not by what they are called."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from tools import TINY_SANE, TINY_TRAINING, refused
from weightspace.autoencoder.provenance import Provenance
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.distilling import distill
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.errors import InputError
from weightspace.generation.anchors import training_members
from weightspace.images import ImageSet
from weightspace.zoo.cards import CardText
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.splitting import concatenate
from weightspace.zoo.writing import publish
from weightspace.zoo.zoo import DIGEST, Zoo


@pytest.fixture(scope="module")
def stranger(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Another zoo whose members are called and begin as those of the first, and are trained on other labels."""
    shifted = digits.train._replace(labels=(digits.train.labels + 1) % 10)
    config = GrowConfig(members=24, epochs=2, learning_rate="log:3e-3..2e-2", plan="stacked", workers=1)
    folder = tmp_path_factory.mktemp("zoos") / "digits-mlp"
    return grow("mlp:8", digits._replace(train=shifted), config, folder)


def test_members_of_another_zoo_are_strangers_whatever_they_are_called(
    sane_folder: Path, zoo: Zoo, stranger: Zoo, parts: tuple[Zoo, ...]
) -> None:
    sane = SANE.open(sane_folder)
    first, second = (each.where(epoch=0).weights(0) for each in (zoo, stranger))
    assert zoo.members == stranger.members and all(torch.equal(first[name], second[name]) for name in first)
    assert sane.trained_on(zoo) == set(parts[0].members)
    assert not sane.trained_on(stranger), "they only begin alike"
    assert training_members(sane, stranger).members == stranger.members, "all are candidates, none is dropped"


def test_a_strangers_zoo_is_probed_and_not_distilled(
    sane_folder: Path, zoo: Zoo, stranger: Zoo, digits: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected members that the model was trained on, found others"):
        distill(sane_folder, stranger, digits.train, out=tmp_path / "x")
    from weightspace.analysis.config import ProbeConfig
    from weightspace.analysis.probing.folding import probe_zoo

    options = {"representations": "mean", "targets": "test_accuracy", "seed": 7, "split": (0.5, 0.25, 0.25)}
    probed = probe_zoo(stranger.folder, [sane_folder], ProbeConfig(**options))  # type: ignore[arg-type]
    assert probed.tested == len(stranger.members)
    with pytest.raises(InputError, match=r"expected test members that the SANE was not trained on, found \d of"):
        probe_zoo(zoo.folder, [sane_folder], ProbeConfig(**options))  # type: ignore[arg-type]


def test_a_copy_is_the_same_zoo_wherever_it_lies(
    sane_folder: Path, zoo: Zoo, stranger: Zoo, parts: tuple[Zoo, ...], tmp_path: Path
) -> None:
    sane, trained = SANE.open(sane_folder), set(parts[0].members)
    moved = Path(shutil.copytree(zoo.folder, tmp_path / "another name"))
    publish(zoo, tmp_path / "published", CardText(), shard_mib=1)
    for folder in (moved, tmp_path / "published"):
        assert sane.trained_on(Zoo.open(folder)) == trained
    both = concatenate([Zoo.open(moved), stranger])
    assert sane.trained_on(both) == {f"another name/{member}" for member in trained}
    renamed = replace(zoo, table=zoo.table.assign(member="x-" + zoo.table["member"]))
    assert sane.trained_on(renamed) == {f"x-{member}" for member in trained}
    assert sane.trained_on(zoo.last()) == trained, "a part is known as well"


def test_zoos_without_recorded_digests_are_read(zoo: Zoo) -> None:
    bare = replace(zoo, table=zoo.table.drop(columns=[DIGEST]))
    assert list(bare.digests) == list(zoo.digests) == list(zoo.table[DIGEST])
    assert zoo.digests.nunique() == len(zoo) and DIGEST not in zoo.properties
    half = zoo.table.copy()
    half.loc[half.index[::2], DIGEST] = None
    assert list(replace(zoo, table=half).digests) == list(zoo.digests)


def test_networks_that_were_never_trained_count_where_there_are_no_others(
    sane_folder: Path, zoo: Zoo, parts: tuple[Zoo, ...]
) -> None:
    sane = SANE.open(sane_folder)
    untrained = zoo.where(epoch=0)
    assert sane.trained_on(untrained) == set(parts[0].members)


def test_provenance_is_written_whole(sane_folder: Path, parts: tuple[Zoo, ...]) -> None:
    provenance = SANE.open(sane_folder).provenance
    assert provenance.members == parts[0].members and provenance.checkpoints == len(parts[0])
    assert [zoo.name for zoo in provenance.zoos] == ["digits-mlp"] and provenance.training == TINY_TRAINING
    assert Provenance.from_json(json.loads(json.dumps(provenance.to_json()))) == provenance
    assert provenance.final["step"] == 12 and provenance.distilling is None


def test_a_folder_of_an_earlier_format_gets_one_sentence(
    sane_folder: Path, zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(shutil.copytree(sane_folder, tmp_path / "old"))
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**config, "format": 2}))
    assert "found format 2: pre-train it again" in refused(capsys, "probe", zoo_folder, "--sane", old)


def test_a_zoo_that_names_a_factory_at_its_earlier_address_is_read(zoo_folder: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(zoo_folder, tmp_path / "old"))
    text = (old / "zoo.json").read_text().replace("weightspace.zoo.growing.networks:", "weightspace.zoo.networks:")
    (old / "zoo.json").write_text(text)
    for architecture in Zoo.open(old).architectures.values():
        assert architecture.build().state_dict().keys() == set(architecture.shapes)


def test_several_zoos_are_remembered_apart(zoo: Zoo, stranger: Zoo, tmp_path: Path) -> None:
    both = concatenate([zoo, Zoo.open(Path(shutil.copytree(stranger.folder, tmp_path / "stranger")))])
    sane = pretrain(both, TINY_SANE, replace(TINY_TRAINING, steps=1), out=tmp_path / "sane")
    assert [trained.name for trained in sane.provenance.zoos] == ["digits-mlp", "stranger"]
    assert len({trained.digest for trained in sane.provenance.zoos}) == 2
    assert sane.trained_on(stranger) == set(stranger.members)
    assert isinstance(stranger.digests, pd.Series)
