"""Distilling: its losses, its windows, its folder."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tools import Stop, same_weights, with_window
from weightspace.analysis.fidelity import measure_fidelity
from weightspace.autoencoder.coding import WindowCoder, decode_latents, encode_tokens
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.reconstructing import LatentDescent, encode_by_function, stack_tokens
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.autoencoder.training.distilling import (
    DistillObjective,
    StepNetworks,
    distill,
    draw_networks,
    group_networks,
)
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.corpus.corpus import Corpus, build_corpus
from weightspace.errors import InputError
from weightspace.images import ImageSet
from weightspace.randomness import derive_generator
from weightspace.supervised import answer_stack, predict_stack, stack_weights
from weightspace.zoo.zoo import Zoo

TINY = DistillConfig(steps=6, networks=4, queries=8, mixed=0.5, save_every=2, log_every=2)


@pytest.fixture
def sane(sane_folder: Path) -> SANE:
    return SANE.open(sane_folder)


@pytest.fixture
def corpus(sane: SANE, parts: tuple[Zoo, ...], tmp_path: Path) -> Corpus:
    return build_corpus(parts[0], sane.preparation, tmp_path / "corpus")


def draw(sane: SANE, corpus: Corpus, parts: tuple[Zoo, ...], images: ImageSet, config: DistillConfig) -> StepNetworks:
    groups = group_networks(corpus, parts[0].architectures, images.train.inputs.shape[1:])
    return draw_networks(groups, images.train.inputs, sane.network, config, derive_generator(0))


def test_stacked_tokens_compute_what_the_networks_do(
    sane: SANE, corpus: Corpus, parts: tuple[Zoo, ...], digits: ImageSet
) -> None:
    drawn = draw(sane, corpus, parts, digits, TINY)
    group = drawn.group
    stack = stack_tokens(drawn.tokens, group.part.frame, group.architecture)
    prepared = [sane.preparation.restore(own, group.architecture, {}) for own in drawn.tokens]
    expected = predict_stack(group.module, stack_weights(prepared), drawn.queries)
    torch.testing.assert_close(answer_stack(group.module, stack, drawn.queries), expected, rtol=1e-4, atol=1e-4)


def test_a_perfect_reconstruction_has_no_loss_but_that_of_its_mixtures(
    sane: SANE, corpus: Corpus, parts: tuple[Zoo, ...], digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WindowCoder, "encode", lambda self, tokens, _: torch.cat([tokens, tokens[..., :8]], dim=-1))
    monkeypatch.setattr(WindowCoder, "decode", lambda self, latents: latents)
    exact = replace(TINY, mixed=0.0, latent_noise=0.0)
    drawn = draw(sane, corpus, parts, digits, exact)
    assert (drawn.share == 1).all()
    losses = DistillObjective(sane.network)(drawn._replace(noise=torch.zeros(1)))
    assert losses.reconstruction < 1e-9 and abs(losses.distillation) < 1e-5 and losses.agreement == 1
    mixed = draw(sane, corpus, parts, digits, replace(exact, mixed=1.0))
    assert (mixed.share < 1).all()
    losses = DistillObjective(sane.network)(mixed._replace(noise=torch.zeros(1)))
    assert losses.reconstruction == 0 and losses.distillation > 1e-3, "mixed weights do not compute mixed answers"


def test_windows_without_gradient_decode_alike(sane: SANE, parts: tuple[Zoo, ...]) -> None:
    architecture = parts[0].architectures["mlp-64-8-10-tanh"]
    prepared = sane.preparation.prepare(parts[0].where(architecture=architecture.id).weights(0), architecture)
    layout = prepared.frame.layout
    sane = with_window(sane, 4)  # several haloed windows
    latents = encode_tokens(sane.network, prepared.tokens[None], layout)
    coder = WindowCoder(sane.network, layout, learned=torch.tensor([1]))
    own = latents.clone().requires_grad_()
    decoded = coder.decode(own)
    torch.testing.assert_close(decoded.detach(), decode_latents(sane.network, latents, layout), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(coder.encode(prepared.tokens[None]).detach(), latents, rtol=1e-4, atol=1e-5)
    summaries = encode_tokens(sane.network, prepared.tokens[None], layout, summaries=True)
    both = WindowCoder(sane.network, layout, output="both").encode(prepared.tokens[None]).detach()
    torch.testing.assert_close(both, torch.cat([latents, summaries], dim=-1), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(decoded.sum(), own)
    seen = gradient[0].abs().sum(-1) > 0
    assert seen.any() and not seen.all(), "only the chosen window and what it sees has a gradient"


def test_distilling_brings_functions_back(parts: tuple[Zoo, ...], digits: ImageSet, tmp_path: Path) -> None:
    shape = SANEConfig(latent_width=12, model_width=32, layers=1, heads=2, linear_path=True)
    pretrain(parts[0], shape, TrainConfig(steps=30, contrastive_weight=0.0), out=tmp_path / "sane")
    before = measure_fidelity(SANE.open(tmp_path / "sane"), parts[0].last(), digits.test)
    config = DistillConfig(steps=60, networks=12, mixed=0.0, latent_noise=0.05, learning_rate=3e-3)
    distilled = distill(tmp_path / "sane", parts[0], digits.train, config, out=tmp_path / "distilled")
    after = measure_fidelity(distilled, parts[0].last(), digits.test)
    assert after.agreement > before.agreement + 0.02
    closely = measure_fidelity(distilled, parts[0].last(), digits.test, descent=LatentDescent(digits.train, steps=40))
    assert closely.agreement > after.agreement + 0.02, "gradient steps on latents bring back more"
    assert closely.latents_per_weight == after.latents_per_weight
    assert distilled.provenance.distilling == replace(config, statistics_weight=0.3) and SANE.open(
        tmp_path / "distilled"
    ).trained_on(parts[0])


def test_close_encoding_refuses_what_it_cannot_ask(sane_folder: Path, parts: tuple[Zoo, ...], digits: ImageSet) -> None:
    sane, held_out = SANE.open(sane_folder), parts[2].last()
    small = digits.train._replace(inputs=digits.train.inputs[:, :, :4, :4])
    with pytest.raises(InputError, match="expected images of shape"):
        measure_fidelity(sane, held_out, descent=LatentDescent(small, steps=1))
    with pytest.raises(InputError, match="number of steps"):
        measure_fidelity(sane, held_out, descent=LatentDescent(digits.train, steps=-1))
    still = measure_fidelity(sane, held_out, digits.test, descent=LatentDescent(digits.train, steps=0))
    assert still.agreement == measure_fidelity(sane, held_out, digits.test).agreement, "without steps as encoded"


def test_close_encoding_holds_some_networks_at_a_time(
    sane: SANE, parts: tuple[Zoo, ...], digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = parts[2].architectures["mlp-64-8-10-tanh"]
    own = parts[2].where(architecture=architecture.id)
    networks = [own.weights(row) for row in range(3)]
    descent = LatentDescent(digits.train, steps=2)
    alone = torch.cat([encode_by_function(sane, [weights], architecture, descent) for weights in networks])
    monkeypatch.setattr("weightspace.autoencoder.reconstructing.TOGETHER", 1)
    torch.testing.assert_close(encode_by_function(sane, networks, architecture, descent), alone)


def test_interrupted_and_resumed_it_ends_with_the_same_weights(
    sane_folder: Path, parts: tuple[Zoo, ...], digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distill(sane_folder, parts[0], digits.train, TINY, out=tmp_path / "whole")

    with pytest.raises(Stop):
        distill(sane_folder, parts[0], digits.train, TINY, out=tmp_path / "cut", observers=[(1, Stop(3))])
    assert not (tmp_path / "cut").exists()
    again = distill(sane_folder, parts[0], digits.train, TINY, out=tmp_path / "cut", existing="resume")
    assert same_weights(whole.network, again.network)


SCRIPT = """
import sys
import weightspace as ws
model, zoo, out = sys.argv[1:]
train = ws.Zoo.open(zoo).split(0.6, 0.2, 0.2, seed=1)[0]
config = ws.DistillConfig(steps=4, networks=4, queries=8, latent_noise=0.1, save_every=2)
ws.distill(model, train, ws.open_images("digits").train, config, out=out)
"""


def test_a_model_trained_in_bf16_is_distilled_by_the_same_program(
    parts: tuple[Zoo, ...], digits: ImageSet, tmp_path: Path
) -> None:
    training = TrainConfig(steps=2, batch_size=4, precision="bf16")
    pretrain(parts[0], training=training, out=tmp_path / "sane")
    pretrain(parts[0], training=replace(training, precision="fp32"), out=tmp_path / "other")
    distill(tmp_path / "sane", parts[0], digits.train, replace(TINY, steps=2), out=tmp_path / "distilled")
    first, second = (SANE.open(tmp_path / name).network for name in ("sane", "other"))
    assert not same_weights(first, second)


def test_two_processes_distill_what_one_does(zoo_folder: Path, sane_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "distill.py"
    script.write_text(SCRIPT)
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for name, command in (("one", (sys.executable,)), ("two", launcher)):
        arguments = [*command, str(script), str(sane_folder), str(zoo_folder), str(tmp_path / name)]
        done = subprocess.run(arguments, env=quiet, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    before = load_file(sane_folder / "model.safetensors")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in one.items())
    for name, tensor in two.items():
        torch.testing.assert_close(tensor, one[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_statistics_head_counts_as_in_pretraining(
    weight: float, parts: tuple[Zoo, ...], digits: ImageSet, tmp_path: Path
) -> None:
    training = TrainConfig(steps=2, window=16, statistics_weight=weight, contrastive_weight=0.0)
    pretrained = pretrain(parts[0], SANEConfig(latent_width=8, model_width=16), training, out=tmp_path / "sane")
    distilled = distill(tmp_path / "sane", parts[0], digits.train, TINY, out=tmp_path / "distilled")
    assert distilled.provenance.distilling.statistics_weight == weight  # type: ignore[union-attr]
    same = [
        torch.equal(own, distilled.network.statistics.state_dict()[name])
        for name, own in pretrained.network.statistics.state_dict().items()
    ]
    assert all(same) == (weight == 0)
    asked = replace(TINY, statistics_weight=1.0)
    other = distill(tmp_path / "sane", parts[0], digits.train, asked, out=tmp_path / "asked")
    assert other.provenance.distilling.statistics_weight == 1  # type: ignore[union-attr]


def test_noise_can_be_asked(sane: SANE, corpus: Corpus, parts: tuple[Zoo, ...], digits: ImageSet) -> None:
    drawn = draw(sane, corpus, parts, digits, replace(TINY, query_source="noise"))
    assert drawn.queries.shape[1:] == digits.train.inputs.shape[1:] and abs(float(drawn.queries.std()) - 1) < 0.2
    assert torch.isfinite(DistillObjective(sane.network)(drawn).distillation)


def test_what_cannot_be_taught_is_refused(
    sane_folder: Path, parts: tuple[Zoo, ...], digits: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected members that the model was trained on, found others"):
        distill(sane_folder, parts[2], digits.train, TINY, out=tmp_path / "x")
    small = digits.train._replace(inputs=digits.train.inputs[..., :4])
    with pytest.raises(InputError, match=r"inputs of shape \[1, 8, 4\], found none"):
        distill(sane_folder, parts[0], small, TINY, out=tmp_path / "x")
    with pytest.raises(InputError, match="expected networks to be at least 2"):
        distill(sane_folder, parts[0], digits.train, replace(TINY, networks=1), out=tmp_path / "x")


def test_a_module_that_cannot_be_stacked_answers_one_by_one() -> None:
    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) if self.linear.weight.sum() > 0 else -self.linear(x)

    modules = [Branching() for _ in range(4)]
    stack = stack_weights([module.state_dict() for module in modules])
    inputs = torch.randn(5, 3)
    expected = torch.stack([module(inputs) for module in modules])
    torch.testing.assert_close(answer_stack(Branching(), stack, inputs), expected)
