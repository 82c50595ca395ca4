"""Averages of networks: laws of matching and repairing, what is chosen by what, refusals, the command line."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from garden import GARDEN, planted
from test_responses import questions_for
from tools import refused, run
from weightspace.corpus.matching_units import match_units
from weightspace.errors import InputError
from weightspace.generation.config import MergeConfig
from weightspace.generation.judging import APART, Judge, Merge
from weightspace.generation.merging import layers_of, merge, merge_networks
from weightspace.images import Images, ImageSet, open_images
from weightspace.linear_paths import average, interpolate
from weightspace.responses.asking import Asker
from weightspace.responses.questions import draw_questions, given_questions
from weightspace.responses.repairing import repair, unit_moments
from weightspace.supervised import FitConfig, fit_one
from weightspace.symmetry.axes import Symmetry, permute, random_permutations
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.weights.files import open_weights, write_weights
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import build_module
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.recorded_images import images_for_networks
from weightspace.zoo.zoo import Zoo

# Whose units are not told apart by what they do: shuffled channels, and positions that are mixed as channels are.
UNSEEN = ("channel-shuffle", "MLP-Mixer")


def net(width: int = 48, *, norm: bool = False) -> nn.Module:
    middle = [nn.BatchNorm1d(width)] if norm else []
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *middle, nn.ReLU(), nn.Linear(width, 10))


def trained(digits: ImageSet, seed: int, *, norm: bool = False, epochs: int = 8) -> Weights:
    torch.manual_seed(seed)
    module = net(norm=norm)
    for _ in fit_one(module, digits.train, FitConfig(epochs=epochs), learning_rate=3e-3, weight_decay=0.0, seed=seed):
        pass
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def three(digits: ImageSet) -> dict[str, Weights]:
    return {f"seed {seed}": trained(digits, seed) for seed in range(3)}


@pytest.fixture(scope="module")
def symmetry() -> Symmetry:
    return trace_symmetry(net().eval(), torch.zeros(2, 1, 8, 8))


def asker_for(digits: ImageSet | None = None, *, norm: bool = False) -> Asker:
    questions = given_questions((digits.train.inputs[:512],)) if digits is not None else draw_questions([(1, 1, 8, 8)])
    return Asker(net(norm=norm).eval(), questions)


def merged(parts: Mapping[str, Weights], symmetry: Symmetry, digits: ImageSet | None, **options: object) -> Merge:
    config = MergeConfig(**options)  # type: ignore[arg-type]
    return merge(parts, net(), symmetry, asker_for(digits), digits, config)


@pytest.mark.parametrize("name", GARDEN)
def test_networks_of_the_garden_are_matched_and_repaired(name: str) -> None:
    """Units are found again by what they do; what nothing was taken from stays; what is set has the moments it should.

    Slopes, embeddings and norms over several axes scale no unit by a row, whatever their shapes.
    """
    module, example, traced = planted(name)
    asker, weights, symmetry = Asker(module, questions_for(example)), module.state_dict(), traced.symmetry
    moved = permute(weights, symmetry, random_permutations(symmetry, torch.Generator().manual_seed(0)))
    orders = match_units(asker, moved, weights, symmetry)
    sizes = {group: list(range(size)) for group, size in symmetry.groups.items()}
    assert {group: sorted(order.tolist()) for group, order in orders.items()} == sizes
    back = permute(moved, symmetry, orders)
    assert name in UNSEEN or all(torch.equal(back[key], tensor) for key, tensor in weights.items())

    same = repair(asker, weights, [weights, weights]).weights
    for key, tensor in weights.items():
        torch.testing.assert_close(same[key], tensor, rtol=1e-5, atol=1e-6, equal_nan=True)

    parts = [weights, disturbed(weights)]
    mean = average(parts)
    repaired = repair(asker, mean, parts).weights
    changed = {key for key, tensor in repaired.items() if not torch.equal(tensor, mean[key])}
    wanted, after = [unit_moments(asker, part) for part in parts], unit_moments(asker, repaired)
    for place in asker.places:
        weight, bias = asker.written_by(place)
        if weight not in changed:
            continue
        spread = torch.stack([part[place.name].spread for part in wanted]).mean(0)
        alive = after[place.name].spread > 0
        torch.testing.assert_close(after[place.name].spread[alive], spread[alive], rtol=2e-2, atol=1e-3)
        if bias is not None:
            center = torch.stack([part[place.name].mean for part in wanted]).mean(0)
            torch.testing.assert_close(after[place.name].mean[alive], center[alive], rtol=2e-2, atol=1e-2)


def disturbed(weights: Weights) -> Weights:
    """Another network, not far away."""
    generator = torch.Generator().manual_seed(3)
    return {
        key: own + 0.3 * own.std(correction=0) * torch.randn(own.shape, generator=generator)
        if own.is_floating_point() and not key.endswith("running_var")
        else own
        for key, own in weights.items()
    }


@pytest.mark.parametrize("norm", [False, True])
def test_repaired_units_have_the_mean_and_the_variance_of_the_parts(digits: ImageSet, norm: bool) -> None:
    parts = [trained(digits, seed, norm=norm, epochs=2) for seed in range(2)]
    asker = asker_for(digits, norm=norm)
    mean = average(parts)
    before, after = (unit_moments(asker, own) for own in (mean, repair(asker, mean, parts).weights))
    wanted = [unit_moments(asker, part) for part in parts]
    hidden, output = list(wanted[0])
    target = torch.stack([part[hidden].spread for part in wanted]).mean(0)
    assert float((before[hidden].spread / target).mean()) < 0.8
    torch.testing.assert_close(after[hidden].spread, target, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        after[hidden].mean, torch.stack([part[hidden].mean for part in wanted]).mean(0), rtol=1e-3, atol=1e-4
    )
    # What the network returns is left to its own weights: its last layer is the average's.
    assert output != hidden
    last = [name for name in mean if name.startswith(output)]
    assert all(torch.equal(repair(asker, mean, parts).weights[name], mean[name]) for name in last)


def test_dead_units_stay_dead_and_tied_weights_as_they_are() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    dead = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    dead["0.weight"][0] = 0.0
    asker = Asker(module, draw_questions([(1, 4)]))
    repaired = repair(asker, dead, [module.state_dict()]).weights
    assert repaired["0.weight"][0].abs().sum() == 0 and all(own.isfinite().all() for own in repaired.values())


def test_an_average_keeps_the_precision_and_what_is_no_number_to_average() -> None:
    first = {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16), "n": torch.tensor(3)}
    second = {"w": torch.tensor([3.0, 5.0], dtype=torch.bfloat16), "n": torch.tensor(8)}
    mean = average([first, second, second])
    assert mean["w"].dtype == torch.bfloat16 and mean["w"].tolist() == [pytest.approx(7 / 3, rel=1e-2), 4.0]
    assert int(mean["n"]) == 3 and mean["n"] is not first["n"]
    with pytest.raises(InputError, match="do not fit"):
        average([first, {"w": torch.zeros(3), "n": torch.tensor(0)}])
    with pytest.raises(InputError, match="found none"):
        average([])


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_a_permuted_copy_averages_to_the_network_itself(
    digits: ImageSet, three: dict[str, Weights], symmetry: Symmetry, by: str
) -> None:
    one = three["seed 0"]
    copy = permute(one, symmetry, random_permutations(symmetry, torch.Generator().manual_seed(1)))
    result = merged({"one": one, "copy": copy}, symmetry, digits, by=by)
    assert not result.worse and result.chosen.score.accuracy == result.part.score.accuracy
    for name, tensor in one.items():
        torch.testing.assert_close(result.weights[name], tensor, rtol=1e-4, atol=1e-5)
    plain = merged({"one": one, "copy": copy}, symmetry, digits, by="names", repair=False)
    assert (plain.chosen.barrier or 0) > 0.05 > (result.chosen.barrier or 0)


def test_alignment_repair_and_the_ensemble_are_in_one_table(
    digits: ImageSet, three: dict[str, Weights], symmetry: Symmetry
) -> None:
    result = merged(three, symmetry, digits)
    barriers = {row.what: row.barrier or 0.0 for row in result.rows}
    for way in ("weights", "activations"):
        assert barriers[f"average, aligned by {way}"] < 0.6 * barriers["average, as they are"]
    assert barriers["average, as they are, repaired"] < barriers["average, as they are"]
    assert {row.kind for row in result.rows} == {"part", "ensemble", "average", "soup"}
    assert [row.what for row in result.rows[:4]] == [*three, "ensemble"]
    losses = [row.score.loss or 0.0 for row in result.rows[:3]]
    whole = next(row for row in result.rows if row.what == "average, as they are")
    assert whole.barrier == pytest.approx((whole.score.loss or 0.0) - sum(losses) / 3)


def test_nothing_is_chosen_by_test_images(digits: ImageSet, three: dict[str, Weights], symmetry: Symmetry) -> None:
    shuffled = digits._replace(test=Images(digits.test.inputs, (digits.test.labels + 1) % 10))
    first, second = (merged(three, symmetry, images, per="layer", data="digits") for images in (digits, shuffled))
    assert first.chosen.what == second.chosen.what
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert first.chosen.score.test_accuracy != second.chosen.score.test_accuracy


def test_a_soup_leaves_out_what_would_spoil_it(digits: ImageSet, three: dict[str, Weights], symmetry: Symmetry) -> None:
    parent = three["seed 0"]
    tuned = []
    for seed in (11, 12):
        module = net()
        module.load_state_dict(parent)
        fit = FitConfig(epochs=2)
        for _ in fit_one(module, digits.train, fit, learning_rate=1e-3, weight_decay=0.0, seed=seed):
            pass
        tuned.append({name: tensor.detach().clone() for name, tensor in module.state_dict().items()})
    broken = {name: tensor * 0.01 + torch.randn_like(tensor) for name, tensor in parent.items()}
    result = merged({"a": tuned[0], "broken": broken, "b": tuned[1]}, symmetry, digits, by="names")
    (soup,) = [row.what for row in result.rows if row.kind == "soup"]
    assert "broken" not in soup
    assert not result.worse or soup.startswith("soup: ")
    two = merged({"a": tuned[0], "b": tuned[1]}, symmetry, digits, by="names")
    assert not [row for row in two.rows if row.kind == "soup"]


def test_layers_are_averaged_only_where_images_gain(
    digits: ImageSet, three: dict[str, Weights], symmetry: Symmetry
) -> None:
    good = three["seed 0"]
    # One network's first layer is spoiled, the other's last: averaged layer by layer the spoiled one is left out.
    spoiled = {name: tensor * (40.0 if name == "3.weight" else 1.0) for name, tensor in good.items()}
    result = merged({"good": good, "spoiled": spoiled}, symmetry, digits, by="names", per="layer", data="digits")
    layers = next(row for row in result.rows if row.kind == "layers")
    assert (layers.score.accuracy or 0) >= (result.part.score.accuracy or 0)
    assert layers_of(good, {}) == [["1.weight", "1.bias"], ["3.weight", "3.bias"]]


def test_batch_norms_are_set_anew_with_images_and_said_to_be_averaged_without(digits: ImageSet) -> None:
    parts = {f"{seed}": trained(digits, seed, norm=True, epochs=3) for seed in range(2)}
    module = net(norm=True)
    axes = trace_symmetry(module.eval(), torch.zeros(2, 1, 8, 8))
    result = merge(parts, module, axes, asker_for(digits, norm=True), digits, MergeConfig(by="weights", repair=False))
    assert [row.what for row in result.rows if row.kind == "average"] == [
        "average, aligned by weights",
        "average, aligned by weights, batch norms set anew",
    ]
    anew = merge(parts, module, axes, asker_for(norm=True), None, MergeConfig(by="weights"))
    assert any("keep the average of their statistics" in note for note in anew.notes)
    module.load_state_dict(result.weights)


def test_without_images_agreement_is_called_what_it_is(three: dict[str, Weights], symmetry: Symmetry) -> None:
    one = three["seed 0"]
    same = merged({"one": one, "twin": {name: own.clone() for name, own in one.items()}}, symmetry, None)
    assert same.chosen.score == same.chosen.score._replace(agreement=1.0) and same.chosen.barrier == 0.0
    assert not same.worse and "only images tell" in same.describe()
    apart = merged({"one": one, "two": three["seed 1"]}, symmetry, None, by="names", repair=False)
    assert apart.worse and (apart.chosen.barrier or 0) > APART and "too unlike" in apart.describe()
    assert all(row.score.accuracy is None for row in apart.rows)


def test_refusals(three: dict[str, Weights], symmetry: Symmetry, digits: ImageSet) -> None:
    with pytest.raises(InputError, match="two or more networks to merge, found 1"):
        merged({"one": three["seed 0"]}, symmetry, digits)
    with pytest.raises(InputError, match="to choose layers by, found none"):
        MergeConfig(per="layer")
    still = symmetry.without(list(symmetry.groups), "by hand")
    with pytest.raises(InputError, match="units that may change places, found none"):
        merged(three, still, digits, by="weights")
    unmoved = merged(three, still, digits)
    assert next(row.what for row in unmoved.rows if row.kind == "average") == "average, as they are"
    assert any("nothing is known to be permutable" in note for note in unmoved.notes)


def test_complex_numbers_are_averaged_too() -> None:
    one, two = ({"w": torch.full((3,), value, dtype=torch.complex64)} for value in (1 + 2j, 3 - 4j))
    assert average([one, two])["w"].tolist() == [2 - 1j] * 3
    assert interpolate(one, two, 0.25)["w"].tolist() == [1.5 + 0.5j] * 3


def test_parts_that_answer_all_alike_tell_nothing(three: dict[str, Weights], symmetry: Symmetry) -> None:
    always = [{**own, "3.weight": 0 * three["seed 0"]["3.weight"]} for own in three.values()][:2]
    for own, shift in zip(always, (5.0, 9.0), strict=True):
        own["3.bias"] = torch.eye(10)[4] * shift
    said = merged({"one": always[0], "two": always[1]}, symmetry, None)
    assert not said.tells and said.worse and "which tells nothing" in said.describe()
    # What overflows is like nothing, though the first of nothing but NaN is a winner of a kind.
    huge = {name: own * 1e30 for name, own in three["seed 0"].items()}
    mad = merged({"one": three["seed 1"], "huge": huge}, symmetry, None, by="names", repair=False)
    assert mad.worse and mad.rows[1].score.agreement == 0


def test_a_part_agrees_with_the_others_and_not_with_itself(three: dict[str, Weights], symmetry: Symmetry) -> None:
    pair = {name: three[name] for name in ("seed 0", "seed 1")}
    asker, rows = asker_for(), merged(pair, symmetry, None).rows
    answers = [asker.ask(own, keep=True).returned[0].argmax(-1) for own in pair.values()]
    alike = float((answers[0] == answers[1]).float().mean())
    assert rows[0].score.agreement == rows[1].score.agreement == pytest.approx(alike)
    assert alike < 1


def test_images_are_drawn_from_all_of_a_sorted_file(digits: ImageSet, three: dict[str, Weights]) -> None:
    def ordered(images: Images) -> Images:
        order = images.labels.argsort(stable=True)
        return Images(images.inputs[order], images.labels[order])

    by_class = digits._replace(validation=ordered(digits.validation), test=ordered(digits.test))
    judge = Judge(net(), asker_for(), list(three.values()), by_class, 40)
    # A network that always says 0 would be right for all of the first images.
    blind = judge.score({name: own * 0 for name, own in three["seed 0"].items()})
    assert max(blind.accuracy or 0, blind.test_accuracy or 0) < 0.5
    assert all((judge.score(own).accuracy or 0) > 0.7 for own in three.values())


def test_the_barrier_of_a_soup_is_over_what_is_in_it(
    digits: ImageSet, three: dict[str, Weights], symmetry: Symmetry
) -> None:
    good = three["seed 0"]
    near = {name: own + 0.0002 * torch.randn_like(own) for name, own in good.items()}
    broken = {name: 40 * torch.randn_like(own) for name, own in good.items()}
    rows = merged({"good": good, "near": near, "broken": broken}, symmetry, digits, by="names").rows
    (soup,) = [row for row in rows if row.kind == "soup"]
    assert soup.what.startswith("soup of 2") and abs(soup.barrier or 0) < 0.05
    flipped = {name: -own for name, own in broken.items()}
    alone = merged({"good": good, "broken": broken, "worse": flipped}, symmetry, digits, by="names").rows
    assert [row.barrier for row in alone if row.kind == "soup"] == [None]


class Tied(nn.Module):
    """Two layers of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight

    def forward(self, images: Tensor) -> Tensor:
        """Scores of 8 x 8 images."""
        return self.c(self.b(self.a(images.flatten(1)).relu()).relu())


def test_tied_tensors_stay_tied_layer_by_layer(digits: ImageSet) -> None:
    module, parts = Tied(), {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        own = Tied()
        for _ in fit_one(own, digits.train, FitConfig(epochs=1), learning_rate=1e-3, weight_decay=0.0, seed=seed):
            pass
        parts[str(seed)] = {name: tensor.detach().clone() for name, tensor in own.state_dict().items()}
    axes = trace_symmetry(module.eval(), torch.zeros(2, 1, 8, 8))
    asker = Asker(module, draw_questions([(1, 1, 8, 8)]))
    config = MergeConfig(by="names", per="layer", data="digits", repair=False)
    result = merge(parts, module, axes, asker, digits, config)
    assert torch.equal(result.weights["a.weight"], result.weights["b.weight"])
    assert layers_of(parts["1"], {"b.weight": "a.weight"})[0] == ["a.weight", "a.bias", "b.weight"]


def test_members_are_judged_by_what_their_zoo_kept_for_it(tmp_path: Path) -> None:
    few = open_images("digits", limits=(300, None))
    config = GrowConfig(members=2, epochs=1, plan="stacked", workers=1)
    zoo = grow("mlp:4", few, config, tmp_path / "zoo")
    names = [f"{zoo.folder}:{member}" for member in zoo.members]
    architecture = next(iter(zoo.architectures.values()))
    images = images_for_networks(names, "digits", architecture)
    assert torch.equal(images.validation.inputs, few.validation.inputs)
    assert len(images_for_networks([], "digits", architecture).validation.labels) > len(few.validation.labels)
    other = grow("mlp:4", open_images("digits", limits=(400, None)), config, tmp_path / "other")
    with pytest.raises(InputError, match="members of zoos that divide digits alike, found"):
        images_for_networks([names[0], f"{other.folder}:{other.members[0]}"], "digits", architecture)


def test_what_returns_no_scores_of_classes_is_refused_for_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_nets.py").write_text(
        "from torch import nn\n"
        "def few():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 3))\n"
        "class Pair(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.a = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        y = self.a(x.flatten(1))\n        return y, y\n"
        "def maps():\n    return nn.Conv2d(1, 10, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, said in (("few", "at most 3 classes"), ("Pair", "found a tuple"), ("maps", "found [2, 10, 6, 6]")):
        module = build_module(f"{tmp_path / 'odd_nets.py'}:{name}")
        for number in range(2):
            moved = {key: own + 0.1 * number for key, own in module.state_dict().items()}
            write_weights(tmp_path / f"{name}{number}.safetensors", moved)
        words = (
            "merge",
            f"{name}0.safetensors",
            f"{name}1.safetensors",
            "--architecture",
            f"odd_nets.py:{name}",
            "--data",
            "digits",
        )
        assert said in refused(capsys, *words, "--example", "2,1,8,8", "--out", tmp_path / "out.pt")


def test_inputs_are_never_written_over(
    capsys: pytest.CaptureFixture[str], three: dict[str, Weights], tmp_path: Path
) -> None:
    several, folder = tmp_path / "several.pt", tmp_path / "model"
    torch.save({"model": three["seed 0"], "ema": three["seed 1"]}, several)
    folder.mkdir()
    write_weights(folder / "model.safetensors", three["seed 0"])
    write_weights(tmp_path / "plain.safetensors", three["seed 1"])
    anyway = ("--anyway", "--force")
    before = several.read_bytes()
    said = refused(capsys, "merge", f"{several}:model", f"{several}:ema", "--out", several, *anyway)
    assert "apart from the inputs" in said and several.read_bytes() == before
    within = folder / "new.safetensors"
    assert "which is in" in refused(capsys, "merge", folder, tmp_path / "plain.safetensors", "--out", within, *anyway)
    both = ("merge", f"{several}:model", f"{several}:ema", "--anyway", "--out", tmp_path / "mean.safetensors")
    assert run(capsys, *both)[0] == 0
    for again in (f"{several}:model", f"{tmp_path}/./several.pt:model"):
        said = refused(capsys, "merge", f"{several}:model", again, f"{several}:ema", "--out", tmp_path / "x.pt")
        assert "expected different networks to merge" in said


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".ckpt", ""])
def test_files_are_what_their_endings_say(
    capsys: pytest.CaptureFixture[str], three: dict[str, Weights], tmp_path: Path, ending: str
) -> None:
    files = [tmp_path / f"{number}.pt" for number in range(2)]
    for file, network in zip(files, three.values(), strict=False):
        write_weights(file, network)
        assert set(torch.load(file, weights_only=True)) == set(network)
    out = tmp_path / f"mean{ending}"
    assert run(capsys, "merge", *files, "--anyway", "--out", out)[0] == 0
    assert torch.equal(open_weights(out).read()["1.bias"], average(list(three.values())[:2])["1.bias"])
    if ending in ("", ".pt"):
        net().load_state_dict(torch.load(out, weights_only=True))
    said = refused(capsys, "merge", *files, "--anyway", "--out", tmp_path / "mean.npz")
    assert "expected an --out that ends in .safetensors" in said


def test_what_reading_left_aside_is_said(
    capsys: pytest.CaptureFixture[str], three: dict[str, Weights], tmp_path: Path
) -> None:
    for step, (name, network) in enumerate(
        {"a": three["seed 0"], "b": {key: own.half() for key, own in three["seed 1"].items()}}.items()
    ):
        write_weights(tmp_path / f"{name}.safetensors", {**network, "step": torch.tensor([step])})
    words = ("merge", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--anyway", "--out")
    text = run(capsys, *words, tmp_path / "m.safetensors")[1]
    assert "whole numbers are the first network's where they differ: step" in text
    assert "in the precision of the first network: float32" in text and text.count("it was not run") == 1
    refusal = refused(capsys, *words, tmp_path / "n.safetensors", "--by", "weights")
    assert "to match weights, found files alone" in refusal
    assert "to match activations" in refused(capsys, *words, tmp_path / "n.safetensors", "--by", "activations")
    assert "at least 2 images" in refused(capsys, *words, tmp_path / "n.safetensors", "--recalibrate", 1)
    hand = tmp_path / "symmetry.json"
    hand.write_text(json.dumps(trace_symmetry(net(5).eval(), torch.zeros(2, 1, 8, 8)).to_json()))
    said = refused(capsys, *words, tmp_path / "n.safetensors", "--symmetry", hand)
    assert "expected a symmetry of these networks in" in said


def members(zoo: Zoo, activation: str, count: int) -> list[str]:
    last = zoo.last().table
    chosen = last["architecture"].str.endswith(activation)
    return [f"{zoo.folder}:{member}" for member in last["member"][chosen].head(count)]


def test_two_architectures_are_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str], zoo: Zoo, tmp_path: Path
) -> None:
    kinds = sorted({name.rpartition("-")[2] for name in zoo.architectures})
    first, second = (members(zoo, kind, 1)[0] for kind in kinds[:2])
    said = refused(capsys, "merge", first, second, "--out", tmp_path / "m.safetensors")
    assert "equal numbers compute something else in each" in said
    wide = tmp_path / "wide.safetensors"
    write_weights(wide, net(5).state_dict())
    narrow = tmp_path / "narrow.safetensors"
    write_weights(narrow, net(4).state_dict())
    said = refused(capsys, "merge", wide, narrow, "--out", tmp_path / "m.safetensors")
    assert "networks of one architecture to average" in said and "misshapen" in said and "1.weight" in said
    assert "found narrow" not in refused(capsys, "merge", first, "--out", tmp_path / "m.safetensors")
    assert "not that of" in refused(capsys, "merge", first, wide, "--out", tmp_path / "m.safetensors")


def test_the_command_writes_only_what_is_no_worse(capsys: pytest.CaptureFixture[str], zoo: Zoo, tmp_path: Path) -> None:
    kind = sorted({name.rpartition("-")[2] for name in zoo.architectures})[0]
    names, out = members(zoo, kind, 3), tmp_path / "m.safetensors"
    words = ("merge", *names, "--data", "digits", "--by", "names", "--out", out)
    status, text, _ = run(capsys, *words)
    assert status == 1 and not out.exists() and "nothing was written: --anyway writes it" in text
    assert "ensemble" in text and "worse than the best part" in text
    status, text, _ = run(capsys, *words, "--anyway", "--json")
    told = json.loads(text)
    assert status == 0 and told["written"] and told["worse"] and {row["kind"] for row in told["rows"]} >= {"soup"}
    zoo.architectures[str(zoo.table["architecture"].iloc[0])].build().load_state_dict(open_weights(out).read())
    status, text, _ = run(capsys, "merge", names[0], names[1], "--out", tmp_path / "n.safetensors")
    assert status in (0, 1) and "only images tell" in text
    assert (tmp_path / "n.safetensors").exists() == (status == 0)


def test_files_alone_are_averaged_only_anyway(
    capsys: pytest.CaptureFixture[str], three: dict[str, Weights], symmetry: Symmetry, tmp_path: Path
) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    one = three["seed 0"]
    copy = permute(one, symmetry, random_permutations(symmetry, torch.Generator().manual_seed(1)))
    for file, network in zip(files, (one, copy), strict=True):
        write_weights(file, network)
    out = tmp_path / "m.safetensors"
    words = ("merge", *files, "--out", out)
    assert "which --anyway averages unseen" in refused(capsys, *words)
    assert "to judge by images" in refused(capsys, *words, "--data", "digits", "--anyway")
    assert "it was not run" in run(capsys, *words, "--anyway")[1]
    plain: Tensor = open_weights(out).read()["1.weight"]
    torch.testing.assert_close(plain, (one["1.weight"] + copy["1.weight"]) / 2)
    hand = tmp_path / "symmetry.json"
    hand.write_text(json.dumps(symmetry.to_json()))
    assert run(capsys, *words, "--anyway", "--symmetry", hand, "--force")[0] == 0
    torch.testing.assert_close(open_weights(out).read()["1.weight"], one["1.weight"])
    assert "another --out" in refused(capsys, *words, "--anyway")
    assert "found" in refused(capsys, "merge", files[0], files[0], "--out", tmp_path / "x.safetensors")


def test_align_by_activations(capsys: pytest.CaptureFixture[str], zoo: Zoo, tmp_path: Path) -> None:
    kind = sorted({name.rpartition("-")[2] for name in zoo.architectures})[0]
    first, second = members(zoo, kind, 2)
    words = ("align", first, second, "--by", "activations", "--out", tmp_path / "a.safetensors", "--json")
    told = json.loads(run(capsys, *words)[1])
    assert told["moved"] > 0
    with_images = json.loads(run(capsys, *words, "--ask-with", "digits", "--force")[1])
    assert with_images["moved"] > 0
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for file in files:
        write_weights(file, net(5).state_dict())
    symmetric = tmp_path / "s.json"
    symmetric.write_text(json.dumps(trace_symmetry(net(5).eval(), torch.zeros(2, 1, 8, 8)).to_json()))
    by_hand = ("align", *files, "--by", "activations", "--symmetry", symmetric, "--out", tmp_path / "b.safetensors")
    assert "to match activations, found files alone" in refused(capsys, *by_hand)


def test_networks_by_name_are_merged_as_the_command_does(zoo: Zoo) -> None:
    kind = sorted({name.rpartition("-")[2] for name in zoo.architectures})[0]
    names = members(zoo, kind, 2)
    result = merge_networks(names, MergeConfig(data="digits", images=100))
    parts = [row.what for row in result.rows[:2]]
    assert result.judged_by == "100 validation images" and parts == [Path(name).name for name in names]
