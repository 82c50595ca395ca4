"""Start the next training from generated weights: fill an ordinary module in place."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from weightspace.autoencoder.inference import encode_tokens, restore
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.generation.conditioning import norm_statistics
from weightspace.generation.coverage import Coverage
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Sampler
from weightspace.randomness import derive_generator, derive_seed
from weightspace.supervised import recalibrate_batch_norm
from weightspace.tokens.patterns import positions_of
from weightspace.weights import Weights
from weightspace.zoo.zoo import Zoo

Network = nn.Module | Mapping[str, Tensor]


def initialize(
    model: nn.Module,
    sane: SANE,
    *,
    anchors: Zoo | Sequence[Network],
    data: Tensor | None = None,
    head: Literal["generated", "fresh"] = "generated",
    sampler: Sampler | None = None,
    seed: int = 0,
) -> Coverage:
    """Fill a module with generated weights, in place, and say where every tensor comes from.

    Paper, section 3.4: a few networks of the target task or architecture, trained for an epoch or a few, are prompts.

    Args:
        model: any module; tensors that anchors do not have, or have in another shape, stay as it was initialised.
        sane: a trained model; it need not have seen the architecture (statistics are then taken by layer kind, and
            anchors are not aligned with each other).
        anchors: a zoo, or modules or state dicts, all with the same shapes.
        data: training inputs, to average batch-norm statistics over; without it they are generated.
        head: what becomes of the last layer where it has another number of rows than the anchors', as for a task with
            more classes: `generated` draws its rows from the generated ones, `fresh` leaves it as initialised.
        sampler: kernel density with its default choices without it.
        seed: decides all that is random.

    Raises:
        InputError: no anchors or anchors that differ in shape, or no tensor in common.
    """
    networks = _weights_of(anchors)
    made = _sample(sane, networks, sampler or KernelDensity(), derive_seed(seed, "initialize"))
    sources = _fill(model, made, head, derive_seed(seed, "head"))
    if data is not None and norm_statistics(model):
        recalibrate_batch_norm(model, data)
        sources |= dict.fromkeys(norm_statistics(model), "conditioned")
    return Coverage(sources, {name: tensor.numel() for name, tensor in model.state_dict().items()})


def _weights_of(anchors: Zoo | Sequence[Network]) -> list[Weights]:
    """The weights of anchors, which must all have the same shapes."""
    if isinstance(anchors, Zoo):
        networks = [anchors.weights(row) for row in range(len(anchors))]
    else:
        networks = [dict(own.state_dict()) if isinstance(own, nn.Module) else dict(own) for own in anchors]
    if not networks:
        raise InputError("expected at least 1 anchor, found none")
    kinds = {tuple((name, tuple(tensor.shape)) for name, tensor in sorted(own.items())) for own in networks}
    if len(kinds) > 1:
        raise InputError(f"expected anchors with the same tensors, found {len(kinds)} different kinds")
    return networks


def _sample(sane: SANE, networks: list[Weights], sampler: Sampler, seed: int) -> tuple[Weights, frozenset[str]]:
    """One generated network under the anchors' names, and which of its tensors an anchor lent it."""
    architecture = sane.preparation.architecture_for(networks[0])
    prepared = [sane.preparation.prepare(own, architecture) for own in networks]
    layout = prepared[0].frame.layout
    tokens = torch.stack([own.tokens for own in prepared])
    fitted = sampler.fit(encode_tokens(sane, tokens, layout), positions_of(layout)[:, 1])
    samples = fitted.sample(1, derive_generator(seed, "sample"))
    carried = prepared[max(0, int(samples.anchors[0, 0]))].carried
    weights = restore(sane, samples.latents[0], architecture, carried)
    own_names = dict(zip(prepared[0].frame.names, architecture.shapes, strict=True))
    return weights, frozenset(own_names[name] for name in layout.carried)


@torch.no_grad()
def _fill(model: nn.Module, made: tuple[Weights, frozenset[str]], head: str, seed: int) -> dict[str, str]:
    """Copy what fits into a module; returns where every tensor of it comes from."""
    weights, carried = made
    state, sources = model.state_dict(), {}
    last = next(reversed(state)).rpartition(".")[0]
    for name, tensor in state.items():
        other = weights.get(name)
        if other is not None and other.shape == tensor.shape:
            tensor.copy_(other)
            sources[name] = "carried" if name in carried else "generated"
        elif head == "generated" and other is not None and name.rpartition(".")[0] == last and _longer(tensor, other):
            # By one seed, so that a bias moves with the rows of its weight.
            tensor.copy_(other[_draw_rows(len(other), len(tensor), seed)])
            sources[name] = "copied"
        else:
            sources[name] = "reinitialized"
    if not {"generated", "copied"} & set(sources.values()):
        raise InputError("expected a module that shares tensors with its anchors, found no name and shape in common")
    return sources


def _longer(tensor: Tensor, other: Tensor) -> bool:
    """Whether only the number of rows differs."""
    return tensor.ndim == other.ndim > 0 and tensor.shape[1:] == other.shape[1:] and tensor.is_floating_point()


def _draw_rows(there: int, wanted: int, seed: int) -> Tensor:
    """All rows in order as far as they go, then random ones again."""
    more = torch.randint(there, (max(0, wanted - there),), generator=derive_generator(seed, "rows"))
    return torch.cat([torch.arange(min(there, wanted)), more])
