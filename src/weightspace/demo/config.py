"""The size of the demo."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The size of the demo; the defaults take about four minutes on one core."""

    members: int = 300
    """Networks in the zoo."""

    epochs: int = 12
    """Epochs each of them is trained for."""

    keep: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 10, 12)
    """Epochs whose weights are kept."""

    steps: int = 400
    """Pre-training steps of the autoencoder."""

    anchors: int = 20
    """Training members, the best by validation accuracy, that new networks are sampled around."""

    networks: int = 40
    """Networks per method that are fine-tuned."""

    seed: int = 0
    """Decides everything."""
