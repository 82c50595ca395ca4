"""How generated networks are evaluated."""

from dataclasses import dataclass

from weightspace.errors import require_between


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

    def check(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("learning rate", self.learning_rate, 1e-12, 1e6)
        require_between("batch size", self.batch_size, 1)
        for epoch in self.epochs:
            require_between("epochs", epoch, 0)
