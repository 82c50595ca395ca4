import itertools
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, library, nn
from torch.func import functional_call

from garden import GARDEN, GROUPS, ROUNDED_INSIDE, planted
from garden.small import ResidualNet
from weightspace.errors import InputError
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import (
    Factor,
    Permutations,
    Symmetry,
    compose,
    identity_permutations,
    invert,
    permute,
    random_permutations,
)
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.matching import iterated_mean, match_stack, match_weights, objective
from weightspace.symmetry.proving import SymmetryDisproved, prove_symmetry, prove_unchanged
from weightspace.symmetry.rescaling import Rescaling, canonical_factors, random_factors, rescale
from weightspace.symmetry.tracing import trace, trace_symmetry
from weightspace.weights.values import Weights, WeightsMismatch, find_aliases
from weightspace.zoo.growing.networks import cnn_s, mlp


def traced(name: str) -> tuple[nn.Module, Tensor, Symmetry]:
    module, example, found = planted(name)
    return module, example, found.symmetry


def random_state(module: nn.Module) -> Weights:
    """Random parameters and positive random buffers, in float64."""
    parameters = {name for name, _ in module.named_parameters()}
    return {
        name: torch.randn_like(t, dtype=torch.float64) * 0.5
        if name in parameters
        else torch.rand_like(t.double()) + 0.5
        for name, t in module.state_dict().items()
        if t.is_floating_point()
    }


@pytest.mark.parametrize("name", GARDEN)
def test_permuting_leaves_the_function_alone(name: str) -> None:
    module, example, symmetry = traced(name)
    module = module.double().eval()
    weights = {**dict(module.state_dict()), **random_state(module)}
    aliases = find_aliases(module.state_dict(keep_vars=True))
    weights.update({alias: weights[own] for alias, own in aliases.items()})
    inputs = torch.randn(3, *example.shape[1:], dtype=torch.float64) if example.is_floating_point() else example
    before = functional_call(module, weights, (inputs,))
    for seed in range(3):
        permutations = random_permutations(symmetry, derive_generator(seed))
        moved = permute(weights, symmetry, permutations)
        moved.update({alias: moved[own] for alias, own in aliases.items()})
        after = functional_call(module, moved, (inputs,))
        tolerance = ROUNDED_INSIDE.get(name, 1e-9)
        torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", GROUPS)
def test_the_groups_are_those_a_human_counts(name: str) -> None:
    assert len(traced(name)[2].groups) == GROUPS[name]


def test_flatten_permutes_in_blocks() -> None:
    symmetry = trace_symmetry(cnn_s(), torch.zeros(2, 1, 28, 28))
    last_conv = "module_list.6.weight:0"
    assert symmetry.groups[last_conv] == 4
    assert symmetry.axes["module_list.9.weight"][1] == (Factor(last_conv, 4), Factor(None, 3), Factor(None, 3))


def test_a_residual_stream_moves_as_one() -> None:
    symmetry = traced("residual")[2]
    stream = symmetry.axes["stem.weight"][0]
    assert (
        symmetry.axes["inner1.weight"][1]
        == symmetry.axes["inner2.weight"][0]
        == symmetry.axes["head.weight"][1]
        == stream
    )
    assert set(symmetry.buffers) == {
        f"norm{n}.{name}" for n in (1, 2) for name in ("running_mean", "running_var", "num_batches_tracked")
    }


class Sorting(nn.Module):
    """An operation without a rule between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).sort(-1).values)


def test_inputs_outputs_and_unknown_operations_stand_still() -> None:
    symmetry = trace_symmetry(Sorting(), torch.zeros(2, 4))
    assert not symmetry.groups and "frozen by aten.sort: a.weight[0], a.bias[0], b.weight[1]" in symmetry.report()
    outputs = traced("mlp")[2].axes["module_list.5.weight"][0]
    assert outputs == (Factor(None, 3),)


def test_the_trace_tells_what_rows_are() -> None:
    uses = trace(ResidualNet(), torch.zeros(2, 3, 6, 6)).uses
    assert uses["stem.weight"] == ("conv", 0, "stem.bias")
    assert uses["head.weight"] == ("linear", 0, "head.bias")
    assert uses["norm1.weight"] == ("norm", 0, "norm1.bias")
    assert uses["inner2.weight"].bias is None


def test_the_report_counts_what_moves() -> None:
    symmetry = traced("mlp")[2]
    assert 0.95 < symmetry.coverage < 1  # all but the biases of the classes
    assert "2 groups move 98.1% of the parameters" in symmetry.report()
    assert "frozen by output: module_list.5.weight[0]" in symmetry.report()


def plant(symmetry: Symmetry, tensor: str, axis: int, factors: tuple[Factor, ...]) -> Symmetry:
    axes = list(symmetry.axes[tensor])
    axes[axis] = factors
    return replace(symmetry, axes={**symmetry.axes, tensor: tuple(axes)})


def test_the_proof_catches_a_forgotten_batch_norm() -> None:
    module, example, symmetry = traced("residual")
    wrong = plant(symmetry, "norm2.running_var", 0, (Factor(None, 6),))
    with pytest.raises(SymmetryDisproved, match=r"group stem.weight:0"):
        prove_symmetry(module, wrong, example)


def test_the_proof_catches_permuted_classes() -> None:
    module, example, symmetry = traced("mlp")
    wrong = replace(
        plant(symmetry, "module_list.5.weight", 0, (Factor("out", 3),)), groups={**symmetry.groups, "out": 3}
    )
    with pytest.raises(SymmetryDisproved, match="group out"):
        prove_symmetry(module, wrong, example)


def test_the_proof_catches_a_missing_block_after_flatten() -> None:
    module, example, symmetry = traced("cnn-s")
    wrong = plant(
        symmetry, "module_list.9.weight", 1, (Factor(None, 3), Factor(None, 3), Factor("module_list.6.weight:0", 4))
    )
    with pytest.raises(SymmetryDisproved, match=r"group module_list.6.weight:0"):
        prove_symmetry(module, wrong, example)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_what_cannot_be_traced_is_refused() -> None:
    with pytest.raises(InputError, match="give a Symmetry by hand"):
        trace_symmetry(Branching(), torch.randn(2, 3))


@library.custom_op("garden::double", mutates_args=())
def twice(x: Tensor) -> Tensor:
    """An operator that export cannot run without data."""
    return x * 2


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.norm(self.b(twice(self.a(x)))).relu())


def test_where_export_fails_one_run_is_recorded() -> None:
    symmetry = trace_symmetry(Custom(), torch.randn(3, 4))
    assert symmetry.groups == {"b.weight:0": 6} and "frozen by garden.double" in symmetry.report()
    assert "norm.running_var[0]" in symmetry.places()["b.weight:0"]


class Assigning(nn.Module):
    """Writes into zeros, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.zeros(len(x), 8)
        made[:, 1:6] = self.a(x).relu()
        return self.b(made)


def test_what_is_assigned_in_place_moves_by_itself() -> None:
    symmetry = trace_symmetry(Assigning(), torch.randn(3, 4))
    assert symmetry.groups["a.weight:0"] == 5 and "b.weight[1]" in symmetry.places()["a.weight:0"]


class Parts(nn.Module):
    """Layers and loose parameters, and a function that puts them together."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.put_together = forward
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.put_together(self, x)


def attend(*parts: Tensor, **options: Any) -> Tensor:
    q, k, v = parts
    return nn.functional.scaled_dot_product_attention(q, k, v, **options)


# What a value is constant along, and what is shared among heads, time steps and states: each of these was wrong once.
CONSTANT_SOMEWHERE: dict[str, Callable[[], nn.Module]] = {
    "a sequence of one vector": lambda: Parts(
        lambda s, x: s.b(s.r(x[:, None].repeat(1, 4, 1))[0].flatten(1)),
        r=nn.LSTM(5, 7, batch_first=True),
        b=nn.Linear(28, 3),
    ),
    "learned first states": lambda: Parts(
        lambda s, x: s.b(s.r(x[None], (s.h.expand(-1, 2, -1).contiguous(), s.c.expand(-1, 2, -1).contiguous()))[0][0]),
        r=nn.LSTM(5, 6, 2),
        h=torch.randn(2, 1, 6),
        c=torch.randn(2, 1, 6),
        b=nn.Linear(6, 3),
    ),
    "learned time steps": lambda: Parts(
        lambda s, x: s.b(s.r(s.p + s.a(x)[:, None])[0].flatten(1)),
        p=torch.randn(4, 6),
        a=nn.Linear(5, 6),
        r=nn.GRU(6, 6, batch_first=True),
        b=nn.Linear(24, 3),
    ),
    "batch norm of a grey image": lambda: Parts(
        lambda s, x: s.b(s.n(x[:, :1].expand(-1, 6)).relu()), n=nn.BatchNorm1d(6), b=nn.Linear(6, 3)
    ),
    "layer norm of a mean": lambda: Parts(
        lambda s, x: s.b(s.n(s.a(x).mean(1, keepdim=True).expand(-1, 8))),
        a=nn.Linear(5, 4),
        n=nn.LayerNorm(8),
        b=nn.Linear(8, 3),
    ),
    "slopes for one channel": lambda: Parts(
        lambda s, x: s.b(s.n(x[:, :1].expand(-1, 6))), n=nn.PReLU(6), b=nn.Linear(6, 3)
    ),
    "one row of weights for all": lambda: Parts(
        lambda s, x: s.b(nn.functional.linear(x, s.w.expand(8, 5), s.c).relu()),
        w=torch.randn(1, 5),
        c=torch.randn(8),
        b=nn.Linear(8, 3),
    ),
    "zeros stacked first": lambda: Parts(
        lambda s, x: s.b(torch.stack((x.new_zeros(2, 8), s.a(x)), 1).flatten(1)), a=nn.Linear(5, 8), b=nn.Linear(16, 3)
    ),
    "one head of queries, several of values": lambda: Parts(
        lambda s, x: s.o(attend(*[s.q(x).view(2, 1, 4, 3)] * 2, s.v(x).view(2, 4, 4, 3)).flatten(1)),
        q=nn.Linear(5, 12),
        v=nn.Linear(5, 48),
        o=nn.Linear(48, 3),
    ),
    "a mask for each of two heads": lambda: Parts(
        lambda s, x: s.o(attend(*[s.q(x).view(2, 1, 4, 3).expand(2, 2, 4, 3)] * 3, attn_mask=s.m).flatten(1)),
        q=nn.Linear(5, 12),
        m=torch.randn(2, 4, 4),
        o=nn.Linear(24, 3),
    ),
    "a query for all places, a mask for each": lambda: Parts(
        lambda s, x: s.o(attend(s.q.expand(2, 4, 6), *[s.k(x).view(2, 5, 6)] * 2, attn_mask=s.m).flatten(1)),
        q=torch.randn(1, 1, 6),
        k=nn.Linear(5, 30),
        m=torch.randn(4, 5),
        o=nn.Linear(24, 3),
    ),
    "dropout that stays on": lambda: Parts(
        lambda s, x: s.b(nn.functional.dropout(s.a(x), 0.5, True)), a=nn.Linear(5, 6), b=nn.Linear(6, 3)
    ),
    "chosen time steps": lambda: Parts(
        lambda s, x: s.b(s.a(x)[torch.tensor([1, 0]), :].relu()), a=nn.Linear(5, 6), b=nn.Linear(6, 3)
    ),
    "the largest of each unit": lambda: Parts(
        lambda s, x: s.b(s.a(x).view(2, 4, 6).max(1).values), a=nn.Linear(5, 24), b=nn.Linear(6, 3)
    ),
}


@pytest.mark.parametrize("name", CONSTANT_SOMEWHERE)
def test_what_is_constant_or_shared_somewhere_is_labelled_soundly(name: str) -> None:
    torch.manual_seed(0)
    module, x = CONSTANT_SOMEWHERE[name](), torch.randn(2, 5)
    symmetry = trace_symmetry(module, x)
    module = module.double().eval()
    weights = {name: torch.randn_like(own) if own.ndim else own for name, own in module.state_dict().items()}
    weights |= {name: own.abs() + 0.5 for name, own in weights.items() if name.endswith("var")}
    for seed in range(4):
        moved = permute(weights, symmetry, random_permutations(symmetry, derive_generator(seed)))
        torch.manual_seed(0)
        before = functional_call(module, weights, (x.double(),))
        torch.manual_seed(0)
        torch.testing.assert_close(functional_call(module, moved, (x.double(),)), before)


def test_choosing_and_extremes_keep_units_moving() -> None:
    for name in ("chosen time steps", "the largest of each unit"):
        assert 6 in trace_symmetry(CONSTANT_SOMEWHERE[name](), torch.randn(2, 5)).groups.values()


class Counting(nn.Module):
    """Counts in a buffer, keeps what it computed, and gives a complex number."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        self.kept = self.a(x).relu()
        return torch.complex(torch.zeros(len(x), 3).to(x.dtype), 1e-10 * self.b(self.kept) * self.count)


def test_the_proof_is_not_misled_by_memory_small_or_complex_outputs() -> None:
    module, x = Counting(), torch.randn(2, 5)
    symmetry = trace_symmetry(module, (x,))
    assert list(symmetry.groups.values()) == [6]
    wrong = plant(symmetry, "b.weight", 1, (Factor(None, 6),))
    with pytest.raises(SymmetryDisproved):
        prove_symmetry(module, wrong, x)


def test_two_groups_of_two_that_belong_together_are_moved_apart() -> None:
    module, x = mlp([5, 2, 3]), torch.randn(2, 5)
    symmetry = trace_symmetry(module, x)
    (group,) = symmetry.groups
    tensor = next(name for name in reversed(symmetry.places()[group]) if name.endswith("[1]")).removesuffix("[1]")
    wrong = replace(plant(symmetry, tensor, 1, (Factor("apart", 2),)), groups={**symmetry.groups, "apart": 2})
    with pytest.raises(SymmetryDisproved):
        prove_symmetry(module, wrong, x)


def test_a_symmetry_that_does_not_fit_is_refused() -> None:
    symmetry = traced("mlp")[2]
    with pytest.raises(InputError, match="no such tensor"):
        prove_symmetry(nn.Linear(3, 2), symmetry, torch.randn(2, 3))
    with pytest.raises(InputError, match="expected a group out of 3 units"):
        prove_symmetry(
            traced("mlp")[0], plant(symmetry, "module_list.5.weight", 0, (Factor("out", 3),)), torch.zeros(2, 1, 4, 4)
        )


@pytest.mark.parametrize("take", [lambda x: x[x > 0].sum(), lambda x: x.nonzero().float().mean()])
def test_sizes_that_depend_on_values_end_in_a_sentence_or_stand_still(take: Callable[[Tensor], Tensor]) -> None:
    module = Parts(lambda s, x: s.b(s.a(x).relu()) * take(x), a=nn.Linear(5, 6), b=nn.Linear(6, 3))
    try:
        assert trace_symmetry(module, torch.randn(2, 5)).groups
    except InputError as refusal:
        assert "give a Symmetry by hand" in str(refusal)


def test_matching_refuses_other_shapes_and_takes_any_scale() -> None:
    weights, symmetry = plain_network(0)
    wider = {name: torch.cat([own, own]) for name, own in weights.items()}
    with pytest.raises(WeightsMismatch):
        match_weights(wider, weights, symmetry)
    with pytest.raises(WeightsMismatch):
        match_weights({}, weights, symmetry)
    moved = permute(weights, symmetry, random_permutations(symmetry, derive_generator(0)))
    for size in (1e25, 1e-25):
        large = {name: (own * size).requires_grad_() for name, own in moved.items()}
        found = match_weights(large, {name: own * size for name, own in weights.items()}, symmetry)
        assert all(torch.equal(permute(moved, symmetry, found)[name], own) for name, own in weights.items())
    assert match_weights(weights, {}, symmetry, restarts=1).keys() == symmetry.groups.keys()


class Hidden(nn.Module):
    """A layer whose outputs come to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(x).relu()) + 0 * self.a(x).relu().sum()


def test_what_no_output_depends_on_is_not_called_proved() -> None:
    symmetry = trace_symmetry(Hidden(), torch.randn(2, 4))
    assert (
        list(symmetry.groups.values()) == [6] and "frozen by no effect on the outputs: a.weight[0]" in symmetry.report()
    )
    by_hand = replace(
        symmetry, groups={**symmetry.groups, "a": 5}, axes={**symmetry.axes, "a.bias": ((Factor("a", 5),),)}
    )
    with pytest.raises(InputError, match="found none for a: nothing is proved"):
        prove_symmetry(Hidden(), by_hand, torch.randn(2, 4))


class Noisy(nn.Module):
    """Draws noise on its way, as variational autoencoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        return self.c(self.b(hidden + torch.randn_like(hidden)).relu())


class Logarithm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(torch.log(x)).relu())


class OneAtATime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.view(1, 6)).relu())


def test_what_cannot_be_proved_is_refused() -> None:
    with pytest.raises(InputError, match="finite outputs"):
        trace_symmetry(Logarithm(), -torch.rand(2, 3))


def test_noise_on_the_way_stands_still_and_the_rest_is_proved() -> None:
    assert list(trace_symmetry(Noisy(), torch.randn(2, 3)).groups.values()) == [5]


def test_proofs_keep_to_the_kind_of_input_that_was_given() -> None:
    assert len(trace_symmetry(Logarithm(), 1 + torch.rand(2, 3)).groups) == 1
    assert len(trace_symmetry(OneAtATime(), torch.randn(1, 6)).groups) == 1
    assert trace_symmetry(nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveMaxPool2d(1)), torch.randn(2, 1, 5, 5)).axes


@given(seed=st.integers(0, 99))
def test_permutations_compose_and_invert(seed: int) -> None:
    symmetry = Symmetry(groups={"a": 4, "b": 3}, axes={"w": ((Factor("a", 4),), (Factor("b", 3), Factor(None, 2)))})
    weights = {"w": torch.arange(24.0).reshape(4, 6)}
    first, second = (random_permutations(symmetry, derive_generator(seed, n)) for n in range(2))
    one_by_one = permute(permute(weights, symmetry, first), symmetry, second)
    assert torch.equal(one_by_one["w"], permute(weights, symmetry, compose(first, second))["w"])
    back = permute(permute(weights, symmetry, first), symmetry, invert(first))
    assert torch.equal(back["w"], weights["w"])
    assert torch.equal(permute(weights, symmetry, identity_permutations(symmetry))["w"], weights["w"])


@pytest.mark.parametrize("name", GARDEN)
def test_symmetries_go_through_json(name: str) -> None:
    symmetry = traced(name)[2]
    assert Symmetry.from_json(json.loads(json.dumps(symmetry.to_json()))) == symmetry


def test_permuting_other_weights_is_refused() -> None:
    symmetry = traced("mlp")[2]
    with pytest.raises(WeightsMismatch, match="missing"):
        permute({}, symmetry, identity_permutations(symmetry))


def plain_network(seed: int) -> tuple[Weights, Symmetry]:
    torch.manual_seed(seed)
    module = mlp([9, 7, 6, 3])
    return dict(module.state_dict()), trace_symmetry(module, torch.zeros(2, 1, 3, 3))


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_permutation_is_recovered(seed: int) -> None:
    weights, symmetry = plain_network(seed)
    moved = permute(weights, symmetry, random_permutations(symmetry, derive_generator(seed)))
    back = permute(moved, symmetry, match_weights(moved, weights, symmetry))
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


def test_on_a_residual_network_the_planted_objective_is_mostly_reached() -> None:
    _, _, symmetry = traced("residual")
    reached = 0
    for seed in range(10):
        torch.manual_seed(seed)
        weights = dict(ResidualNet().state_dict())
        moved = permute(weights, symmetry, random_permutations(symmetry, derive_generator(seed)))
        back = permute(moved, symmetry, match_weights(moved, weights, symmetry))
        reached += objective(back, weights, symmetry) >= objective(weights, weights, symmetry) - 1e-6
    assert reached >= 7


@pytest.mark.parametrize("name", ["mlp", "cnn-s", "residual", "depthwise", "gated"])
def test_canonicalising_is_idempotent_deterministic_and_never_lowers_the_objective(name: str) -> None:
    module, _, symmetry = traced(name)
    reference = dict(module.state_dict())
    for seed in range(4):
        torch.manual_seed(100 + seed)
        weights = dict(GARDEN[name][0]().state_dict())
        found = match_weights(weights, reference, symmetry)
        again = match_weights(weights, reference, symmetry)
        assert all(torch.equal(found[group], again[group]) for group in found)
        canonical = permute(weights, symmetry, found)
        assert objective(canonical, reference, symmetry) >= objective(weights, reference, symmetry) - 1e-9
        twice = permute(canonical, symmetry, match_weights(canonical, reference, symmetry))
        assert all(torch.equal(twice[key], canonical[key]) for key in canonical)


def test_one_free_group_equals_brute_force() -> None:
    torch.manual_seed(0)
    module = mlp([4, 5, 3])
    symmetry = trace_symmetry(module, torch.zeros(2, 1, 2, 2))
    reference, weights = dict(module.state_dict()), dict(mlp([4, 5, 3]).state_dict())
    (group,) = symmetry.groups

    def value(permutations: Permutations) -> float:
        return objective(permute(weights, symmetry, permutations), reference, symmetry)

    best = max(value({group: torch.tensor(order)}) for order in itertools.permutations(range(5)))
    assert abs(value(match_weights(weights, reference, symmetry)) - best) < 1e-9


def test_matching_a_stack_is_matching_each() -> None:
    reference, symmetry = plain_network(0)
    networks = [plain_network(seed)[0] for seed in (1, 2, 3)]
    stack = {name: torch.stack([weights[name] for weights in networks]) for name in reference}
    together = match_stack(stack, reference, symmetry)
    for number, weights in enumerate(networks):
        alone = match_weights(weights, reference, symmetry)
        assert all(torch.equal(together[group][number], alone[group]) for group in alone)


def test_buffers_do_not_enter_the_matching() -> None:
    module, _, symmetry = traced("residual")
    reference = dict(module.state_dict())
    weights = dict(ResidualNet().state_dict())
    changed = {name: tensor * 1000 if name in symmetry.buffers else tensor for name, tensor in weights.items()}
    first, second = match_weights(weights, reference, symmetry), match_weights(changed, reference, symmetry)
    assert all(torch.equal(first[group], second[group]) for group in first)


def test_restarts_never_end_lower_and_are_deterministic() -> None:
    module, _, symmetry = traced("ResNet-18")
    reference = dict(module.state_dict())
    weights = {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in reference.items()}

    def reached(**options: int) -> float:
        return objective(
            permute(weights, symmetry, match_weights(weights, reference, symmetry, **options)), reference, symmetry
        )

    assert reached(restarts=3) >= reached() and reached(restarts=3, seed=1) == reached(restarts=3, seed=1)


def test_nan_is_refused_before_matching() -> None:
    weights, symmetry = plain_network(0)
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in weights.items()}
    with pytest.raises(InputError, match="found NaN or infinity in module_list"):
        match_weights(broken, weights, symmetry)


def test_an_iterated_mean_agrees_with_its_networks_better_than_a_plain_one() -> None:
    networks = [plain_network(seed)[0] for seed in range(8)]
    symmetry = plain_network(0)[1]
    stack = {name: torch.stack([weights[name] for weights in networks]) for name in networks[0]}
    mean = iterated_mean(
        lambda: [{n: t[:3] for n, t in stack.items()}, {n: t[3:] for n, t in stack.items()}], networks[0], symmetry
    )
    plain = {name: tensor.mean(0) for name, tensor in stack.items()}

    def length(weights: Weights) -> float:
        return sum(float(tensor.square().sum()) for tensor in weights.values())

    assert length(mean) > 1.2 * length(plain)


class Chain(nn.Module):
    """Two hidden layers between which one operation stands."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5 * 4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.between(self.b(self.between(self.a(x)))).flatten(1))


@pytest.mark.parametrize(
    ("between", "scale", "sign"),
    [
        (nn.ReLU(), 2, 0),
        (nn.Sequential(nn.MaxPool2d(2, 1), nn.LeakyReLU(0.2)), 2, 0),
        (nn.Tanh(), 0, 2),
        (nn.Sequential(nn.AvgPool2d(2, 1), nn.Tanh()), 0, 2),
        (nn.Sequential(nn.MaxPool2d(2, 1), nn.Tanh()), 0, 0),
        (nn.GELU(), 0, 0),
        (nn.Identity(), 2, 2),
    ],
)
def test_scales_and_signs_are_derived_and_proved(between: nn.Module, scale: int, sign: int) -> None:
    module = Chain(between)
    example = torch.zeros(2, 2, 8, 8)
    with torch.no_grad():
        flat = between(module.b(between(module.a(example)))).flatten(1).shape[1]
    module.c = nn.Linear(flat, 3)
    for kind, expected in (("scale", scale), ("sign", sign)):
        rescaling = trace_rescaling(module, kind, example)  # type: ignore[arg-type] # one of the two
        assert len(rescaling.groups) == expected
        assert Rescaling.from_json(json.loads(json.dumps(rescaling.to_json()))) == rescaling


SCALED = """
    mlp mlp-dropout residual depthwise gated concatenating LeNet AlexNet ResNet-18 DenseNet MobileNetV2 U-Net ViT
""".split()


@pytest.mark.parametrize("kind", ["scale", "sign"])
@pytest.mark.parametrize(
    "name", [name if name in SCALED else pytest.param(name, marks=pytest.mark.slow) for name in GARDEN]
)
def test_canonical_scales_and_signs_leave_the_function_alone(name: str, kind: str) -> None:
    module, example, _ = planted(name)
    rescaling = trace_rescaling(module, kind, example)  # type: ignore[arg-type] # one of the two
    if not rescaling.groups:
        return
    module = module.double()
    weights = {**dict(module.state_dict()), **random_state(module)}
    aliases = find_aliases(module.state_dict(keep_vars=True))
    weights.update({alias: weights[own] for alias, own in aliases.items()})
    inputs = torch.randn(3, *example.shape[1:], dtype=torch.float64) if example.is_floating_point() else example
    stack = {name: tensor[None] for name, tensor in weights.items()}
    canonical = rescale(stack, rescaling, canonical_factors(stack, rescaling))
    before = functional_call(module, weights, (inputs,), tie_weights=False)
    after = functional_call(module, {n: own[0] for n, own in canonical.items()}, (inputs,), tie_weights=False)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    again = canonical_factors(canonical, rescaling)
    assert all(torch.allclose(own, torch.ones_like(own), atol=1e-3) for own in again.values())
    moved = rescale(stack, rescaling, random_factors(rescaling, 1, derive_generator(0)))
    one_form = rescale(moved, rescaling, canonical_factors(moved, rescaling))
    assert all(torch.allclose(one_form[own], canonical[own], atol=1e-3) for own in canonical) or kind == "sign"


def test_the_proof_catches_a_wrong_rescaling() -> None:
    module, example = mlp([9, 7, 6, 3], "gelu"), torch.zeros(2, 1, 3, 3)
    right = trace_rescaling(mlp([9, 7, 6, 3], "relu"), "scale", example)

    def changed(weights: Weights, groups: Collection[str], generator: torch.Generator) -> Weights:
        stack = {name: tensor[None] for name, tensor in weights.items()}
        return {name: own[0] for name, own in rescale(stack, right, random_factors(right, 1, generator)).items()}

    with pytest.raises(SymmetryDisproved):
        prove_unchanged(module, changed, {group: [] for group in right.groups}, (example,), {})


HELD: dict[str, Tensor] = {}


def test_what_hooks_keep_stays_as_it_was() -> None:
    module, kept = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), dict[str, Tensor]()
    module[0].register_forward_hook(lambda part, given, made: kept.__setitem__("hidden", made.detach()))
    module[2].register_forward_hook(lambda part, given, made: HELD.__setitem__("last", made.detach()))
    example = torch.randn(5, 6)
    module.eval()(example)
    before = dict(kept), dict(HELD)
    assert list(trace_symmetry(module, example).groups.values()) == [9]
    for held, first in zip((kept, HELD), before, strict=True):
        assert {name: id(tensor) for name, tensor in held.items()} == {
            name: id(tensor) for name, tensor in first.items()
        }


class Frozen(nn.Module):
    """Its body runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7))
        self.unused = nn.Linear(4, 5)
        self.head = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.body(inputs)
        return self.head(hidden.relu())


def test_what_runs_without_gradients_has_an_effect() -> None:
    symmetry = trace_symmetry(Frozen().eval(), torch.randn(3, 6))
    assert sorted(symmetry.groups.values()) == [7, 8, 9] and "unused.weight" not in symmetry.moved


class Spectral(nn.Module):
    """A layer of complex weights between ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Conv1d(2, 6, 1), nn.Conv1d(6, 7, 1), nn.Conv1d(7, 1, 1)
        self.filter = nn.Parameter(torch.randn(6, 6, 3, dtype=torch.cfloat))

    def forward(self, inputs: Tensor) -> Tensor:
        waves = torch.fft.rfft(self.first(inputs))[..., :3]
        mixed = torch.fft.irfft(torch.einsum("bim,iom->bom", waves, self.filter), n=inputs.shape[-1])
        return self.last(self.hidden(mixed).relu())


def test_complex_parameters_freeze_what_they_touch_and_nothing_else() -> None:
    symmetry = trace_symmetry(Spectral().eval(), torch.randn(2, 2, 16))
    assert list(symmetry.groups.values()) == [7] and "filter" not in symmetry.moved


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")  # many a published network has the old one
def test_modules_that_compute_their_weights_are_traced() -> None:
    first, last = (nn.utils.weight_norm(nn.Conv1d(*sizes, 3)) for sizes in ((6, 9), (9, 4)))
    symmetry = trace_symmetry(nn.Sequential(first, nn.ReLU(), last).eval(), torch.randn(3, 6, 12))
    assert list(symmetry.groups.values()) == [9] and {"0.weight_g", "0.weight_v", "2.weight_v"} <= set(symmetry.moved)
