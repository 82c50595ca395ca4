"""r(W): what networks do on inputs that nobody labelled, as one vector for each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from weightspace.corpus.asking import Asked, ask_zoo
from weightspace.responses.config import AskConfig
from weightspace.zoo.embeddings import Embeddings, Representation, rows_in_order
from weightspace.zoo.zoo import Zoo

RESPONSES = Representation("r(W)")


def network_responses(parts: Sequence[Zoo], config: AskConfig | None = None, device: str = "cpu") -> list[Embeddings]:
    """r(W): per layer mean and spread over units of what they do, and what the outputs do; see `Responses.vector`.

    Where the parts' networks have different layers, vectors are of one length all the same; see `Responses.outline`.

    Raises:
        InputError: networks that cannot be run.
    """
    answered = [list(ask_zoo(part, config, device)) for part in parts]
    alike = len({asked.asker.depth for asks in answered for asked in asks}) == 1
    return [
        Embeddings(rows_in_order(part, [_rows(asked, alike) for asked in asks], RESPONSES.label), part.table, RESPONSES)
        for part, asks in zip(parts, answered, strict=True)
    ]


def _rows(asked: Asked, alike: bool) -> tuple[np.ndarray, pd.DataFrame]:
    vectors = [responses.vector() if alike else responses.outline() for responses in asked.responses]
    return torch.stack(vectors).numpy(), asked.table
