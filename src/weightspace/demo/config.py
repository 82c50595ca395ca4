"""The size of the demo."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The size of the demo; the defaults take about three minutes on one quiet core."""

    members: int = 400
    """Networks in the zoo."""

    epochs: int = 12
    """Epochs each of them is trained for."""

    keep: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 10, 12)
    """Epochs whose weights are kept."""

    steps: int = 400
    """Pre-training steps of the autoencoder."""

    anchors: int = 20
    """Training members, the best by validation accuracy, that new networks are sampled around."""

    networks: int = 30
    """Networks per method that are fine-tuned, a third of them from each of three seeds."""

    seed: int = 0
    """Decides everything."""
