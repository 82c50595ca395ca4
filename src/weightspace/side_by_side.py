"""Networks of one architecture side by side, as one: channels beside channels, every convolution grouped.

A CPU computes sixteen channels as fast as one; the convolutions of small networks have eight or fewer, and steps so
short that dispatching them takes as long as computing them. A few networks side by side fill both, if their memory is
channels-last. Every network keeps its data order, learning rate and weight decay, so it comes out as if it was alone,
up to rounding. What may stand so is not listed: `can_stand_side_by_side` tries it.

An accelerator is slow at convolutions of many groups, which is what stacked ones are, and fast at many products of
matrices: there a stack's convolutions may be unfolded (`unfold_convolutions`).
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from weightspace.errors import InputError
from weightspace.images import Images
from weightspace.randomness import derive_generator, derive_seed, own_randomness
from weightspace.supervised import (
    FitConfig,
    Scores,
    Stack,
    bears_channels_last,
    count_steps,
    make_optimizer,
    move,
    schedule,
    score_outputs,
    stack_weights,
)
from weightspace.weights.values import find_aliases

# More networks than this fill the lanes of a CPU no better and its cache worse (two to eight tried).
BESIDE_EACH_OTHER = 4
# Images that go through one network at once when scoring: what lies between layers stays in the cache.
IMAGES_AT_ONCE = 1_000
# Two ways to the same numbers in float64, relative to the largest.
TOLERANCE = 1e-8


class SideBySide:
    """Networks of one architecture as one module, which holds their weights.

    Attributes:
        count: networks.
        module: all of them; inputs `[batch, networks * channels, height, width]`, or `[batch, channels, height, width]`
            that all of them are given; outputs `[batch, networks * classes]`.
        numbers: every trained parameter of every network in one vector, tensor by tensor, in each network by network.

    Raises:
        InputError: a parameter without an axis, of which there cannot be several side by side.
    """

    def __init__(self, module: nn.Module, stack: Stack) -> None:
        self.count = len(next(iter(stack.values())))
        self._aliases = find_aliases(module.state_dict())
        self._names = list(stack)
        self._held = {name: tensor.clone() for name, tensor in stack.items() if name not in self._aliases}
        self.module = _widen(copy.deepcopy(module), self.count)
        parameters = dict(self.module.named_parameters())
        if flat := [name for name, tensor in parameters.items() if self._held[name].ndim < 2]:
            raise InputError(f"expected parameters with an axis for networks side by side, found {flat[0]} without")
        self._trained = [name for name, tensor in parameters.items() if tensor.requires_grad]
        self.numbers = torch.cat([self._held[name].flatten() for name in self._trained])
        blocks = self.numbers.split([self._held[name].numel() for name in self._trained])
        for name, block in zip(self._trained, blocks, strict=True):
            self._held[name] = block.view_as(self._held[name])
        for name, tensor in parameters.items():
            tensor.data = self._held[name].flatten(0, 1)
        for name in self._held.keys() - parameters.keys():
            self._hold_buffer(name)

    def _hold_buffer(self, name: str) -> None:
        """Let module and stack share a buffer; one without an axis, which counts batches, is the same for all."""
        owner, _, leaf = name.rpartition(".")
        tensor = self._held[name]
        buffer = tensor[0].clone() if tensor.ndim < 2 else tensor.flatten(0, 1)
        self.module.get_submodule(owner)._buffers[leaf] = buffer
        self._held[name] = buffer.expand(self.count) if tensor.ndim < 2 else tensor

    @property
    def stack(self) -> Stack:
        """Their weights, views of what is trained."""
        return {name: self._held[self._aliases.get(name, name)] for name in self._names}

    @property
    def trained(self) -> list[Tensor]:
        """The parameters of the module that are trained, in the order of `numbers`."""
        parameters = dict(self.module.named_parameters())
        return [parameters[name] for name in self._trained]

    def spread(self, values: Float[Tensor, "networks"]) -> Float[Tensor, "numbers"]:
        """A value of each network for every one of its numbers."""
        shares = [values[:, None].expand(self.count, self._held[name][0].numel()) for name in self._trained]
        return torch.cat([share.flatten() for share in shares]).to(self.numbers.device)

    def answer(self, inputs: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n networks classes"]:
        """Outputs of every network, with gradients, in the mode that the module is in."""
        outputs = self.module(inputs)
        if outputs.ndim != 2:
            raise InputError(f"expected outputs [batch, classes] of networks side by side, found {outputs.ndim} axes")
        return outputs.view(len(outputs), self.count, -1)


class _Convolutions(nn.Conv2d):
    """Convolutions of several networks; an input that they share goes through one ordinary convolution."""

    def __init__(self, part: nn.Conv2d, count: int) -> None:
        super().__init__(
            *(count * part.in_channels, count * part.out_channels, part.kernel_size),  # type: ignore[arg-type]
            stride=part.stride,  # type: ignore[arg-type]
            padding=part.padding,  # type: ignore[arg-type]
            dilation=part.dilation,  # type: ignore[arg-type]
            groups=count * part.groups,
            bias=part.bias is not None,
            padding_mode=part.padding_mode,
            device="meta",
        )
        self.weight, self.bias = part.weight, part.bias
        self.count = count

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs `[batch, (networks *) channels, height, width]`, outputs `[batch, networks * channels, ...]`."""
        weight = _channels_last(self.weight)
        if inputs.shape[1] == self.in_channels:
            return self._conv_forward(inputs, weight, self.bias)
        if self.padding_mode != "zeros" or self.groups != self.count:
            return self._conv_forward(inputs.repeat(1, self.count, 1, 1), weight, self.bias)
        return functional.conv2d(inputs, weight, self.bias, self.stride, self.padding, self.dilation)


class _Linears(nn.Module):
    """Linear layers of several networks; an input that they share goes through one ordinary layer."""

    def __init__(self, part: nn.Linear, count: int) -> None:
        super().__init__()
        self.weight, self.bias = part.weight, part.bias
        self.count, self.in_features = count, part.in_features

    def forward(self, inputs: Float[Tensor, "n features"]) -> Float[Tensor, "n outputs"]:
        """Inputs `[batch, (networks *) features]`, outputs `[batch, networks * features]`."""
        if inputs.shape[1] == self.in_features:
            return functional.linear(inputs, self.weight, self.bias)
        parts = inputs.reshape(len(inputs), self.count, self.in_features).transpose(0, 1)
        outputs = torch.bmm(parts, self.weight.view(self.count, -1, self.in_features).transpose(1, 2))
        outputs = outputs.transpose(0, 1).reshape(len(inputs), -1)
        return outputs if self.bias is None else outputs + self.bias


def _widen(module: nn.Module, count: int) -> nn.Module:
    """The module with every layer that mixes channels replaced by that of `count` networks."""
    # A layer that stands in two places stays one layer.
    replaced = {part: _widened(part, count) for part in module.modules()}
    for part in replaced:
        part._modules |= {name: replaced[child] for name, child in part._modules.items() if child is not None}
    return replaced[module]


def _widened(part: nn.Module, count: int) -> nn.Module:
    wide: nn.Module = part
    if isinstance(part, nn.Conv2d):
        wide = _Convolutions(part, count)
    elif isinstance(part, nn.Linear):
        wide = _Linears(part, count)
    elif isinstance(part, nn.modules.batchnorm._BatchNorm):
        part.num_features *= count
    elif isinstance(part, nn.GroupNorm):
        part.num_groups, part.num_channels = count * part.num_groups, count * part.num_channels
    return wide


def fit_side_by_side(
    networks: SideBySide,
    images: Images,
    config: FitConfig,
    *,
    learning_rates: Float[Tensor, "networks"],
    weight_decays: Float[Tensor, "networks"],
    seeds: Sequence[int],
) -> Iterator[int]:
    """Train networks side by side in place; yields the epoch after each one, starting with 0.

    Every network comes out as `fit_one` would train it with its seed, up to rounding, dropout excepted. In 32 bits.
    The optimiser runs at rate 1, as in `fit_stack`. Networks and images are on one device.
    """
    steps, device = count_steps(images, config), images.labels.device
    pixels = images.inputs.movedim(1, -1).contiguous()
    optimizer = make_optimizer([networks.numbers], config, 1.0, 0.0)
    generators = [derive_generator(seed, "order") for seed in seeds]
    rates, decays = networks.spread(learning_rates), networks.spread(weight_decays)
    yield 0
    for epoch in range(1, config.epochs + 1):
        networks.module.train()  # whoever was given the networks may have scored them
        orders = torch.stack([torch.randperm(len(images.labels), generator=generator) for generator in generators])
        with own_randomness(derive_seed(seeds[0], "dropout", epoch), device):
            for step, batch in enumerate(orders.to(device).split(config.batch_size, 1)[:steps]):
                outputs = networks.answer(_beside_each_other(pixels, batch))
                gradients = torch.autograd.grad(_losses(outputs, images.labels[batch]), networks.trained)
                share = schedule(config, (epoch - 1) * steps + step, config.epochs * steps)
                move(
                    {"numbers": networks.numbers},
                    {"numbers": torch.cat([gradient.flatten() for gradient in gradients])},
                    optimizer,
                    rates * share,
                    decays,
                )
        yield epoch


def predict_side_by_side(
    networks: SideBySide, inputs: Float[Tensor, "n channels height width"]
) -> Float[Tensor, "networks n classes"]:
    """Outputs of every network on the same inputs, in evaluation mode."""
    networks.module.eval()
    parts = _channels_last(inputs).split(max(1, IMAGES_AT_ONCE // networks.count))
    with torch.no_grad():
        return torch.cat([networks.answer(part) for part in parts]).transpose(0, 1)


def score_side_by_side(networks: SideBySide, images: Images) -> Scores:
    """Accuracy and loss of every network on the same images."""
    return score_outputs(predict_side_by_side(networks, images.inputs), images.labels)


def can_stand_side_by_side(module: nn.Module, inputs: Float[Tensor, "n channels height width"]) -> bool:
    """Whether networks of a module side by side answer, and learn, as each of them does alone.

    Tried on two with random parameters and buffers in float64, in training and in evaluation mode; never where torch
    cannot bear channels-last memory.
    """
    if not bears_channels_last(module):
        return False
    try:
        return _agree(module, inputs.double())
    except Exception:  # noqa: BLE001 # whatever a stranger's module does side by side: it is trained alone then
        return False


def _agree(module: nn.Module, inputs: Float[Tensor, "n channels height width"]) -> bool:
    alone = [_randomized(copy.deepcopy(module).double(), seed) for seed in (0, 1)]
    networks = SideBySide(alone[0], stack_weights([network.state_dict() for network in alone]))
    inputs_of = [inputs, inputs.flip(0)]
    for training in (True, False):
        networks.module.train(training)
        expected = torch.stack([one.train(training)(given) for one, given in zip(alone, inputs_of, strict=True)], 1)
        reached = networks.answer(torch.cat(inputs_of, 1))
        if not _close(reached, expected):
            return False
    shared = torch.stack([one(inputs) for one in alone], 1)
    loss = expected.square().sum()
    trained = [[tensor for tensor in one.parameters() if tensor.requires_grad] for one in alone]
    wanted = [torch.autograd.grad(loss, tensors, retain_graph=True) for tensors in trained]
    gradients = torch.autograd.grad(reached.square().sum(), networks.trained)
    pairs = zip(gradients, *wanted, strict=True)
    return _close(networks.answer(inputs), shared) and all(
        _close(gradient, torch.cat([first, second])) for gradient, first, second in pairs
    )


def _randomized(module: nn.Module, seed: int) -> nn.Module:
    """The module with other weights: on fresh ones a forgotten norm would go unnoticed."""
    generator = derive_generator(seed, "side by side")
    with torch.no_grad():
        for tensor in module.parameters():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(tensor.cpu() + 0.1 * noise)
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + 0.5)
    return module


def _close(values: Tensor, others: Tensor) -> bool:
    limit = TOLERANCE * float(others.detach().abs().max())
    return values.shape == others.shape and float((values - others).detach().abs().max()) <= limit


def _beside_each_other(
    pixels: Float[Tensor, "n height width channels"], batch: Int[Tensor, "networks size"]
) -> Float[Tensor, "size together height width"]:
    """Every network's batch, channels beside channels, in channels-last memory."""
    networks, size = batch.shape
    taken = pixels.index_select(0, batch.T.flatten()).view(size, networks, *pixels.shape[1:])
    return taken.permute(0, 2, 3, 1, 4).reshape(size, *pixels.shape[1:3], -1).contiguous().movedim(-1, 1)


def _channels_last(tensor: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
    """A copy in that memory format; torch's own call leaves the strides of one channel as they are, and they decide."""
    return tensor.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def _losses(outputs: Float[Tensor, "size networks classes"], labels: Int[Tensor, "networks size"]) -> Tensor:
    """The sum over networks of each one's mean cross-entropy."""
    return functional.cross_entropy(outputs.flatten(0, 1), labels.T.flatten(), reduction="sum") / len(outputs)


class UnfoldedConv2d(nn.Conv2d):
    """A convolution as a product of its kernel with the places that it looks at, copied beside each other."""

    def forward(self, input: Float[Tensor, "n channels height width"]) -> Tensor:
        """The same numbers as `nn.Conv2d`, up to rounding; as many copies of the input as a kernel has places."""
        assert not isinstance(self.padding, str), "see `unfold_convolutions`"
        places = functional.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)
        outputs = self.weight.flatten(1) @ places
        outputs = outputs if self.bias is None else outputs + self.bias[:, None]
        height, width = (
            (length + 2 * pad - gap * (kernel - 1) - 1) // step + 1
            for length, kernel, gap, pad, step in zip(
                input.shape[-2:], self.kernel_size, self.dilation, self.padding, self.stride, strict=True
            )
        )
        return outputs.unflatten(-1, (height, width))


def unfold_convolutions(module: nn.Module) -> nn.Module:
    """A copy of a module whose convolutions are unfolded, those in groups or with other padding than zeros apart; its
    parameters have the same names.
    """
    module = copy.deepcopy(module)
    for part in module.modules():
        plain = type(part) is nn.Conv2d and part.groups == 1 and part.padding_mode == "zeros"
        if plain and not isinstance(part.padding, str):
            part.__class__ = UnfoldedConv2d
    return module
