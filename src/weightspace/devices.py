"""What work runs on: one `--device`, of one meaning everywhere.

A model runs where it is (`SANE.to`), training and scoring where the images are. Whoever opens either for a whole piece
of work asks here once.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from weightspace.errors import InputError

# How many a piece of work takes, or how to count them, which is done only where there is a choice.
Operations = float | Callable[[], float]
# Floating-point operations under which `auto` stays on the processor: eight seconds of one core here. Starting a GPU
# takes three, and small work leaves it idle (docs/tables/device-h100.json).
WORTH_MOVING = 3e11


def choose_device(asked: str = "auto", operations: Operations = math.inf) -> torch.device:
    """The device for a piece of work.

    Args:
        asked: `cpu`, an accelerator as torch names it (`cuda`, `cuda:1`, `mps`, `xpu`), or `auto`: this machine's
            accelerator, if it has one and the work is worth it.
        operations: floating-point operations of all the work, where that is known.

    Raises:
        InputError: no such device, or none here.

    Examples:
        >>> choose_device("cpu")
        device(type='cpu')
        >>> choose_device("auto", operations=1e6)
        device(type='cpu')
    """
    here = torch.accelerator.current_accelerator(check_available=True)
    if asked == "auto":
        if here is None:
            return torch.device("cpu")
        count = operations() if callable(operations) else operations
        return here if count >= WORTH_MOVING else torch.device("cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    if device is None or device.type == "meta":
        raise InputError(f"expected a device such as auto, cpu, cuda or cuda:1, found '{asked}'")
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count() if here is not None and here.type == device.type else 0
    if (device.index or 0) >= count:
        has = f"{count} of them" if count else f"only {here.type if here else 'cpu'}"
        raise InputError(f"expected a device of this machine, found '{asked}', and it has {has}")
    return device


def require_one_device(what: str, tensors: Iterable[Tensor]) -> None:
    """Raise `InputError` if tensors that belong together are on several devices."""
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise InputError(f"expected {what} on one device, found tensors on {' and '.join(devices)}")


def count_operations(module: nn.Module, example: Tensor) -> float:
    """Floating-point operations of one answer, per input of the example (counted by torch on the meta device).

    A module that cannot run there counts two for every parameter.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes over a second

    parameters = sum(parameter.numel() for parameter in module.parameters())
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            state = {name: tensor.to("meta") for name, tensor in module.state_dict(keep_vars=True).items()}
            torch.func.functional_call(module, state, (example.to("meta"),))
    except Exception:  # noqa: BLE001 # a stranger's module may do anything; the count only chooses a device
        return 2.0 * parameters
    return max(counter.get_total_flops(), 2 * parameters) / max(1, len(example))
