"""Networks layer by layer: what SANE sees of every matrix, beside WeightWatcher's values.

Paper, section 4 and figures 3, 4 and 7 to 11: the spread of a layer is the standard deviation over its tokens'
latents, here averaged over their numbers; with a linear path, of its tokens' summaries (see `Encoded`).
"""

import contextlib
import importlib.util
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import linregress
from torch import Tensor, nn

from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.weights.files import StoredWeights
from weightspace.weights.values import Weights
from weightspace.zoo.addressing import known_accuracies, naming, open_networks, short_names

# Numbers in the matrices that WeightWatcher is shown at once: 64 MiB in single precision.
NUMBERS_AT_ONCE = 16 * 2**20
WATCHED = ("alpha", "stable_rank", "log_norm")
FEATURES = ("spread", "size", *WATCHED)


class Layer(NamedTuple):
    """One matrix of a network (convolutions count as matrices).

    Attributes:
        name: of the tensor.
        depth: 0 for the first matrix of the network, 1 for the last.
        order: what the first and the last are by: `architecture` of the network, where the model knows it; the `file`
            (or dict) otherwise; natural order of the `names` where the file has no order of its own.
        features: `spread` (of the tokens' summaries), `size` (norm of their mean) and, where WeightWatcher has a value,
            `alpha`, `stable_rank` and `log_norm`.
        code: mean and spread of the tokens' summaries, side by side.
    """

    name: str
    depth: float
    order: str
    features: dict[str, float]
    code: Float[np.ndarray, "twice_latent"]


class Fit(NamedTuple):
    """A straight line through networks: `accuracy = intercept + slope * value`, and its R²."""

    slope: float
    intercept: float
    r2: float


def layers_of(sane: SANE, weights: Mapping[str, Tensor], *, watch: bool = False) -> list[Layer]:
    """The matrices of a network of any architecture, in order (see `Layer.order`).

    Args:
        sane: a trained model.
        weights: raw weights; only what is needed is read.
        watch: read WeightWatcher's values too (needs the extra weightspace[weightwatcher]).

    Raises:
        InputError: no matrices, NaN weights, or WeightWatcher is not installed.

    Examples:
        >>> [layer.name for layer in ws.layers_of(sane, zoo.weights(0))]
        ['module_list.1.weight', 'module_list.3.weight']
    """
    architecture, weights, _ = sane.preparation.recognize(weights)
    frame = sane.preparation.frame_of(architecture)
    layout, names_of = frame.layout, frame.own_names(architecture)
    vector = sane.embed_network(weights, "mean+spread", ask=False).vector.numpy()
    codes = vector.reshape(len(layout.blocks), 2, -1)
    order = _order(weights, known=architecture.id in sane.preparation.architectures)
    ranks = {name: rank for rank, name in enumerate(architecture.shapes if order == "architecture" else weights)}
    places = [place for place, block in enumerate(layout.blocks) if len(layout.shapes[block.name]) > 1]
    if not places:
        raise InputError("expected matrices in a network, found none")
    places.sort(key=lambda place: ranks[names_of[layout.blocks[place].name]])
    names = [names_of[layout.blocks[place].name] for place in places]
    watched = watch_network(weights, names) if watch else {}
    layers = []
    for number, (place, name) in enumerate(zip(places, names, strict=True)):
        mean, spread = codes[place]
        features = {"spread": float(spread.mean()), "size": float(np.linalg.norm(mean)), **watched.get(name, {})}
        depth = number / max(1, len(places) - 1)
        layers.append(Layer(name, depth, order, features, codes[place].flatten()))
    return layers


def _order(weights: Mapping[str, Tensor], known: bool) -> str:
    if known:
        return "architecture"
    return "names" if isinstance(weights, StoredWeights) and not weights.ordered else "file"


def watch_network(weights: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """`watch_layers` of tensors by name, a few at a time: WeightWatcher has all that it is given in memory at once."""
    watched: dict[str, dict[str, float]] = {}
    shown: Weights = {}
    for name in names:
        shown[name] = weights[name]
        if sum(tensor.numel() for tensor in shown.values()) >= NUMBERS_AT_ONCE or name == names[-1]:
            watched |= watch_layers(shown)
            shown = {}
    return watched


def watch_layers(weights: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """WeightWatcher's α, stable rank and log-norm of matrices and convolutions by name; those that it has no α for
    are left out.

    Raises:
        InputError: WeightWatcher is not installed.
    """
    shell, names = nn.Module(), list[str]()
    for name, tensor in weights.items():
        layer = _layer_for(tensor)
        if layer is not None:
            shell.add_module(f"layer{len(names)}", layer)
            names.append(name)
    if not names:
        return {}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it says a lot
        try:
            from weightwatcher import WeightWatcher
        except ImportError as error:
            raise InputError(
                "expected WeightWatcher, found it not installed: pip install 'weightspace[weightwatcher]'"
            ) from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own, of what newer releases of pandas and numpy advise
            report = WeightWatcher(model=shell, log_level="ERROR").analyze()
    values: dict[str, dict[str, float]] = {}
    for row in report.to_dict("records"):
        features = {feature: float(row[feature]) for feature in WATCHED}
        if math.isfinite(features["alpha"]) and features["alpha"] > 0:
            values[names[int(str(row["longname"]).removeprefix("layer"))]] = features
    return values


def _layer_for(tensor: Tensor) -> nn.Module | None:
    """A layer that holds a matrix or a convolution, for a tool that reads layers."""
    if tensor.ndim not in (2, 4):
        return None
    rows, columns, *kernel = tensor.shape
    layer: nn.Module
    with torch.device("meta"):
        if kernel:
            layer = nn.Conv2d(columns, rows, (kernel[0], kernel[1]), bias=False)
        else:
            layer = nn.Linear(columns, rows, bias=False)
    layer.weight = nn.Parameter(tensor.detach().to(torch.float32), requires_grad=False)
    return layer


def mean_feature(layers: list[Layer], feature: str) -> float:
    """The mean of a feature over the layers that have it; NaN if none has."""
    known = [layer.features[feature] for layer in layers if feature in layer.features]
    return float(np.mean(known)) if known else math.nan


def layer_similarity(first: list[Layer], second: list[Layer]) -> Float[np.ndarray, "first second"]:
    """Cosine between the codes of two networks' layers, standardised over the layers of both."""
    codes = np.stack([layer.code for layer in (*first, *second)]).astype(np.float64)
    codes = (codes - codes.mean(0)) / np.maximum(codes.std(0), 1e-9)
    codes /= np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-9)
    return codes[: len(first)] @ codes[len(first) :].T


def fit_line(values: list[float], accuracies: list[float]) -> Fit | None:
    """The least-squares line of accuracy over an aggregated feature; None for fewer than 3 networks that have both."""
    pairs = [(x, y) for x, y in zip(values, accuracies, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if len(pairs) < 3 or len({x for x, _ in pairs}) < 2:
        return None
    line: Any = linregress(*zip(*pairs, strict=True))
    return Fit(float(line.slope), float(line.intercept), float(line.rvalue**2))


class LayerStudy(NamedTuple):
    """Layers of networks by short name, the accuracies of those whose accuracy is known, and what could not be read."""

    layers: dict[str, list[Layer]]
    accuracies: dict[str, float]
    note: str = ""

    def summary(self) -> str:
        """How many there are, and what is not among their features."""
        counted = f"{len(self.layers)} networks, {sum(map(len, self.layers.values()))} layers"
        return f"{counted}; {self.note}" if self.note else counted

    def to_json(self) -> dict[str, Any]:
        """A JSON object: features layer by layer, their means, accuracies."""
        means = {name: {f: mean_feature(layers, f) for f in FEATURES} for name, layers in self.layers.items()}
        rows = {
            name: [
                {"name": layer.name, "depth": layer.depth, "order": layer.order, **layer.features} for layer in layers
            ]
            for name, layers in self.layers.items()
        }
        return {"layers": rows, "means": means, "accuracy": self.accuracies}


def look_into(
    sane: SANE,
    names: Sequence[str],
    accuracy: Path | None = None,
    *,
    watch: bool | None = None,
    compare: bool = False,
) -> LayerStudy:
    """The layers of networks by name (see `open_networks`); what `weightspace layers` does.

    Args:
        sane: a trained model.
        names: of the networks.
        accuracy: a JSON file with accuracies by name; members of zoos bring their own.
        watch: read WeightWatcher's values too; None does so where it is installed.
        compare: two networks at least are needed.

    Raises:
        InputError: no networks, one where two are needed, or a refusal that names the network.
    """
    if not names:
        raise InputError("expected networks to look into, found none")
    installed = importlib.util.find_spec("weightwatcher") is not None
    note = "without WeightWatcher's values, as it is not installed" if watch is None and not installed else ""
    watch = installed if watch is None else watch
    layers: dict[str, list[Layer]] = {}
    left_out: dict[str, str] = {}
    for name, weights in open_networks(names, left_out):
        with naming(name):
            layers[name] = layers_of(sane, weights, watch=watch)
    if not layers:
        raise InputError(next(iter(left_out.values())))
    note = "; ".join(filter(None, [note, *(f"left out: {why}" for why in left_out.values())]))
    if compare and len(layers) < 2:
        raise InputError("expected two networks for their similarity, found one")
    short = short_names(layers)
    return LayerStudy({short[name]: rows for name, rows in layers.items()}, known_accuracies(short, accuracy), note)
