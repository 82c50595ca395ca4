"""Networks through SANE and back: encoded and decoded, with latents moved or projected in between.

Moving latents is ours, not the paper's. An encoder sees weights, and cannot know which of them matter to the function;
some gradient steps on the latents, through the decoder, can tell. The model stays as it is, so that the result is a
network that its decoder can write.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from weightspace.autoencoder.coding import WindowCoder, count_latents, decode_latents, encode_tokens
from weightspace.autoencoder.sane import SANE
from weightspace.batch_norms import batch_norms, norms_in_training, recalibrate_batch_norm
from weightspace.corpus.frame import Frame
from weightspace.errors import InputError, require_between
from weightspace.images import Images
from weightspace.progress import progress_bar
from weightspace.randomness import derive_generator
from weightspace.supervised import Stack, answer_stack, stack_weights
from weightspace.tokens.tokenizing import scatter_tokens
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import require_shape
from weightspace.zoo.zoo import Zoo

CONDITIONED, IMAGES_PER_STEP, TOGETHER, FITTED_TO = 1_000, 128, 32, 64
Projection = Callable[[Float[Tensor, "tokens latent"]], Float[Tensor, "tokens latent"]]
# Outputs of decoded networks on some images, and which images these were; returns a loss for every network.
Wanted = Callable[[Float[Tensor, "networks images outputs"], Int[Tensor, "images"]], Float[Tensor, "networks"]]


class LatentDescent(NamedTuple):
    """How latents are moved.

    Attributes:
        images: every step asks some of them, drawn at random.
        steps: how many steps of Adam.
        rate: the learning rate at the start, as a share of the latents' root mean square; it falls to 0 along a cosine.
        seed: decides which images are asked.
    """

    images: Images
    steps: int = 200
    rate: float = 0.03
    seed: int = 0


class Reconstruction(NamedTuple):
    """A network in canonical form, and what came back of it; both as standardised tokens and as weights.

    Attributes:
        original_tokens, decoded_tokens: before and after, standardised.
        original, decoded: the same as weights under the architecture's names.
        latents: how many latent numbers are in between.
    """

    architecture: Architecture
    original_tokens: Float[Tensor, "tokens width"]
    decoded_tokens: Float[Tensor, "tokens width"]
    original: Weights
    decoded: Weights
    latents: int


def reconstruct(
    sane: SANE,
    networks: Sequence[Weights],
    architecture: Architecture,
    *,
    project: Projection | None = None,
    descent: LatentDescent | None = None,
) -> list[Reconstruction]:
    """Encode and decode networks of one architecture, all of them at once.

    Args:
        sane: a trained model.
        networks: raw weights.
        architecture: theirs.
        project: what is done to latents in between, to see what fewer of them would keep (see `PrincipalLatents`).
        descent: move the latents first until decoded networks answer alike (see `encode_by_function`); batch norms of
            what is decoded then have statistics of 1,000 of the images.

    Raises:
        InputError: no networks, or a refusal of `encode_by_function`.

    Examples:
        >>> architecture = zoo.architectures[zoo.table["architecture"].iloc[0]]
        >>> (pair,) = reconstruct(sane, [zoo.weights(0)], architecture)
        >>> set(pair.decoded) == set(zoo.weights(0))
        True
    """
    if not networks:
        raise InputError("expected networks to reconstruct, found none")
    prepared = [sane.preparation.prepare(weights, architecture) for weights in networks]
    layout = prepared[0].frame.layout
    true = [sane.preparation.restore(one.tokens, architecture, one.carried) for one in prepared]
    if descent is None:
        latents = encode_tokens(sane.network, torch.stack([one.tokens for one in prepared]), layout)
    else:
        latents = encode_by_function(sane, true, architecture, descent)
    latents = torch.stack([project(values) for values in latents]) if project is not None else latents
    decoded = decode_latents(sane.network, latents, layout)
    made = [
        sane.preparation.restore(tokens, architecture, one.carried)
        for one, tokens in zip(prepared, decoded, strict=True)
    ]
    if descent is not None:
        inputs = conditioning_images(descent.images, CONDITIONED, descent.seed)
        made = [condition_weights(weights, architecture, inputs) for weights in made]
    count = count_latents(sane.network, layout)
    return [
        Reconstruction(architecture, one.tokens, tokens, before, after, count)
        for one, tokens, before, after in zip(prepared, decoded, true, made, strict=True)
    ]


def refine_latents(
    sane: SANE,
    latents: Float[Tensor, "networks tokens latent"],
    architecture: Architecture,
    wanted: Wanted,
    descent: LatentDescent,
) -> Float[Tensor, "networks tokens latent"]:
    """Latents of networks of one architecture after some steps down what is wanted of the decoded networks.

    Runs where the model is.

    Raises:
        InputError: an architecture that nobody knows how to build, no images or such that it does not take, or a
            negative number of steps or rate.
    """
    device, steps = sane.device, descent.steps
    images = descent.images.to(device)
    require_between("the number of steps", steps, 0)
    require_between("the rate", descent.rate, 0)
    require_between("the number of images", len(images.labels), 1)
    require_shape(architecture, images.inputs)
    frame = sane.preparation.frame_of(architecture)
    module = architecture.build().to(device).eval()
    coder = WindowCoder(sane.network.eval(), frame.layout, at_once=len(latents) * len(frame.layout))
    latents = latents.to(device, copy=True).requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=descent.rate * float(latents.detach().square().mean().sqrt()))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    generator = derive_generator(descent.seed, "refine")
    with progress_bar("refining", steps) as advance:
        for _ in range(steps):
            chosen = torch.randint(len(images.labels), (IMAGES_PER_STEP,), generator=generator)
            stack = stack_tokens(coder.decode(latents), frame, architecture)
            loss = wanted(answer_decoded(module, stack, images.inputs[chosen]), chosen).sum()
            (latents.grad,) = torch.autograd.grad(loss, latents)
            optimizer.step()
            schedule.step()
            advance()
    return latents.detach().cpu()


def encode_by_function(
    sane: SANE, networks: Sequence[Weights], architecture: Architecture, descent: LatentDescent
) -> Float[Tensor, "networks tokens latent"]:
    """Latents of networks, moved until the decoded networks answer as the networks themselves do.

    The loss is the Kullback-Leibler divergence of answers on images; labels are not used. Batch norms of decoded
    networks are asked with the images' statistics, so that what is decoded needs conditioning (`reconstruct` does it).

    Args:
        sane: a trained model.
        networks: raw weights of one architecture.
        architecture: theirs.
        descent: images that the networks are asked about, and how.

    Raises:
        InputError: see `refine_latents`.
    """
    parts = [networks[start : start + TOGETHER] for start in range(0, len(networks), TOGETHER)]
    return torch.cat([_encode_together(sane, part, architecture, descent) for part in parts])


def _encode_together(
    sane: SANE, networks: Sequence[Weights], architecture: Architecture, descent: LatentDescent
) -> Float[Tensor, "networks tokens latent"]:
    """As many as are in memory at once: their latents have one learning rate."""
    layout = sane.preparation.frame_of(architecture).layout
    tokens = torch.stack([sane.preparation.prepare(weights, architecture).tokens for weights in networks])
    module, stack = architecture.build().eval(), stack_weights(list(networks))

    def wanted(answers: Tensor, chosen: Tensor) -> Tensor:
        with torch.no_grad():
            taught = answer_stack(module, stack, descent.images.inputs[chosen].to(answers.device)).softmax(-1)
        divergence = functional.kl_div(answers.log_softmax(-1), taught, reduction="none")
        return divergence.sum(-1).flatten(1).mean(1)

    return refine_latents(sane, encode_tokens(sane.network, tokens, layout), architecture, wanted, descent)


def answer_decoded(
    module: nn.Module, stack: Stack, queries: Float[Tensor, "queries ..."]
) -> Float[Tensor, "networks queries outputs"]:
    """Outputs of decoded networks with gradients.

    Batch norms take the queries' own statistics, as conditioning will give them theirs: no gradient goes through
    decoded running statistics. The module is left in evaluation mode.
    """
    buffers = {name: stack[name].detach().clone() for name, _ in module.named_buffers() if name in stack}
    answers = answer_stack(norms_in_training(module), {**stack, **buffers}, queries)
    module.eval()
    return answers


def stack_tokens(tokens: Float[Tensor, "networks tokens width"], frame: Frame, architecture: Architecture) -> Stack:
    """Standardised tokens as stacked weights under the architecture's names, with gradients; none that are carried."""
    layout, stack = frame.layout, {}
    flat = frame.statistics.undo(scatter_tokens(tokens, layout), layout)
    for name, own in frame.own_names(architecture).items():
        if name in layout.shapes:
            start = layout.offsets[name]
            size = torch.Size(layout.shapes[name]).numel()
            stack[own] = flat[:, start : start + size].reshape(-1, *layout.shapes[name])
    return stack


@dataclass(frozen=True, eq=False)
class PrincipalLatents:
    """Principal components of single tokens' latents: the number that is kept is the number of latents.

    A lower bound of what a model trained with so few latents would keep.

    Attributes:
        mean: of the latents; components: one a row, by falling variance.
    """

    mean: Float[Tensor, "latent"]
    components: Float[Tensor, "latent latent"]

    @classmethod
    def fit(cls, sane: SANE, zoo: Zoo) -> "PrincipalLatents":
        """Fit on training networks, at most 64 of them evenly spread over the table.

        Raises:
            InputError: no checkpoints.
        """
        if len(zoo) == 0:
            raise InputError("expected networks to fit principal components to, found none")
        rows = torch.linspace(0, len(zoo) - 1, min(FITTED_TO, len(zoo))).long().unique().tolist()
        latents = torch.cat([sane.encode(zoo.weights(row))[1] for row in rows]).double()
        mean = latents.mean(0)
        centered = latents - mean
        _, vectors = torch.linalg.eigh(centered.T @ centered)
        return cls(mean.float(), vectors.T.flip(0).float().contiguous())

    def first(self, count: int) -> Projection:
        """A function that projects latents on the first `count` components."""
        kept = self.components[:count]
        return lambda latents: self.mean + (latents - self.mean) @ kept.T @ kept


def conditioning_images(images: Images, count: int, seed: int) -> Float[Tensor, "n ..."]:
    """At most so many training images to average batch norms over, drawn at random: files are often sorted by class."""
    order = torch.randperm(len(images.labels), generator=derive_generator(seed, "conditioning"))
    return images.inputs[order[:count].sort().values]


def condition_weights(weights: Weights, architecture: Architecture, inputs: Float[Tensor, "n ..."]) -> Weights:
    """Weights whose batch norms have statistics of the inputs; without batch norms or inputs the weights themselves.

    Paper, section 3.4 (table 7). Deviation: exact averages over a stated number of images, where the published code
    takes 200 momentum steps that keep a share of the old statistics.
    """
    module = architecture.build()
    if not batch_norms(module) or len(inputs) == 0:
        return weights
    module.load_state_dict(weights)
    recalibrate_batch_norm(module.to(inputs.device), inputs)
    return {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
