"""Two checkpoints: every verdict with a pair that must not be called something else."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tools import refused, run
from weightspace.analysis.pairs.answering import compare_answers
from weightspace.analysis.pairs.averaging import place_between
from weightspace.analysis.pairs.changes import Twins, compare_tensors
from weightspace.analysis.pairs.corresponding import correspond
from weightspace.analysis.pairs.diffing import diff_networks, diff_symmetric, diff_weights
from weightspace.analysis.pairs.traces import levels_of, spectrum_of
from weightspace.analysis.pairs.verdicts import GUESSES_RIGHT
from weightspace.images import ImageSet
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.rescaling import random_factors, rescale
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.weights.files import write_weights
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

OURS = "weightspace.zoo.growing.networks:mlp"
WIDTHS = [64, 48, 32, 10]


def architecture(activation: str = "relu") -> Architecture:
    arguments = {"widths": WIDTHS, "activation": activation}
    about = Architecture(id="net", factory=OURS, arguments=arguments, example_shape=(2, 1, 8, 8))
    module = Architecture.of_module(
        _build(about), id="net", factory=OURS, arguments=arguments, example_shape=(2, 1, 8, 8)
    )
    symmetry = trace_symmetry(_build(module), torch.zeros(2, 1, 8, 8))
    return Architecture.from_json({**module.to_json(), "symmetry": symmetry.to_json()})


def _build(about: Architecture, seed: int = 0) -> nn.Module:
    from weightspace.zoo.architecture import build_module

    return build_module(OURS, about.arguments, seed=seed)


def trained(digits: ImageSet, steps: int, seed: int, start: Weights | None = None, only: str = "") -> Weights:
    """Weights after some steps of Adam."""
    module = _build(architecture(), seed)
    if start is not None:
        module.load_state_dict(start)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(only))
    optimizer = torch.optim.Adam([own for own in module.parameters() if own.requires_grad], 3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(digits.train.labels), (64,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(module(digits.train.inputs[batch]), digits.train.labels[batch]).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def base(digits: ImageSet) -> Weights:
    return trained(digits, 200, 0)


@pytest.fixture(scope="module")
def stranger(digits: ImageSet) -> Weights:
    return trained(digits, 200, 1)


def drawn(tensor: Tensor, seed: int = 77) -> Tensor:
    """Noise; of another seed than networks are initialised with, whose draws it would have much in common with."""
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))


def changed(weights: Weights, change: Callable[[Tensor], Tensor], *, matrices: bool = False) -> Weights:
    return {name: change(own) if own.ndim > 1 or not matrices else own.clone() for name, own in weights.items()}


def quantized(tensor: Tensor, levels: int, *, by_row: bool) -> Tensor:
    scale = (tensor.abs().amax(1, keepdim=True) if by_row else tensor.abs().max()) / levels
    return (tensor / scale).round() * scale


def adapted(tensor: Tensor, rank: int) -> Tensor:
    down, up = drawn(tensor[:, :rank]), drawn(tensor[:rank], 1)
    return tensor + 0.003 * down @ up


def pruned(tensor: Tensor, share: float) -> Tensor:
    return torch.where(tensor.abs() <= tensor.abs().flatten().quantile(share), 0, tensor)


def cut_off(tensor: Tensor) -> Tensor:
    """The first two bytes of every number, as some converters make bfloat16."""
    return (tensor.contiguous().view(torch.int32) & -(2**16)).view(torch.float32)


EXACT: dict[str, tuple[str, Callable[[Weights], Weights]]] = {
    "a copy": ("equal values", lambda own: {name: tensor.clone() for name, tensor in own.items()}),
    "behind a prefix": ("equal values", lambda own: {f"model.net.{name}": tensor for name, tensor in own.items()}),
    "under other names": ("equal values", lambda own: dict(zip("abcdef", own.values(), strict=True))),
    "in double precision": ("equal values", lambda own: changed(own, torch.Tensor.double)),
    "stored in half": ("rounded", lambda own: changed(own, torch.Tensor.half)),
    "rounded and back": ("rounded", lambda own: changed(own, lambda tensor: tensor.bfloat16().float())),
    "cut off": ("rounded", lambda own: changed(own, cut_off)),
    "to eight bits": ("rounded", lambda own: changed(own, lambda tensor: tensor.to(torch.float8_e4m3fn).float())),
    "pruned by a tenth": ("pruned", lambda own: changed(own, lambda tensor: pruned(tensor, 0.1))),
    "pruned by nine tenths": ("pruned", lambda own: changed(own, lambda tensor: pruned(tensor, 0.9), matrices=True)),
    "int8": ("quantized", lambda own: changed(own, lambda t: quantized(t, 127, by_row=False), matrices=True)),
    "int8 by row": ("quantized", lambda own: changed(own, lambda t: quantized(t, 127, by_row=True), matrices=True)),
    "int8 by column": (
        "quantized",
        lambda own: changed(own, lambda t: quantized(t.T, 127, by_row=True).T, matrices=True),
    ),
    "int4 by row": ("quantized", lambda own: changed(own, lambda t: quantized(t, 7, by_row=True), matrices=True)),
}
INEXACT: dict[str, tuple[str, Callable[[Weights], Weights]]] = {
    "noise of 1e-4": ("noised", lambda own: changed(own, lambda t: t + 1e-4 * t.std() * drawn(t))),
    "noise of 0.3": ("noised", lambda own: changed(own, lambda t: t + 0.3 * t.std() * drawn(t))),
    "rank 1": ("low rank", lambda own: changed(own, lambda t: adapted(t, 1), matrices=True)),
    "rank 4": ("low rank", lambda own: changed(own, lambda t: adapted(t, 4), matrices=True)),
}


@pytest.mark.parametrize("case", EXACT)
def test_what_is_exact_is_proved_both_ways(case: str, base: Weights) -> None:
    kind, make = EXACT[case]
    second = make(base)
    for one, two, parent in ((base, second, "first"), (second, base, "second")):
        verdict = diff_weights(one, two).verdict
        assert verdict.kind == kind
        assert verdict.relation == ("equal" if kind == "equal values" else "derived")
        assert verdict.parent == ("" if kind == "equal values" else parent) and not verdict.guessed


@pytest.mark.parametrize("case", INEXACT)
def test_what_was_added_is_told_from_training(case: str, base: Weights) -> None:
    kind, make = INEXACT[case]
    for one, two in ((base, make(base)), (make(base), base)):
        verdict = diff_weights(one, two).verdict
        assert verdict.kind == kind and verdict.guessed, verdict


@pytest.mark.parametrize("steps", [1, 20, 200])
def test_training_further_is_neither_noise_nor_an_adapter(steps: int, base: Weights, digits: ImageSet) -> None:
    verdict = diff_weights(base, trained(digits, steps, 5, base)).verdict
    assert verdict.kind == "fine-tuned" and verdict.parent == "first"


def test_which_layers_were_trained_is_said(base: Weights, digits: ImageSet) -> None:
    last = trained(digits, 20, 5, base, "module_list.5.")
    verdict = diff_weights(base, last).verdict
    assert verdict.kind == "fine-tuned"
    assert verdict.evidence == ("2 of 6 tensors changed (module_list.5.weight, module_list.5.bias)",)


def test_networks_from_other_starts_are_independent(base: Weights, stranger: Weights) -> None:
    verdict = diff_weights(base, stranger).verdict
    assert verdict.relation == "independent" and "permuted" in verdict.wrong_if
    known = architecture()
    assert diff_symmetric(base, stranger, known, diff_weights(base, stranger)).verdict.relation == "independent"


def test_equal_tables_that_were_computed_make_no_relatives(base: Weights, stranger: Weights) -> None:
    angles = torch.arange(40)[:, None] / 10_000 ** (torch.arange(0, 32, 2) / 32)
    table = {"positions": torch.cat([angles.sin(), angles.cos()], 1), "norm": torch.ones(32)}
    assert diff_weights(base | table, stranger | table).verdict.relation == "independent"


def test_another_or_a_longer_last_layer(base: Weights, digits: ImageSet) -> None:
    weight, bias = base["module_list.5.weight"], base["module_list.5.bias"]
    fresh = {"module_list.5.weight": 0.1 * drawn(weight), "module_list.5.bias": drawn(bias)}
    verdict = diff_weights(base, base | fresh).verdict
    assert verdict.kind == "head replaced" and "another module_list.5" in verdict.sentence
    assert diff_weights(base, trained(digits, 5, 3, base | fresh)).verdict.kind == "head replaced"
    fewer = {"module_list.5.weight": 0.1 * drawn(weight[:7]), "module_list.5.bias": drawn(bias[:7])}
    assert diff_weights(base, base | fewer).verdict.kind == "head replaced"
    more = {"module_list.5.weight": torch.cat([weight, drawn(weight[:3])]), "module_list.5.bias": torch.cat([bias] * 2)}
    for one, two, parent in ((base, base | more, "first"), (base | more, base, "second")):
        verdict = diff_weights(one, two).verdict
        assert (verdict.kind, verdict.parent, verdict.guessed) == ("extended", parent, True)
    deeper = base | {"module_list.7.weight": drawn(torch.empty(10, 10)), "module_list.7.bias": torch.zeros(10)}
    assert diff_weights(base, deeper).verdict.kind == "extended"


def test_statistics_alone(base: Weights) -> None:
    first = base | {"norm.running_mean": torch.zeros(5), "norm.num_batches_tracked": torch.tensor(1)}
    second = base | {"norm.running_mean": torch.ones(5), "norm.num_batches_tracked": torch.tensor(7)}
    assert diff_weights(first, second).verdict.kind == "recalibrated"


def test_parts_in_common_and_matrices_that_are_transposed(base: Weights) -> None:
    here, there = {"a.w": drawn(torch.empty(5, 7))}, {"b.w": drawn(torch.empty(4, 3)), "c.w": drawn(torch.empty(2, 9))}
    assert diff_weights(base | here, base | there).verdict.kind == "partly equal"
    turned = {name: own.T.contiguous() if own.ndim == 2 else own for name, own in base.items()}
    verdict = diff_weights(base, turned).verdict
    assert verdict.kind == "equal values" and "3 matrices are transposed" in verdict.evidence
    noisy = {name: own + 0.01 * drawn(own) for name, own in turned.items()}
    assert diff_weights(base, noisy).verdict.relation != "equal"


def test_the_same_numbers_in_another_order_are_no_strangers(base: Weights) -> None:
    symmetry = trace_symmetry(architecture().build(), torch.zeros(2, 1, 8, 8))
    moved = permute(base, symmetry, random_permutations(symmetry, torch.Generator().manual_seed(3)))
    verdict = diff_weights(base, moved).verdict
    assert verdict.relation == "unknown" and "another order" in verdict.sentence


def test_training_in_half_precision_is_no_noise(base: Weights, digits: ImageSet) -> None:
    """Small steps are lost in rounding for most numbers, and move the others by one."""
    half = {name: own.bfloat16() for name, own in base.items()}
    further = trained(digits, 3, 9, base)
    moved = {name: (own + 0.03 * (further[name] - base[name])).bfloat16() for name, own in base.items()}
    verdict = diff_weights(half, moved).verdict
    assert verdict.kind == "fine-tuned", verdict


def test_strangers_stay_strangers_whatever_they_share_that_is_small() -> None:
    """Empty tensors, a fixed filter, vectors alone, a broken matrix: none makes relatives."""
    for number in range(5):
        one, two = ({"w": drawn(torch.empty(32, 32), 10 * number + own)} for own in (1, 2))
        filters = {"blur": drawn(torch.empty(4, 9), 999)}
        assert (
            diff_weights({"e": torch.zeros(0, 4)} | one, {"e": torch.zeros(0, 4)} | two).verdict.kind == "independent"
        )
        assert diff_weights(filters | one, filters | two).verdict.kind == "independent"
        vectors = [{"v": drawn(torch.empty(100), 10 * number + own)} for own in (1, 2)]
        assert diff_weights(*vectors).verdict.kind == "unknown"
    frozen = {"embedding": drawn(torch.empty(100, 32), 999)}
    assert diff_weights(frozen | one, frozen | two).verdict.kind == "partly equal"


def test_pruned_and_changed_after_that(base: Weights) -> None:
    dense = {name: own.clone() for name, own in base.items()}
    for share in (0.5, 0.9):
        thin = changed(dense, partial(pruned, share=share), matrices=True)
        for second in (
            changed(thin, lambda t: t.bfloat16().float()),
            changed(thin, lambda t: t * (1 + 0.1 * drawn(t))),
        ):
            verdict = diff_weights(dense, second).verdict
            assert (verdict.kind, verdict.parent) == ("pruned", "first"), verdict
    rows = {
        name: own * (torch.arange(len(own)) % 10 == 0)[:, None] if own.ndim == 2 else own for name, own in base.items()
    }
    assert diff_weights(base, rows).verdict.kind == "pruned"


def test_broken_numbers_change_no_verdict(base: Weights) -> None:
    broken = base | {"module_list.1.weight": torch.full_like(base["module_list.1.weight"], torch.nan)}
    verdict = diff_weights(base, broken).verdict
    assert verdict.relation == "unknown" and "module_list.1.weight" in verdict.sentence
    noisy = changed(broken, lambda tensor: tensor + 0.1 * tensor.nan_to_num(0).std() * drawn(tensor))
    verdict = diff_weights(base, noisy).verdict
    assert verdict.kind == "noised" and "NaN" in verdict.evidence[-1]
    between = place_between(base, broken, base | {"module_list.5.bias": base["module_list.5.bias"] + 1})
    assert between is None or not between.averaged


def test_what_is_beyond_its_parents_is_no_average(base: Weights, stranger: Weights) -> None:
    beyond = {name: own + 1.5 * (stranger[name] - own) for name, own in base.items()}
    between = place_between(base, stranger, beyond)
    assert between is not None and not between.averaged and abs(between.share - 1.5) < 1e-3
    layers = {name: stranger[name] if ".3." in name else own for name, own in base.items()}
    mixed = place_between(base, stranger, layers)
    assert mixed is not None and mixed.mixed and not mixed.averaged


def test_small_numbers_are_compared_as_others_are(base: Weights) -> None:
    tiny = {name: own.double() * 1e-25 for name, own in base.items()}
    tiny = {name: own.float() for name, own in tiny.items()}
    noisy = {name: own + 0.1 * own.std() * drawn(own) for name, own in tiny.items()}
    seen = diff_weights(tiny, noisy)
    assert seen.verdict.kind == "noised" and all(0 < entry.change.relative < 1 for entry in seen.traces)


def test_guesses_say_how_often_they_are_right() -> None:
    measured = json.loads((Path(__file__).parent.parent / "docs" / "tables" / "pairs.json").read_text())
    for name, (right, count) in measured["tested"]["parents"].items():
        if name.endswith("(guessed)"):
            assert math.isclose(GUESSES_RIGHT[name.removesuffix(" (guessed)")], right / count, abs_tol=0.006)


def test_nothing_in_common_is_unknown(base: Weights) -> None:
    assert diff_weights(base, {"other": torch.zeros(3)}).verdict.kind == "unknown"
    assert diff_weights({"w": torch.zeros(3)}, {"w": torch.ones(3)}).verdict.kind == "unknown"


def test_broken_numbers_are_counted_and_say_nothing(base: Weights) -> None:
    broken = {name: own.clone() for name, own in base.items()}
    broken["module_list.1.weight"][0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    seen = diff_weights(base, broken)
    entry = next(own for own in seen.traces if own.change.twins.name == "module_list.1.weight")
    assert entry.change.broken == (0, 3) and entry.aside == "broken numbers" and not entry.change.equal
    assert diff_weights(broken, broken).verdict.kind == "equal values"


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_symmetries_are_proved_by_applying_them(activation: str, base: Weights, digits: ImageSet) -> None:
    known, generator = architecture(activation), torch.Generator().manual_seed(0)
    module = known.build()
    symmetry = trace_symmetry(module, torch.zeros(2, 1, 8, 8))
    moved = permute(base, symmetry, random_permutations(symmetry, generator))
    rescaling = trace_rescaling(module, "scale" if activation == "relu" else "sign", torch.zeros(2, 1, 8, 8))
    stack = rescale(
        {name: own[None] for name, own in moved.items()}, rescaling, random_factors(rescaling, 1, generator)
    )
    for second in (moved, {name: own[0] for name, own in stack.items()}):
        direct = diff_weights(base, second)
        assert direct.verdict.relation != "equal"
        assert diff_symmetric(base, second, known, direct).verdict.kind == "equal up to symmetry"
    further = trained(digits, 20, 4, moved)
    verdict = diff_symmetric(base, further, architecture(), diff_weights(base, further)).verdict
    assert verdict.kind == "fine-tuned" and "order" in verdict.sentence


def test_averages_lie_between_their_parents(base: Weights, stranger: Weights, tmp_path: Path) -> None:
    middle = {name: (0.7 * own + 0.3 * stranger[name]).bfloat16() for name, own in base.items()}
    between = place_between(base, stranger, middle)
    assert between is not None and between.averaged and abs(between.share - 0.3) < 1e-3
    for weights in (base, stranger):
        between = place_between(base, stranger, weights)
        assert between is None or not between.averaged
    noisy = place_between(base, stranger, changed(base, lambda t: t + 0.1 * drawn(t)))
    assert noisy is not None and not noisy.averaged


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_counts_are_those_of_plain_arithmetic(rows: int, width: int, kind: torch.dtype) -> None:
    """An oracle: everything at once, in double precision."""
    generator = torch.Generator().manual_seed(rows * 100 + width)
    one = torch.randn(rows, width, generator=generator).to(kind)
    two = torch.where(torch.rand(rows, width, generator=generator) < 0.5, one, -2 * one)
    twins = Twins("a", "b", (rows, width), (str(kind)[6:], str(kind)[6:]))
    change = compare_tensors({"a": one}, {"b": two}, twins)
    before, after = one.double(), two.double()
    moved = after - before
    assert change.changed == float((moved != 0).double().mean())
    assert change.flips == float((before * after < 0).double().mean())
    assert math.isclose(change.relative, float(moved.norm() / before.norm()), rel_tol=1e-5)
    assert math.isclose(change.scale, float(after.norm() / before.norm()), rel_tol=1e-5)
    assert math.isclose(change.largest, float(moved.abs().max()), rel_tol=1e-6)
    cosine = float((before * after).sum() / (before.norm() * after.norm()))
    assert math.isclose(change.cosine, cosine, abs_tol=1e-5)


def test_ranks_and_levels_of_what_is_known() -> None:
    first = 0.05 * drawn(torch.empty(64, 96))
    for rank in (1, 3, 16):
        change = 0.01 * drawn(torch.empty(64, rank)) @ drawn(torch.empty(rank, 96), 1)
        for kind in (torch.float32, torch.bfloat16):
            # Stored in half precision, the change is seen through the rounding of what it changed.
            second = (first.to(kind) + change).to(kind)
            assert spectrum_of(first.to(kind).double(), second.double()).rank == rank
    assert levels_of(first.double()) == 0 and levels_of(first.bfloat16().double()) == 0
    assert levels_of(quantized(first, 127, by_row=True).bfloat16().double()) == 256


def test_names_meet_behind_prefixes_and_shapes_are_compared() -> None:
    one = {"encoder.a": torch.zeros(3, 2), "encoder.b": torch.zeros(4), "head.w": torch.zeros(2, 5)}
    two = {"model.vit.a": torch.zeros(3, 2), "model.vit.b": torch.zeros(6), "other": torch.zeros(1)}
    assert correspond(
        {"a": one["head.w"], "b.c": torch.zeros(1)}, {"a": one["head.w"], "b.x.c": torch.zeros(1)}
    ).complete
    found = correspond(one, two)
    assert found.names == {"encoder.a": "model.vit.a"} and found.only_first == ["head.w"]
    assert found.misshapen[0].how == "longer along axis 0: 4 -> 6" and found.only_second == ["other"]
    assert correspond({"w": torch.zeros(2, 3)}, {"w": torch.zeros(3, 2)}).misshapen[0].how == "transposed"


def test_answers_part_where_weights_do(base: Weights, digits: ImageSet) -> None:
    known = architecture()
    same = compare_answers(base, base, known)
    assert same.agreement == 1 and all(own.distance == 0 for own in same.partings)
    last = {name: own + 0.2 * drawn(own) if name.startswith("module_list.5.") else own for name, own in base.items()}
    other = compare_answers(base, last, known, data="digits")
    assert [own.distance > 0 for own in other.partings] == [False, False, True] and other.agreement < 1
    assert other.accuracies is not None and other.accuracies[0] > 0.8


def test_diff_from_the_command_line(
    zoo_folder: Path, base: Weights, stranger: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a": base, "copy": base, "noisy": INEXACT["noise of 0.3"][1](base), "other": stranger}
    for name, weights in files.items():
        write_weights(tmp_path / f"{name}.safetensors", weights)
    torch.save(base, tmp_path / "a.pt")
    path = {name: tmp_path / f"{name}.safetensors" for name in files}
    status, out, _ = run(capsys, "diff", path["a"], path["copy"], "--expect", "equal")
    assert status == 0 and "equal (equal bytes)" in out
    status, out, _ = run(capsys, "diff", path["a"], tmp_path / "a.pt", "--expect", "equal values")
    assert status == 0
    status, out, _ = run(capsys, "diff", path["a"], path["noisy"], "--expect", "equal")
    assert status == 1 and "derived (noised)" in out and "module_list.1.weight" in out
    page = tmp_path / "page.html"
    status, out, _ = run(capsys, "diff", path["a"], path["other"], "--out", page, "--json")
    told = json.loads(out)
    assert status == 0 and told["verdict"]["relation"] == "independent" and len(told["tensors"]) == 6
    assert "<svg" in page.read_text() and "no common past" in page.read_text()
    member = Zoo.open(zoo_folder).table["member"].iloc[0]
    status, out, _ = run(capsys, "diff", f"{zoo_folder}:{member}", f"{zoo_folder}:{member}", "--data", "digits")
    assert status == 0 and "equal values" in out and "test accuracy" in out
    assert "expected a verdict among" in refused(capsys, "diff", path["a"], path["copy"], "--expect", "the same")
    assert "expected networks that can be run" in refused(capsys, "diff", path["a"], path["noisy"], "--data", "digits")
    assert "relates those of a folder" in refused(capsys, "diff", tmp_path, path["a"])


def test_another_parent_from_the_command_line(base: Weights, stranger: Weights, tmp_path: Path) -> None:
    for name, weights in (("a", base), ("b", stranger)):
        write_weights(tmp_path / f"{name}.safetensors", weights)
    write_weights(tmp_path / "m.safetensors", {name: (own + stranger[name]) / 2 for name, own in base.items()})
    from weightspace.analysis.config import DiffConfig

    a, b, m = (str(tmp_path / f"{name}.safetensors") for name in "abm")
    seen = diff_networks(a, m, DiffConfig(other_parent=b))
    assert seen.verdict.kind == "averaged" and "50%" in str(seen)
