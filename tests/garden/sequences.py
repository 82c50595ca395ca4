"""Transformers, mixers and recurrent networks; the first ones are built by `transformers` from configurations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class MixerBlock(nn.Module):
    """An MLP over patches, then one over channels."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 7), nn.GELU(), nn.Linear(7, patches))
        self.channels = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer: the patches are rows of one linear layer, so they could move with the pixels only."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 10)
        self.blocks, self.norm = nn.Sequential(MixerBlock(16, 8), MixerBlock(16, 8)), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class PackedAttention(nn.Module):
    """Queries, keys and values from one layer, as in timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(b, n, d))


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, pre-norm blocks."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attentions = nn.ModuleList(PackedAttention(width, 3) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for number, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * number](x))
            x = x + mlp(self.norms[2 * number + 1](x))
        return self.head(self.norms[4](x)[:, 0])


class GroupedQueries(nn.Module):
    """Llama in small: RMS norm, rotary positions, grouped queries, SwiGLU."""

    def __init__(self, width: int = 16, heads: int = 4, serving: int = 2, rotary: bool = True) -> None:
        super().__init__()
        self.width, self.heads, self.serving, self.rotary = width // heads, heads, serving, rotary
        self.embed, self.head = nn.Embedding(11, width), nn.Linear(width, 11, bias=False)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, serving * self.width, bias=False) for _ in range(2))
        self.gate, self.up, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)

    def turn(self, x: Tensor) -> Tensor:
        if not self.rotary:
            return x
        half = self.width // 2
        angle = torch.arange(x.shape[-2])[:, None] / 100 ** (torch.arange(half) / half)
        angle = torch.cat([angle, angle], -1)
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * angle.cos() + turned * angle.sin()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, n, _ = x.shape
        y = self.norm1(x)
        q = self.turn(self.q(y).view(b, n, self.heads, -1).transpose(1, 2))
        k = self.turn(self.k(y).view(b, n, self.serving, -1).transpose(1, 2))
        v = self.v(y).view(b, n, self.serving, -1).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, -1))
        y = self.norm2(x)
        return self.head(x + self.down(nn.functional.silu(self.gate(y)) * self.up(y)))


class Tagger(nn.Module):
    """Embedding and a recurrent layer, both ways, two layers deep."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 5), nn.Linear(12, 4)
        self.recurrent = kind(5, 6, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(ids))[0])


class Cells(nn.Module):
    """Recurrent cells, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.head = nn.LSTMCell(4, 6), nn.GRUCell(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        state, second = None, None
        for step in range(x.shape[1]):
            state = self.lstm(x[:, step], state)
            second = self.gru(state[0], second)
        return self.head(second)


class LanguageLSTM(nn.Module):
    """An LSTM language model whose first and last weights are tied; reads the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(9, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 9)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        _, (last, _) = self.lstm(self.embed(ids))
        return self.head(last[-1])


class Logits(nn.Module):
    """The first output of a Hugging Face model, as a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs, return_dict=True)[0]


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=13, bos_token_id=1, eos_token_id=2, n_positions=12, n_embd=12, n_layer=2, n_head=3, use_cache=False
    )
    return Logits(GPT2LMHeadModel(config))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes: dict[str, Any] = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    }
    return Logits(BertForSequenceClassification(BertConfig(vocab_size=13, max_position_embeddings=12, **sizes)))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
    }
    return Logits(LlamaForCausalLM(LlamaConfig(vocab_size=13, num_key_value_heads=2, use_cache=False, **sizes)))


IDS = torch.arange(10).reshape(2, 5) % 7
SEQUENCES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "MLP-Mixer": (Mixer, torch.zeros(2, 3, 16, 16)),
    "ViT": (VisionTransformer, torch.zeros(2, 3, 16, 16)),
    "GPT-2 (transformers)": (gpt2, IDS),
    "BERT (transformers)": (bert, IDS),
    "Llama with grouped queries (transformers)": (llama, IDS),
    "grouped queries, no rotary positions": (lambda: GroupedQueries(rotary=False), IDS),
    "grouped queries, rotary positions": (GroupedQueries, IDS),
    "LSTM, two layers, both ways": (lambda: Tagger(nn.LSTM), IDS),
    "GRU, two layers, both ways": (lambda: Tagger(nn.GRU), IDS),
    "RNN, two layers, both ways": (lambda: Tagger(nn.RNN), IDS),
    "LSTM and GRU cells": (Cells, torch.zeros(2, 3, 4)),
    "LSTM language model, tied": (LanguageLSTM, IDS),
}
