"""r(W): what networks do on inputs that nobody labelled, as one vector for each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.corpus.asking import Asked, ask_zoo
from weightspace.responses.asking import Responses
from weightspace.responses.config import AskConfig
from weightspace.zoo.embeddings import Embeddings, Representation, rows_in_order
from weightspace.zoo.zoo import Zoo

RESPONSES = Representation("r(W)")


class AskedParts(NamedTuple):
    """r(W) of the parts of a zoo, and whether all networks are equally deep, so that their vectors are whole."""

    embeddings: list[Embeddings]
    alike: bool


def network_responses(parts: Sequence[Zoo], config: AskConfig | None = None, device: str = "cpu") -> list[Embeddings]:
    """r(W): per layer mean and spread over units of what they do, and what the outputs do; see `Responses.vector`.

    Where the parts' networks have different layers, vectors are of one length all the same; see `Responses.outline`.

    Raises:
        InputError: networks that cannot be run.
    """
    return ask_parts(parts, config, device).embeddings


def ask_parts(parts: Sequence[Zoo], config: AskConfig | None = None, device: str = "cpu") -> AskedParts:
    """`network_responses`, and which form the vectors have."""
    answered = [list(ask_zoo(part, config, device)) for part in parts]
    alike = len({asked.asker.depth for asks in answered for asked in asks}) == 1
    embedded = [
        Embeddings(rows_in_order(part, [_rows(asked, alike) for asked in asks], RESPONSES.label), part.table, RESPONSES)
        for part, asks in zip(parts, answered, strict=True)
    ]
    return AskedParts(embedded, alike)


def vector_of(responses: Responses, alike: bool) -> Tensor:
    """r(W) of one network, whole or in outline."""
    return responses.vector() if alike else responses.outline()


def _rows(asked: Asked, alike: bool) -> tuple[np.ndarray, pd.DataFrame]:
    return torch.stack([vector_of(responses, alike) for responses in asked.responses]).numpy(), asked.table
