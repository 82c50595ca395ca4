import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.evaluation.comparing import GENERATED, evaluate
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.controls import CONTROLS, Contest, decoded_anchors
from weightspace.evaluation.fine_tuning import Population, fine_tune
from weightspace.evaluation.mixing import (
    WeightComponents,
    add_noise,
    average,
    from_scratch,
    noise_of_novelty,
)
from weightspace.generation.anchors import choose_anchors, encode_anchors, training_members
from weightspace.generation.config import SamplerConfig, SelectConfig
from weightspace.generation.generating import describe_generation, generate, write_generated
from weightspace.generation.novelty import NoveltyReference, StandardizedSpace
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.sampling import sample_networks
from weightspace.generation.selecting import validation_accuracy
from weightspace.images import ImageSet
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.zoo import Zoo

ANCHOR_LATENTS = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sane(sane_folder: Path) -> SANE:
    return SANE.open(sane_folder)


@pytest.fixture
def anchors(sane: SANE, zoo: Zoo) -> Zoo:
    return choose_anchors(sane, zoo.where(activation="tanh"), 4)


@pytest.fixture
def architecture(zoo: Zoo) -> Architecture:
    return zoo.architectures["mlp-64-8-10-tanh"]


@pytest.fixture
def reference(sane: SANE, parts: tuple[Zoo, ...], architecture: Architecture) -> NoveltyReference:
    return NoveltyReference(parts[0], sane.preparation, architecture)


@pytest.fixture
def space(sane: SANE, architecture: Architecture) -> StandardizedSpace:
    return StandardizedSpace(sane.preparation.frame_of(architecture), architecture)


def own_weights(zoo: Zoo) -> list[Weights]:
    return [zoo.weights(row) for row in range(len(zoo))]


# Samplers


@pytest.mark.parametrize("anchor", ["shared", "independent"])
@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_moments_match_theory(anchor: str, noise: str) -> None:
    sampler = KernelDensity(bandwidth=0.5, anchor=anchor, noise=noise)  # type: ignore[arg-type]
    samples = sampler.fit(ANCHOR_LATENTS).sample(40_000, derive_generator(0))
    mean, spread = ANCHOR_LATENTS.mean(0), ANCHOR_LATENTS.std(0)
    variance = ANCHOR_LATENTS.var(0, correction=0) + (0.5 * spread) ** 2
    torch.testing.assert_close(samples.latents.mean(0), mean, rtol=0, atol=0.04)
    torch.testing.assert_close(samples.latents.var(0), variance, rtol=0.05, atol=0.02)
    across = torch.cov(samples.latents[:, :2, 0].T)[0, 1]
    expected = torch.cov(ANCHOR_LATENTS[:, :2, 0].T, correction=0)[0, 1] if anchor == "shared" else torch.tensor(0.0)
    if noise == "shared":
        expected = expected + 0.25 * spread[0, 0] * spread[1, 0]
    assert abs(float(across - expected)) < 0.04


def test_seeds_decide_samples_and_differ_between_tokens() -> None:
    sampler = KernelDensity().fit(ANCHOR_LATENTS)
    first, again, other = (sampler.sample(6, derive_generator(seed)).latents for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    samples = sampler.sample(6, derive_generator(0))
    noise = (samples.latents - ANCHOR_LATENTS[samples.anchors, torch.arange(4)]) / (0.2 * ANCHOR_LATENTS.std(0))
    assert len(noise.flatten().unique()) == noise.numel(), "every token and dimension has noise of its own"


def test_sharing_is_what_its_name_says() -> None:
    shared = KernelDensity(anchor="shared", noise="shared").fit(ANCHOR_LATENTS).sample(50, derive_generator(0))
    assert (shared.anchors == shared.anchors[:, :1]).all()
    independent = KernelDensity(anchor="independent").fit(ANCHOR_LATENTS).sample(50, derive_generator(0))
    assert not (independent.anchors == independent.anchors[:, :1]).all()


def test_bandwidths_are_relative_or_absolute() -> None:
    for relative, scale in ((True, 0.3 * ANCHOR_LATENTS.std(0)), (False, torch.full((4, 3), 0.3))):
        samples = (
            KernelDensity(bandwidth=0.3, relative=relative).fit(ANCHOR_LATENTS).sample(20_000, derive_generator(0))
        )
        noise = samples.latents - ANCHOR_LATENTS[samples.anchors, torch.arange(4)]
        torch.testing.assert_close(noise.std(0), scale, rtol=0.03, atol=0.01)
    one = KernelDensity(bandwidth=0.0).fit(ANCHOR_LATENTS[:1]).sample(3, derive_generator(0))
    assert torch.equal(one.latents, ANCHOR_LATENTS[:1].expand(3, -1, -1))
    with pytest.raises(InputError, match="bandwidth to be at least 0, found -1"):
        KernelDensity(bandwidth=-1.0)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="expected the bandwidth"):
            KernelDensity(bandwidth=wrong)


# Generating


def test_generated_networks_are_complete_and_new(sane: SANE, anchors: Zoo, architecture: Architecture) -> None:
    networks = generate(sane, anchors=anchors, count=3, seed=0)
    for weights in networks:
        architecture.build().load_state_dict(weights, strict=True)
    again, other = generate(sane, anchors=anchors, count=3, seed=0), generate(sane, anchors=anchors, count=3, seed=1)
    name = next(iter(architecture.shapes))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(networks, again, strict=True))
    assert not any(torch.equal(a[name], b[name]) for a, b in zip(networks, other, strict=True))


def test_every_sample_has_the_architecture_of_its_anchor(sane: SANE, zoo: Zoo) -> None:
    mixed = training_members(sane, zoo).last()
    made = generate(sane, mixed, 12, seed=0)
    assert {network.architecture.id for network in made} == {"mlp-64-8-10-relu", "mlp-64-8-10-tanh"}
    assert all(str(network.coverage) == "610 numbers generated" for network in made)
    with pytest.raises(InputError, match="expected anchors of one architecture to blend"):
        generate(sane, mixed, 2, sampling=KernelDensity(anchor="independent"))


def test_impossible_generation_is_refused(sane: SANE, zoo: Zoo, anchors: Zoo) -> None:
    with pytest.raises(InputError, match="at least 1 anchor"):
        generate(sane, anchors=zoo.where(epoch=99), count=1)
    with pytest.raises(InputError, match="number of networks to be at least 1"):
        generate(sane, anchors=anchors, count=0)


def test_anchors_are_training_members_chosen_by_validation(sane: SANE, zoo: Zoo, parts: tuple[Zoo, ...]) -> None:
    chosen = choose_anchors(sane, zoo, 3)
    assert set(chosen.members) <= set(parts[0].members)
    planted = zoo.table.copy()
    planted["test_accuracy"] = 1 - planted["validation_accuracy"]
    fooled = replace(zoo, table=planted)
    assert choose_anchors(sane, fooled, 3).members == chosen.members
    assert set(training_members(sane, zoo.where(lambda t: ~t["member"].isin(sane.provenance.members))).members) == set(
        parts[1].members + parts[2].members
    )


def test_an_architecture_that_is_new_is_aligned_to_an_anchor(sane: SANE, digits: ImageSet, tmp_path: Path) -> None:
    config = GrowConfig(members=5, epochs=1, learning_rate="1e-2", plan="stacked", workers=1)
    wider = grow("mlp:12", digits, config, tmp_path / "wider").last()
    one = wider.where(architecture=str(wider.table["architecture"].iloc[0]))
    knowing = sane.adopting(one)
    architecture = next(own for own in one.architectures.values() if own.id == one.table["architecture"].iloc[0])
    frame = knowing.preparation.frame_of(architecture)
    assert frame.symmetry is not None and "aligned to an anchor" in frame.note
    assert sane.preparation.frame_of(architecture).symmetry is None, "the model itself stays as it is"
    weights = one.weights(0)
    shuffled = permute(weights, frame.symmetry, random_permutations(frame.symmetry, derive_generator(0)))
    again = knowing.preparation.canonicalize(shuffled, architecture)
    for name, tensor in weights.items():
        torch.testing.assert_close(again[name], tensor)
    again_known = knowing.adopting(one).preparation
    assert again_known is knowing.preparation, "what is known is not learned again"
    named = generate(sane, one, 2, seed=0)
    architecture.build().load_state_dict(named[0])
    for first, second in zip(named, generate(knowing, one, 2, seed=0), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first), "the door aligns by itself"


def test_latents_of_anchors_are_those_of_the_zoo(sane: SANE, anchors: Zoo) -> None:
    encoded = encode_anchors(sane, anchors)
    assert encoded.latents.shape == (4, 18, 8) and len(encoded.architectures) == 4
    assert encoded.carried == [{}] * 4


# Novelty and controls


def test_a_training_checkpoint_is_not_new_however_it_is_permuted(
    sane: SANE, reference: NoveltyReference, parts: tuple[Zoo, ...], architecture: Architecture, digits: ImageSet
) -> None:
    weights = parts[0].where(architecture=architecture.id).weights(1)
    frame = sane.preparation.frame_of(architecture)
    assert frame.symmetry is not None
    permuted = permute(weights, frame.symmetry, random_permutations(frame.symmetry, derive_generator(0)))
    measured = reference.measure([weights, permuted], architecture, digits.test)
    assert measured.weights.max() < 1e-3 and measured.function.max() == 0


def test_novelty_grows_with_noise_and_is_about_1_between_members(
    space: StandardizedSpace,
    reference: NoveltyReference,
    anchors: Zoo,
    architecture: Architecture,
    parts: tuple[Zoo, ...],
) -> None:
    near = own_weights(anchors)

    def novelty(level: float) -> float:
        noisy = add_noise(near, space, level=level, count=6, seed=0).networks
        return float(reference.nearest(noisy, architecture).distances.median())

    levels = [novelty(level) for level in (0.0, 0.1, 0.4, 1.0)]
    assert levels == sorted(levels) and levels[0] < 1e-3
    unseen = own_weights(parts[2].last().where(architecture=architecture.id))
    assert 0.4 < float(reference.nearest(unseen, architecture).distances.median()) < 1.6


def test_noise_is_found_for_a_wanted_novelty() -> None:
    measured: list[float] = []

    def measure(level: float) -> float:
        measured.append(level)
        return level**2  # grows with the level, as novelty does

    assert abs(noise_of_novelty(measure, novelty=0.49) - 0.7) < 0.01 and len(measured) <= 12


@pytest.fixture
def contest(sane: SANE, parts: tuple[Zoo, ...], anchors: Zoo, architecture: Architecture, digits: ImageSet) -> Contest:
    """Three noisy anchors that controls are to be as new as."""
    canonical = [sane.preparation.canonicalize(anchors.weights(row), architecture) for row in range(len(anchors))]
    empty = Contest(
        sane=sane,
        architecture=architecture,
        anchors=canonical,
        train=parts[0].last(),
        reference=NoveltyReference(parts[0].last(), sane.preparation, architecture),
        generated=[],
        drawn=4,
        images=digits,
        select=SelectConfig(condition=0),
        config=EvaluateConfig(),
    )
    noisy = add_noise(canonical, empty.space, level=0.3, count=3, seed=1).networks
    return replace(empty, generated=noisy)


def test_noise_is_as_new_as_what_it_stands_beside_once_the_best_are_kept(contest: Contest) -> None:
    kinds = (("noise", "weights", 0.02), ("functional noise", "function", 0.1), ("shrunk", "weights", 0.02))
    for key, measure, within in kinds:
        networks = CONTROLS[key].make(contest)
        novelty = contest.reference.measure(networks, contest.architecture, contest.images.validation)
        assert len(networks) == contest.count
        assert abs(np.median(getattr(novelty, measure)) - np.median(getattr(contest.novelty, measure))) < within, key


def test_controls_are_kept_as_what_was_generated(contest: Contest) -> None:
    anchors = contest.anchors[:3]
    order = validation_accuracy(contest.architecture, anchors, contest.images.validation).argsort(descending=True)
    twice = [anchors[order[place]] for place in (0, 0, 1, 2)]
    for spread, expected in ((True, [0, 1, 2]), (False, [0, 0, 1])):
        kept = replace(contest, select=replace(contest.select, spread=spread)).best(twice, [0, 0, 1, 2])
        for network, place in zip(kept, expected, strict=True):
            assert all(torch.equal(network[name], anchors[order[place]][name]) for name in network)


def test_the_flat_space_has_an_inverse(space: StandardizedSpace, anchors: Zoo) -> None:
    weights = anchors.weights(0)
    restored = space.restore(space.flatten(weights), weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(restored[name], tensor, rtol=1e-4, atol=1e-6)


def test_averages_are_averages(space: StandardizedSpace, anchors: Zoo) -> None:
    two = own_weights(anchors)[:2]
    (mean,) = average(two, space, count=1, seed=0)
    for name in mean:
        torch.testing.assert_close(mean[name], (two[0][name] + two[1][name]) / 2, rtol=1e-4, atol=1e-5)


def test_components_hold_what_they_were_fitted_on(
    space: StandardizedSpace, reference: NoveltyReference, parts: tuple[Zoo, ...], architecture: Architecture
) -> None:
    own = parts[0].where(architecture=architecture.id).last()
    canonical = [space.frame.canonicalize(own.weights(row), architecture) for row in range(len(own))]
    linear = WeightComponents(reference.flat, 10_000, space)
    assert linear.size <= min(reference.flat.shape)
    exact = linear.sample_density(canonical[:1], bandwidths=[0.0], count=1, seed=0)[0]
    for name, tensor in canonical[0].items():
        torch.testing.assert_close(exact[name], tensor, rtol=1e-2, atol=2e-2)
    few = WeightComponents(reference.flat, 3, space)
    assert few.size == 3 and len(few.sample_gaussian(canonical[:5], count=4, seed=0)) == 4


def test_scratch_is_random_and_reproducible(architecture: Architecture) -> None:
    first, again = from_scratch(architecture, 2, 0), from_scratch(architecture, 2, 0)
    name = next(iter(architecture.shapes))
    assert torch.equal(first[0][name], again[0][name]) and not torch.equal(first[0][name], first[1][name])


# Evaluating


def test_all_methods_train_under_one_schedule(anchors: Zoo, architecture: Architecture, digits: ImageSet) -> None:
    populations = [
        Population("anchors", "anchors", architecture, own_weights(anchors)),
        Population("scratch", "scratch", architecture, from_scratch(architecture, 5, 0)),
    ]
    outcomes = fine_tune(populations, digits, EvaluateConfig(epochs=(0, 2)))
    found = {(outcome.method, outcome.epochs): outcome for outcome in outcomes}
    assert list(found) == [("anchors", 0), ("anchors", 2), ("scratch", 0), ("scratch", 2)]
    recorded = anchors.table["test_accuracy"].to_numpy()
    np.testing.assert_allclose(found["anchors", 0].each, recorded, atol=1e-6)
    assert found["scratch", 0].accuracy < 0.3 < found["scratch", 2].accuracy
    assert all(outcome.low <= outcome.accuracy <= outcome.high for outcome in outcomes)
    alone = fine_tune(populations[1:], digits, EvaluateConfig(epochs=(0, 2)))
    np.testing.assert_allclose(alone[1].each, found["scratch", 2].each, atol=0.01)  # whoever is trained beside them
    with pytest.raises(InputError, match="expected networks to evaluate"):
        fine_tune([], digits)
    with pytest.raises(InputError, match="expected long to be at least 0, found -1"):
        EvaluateConfig(long=-1)
    with pytest.raises(InputError, match="more than the other epochs, to be at least 6, found 3"):
        EvaluateConfig(long=3)


def test_decoded_anchors_are_what_a_density_without_noise_gives(sane: SANE, contest: Contest, anchors: Zoo) -> None:
    still = sample_networks(sane, encode_anchors(sane, anchors), 40, sampler=KernelDensity(bandwidth=0.0))
    sampled = {network.anchor: network.weights for network in still}
    assert len(sampled) == len(anchors)
    for number, decoded in enumerate(decoded_anchors(contest)):
        for name, tensor in decoded.items():
            torch.testing.assert_close(tensor, sampled[number][name], atol=1e-4, rtol=1e-4)


def test_a_generated_folder_is_evaluated_beside_its_controls(
    sane: SANE, sane_folder: Path, zoo: Zoo, anchors: Zoo, digits: ImageSet, tmp_path: Path
) -> None:
    networks = sample_networks(sane, encode_anchors(sane, anchors), 3, seed=0)
    about = describe_generation(sane_folder, anchors, SamplerConfig(), relative_to=tmp_path / "out")
    generated = write_generated(networks, tmp_path / "out", about=about, seed=0)
    assert not about["sane"].startswith("/")
    rows = evaluate(generated, "digits", EvaluateConfig(epochs=(0, 1), long=3, hyper_steps=4))
    methods = [GENERATED, *(control.label for control in CONTROLS.values())]
    assert list(dict.fromkeys(row.method for row in rows)) == methods
    assert json.dumps([row.to_json() for row in rows])
    by_key = {row.key: row for row in rows}
    epochs = {key: [row.epochs for row in rows if row.key == key] for key in by_key}
    assert epochs["scratch"] == [0, 1, 2, 3], "for as long as the zoo, too"
    assert all(epochs[key] == [0, 1, 3] for key in ("generated", "anchors", "noise")) and epochs["average"] == [0, 1]
    assert by_key["anchors"].novelty < 1e-3 and by_key["generated"].latents_per_weight > 0
    assert by_key["decoded"].novelty > 0.05
    assert abs(by_key["noise"].novelty - by_key["generated"].novelty) < 0.05
    with pytest.raises(InputError, match="found a zoo that was not generated"):
        evaluate(zoo, "digits", EvaluateConfig())
    (tmp_path / "deep").mkdir()
    moved = Path(shutil.move(tmp_path / "out", tmp_path / "deep" / "er"))
    with pytest.raises(InputError, match="expected a trained SANE"):
        evaluate(Zoo.open(moved), "digits", EvaluateConfig())
