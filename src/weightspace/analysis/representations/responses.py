"""r(W): what networks do on inputs that nobody labelled, as one vector for each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoder.sane import SANE, stored_weights
from weightspace.corpus.asking import Asked, ask_zoo, make_asker
from weightspace.errors import InputError
from weightspace.responses.asking import Asker, Responses
from weightspace.responses.config import AskConfig
from weightspace.weights.files import StoredWeights, meta_of
from weightspace.zoo.addressing import naming, network_files, open_file
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.checking import is_zoo
from weightspace.zoo.embeddings import Embeddings, Representation, rows_in_order
from weightspace.zoo.fitting import fit_weights, which_architecture
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


def respond(paths: Sequence[Path], given: Sequence[Architecture] = (), config: AskConfig | None = None) -> Embeddings:
    """r(W) of one zoo, or of networks in files, a row for each.

    Args:
        paths: a zoo; or weight files, folders with one model, or folders of such files.
        given: architectures that the caller vouches for: files are of one of these.
        config: what they are asked with.

    Raises:
        InputError: nothing, networks that cannot be run, or files and no architecture.
    """
    if len(paths) == 1 and is_zoo(paths[0]):
        return network_responses([Zoo.open(paths[0], given)], config)[0]
    if not given or not paths:
        raise InputError(
            "expected a zoo, or networks in files and how to build them (--architecture my_nets:Net --example "
            f"1,3,32,32), to ask what they do, found {', '.join(map(str, paths)) or 'nothing'}"
        )
    askers: dict[str, Asker] = {}
    answers: list[Responses] = []
    names: list[str] = []
    left_out: dict[str, str] = {}
    for file in [file for path in paths for file in network_files(path)]:
        try:
            with naming(file):
                weights = open_file(str(file))
                answers.append(answer(weights, which_architecture(meta_of(weights), given, ()), askers, config))
            names.append(str(file))
        except InputError as refusal:
            left_out[str(file)] = str(refusal)
    if not answers:
        raise InputError(next(iter(left_out.values()), "expected networks to ask, found none"))
    alike = len({asker.depth for asker in askers.values()}) == 1
    rows = torch.stack([vector_of(own, alike) for own in answers]).numpy()
    return Embeddings(rows, pd.DataFrame({"network": names}), RESPONSES, left_out=left_out)


def embed_or_respond(
    model: Path, paths: Sequence[Path], aggregation: str, device: str, given: Sequence[Architecture], ask: AskConfig
) -> tuple[Embeddings, dict[str, Any]]:
    """Embeddings by a SANE, or, for the aggregation `responses`, what networks do; and a result for machines.

    What `weightspace embed` does.
    """
    if aggregation == "responses":
        embeddings = replace(respond(paths, given, ask), passes=2 * ask.inputs)
    else:
        embeddings = SANE.open(model, device, stored_weights(paths), given).embed_paths(paths, aggregation)
    count, width = embeddings.features.shape
    assumed = sorted({*embeddings.notes, *(said for said in embeddings.table.get("assumed", []) if said)})
    result = {"checkpoints": count, "width": width, "assumed": assumed, "left_out": dict(embeddings.left_out)}
    return embeddings, {**result, "forward_passes": embeddings.passes}


def answer(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    askers: dict[str, Asker],
    config: AskConfig | None = None,
    *,
    keep: bool = False,
) -> Responses:
    """What a network of an architecture does; `askers` keeps what asks each architecture.

    Raises:
        InputError: a network of another one, or one that cannot be run.
    """
    whole = weights.read() if isinstance(weights, StoredWeights) else weights
    fitted = fit_weights(whole, architecture).weights
    if architecture.id not in askers:
        askers[architecture.id] = make_asker(architecture, config or AskConfig())
    return askers[architecture.id].ask(fitted, keep=keep)


def vector_of(responses: Responses, alike: bool) -> Tensor:
    """r(W) of one network, whole or in outline."""
    return responses.vector() if alike else responses.outline()


def _rows(asked: Asked, alike: bool) -> tuple[np.ndarray, pd.DataFrame]:
    return torch.stack([vector_of(responses, alike) for responses in asked.responses]).numpy(), asked.table
