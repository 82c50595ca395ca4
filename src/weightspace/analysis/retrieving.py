"""The networks whose embeddings are nearest: exactly, or by an index for very many."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from weightspace.analysis.representations.responses import answer, network_responses
from weightspace.autoencoder.embedding import sees_responses
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.asking import used_architectures
from weightspace.errors import InputError, require_between
from weightspace.inputs import read_table
from weightspace.responses.asking import Asker
from weightspace.responses.config import AskConfig
from weightspace.zoo.addressing import architecture_of, naming, open_network, open_networks
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.fitting import which_architecture
from weightspace.zoo.zoo import Zoo

Search = Literal["exact", "index"]
SMALLEST_SPREAD = 1e-9


class Nearest(NamedTuple):
    """The nearest networks to each of several: their rows, nearest first, and how far they are."""

    rows: Int[np.ndarray, "queries k"]
    distances: Float[np.ndarray, "queries k"]


def find_nearest(
    known: Float[np.ndarray, "networks features"],
    queries: Float[np.ndarray, "queries width"],
    k: int,
    *,
    search: Search = "exact",
) -> Nearest:
    """The `k` nearest networks by Euclidean distance between embeddings, standardised over the known ones.

    Args:
        known: embeddings of the networks to search.
        queries: embeddings to search with.
        k: how many; all if there are fewer.
        search: `exact` compares with all; `index` builds a graph (usearch, the extra weightspace[index]) that finds
            nearly all of the nearest in a fraction of the time, from some hundred thousand networks on.

    Raises:
        InputError: no networks, embeddings of different widths, or usearch is not installed.

    Examples:
        >>> find_nearest(np.array([[0.0], [1.0], [5.0]]), np.array([[0.9]]), 2).rows
        array([[1, 0]])
    """
    if len(known) == 0 or known.shape[1] != queries.shape[1]:
        raise InputError(
            f"expected networks with embeddings of width {queries.shape[1]}, found {len(known)} of width "
            f"{known.shape[1]}"
        )
    mean, spread = known.mean(0), np.maximum(known.std(0), SMALLEST_SPREAD)
    scaled, asked = ((vectors - mean) / spread for vectors in (known, queries))
    k = min(k, len(known))
    if search == "index":
        return _by_index(scaled.astype(np.float32), asked.astype(np.float32), k)
    distances, rows = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(scaled).kneighbors(asked)
    return Nearest(rows, distances)


def _by_index(scaled: Float[np.ndarray, "n d"], asked: Float[np.ndarray, "q d"], k: int) -> Nearest:
    try:
        from usearch.index import Index
    except ImportError as error:
        raise InputError(
            "expected usearch for an index, found it not installed: pip install 'weightspace[index]'"
        ) from error
    index = Index(ndim=scaled.shape[1], metric="l2sq", dtype="f32")
    index.add(np.arange(len(scaled)), scaled)
    found = index.search(asked, k, threads=1)
    rows, squares = (np.atleast_2d(values)[:, :k] for values in (found.keys, found.distances))
    return Nearest(rows.astype(np.int64), np.sqrt(squares.astype(np.float64)))


def read_embeddings(path: Path) -> Embeddings:
    """Embeddings as `weightspace embed` writes them.

    Raises:
        InputError: no such table.
    """
    try:
        table = read_table(path)
    except InputError as error:
        raise InputError(f"expected a table that `weightspace embed` wrote in {path}, found none ({error})") from error
    columns = [name for name in table.columns if name[:1] == "z" and name[1:].isdigit()]
    if not columns:
        raise InputError(f"expected columns z0, z1, ... in {path}, found {', '.join(map(str, table.columns[:5]))}")
    return Embeddings(table[columns].to_numpy(np.float32), table.drop(columns=columns), Representation(path.stem))


def find_alike(
    folder: Path,
    network: str,
    count: int,
    *,
    ask: AskConfig | None = None,
    given: Sequence[Architecture] = (),
    search: Search = "exact",
) -> list[dict[str, Any]]:
    """`find_similar` by what networks do when they are asked: the rows of a zoo's table whose r(W) are nearest.

    Args:
        folder: a zoo of networks that can be run.
        network: of an architecture of the zoo; see `open_networks`.
        count: how many.
        ask: what all are asked with.
        given: architectures that the caller vouches for.
        search: see `find_nearest`.

    Raises:
        InputError: networks that cannot be run, a network of another architecture, or a refusal of `find_similar`.
    """
    require_between("k", count, 1)
    zoo = Zoo.open(folder, given)
    known = network_responses([zoo], ask)[0]
    askers: dict[str, Asker] = {}
    with naming(network):
        weights, architecture = open_network(network)
        if architecture is None:
            architecture = which_architecture(weights, given, used_architectures(zoo))
        answered = answer(weights, architecture, askers, ask)
    whole = answered.vector()
    vector = whole if len(whole) == known.features.shape[1] else answered.outline()
    return _nearest_rows(known, folder, network, vector.numpy()[None], count, search)


def find_similar(
    sane: SANE,
    folder: Path,
    network: str,
    count: int,
    *,
    aggregation: str = "mean",
    search: Search = "exact",
) -> list[dict[str, Any]]:
    """The rows of a zoo's table whose embeddings are nearest to a network's, with their `distance`, nearest first.

    What `weightspace similar` does. A member does not find itself in its zoo.

    Args:
        sane: a trained model.
        folder: a zoo, or the table of its embeddings that `weightspace embed` wrote, with the same aggregation.
        network: see `open_networks`.
        count: how many.
        aggregation: see `Aggregator`.
        search: see `find_nearest`.

    Raises:
        InputError: none or several networks of that name, or a refusal of `find_nearest`.
    """
    require_between("k", count, 1)
    if folder.suffix == ".parquet":
        known = read_embeddings(folder)
    else:
        known = sane.embed(Zoo.open(folder, sane.preparation.given), aggregation)
    with naming(network):
        weights = _one_network(network)
        asked = sees_responses(sane.network) and (known.passes > 0 or folder.suffix == ".parquet")
        embedded = sane.embed_network(weights, aggregation, architecture=architecture_of(network), ask=asked)
        if asked and not embedded.passes:
            raise InputError(f"expected a network that can be asked, as those of the zoo were: {embedded.assumed[-1]}")
    return _nearest_rows(known, folder, network, embedded.vector.numpy()[None], count, search)


def _one_network(network: str) -> Mapping[str, Tensor]:
    networks = list(open_networks([network]))
    if len(networks) != 1:
        raise InputError(f"expected one network, found {len(networks)} in {network}")
    return networks[0][1]


def _nearest_rows(
    known: Embeddings, folder: Path, network: str, vector: np.ndarray, count: int, search: Search
) -> list[dict[str, Any]]:
    """Rows of the known networks' table, nearest first; a member does not find itself."""
    zoo, _, member = network.rpartition(":")
    others = known.table
    if zoo and Path(zoo).resolve() == folder.resolve():
        others = known.table[known.table["member"] != member]
    places = known.table.index.get_indexer(others.index)
    nearest = find_nearest(known.features[places], vector, count, search=search)
    return others.iloc[nearest.rows[0]].assign(distance=nearest.distances[0]).to_dict("records")
