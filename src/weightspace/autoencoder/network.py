"""The network of SANE: a transformer over windows of tokens, with embeddings of their positions."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from weightspace.autoencoder.config import SANEConfig
from weightspace.corpus.row_responses import ROW_NUMBERS
from weightspace.errors import InputError
from weightspace.randomness import derive_seed
from weightspace.tokens.patterns import Entries

SMALLEST_SIZE = 0.01
# Shares of the weights below so many standard deviations: their mean over tokens is that of the whole layer, which
# no quantile's mean is. A weight counts in part within a quarter of a standard deviation of a level.
LEVELS = (-2.0, -1.0, -0.4, 0.4, 1.0, 2.0)
SOFTNESS = 0.25
# Those without bound are compressed (asinh): in every zoo a few networks have weights far from everyone's.
MOMENTS = ("mean", "mean size", "mean logarithm of the size", "mean logarithm of 1 + square", "root mean square")
OF_A_PART = (*MOMENTS, *(f"share below {level:g}" for level in LEVELS))
STATISTICS = tuple(f"{statistic} of the {part}" for part in ("weights", "biases") for statistic in OF_A_PART)
COMPONENTS = ("token", "layer", "row", "chunk")
FREQUENCIES = 16
LONGEST_PERIOD = 100_000.0
# The width that learning rates are meant for; see `Network.rate_scale`.
BASE_WIDTH = 64


class SinusoidalPositions(nn.Module):
    """Sines and cosines of every component, mixed by one linear layer.

    Deviation from the paper, whose learned tables end where training ended: these reach any position.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # On the CPU even where a network is only planned: arithmetic on `meta` loads torch's compiler, for a second.
        periods = torch.logspace(0, 1, FREQUENCIES, base=LONGEST_PERIOD, device="cpu")
        self.register_buffer("frequencies", 2 * torch.pi / (4 * periods), persistent=False)
        self.mix = nn.Linear(len(COMPONENTS) * 2 * FREQUENCIES, width, bias=False)

    def check(self, positions: Int[Tensor, "*batch 4"]) -> None:
        """Any position is embedded."""

    def forward(self, positions: Int[Tensor, "*batch 4"]) -> Float[Tensor, "*batch width"]:
        """Embed positions."""
        angles = positions[..., None] * self.frequencies
        return self.mix(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2))


class LearnedPositions(nn.Module):
    """The paper's tables, with one for the chunk: concat(token + layer, row + chunk), each half as wide."""

    def __init__(self, width: int, limits: tuple[int, ...]) -> None:
        super().__init__()
        self.limits = limits
        self.tables = nn.ModuleList(nn.Embedding(limit, width // 2) for limit in limits)

    def check(self, positions: Int[Tensor, "*batch 4"]) -> None:
        """Raise `InputError` naming the component that lies beyond its table."""
        for name, limit, largest in zip(COMPONENTS, self.limits, positions.flatten(0, -2).amax(0), strict=True):
            if largest >= limit:
                raise InputError(f"expected {name} positions below {limit} for learned tables, found {int(largest)}")

    def forward(self, positions: Int[Tensor, "*batch 4"]) -> Float[Tensor, "*batch width"]:
        """Embed positions; see `check`, which a compiled model leaves to its caller."""
        if not torch.compiler.is_compiling():
            self.check(positions)
        token, layer, row, chunk = (table(positions[..., i]) for i, table in enumerate(self.tables))
        return torch.cat([token + layer, row + chunk], dim=-1)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; exact GELU, four times wide (paper: GPT-2's block)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "batch window width"], present: Bool[Tensor, "batch window"] | None
    ) -> Float[Tensor, "batch window width"]:
        """Absent tokens are not attended to; None means that all are present."""
        x = x + self._drop(self.attention_out(self._attend(self.attention_norm(x), present)))
        return x + self._drop(self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x)))))

    def _attend(self, x: Tensor, present: Tensor | None) -> Tensor:
        batch, window, width = x.shape
        heads = self.query_key_value(x).view(batch, window, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mask = present[:, None, None, :] if present is not None else None
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return mixed.transpose(1, 2).reshape(batch, window, width)

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class Transformer(nn.Module):
    """A stack of blocks. Deviation from the published default: attention never runs over the batch."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width divisible by the number of heads, found {width} and {heads}")
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))

    def forward(
        self, x: Float[Tensor, "batch window width"], present: Bool[Tensor, "batch window"] | None = None
    ) -> Float[Tensor, "batch window width"]:
        """All blocks in turn."""
        for block in self.blocks:
            x = block(x, present)
        return x


class Encoded(NamedTuple):
    """What the encoder makes of windows of tokens.

    Attributes:
        latents: what they are decoded from; summaries: what embeddings are made of. The paper's are the same; with a
            linear path, latents hold weights as they are, and summaries what is to be read of them.
    """

    latents: Float[Tensor, "batch window latent"]
    summaries: Float[Tensor, "batch window latent"]


class Network(nn.Module):
    """The network of SANE, the sequential autoencoder for neural embeddings (paper, section 3.1).

    Encoder and decoder: a linear map into the transformer's width, positions added, transformer blocks, a
    linear map out. The same position embedding serves both.

    Attributes:
        window: tokens that it sees at once.
    """

    def __init__(self, config: SANEConfig, token_width: int, *, window: int, seed: int = 0) -> None:
        super().__init__()
        self.config, self.window = config, window
        width = config.model_width
        told = ROW_NUMBERS if config.responses != "none" else 0
        self.token_in = nn.Linear(token_width + len(STATISTICS), width)
        self.latent_out = nn.Linear(width, config.latent_width)
        self.latent_in = nn.Linear(config.latent_width, width)
        self.token_out = nn.Linear(width, token_width)
        self.encoder = Transformer(width, config.layers, config.heads, config.dropout)
        self.decoder = Transformer(width, config.layers, config.heads, config.dropout)
        learned = config.positions == "learned"
        self.positions = LearnedPositions(width, config.position_limits) if learned else SinusoidalPositions(width)
        self.summary_width = config.latent_width + (told if config.linear_path else 0)
        self.head = _projection_head(config, self.summary_width, window)
        self.statistics = nn.Linear(self.summary_width, len(STATISTICS) + told)
        if config.linear_path:
            self.summary_out = nn.Linear(width, self.summary_width)
            self.token_to_latent = nn.Linear(token_width, config.latent_width, bias=False)
            self.latent_to_token = nn.Linear(config.latent_width, token_width, bias=False)
        if config.responses == "seen":
            self.heard_to_summary = nn.Linear(ROW_NUMBERS + 2, self.summary_width, bias=False)
        if not self.token_in.weight.is_meta:  # planned only, to know its shapes
            self._initialize(derive_seed(seed, "sane"))

    def encode(
        self,
        tokens: Float[Tensor, "batch window width"],
        positions: Int[Tensor, "batch window 4"],
        entries: Entries,
        present: Bool[Tensor, "batch window"] | None = None,
        heard: Float[Tensor, "batch window numbers"] | None = None,
    ) -> Encoded:
        """Latents of windows of tokens, from which they are decoded, and summaries, by which they are read.

        Deviation: beside each token the encoder sees its statistics (see `token_statistics`), which a linear map of its
        entries cannot tell it. Where it was trained so, summaries also see what the unit does that a token's row makes
        (`heard`: NaN where nobody knows); latents do not, so that weights are decoded from weights alone.
        """
        width = self.config.latent_width
        seen = torch.cat([tokens, token_statistics(tokens, entries)], dim=-1)
        x = self.encoder(self.token_in(seen) + self.positions(positions), present)
        latents = self.latent_out(x)
        if not self.config.linear_path:
            return Encoded(latents, latents)
        counts = entries.mask.sum(-1, keepdim=True)
        held = torch.where(counts <= width, resized(tokens, width), self.token_to_latent(tokens))
        summaries = self.summary_out(x)
        if self.config.responses == "seen" and heard is not None:
            summaries = summaries + self.heard_to_summary(known_responses(heard))
        return Encoded((latents + held) * latent_mask(counts, width), summaries)

    def decode(
        self,
        latents: Float[Tensor, "batch window latent"],
        positions: Int[Tensor, "batch window 4"],
        entries: Entries,
        present: Bool[Tensor, "batch window"] | None = None,
    ) -> Float[Tensor, "batch window width"]:
        """Tokens of windows of latents."""
        counts = entries.mask.sum(-1, keepdim=True)
        if self.config.linear_path:
            latents = latents * latent_mask(counts, latents.shape[-1])
        x = self.latent_in(latents) + self.positions(positions)
        tokens = self.token_out(self.decoder(x, present))
        if not self.config.linear_path:
            return tokens
        held = torch.where(
            counts <= latents.shape[-1], resized(latents, tokens.shape[-1]), self.latent_to_token(latents)
        )
        return tokens + held

    def project(
        self, summaries: Float[Tensor, "batch window latent"], present: Bool[Tensor, "batch window"]
    ) -> Float[Tensor, "batch projection"]:
        """What the contrastive loss compares.

        Deviation: `mean` pools over the present tokens and so takes windows of any length; `flatten` is the
        paper's. The published head ends in a ReLU, which leaves no negative cosines; ours does not.
        """
        kept = summaries * present[..., None]
        if self.config.projection == "flatten":
            return self.head(kept.flatten(1))
        return self.head(kept.sum(1) / present.sum(1, keepdim=True).clamp_min(1))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.token_in.weight.device

    def rate_scale(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by, so that one rate suits every width.

        Matrices whose inputs grow with the width take `64 / width`: a step of Adam moves every entry by as much, and
        what they add up grows with their inputs. Maximal update parametrization (Yang et al., 2022), table 8.
        """
        grows = name.startswith(("encoder.", "decoder.")) or name in ("latent_out.weight", "token_out.weight")
        inside = (grows or name == "summary_out.weight") and self.get_parameter(name).ndim > 1
        return BASE_WIDTH / self.config.model_width if inside else 1.0

    def _initialize(self, seed: int) -> None:
        """Normal with variance 1 / inputs; the blocks' outputs are smaller with depth, as published.

        Deviation: the published standard deviation of 0.02 suits widths of 1,024 and more. At width 64 it
        costs half of what 200 steps can learn (LOG.md, "Initial scale").
        """
        generator = torch.Generator().manual_seed(seed)
        shrink = (2 * self.config.layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                std = (self.config.initial_std or parameter.shape[1] ** -0.5) * (shrink if residual else 1)
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if self.config.linear_path:
            nn.init.orthogonal_(self.token_to_latent.weight, generator=generator)
            self.latent_to_token.weight.data = self.token_to_latent.weight.data.T.clone()
            for last in (self.latent_out, self.token_out):
                nn.init.zeros_(last.weight)


def known_responses(heard: Float[Tensor, "*tokens numbers"]) -> Float[Tensor, "*tokens 38"]:
    """Responses with 0 for those that nobody knows, and whether those of the unit and of the outputs are known."""
    known = ~heard.isnan()
    flags = torch.stack([known[..., 0], known[..., -1]], dim=-1).to(heard.dtype)
    return torch.cat([heard.nan_to_num(), flags], dim=-1)


def resized(values: Float[Tensor, "*tokens entries"], width: int) -> Float[Tensor, "*tokens width"]:
    """The first entries, so many of them; 0 where there are not so many."""
    return functional.pad(values, (0, max(0, width - values.shape[-1])))[..., :width]


def latent_mask(counts: Int[Tensor, "*tokens 1"], width: int) -> Bool[Tensor, "*tokens latent"]:
    """Which numbers of a token's latent there are: as many as it has weights, at most the latent's width."""
    return torch.arange(width, device=counts.device) < counts


def _projection_head(config: SANEConfig, width: int, window: int) -> nn.Sequential:
    inputs = width * (window if config.projection == "flatten" else 1)
    return nn.Sequential(
        nn.Linear(inputs, config.projection_width, bias=False),
        nn.LayerNorm(config.projection_width),
        nn.ReLU(),
        nn.Linear(config.projection_width, config.projection_width, bias=False),
    )


def token_statistics(values: Float[Tensor, "*batch width"], entries: Entries) -> Float[Tensor, "*batch 22"]:
    """`STATISTICS` of every token, which the encoder sees and the summaries hold in a linear way.

    Ours, not the paper's. A mean over tokens can only tell what single tokens' summaries tell linearly, and
    reconstruction alone stores values, not sizes: how large the weights and biases of a layer are is lost in the mean.
    Layer statistics, which are hard to beat as a baseline, are just that. Predicting these few numbers of each token
    from its summary by one linear map makes the mean of summaries hold them as well.

    Args:
        values: standardised weights; 0 in the padding.
        entries: which are real, and which of them biases. Half of the statistics are of these, half of the others;
            they are 0 where there are none.
    """
    mask, bias = (kind.expand_as(values) for kind in entries)
    size = values.abs()
    kinds = [values, size, (size + SMALLEST_SIZE).log(), values.square().log1p(), values.square()]
    kinds += [((level - values) / (2 * SOFTNESS) + 0.5).clamp(0, 1) for level in LEVELS]
    among = torch.stack([mask & ~bias, mask & bias], dim=-1).to(values.dtype)
    counts = among.sum(-2)[..., None, :].clamp_min(1)
    means = (torch.stack(kinds, dim=-2) @ among / counts).unbind(-2)
    mean, mean_size, log_size, log_square, square = means[: len(MOMENTS)]
    moments = [mean.asinh(), mean_size.asinh(), log_size, log_square, square.sqrt().asinh()]
    return torch.stack([*moments, *means[len(MOMENTS) :]], dim=-2).transpose(-1, -2).flatten(-2)
