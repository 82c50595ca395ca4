import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from garden import GARDEN
from tools import every_kind
from weightspace.errors import InputError
from weightspace.tokens.layout import TokenLayout, plan_layout
from weightspace.tokens.tokenizing import Tokens, detokenize, tokenize
from weightspace.tokens.windows import merge_halo, random_starts, split_with_halo
from weightspace.weights.files import read_weights, write_weights
from weightspace.weights.values import Role, WeightsMismatch

STYLES = ("rows", "packed")


def bits(tensor: Tensor) -> Tensor:
    """A tensor's bytes, so that NaN equals NaN and -0 differs from 0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor.reshape(-1).to(torch.uint8)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape and found[name].dtype == tensor.dtype, name
        assert torch.equal(bits(found[name]), bits(tensor)), name


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("width", [1, 2, 3, 8, 28, 29, 64, 300])
def test_tokenizing_has_an_exact_inverse(style: str, width: int) -> None:
    weights = every_kind()
    layout = plan_layout(weights, width, style=style)  # type: ignore[arg-type]
    restored = detokenize(tokenize(weights, layout), layout)
    assert_same(restored, weights)
    assert restored["tied"] is restored["embedding.weight"]
    assert set(layout.carried) == {"norm.num_batches_tracked", "double", "flags"}


@given(
    shapes=st.lists(st.lists(st.integers(1, 6), max_size=4), min_size=1, max_size=4),
    width=st.integers(1, 40),
    style=st.sampled_from(STYLES),
    biased=st.booleans(),
)
def test_the_inverse_is_exact_for_any_shapes(shapes: list[list[int]], width: int, style: str, biased: bool) -> None:
    weights = {f"l{n}.weight": torch.randn(shape) for n, shape in enumerate(shapes)}
    if biased:
        weights |= {f"l{n}.bias": torch.randn(shape[0]) for n, shape in enumerate(shapes) if shape}
    layout = plan_layout(weights, width, style=style)  # type: ignore[arg-type]
    tokens = tokenize(weights, layout)
    assert_same(detokenize(tokens, layout), weights)
    table = layout.table()
    assert int(table.mask.sum()) == layout.size == sum(tensor.numel() for tensor in weights.values())
    assert torch.equal(table.index[table.mask].sort().values, torch.arange(layout.size))
    assert not tokens.values[~table.mask].any()


@given(width=st.integers(1, 30), style=st.sampled_from(STYLES), data=st.data())
def test_a_part_of_the_table_is_the_part_of_the_table(width: int, style: str, data: st.DataObject) -> None:
    layout = plan_layout(every_kind(), width, style=style)  # type: ignore[arg-type]
    start = data.draw(st.integers(0, len(layout)))
    stop = data.draw(st.integers(start, len(layout)))
    for whole, part in zip(layout.table(), layout.table(start, stop), strict=True):
        assert torch.equal(whole[start:stop], part)


@pytest.mark.parametrize("name", GARDEN)
@pytest.mark.parametrize("style", STYLES)
def test_every_network_of_the_garden_goes_through(name: str, style: str) -> None:
    weights = dict(GARDEN[name][0]().state_dict())
    layout = plan_layout(weights, 24, style=style)  # type: ignore[arg-type]
    assert_same(detokenize(tokenize(weights, layout), layout), weights)


@pytest.mark.parametrize("style", STYLES)
def test_a_token_never_holds_two_layers(style: str) -> None:
    layout = plan_layout(every_kind(), 64, style=style)  # type: ignore[arg-type]
    table = layout.table()
    owners = {block.bias: block.name for block in layout.blocks}
    for row in range(len(layout)):
        names = {layout.names[index] for index in table.tensor[row][table.mask[row]].tolist()}
        assert len({owners.get(name, name) for name in names}) == 1


def test_packing_wastes_less() -> None:
    weights = {"a.weight": torch.randn(20, 4), "a.bias": torch.randn(20), "b.weight": torch.randn(3, 30)}
    rows, packed = (plan_layout(weights, 31, style=style) for style in STYLES)  # type: ignore[arg-type]
    assert len(rows) == 23 and len(packed) == 4 + 3
    assert packed.size == rows.size


def test_a_row_ends_with_its_bias() -> None:
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([10.0, 20.0])}
    layout = plan_layout(weights, 5)
    expected = torch.tensor([[0.0, 1, 2, 10, 0], [3, 4, 5, 20, 0]])
    assert torch.equal(tokenize(weights, layout).values, expected)
    assert layout.table().positions.tolist() == [[0, 0, 0, 0], [1, 0, 1, 0]]
    assert layout.source == "names"


def test_a_role_may_put_rows_along_another_axis() -> None:
    weights = {"t.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "t.bias": torch.tensor([7.0, 8, 9])}
    layout = plan_layout(weights, 9, roles={"t.weight": Role("conv", axis=1, bias="t.bias")})
    tokens = tokenize(weights, layout).values
    assert torch.equal(tokens[1], torch.cat([weights["t.weight"][:, 1].flatten(), torch.tensor([8.0])]))
    assert_same(detokenize(Tokens(tokens, {}), layout), weights)
    assert layout.source == "trace"


def test_long_rows_are_cut_into_chunks() -> None:
    layout = plan_layout({"a.weight": torch.randn(2, 7)}, 3)
    assert layout.table().positions.tolist() == [
        [0, 0, 0, 0],
        [1, 0, 0, 1],
        [2, 0, 0, 2],
        [3, 0, 1, 0],
        [4, 0, 1, 1],
        [5, 0, 1, 2],
    ]


def test_the_same_network_from_pt_and_safetensors_gives_equal_tokens(tmp_path: object) -> None:
    weights = {f"layer.{n}.weight": torch.randn(3, 4) for n in range(12)}
    torch.save(weights, f"{tmp_path}/a.pt")
    write_weights(f"{tmp_path}/a.safetensors", weights)
    first, second = read_weights(f"{tmp_path}/a.pt"), read_weights(f"{tmp_path}/a.safetensors")
    tokens = [tokenize(read, plan_layout(read, 5)).values for read in (first, second)]
    assert torch.equal(tokens[0], tokens[1])
    assert plan_layout(first, 5).names == list(weights)


def test_layouts_are_planned_from_shapes_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    meta = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
    assert plan_layout(meta, 5) == plan_layout(module.state_dict(), 5)


@pytest.mark.parametrize("style", STYLES)
def test_layouts_go_through_json(style: str) -> None:
    layout = plan_layout(every_kind(), 10, style=style)  # type: ignore[arg-type]
    assert TokenLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="token width of at least 1, found 0"):
        plan_layout(every_kind(), 0)


def test_other_weights_are_refused() -> None:
    weights = every_kind()
    layout = plan_layout(weights, 10)
    with pytest.raises(WeightsMismatch, match="unexpected extra"):
        tokenize({**weights, "extra": torch.zeros(1)}, layout)
    with pytest.raises(WeightsMismatch, match="missing"):
        tokenize({name: tensor for name, tensor in weights.items() if name != "bare"}, layout)
    with pytest.raises(WeightsMismatch, match="tied tied"):
        tokenize({**weights, "tied": weights["tied"] + 1}, layout)
    with pytest.raises(ValueError, match="expected tokens of shape"):
        detokenize(Tokens(torch.zeros(3, 10), {}), layout)


@given(length=st.integers(1, 70), window=st.integers(1, 80), halo=st.integers(0, 20))
def test_halos_merge_exactly(length: int, window: int, halo: int) -> None:
    tokens = torch.randn(length, 2)
    windows = split_with_halo(tokens, window, halo)
    assert torch.equal(merge_halo(windows.values, length, halo), tokens)
    assert windows.values.shape[1] == window + 2 * halo
    assert not windows.values[~windows.present].any()


def test_a_halo_holds_the_neighbors() -> None:
    windows = split_with_halo(torch.arange(1.0, 8.0)[:, None], 3, 1)
    assert windows.values[..., 0].tolist() == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 0, 0, 0]]


@pytest.mark.parametrize(("window", "halo"), [(0, 0), (1, -1)])
def test_impossible_windows_are_refused(window: int, halo: int) -> None:
    with pytest.raises(ValueError, match="expected length >= 1"):
        split_with_halo(torch.zeros(3, 1), window, halo)


@given(length=st.integers(1, 20), window=st.integers(1, 25), seed=st.integers(0, 9))
def test_random_windows_lie_inside(length: int, window: int, seed: int) -> None:
    starts = random_starts(torch.full((50,), length), window, torch.Generator().manual_seed(seed))
    assert starts.min() >= 0 and starts.max() <= max(0, length - window)


def test_random_windows_reach_both_ends() -> None:
    starts = random_starts(torch.full((500,), 10), 4, torch.Generator().manual_seed(0))
    assert set(starts.tolist()) == set(range(7))


def test_odd_biases_do_not_break_the_inverse() -> None:
    shared = {"a.weight": torch.randn(3, 2), "b.weight": torch.randn(3, 4), "bias": torch.randn(3)}
    roles = {name: Role("linear", 0, "bias") for name in ("a.weight", "b.weight")}
    single = {"w": torch.randn(8, 6), "b": torch.randn(1), "next": torch.randn(9)}
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].bias = tied["a"].bias
    tied_roles = {f"{name}.weight": Role("linear", 0, f"{name}.bias") for name in "ab"}
    empty = {"l.weight": torch.zeros(5, 0), "l.bias": torch.randn(5)}
    double = {"l.weight": torch.randn(5, 2), "l.bias": torch.randn(5, dtype=torch.float64)}
    cases = [(shared, roles), (single, {"w": Role("linear", 0, "b")}), (dict(tied.state_dict()), tied_roles)]
    for weights, own in [*cases, (empty, None), (double, None), (double, {"l.weight": Role("linear", 0, "l.bias")})]:
        layout = plan_layout(weights, 4, roles=own)
        assert_same(detokenize(tokenize(weights, layout), layout), weights)
        assert int(layout.table().mask.sum()) == layout.size


def test_other_types_are_refused() -> None:
    layout = plan_layout({"a": torch.zeros(3)}, 4)
    with pytest.raises(InputError, match="expected float32 in a, found float64"):
        tokenize({"a": torch.zeros(3, dtype=torch.float64)}, layout)
