"""What networks do when they are asked: laws, oracles against plain computation, refusals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from garden import GARDEN, planted
from tools import refused, run
from weightspace.analysis.representations.catalog import represent
from weightspace.corpus.asking import ask_zoo, cannot_run, make_asker, used_architectures
from weightspace.errors import InputError
from weightspace.images import ImageSet
from weightspace.responses import asking
from weightspace.responses.asking import Asker, Responses
from weightspace.responses.config import AskConfig
from weightspace.responses.questions import Questions, draw_questions, given_questions, smoothed
from weightspace.responses.summarizing import OUTPUT_STATISTICS, UNIT_STATISTICS
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.rescaling import random_factors, rescale
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.splitting import concatenate
from weightspace.zoo.zoo import Zoo

# Sorting compares units as sets; what does not depend on a unit's scale keeps its place in the list.
SCALE_FREE = [UNIT_STATISTICS.index(name) for name in ("share positive", "change", "alike")]


def questions_for(example: Tensor | tuple[Tensor, ...], count: int = 8) -> Questions:
    inputs = example if isinstance(example, tuple) else (example,)
    below = [0 if value.is_floating_point() else int(value.max()) + 1 for value in inputs]
    return draw_questions([tuple(value.shape) for value in inputs], below, count=count)


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


@pytest.mark.parametrize("name", GARDEN)
def test_every_network_of_the_garden_is_asked_and_permuting_it_changes_nothing(name: str) -> None:
    """Functional code, attention, recurrent and residual networks, tokens and several inputs among them."""
    module, example, traced = planted(name)
    asker, weights = Asker(module, questions_for(example)), module.state_dict()
    drawn = random_permutations(traced.symmetry, torch.Generator().manual_seed(0))
    before, after = (asker.ask(own) for own in (weights, permute(weights, traced.symmetry, drawn)))
    assert before.finite == 1 and len(before.units) > 1 and len(before.outputs) >= 1
    for place, rows in before.units.items():
        ordered = [torch.from_numpy(np.sort(own.numpy(), axis=0)) for own in (rows, after.units[place])]
        torch.testing.assert_close(*ordered, rtol=5e-3, atol=5e-3)
    for first, second in zip(before.outputs, after.outputs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_scaling_units_leaves_what_does_not_depend_on_their_scale() -> None:
    module, example = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), (1, 6)
    asker, weights = Asker(module, draw_questions([example])), module.state_dict()
    scales = trace_rescaling(module, "scale", torch.zeros(example))
    factors = random_factors(scales, 1, torch.Generator().manual_seed(0), spread=1.0)
    changed = {name: own[0] for name, own in rescale({n: t[None] for n, t in weights.items()}, scales, factors).items()}
    before, after = asker.ask(weights), asker.ask(changed)
    columns = SCALE_FREE + [len(UNIT_STATISTICS) + place for place in SCALE_FREE]
    for place, rows in before.units.items():
        torch.testing.assert_close(rows[:, columns], after.units[place][:, columns], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(before.outputs[0], after.outputs[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before.units["0"], after.units["0"], atol=0.01)


def test_numbers_of_units_are_what_they_say() -> None:
    """Against numpy, on the values that hooks see."""
    torch.manual_seed(1)
    module, questions = small_net().eval(), draw_questions([(1, 6)], count=32)
    with torch.no_grad():
        hidden = next(module.children())(questions.positional[0]).double().unflatten(0, (2, 2, 16))
    numbers = Asker(module, questions).ask(module.state_dict()).units["0"].unflatten(1, (2, 7))
    for kind in range(2):
        asked, perturbed = hidden[0, kind], hidden[1, kind]
        spread, moved = asked.std(0, correction=0), (perturbed - asked).square().mean(0).sqrt()
        expected = {
            "mean": asked.mean(0).asinh(),
            "spread": spread.asinh(),
            "share positive": (asked > 0).double().mean(0),
            "share near zero": (asked.abs() < 1e-3).double().mean(0),
            "size": asked.abs().mean(0).asinh(),
            "change": moved / (moved + spread),
            "alike": asked.mean(0).square() / asked.square().mean(0),
        }
        for place, name in enumerate(UNIT_STATISTICS):
            torch.testing.assert_close(numbers[:, kind, place].double(), expected[name], rtol=1e-4, atol=1e-5)


def test_numbers_of_outputs_are_what_they_say() -> None:
    torch.manual_seed(1)
    module, questions = small_net().eval(), draw_questions([(1, 6)], count=32)
    with torch.no_grad():
        asked, perturbed = module(questions.positional[0]).double().unflatten(0, (2, 2, 16))[:, 0]
    (numbers,) = Asker(module, questions).ask(module.state_dict()).outputs
    shares = asked.softmax(1)
    entropy = -(shares * shares.log()).sum(1) / math.log(4)
    mean, top = shares.mean(0), shares.sort(1, descending=True).values
    winners = asked.argmax(1)
    squares = torch.linalg.svdvals(asked - asked.mean(0)).square()
    part = squares / squares.sum()
    spread = (asked - asked.mean(0)).square().mean().sqrt()
    moved = (perturbed - asked).square().mean().sqrt()
    expected = {
        "entropy": entropy.mean(),
        "spread of the entropy": entropy.std(correction=0),
        "entropy of the mean": -(mean * mean.log()).sum() / math.log(4),
        "margin": (top[:, 0] - top[:, 1]).mean(),
        "agreement": (winners == perturbed.argmax(1)).double().mean(),
        "winner's share": winners.bincount().max() / 16,
        "effective rank": (-(part * part.log()).sum()).exp() / 4,
        "mean": asked.mean().asinh(),
        "spread": spread.asinh(),
        "spread of means": asked.mean(0).std(correction=0).asinh(),
        "change": moved / (moved + spread),
    }
    for place, name in enumerate(OUTPUT_STATISTICS):
        assert float(numbers[place]) == pytest.approx(float(expected[name]), rel=1e-4, abs=1e-5), name


@given(
    value=st.sampled_from([0.0, 1e12, -1e38, float("inf"), float("nan"), 1e-30]),
    seed=st.integers(0, 3),
)
def test_whatever_the_weights_are_the_numbers_are_finite_and_bounded(value: float, seed: int) -> None:
    module = small_net()
    asker = Asker(module, draw_questions([(1, 6)], count=8, seed=seed))
    weights = {name: torch.full_like(tensor, value) for name, tensor in module.state_dict().items()}
    responses = asker.ask(weights)
    assert responses.vector().isfinite().all() and responses.vector().abs().max() < 40
    assert (responses.finite < 1) == (not math.isfinite(value) or abs(value) == 1e38)


def test_one_bad_number_is_a_flag_and_not_a_crash() -> None:
    module = small_net()
    weights = dict(module.state_dict())
    weights["2.bias"] = torch.tensor([float("nan"), 0.0, 0.0, 0.0])
    responses = Asker(module, draw_questions([(1, 6)])).ask(weights)
    assert 0.5 < responses.finite < 1 and responses.vector().isfinite().all()


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    first, again, other = (draw_questions([(1, 3, 8, 8)], seed=seed).positional[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    white, smooth = first.unflatten(0, (2, 2, -1))[0]
    for noise in (white, smooth):
        assert noise.std() == pytest.approx(1, abs=0.05)
    neighbors = [float((noise[..., 1:] * noise[..., :-1]).mean()) for noise in (white, smooth)]
    assert abs(neighbors[0]) < 0.05 < 0.5 < neighbors[1]


@pytest.mark.parametrize("shape", [(2, 40), (2, 20, 8), (2, 8, 20), (2, 1, 12, 12), (2, 1, 6, 6, 6), (2, 3), (2,)])
def test_smooth_noise_has_the_shape_and_variance_of_white_noise(shape: tuple[int, ...]) -> None:
    noise = smoothed(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert noise.shape == shape and noise.isfinite().all()


def test_asked_in_parts_networks_answer_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module, example, _ = planted("cnn-s")
    whole = Asker(module, questions_for(example, 32))
    monkeypatch.setattr(asking, "MOST_NUMBERS", 1)
    parts = Asker(module, questions_for(example, 32))
    assert parts.at_once < whole.at_once == 16
    answers = [asker.ask(module.state_dict()).vector() for asker in (whole, parts)]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_a_norm_is_observed_in_the_stead_of_what_it_follows() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2)
    )
    asker = Asker(module, draw_questions([(1, 1, 8, 8)]))
    assert [place.name for place in asker.places] == ["0", "4"]
    assert {"0.weight", "1.weight", "1.running_mean"} <= set(asker.places[0].parameters)


def test_own_inputs_and_whole_numbers_are_asked_with() -> None:
    images = torch.rand(20, 6)
    questions = given_questions((images,))
    assert str(questions) == "20 given inputs" and torch.equal(questions.positional[0][:20], images)
    assert 0.02 < (questions.positional[0][20:] - images).std() < 0.2
    named = given_questions((), {"input_ids": torch.arange(40).view(4, 10), "mask": torch.ones(4, 10).bool()})
    swapped = named.named["input_ids"].view(2, 4, 10)
    assert 0 < (swapped[0] != swapped[1]).float().mean() < 0.4 and bool(named.named["mask"].all())
    tokens = draw_questions([(1, 12)], [7]).positional[0]
    assert tokens.dtype == torch.int64 and int(tokens.min()) == 0 and int(tokens.max()) == 6


def test_several_heads_are_several_outputs() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.scores, self.map = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 8)

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            hidden = self.trunk(inputs).tanh()
            return {"scores": self.scores(hidden), "map": self.map(hidden).unflatten(1, (2, 2, 2))}

    module = Heads()
    responses = Asker(module, draw_questions([(1, 6)])).ask(module.state_dict())
    scores, picture = responses.outputs
    assert scores[0] > 0 and bool((picture[:6] == 0).all()) and picture[6] > 0


def test_what_cannot_be_asked_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="expected the number of inputs to ask with to be at least 4, found 2"):
        draw_questions([(1, 6)], count=2)
    with pytest.raises(InputError, match="expected inputs with a batch, found a single number"):
        draw_questions([()])
    with pytest.raises(InputError, match=r"expected inputs with one batch size to ask with, found \[2, 3\], \[3, 3\]"):
        given_questions((torch.zeros(2, 3), torch.zeros(3, 3)))
    with pytest.raises(InputError, match="none of its operations on inputs has parameters"):
        Asker(nn.ReLU(), draw_questions([(1, 6)]))
    with pytest.raises(InputError, match="the number of inputs to ask with"):
        AskConfig(inputs=1)


def test_a_zoo_is_asked_row_by_row(zoo: Zoo) -> None:
    (rows,) = represent([zoo], "r(W)")
    assert rows.representation == ("r(W)", "baseline") and len(rows.features) == len(zoo)
    architecture = zoo.architectures[str(zoo.table["architecture"].iloc[5])]
    alone = make_asker(architecture, AskConfig()).ask(zoo.weights(5)).vector()
    np.testing.assert_allclose(rows.features[5], alone.numpy(), rtol=1e-4, atol=1e-5)


def test_networks_of_different_depth_make_one_table(zoo: Zoo, digits: ImageSet, tmp_path: Path) -> None:
    deep = grow("mlp:6,6,6", digits, GrowConfig(members=2, epochs=1, workers=1), tmp_path / "deep")
    both = concatenate([zoo, deep])
    mixed, alike = represent([both], "r(W)")[0], represent([zoo], "r(W)")[0]
    assert mixed.features.shape == (len(zoo) + len(deep), 5 * 28 + 22 + 1) != alike.features.shape


def test_an_outline_takes_the_ends_and_parts_of_equal_depth() -> None:
    rows = {str(place): torch.full((2, 14), float(place)) for place in range(7)}
    outline = Responses(rows, [torch.zeros(22), torch.ones(22)], 1.0).outline()
    blocks = outline[: 5 * 28].view(5, 28)
    assert blocks[:, 0].tolist() == [0.0, 1.0, 3.0, 5.0, 6.0] and bool((blocks[:, 14:] == 0).all())
    assert bool((outline[140:162] == 0.5).all()) and outline[-1] == 1


def test_images_of_the_users_are_asked_with_without_their_labels(zoo: Zoo) -> None:
    (asked, *_) = ask_zoo(zoo, AskConfig(inputs=16, ask_with="digits"))
    assert str(asked.asker.questions) == "16 given inputs" and asked.asker.questions.passes == 32


def test_a_network_that_nobody_can_build_is_refused_with_the_way_to_name_it(zoo: Zoo) -> None:
    strangers = {name: replace(own, factory=None) for name, own in zoo.architectures.items()}
    nameless = replace(zoo, architectures=strangers)
    assert cannot_run(used_architectures(zoo)) == "" and "--architecture my_nets:Net --example" in cannot_run(
        strangers.values()
    )
    with pytest.raises(InputError, match="expected a network that can be run, found .*nobody knows how to build"):
        represent([nameless], "r(W)")


def test_nearest_by_what_networks_do(
    zoo_folder: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A permuted copy does the same, whatever its weights are."""
    last = zoo.last()
    weights, row = last.weights(3), last.table.iloc[3]
    symmetry = trace_symmetry(last.architectures[row["architecture"]].build(), torch.zeros(1, 1, 8, 8))
    moved = permute(weights, symmetry, random_permutations(symmetry, torch.Generator().manual_seed(0)))
    save_file(moved, tmp_path / "copy.safetensors")
    module = f"weightspace.zoo.growing.networks:mlp?widths=[64,8,10]&activation={row['activation']}"
    words = ("similar", zoo_folder, tmp_path / "copy.safetensors", "--by", "responses", "-k", 3, "--json")
    assert "found 2 architectures with its names and shapes" in refused(capsys, *words)
    _, said, _ = run(capsys, *words, "--architecture", module, "--example", "1,1,8,8")
    nearest = json.loads(said)
    assert (nearest[0]["member"], nearest[0]["epoch"]) == (row["member"], 2)
    assert nearest[0]["distance"] < 1e-2 < nearest[1]["distance"]


def test_responses_are_embeddings_on_the_command_line(
    zoo_folder: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "asked.parquet"
    words = ("--aggregation", "responses", "--inputs", 16)
    _, said, _ = run(capsys, "embed", zoo_folder, "--out", out, *words)
    assert "every network that was asked cost 32 forward passes" in said and len(pd.read_parquet(out)) == len(zoo)
    save_file(zoo.weights(0), tmp_path / "one.safetensors")
    assert "expected a zoo, or networks in files and how to build them" in refused(
        capsys, "embed", tmp_path / "one.safetensors", "--out", tmp_path / "more.parquet", *words
    )
