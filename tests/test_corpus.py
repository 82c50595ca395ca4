from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from garden import GARDEN, planted
from tools import forget_digests
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus, build_corpus
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.frame import describe_module
from weightspace.corpus.gathering import window_gather
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.rescaling import rescaling_windows
from weightspace.corpus.views import Views, WindowSource, whole_networks
from weightspace.errors import InputError
from weightspace.images import ImageSet
from weightspace.randomness import derive_generator
from weightspace.supervised import predict_stack, stack_weights
from weightspace.symmetry.axes import permute
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.rescaling import random_factors, rescale
from weightspace.tokens.layout import Style, plan_layout
from weightspace.tokens.tokenizing import flatten_weights, unflatten_weights
from weightspace.weights.values import Role, WeightsMismatch, find_aliases
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.growing.networks import mlp
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo

Fitted = tuple[Preparation, Corpus]


@pytest.fixture(scope="module")
def fitted(parts: tuple[Zoo, ...], tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_preparation(parts[0], PreparationConfig(), tmp_path_factory.mktemp("corpus"))


def test_architectures_with_equal_shapes_share_a_frame(fitted: Fitted) -> None:
    preparation, corpus = fitted
    assert len(preparation.architectures) == 2 and len(preparation.frames) == 1 == len(corpus.parts)
    assert preparation.config.token_width == 65


def test_canonical_networks_compute_the_same(fitted: Fitted, parts: tuple[Zoo, ...], digits: ImageSet) -> None:
    zoo = parts[1]
    for row in range(0, len(zoo), 5):
        architecture = zoo.architectures[zoo.table["architecture"].iloc[row]]
        weights = zoo.weights(row)
        both = stack_weights([weights, fitted[0].canonicalize(weights, architecture)])
        before, after = predict_stack(architecture.build(), both, digits.test.inputs[:50])
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_all_epochs_of_a_member_share_the_permutation_of_its_last(fitted: Fitted, parts: tuple[Zoo, ...]) -> None:
    part = fitted[1].parts[0]
    zoo, member = parts[0], parts[0].members[0]
    own = zoo.where(member=member)
    architecture = zoo.architectures[own.table["architecture"].iloc[0]]
    frame = fitted[0].frame_of(architecture)
    last = own.table["epoch"].to_numpy().argmax()
    permutations = frame.find_permutations(own.weights(int(last)))
    assert permutations is not None and frame.symmetry is not None
    for row, label in enumerate(own.table.index):
        expected = flatten_weights(permute(own.weights(row), frame.symmetry, permutations), frame.layout)
        place = list(part.table.index).index(label)
        assert torch.equal(part.flat[place], expected)


def test_training_tokens_are_standardised(fitted: Fitted) -> None:
    part = fitted[1].parts[0]
    tokens = whole_networks(part, part.flat)
    assert not tokens[:, ~part.frame.layout.table().mask].any()
    for number in range(len(part.frame.layout.names)):
        own = tokens[:, (part.frame.layout.table().tensor == number) & part.frame.layout.table().mask]
        assert abs(own.mean()) < 1e-3 and abs(own.std(correction=0) - 1) < 1e-3


def test_the_corpus_takes_the_raw_bytes(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    _, corpus = fit_preparation(parts[0], PreparationConfig(), tmp_path)
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert on_disk < 1.01 * 4 * corpus.weights + 200


@pytest.mark.parametrize("policy", ["tensor", "kind", "none"])
@pytest.mark.parametrize("style", ["rows", "packed"])
def test_preparing_has_an_inverse(policy: str, style: str, parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    config = PreparationConfig(standardize=policy, token_style=style, token_width=20)  # type: ignore[arg-type]
    preparation, _ = fit_preparation(parts[0], config, tmp_path)
    weights = parts[1].weights(0)
    architecture = preparation.architecture_for(weights)
    prepared = preparation.prepare(weights, architecture)
    restored = preparation.restore(prepared.tokens, architecture, prepared.carried)
    expected = preparation.canonicalize(weights, architecture)
    assert list(restored) == list(architecture.shapes)
    for name, tensor in expected.items():
        torch.testing.assert_close(restored[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_preparation_travels(fitted: Fitted, parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    fitted[0].save(tmp_path / "preparation")
    opened = Preparation.open(tmp_path / "preparation")
    weights = parts[2].weights(0)
    assert torch.equal(opened.prepare(weights).tokens, fitted[0].prepare(weights).tokens)
    with pytest.raises(InputError, match="expected a whole preparation"):
        Preparation.open(tmp_path)


def test_an_unknown_network_is_prepared_by_layer_kind_and_says_so(fitted: Fitted) -> None:
    torch.manual_seed(0)
    weights = dict(GARDEN["residual"][0]().state_dict())
    prepared = fitted[0].prepare(weights)
    assert "statistics by layer kind, no alignment" in prepared.frame.note
    assert set(prepared.carried) == {"norm1.num_batches_tracked", "norm2.num_batches_tracked"}
    architecture = fitted[0].architecture_for(weights)
    restored = fitted[0].restore(prepared.tokens, architecture, prepared.carried)
    for name, tensor in weights.items():
        torch.testing.assert_close(restored[name], tensor, rtol=1e-4, atol=1e-5)


def test_names_may_differ_where_shapes_agree(fitted: Fitted, parts: tuple[Zoo, ...]) -> None:
    weights = parts[1].weights(0)
    renamed = {name.replace("module_list", "net"): tensor for name, tensor in weights.items()}
    prepared = fitted[0].prepare(renamed)
    assert prepared.frame.note == ""
    assert torch.equal(prepared.tokens, fitted[0].prepare(weights).tokens)


def test_bad_weights_are_refused(fitted: Fitted, parts: tuple[Zoo, ...]) -> None:
    weights = parts[1].weights(0)
    architecture = fitted[0].architecture_for(weights)
    name = next(iter(weights))
    with pytest.raises(InputError, match="found 1 NaN"):
        fitted[0].prepare({**weights, name: _with_nan(weights[name])})
    with pytest.raises(WeightsMismatch, match="missing"):
        fitted[0].prepare({key: tensor for key, tensor in weights.items() if key != name}, architecture)


def _with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = torch.nan
    return tensor


def test_nan_in_a_zoo_is_refused_and_named(zoo_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(zoo_folder, tmp_path / "zoo"))
    shard = sorted((folder / "shards").iterdir())[0]
    stack = load_file(shard)
    name = next(iter(stack))
    stack[name][3].view(-1)[0] = torch.nan
    save_file(stack, shard)
    forget_digests(folder)
    with pytest.raises(InputError, match=r"NaN or infinite values in 1 checkpoints, first in member-\d+ at epoch \d"):
        fit_preparation(Zoo.open(folder), PreparationConfig(), tmp_path / "corpus")


def test_empty_zoos_and_bad_widths_are_refused(zoo: Zoo, fitted: Fitted, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected checkpoints"):
        build_corpus(zoo.where(epoch=77), fitted[0], tmp_path)
    with pytest.raises(InputError, match="token width to be at least 0"):
        fit_preparation(zoo, PreparationConfig(token_width=-1), tmp_path)


def test_without_a_factory_there_is_no_alignment_and_a_reason(zoo: Zoo, tmp_path: Path) -> None:
    unknown = {name: replace(a, factory=None, note="imported") for name, a in zoo.architectures.items()}
    preparation, _ = fit_preparation(replace(zoo, architectures=unknown), PreparationConfig(), tmp_path)
    frame = next(iter(preparation.frames.values()))
    assert frame.symmetry is None and "no alignment: expected a factory" in frame.note


def test_a_reference_member_can_be_named(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    member = parts[0].members[2]
    preparation, _ = fit_preparation(parts[0], PreparationConfig(reference=member), tmp_path)
    frame = next(iter(preparation.frames.values()))
    last = parts[0].where(member=member).last().weights(0)
    assert frame.reference is not None
    assert torch.equal(frame.reference, flatten_weights(last, frame.layout))
    with pytest.raises(InputError, match="expected a training member as reference, found 'nobody'"):
        fit_preparation(parts[0], PreparationConfig(reference="nobody"), tmp_path)


@pytest.mark.parametrize("style", ["rows", "packed"])
@pytest.mark.parametrize("name", GARDEN)
def test_a_permuted_gather_is_permuting_and_then_gathering(name: str, style: Style) -> None:
    module, _, traced = planted(name)
    weights, symmetry = dict(module.state_dict()), traced.symmetry
    roles = {name: Role(*use) for name, use in traced.uses.items()}
    layout = plan_layout(weights, 16, style=style, roles=roles, aliases=find_aliases(weights))
    table, whole, flat = window_gather(layout, symmetry), layout.table(), flatten_weights(weights, layout)
    token, starts = np.tile(np.arange(len(layout)), (3, 1)), np.zeros(3, dtype=np.int64)
    moves = table.draw(token, torch.Generator().manual_seed(1))
    gathered = table.gather(flat[None], token, starts, moves)
    plain = table.gather(flat[None], token, starts)[0]
    assert torch.equal(plain[whole.mask], flat[whole.index][whole.mask])
    assert style == "packed" or not plain[~whole.mask].any()
    for number in range(3):
        permutations, start = {}, 0
        for group, size in symmetry.groups.items():
            permutations[group] = torch.from_numpy(moves[number, start : start + size]) + torch.arange(size)
            assert sorted(permutations[group].tolist()) == list(range(size))
            start += size
        moved = flatten_weights(permute(weights, symmetry, permutations), layout)
        assert torch.equal(gathered[number][whole.mask], moved[whole.index][whole.mask])


def test_a_batch_holds_one_window_per_member(fitted: Fitted) -> None:
    source = WindowSource(fitted[1], window=6, batch_size=99)
    batch = source.draw(torch.Generator().manual_seed(0), Views(permuted=(False, True)))
    assert source.batch_size == len(fitted[1].parts[0].checkpoints_of) == batch.targets.shape[1]
    assert batch.targets.shape == (2, source.batch_size, 6, 65) and batch.present.all()
    assert batch.weights == 2 * int(batch.mask.sum())


def test_drawing_is_a_function_of_the_generator(fitted: Fitted) -> None:
    source = WindowSource(fitted[1], window=6, batch_size=4)
    first, again, other = (
        source.draw(torch.Generator().manual_seed(seed), Views(permuted=(False, True), noise=0.1)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.inputs, again.inputs) and not torch.equal(first.inputs, other.inputs)


def test_the_canonical_view_is_the_stored_network(fitted: Fitted) -> None:
    part = fitted[1].parts[0]
    whole = whole_networks(part, part.flat)
    batch = WindowSource(fitted[1], window=len(part.frame.layout.table().mask), batch_size=3).draw(
        torch.Generator().manual_seed(0)
    )
    for window in batch.targets[0]:
        assert any(torch.allclose(window, network) for network in whole)


def test_noise_touches_inputs_only_and_never_the_padding(fitted: Fitted) -> None:
    source = WindowSource(fitted[1], window=6, batch_size=4)
    clean = source.draw(torch.Generator().manual_seed(0))
    noisy = source.draw(torch.Generator().manual_seed(0), Views(noise=0.5))
    assert torch.equal(clean.targets, noisy.targets) and torch.equal(clean.inputs, clean.targets)
    difference = (noisy.inputs - noisy.targets)[:, noisy.mask]
    assert abs(float(difference.std()) - 0.5) < 0.05
    assert not noisy.inputs[:, ~noisy.mask].any()


def test_windows_longer_than_a_network_are_padded_and_masked(fitted: Fitted) -> None:
    length = len(fitted[1].parts[0].frame.layout)
    batch = WindowSource(fitted[1], window=length + 7, batch_size=4).draw(torch.Generator().manual_seed(0))
    assert batch.present[:, :length].all() and not batch.present[:, length:].any()
    assert not batch.mask[:, length:].any() and not batch.targets[:, :, length:].any()


def test_two_architectures_share_a_batch(digits: ImageSet, tmp_path: Path) -> None:
    first = grow(
        "mlp:8", digits, GrowConfig(members=4, epochs=1, activation="tanh", plan="stacked", workers=1), tmp_path / "a"
    )
    second = grow(
        "mlp:12,6",
        digits,
        GrowConfig(members=4, epochs=1, activation="relu", seed=5, plan="stacked", workers=1),
        tmp_path / "b",
    )
    preparation, one = fit_preparation(first, PreparationConfig(token_width=40), tmp_path / "c1")
    other = replace(preparation, config=preparation.config)
    corpus = Corpus((*one.parts, *build_corpus(second, other, tmp_path / "c2").parts))
    source = WindowSource(corpus, window=10, batch_size=8)
    batch = source.draw(torch.Generator().manual_seed(0), Views(permuted=(False, True)))
    assert batch.targets.shape == (2, 8, 10, 40)
    assert np.isfinite(batch.targets.numpy()).all()


def test_signatures_are_of_shapes_and_types_in_order() -> None:
    first = Architecture(id="a", shapes={"x": (2, 3), "z": (3,)})
    second = Architecture(id="b", shapes={"y": (2, 3), "w": (3,)})
    third = Architecture(id="c", shapes={"x": (3, 2), "z": (3,)})
    typed = [replace(first, dtypes={name: "int64"}) for name in ("x", "z")]
    assert first.signature == second.signature != third.signature
    assert typed[0].signature != typed[1].signature


class Plain(nn.Module):
    """Three layers in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).tanh()).tanh())


class Skipping(Plain):
    """The same shapes, with a skip connection: the second layer must move with the first."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).tanh()
        return self.c(self.b(x).tanh() + x)


def test_equal_shapes_with_other_symmetries_have_frames_of_their_own(tmp_path: Path) -> None:
    writer = ZooWriter(tmp_path / "zoo")
    built = {}
    for kind in (Plain, Skipping):
        architecture = describe_module(f"{__name__}:{kind.__name__}", "2,4")
        modules = [kind() for _ in range(3)]
        built[architecture.id] = modules[0]
        table = pd.DataFrame({"member": [f"{kind.__name__}-{n}" for n in range(3)], "epoch": 0})
        writer.add(architecture, stack_weights([module.state_dict() for module in modules]), table)
    writer.finish({})
    zoo = Zoo.open(tmp_path / "zoo")
    preparation, corpus = fit_preparation(zoo, PreparationConfig(), tmp_path / "corpus")
    assert len(preparation.frames) == 2 == len(corpus.parts)
    inputs = torch.randn(5, 4)
    for row, name in enumerate(zoo.table["architecture"]):
        module, weights = built[name], zoo.weights(row)
        canonical = preparation.canonicalize(weights, zoo.architectures[name])
        before, after = (torch.func.functional_call(module, own, (inputs,)) for own in (weights, canonical))
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_types_survive_a_traced_preparation(tmp_path: Path) -> None:
    module = mlp([6, 5, 3]).half()
    architecture = Architecture.of_module(
        module,
        id="half",
        factory="weightspace.zoo.growing.networks:mlp",
        arguments={"widths": [6, 5, 3]},
        example_shape=(2, 6),
    )
    writer = ZooWriter(tmp_path / "zoo")
    writer.add(architecture, stack_weights([module.state_dict()] * 2), pd.DataFrame({"member": ["a", "b"], "epoch": 0}))
    writer.finish({})
    zoo = Zoo.open(tmp_path / "zoo")
    preparation, _ = fit_preparation(zoo, PreparationConfig(standardize="none"), tmp_path / "corpus")
    prepared = preparation.prepare(zoo.weights(0), architecture)
    restored = preparation.restore(prepared.tokens, architecture, prepared.carried)
    assert {tensor.dtype for tensor in restored.values()} == {torch.float16}


def test_the_reference_may_be_the_mean_of_all_members(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    best, _ = fit_preparation(parts[0], PreparationConfig(), tmp_path / "best")
    mean, corpus = fit_preparation(parts[0], PreparationConfig(reference="mean"), tmp_path / "mean")
    (own,), (other,) = mean.frames.values(), best.frames.values()
    assert own.reference is not None and other.reference is not None
    assert own.reference.norm() < other.reference.norm()  # a mean of networks that differ is shorter than they are
    again = next(iter(mean.frames.values())).canonicalize(
        unflatten_weights(corpus.parts[0].flat[-1], own.layout, {}), next(iter(mean.architectures.values()))
    )
    assert torch.equal(flatten_weights(again, own.layout), corpus.parts[0].flat[-1])


@pytest.mark.parametrize(("name", "kind"), [("mlp", "sign"), ("residual", "scale"), ("depthwise", "scale")])
def test_windows_of_rescaled_networks_are_rescaled_windows(name: str, kind: Literal["scale", "sign"]) -> None:
    module, example, traced = planted(name)
    rescaling, weights = trace_rescaling(module, kind, example), dict(module.state_dict())
    layout = plan_layout(weights, 16, roles={name: Role(*use) for name, use in traced.uses.items()})
    token = np.tile(np.arange(len(layout)), (3, 1))
    drawn = rescaling_windows(layout, rescaling).draw(token, 0.5, derive_generator(3))
    factors = random_factors(rescaling, 3, derive_generator(3), spread=0.5)
    stack = {name: tensor.expand(3, *tensor.shape) for name, tensor in weights.items()}
    moved, whole = rescale(stack, rescaling, factors), layout.table()
    for number in range(3):
        own = flatten_weights({name: tensor[number] for name, tensor in moved.items()}, layout)
        expected = own[whole.index] / flatten_weights(weights, layout)[whole.index]
        sound = whole.mask & expected.isfinite()
        torch.testing.assert_close(drawn[number][sound], expected[sound], rtol=1e-4, atol=1e-5)


def test_units_come_to_canonical_scales_and_signs(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    preparation, corpus = fit_preparation(parts[0], PreparationConfig(rescale="both"), tmp_path / "corpus")
    assert all(frame.rescalings for frame in preparation.frames.values())
    preparation.save(tmp_path / "saved")
    assert Preparation.open(tmp_path / "saved").frames.keys() == preparation.frames.keys()
    source = WindowSource(corpus, window=64, batch_size=4)  # whole networks
    plain, scaled = (
        source.draw(torch.Generator().manual_seed(0), Views(permuted=(False, False), spread=spread))
        for spread in (0.0, 0.5)
    )
    assert torch.equal(plain.targets[0], scaled.targets[0]) and not torch.equal(plain.targets[1], scaled.targets[1])


def test_networks_that_are_not_aligned_are_permuted_in_views(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    _, corpus = fit_preparation(parts[0], PreparationConfig(align=False), tmp_path)
    (part,) = corpus.parts
    raw = flatten_weights(parts[0].weights(0), part.frame.layout)
    assert torch.equal(part.flat[0], raw) and part.frame.reference is None
    source = WindowSource(corpus, window=99, batch_size=4)
    first, second = source.draw(torch.Generator().manual_seed(0), Views((False, True))).targets.flatten(2)
    assert not torch.equal(first, second)
    assert torch.allclose(first.sort().values, second.sort().values, atol=1e-5)


def test_the_way_into_a_frame_and_out_is_an_inverse_pair(zoo: Zoo, tmp_path: Path) -> None:
    """For an architecture that gives the frame's tensors names of its own."""
    preparation, _ = fit_preparation(zoo, PreparationConfig(), tmp_path)
    known = zoo.architectures[zoo.table["architecture"].iloc[0]]
    renamed = replace(known, shapes={f"net.{name}": shape for name, shape in known.shapes.items()})
    frame = preparation.frame_of(known)
    weights = {f"net.{name}": tensor for name, tensor in zoo.weights(0).items()}
    within = frame.to_frame(weights, renamed)
    assert list(within) == list(frame.names)
    back = frame.to_own(within, renamed)
    assert list(back) == list(renamed.shapes) and all(torch.equal(back[name], weights[name]) for name in weights)
    whole = frame.network(frame.flat(weights, renamed), renamed, frame.carried_of(weights, renamed))
    for name, tensor in weights.items():
        torch.testing.assert_close(whole[name], tensor, rtol=1e-5, atol=1e-6)
    with pytest.raises(WeightsMismatch):
        frame.to_frame(within, renamed)
