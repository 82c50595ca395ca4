"""Symmetries where the graph misleads: parts without gradients, heads of training alone, operations along an axis."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.analysis.pairs.aligning import align
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.symmetry.tracing import trace_symmetry

Step = Callable[..., Tensor]


class Between(nn.Module):
    """Something between two layers, whose 6 units nothing else touches."""

    def __init__(self, step: Step, *, image: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1) if image else nn.Linear(4, 6)
        self.second = nn.Conv2d(6, 4, 1) if image else nn.Linear(6, 5)
        self.step = step

    def forward(self, inputs: Tensor, *more: Tensor) -> Tensor:
        return self.second(self.step(self.first(inputs), *more))


def along_nodes(hidden: Tensor, to: Tensor) -> Tensor:
    return to[:, None].expand(-1, hidden.shape[1])


def unpooled(hidden: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(hidden.relu(), 2, return_indices=True)
    return F.max_unpool2d(pooled, places, [2, 2])


def automatic(hidden: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scaled = hidden @ hidden.transpose(-1, -2)
    return scaled.float() @ hidden


def without_gradients(hidden: Tensor) -> Tensor:
    with torch.no_grad():
        return (hidden.relu() * 2).detach()


def in_single_precision(hidden: Tensor) -> Tensor:
    if hidden.dtype == torch.float64:
        raise RuntimeError("\"their_kernel\" not implemented for 'Double'")
    return hidden.relu()


def zeros(hidden: Tensor) -> Tensor:
    return torch.zeros_like(hidden)


NODES = torch.randint(8, (8,), generator=torch.Generator().manual_seed(0))
ROWS, SEQUENCES, IMAGES = torch.randn(8, 4), torch.randn(2, 5, 4), torch.randn(2, 3, 8, 8)
CASES: dict[str, tuple[Step, tuple[Tensor, ...]]] = {
    "index_add": (lambda h, to: zeros(h).index_add(0, to, h), (ROWS, NODES)),
    "index_copy": (lambda h, to: h.index_copy(0, torch.arange(4), h[4:]), (ROWS, NODES)),
    "index_reduce": (lambda h, to: zeros(h).index_reduce(0, to, h, "mean"), (ROWS, NODES)),
    "scatter_add": (lambda h, to: zeros(h).scatter_add(0, along_nodes(h, to), h), (ROWS, NODES)),
    "scatter_reduce": (lambda h, to: zeros(h).scatter_reduce(0, along_nodes(h, to), h, "amax"), (ROWS, NODES)),
    "gather": (lambda h, to: h.gather(0, along_nodes(h, to)), (ROWS, NODES)),
    "cumsum": (lambda h: h.cumsum(1), (SEQUENCES,)),
    "cumprod": (lambda h: h.cumprod(1), (SEQUENCES,)),
    "cummax": (lambda h: h.cummax(1).values, (SEQUENCES,)),
    "sort": (lambda h: h.sort(1).values, (SEQUENCES,)),
    "fft along time": (lambda h: torch.fft.fft(h, dim=1).real, (SEQUENCES,)),
    "fft along space": (lambda h: torch.fft.irfft2(torch.fft.rfft2(h) * 2), (IMAGES,)),
    "grid_sample": (lambda h, g: F.grid_sample(h, g, align_corners=False), (IMAGES, torch.rand(2, 5, 5, 2) - 0.5)),
    "max_unpool": (unpooled, (IMAGES,)),
    "autocast": (automatic, (SEQUENCES,)),
    "no_grad": (without_gradients, (ROWS,)),
    "no double precision": (in_single_precision, (ROWS,)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_goes_along_other_axes_leaves_units_free(case: str) -> None:
    step, inputs = CASES[case]
    module = Between(step, image=inputs[0].ndim == 4).eval()
    symmetry = trace_symmetry(module, *inputs)
    assert symmetry.groups == {"first.weight:0": 6}, symmetry.frozen
    before = module(*inputs)
    moved = permute(module.state_dict(), symmetry, random_permutations(symmetry, torch.Generator().manual_seed(1)))
    module.load_state_dict(moved)
    assert torch.allclose(module(*inputs), before, atol=1e-4, rtol=1e-3)


FREEZING: dict[str, Step] = {
    "fft along units": lambda h: torch.fft.fft(h, dim=-1).real,
    "cumsum along units": lambda h: h.cumsum(-1),
    "sort along units": lambda h: h.sort(-1).values,
    "scatter among units": lambda h: zeros(h).scatter_add(1, torch.arange(6).flip(0).expand(8, 6) // 2, h),
}


@pytest.mark.parametrize("case", FREEZING)
def test_what_goes_along_units_holds_them(case: str) -> None:
    assert not trace_symmetry(Between(FREEZING[case]), ROWS).groups


class Heads(nn.Module):
    """A trunk with a further head, which only training uses."""

    def __init__(self, loss: bool = False) -> None:
        super().__init__()
        self.trunk, self.head, self.further = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 3)
        self.loss = loss

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        hidden = self.trunk(inputs).relu()
        if not self.training:
            return self.head(hidden)
        further = self.further(F.dropout(hidden, 0.1) if self.loss else hidden)
        if self.loss and labels is None:
            raise ValueError("labels are missing")
        return self.head(hidden), further


def test_heads_that_only_training_uses_move_with_the_trunk() -> None:
    module = Heads()
    symmetry = trace_symmetry(module, ROWS)
    assert symmetry.groups == {"trunk.weight:0": 6} and "further.weight" in symmetry.moved
    module.train()
    before = module(ROWS)
    module.load_state_dict(
        permute(module.state_dict(), symmetry, random_permutations(symmetry, torch.Generator().manual_seed(1)))
    )
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(module(ROWS), before, strict=True))


def test_align_says_what_no_output_uses() -> None:
    module = Heads(loss=True)
    symmetry = trace_symmetry(module, ROWS)
    weights = dict(module.state_dict())
    aligned = align({n: t.flip(0) if "trunk" in n else t for n, t in weights.items()}, weights, symmetry)
    assert "no output uses further.weight, further.bias, which stay as they were" in aligned.describe()
