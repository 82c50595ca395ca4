"""The transformer: pre-norm blocks without biases, attending over the tokens of a window."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


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
