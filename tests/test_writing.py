"""Selecting, conditioning, refining and initialising: what becomes of generated networks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from garden.small import OddOnes, TiedTransformer
from garden.vision import convnext, densenet
from tools import Own, refused, run
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.reconstructing import LatentDescent, condition_weights, conditioning_images, reconstruct
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.autoencoder.training.distilling import distill
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.errors import InputError
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.fine_tuning import Population, fine_tune
from weightspace.generation.anchors import Anchors, choose_anchors, encode_anchors
from weightspace.generation.config import SamplerConfig, SelectConfig
from weightspace.generation.generating import generate
from weightspace.generation.initializing import _prompts, initialize
from weightspace.generation.novelty import NoveltyReference
from weightspace.generation.samplers.gaussian import RandomLatents
from weightspace.generation.samplers.interpolation import Interpolation
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Sampler
from weightspace.generation.sampling import Coverage, Generated, condition, sample_networks
from weightspace.generation.selecting import best_networks, rank, refine, select_networks
from weightspace.generation.widths import novelty_of, width_for_novelty
from weightspace.images import Images, ImageSet
from weightspace.supervised import predict, score
from weightspace.weights.values import find_aliases
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.zoo import Zoo

NOWHERE = Coverage({}, {})


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as users call it, without the shape and type checks of test runs."""
    return getattr(function, "__wrapped__", function)


@pytest.fixture
def sane(sane_folder: Path) -> SANE:
    return SANE.open(sane_folder)


@pytest.fixture
def anchors(sane: SANE, zoo: Zoo) -> Anchors:
    return encode_anchors(sane, choose_anchors(sane, zoo.where(activation="tanh"), 4))


@pytest.fixture(scope="session")
def residual(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[SANE, Zoo]:
    """A model and a zoo of networks with batch norms."""
    folder = tmp_path_factory.mktemp("residual")
    config = GrowConfig(members=4, epochs=1, learning_rate="3e-3", plan="stacked", workers=1)
    zoo = grow("resnet18:4", digits, config, folder / "zoo")
    shape = SANEConfig(latent_width=16, model_width=32, layers=1, heads=2, linear_path=True)
    return pretrain(zoo, shape, TrainConfig(steps=20, window=64, batch_size=4), out=folder / "sane"), zoo


# Selecting


def test_what_is_good_on_test_images_and_bad_on_validation_images_loses(zoo: Zoo, digits: ImageSet, sane: SANE) -> None:
    """Labels of the validation images are wrong for the best network, so that validation and test disagree."""
    row = int(np.argmax(zoo.where(activation="tanh").table["test_accuracy"]))
    good = zoo.where(activation="tanh").weights(row)
    architecture = zoo.architectures["mlp-64-8-10-tanh"]
    module = architecture.build()
    module.load_state_dict(good)
    shifted = (predict(module, digits.validation.inputs).argmax(-1) + 1) % 10
    planted = digits._replace(validation=Images(digits.validation.inputs, shifted))
    other = architecture.build().state_dict()
    made = [Generated(architecture, good, NOWHERE), Generated(architecture, other, NOWHERE)]
    ranked = rank(made, planted)
    assert score(module, digits.test).accuracy > 0.3 and ranked.accuracies[1] == 0
    assert ranked.networks[0].weights is other and ranked.networks[1].weights is good
    assert rank(made, digits).networks[0].weights is good


def test_subsampling_keeps_the_best_of_what_is_drawn(sane: SANE, anchors: Anchors, digits: ImageSet) -> None:
    best = SelectConfig(draws=12, spread=False)
    kept = best_networks(sane, anchors, 3, digits, best, seed=0)
    all_of_them = best_networks(sane, anchors, 12, digits, SelectConfig(spread=False), seed=0)
    assert kept.accuracies == all_of_them.accuracies[:3] and kept.accuracies == sorted(kept.accuracies, reverse=True)
    apart = best_networks(sane, anchors, 3, digits, SelectConfig(draws=12), seed=0)
    assert len({network.anchor for network in apart.networks}) == 3, "the best of every anchor first"
    for network, accuracy in zip(apart.networks, apart.accuracies, strict=True):
        own = [a for n, a in zip(*all_of_them, strict=True) if n.anchor == network.anchor]
        assert accuracy == max(own)
    with pytest.raises(InputError, match="expected at least 3 draws to keep 3 networks, found 2"):
        best_networks(sane, anchors, 3, digits, SelectConfig(draws=2))


def test_bootstrapping_returns_the_best_of_the_last_round(sane: SANE, anchors: Anchors, digits: ImageSet) -> None:
    config = SelectConfig(draws=10, rounds=4, keep=3)
    found = best_networks(sane, anchors, 3, digits, config, seed=0, sampler=RandomLatents())
    once = best_networks(sane, anchors, 3, digits, SelectConfig(draws=10), seed=0, sampler=RandomLatents())
    assert np.mean(found.accuracies) > np.mean(once.accuracies), "keepers are better anchors than random latents"


def test_without_images_nothing_is_selected(sane: SANE, anchors: Anchors) -> None:
    assert len(select_networks(sane, anchors, 2, None, SelectConfig())) == 2
    with pytest.raises(InputError, match=r"expected images \(--data\) for --draws, found none"):
        select_networks(sane, anchors, 2, None, SelectConfig(draws=4))
    with pytest.raises(InputError, match="for --rounds"):
        select_networks(sane, anchors, 2, None, SelectConfig(rounds=2))


def test_images_that_do_not_fit_the_networks_are_refused(sane: SANE, anchors: Anchors, digits: ImageSet) -> None:
    narrow = digits._replace(train=Images(digits.train.inputs[..., :4], digits.train.labels))
    with pytest.raises(InputError, match=r"images of shape \[1, 8, 8\] for mlp-64-8-10-tanh, found \[1, 8, 4\]"):
        best_networks(sane, anchors, 1, narrow, SelectConfig())
    with pytest.raises(InputError, match="images of at most 10 classes for mlp-64-8-10-tanh, found 12"):
        best_networks(sane, anchors, 1, digits._replace(classes=12), SelectConfig())
    with pytest.raises(InputError, match="number of networks to be at least 1"):
        best_networks(sane, anchors, 0, digits, SelectConfig(draws=5))


def test_anchors_are_not_chosen_by_test_images_or_losses(sane: SANE, zoo: Zoo) -> None:
    for by in ("test_accuracy", "validation_loss"):
        with pytest.raises(InputError, match=f"no loss and not of test images, found '{by}'"):
            choose_anchors(sane, zoo, 2, by=by)


def test_refining_moves_latents_and_lowers_the_loss(sane: SANE, anchors: Anchors, digits: ImageSet) -> None:
    made = sample_networks(sane, anchors, 3, seed=0)
    refined = refine(sane, made, digits.train, SelectConfig(refine=40, refine_rate=0.1), seed=0)

    def loss(networks: Sequence[Generated]) -> float:
        module, losses = networks[0].architecture.build(), []
        for network in networks:
            module.load_state_dict(network.weights)
            losses.append(float(score(module, digits.validation).loss))
        return float(np.mean(losses))

    assert loss(refined) < loss(made) - 0.05
    assert refined[0].latents is not None and made[0].latents is not None
    assert not torch.equal(refined[0].latents, made[0].latents)
    assert all(parameter.grad is None for parameter in sane.network.parameters()), "the model itself stays as it is"


# Batch norms


def test_conditioned_statistics_are_exact_averages(residual: tuple[SANE, Zoo], digits: ImageSet) -> None:
    sane, zoo = residual
    (made,) = sample_networks(sane, encode_anchors(sane, zoo.last()), 1)
    inputs = conditioning_images(digits.train, 300, seed=0)
    conditioned = condition(made, inputs)
    module = made.architecture.build()
    module.load_state_dict(conditioned.weights)
    first = next(part for part in module.modules() if isinstance(part, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda part, inputs, output: seen.append(inputs[0]))
    predict(module, inputs)
    values = torch.cat(seen).transpose(0, 1).flatten(1)
    assert first.running_mean is not None and first.running_var is not None
    torch.testing.assert_close(first.running_mean, values.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first.running_var, values.var(1), rtol=1e-3, atol=1e-4)
    assert condition(made, inputs[:0]) is made
    assert all(made.weights[name].min() > 0 for name in made.weights if name.endswith("running_var"))
    counts, size = conditioned.coverage.counts, made.architecture.parameters
    assert counts["conditioned"] > 0 and sum(counts.values()) == size == sum(made.coverage.counts.values())


def test_what_is_encoded_closely_is_conditioned(residual: tuple[SANE, Zoo], digits: ImageSet) -> None:
    sane, zoo = residual
    architecture = next(iter(zoo.architectures.values()))
    weights = zoo.last().weights(0)
    plain = reconstruct(sane, [weights], architecture)[0].decoded
    closely = reconstruct(sane, [weights], architecture, descent=LatentDescent(digits.train, steps=0))[0].decoded
    expected = condition_weights(plain, architecture, conditioning_images(digits.train, 1_000, 0))
    for name, tensor in closely.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in closely.items())


def test_residual_networks_are_refined_and_taught(residual: tuple[SANE, Zoo], digits: ImageSet, tmp_path: Path) -> None:
    sane, zoo = residual
    folder = zoo.folder.parent
    made = sample_networks(sane, encode_anchors(sane, zoo.last()), 2)
    refined = refine(sane, made, digits.train, SelectConfig(refine=2))
    assert all(set(network.weights) == set(network.architecture.shapes) for network in refined)
    with pytest.raises(InputError, match=r"images \(--data\) to condition batch norms on, or --condition 0"):
        select_networks(sane, encode_anchors(sane, zoo.last()), 1, None, SelectConfig())
    config = DistillConfig(steps=2, networks=2, queries=8)
    distilled = distill(folder / "sane", zoo, digits.train, config, out=tmp_path / "distilled")
    assert distilled.provenance.distilled["distillation"] > 0


# Initialising


def test_a_module_is_filled_in_place_and_told_how(sane: SANE, digits: ImageSet) -> None:
    prompts = [Own() for _ in range(3)]
    model = Own()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    coverage = initialize(model, sane, anchors=prompts, data=digits.train.inputs[:64])
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"body.0.weight", "head.weight", "body.1.running_mean"} <= changed
    assert coverage.tensors["body.1.running_mean"] == "conditioned"
    assert coverage.tensors["body.1.num_batches_tracked"] == "conditioned"
    untouched = initialize(Own(), sane, anchors=prompts)
    assert untouched.tensors["body.1.num_batches_tracked"] == "carried"
    assert coverage.share("reinitialized") == 0
    assert sum(coverage.counts.values()) == sum(tensor.numel() for tensor in before.values())
    assert "numbers generated" in str(coverage) and "averaged over images" in str(coverage)
    again = Own()
    initialize(again, sane, anchors=[prompt.state_dict() for prompt in prompts], data=digits.train.inputs[:64])
    assert torch.equal(again.head.weight, model.head.weight), "one seed, one network"


def test_a_head_of_another_size_is_generated_or_left(sane: SANE) -> None:
    prompts = [Own() for _ in range(2)]
    generated, fresh = Own(classes=13), Own(classes=13)
    kept = fresh.head.weight.detach().clone()
    coverage = initialize(generated, sane, anchors=prompts)
    assert coverage.tensors["head.weight"] == coverage.tensors["head.bias"] == "copied"
    rows = generated.head.weight.detach()
    for extra in rows[10:]:
        assert any(torch.equal(extra, row) for row in rows[:10])
    coverage = initialize(fresh, sane, anchors=prompts, head="fresh")
    assert coverage.tensors["head.weight"] == "reinitialized" and torch.equal(fresh.head.weight, kept)
    with pytest.raises(InputError, match="no name and shape in common"):
        initialize(nn.Conv2d(2, 3, 5), sane, anchors=prompts)
    with pytest.raises(InputError, match="at least 1 anchor, found none"):
        initialize(generated, sane, anchors=[])
    with pytest.raises(InputError, match="anchors with the same tensors, found 2 different kinds"):
        initialize(generated, sane, anchors=[Own(), Own(classes=3)])


def test_what_cannot_be_filled_is_refused_and_left_alone(sane: SANE, zoo: Zoo, digits: ImageSet) -> None:
    prompts, model = [Own(), Own()], Own()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    broken = {name: tensor * float("nan") for name, tensor in Own().state_dict().items()}
    refusals: list[tuple[str, dict[str, Any]]] = [
        ("a tensor of at least 2 inputs, found 1", {"anchors": prompts, "data": digits.train.inputs[:1]}),
        ("data that the module takes", {"anchors": prompts, "data": torch.randn(4, 3, 8, 8)}),
        ("a list of modules or state dicts as anchors, found one Own", {"anchors": prompts[0]}),
        ("found int without one", {"anchors": [3]}),
        ("NaN", {"anchors": [broken, broken]}),
        ("head to be generated or fresh, found 'genrated'", {"anchors": prompts, "head": "genrated"}),
        ("anchors of one architecture, found mlp", {"anchors": zoo.last()}),
    ]
    for message, given in refusals:
        with pytest.raises(InputError, match=message):
            unchecked(initialize)(model, sane, **given)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    wrapped = [{"state_dict": {f"module.{k}": v for k, v in own.state_dict().items()}, "epoch": 3} for own in prompts]
    assert unchecked(initialize)(model, sane, anchors=wrapped).share("generated") > 0.9


def test_prompts_are_aligned_only_where_that_changes_nothing(sane: SANE, zoo: Zoo, digits: ImageSet) -> None:
    module = zoo.architectures["mlp-64-8-10-tanh"].build()
    prompts = [zoo.where(activation="tanh").last().weights(row) for row in range(3)]
    architecture = sane.preparation.architecture_for(prompts[0])
    plain, aligned = (
        _prompts(module, sane, prompts, data).preparation.frame_of(architecture)
        for data in ((), (digits.train.inputs[:16],))
    )
    assert plain.symmetry is None, "without inputs nobody knows"
    assert aligned.symmetry is not None


@pytest.mark.parametrize("build", [densenet, TiedTransformer, convnext, OddOnes])
def test_architectures_that_the_model_never_saw_are_filled(sane: SANE, build: Callable[[], nn.Module]) -> None:
    prompts, model = [build(), build()], build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    coverage = initialize(model, sane, anchors=prompts, seed=1)
    assert (
        set(coverage.tensors) == set(before) - set(find_aliases(model.state_dict()))
        and coverage.share("reinitialized") == 0
    )
    assert coverage.share("generated") > 0.9
    aliases = find_aliases(model.state_dict())
    for name, tensor in model.state_dict().items():
        if coverage.tensors[aliases.get(name, name)] == "carried":
            assert torch.equal(tensor, prompts[0].state_dict()[name])
        else:
            assert tensor.isfinite().all() and not torch.equal(tensor, before[name])


def test_the_anchors_of_a_zoo_start_a_training(sane: SANE, zoo: Zoo, digits: ImageSet) -> None:
    chosen = choose_anchors(sane, zoo.where(activation="tanh"), 3)
    model = zoo.architectures["mlp-64-8-10-tanh"].build()
    initialize(model, sane, anchors=chosen, sampler=Interpolation(), seed=3)
    assert torch.isfinite(score(model, digits.test).loss).all()


# Evaluating


def test_ensembles_and_overlaps_are_what_they_say(zoo: Zoo, digits: ImageSet) -> None:
    architecture: Architecture = zoo.architectures["mlp-64-8-10-tanh"]
    one = zoo.where(activation="tanh").last().weights(0)
    two = zoo.where(activation="tanh").last().weights(1)
    same, different = (
        fine_tune([Population("p", "p", architecture, networks)], digits, EvaluateConfig(epochs=(0,)))[0]
        for networks in ([one, one], [one, two])
    )
    assert same.overlap == 1 and same.ensemble == pytest.approx(same.accuracy, abs=1e-6)
    assert 0 < different.overlap < 1
    alone = fine_tune([Population("p", "p", architecture, [one])], digits, EvaluateConfig(epochs=(0,)))[0]
    assert np.isnan(alone.overlap)


def test_residual_networks_are_fine_tuned_alike_side_by_side_alone_and_in_a_stack(
    residual: tuple[SANE, Zoo], digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = residual[1].last()
    architecture = next(iter(zoo.architectures.values()))
    population = Population("p", "p", architecture, [zoo.weights(row) for row in range(3)])
    images = digits._replace(train=Images(*(own[:256] for own in digits.train)))
    config = EvaluateConfig(epochs=(0, 1))
    module = "weightspace.evaluation.fine_tuning"
    beside = fine_tune([population], images, config)
    monkeypatch.setattr(f"{module}.can_stand_side_by_side", lambda module, inputs: False)
    alone = fine_tune([population], images, config)
    monkeypatch.setattr(f"{module}.faster_alone", lambda module, device: False)
    stacked = fine_tune([population], images, config)
    assert [outcome.epochs for outcome in alone] == [0, 1]
    for others in (beside, stacked):
        np.testing.assert_allclose(alone[0].each, others[0].each, atol=1e-6)
        np.testing.assert_allclose(alone[1].each, others[1].each, atol=0.05)
    assert not np.allclose(alone[1].each, alone[0].each)


def test_several_seeds_are_several_data_orders(zoo: Zoo, digits: ImageSet) -> None:
    architecture = zoo.architectures["mlp-64-8-10-tanh"]
    networks = [zoo.where(activation="tanh").weights(row) for row in range(3)]
    population = Population("p", "p", architecture, networks)
    one, two = (fine_tune([population], digits, EvaluateConfig(epochs=(0, 1), seeds=seeds))[1].each for seeds in (1, 2))
    assert len(one) == len(two) == 3 and not np.allclose(one, two)


# The command line


def test_the_commands_of_writing(
    sane_folder: Path, zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = ("--split", "0.6,0.2,0.2")
    distilled = tmp_path / "distilled"
    options = ("--steps", 4, "--networks", 4, "--queries", 8, "--log-every", 2)
    model = tmp_path / "sane"
    assert run(capsys, "pretrain", zoo_folder, "--out", model, "--steps", 4, *split)[0] == 0
    status, out, _ = run(capsys, "distill", model, zoo_folder, *options, *split, "--out", distilled)
    assert status == 0 and out.startswith(f"{distilled}: decoded networks agree on") and "unseen ones keep" in out
    made = tmp_path / "made"
    chosen = ("--architecture", "mlp-64-8-10-tanh", "--sampler", "interpolation", "--draws", 6, "--rounds", 2)
    common = ("generate", distilled, "--anchors", zoo_folder, "--best", 3, "--count", 2)
    status, out, _ = run(capsys, *common, *chosen, "--refine", 2, "--out", made, "--json")
    assert status == 0 and json.loads(out)["select"]["draws"] == 6 and json.loads(out)["conditioned"] == 0
    status, out, _ = run(capsys, "evaluate", made, "--data", "digits", "--epochs", "0,1", "--json")
    rows = json.loads(out)
    assert status == 0 and rows[0]["method"] == "SANE, interpolation, best of 6, 2 rounds, refined 2 steps"
    needed = {"ensemble", "error_overlap", "diversity", "novelty", "functional_novelty", "latents_per_weight"}
    assert all(needed <= set(row) for row in rows)
    assert "expected anchors of one architecture to blend" in refused(
        capsys, *common[:-4], "--best", 12, "--count", 2, "--sampler", "gaussian", "--out", tmp_path / "x"
    )
    known = refused(capsys, *common, "--architecture", "resnet", "--out", tmp_path / "x")
    assert "expected one of the architectures" in known and "found 'resnet'" in known
    status, out, _ = run(capsys, *common, *split, "--choose-bandwidth", "--out", tmp_path / "chosen", "--json")
    assert status == 0 and json.loads(out)["sampler"]["bandwidth"] != 0.2
    assert "expected a kernel density to choose a bandwidth for" in refused(
        capsys, *common, *split, *chosen, "--choose-bandwidth", "--out", tmp_path / "x"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("novelty", [0.0, 0.01])
def test_the_command_generates_what_the_library_does(
    novelty: float,
    sane_folder: Path,
    zoo_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--best", 3, "--count", 2, "--draws", 4, "--seed", 5, "--architecture", "mlp-64-8-10-tanh")
    new = ("--novelty", novelty) if novelty else ()
    command = ("generate", sane_folder, "--anchors", zoo_folder, *options, *new, "--out", tmp_path / "made")
    assert run(capsys, *command)[0] == 0
    sane, zoo = SANE.open(sane_folder), Zoo.open(zoo_folder)
    anchors = choose_anchors(sane, zoo, 3, architecture="mlp-64-8-10-tanh")
    networks = generate(sane, anchors, 2, select=SelectConfig(draws=4, novelty=novelty), seed=5)
    made = Zoo.open(tmp_path / "made")
    for number, network in enumerate(networks):
        for name, tensor in made.weights(number).items():
            assert torch.equal(tensor, network[name]), name


def test_as_new_as_asked(
    sane_folder: Path, zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ("--best", 3, "--count", 2, "--architecture", "mlp-64-8-10-tanh")
    common = ("generate", sane_folder, "--anchors", zoo_folder, *wanted)
    status, out, _ = run(capsys, *common, "--novelty", 0.01, "--out", tmp_path / "made", "--json")
    made = Zoo.open(tmp_path / "made")
    assert status == 0 and json.loads(out)["sampler"]["bandwidth"] == 0.05 and len(made) == 2
    assert made.about["generated"]["sampler"]["bandwidth"] == 0.05
    new = refused(capsys, *common, "--novelty", 50, "--out", tmp_path / "x")
    assert "expected networks of novelty 50, found" in new and "at bandwidth 0.4" in new
    assert "found both" in refused(capsys, *common, "--novelty", 0.3, "--choose-bandwidth", "--out", tmp_path / "x")
    for option in (("--sampler", "gaussian"), ("--bandwidth-in", "latents")):
        refusal = refused(capsys, *common, *option, "--novelty", 0.3, "--out", tmp_path / "x")
        assert "expected a kernel density to widen, in units of the anchors' spread" in refusal and option[1] in refusal
    assert "expected novelty to be at least 0" in refused(capsys, *common, "--novelty", -1, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_narrowest_bandwidth_that_is_new_enough_is_taken() -> None:
    tried: list[float] = []

    def make(sampler: Sampler) -> list[Generated]:
        assert isinstance(sampler, KernelDensity) and sampler.anchor == "layer"
        tried.append(sampler.bandwidth)
        return []

    config = SamplerConfig(anchor="layer")
    assert width_for_novelty(config, 0.12, make, lambda made: tried[-1]).sampling == replace(config, bandwidth=0.15)
    assert tried == [0.05, 0.1, 0.15]


def test_novelty_is_the_lesser_of_weights_and_function(sane_folder: Path, zoo: Zoo, digits: ImageSet) -> None:
    sane = SANE.open(sane_folder)
    architecture = zoo.architectures["mlp-64-8-10-tanh"]
    own = zoo.where(activation="tanh").last()
    measure = novelty_of(sane, zoo, digits)
    known = Generated(architecture, own.weights(0), NOWHERE)
    assert measure([known]) < 1e-3
    silent = Generated(architecture, {name: torch.zeros_like(value) for name, value in known.weights.items()}, NOWHERE)
    reference = NoveltyReference(zoo, sane.preparation, architecture)
    found = reference.measure([silent.weights], architecture, digits.validation)
    assert measure([silent]) == pytest.approx(min(float(found.weights[0]), float(found.function[0])), abs=1e-4)
    with pytest.raises(InputError, match="expected images"):
        novelty_of(sane, zoo, None)
