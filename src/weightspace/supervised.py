"""Train and score ordinary `nn.Module`s, one or many of the same architecture at once.

Many networks are held as one *stack*: `dict[str, Tensor]` whose tensors have a leading axis over networks.
A stack is trained through `torch.func`: every network has its own data order, learning rate and weight
decay, and the arithmetic is that of training it alone, which `fit_one` does. Both run where the tensors are.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from weightspace.devices import require_one_device
from weightspace.errors import InputError
from weightspace.images import Images
from weightspace.randomness import derive_generator, derive_seed, own_randomness
from weightspace.weights.values import Weights, find_aliases

Stack = Weights
# Networks times images that go through at once: bounds the memory of scoring.
PAIRS_AT_ONCE = 16_384
IMAGES_AT_ONCE = 1_000
FEWEST_CHANNELS_LAST = 8


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How networks are trained."""

    epochs: int = 10
    """Passes over the training images."""

    batch_size: int = 64
    """Images a step; the last, incomplete batch of an epoch is dropped."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """`adam`, or `sgd` with momentum 0.9; weight decay is the L2 kind in both."""

    schedule: Literal["constant", "one-cycle"] = "constant"
    """Learning rate over the steps: constant, or one cosine cycle that warms up over 30 % of them."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` computes outputs and losses of networks that are trained one by one in it; weights stay in fp32."""


class Scores(NamedTuple):
    """Accuracy in [0, 1] and mean cross-entropy in nats of every network of a stack."""

    accuracy: Float[Tensor, "networks"]
    loss: Float[Tensor, "networks"]


def stack_weights(networks: Sequence[Weights]) -> Stack:
    """Stack the weights of networks of one architecture along a new first axis (copies)."""
    return {name: torch.stack([weights[name] for weights in networks]) for name in networks[0]}


def unstack_weights(stack: Stack) -> list[Weights]:
    """The inverse of `stack_weights` (views)."""
    count = len(next(iter(stack.values())))
    return [{name: tensor[index] for name, tensor in stack.items()} for index in range(count)]


def fit_stack(
    module: nn.Module,
    stack: Stack,
    images: Images,
    config: FitConfig,
    *,
    learning_rates: Float[Tensor, "networks"],
    weight_decays: Float[Tensor, "networks"],
    seeds: Sequence[int],
) -> Iterator[tuple[int, Stack]]:
    """Train a stack; yields `(epoch, stack)` after every epoch, starting with `(0, stack)`.

    Runs where the images are. The yielded stack is the one being trained (not a copy), so keep what you need before
    going on. Training pauses while the caller works, so stopping to iterate stops the training. Tied tensors stay tied.
    In 32 bits, whatever `config.precision` says.
    Dropout draws for the whole stack at once, so with dropout a network's course depends on its neighbors in the stack.

    The optimiser runs at learning rate 1 and every network then moves the share `learning_rate` of the step:
    for optimisers whose step is linear in the learning rate, as SGD and Adam are, that is its own rate.
    """
    steps = count_steps(images, config)
    device = images.labels.device
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    aliases = find_aliases(module.state_dict())
    held = {name: tensor.to(device, copy=True) for name, tensor in stack.items() if name not in aliases}
    parameters = {name: tensor for name, tensor in held.items() if name in trained}
    buffers = {name: tensor for name, tensor in held.items() if name not in trained}
    # At rate 1; `move` then takes each network's own share of the step.
    optimizer = make_optimizer(list(parameters.values()), config, 1.0, 0.0)
    gradient = vmap(grad(_loss_of(module)), in_dims=0, randomness="different")
    generators = [derive_generator(seed, "order") for seed in seeds]
    learning_rates, weight_decays = learning_rates.to(device), weight_decays.to(device)
    yield 0, _with_aliases({**parameters, **buffers}, aliases)
    for epoch in range(1, config.epochs + 1):
        module.train()  # whoever was given the stack may have scored it
        orders = torch.stack([torch.randperm(len(images.labels), generator=generator) for generator in generators])
        orders = orders.to(device)
        for step in range(steps):
            batch = orders[:, step * config.batch_size : (step + 1) * config.batch_size]
            with own_randomness(derive_seed(seeds[0], "dropout", epoch, step), device):
                gradients = gradient(parameters, buffers, _take(images.inputs, batch), images.labels[batch])
            share = schedule(config, (epoch - 1) * steps + step, config.epochs * steps)
            move(parameters, gradients, optimizer, learning_rates * share, weight_decays)
        yield epoch, _with_aliases({**parameters, **buffers}, aliases)


def fit_one(
    module: nn.Module,
    images: Images,
    config: FitConfig,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    seed: int,
    channels_last: bool = False,
) -> Iterator[int]:
    """Train one module in place; yields the epoch after each one, starting with 0.

    The same seed gives the same order of images as in `fit_stack`, so a network comes out the same up to
    rounding, whichever way it was trained (with dropout, which draws differently, only much alike).

    Args:
        module: on the device of the images.
        images: what to train on.
        config: for how long and how.
        learning_rate: at the peak of the schedule.
        weight_decay: L2.
        seed: of the order of images, and of whatever the module draws from a global state: dropout, say.
        channels_last: keep images and convolutions in that memory format, which is faster on CPUs.

    Raises:
        InputError: a batch size that is none, or channels-last memory where torch cannot bear it.
    """
    steps = count_steps(images, config)
    if channels_last:
        require_channels_last(module)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = _channels_last(images)
    optimizer = make_optimizer(list(module.parameters()), config, learning_rate, weight_decay)
    generator = derive_generator(seed, "order")
    yield 0
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(images.labels), generator=generator).to(images.labels.device)
        module.train()
        with own_randomness(derive_seed(seed, "dropout", epoch), images.labels.device):
            for step in range(steps):
                batch = order[step * config.batch_size : (step + 1) * config.batch_size]
                optimizer.param_groups[0]["lr"] = learning_rate * schedule(
                    config, (epoch - 1) * steps + step, config.epochs * steps
                )
                optimizer.zero_grad()
                with torch.autocast(batch.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    loss = functional.cross_entropy(module(images.inputs[batch]), images.labels[batch])
                loss.backward()
                optimizer.step()
        yield epoch


def faster_alone(module: nn.Module, device: torch.device) -> bool:
    """Whether networks are faster one by one than stacked: those with convolutions are, on a CPU."""
    return device.type == "cpu" and any(isinstance(part, nn.Conv2d) for part in module.modules())


def bears_channels_last(module: nn.Module) -> bool:
    """Whether `require_channels_last` lets it pass."""
    try:
        require_channels_last(module)
    except InputError:
        return False
    return True


def require_channels_last(module: nn.Module) -> None:
    """Raise `InputError` if channels-last memory would crash torch on a CPU.

    Found with torch 2.13 (oneDNN): the gradient of a strided 1 x 1 convolution of fewer than 8 channels writes
    beyond its memory.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and set(part.kernel_size) == {1} and max(part.stride) > 1:
            channels = part.in_channels // part.groups
            if channels < FEWEST_CHANNELS_LAST:
                raise InputError(
                    f"expected at least {FEWEST_CHANNELS_LAST} channels into the strided 1 x 1 convolution {name} for "
                    f"channels-last memory, in which torch crashes otherwise, found {channels}: use --plan alone"
                )


def predict(module: nn.Module, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n classes"]:
    """Outputs of one module in evaluation mode."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module(batch) for batch in inputs.split(IMAGES_AT_ONCE)])


def predict_stack(
    module: nn.Module, stack: Stack, inputs: Float[Tensor, "n ..."]
) -> Float[Tensor, "networks n classes"]:
    """Outputs of every network on the same inputs, in evaluation mode; runs where the inputs are."""
    module.eval()
    aliases = find_aliases(module.state_dict())
    stack = _moved(module, {name: tensor for name, tensor in stack.items() if name not in aliases}, inputs.device)

    count = len(next(iter(stack.values())))

    def predict(weights: Weights, batch: Tensor) -> Tensor:
        return functional_call(module, weights, (batch,))

    def alone(inputs: Tensor) -> Tensor:
        batches = inputs.split(IMAGES_AT_ONCE)
        return torch.stack([torch.cat([predict(own, batch) for batch in batches]) for own in unstack_weights(stack)])

    with torch.no_grad():
        if inputs.ndim == 4 and faster_alone(module, inputs.device):
            return alone(inputs.contiguous(memory_format=torch.channels_last))
        try:
            batches = inputs.split(max(1, PAIRS_AT_ONCE // count))
            return torch.cat([vmap(predict, in_dims=(0, None))(stack, batch) for batch in batches], dim=1)
        except RuntimeError as refusal:
            if "vmap" not in str(refusal):
                raise
            return alone(inputs)


def answer_stack(
    module: nn.Module, stack: Stack, inputs: Float[Tensor, "n ..."]
) -> Float[Tensor, "networks n classes"]:
    """Outputs of every network on the same inputs, as the module is (training or evaluation mode), with gradients.

    Runs where the inputs are. Stacked where possible; a module with control flow that depends on values runs network
    by network.
    """
    stack = _moved(module, stack, inputs.device)

    def answer(weights: Weights) -> Tensor:
        return functional_call(module, weights, (inputs,))

    try:
        return vmap(answer)(stack)
    except RuntimeError as refusal:
        if "vmap" not in str(refusal):
            raise
        return torch.stack([answer(weights) for weights in unstack_weights(stack)])


def score_stack(module: nn.Module, stack: Stack, images: Images) -> Scores:
    """Accuracy and loss of every network on the same images."""
    outputs = predict_stack(module, stack, images.inputs)
    return score_outputs(outputs, images.labels)


def score_outputs(outputs: Float[Tensor, "networks n classes"], labels: Int[Tensor, "n"]) -> Scores:
    """Accuracy and loss (on the CPU) of outputs that `predict_stack` gave."""
    accuracy = (outputs.argmax(-1) == labels).to(torch.float32).mean(-1)
    targets = labels.expand(len(outputs), -1)
    loss = functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(-1)
    return Scores(accuracy.cpu(), loss.cpu())


def score(module: nn.Module, images: Images) -> Scores:
    """Accuracy and loss of one module, as a stack of one."""
    return score_outputs(predict(module, images.inputs)[None], images.labels)


def _moved(module: nn.Module, stack: Stack, device: torch.device) -> Stack:
    """A stack on a device, and the module, whose constants may be no weights, moved there too."""
    module.to(device)
    return {name: tensor.to(device) for name, tensor in stack.items()}


def _with_aliases(stack: Stack, aliases: dict[str, str]) -> Stack:
    return {**stack, **{alias: stack[name] for alias, name in aliases.items()}}


def _loss_of(module: nn.Module) -> Callable[..., Tensor]:
    def loss(parameters: Weights, buffers: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(module, (parameters, buffers), (inputs,)), labels)

    return loss


def _take(inputs: Float[Tensor, "n ..."], batch: Int[Tensor, "networks size"]) -> Tensor:
    """`inputs[batch]`, in half the time."""
    return inputs.index_select(0, batch.flatten()).view(*batch.shape, *inputs.shape[1:])


def count_steps(images: Images, config: FitConfig) -> int:
    """Steps of an epoch."""
    require_one_device("images and labels", images)
    steps = len(images.labels) // max(1, config.batch_size)
    if config.batch_size < 1 or steps < 1 or config.epochs < 0:
        raise InputError(f"expected a batch size between 1 and {len(images.labels)}, found {config.batch_size}")
    return steps


def draws_at_random(module: nn.Module, inputs: Float[Tensor, "n ..."]) -> bool:
    """Whether a module in training draws from a global state, as dropout does; it stays as it was."""
    state, modes = copy.deepcopy(module.state_dict()), {part: part.training for part in module.modules()}
    answers = []
    for seed in (0, 1):
        with own_randomness(seed, inputs.device), torch.no_grad():
            answers.append(module.train()(inputs))
        module.load_state_dict(state)
    for part, training in modes.items():
        part.training = training
    return not torch.equal(*answers)


def can_be_stacked(module: nn.Module, inputs: Float[Tensor, "n ..."]) -> bool:
    """Whether torch's vmap can train several networks of a module at once: not if its course depends on values."""
    duplicate = copy.deepcopy(module)
    stack = stack_weights([duplicate.state_dict()] * 2)
    rates = torch.zeros(2, device=inputs.device)
    labels = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
    fitting = fit_stack(
        duplicate,
        stack,
        Images(inputs, labels),
        FitConfig(epochs=1, batch_size=len(inputs)),
        learning_rates=rates,
        weight_decays=rates,
        seeds=(0, 1),
    )
    try:
        for _ in fitting:
            pass
    except Exception:  # noqa: BLE001 # whatever a stranger's module does under vmap: it is trained alone then
        return False
    return True


def _channels_last(images: Images) -> Images:
    """The same images so laid out in memory that a batch taken from them is channels-last."""
    return Images(images.inputs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), images.labels)


def make_optimizer(
    parameters: list[Tensor], config: FitConfig, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam or SGD over parameters, in one fused step; weight decay is the L2 kind."""
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=0.9, fused=True)


def schedule(config: FitConfig, step: int, steps: int) -> float:
    """The share of the peak learning rate at `step`."""
    if config.schedule == "constant":
        return 1.0
    warm = max(1, round(0.3 * steps))
    progress = (step + 1) / warm if step < warm else 1 + (step - warm) / max(1, steps - warm)
    return 0.5 * (1 - float(torch.cos(torch.tensor(progress * torch.pi))))


def move(
    parameters: Weights,
    gradients: Weights,
    optimizer: torch.optim.Optimizer,
    rates: Float[Tensor, "networks"],
    decays: Float[Tensor, "networks"],
) -> None:
    """One optimiser step, in place, each network at its own learning rate and weight decay."""
    before = {name: tensor.clone() for name, tensor in parameters.items()}
    for name, tensor in parameters.items():
        tensor.grad = gradients[name] + _along(decays, tensor) * tensor
    optimizer.step()
    for name, tensor in parameters.items():
        torch.lerp(before[name], tensor, _along(rates, tensor).to(tensor.dtype), out=tensor)


def _along(values: Float[Tensor, "networks"], tensor: Tensor) -> Tensor:
    return values.view(-1, *[1] * (tensor.ndim - 1))
