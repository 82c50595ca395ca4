"""What several test files need: small models, their training, and the command line as a function."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.provenance import Provenance
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.loop import Loop
from weightspace.autoencoder.training.pretraining import Pretraining
from weightspace.autoencoder.training.states import History, Row
from weightspace.cli.app import main
from weightspace.corpus.corpus import Corpus
from weightspace.corpus.preparation import Preparation
from weightspace.zoo.checking import DIGEST, TABLE_FILE

TINY_SANE = SANEConfig(latent_width=8, model_width=16, layers=1, heads=2, projection_width=8)
TINY_TRAINING = TrainConfig(steps=12, window=16, batch_size=8, save_every=4, log_every=2)
Fitted = tuple[Preparation, Corpus]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """The exit status of a command, and what it printed and said."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence a mistake gets."""
    status, out, err = run(capsys, *words)
    assert status == 2 and out == "" and err.startswith("weightspace: ") and err.count("\n") == 1
    return err


def fresh_sane(preparation: Preparation, config: SANEConfig = TINY_SANE, *, window: int = 16, seed: int = 0) -> SANE:
    """A model that was never trained."""
    network = Network(config, preparation.config.token_width, window=window, seed=seed)
    return SANE(network=network.eval(), preparation=preparation, provenance=Provenance(training=TrainConfig()))


def train(
    sane: SANE,
    corpus: Corpus,
    config: TrainConfig,
    folder: Path | None = None,
    *,
    resume: bool = False,
    observers: Sequence[tuple[int, Callable[[int], Row]]] = (),
) -> History:
    """The loop of pre-training alone, on a corpus that is there."""
    stage = Pretraining.of(sane.network, corpus, config)
    return Loop(stage, config, stage.accelerator, folder, resume, observers).run()


def wait_for(path: Path, seconds: float = 120) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.002)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules have the same parameters and buffers, bit for bit."""
    states = first.state_dict(), second.state_dict()
    return set(states[0]) == set(states[1]) and all(bool((states[0][n] == states[1][n]).all()) for n in states[0])


def with_window(sane: SANE, window: int) -> SANE:
    """The same model, which sees other windows at once."""
    network = Network(sane.config, sane.preparation.config.token_width, window=window)
    network.load_state_dict(sane.network.state_dict())
    return replace(sane, network=network.eval())


@dataclass
class Stop(Exception):
    """Raised by an observer at a step."""

    step: int

    def __call__(self, step: int, *model: object) -> Row:
        if step == self.step:
            raise self
        return {}


class Own(nn.Module):
    """A user's own network, with a batch norm and a head."""

    def __init__(self, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(width * 36, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def every_kind() -> dict[str, Tensor]:
    """One tensor of every kind."""
    generator = torch.Generator().manual_seed(0)
    module = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 5, 3),
            "transposed": nn.ConvTranspose2d(4, 6, 2),
            "linear": nn.Linear(7, 4),
            "norm": nn.BatchNorm2d(5),
            "layernorm": nn.LayerNorm(9),
            "embedding": nn.Embedding(11, 3),
        }
    )
    weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    weights["bare"] = torch.randn(2, 3, 4, generator=generator)
    weights["scalar"] = torch.tensor(-0.0)
    weights["nan"] = torch.tensor([1.0, torch.nan, torch.inf])
    weights["half"] = torch.randn(6, 5, generator=generator).half()
    weights["brain"] = torch.randn(6, generator=generator).bfloat16()
    weights["double"] = torch.randn(3, generator=generator, dtype=torch.float64)
    weights["flags"] = torch.tensor([True, False])
    weights["none"] = torch.zeros(0, 3)
    weights["tied"] = weights["embedding.weight"]
    return weights


def forget_digests(folder: Path) -> None:
    """Drop from a zoo's table what tells whether its weights were changed, for tests that change them."""
    table = pd.read_parquet(folder / TABLE_FILE)
    table.drop(columns=DIGEST).to_parquet(folder / TABLE_FILE, index=False)
