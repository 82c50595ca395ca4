"""The statistics that a SANE's readout learns, computed exactly."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.aggregating import mean_and_spread
from weightspace.autoencoder.inference import Embeddings
from weightspace.autoencoder.token_statistics import token_statistics
from weightspace.corpus.corpus import CorpusPart, build_corpus
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.views import whole_networks
from weightspace.errors import InputError
from weightspace.tokens.patterns import entries_of
from weightspace.zoo.zoo import Zoo

NAME = "t(W)"


def exact_token_statistics(zoo: Zoo, preparation: Preparation) -> Embeddings:
    """t(W): mean and spread, over the tokens of each layer, of the statistics of standardised tokens.

    Raises:
        InputError: networks with different layers.
    """
    rows, tables = [], []
    with TemporaryDirectory(prefix="weightspace-") as folder:
        corpus = build_corpus(zoo, preparation, Path(folder))
        for part in corpus.parts:
            rows += [_of_networks(part, flat).numpy() for flat in part.chunks()]
            tables.append(part.table)
    if len({part.shape[1] for part in rows}) > 1:
        raise InputError(f"expected networks with the same layers for {NAME}, found several kinds")
    return Embeddings(np.concatenate(rows)[zoo.order_of(pd.concat(tables))], zoo.table, NAME)


def _of_networks(part: CorpusPart, flat: Float[Tensor, "networks size"]) -> Float[Tensor, "networks features"]:
    found = token_statistics(whole_networks(part, flat), entries_of(part.frame.layout))
    return mean_and_spread(found, part.positions[:, 1])
