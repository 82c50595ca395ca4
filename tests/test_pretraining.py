"""Batches of several zoos, losses, presets, several processes, and what is measured during and after pre-training."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tools import TINY_SANE, TINY_TRAINING, Fitted, Stop, fresh_sane, run, train, wait_for
from weightspace.analysis.examining import SplitZoo, examine
from weightspace.analysis.fidelity import fidelity_by_layer, measure_fidelity, watch_fidelity
from weightspace.autoencoder import reconstructing
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import STATISTICS, Network
from weightspace.autoencoder.presets import SIZES, WRITING, SizeName, sized
from weightspace.autoencoder.reconstructing import PrincipalLatents
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training import devices
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.feeding import BatchQueue
from weightspace.autoencoder.training.objective import Objective, masked_mse, target_scale
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.cli.app import main
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.views import Views, WindowSource
from weightspace.errors import InputError
from weightspace.images import ImageSet
from weightspace.outputs import called_as, partial_path
from weightspace.report.card import write_card
from weightspace.tokens.patterns import positions_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.recorded_images import recorded_images
from weightspace.zoo.splitting import concatenate
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def fitted(parts: tuple[Zoo, ...], tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_preparation(parts[0], PreparationConfig(), tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def other_zoo(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Another architecture, fewer members, some with the names that the first zoo's have."""
    folder = tmp_path_factory.mktemp("zoos") / "digits-deep"
    return grow("mlp:12,6", digits, GrowConfig(members=8, epochs=1, seed=5, plan="stacked", workers=1), folder)


@pytest.fixture(scope="module")
def both(zoo: Zoo, other_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_preparation(concatenate([zoo, other_zoo]), PreparationConfig(), tmp_path_factory.mktemp("both"))


def model(fitted: Fitted, **changes: object) -> SANE:
    return fresh_sane(fitted[0], replace(TINY_SANE, **changes))  # type: ignore[arg-type]


def test_zoos_are_drawn_equally_often_until_one_has_no_members_left(both: Fitted) -> None:
    def drawn(batch_size: int, *, balance: bool) -> list[int]:
        """How many windows of networks of the second architecture three batches have."""
        source = WindowSource(both[1], window=8, batch_size=batch_size, balance=balance)
        deep = {number for number, part in enumerate(both[1].parts) if len(part.frame.layout.blocks) == 3}
        found = []
        for seed in range(3):
            chosen = source._choose(torch.Generator().manual_seed(seed))
            assert len(chosen) == len(set(chosen))
            found.append(sum(source._members[place][0] in deep for place in chosen))
        return found

    assert drawn(8, balance=True) == [4, 4, 4]
    assert drawn(24, balance=True) == [8, 8, 8]
    assert sum(drawn(16, balance=False)) < 3 * 8 * 16 / 20


def test_windows_of_networks_of_several_sizes_share_a_batch(both: Fitted) -> None:
    batch = WindowSource(both[1], window=25, batch_size=12).draw(torch.Generator().manual_seed(0), Views((False, True)))
    lengths = batch.present.sum(1)
    assert set(lengths.tolist()) == {18, 25} and batch.padded
    assert not batch.targets[:, ~batch.present].any() and not batch.mask[~batch.present].any()
    whole = Objective(model(both).network, TINY_TRAINING)(batch)
    assert torch.isfinite(whole.total)


@pytest.mark.parametrize("kind", ["batch", "token", "layer"])
def test_the_scale_of_the_loss_is_the_spread_of_the_true_weights(kind: str) -> None:
    target, mask = torch.randn(2, 3, 4, 5), torch.rand(3, 4, 5) > 0.3
    target = target * mask
    layer = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 2, 2]])
    scale = target_scale(target, mask, layer, kind)
    assert scale is not None
    for view in range(2):
        for row in range(3):
            for token in range(4):
                among = torch.zeros_like(mask)
                if kind == "token":
                    among[row, token] = True
                elif kind == "layer":
                    among[row] = (layer[row] == layer[row, token])[:, None]
                else:
                    among[:] = True
                views = target if kind == "batch" else target[view : view + 1]
                real = views[:, mask & among]
                expected = real.std(correction=0) if real.numel() else torch.tensor(0.0)
                found = scale[view, row, token, 0]
                torch.testing.assert_close(found, expected.clamp_min(0.01), rtol=1e-4, atol=1e-5)
    assert target_scale(target, mask, layer, "none") is None


def test_a_scaled_loss_does_not_depend_on_the_size_of_the_weights() -> None:
    target, mask = torch.randn(1, 2, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool)
    layer = torch.zeros(2, 3, dtype=torch.long)
    predicted = target + torch.randn_like(target)
    losses = []
    for size in (1.0, 7.0):
        scale = target_scale(size * target, mask, layer, "layer")
        losses.append(masked_mse(size * predicted, size * target, mask, scale))
    torch.testing.assert_close(losses[0], losses[1])


def test_views_can_be_noisy_targets_and_erased_tokens(fitted: Fitted) -> None:
    source = WindowSource(fitted[1], window=12, batch_size=8)

    def draw(**changes: object) -> tuple[Tensor, Tensor, Tensor]:
        batch = source.draw(torch.Generator().manual_seed(0), Views(**changes))  # type: ignore[arg-type]
        return batch.targets, batch.inputs, batch.mask

    clean, _, mask = draw()
    targets, inputs, _ = draw(noise=0.1, multiplicative=True, denoise=False)
    assert torch.equal(targets, inputs) and not torch.equal(targets, clean)
    assert 0.05 < float(((inputs - clean)[:, mask] / clean[:, mask]).std()) < 0.15
    targets, inputs, _ = draw(erase=0.5)
    gone = (inputs == 0).all(-1)
    assert torch.equal(targets, clean) and 0.2 < float(gone.float().mean()) < 0.8


def test_the_parts_of_a_batch_have_the_loss_of_the_whole(both: Fitted) -> None:
    config = replace(TINY_TRAINING, contrastive_weight=0.0, loss_scale="layer", window=25)
    source = WindowSource(both[1], window=25, batch_size=12)
    objective = Objective(model(both).network, config)
    whole = BatchQueue(source, config).draw(3)
    expected = objective(whole.batch, whole.scale)
    found = [BatchQueue(source, config, rank, 3).draw(3) for rank in range(3)]
    parts = [objective(own.batch, own.scale, own.share, own.spread) for own in found]
    for name in ("reconstruction", "statistics", "total"):
        mean = sum(getattr(part, name) for part in parts) / 3
        torch.testing.assert_close(mean, getattr(expected, name))
    assert all(own.weights == whole.weights for own in found)
    with pytest.raises(InputError, match="expected a batch that 5 processes share equally, found 12"):
        BatchQueue(source, config, 0, 5)


def test_dropout_is_drawn_anew_in_every_step_and_the_same_when_resumed(fitted: Fitted, tmp_path: Path) -> None:
    states = []
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "stopped":
            with pytest.raises(Stop):
                train(model(fitted, dropout=0.3), fitted[1], TINY_TRAINING, folder, observers=[(4, Stop(4))])
            (folder / "state.pt").unlink(missing_ok=True)
        trained = model(fitted, dropout=0.3)
        train(trained, fitted[1], TINY_TRAINING, folder, resume=True)
        states.append(trained.network.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])


@pytest.mark.parametrize(("name", "published"), [("paper", 202_539_421), ("paper-resnet", 865_050_012)])
def test_the_papers_sizes_are_the_papers(name: SizeName, published: int) -> None:
    """Parameter counts of the published models; ours have a table of chunks and statistics in and out more, and one
    norm with bias less in the projection head.
    """
    config, training, preparation = sized(name)
    width = config.model_width
    with torch.device("meta"):
        network = Network(config, preparation.token_width, window=training.window)
    count = sum(parameter.numel() for parameter in network.parameters())
    chunks, norm = config.position_limits[3] * width // 2, 60
    statistics = len(STATISTICS) * (129 + width)
    assert count == published + chunks + statistics - norm


def test_a_size_sets_what_is_not_given_and_says_so(
    zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--layers", 1, "--steps", 2, "--model-width", 16, "--heads", 2, "--no-denoise")
    status, _, said = run(
        capsys, "pretrain", zoo_folder, "--size", "medium", "--writing", *given, "--out", tmp_path / "s"
    )
    assert status == 0 and "--size medium sets" in said and "--latent-width 64" in said and "--noise 0.0" in said
    assert "--layers" not in said and "--steps" not in said
    sane = SANE.open(tmp_path / "s")
    assert (sane.config.layers, sane.config.latent_width, sane.config.linear_path) == (1, 64, True)
    assert sane.provenance.training.steps == 2 and not sane.provenance.training.denoise
    assert sane.provenance.training.statistics_weight == WRITING["statistics_weight"]
    fields = {**SANEConfig.__dataclass_fields__, **TrainConfig.__dataclass_fields__}
    fields |= PreparationConfig.__dataclass_fields__
    assert all(set(values) <= set(fields) for values in (*SIZES.values(), WRITING))
    assert sized("small") == (SANEConfig(), TrainConfig(), PreparationConfig())


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """An autoencoder that changes nothing."""
    for name in ("encode_tokens", "decode_latents"):
        monkeypatch.setattr(reconstructing, name, lambda network, sequence, layout: sequence)


@pytest.mark.usefixtures("identity")
def test_what_is_not_changed_is_all_there(sane_folder: Path, parts: tuple[Zoo, ...], digits: ImageSet) -> None:
    sane, last = SANE.open(sane_folder), parts[2].last()
    found = measure_fidelity(sane, last, digits.test)
    assert found.networks == len(last) and found.overall_r2 == pytest.approx(1) and found.agreement == 1
    assert found.original == found.reconstructed == pytest.approx(last.table["test_accuracy"].mean(), abs=1e-6)
    assert all(value == pytest.approx(1) for value in found.r2.values())
    blind = measure_fidelity(sane, last)
    assert blind.agreement == 1 and "held_out_accuracy" not in blind.row()
    for layer in fidelity_by_layer(sane, last, digits.test):
        assert layer.r2 == pytest.approx(1) and layer.reconstructed == found.original


def test_one_broken_layer_is_found(
    sane_folder: Path, parts: tuple[Zoo, ...], digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstructing, "encode_tokens", lambda network, sequence, layout: sequence)
    monkeypatch.setattr(
        reconstructing,
        "decode_latents",
        lambda network, sequence, layout: sequence * (positions_of(layout)[:, 1] != 1)[:, None],
    )
    first, second = fidelity_by_layer(SANE.open(sane_folder), parts[2].last(), digits.test)
    assert first.r2 == pytest.approx(1) and first.agreement == 1
    assert second.r2 < 0.1 and second.agreement < 0.9 and second.weights == 90
    with pytest.raises(InputError, match="expected networks to reconstruct, found none"):
        measure_fidelity(SANE.open(sane_folder), parts[2].where(lambda table: table["epoch"] > 99))


def test_fewer_latents_keep_less(sane_folder: Path, parts: tuple[Zoo, ...]) -> None:
    sane = SANE.open(sane_folder)
    components = PrincipalLatents.fit(sane, parts[0])
    latents = torch.randn(5, sane.config.latent_width)
    torch.testing.assert_close(components.first(sane.config.latent_width)(latents), latents, rtol=1e-4, atol=1e-5)
    lost = [float((components.first(count)(latents) - latents).norm()) for count in (1, 4, 7)]
    assert lost[0] > lost[1] > lost[2] > 0


def test_held_out_networks_are_watched_during_training(
    fitted: Fitted, parts: tuple[Zoo, ...], digits: ImageSet, tmp_path: Path
) -> None:
    sane = model(fitted)
    watch = watch_fidelity([(parts[1], digits.validation), (parts[2], None)])
    observers = [(20, lambda step: watch(step, sane))]
    history = train(sane, fitted[1], replace(TINY_TRAINING, steps=40), tmp_path, observers=observers)
    seen = [row for row in history if "held_out_r2" in row]
    assert [row["step"] for row in seen] == [20, 40]
    assert {"held_out_agreement", "held_out_accuracy", "held_out_reconstructed_accuracy"} <= set(seen[0])
    assert seen[1]["held_out_r2"] > seen[0]["held_out_r2"]


@pytest.mark.parametrize(
    ("width", "has", "expected"),
    [(1_000, True, torch.bfloat16), (1_000, False, torch.float32), (10, True, torch.float32)],
)
def test_large_models_take_bf16_on_processors_that_are_faster_in_it(
    width: int, has: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "faster_in_bf16", lambda: has)
    network = nn.Linear(width, width)
    with torch.no_grad(), devices.lowered_precision(TrainConfig(), torch.device("cpu"), network):
        assert network(torch.ones(1, width)).dtype == expected
    with torch.no_grad(), devices.lowered_precision(TrainConfig(precision="fp32"), torch.device("cpu"), network):
        assert network(torch.ones(1, width)).dtype == torch.float32


@pytest.mark.parametrize(
    ("has", "seconds", "expected"),
    [("avx512_bf16", 0.4, True), ("avx512_bf16", 1.7, False), ("amx_bf16", 0.9, False), ("avx512_f", 0.4, False)],
)
def test_a_processor_is_not_believed_to_be_faster_in_bf16(
    has: str, seconds: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True}, raising=False)
    monkeypatch.setattr(devices, "seconds_of_a_step", lambda kind: seconds if kind == torch.bfloat16 else 1.0)
    devices.faster_in_bf16.cache_clear()
    assert devices.faster_in_bf16() is expected
    devices.faster_in_bf16.cache_clear()


def test_a_step_is_timed_in_both_precisions() -> None:
    assert devices.seconds_of_a_step(torch.float32) > 0
    with torch.inference_mode():
        assert devices.seconds_of_a_step(torch.bfloat16) > 0


def test_a_rate_that_is_too_high_is_said_early(
    zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--steps", 30, "--model-width", 16, "--layers", 1, "--heads", 2, "--latent-width", 4, "--log-every", 5)
    status, _, said = run(capsys, "pretrain", zoo_folder, "--learning-rate", 0.03, *small, "--out", tmp_path / "high")
    assert status == 0 and "a tenth of the way, the loss is" in said and "predicting the mean has 1" in said
    assert said.count("try a lower --learning-rate than 0.03") == 1
    status, _, said = run(capsys, "pretrain", zoo_folder, *small, "--out", tmp_path / "usual")
    assert status == 0 and "predicting the mean" not in said


def test_a_training_that_diverges_stops_and_keeps_its_history(
    zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--steps", 60, "--model-width", 16, "--layers", 1, "--heads", 2, "--latent-width", 4, "--log-every", 1)
    out = tmp_path / "sane"
    wild = ("--learning-rate", 100, "--clip", 0)
    status, _, said = run(capsys, "pretrain", zoo_folder, *wild, *small, "--out", out)
    assert status == 2 and "the training diverges, lower the learning rate" in said
    history = json.loads((partial_path(out) / "history.json").read_text())
    assert str(partial_path(out) / "history.json") in said.replace("\n", "")
    assert history and len(history) < 60 and not out.exists()
    status, _, _ = run(capsys, "pretrain", zoo_folder, *small, "--out", out)  # what is left of it is in nobody's way
    assert status == 0 and not partial_path(out).exists()


def test_two_zoos_make_one_model_with_a_card(
    zoo_folder: Path, other_zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sane"
    small = "--steps 6 --model-width 16 --layers 1 --heads 2 --latent-width 4 --split 0.5 0.25 0.25".split()
    with pytest.raises(SystemExit) as end:
        main(["pretrain", str(zoo_folder), str(other_zoo.folder), "--out", str(out), *small])
    assert not end.value.code
    assert "see" in capsys.readouterr().out
    sane = SANE.open(out)
    trained, _, test = other_zoo.split(0.5, 0.25, 0.25, seed=0)
    assert sane.trained_on(other_zoo) == set(trained.members) and not sane.trained_on(test)
    assert [zoo.name for zoo in sane.provenance.zoos] == ["digits-mlp", "digits-deep"]
    card, numbers = (out / "README.md").read_text(), json.loads((out / "card.json").read_text())
    assert "digits-mlp" in card and "digits-deep" in card and "untrained SANE" in card
    assert [own["zoo"] for own in numbers["fidelity"]] == ["digits-mlp", "digits-deep"]
    assert numbers["fidelity"][0]["scored_on"] == "images"
    assert len(numbers["fidelity"][1]["layers"]) == 3 and numbers["seed"] == 0
    assert numbers["command"].endswith("--split 0.5 0.25 0.25") or numbers["command"]


def test_a_card_without_images_or_properties_says_so(sane_folder: Path, parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sane_folder, folder)
    bare = [replace(part, table=part.table.drop(columns=["test_accuracy", "generalization_gap"])) for part in parts]
    zoos = [SplitZoo("bare", bare)]
    numbers = write_card(folder, examine(SANE.open(folder), zoos), zoos)
    assert numbers["fidelity"][0]["scored_on"] == "random inputs, as no images fit"
    card = (folder / "README.md").read_text()
    assert "random inputs, as no images fit" in card and f"    {called_as()}" in card and "| – | – |" in card
    assert {row["target"] for row in numbers["reading"][0]["rows"]} == {"validation_accuracy", "epoch"}


def test_recorded_images_are_found_or_not(zoo: Zoo) -> None:
    found = recorded_images(zoo)
    assert found is not None and found.source == "digits"
    for source in ("not/here.npz", "os:getcwd"):
        assert recorded_images(replace(zoo, about={"images": {**zoo.about["images"], "source": source}})) is None
    assert recorded_images(replace(zoo, about={})) is None


SCRIPT = """
import sys
import torch
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.zoo.zoo import Zoo

torch.set_num_threads(1)
train = Zoo.open(sys.argv[1]).split(0.6, 0.2, 0.2, seed=1)[0]
small = SANEConfig(latent_width=4, model_width=16, layers=1, heads=2)
steps = TrainConfig(steps=40, window=16, batch_size=12, save_every=2)
pretrain(train, small, steps, out=sys.argv[2], existing=sys.argv[3])
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_run_goes_on_on_one_process_or_two(zoo_folder: Path, tmp_path: Path) -> None:
    """Bit for bit on one process, up to rounding on two; and two processes from the start are as good as one."""
    whole, killed, shared, two = (tmp_path / name for name in ("whole", "killed", "shared", "two"))
    script = tmp_path / "pretrain.py"
    script.write_text(SCRIPT)
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}

    def launch(*words: str | Path) -> None:
        done = subprocess.run([str(word) for word in words], env=quiet, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr

    launch(sys.executable, script, zoo_folder, whole, "refuse")
    process = subprocess.Popen([sys.executable, str(script), str(zoo_folder), str(killed), "refuse"], env=quiet)
    saved = partial_path(killed) / "state.pt"
    wait_for(saved)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert saved.exists() and not killed.exists()
    assert torch.load(saved, weights_only=True)["step"] < 40
    shutil.copytree(partial_path(killed), partial_path(shared))
    launch(sys.executable, script, zoo_folder, killed, "resume")
    launch(*LAUNCHER, script, zoo_folder, shared, "resume")
    launch(*LAUNCHER, script, zoo_folder, two, "refuse")
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(killed / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    for folder in (shared, two):
        for name, tensor in load_file(folder / "model.safetensors").items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_step_learns_the_same(zoo_folder: Path, tmp_path: Path) -> None:
    """In processes of their own, as the compiler cannot look through the shape checks of the tests."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    losses = []
    for compile in ("off", "on"):
        script, out = tmp_path / f"{compile}.py", tmp_path / compile
        script.write_text(SCRIPT.replace("save_every=2", f"compile='{compile}'"))
        words = [sys.executable, str(script), str(zoo_folder), str(out), "refuse"]
        subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
        losses.append([row["loss"] for row in json.loads((out / "history.json").read_text())])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretrain", "--out", "x"], "expected a zoo, found none"),
        (["pretrain", "ZOO", "--out", "x", "--size", "large"], "large"),
        (["pretrain", "ZOO", "--out", "x", "--erase", "2"], "expected erase"),
        (["pretrain", "ZOO", "--out", "x", "--data", "nowhere.npz"], "nowhere.npz"),
        (["pretrain", "ZOO", "ZOO", "--out", "x"], "expected different zoos, found"),
        (["pretrain", "ZOO", "--out", "x", "--observe-every", "-1"], "expected observe every to be at least 0"),
        (["embed", "SANE", "--out", "x.parquet"], "expected a zoo or networks to embed, found none"),
        (["embed", "SANE", "ZOO", "ZOO", "--out", "x"], "expected one zoo, or networks that are in none"),
        (["card", "SANE"], "expected a zoo, found none"),
    ],
)
def test_mistakes_get_one_sentence(
    words: list[str],
    sentence: str,
    zoo_folder: Path,
    sane_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"ZOO": str(zoo_folder), "SANE": str(sane_folder), "x": str(tmp_path / "x")}
    with pytest.raises(SystemExit) as end:
        main([places.get(word, word) for word in words])
    captured = capsys.readouterr()
    assert end.value.code == 2 and sentence in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_small_zoo_trains_from_python_too(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    sane = pretrain(parts[0], TINY_SANE, replace(TINY_TRAINING, loss_scale="token"), out=tmp_path / "sane")
    assert sane.provenance.final["waiting_for_batches"] < 1


def planted(folder: Path, *, broken: str = "") -> Zoo:
    """A zoo of networks with fresh batch norms and a bare number; one member may have a NaN."""
    architecture = Architecture(
        id="odd", shapes={"conv.weight": (4, 3, 3, 3), "norm.weight": (4,), "norm.bias": (4,), "scale": ()}
    )
    writer = ZooWriter(folder)
    for number in range(60):
        generator = torch.Generator().manual_seed(number)
        stack = {
            "conv.weight": torch.randn(1, 4, 3, 3, 3, generator=generator),
            "norm.weight": torch.ones(1, 4),
            "norm.bias": torch.zeros(1, 4),
            "scale": torch.randn(1, generator=generator),
        }
        if f"m{number}" == broken:
            stack["norm.bias"][0, 1] = torch.nan
        writer.add(
            architecture, stack, pd.DataFrame({"member": [f"m{number}"], "epoch": 0, "test_accuracy": number / 60})
        )
    writer.finish({})
    return Zoo.open(folder)


SMALL = "--steps 4 --model-width 16 --layers 1 --heads 2 --latent-width 4".split()


def test_a_zoo_of_odd_networks_that_cannot_be_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo = planted(tmp_path / "odd zoo")
    with pytest.raises(SystemExit) as end:
        main(["pretrain", str(zoo.folder), "--out", str(tmp_path / "sane"), *SMALL])
    assert not end.value.code, capsys.readouterr().err
    numbers = json.loads((tmp_path / "sane" / "card.json").read_text())["fidelity"][0]
    assert numbers["scored_on"] == "nothing, as the networks cannot be built"
    layers = {layer["layer"]: layer["r2"] for layer in numbers["layers"]}
    assert layers["norm.weight"] is None and layers["conv.weight"] < 1 and -99 < numbers["r2"] < 1


def test_a_broken_member_of_any_part_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = planted(tmp_path / "zoo").split(0.7, 0.15, 0.15, seed=0)
    for number, part in enumerate(parts):
        zoo = planted(tmp_path / f"broken-{number}", broken=part.members[0])
        with pytest.raises(SystemExit) as end:
            main(["pretrain", str(zoo.folder), "--out", str(tmp_path / "sane"), *SMALL])
        error = capsys.readouterr().err
        assert end.value.code == 2 and f"first in {part.members[0]} at epoch 0" in error
        assert not (tmp_path / "sane").exists()


def test_a_card_can_be_written_again(sane_folder: Path, zoo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sane_folder, folder)
    with pytest.raises(SystemExit) as end:
        main(["card", str(folder), str(zoo_folder), "--split", "0.6", "0.2", "0.2", "--seed", "1"])
    assert not end.value.code and "digits-mlp" in (folder / "README.md").read_text()


def test_zoos_in_folders_of_one_name_are_told_apart(zoo_folder: Path, other_zoo: Zoo, tmp_path: Path) -> None:
    places = (tmp_path / "a" / "zoo", tmp_path / "b" / "zoo")
    for place, source in zip(places, (zoo_folder, other_zoo.folder), strict=True):
        shutil.copytree(source, place)
    both = concatenate([Zoo.open(place) for place in places])
    sane = pretrain(both, TINY_SANE, replace(TINY_TRAINING, steps=1), out=tmp_path / "sane")
    for place in places:
        zoo = Zoo.open(place)
        assert sane.trained_on(zoo) == set(zoo.members)
    (tmp_path / "link").symlink_to(places[0])
    with pytest.raises(InputError, match="expected different zoos, found .* more than once"):
        concatenate([Zoo.open(places[0]), Zoo.open(tmp_path / "link")])


def test_what_observers_return_can_be_resumed(fitted: Fitted, tmp_path: Path) -> None:
    def stop(step: int) -> dict[str, float]:
        if step == 8:
            raise RuntimeError
        return {"seen": np.float64(step)}

    with pytest.raises(RuntimeError):
        train(model(fitted), fitted[1], TINY_TRAINING, tmp_path, observers=[(4, stop)])
    history = train(model(fitted), fitted[1], TINY_TRAINING, tmp_path, resume=True)
    assert [row["step"] for row in history] == [2, 4, 6, 8, 10, 12] and history[1]["seen"] == 4
