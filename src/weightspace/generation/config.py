"""How generated networks are evaluated."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One fine-tuning schedule for every method."""

    epochs: tuple[int, ...] = (0, 1, 5)
    """Epochs of fine-tuning after which networks are scored; 0 is before any training."""

    learning_rate: float = 3e-3
    """Adam's learning rate, the same for every network, constant over the steps."""

    batch_size: int = 64
    """Images a step."""

    seed: int = 0
    """Decides every network's data order, the controls and the networks trained from scratch."""
