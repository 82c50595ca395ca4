"""What networks are asked with: synthetic inputs drawn from a seed, or the user's own, each a second time perturbed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from weightspace.errors import WIDEST, InputError, require_between
from weightspace.randomness import derive_generator

COUNT = 128
STRENGTH, REPLACED = 0.3, 0.1
BLUR = 5


class Questions(NamedTuple):
    """A batch of inputs, and the same perturbed.

    Attributes:
        positional, named: what a module is called with; every tensor is `[2, kinds, each, ...]` flattened to a batch:
            first the inputs as they are, then perturbed, each kind by kind.
        kinds: names of the kinds of inputs, such as white and smooth noise.
        each: so many inputs of each kind.
    """

    positional: tuple[Any, ...]
    named: dict[str, Any]
    kinds: tuple[str, ...]
    each: int

    def __str__(self) -> str:
        """What they are, for a sentence."""
        noise = self.kinds != OWN
        return f"{len(self.kinds) * self.each} {'noise' if noise else 'given'} inputs"

    @property
    def passes(self) -> int:
        """Forward passes that one network costs."""
        return 2 * len(self.kinds) * self.each

    def some(self, start: int, stop: int) -> "Questions":
        """Those inputs of every kind."""

        def cut(tensor: Tensor) -> Tensor:
            apart = tensor.unflatten(0, (2, len(self.kinds), self.each))
            return apart[:, :, start:stop].flatten(0, 2)

        return self.map(cut)._replace(each=stop - start)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Questions":
        """What a function makes of every tensor."""
        positional, named = pytree.tree_map_only(Tensor, function, (self.positional, self.named))
        return self._replace(positional=positional, named=named)


NOISE, OWN = ("white noise", "smooth noise"), ("given",)


def draw_questions(
    shapes: Sequence[Sequence[int]], integers: Sequence[int] = (), *, count: int = COUNT, seed: int = 0
) -> Questions:
    """Noise in the shape of a module's inputs: white, and smooth (a box blur of 5, twice), of variance 1 each.

    Standardised inputs, which networks are trained on, have that variance. Whole numbers, such as token ids, are drawn
    uniformly. Perturbed are numbers by noise of 0.3, and a tenth of the whole numbers by others.

    Args:
        shapes: of all inputs, batch first; the batch is replaced.
        integers: for every input the number that its whole numbers are below; 0 for real numbers.
        count: inputs in all, half of them white and half smooth.
        seed: what is drawn depends on it and on nothing else.

    Raises:
        InputError: fewer than four inputs, or an input without a batch.

    Examples:
        >>> questions = draw_questions([(1, 3, 8, 8)], count=16)
        >>> questions.positional[0].shape, str(questions)
        (torch.Size([32, 3, 8, 8]), '16 noise inputs')
    """
    require_between("the number of inputs to ask with", count, 4, WIDEST)
    each, below = count // 2, [*integers, *[0] * (len(shapes) - len(integers))]
    batches = []
    for number, (shape, limit) in enumerate(zip(shapes, below, strict=True)):
        if not shape:
            raise InputError("expected inputs with a batch, found a single number")
        generator = derive_generator(seed, "questions", number)
        size = (each, *shape[1:])
        if limit:
            asked = torch.randint(limit, (2, *size), generator=generator)
            others = torch.randint(limit, asked.shape, generator=generator)
            swapped = torch.rand(asked.shape, generator=generator) < REPLACED
            perturbed = torch.where(swapped, others, asked)
        else:
            white = torch.randn(size, generator=generator)
            asked = torch.stack([white, smoothed(torch.randn(size, generator=generator))])
            perturbed = asked + STRENGTH * torch.randn(asked.shape, generator=generator)
        batches.append(torch.stack([asked, perturbed]).flatten(0, 2))
    return Questions(tuple(batches), {}, NOISE, each)


def given_questions(positional: Sequence[Any], named: Mapping[str, Any] | None = None, *, seed: int = 0) -> Questions:
    """A batch of the user's own unlabelled inputs, as a module takes them, and the same perturbed.

    Numbers get noise of 0.3 of their standard deviation; only where there are none, a tenth of the whole numbers are
    swapped with others of the batch.

    Raises:
        InputError: no tensor among them, or tensors of different batches.
    """
    leaves, spec = pytree.tree_flatten((tuple(positional), dict(named or {})))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    counts = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors}
    if len(counts) != 1 or 0 in counts:
        found = ", ".join(str(list(tensor.shape)) for tensor in tensors) or "no tensor"
        raise InputError(f"expected inputs with one batch size to ask with, found {found}")
    real = any(tensor.is_floating_point() for tensor in tensors)
    both = []
    for number, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            both.append(leaf)
            continue
        generator = derive_generator(seed, "perturbed", number)
        both.append(torch.cat([leaf, _perturbed(leaf, real, generator)]))
    asked, keywords = pytree.tree_unflatten(both, spec)
    return Questions(asked, keywords, OWN, counts.pop())


def _perturbed(value: Tensor, real: bool, generator: torch.Generator) -> Tensor:
    if value.is_floating_point():
        spread = value.std(correction=0).nan_to_num(1.0)
        return value + STRENGTH * spread * torch.randn(value.shape, generator=generator).to(value)
    if real or value.dtype == torch.bool:
        return value
    others = value.flatten()[torch.randperm(value.numel(), generator=generator)].view_as(value)
    return torch.where(torch.rand(value.shape, generator=generator) < REPLACED, others, value)


def smoothed(noise: Tensor) -> Tensor:
    """Noise after a box blur of 5, twice, along what is no batch and no channel, of variance 1 again.

    Images `[batch, channels, *space]` are smoothed over space; of sequences the longer axis, and all of a vector.
    """
    if noise.ndim >= 4:
        axes = list(range(2, noise.ndim))
    elif noise.ndim == 3:
        axes = [1 if noise.shape[1] >= noise.shape[2] else 2]
    else:
        axes = list(range(1, noise.ndim))
    for axis in axes * 2:
        noise = _blurred(noise, axis)
    rest = tuple(range(1, noise.ndim))
    return noise / noise.square().mean(rest, keepdim=True).sqrt().clamp_min(1e-6) if axes else noise


def _blurred(noise: Tensor, axis: int) -> Tensor:
    if noise.shape[axis] < BLUR:
        return noise
    rows = noise.movedim(axis, -1)
    padded = functional.pad(rows.reshape(-1, 1, rows.shape[-1]), (BLUR // 2, BLUR // 2), mode="replicate")
    return functional.avg_pool1d(padded, BLUR, 1).view(rows.shape).movedim(-1, axis)
