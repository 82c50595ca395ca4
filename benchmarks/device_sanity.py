"""Is every path on an accelerator right? Each beside the same on the CPU: the first stage of `device.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from grow import make_images
from pretrain import write_zoo
from torch import Tensor
from torch.nn import functional

from weightspace.analysis.fidelity import measure_fidelity
from weightspace.autoencoder.coding import decode_latents, encode_tokens
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.provenance import Provenance
from weightspace.autoencoder.reconstructing import LatentDescent, refine_latents
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.autoencoder.training.distilling import DistillObjective, draw_networks, group_networks
from weightspace.autoencoder.training.feeding import BatchQueue
from weightspace.autoencoder.training.objective import Objective
from weightspace.corpus.asking import ask_zoo
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.views import WindowSource, whole_networks
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.fine_tuning import Population, fine_tune
from weightspace.randomness import derive_generator
from weightspace.responses.config import AskConfig
from weightspace.side_by_side import unfold_convolutions
from weightspace.supervised import FitConfig, fit_stack, score_stack, stack_weights
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.symmetry.matching import match_weights
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.weights.values import Weights
from weightspace.zoo.growing.networks import cnn_s
from weightspace.zoo.growing.recipes import find_recipe
from weightspace.zoo.zoo import Zoo

CPU = torch.device("cpu")

# How far the accelerator's numbers may be from the CPU's, relative to their size. Convolutions and matrix products of
# 32-bit numbers may run in TF32 (10 bits); bf16 has 8 bits.
TOLERANCES = {
    "training step, fp32": 1e-3,
    "training step, bf16": 5e-2,
    "batches moved": 0.0,
    "embedding": 1e-4,
    "decoding": 1e-4,
    "distilling": 5e-3,
    "growing, stacked": 5e-3,
    "growing, unfolded": 5e-3,
    "fine-tuning": 5e-3,
    "refining": 1e-2,
    "fidelity": 5e-3,
    "matching": 0.0,
    "asking": 1e-2,
}
# What the CPU does instead: one that lacks bf16 is 50 times slower with it, and it grows no unfolded stacks.
BESIDE = {"training step, bf16": "training step, fp32", "growing, unfolded": "growing, stacked"}


def compare_with_cpu(device: torch.device, folder: Path) -> dict[str, dict[str, Any]]:
    """Every path on the device beside the same on the CPU: relative differences, each with its tolerance."""
    zoo, corpus, fitted = small_corpus(folder, members=8)
    checks: dict[str, Callable[[torch.device], Tensor]] = {
        "training step, fp32": lambda there: gradients(corpus, fitted, there, precision=None),
        "training step, bf16": lambda there: gradients(corpus, fitted, there, precision=torch.bfloat16),
        "batches moved": lambda there: moved_batch(corpus, there),
        "embedding": lambda there: latents_of(corpus, fitted, there),
        "decoding": lambda there: decoded_of(corpus, fitted, there),
        "distilling": lambda there: distilled(corpus, fitted, there),
        "growing, stacked": grown,
        "growing, unfolded": lambda there: grown(there, unfolded=True),
        "fine-tuning": tuned,
        "refining": lambda there: refined(corpus, fitted, there),
        "fidelity": lambda there: kept(corpus, fitted, zoo, there),
        "matching": matched,
        "asking": lambda there: asked(zoo, there),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, check in checks.items():
        try:
            expected = checks[BESIDE.get(name, name)](CPU)
            difference = relative(check(device).cpu(), expected)
            found[name] = {"difference": difference, "tolerance": TOLERANCES[name]}
            found[name]["right"] = difference <= TOLERANCES[name]
        except Exception as error:  # noqa: BLE001  one path that breaks is a finding; the others are to be looked at
            found[name] = {"failed": f"{type(error).__name__}: {error}", "right": False}
    return found


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12))


def small_corpus(folder: Path, members: int) -> tuple[Zoo, Corpus, Preparation]:
    zoo = write_zoo(folder / "small", "cnn-s", members)
    fitted, corpus = fit_preparation(zoo, PreparationConfig(token_style="rows", align=False), folder / "small-corpus")
    return zoo, corpus, fitted


def fresh(fitted: Preparation, device: torch.device) -> Network:
    return Network(SANEConfig(), fitted.config.token_width, window=16, seed=0).to(device)


def gradients(corpus: Corpus, fitted: Preparation, device: torch.device, precision: torch.dtype | None) -> Tensor:
    """The gradient of a pre-training step, as one vector."""
    network, config = fresh(fitted, device), TrainConfig(window=16, batch_size=8)
    drawn = queue_of(corpus, config).draw(0)
    with torch.autocast(device.type, precision, enabled=precision is not None):
        losses = Objective(network, config)(drawn.batch.map(lambda tensor: tensor.to(device)))
    losses.total.backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def queue_of(corpus: Corpus, config: TrainConfig) -> BatchQueue:
    return BatchQueue(WindowSource(corpus, window=config.window, batch_size=config.batch_size), config)


def moved_batch(corpus: Corpus, device: torch.device) -> Tensor:
    """Permuted, noisy windows as a step gets them: pinned, and copied while other work goes on."""
    batch = queue_of(corpus, TrainConfig(window=16, batch_size=8)).draw(1).batch
    if device.type != "cpu":
        batch = batch.map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
    return torch.cat([batch.inputs.flatten(), batch.targets.flatten()])


def latents_of(corpus: Corpus, fitted: Preparation, device: torch.device) -> Tensor:
    (part,) = corpus.parts
    return encode_tokens(fresh(fitted, device), whole_networks(part, part.flat), part.frame.layout)


def decoded_of(corpus: Corpus, fitted: Preparation, device: torch.device) -> Tensor:
    latents = latents_of(corpus, fitted, CPU)
    return decode_latents(fresh(fitted, device), latents, corpus.parts[0].frame.layout)


def distilled(corpus: Corpus, fitted: Preparation, device: torch.device) -> Tensor:
    """The gradient of a step of distilling."""
    network = fresh(fitted, device).eval()
    images = make_images((1, 28, 28), 64).train.inputs
    groups = group_networks(corpus, dict(fitted.architectures), images.shape[1:])
    for group in groups:
        group.module.to(device)
    drawn = draw_networks(groups, images, network, DistillConfig(networks=4), derive_generator(0, "step", 1))
    losses = DistillObjective(network)(drawn.to(device))
    (losses.reconstruction + losses.distillation).backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def few_networks(count: int) -> list[Weights]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [cnn_s().state_dict() for _ in range(count)]


def grown(device: torch.device, *, unfolded: bool = False) -> Tensor:
    """Accuracy-relevant outputs of four networks, trained together for an epoch: their losses."""
    images = make_images((1, 28, 28), 256)
    train = images.train.to(device)
    stack, rates = stack_weights(few_networks(4)), torch.full((4,), 1e-3)
    module = unfold_convolutions(cnn_s().to(device)) if unfolded else cnn_s().to(device)
    for _, trained in fit_stack(
        module, stack, train, FitConfig(epochs=1), learning_rates=rates, weight_decays=rates, seeds=range(4)
    ):
        last = trained
    return score_stack(module, last, train).loss


def tuned(device: torch.device) -> Tensor:
    """Accuracies after an epoch of fine-tuning."""
    images = make_images((1, 28, 28), 256)
    architecture = find_recipe("cnn-s", images).architecture("tanh")
    population = Population("a", "a", architecture, few_networks(4))
    (outcome,) = fine_tune([population], images.to(device), EvaluateConfig(epochs=(1,)))
    return torch.from_numpy(outcome.each)


def model_of(corpus: Corpus, fitted: Preparation, device: torch.device) -> SANE:
    return SANE(network=fresh(fitted, device).eval(), preparation=fitted, provenance=Provenance(training=TrainConfig()))


def refined(corpus: Corpus, fitted: Preparation, device: torch.device) -> Tensor:
    """Latents after three steps towards labels."""
    images = make_images((1, 28, 28), 64).train
    (architecture,) = fitted.architectures.values()

    def wanted(answers: Tensor, chosen: Tensor) -> Tensor:
        labels = images.labels[chosen].to(answers.device).expand(len(answers), -1)
        return functional.cross_entropy(answers.transpose(1, 2), labels, reduction="none").mean(1)

    latents = latents_of(corpus, fitted, CPU)
    return refine_latents(
        model_of(corpus, fitted, device), latents, architecture, wanted, LatentDescent(images, steps=3)
    )


def kept(corpus: Corpus, fitted: Preparation, zoo: Zoo, device: torch.device) -> Tensor:
    """What is left of networks: R², agreement and accuracy."""
    found = measure_fidelity(model_of(corpus, fitted, device), zoo, make_images((1, 28, 28), 64).train)
    return torch.tensor([found.overall_r2, found.agreement, found.reconstructed])


def matched(device: torch.device) -> Tensor:
    """A planted permutation, found again: the network as it was."""
    (weights,) = few_networks(1)
    symmetry = trace_symmetry(cnn_s(), torch.zeros(2, 1, 28, 28))
    reference = {name: tensor.to(device) for name, tensor in weights.items()}
    shuffled = permute(reference, symmetry, random_permutations(symmetry, derive_generator(0, "planted")))
    found = permute(shuffled, symmetry, match_weights(shuffled, reference, symmetry))
    return torch.cat([tensor.flatten() for tensor in found.values()])


def asked(zoo: Zoo, device: torch.device) -> Tensor:
    """What networks do on synthetic inputs: the mean and spread of their units' responses, and their outputs'."""
    (piece,) = ask_zoo(zoo, AskConfig(), device)
    return torch.stack([responses.vector() for responses in piece.responses])
