import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from tools import forget_digests
from weightspace.analysis.probing.classifying import classify
from weightspace.analysis.probing.comparing import CHOSEN, Fold, compare_representations
from weightspace.analysis.probing.folding import find_targets, make_folds
from weightspace.analysis.probing.probe import ProbeResult, bootstrap_r2, pool_folds, probe, r2_difference
from weightspace.analysis.representations.baselines import (
    QUANTILES,
    exact_token_statistics,
    layer_statistics,
    raw_weights,
)
from weightspace.analysis.representations.catalog import (
    REPRESENTATIONS,
    Choice,
    Represent,
    choose_representations,
    components,
    represent,
    side_by_side,
)
from weightspace.analysis.representations.spectra import PROBES, matrix_views, spectra
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.hyper_representation import embed_whole, fit_hyper_representation
from weightspace.autoencoder.network import token_statistics
from weightspace.autoencoder.provenance import TrainedZoo
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.errors import InputError
from weightspace.randomness import derive_seed
from weightspace.tokens.patterns import entries_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo

PLANTED = Representation("planted")


def seeing(sane: SANE, zoo: Zoo) -> SANE:
    """A model that was trained on a zoo, as far as it knows."""
    return replace(sane, provenance=replace(sane.provenance, zoos=tuple(TrainedZoo.describe(zoo))))


def planted(members: range, signal: float, seed: int = 0, epochs: int = 3) -> Embeddings:
    """Features of which the first carries `signal` of the target's variance."""
    generator = np.random.default_rng([seed, members.start])
    rows = len(members) * epochs
    target = generator.normal(size=rows)
    features = generator.normal(size=(rows, 4))
    features[:, 0] = np.sqrt(signal) * target + np.sqrt(1 - signal) * features[:, 0]
    table = pd.DataFrame(
        {
            "member": [f"m{m}" for m in members for _ in range(epochs)],
            "epoch": list(range(epochs)) * len(members),
            "quality": target,
            "constant": 1.0,
            "name": "x",
        }
    )
    return Embeddings(features, table, PLANTED)


def parts(signal: float, seed: int = 0) -> tuple[Embeddings, Embeddings, Embeddings]:
    return tuple(planted(members, signal, seed) for members in (range(200), range(200, 260), range(260, 340)))  # type: ignore[return-value]


def test_ridge_is_the_normal_equations() -> None:
    train, validation, test = parts(0.7)
    result = probe(train, validation, test, target="quality")
    x, y = train.features, train.table["quality"].to_numpy()
    low, center, high = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
    strength, width = result.setting, 2.0

    def bounded(features: np.ndarray) -> np.ndarray:
        return width * np.tanh((features - center) * 1.349 / (high - low) / width)

    mean, std = bounded(x).mean(0), bounded(x).std(0)
    scaled = (bounded(x) - mean) / std
    weights = np.linalg.solve(scaled.T @ scaled + strength * np.eye(4), scaled.T @ (y - y.mean()))
    expected = (bounded(test.features) - mean) / std @ weights + y.mean()
    np.testing.assert_allclose(result.predicted, expected, rtol=1e-8)
    residual = ((result.true - expected) ** 2).sum() / ((result.true - result.true.mean()) ** 2).sum()
    assert abs(result.r2 - (1 - residual)) < 1e-9


@pytest.mark.parametrize("signal", [0.3, 0.8])
def test_r2_is_the_share_of_variance_that_was_planted(signal: float) -> None:
    result = probe(*parts(signal), target="quality")
    assert abs(result.r2 - signal) < 0.1 and result.r2_low < result.r2 < result.r2_high
    assert result.members == 80 and result.checkpoints == 240 and 0 < result.tau < 1


def test_shuffled_labels_give_nothing(zoo: Zoo) -> None:
    results = []
    for seed in range(5):
        train, validation, test = (
            Embeddings(
                part.features,
                part.table.assign(quality=part.table["quality"].sample(frac=1, random_state=seed).to_numpy()),
                PLANTED,
            )
            for part in parts(0.9, seed)
        )
        results.append(probe(train, validation, test, target="quality").r2)
    assert abs(np.mean(results)) < 0.05


def test_the_bootstrap_draws_members_not_rows() -> None:
    generator = np.random.default_rng(0)
    members = np.repeat(np.arange(30), 20)
    true = np.repeat(generator.normal(size=30), 20)
    predicted = true + np.repeat(generator.normal(size=30), 20) * 0.5
    wide = bootstrap_r2(true, predicted, members, 0)
    narrow = bootstrap_r2(true, predicted, np.arange(600), 0)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert bootstrap_r2(true, predicted, members, 0) == wide


def test_bad_probes_are_refused() -> None:
    train, validation, test = parts(0.5)
    with pytest.raises(InputError, match="expected a property among member, epoch, quality"):
        probe(train, validation, test, target="accuracy")
    with pytest.raises(InputError, match="found constant constant"):
        probe(train, validation, test, target="constant")
    with pytest.raises(InputError, match="expected numbers in the property name"):
        probe(train, validation, test, target="name")
    with pytest.raises(InputError, match="found 200 members in several"):
        probe(train, validation, train, target="quality")
    empty = Embeddings(test.features, test.table.assign(quality=np.nan), PLANTED)
    with pytest.raises(InputError, match="found none"):
        probe(train, validation, empty, target="quality")


def test_test_members_the_model_was_trained_on_are_refused() -> None:
    train, validation, test = parts(0.5)
    seen = Embeddings(test.features, test.table, Representation("SANE", "sane"), frozenset({"m260", "m261", "other"}))
    with pytest.raises(InputError, match="found 2 of 80 among its training members"):
        probe(train, validation, seen, target="quality")
    assert probe(train, validation, seen.forgetting(), target="quality").members == 80


def test_missing_values_are_left_out() -> None:
    train, validation, test = parts(0.5)
    table = test.table.copy()
    table.loc[:29, "quality"] = np.nan
    assert probe(train, validation, Embeddings(test.features, table, PLANTED), target="quality").checkpoints == 210


def test_layer_statistics_are_those_of_each_tensor(zoo: Zoo) -> None:
    features = layer_statistics(zoo).features
    weights = zoo.weights(10)
    expected = []
    for tensor in weights.values():
        flat = tensor.flatten().numpy()
        expected += [flat.mean(), flat.var(), *np.quantile(flat, QUANTILES)]
    np.testing.assert_allclose(features[10], expected, rtol=1e-4, atol=1e-6)


def test_nan_weights_are_named(zoo_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(zoo_folder, tmp_path / "zoo"))
    shard = sorted((folder / "shards").iterdir())[0]
    stack = load_file(shard)
    next(iter(stack.values()))[3].view(-1)[0] = torch.nan
    save_file(stack, shard)
    forget_digests(folder)
    for compute in (raw_weights, layer_statistics):
        with pytest.raises(InputError, match=r"in 1 checkpoints, first in member-\d+ at epoch \d"):
            compute(Zoo.open(folder))


def test_few_test_members_have_no_interval() -> None:
    true = np.array([0.93, 0.91, 0.90])
    assert np.isnan(bootstrap_r2(true, true + 0.001, np.arange(3), 0)).all()
    low, high = bootstrap_r2(np.r_[true, true], np.r_[true, true] + 0.001, np.arange(6), 0)
    assert -10 < low < high <= 1


def test_components_without_variance_are_dropped() -> None:
    few = planted(range(10), 0.9, epochs=1)
    flat = Embeddings(np.hstack([few.features, few.features]), few.table, Representation("flat"))
    made = components([flat, flat], 128)[0].features
    assert made.shape[1] <= 2 and made.std(0).min() > 1e-3


def test_raw_weights_are_the_weights(zoo: Zoo) -> None:
    features = raw_weights(zoo).features
    expected = torch.cat([tensor.flatten() for tensor in zoo.weights(40).values()])
    assert torch.equal(torch.from_numpy(features[40]), expected)


def test_networks_of_several_sizes_are_refused(tmp_path: Path) -> None:
    writer = ZooWriter(tmp_path)
    for size in (2, 3):
        table = pd.DataFrame({"member": [f"m{size}"], "epoch": 0})
        writer.add(Architecture(id=f"a{size}", shapes={"w": (size,)}), {"w": torch.zeros(1, size)}, table)
    writer.finish({})
    with pytest.raises(InputError, match="expected networks with the same layers for W"):
        raw_weights(Zoo.open(tmp_path))


def test_the_last_epoch_is_each_members_own(zoo: Zoo) -> None:
    kept = raw_weights(zoo.where(lambda table: (table["epoch"] < 2) | (table["member"] == "member-0001"))).last_epochs()
    assert set(kept.table.groupby("member")["epoch"].max()) == {1, 2} and len(kept.features) == 24


def test_categories_are_classified() -> None:
    parts_ = []
    for start, count in ((0, 150), (150, 50), (200, 60)):
        generator = np.random.default_rng(start)
        labels = generator.choice(["a", "b", "c"], size=count, p=[0.5, 0.3, 0.2])
        features = generator.normal(size=(count, 5))
        features[:, 0] += 3 * (labels == "a")
        features[:, 1] += 3 * (labels == "b")
        table = pd.DataFrame({"member": [f"m{start + n}" for n in range(count)], "kind": labels, "same": "x"})
        parts_.append(Embeddings(features, table, PLANTED))
    found = classify(*parts_, target="kind")
    assert found.chance < 0.6 < found.accuracy and found.low <= found.accuracy <= found.high
    shuffled = [
        Embeddings(
            part.features, part.table.assign(kind=part.table["kind"].sample(frac=1, random_state=1).to_numpy()), PLANTED
        )
        for part in parts_
    ]
    assert classify(*shuffled, target="kind").accuracy < found.chance + 0.15
    with pytest.raises(InputError, match="found same constant"):
        classify(*parts_, target="same")


def test_learning_rates_are_predicted_as_logarithms() -> None:
    train, validation, test = (
        Embeddings(part.features, part.table.assign(rate=10.0 ** part.table["quality"]), PLANTED) for part in parts(0.8)
    )
    as_logarithm = probe(train, validation, test, target="rate", logarithmic=True)
    assert as_logarithm.scale == "log10" and as_logarithm.r2 > 0.6
    assert probe(train, validation, test, target="rate").r2 < as_logarithm.r2
    assert probe(train, validation, test, target="quality", logarithmic=True).scale == "linear"


def test_components_are_fitted_on_the_first_part_only() -> None:
    train, validation, test = parts(0.5)
    made = components([train, validation, test], 3)
    changed = components([train, validation, Embeddings(test.features * 9 + 5, test.table, PLANTED)], 3)
    assert made[0].features.shape[1] == 3 and made[0].representation.label == "planted (PCA)"
    np.testing.assert_array_equal(made[1].features, changed[1].features)


def test_side_by_side_remembers_what_was_trained_on() -> None:
    train = parts(0.5)[0]
    seen = Embeddings(train.features, train.table, Representation("SANE", "sane"), frozenset({"m1"}))
    both = side_by_side(seen, train)
    assert (
        both.features.shape[1] == 8 and both.trained_on == {"m1"} and both.representation == ("SANE + planted", "both")
    )


def test_representations_beside_each_other(zoo: Zoo, parts: tuple[Zoo, ...], sane_folder: Path) -> None:
    sane = SANE.open(sane_folder)
    rows = compare_representations(
        [Fold(parts, choose_representations(sane=sane))],
        ["test_accuracy", "epoch"],
        hyper_parameters=["learning_rate", "activation"],
    ).rows
    names = [
        "W",
        "s(W)",
        "r(W)",
        "aligned W (PCA)",
        "t(W)",
        "untrained SANE (mean+spread)",
        "SANE (mean)",
        "SANE (mean+spread)",
    ]
    names += ["SANE (readout)", "SANE (sequence, PCA)", "SANE (readout) + s(W)", "SANE (readout) + r(W)"]
    names += [CHOSEN.label]
    assert list(dict.fromkeys(row.representation for row in rows)) == names
    assert {(row.subset, row.target) for row in rows} == {
        ("pooled", "test_accuracy"),
        ("pooled", "epoch"),
        ("last_epoch", "test_accuracy"),
        ("last_epoch", "learning_rate"),
        ("last_epoch", "activation"),
    }
    assert len(rows) == 65 and json.dumps([row.to_json() for row in rows])
    for row in rows:
        assert (row.r2 is None) == (row.target == "activation") == (row.chance is not None)
    chosen = next(row for row in rows if row.representation == CHOSEN.label)
    assert (
        chosen.chosen in names
        and chosen.chosen.startswith("SANE (")
        and "+" not in chosen.chosen.replace("mean+spread", "")
    )


def test_what_is_chosen_is_chosen_on_validation_members(zoo: Zoo) -> None:
    def represent(name: str, on_validation: float, on_test: float) -> Represent:
        signals = (0.9, on_validation, on_test)
        members = (range(200), range(200, 260), range(260, 340))
        made = [planted(own, signal, 3) for own, signal in zip(members, signals, strict=True)]
        named = [
            Embeddings(p.features, p.table.rename(columns={"quality": "test_accuracy"}), Representation(name, "sane"))
            for p in made
        ]
        return lambda _: named

    representations = [represent("SANE (good here)", 0.9, 0.1), represent("SANE (good there)", 0.1, 0.9)]
    rows = compare_representations([Fold([zoo], representations)], ["test_accuracy"]).rows
    chosen = [row.chosen for row in rows if row.representation == CHOSEN.label]
    assert chosen == ["SANE (good here)"] * 2


def test_folds_are_scored_together_and_members_tested_once(zoo: Zoo) -> None:
    folds = make_folds(zoo, (0.5, 0.25, 0.25), choice=Choice(("s(W)",)))
    tested = [member for fold in folds for member in fold.parts[-1].members]
    assert len(folds) == 4 and sorted(tested) == sorted(zoo.members)
    for fold in folds:
        assert sum(len(part.members) for part in fold.parts) == len(zoo.members)
    rows = compare_representations(folds, ["test_accuracy"]).rows
    assert {row.members for row in rows} == {len(zoo.members)} and rows[0].checkpoints == len(zoo)


def test_each_fold_takes_a_model_that_has_not_seen_its_test_members(zoo: Zoo, sane_folder: Path) -> None:
    sane = SANE.open(sane_folder)
    shares = (0.5, 0.25, 0.25)
    sane = seeing(sane, zoo.split(*shares, seed=0, fold=0)[0])
    folds = make_folds(zoo, shares, [sane], Choice(("mean",)))
    assert len(folds) == 2  # its validation and its test members; others it was trained on
    for fold in folds:
        assert not sane.trained_on(fold.parts[-1])
    assert len(make_folds(zoo, shares, [sane], Choice(("mean",)), allow_overlap=True)) == 4
    sane = seeing(sane, zoo)
    with pytest.raises(InputError, match=r"expected test members that the SANE was not trained on, found \d of"):
        make_folds(zoo, shares, [sane], Choice(("mean",)))


def test_pooled_folds_are_one_result() -> None:
    results = [probe(*parts(0.6, seed), target="quality") for seed in range(3)]
    renamed = [own._replace(owners=np.char.add(own.owners.astype(str), f"-{n}")) for n, own in enumerate(results)]
    pooled = pool_folds(renamed)
    assert pooled.members == 240 and pooled.checkpoints == 720
    assert min(own.r2 for own in results) < pooled.r2 < max(own.r2 for own in results)
    assert pooled.r2_high - pooled.r2_low < results[0].r2_high - results[0].r2_low


def test_paired_differences_are_narrower_than_intervals_apart() -> None:
    base = probe(*parts(0.6), target="quality")
    noise = np.random.default_rng(0).normal(size=len(base.true)) * 0.05
    better = base._replace(predicted=base.predicted + 0.02 * (base.true - base.predicted) + 0 * noise)
    better = better._replace(r2=1 - ((better.true - better.predicted) ** 2).sum() / base.true.var() / len(base.true))
    found = r2_difference(better, base)
    assert 0 < found.low < found.value < found.high < base.r2_high - base.r2_low
    assert r2_difference(base, base) == (0, 0, 0)
    with pytest.raises(InputError, match="expected two results of the same checkpoints"):
        r2_difference(base, probe(*parts(0.6, 1), target="quality"))


def test_trees_read_what_no_line_can() -> None:
    curved = []
    for part in parts(0.9):
        table = part.table.assign(quality=part.features[:, 0] ** 2)
        curved.append(Embeddings(part.features, table, PLANTED))
    line, trees = (probe(*curved, target="quality", model=model) for model in ("linear", "trees"))
    assert isinstance(line, ProbeResult) and line.r2 < 0.2 < 0.8 < trees.r2


def test_all_targets_are_those_that_vary(zoo: Zoo) -> None:
    found = find_targets(zoo)
    assert {"test_accuracy", "epoch", "generalization_gap"} <= set(found.results)
    assert {"learning_rate", "activation"} <= set(found.hyper_parameters)
    assert not {"optimizer", "dropout"} & {*found.results, *found.hyper_parameters}


def test_unknown_representations_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected representations among standard, all, W, s\(W\), .*found other"):
        choose_representations(["other"])
    with pytest.raises(InputError, match="expected a trained SANE for the representation readout, found none"):
        choose_representations(["readout"])
    assert len(choose_representations(["all"])) == 6 and len(choose_representations(["all"], runnable=False)) == 4
    with pytest.raises(InputError, match="expected a representation among W, .*found 'other'"):
        represent([], "other")


def test_one_call_for_every_representation(parts: tuple[Zoo, ...], sane_folder: Path) -> None:
    sane = SANE.open(sane_folder)
    for name in REPRESENTATIONS:
        if name == "hyper":  # has a test of its own, as it is trained
            continue
        made = represent(parts, name, sane)
        assert len(made) == 3 and len({part.features.shape[1] for part in made}) == 1
        for part, own in zip(parts, made, strict=True):
            assert len(own.features) == len(part) and np.isfinite(own.features).all()


def test_spectra_are_those_of_the_matrices(zoo: Zoo) -> None:
    features = spectra(zoo).features
    weights = [tensor for tensor in zoo.weights(10).values() if tensor.ndim > 1]
    assert features.shape == (len(zoo), 5 * len(weights))
    for place, tensor in enumerate(weights):
        values = np.linalg.svd(tensor.flatten(1).numpy(), compute_uv=False)
        norm, largest, stable = features[10, 5 * place : 5 * place + 3]
        expected = [np.linalg.norm(values), values[0], (values**2).sum() / values[0] ** 2]
        np.testing.assert_allclose(np.exp([norm, largest, stable]), expected, rtol=1e-4)


def test_matrix_views_keep_what_standardising_takes(zoo: Zoo) -> None:
    features = matrix_views(zoo).features
    first = next(tensor for tensor in zoo.weights(3).values() if tensor.ndim > 1)
    rows, size = len(first), PROBES * len(first)
    assert abs(features[3, :size].mean()) < 1e-4 and abs(features[3, :size].std(ddof=1) - 1) < 1e-4
    generator = torch.Generator().manual_seed(derive_seed(0, "views", rows, first[0].numel()))
    view = first.flatten(1) @ torch.randn(first[0].numel(), PROBES, generator=generator)
    np.testing.assert_allclose(features[3, size], view.std().log(), rtol=1e-4)


def test_exact_token_statistics_are_what_the_readout_learns(zoo: Zoo, sane_folder: Path) -> None:
    sane = SANE.open(sane_folder)
    exact, learned = exact_token_statistics(zoo, sane.preparation), sane.embed(zoo, "readout")
    assert exact.features.shape == learned.features.shape
    layout = next(iter(sane.preparation.frames.values())).layout
    prepared = sane.preparation.prepare(zoo.weights(5))
    found = token_statistics(prepared.tokens, entries_of(layout))
    np.testing.assert_allclose(exact.features[5, :22], found[: layout.blocks[0].count].mean(0), rtol=1e-3, atol=1e-4)


def test_a_hyper_representation_reads_whole_networks(zoo: Zoo, sane_folder: Path) -> None:
    sane = SANE.open(sane_folder)
    config = SANEConfig(latent_width=6, model_width=16, layers=1, heads=2)
    model = fit_hyper_representation(zoo, sane.preparation, config, TrainConfig(steps=3, batch_size=4))
    made = embed_whole(model, zoo, sane.preparation)
    assert made.features.shape == (len(zoo), 6) and np.isfinite(made.features).all()
    few = zoo.split(0.5, 0.5, seed=0)[0]
    again, own = embed_whole(model, few, sane.preparation), made.table["member"].isin(few.members)
    np.testing.assert_allclose(again.features, made.features[own], rtol=1e-4, atol=1e-5)
