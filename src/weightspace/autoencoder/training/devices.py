"""What training runs on: one process or several, which precision, compiled or not.

Processes are started from outside (`torchrun` or `accelerate launch`) and found by accelerate.
"""

import atexit
import gc
import time
from functools import cache

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.nn import functional

from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.devices import Operations, choose_device
from weightspace.errors import InputError

# Compiling took 45 to 115 s on an H100. It saved 4 ms a step of a small model (240,000 parameters), and 28 of one with
# 200 million: `benchmarks/device.py`, docs/tables/device-h100.json.
WORTH_PARAMETERS, WORTH_STEPS = 50_000_000, 3_000
# Smaller models are slower in bf16 everywhere (`benchmarks/pretrain.py`).
LARGE = 1_000_000
# A processor computes large models in bf16 if a layer of this width takes so many times as long in fp32.
CLEARLY, TRIED_WIDTH, TRIED_ROWS = 1.25, 256, 1_024


def make_accelerator(*, idle: bool = False) -> Accelerator:
    """Devices and processes; `idle` if a step does not use all parameters.

    Precision is not its business (see `lowered_precision`): accelerate settles on the first one of a process, so that
    a bf16 model could not be distilled by the program that pre-trained it.
    """
    return Accelerator(
        cpu=_on_cpu(),
        device_placement=False,  # see `training_device`
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle)],
    )


def training_device(accelerator: Accelerator, asked: str, operations: Operations) -> torch.device:
    """What this process trains on: as asked alone, each its own of several that were started together.

    Raises:
        InputError: no such device, or one of them for several processes.
    """
    if accelerator.num_processes == 1:
        return choose_device(asked, operations)
    if asked not in ("auto", accelerator.device.type):
        own = f"auto for {accelerator.num_processes} processes, each of which has its own {accelerator.device.type}"
        raise InputError(f"expected --device {own}, found '{asked}'")
    return accelerator.device


def training_operations(network: nn.Module, config: TrainConfig) -> float:
    """Floating-point operations of pre-training: two for a parameter and token, forward, and twice as many backward."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    views = 2 if config.contrastive_weight else 1
    return 6.0 * parameters * config.window * config.batch_size * views * config.steps


def team() -> PartialState:
    """The processes that were started together; one, unless a launcher started several."""
    state = PartialState(cpu=_on_cpu())
    if state.num_processes > 1:
        atexit.register(_disband, state)
    return state


def _disband(state: PartialState) -> None:
    """Python must not end while gloo's threads run: the process would abort, its work done."""
    gc.collect()  # a wrapped model that lies about holds the group, which outlives its end then
    state.destroy_process_group()


def lowered_precision(config: TrainConfig | DistillConfig, device: torch.device, network: nn.Module) -> torch.autocast:
    """The precision in which steps are computed, to be entered.

    bf16 is 50 times slower than fp32 on CPUs that lack it, slower on some that have it, and slower for small models on
    all; distilling, which runs other people's networks, is in fp32.
    """
    wanted = config.precision if isinstance(config, TrainConfig) else "fp32"
    if wanted == "auto":
        large = sum(parameter.numel() for parameter in network.parameters()) >= LARGE
        able = torch.cuda.is_bf16_supported() if device.type == "cuda" else large and faster_in_bf16()
        wanted = "bf16" if able else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted == "bf16")


@cache
def faster_in_bf16() -> bool:
    """Whether this machine's processor trains clearly faster in bf16 than in fp32: measured once a process.

    What it says of itself does not tell: of two that have instructions for it (AVX-512 BF16), one took 0.4 of the time
    of fp32 and one 1.7 times as long.
    """
    return multiplies_bf16() and seconds_of_a_step(torch.float32) > CLEARLY * seconds_of_a_step(torch.bfloat16)


def multiplies_bf16() -> bool:
    """Whether this machine's processor has instructions that multiply bf16; without, it takes 50 times as long."""
    has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch that we take
    return any(has.get(kind, False) for kind in ("avx512_bf16", "amx_bf16", "bf16"))


def seconds_of_a_step(precision: torch.dtype) -> float:
    """Forward and backward through one linear layer of a large model on the CPU: the shortest of five times."""
    with torch.inference_mode(False):
        x, weight = torch.ones(TRIED_ROWS, TRIED_WIDTH), torch.ones(4 * TRIED_WIDTH, TRIED_WIDTH)
    inputs = (x.requires_grad_(), weight.requires_grad_())
    lowered, times = precision != torch.float32, []
    for _ in range(5):
        started = time.perf_counter()
        # Whoever asks may compute without gradients.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", precision, enabled=lowered):
            torch.autograd.grad(functional.linear(*inputs).sum(), inputs)
        times.append(time.perf_counter() - started)
    return min(times)


def compiled(module: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """The module, compiled where the configuration and the device ask for it; parameters are shared."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    worth_it = device.type == "cuda" and parameters >= WORTH_PARAMETERS and config.steps >= WORTH_STEPS
    wanted = config.compile == "on" or (config.compile == "auto" and worth_it)
    return torch.compile(module) if wanted else module  # type: ignore[return-value]


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _several() else 1


def rows_of_all_processes(rows: Float[Tensor, "batch width"]) -> Float[Tensor, "all width"]:
    """Rows of every process, in order, with a gradient to one's own.

    A loss computed from them on every process has the same value everywhere; its gradient is each process's
    part, `processes()` times, as gradients are averaged over processes afterwards.
    """
    if not _several():
        return rows
    gathered = [torch.empty_like(rows) for _ in range(processes())]
    distributed.all_gather(gathered, rows.detach())
    gathered[distributed.get_rank()] = rows
    return _TimesProcesses.apply(torch.cat(gathered))


class _TimesProcesses(torch.autograd.Function):
    """The values as they are; gradients times the number of processes."""

    @staticmethod
    def forward(context: object, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return gradient * processes()


def _on_cpu() -> bool:
    """Without an accelerator; accelerate finds several processes on CPUs only when it is told."""
    return not torch.accelerator.is_available()


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
