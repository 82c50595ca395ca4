"""What all tests share: one thread, a tiny real zoo and a tiny trained model."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tools import TINY_SANE, TINY_TRAINING
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.images import ImageSet, open_images
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.zoo import Zoo

torch.set_num_threads(1)
# Shared machines stall; a slow example is no failure, and run-time shape checks make data generation slow.
# Under CI the examples are always the same ones; elsewhere new ones are tried each time.
settings.register_profile(
    "house",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize="CI" in os.environ,
)
settings.load_profile("house")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What passing tests counted, which they would keep to themselves."""
    for report in terminalreporter.getreports("passed"):
        for name, counted in report.user_properties:
            if name == "counted" and report.when == "call":
                terminalreporter.write_line(str(counted))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same numbers whatever tests ran before, and on whichever worker."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return open_images("digits")


@pytest.fixture(scope="session")
def zoo_folder(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 members, two activations, epochs 0 to 2, on real images."""
    folder = tmp_path_factory.mktemp("zoos") / "digits-mlp"
    grow(
        "mlp:8",
        digits,
        GrowConfig(members=24, epochs=2, learning_rate="log:3e-3..2e-2", plan="stacked", workers=1),
        folder,
    )
    return folder


@pytest.fixture(scope="session")
def zoo(zoo_folder: Path) -> Zoo:
    return Zoo.open(zoo_folder)


@pytest.fixture(scope="session")
def parts(zoo: Zoo) -> tuple[Zoo, ...]:
    return zoo.split(0.6, 0.2, 0.2, seed=1)


@pytest.fixture(scope="session")
def sane_folder(parts: tuple[Zoo, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sane"
    pretrain(parts[0], TINY_SANE, TINY_TRAINING, out=folder)
    return folder
