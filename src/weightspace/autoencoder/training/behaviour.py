"""The behavioural stage: a decoded network should compute what the encoded one did.

Not in the paper. A reconstruction loss counts all weights alike, and a network loses its function through the few that
matter. Here decoded networks answer queries, and the answers are compared with the encoded networks' own (as in
knowledge distillation). Latents have noise, so that their neighbourhood decodes to working networks too; and a mixture
of two networks' latents can be taught to answer with the mixture of their answers. No labels are used.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from weightspace.autoencoder.config import BehaviourConfig
from weightspace.autoencoder.inference import cut_windows
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.token_statistics import statistics_loss, token_statistics
from weightspace.autoencoder.training.losses import masked_mse
from weightspace.batch_norms import norms_in_training
from weightspace.corpus.corpus import Corpus, CorpusPart
from weightspace.corpus.preparation import Frame
from weightspace.corpus.views import whole_networks
from weightspace.errors import InputError
from weightspace.supervised import Stack, answer_stack
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.patterns import Entries, entries_of, positions_of
from weightspace.tokens.tokenizing import scatter_tokens
from weightspace.tokens.windows import WindowCut
from weightspace.zoo.architecture import Architecture

# Windows, the places of their tokens in the sequence, and which are there (all, if None); returns what becomes of them.
Code = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Group(NamedTuple):
    """Checkpoints of one architecture that can be run: the part of the corpus they are in, and their rows there."""

    part: CorpusPart
    architecture: Architecture
    module: nn.Module
    rows: Int[Tensor, "checkpoints"]


class Drawn(NamedTuple):
    """The networks of one step.

    Attributes:
        tokens: standardised; 0 in the padding.
        partner: which other network of the step each one is mixed with.
        share: what it keeps of itself; 1 for those that are not mixed.
        noise: on the latents, in units of their spread.
        queries: what all are asked.
        windows: which windows of the networks the gradient goes through.
    """

    group: Group
    tokens: Float[Tensor, "networks tokens width"]
    partner: Int[Tensor, "networks"]
    share: Float[Tensor, "networks"]
    noise: Float[Tensor, "networks tokens latent"]
    queries: Float[Tensor, "queries ..."]
    windows: Int[Tensor, "windows"]


class BehaviourLosses(NamedTuple):
    """The terms of the behavioural stage; `agreement` is the share of queries with the same largest answer."""

    reconstruction: Tensor
    behaviour: Tensor
    statistics: Tensor
    agreement: Tensor


def group_networks(corpus: Corpus, architectures: dict[str, Architecture], example: Sequence[int]) -> list[Group]:
    """The checkpoints of a corpus that can be run on queries of the shape `example`, by architecture.

    Raises:
        InputError: none can.
    """
    groups = []
    for part in corpus.parts:
        names = part.table["architecture"].reset_index(drop=True)
        for name in names.unique():
            architecture = architectures[str(name)]
            if architecture.example_shape is None or tuple(architecture.example_shape[1:]) != tuple(example):
                continue
            rows = torch.tensor(names.index[names == name].to_numpy(copy=True))
            groups.append(Group(part, architecture, architecture.build().eval(), rows))
    if not groups:
        raise InputError(f"expected networks that take inputs of shape {list(example)}, found none")
    return groups


def draw_networks(
    groups: Sequence[Group], images: Tensor, sane: SANE, config: BehaviourConfig, generator: torch.Generator
) -> Drawn:
    """The networks and queries of one step; every checkpoint is as likely as any other."""
    sizes = torch.tensor([float(len(group.rows)) for group in groups])
    group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
    place = torch.randperm(len(group.rows), generator=generator)[: config.networks]
    rows = group.rows[place]
    tokens = whole_networks(group.part, group.part.flat[rows])
    count, length = tokens.shape[:2]
    mixed = torch.arange(count) < round(config.mixed * count)
    share = torch.where(mixed, torch.rand(count, generator=generator), torch.ones(count))
    noise = config.latent_noise * torch.randn(count, length, sane.config.latent_width, generator=generator)
    chosen = torch.randint(len(images), (config.queries,), generator=generator)
    queries = images[chosen]
    if config.query_source == "noise":
        queries = torch.randn(queries.shape, generator=generator)
    cut = cut_windows(length, sane.window)
    windows = torch.randperm(cut.count, generator=generator)[: config.windows].sort().values
    partner = torch.roll(torch.arange(count), 1)
    return Drawn(group, tokens, partner, share, noise, queries, windows)


def behaviour_losses(sane: SANE, drawn: Drawn) -> BehaviourLosses:
    """Encode, mix, disturb and decode networks, ask them, and compare with what the encoded ones answer."""
    group, frame = drawn.group, drawn.group.part.frame
    coder, entries = WindowCoder(sane, frame.layout, drawn.windows), entries_of(frame.layout)
    latents = coder.encode(drawn.tokens)
    share = drawn.share[:, None, None]
    mixed = share * latents + (1 - share) * latents[drawn.partner]
    spread = latents.detach().std(0, correction=0)
    decoded = coder.decode(mixed + spread * drawn.noise)
    own = drawn.share == 1
    mask = entries.mask.expand_as(drawn.tokens)
    reconstruction = masked_mse(decoded[own], drawn.tokens[own], mask[own]) if own.any() else decoded.new_zeros(())
    true = token_statistics(drawn.tokens, Entries(mask, entries.bias.expand_as(mask)))
    present = torch.ones(mask.shape[:2], dtype=torch.bool)
    statistics = statistics_loss(sane.statistics(latents), true, present)
    with torch.no_grad():
        taught = answer_stack(group.module, stack_tokens(drawn.tokens, frame, group.architecture), drawn.queries)
        taught = taught.softmax(-1)
        taught = share * taught + (1 - share) * taught[drawn.partner]
    answers = answer_decoded(group.module, stack_tokens(decoded, frame, group.architecture), drawn.queries)
    behaviour = functional.kl_div(answers.log_softmax(-1), taught, reduction="none").sum(-1).mean()
    agreement = (answers.argmax(-1) == taught.argmax(-1)).float().mean()
    return BehaviourLosses(reconstruction, behaviour, statistics, agreement)


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
    for name, own in zip(frame.names, architecture.shapes, strict=True):
        if name in layout.shapes:
            start = layout.offsets[name]
            size = torch.Size(layout.shapes[name]).numel()
            stack[own] = flat[:, start : start + size].reshape(-1, *layout.shapes[name])
    return stack


class WindowCoder:
    """Encodes and decodes whole networks in haloed windows, with gradients through some of them (all by default)."""

    def __init__(self, sane: SANE, layout: TokenLayout, windows: Int[Tensor, "windows"] | None = None) -> None:
        self._sane, self._positions, self._entries = sane, positions_of(layout), entries_of(layout)
        self._cut: WindowCut = cut_windows(len(layout), sane.window)
        self._chosen = torch.arange(self._cut.count) if windows is None else windows

    def encode(self, tokens: Float[Tensor, "networks tokens width"]) -> Float[Tensor, "networks tokens latent"]:
        """Latents of whole networks."""
        return self._map(tokens, self._encode)

    def decode(self, latents: Float[Tensor, "networks tokens latent"]) -> Float[Tensor, "networks tokens width"]:
        """Tokens of whole networks' latents."""
        return self._map(latents, self._decode)

    def _encode(self, windows: Tensor, index: Tensor, present: Tensor | None) -> Tensor:
        entries = Entries(*(own[index] for own in self._entries))
        return self._sane.encode(windows, self._positions[index], entries, present)

    def _decode(self, windows: Tensor, index: Tensor, present: Tensor | None) -> Tensor:
        return self._sane.decode(windows, self._positions[index], present)

    def _map(self, sequence: Tensor, code: Code) -> Tensor:
        index, present = self._cut.index(0, self._cut.count)
        chosen = torch.zeros(self._cut.count, dtype=torch.bool)
        chosen[self._chosen] = True
        made = self._run(sequence, index[chosen], present[chosen], code)
        if not chosen.all():
            with torch.no_grad():
                others = self._run(sequence, index[~chosen], present[~chosen], code)
            whole = others.new_empty(len(sequence), self._cut.count, *made.shape[2:])
            whole[:, ~chosen], whole[:, chosen] = others, made
            made = whole
        return torch.stack([self._cut.merge(own, 0, self._cut.count) for own in made])

    @staticmethod
    def _run(sequence: Tensor, index: Tensor, present: Tensor, code: Code) -> Tensor:
        count = len(sequence)
        there = None if bool(present.all()) else present.repeat(count, 1)
        return code(sequence[:, index].flatten(0, 1), index.repeat(count, 1), there).unflatten(0, (count, len(index)))
