"""Start the next training from generated weights: fill an ordinary module in place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from weightspace.autoencoder.coding import encode_tokens
from weightspace.autoencoder.sane import SANE
from weightspace.batch_norms import batch_norms, norm_statistics, recalibrate_batch_norm, with_positive_variances
from weightspace.corpus.preparation import Preparation
from weightspace.errors import InputError
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Sampler
from weightspace.generation.sampling import Coverage
from weightspace.graphs import bare_module
from weightspace.randomness import derive_generator, derive_seed
from weightspace.tokens.patterns import positions_of
from weightspace.weights.state_dicts import plain_names, unwrap
from weightspace.weights.values import Weights, find_aliases, require_finite
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights, fits
from weightspace.zoo.zoo import Zoo

Network = nn.Module | Mapping[str, Tensor]
INPUTS_TO_COMPARE, TOLERANCE = 8, 1e-3


class _Prompts(NamedTuple):
    """Anchors under their own names, and how they are prepared: aligned with each other or not."""

    weights: list[Weights]
    architecture: Architecture
    preparation: Preparation


def initialize(
    model: nn.Module,
    sane: SANE,
    *,
    anchors: Zoo | Sequence[Network],
    data: Tensor | Sequence[Tensor] | None = None,
    head: Literal["generated", "fresh"] = "generated",
    sampler: Sampler | None = None,
    seed: int = 0,
) -> Coverage:
    """Fill a module with generated weights, in place, and say where every tensor comes from.

    Paper, section 3.4: a few networks of the target task or architecture, trained for an epoch or a few, are prompts.

    Args:
        model: any module; tensors that anchors do not have, or have in another shape, stay as it was initialised.
        sane: a trained model; it need not have seen the architecture: statistics are then taken by layer kind, and
            anchors are not aligned with each other. They are aligned where the model knows the architecture and,
            on `data`, aligning changes nothing that the module computes.
        anchors: a zoo of one architecture, or modules or state dicts, all with the same shapes; those of the same
            network are brought to the module's names (see `fit_weights`).
        data: training inputs, to average batch-norm statistics over, a tensor for each input that the module takes;
            without it they are generated.
        head: what becomes of the last layer where it has another number of rows than the anchors', as for a task with
            more classes: `generated` draws its rows from the generated ones, `fresh` leaves it as initialised.
        sampler: kernel density with its default choices without it.
        seed: decides all that is random.

    Raises:
        InputError: no anchors or such that differ, one that is no state dict, a zoo of several architectures, inputs
            that the module does not take, or no tensor in common; the module is then as it was.

    Examples:
        >>> model = zoo.architectures[zoo.table["architecture"].iloc[0]].build()
        >>> coverage = initialize(model, sane, anchors=[zoo.weights(0)], data=images.train.inputs[:64])
        >>> "numbers generated" in str(coverage)
        True
    """
    if head not in ("generated", "fresh"):
        raise InputError(f"expected head to be generated or fresh, found '{head}'")
    model = bare_module(model)
    inputs = _require_inputs(model, data)
    prompts = _prompts(model, sane, anchors, inputs)
    made, carried = _sample(sane, prompts, sampler or KernelDensity(), derive_seed(seed, "initialize"))
    filled, sources = _fill(model, made, carried, head, derive_seed(seed, "head"))
    filled = with_positive_variances(filled, model)
    model.load_state_dict(filled, strict=False)
    if inputs and batch_norms(model):
        recalibrate_batch_norm(model, inputs)
        sources |= {name: "conditioned" for name in norm_statistics(model) if name in sources}
    state = model.state_dict()
    return Coverage(sources, {name: state[name].numel() for name in sources})


def _require_inputs(model: nn.Module, data: object) -> tuple[Tensor, ...]:
    """Inputs, one tensor for each that the module takes; such as it cannot take are refused before anything changes."""
    if data is None:
        return ()
    several = tuple(data) if isinstance(data, Sequence) and not isinstance(data, str) else (data,)
    inputs = tuple(tensor for tensor in several if isinstance(tensor, Tensor) and tensor.ndim)
    counts = {len(tensor) for tensor in inputs}
    if not inputs or len(inputs) < len(several) or len(counts) > 1 or min(counts) < 2:
        found = " and ".join(f"{len(tensor)}" for tensor in inputs) or type(data).__name__
        raise InputError(f"expected data to be a tensor of at least 2 inputs, found {found}")
    try:
        _answers(model, dict(model.state_dict()), inputs)
    except Exception as error:  # of any kind: it is the user's own module
        shapes = " and ".join(str(list(tensor.shape)) for tensor in inputs)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"expected data that the module takes, found inputs of shape {shapes}, at which it fails: {reason}"
        ) from error
    return inputs


def _answers(model: nn.Module, weights: Weights, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What the module would answer with other weights, in evaluation mode; it is left as it was."""
    modes = {part: part.training for part in model.modules()}
    try:
        with torch.no_grad():
            # Of tied tensors the first name stands for all, which torch otherwise refuses.
            state = model.state_dict()
            aliases = find_aliases(state)
            # In the module's precision, as loading them would have them.
            kinds = {name: state[name].dtype for name in weights if name in state and name not in aliases}
            once = {name: weights[name].to(kind) for name, kind in kinds.items()}
            few = tuple(tensor[:INPUTS_TO_COMPARE] for tensor in inputs)
            answers = functional_call(model.eval(), once, few)
        return [value for value in torch.utils._pytree.tree_leaves(answers) if isinstance(value, Tensor)]
    finally:
        for part, training in modes.items():
            part.training = training


def _prompts(model: nn.Module, sane: SANE, anchors: object, inputs: tuple[Tensor, ...]) -> _Prompts:
    """Anchors, aligned where that is known to change nothing."""
    if isinstance(anchors, Zoo):
        names = list(dict.fromkeys(anchors.table["architecture"]))
        if len(names) > 1:
            raise InputError(f"expected anchors of one architecture, found {', '.join(map(str, names))}")
        networks = [anchors.weights(row) for row in range(len(anchors))]
        known = anchors.architectures[str(names[0])] if names else None
    else:
        networks, known = _fitted(_weights_of(anchors), model), None
    if not networks:
        raise InputError("expected at least 1 anchor, found none")
    for number, network in enumerate(networks):
        require_finite(network, f"anchor {number}")
    if known is None:
        recognized = [sane.preparation.recognize(network) for network in networks]
        networks = [dict(one.weights) for one in recognized]
    architecture = known or recognized[0].architecture
    preparation = sane.preparation
    aligned = preparation.canonicalize(networks[0], architecture)
    if known is None and not _computes_the_same(model, networks[0], aligned, inputs):
        preparation = preparation.without_alignment(architecture)
    return _Prompts(networks, architecture, preparation)


def _computes_the_same(model: nn.Module, first: Weights, second: Weights, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a module answers alike with both weights; without inputs, or if they do not fit it, nobody knows."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if not inputs or {name: tensor.shape for name, tensor in first.items()} != shapes:
        return False
    pairs = zip(*(_answers(model, dict(weights), inputs) for weights in (first, second)), strict=True)
    return all(_alike(one.float(), other.float()) for one, other in pairs)


def _alike(one: Tensor, other: Tensor) -> bool:
    size = float(one.abs().max().clamp_min(1)) if one.numel() else 1.0
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * size)


def _fitted(networks: list[Weights], model: nn.Module) -> list[Weights]:
    """Anchors under the module's names, where they are the same network (see `fit_weights`); as they are otherwise."""
    described = Architecture.of_module(model, id="the module", factory="", arguments={}, example_shape=None)
    whole = {name: kind for name, kind in described.dtypes.items() if not getattr(torch, kind).is_floating_point}
    wanted = replace(described, dtypes=whole)  # in single precision, whatever the module's is
    return [fit_weights(weights, wanted).weights if fits(weights, wanted) else weights for weights in networks]


def _weights_of(anchors: object) -> list[Weights]:
    """State dicts of the same tensors, under the names that a module has."""
    if not isinstance(anchors, Sequence) or isinstance(anchors, str):
        raise InputError(f"expected a list of modules or state dicts as anchors, found one {type(anchors).__name__}")
    networks: list[Weights] = []
    for anchor in anchors:
        unwrapped = unwrap(dict(anchor.state_dict()) if isinstance(anchor, nn.Module) else anchor)
        if unwrapped is None:
            raise InputError(f"expected modules or state dicts as anchors, found {type(anchor).__name__} without one")
        names = plain_names(unwrapped.tensors).names
        networks.append({name: unwrapped.tensors[stored] for name, stored in names.items()})
    kinds = {tuple((name, tuple(tensor.shape)) for name, tensor in sorted(anchor.items())) for anchor in networks}
    if len(kinds) > 1:
        raise InputError(f"expected anchors with the same tensors, found {len(kinds)} different kinds")
    return networks


def _sample(sane: SANE, prompts: _Prompts, sampler: Sampler, seed: int) -> tuple[Weights, frozenset[str]]:
    """One generated network under the anchors' names, and which of its tensors an anchor lent it."""
    architecture = prompts.architecture
    prepared = [prompts.preparation.prepare(own, architecture) for own in prompts.weights]
    frame = prepared[0].frame
    layout = frame.layout
    if layout.size == 0:
        raise InputError("expected anchors with 16- or 32-bit floating-point weights, found none")
    tokens = torch.stack([own.tokens for own in prepared])
    density = sampler.fit(encode_tokens(sane.network, tokens, layout), positions_of(layout)[:, 1])
    samples = density.sample(1, derive_generator(seed, "sample"))
    carried = prepared[max(0, int(samples.anchors[0, 0]))].carried
    weights = sane.decode(samples.latents[0], architecture, carried)
    names = frame.own_names(architecture)
    return weights, frozenset(names[name] for name in layout.carried)


def _fill(
    model: nn.Module, generated: Weights, carried: frozenset[str], head: str, seed: int
) -> tuple[Weights, dict[str, str]]:
    """What a module gets, and where each of its tensors comes from; tied ones count once."""
    state = model.state_dict()
    state = {name: state[name] for name in state if name not in find_aliases(state)}
    last = next(reversed(state)).rpartition(".")[0]
    filled, sources = {}, {}
    for name, tensor in state.items():
        rows = generated.get(name)
        if rows is not None and rows.shape == tensor.shape:
            filled[name], sources[name] = rows, "carried" if name in carried else "generated"
        elif head == "generated" and rows is not None and name.rpartition(".")[0] == last and _longer(tensor, rows):
            # By one seed, so that a bias moves with the rows of its weight.
            filled[name], sources[name] = rows[_draw_rows(len(rows), len(tensor), seed)], "copied"
        else:
            sources[name] = "reinitialized"
    if not {"generated", "copied"} & set(sources.values()):
        raise InputError("expected a module that shares tensors with its anchors, found no name and shape in common")
    return filled, sources


def _longer(tensor: Tensor, other: Tensor) -> bool:
    """Whether only the number of rows differs."""
    return tensor.ndim == other.ndim > 0 and tensor.shape[1:] == other.shape[1:] and tensor.is_floating_point()


def _draw_rows(there: int, wanted: int, seed: int) -> Tensor:
    """All rows in order as far as they go, then random ones again."""
    more = torch.randint(there, (max(0, wanted - there),), generator=derive_generator(seed, "rows"))
    return torch.cat([torch.arange(min(there, wanted)), more])
