"""How networks are evaluated."""

from dataclasses import dataclass

from weightspace.errors import require_between


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One fine-tuning schedule for every method.

    Examples:
        >>> EvaluateConfig(epochs=(0, 1, 5)).epochs
        (0, 1, 5)
    """

    epochs: tuple[int, ...] = (0, 1, 5)
    """Epochs of fine-tuning after which networks are scored; 0 is before any training."""

    learning_rate: float = 3e-3
    """Adam's learning rate, the same for every network, constant over the steps."""

    batch_size: int = 64
    """Images a step."""

    ensemble: int = 5
    """Networks whose mean answer is scored beside them."""

    seeds: int = 1
    """Data orders that every network is fine-tuned with; its accuracy is their mean."""

    full_length: int = 0
    """Networks are also trained from scratch for so many epochs; 0: for as many as the zoo was."""

    long: int = 0
    """Epochs after which the first method, the anchors, those with noise and scratch are scored as well; 0: none."""

    hyper_steps: int = 0
    """Train a hyper-representation (2022) for so many steps and sample from it as well; 0: leave it out."""

    seed: int = 0
    """Decides every network's data order, the controls and the networks trained from scratch."""

    device: str = "auto"
    """cpu, an accelerator as torch names it (cuda, cuda:1, mps), or auto: the accelerator, if there is one and the work
    is worth it."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("learning rate", self.learning_rate, 1e-12, 1e6)
        for name in ("batch_size", "ensemble", "seeds"):
            require_between(name.replace("_", " "), getattr(self, name), 1)
        for name in ("full_length", "hyper_steps", "long"):
            require_between(name.replace("_", " "), getattr(self, name), 0)
        for epoch in self.epochs:
            require_between("epochs", epoch, 0)
        if self.long:
            require_between("long, as it is more than the other epochs,", self.long, max(self.epochs, default=0) + 1)
