"""SANE itself: a trained network, how weights are prepared for it, and what it was made from; saved as one folder."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from weightspace.autoencoder.coding import count_latents, decode_latents, encode_tokens
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.embedding import (
    NetworkEmbedding,
    embed_files,
    embed_network,
    embed_zoo,
)
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.provenance import Provenance
from weightspace.corpus.preparation import Preparation, Prepared
from weightspace.devices import choose_device
from weightspace.errors import InputError
from weightspace.fetching import is_fetched, nearby
from weightspace.inputs import config_from, read_object
from weightspace.outputs import write_json
from weightspace.remote import address_of, located
from weightspace.responses.asking import Asker
from weightspace.tokens.layout import TokenLayout
from weightspace.weights.safetensors_files import SafetensorsFile
from weightspace.weights.values import Weights, require_shapes, shapes_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.checking import is_zoo
from weightspace.zoo.embeddings import Embeddings
from weightspace.zoo.zoo import Zoo

CONFIG_FILE, MODEL_FILE, PREPARATION_FOLDER = "config.json", "model.safetensors", "preparation"
LONGEST_WINDOW = 1_000_000
FORMAT = 3
# Trained models that come with the package, by the names of their folders.
BOX, ANY_NETWORK = Path(__file__).parent.parent / "models", "any"


@dataclass(frozen=True, kw_only=True, eq=False)
class SANE:
    """A trained sequential autoencoder for neural embeddings; frozen: what extends it returns another one.

    Attributes:
        network: encoder and decoder.
        preparation: how raw weights become tokens.
        provenance: what it was trained on, and how.

    Examples:
        >>> sane = SANE.open(model_folder)
        >>> sane.embed(test, "mean").features.shape[0] == len(test)
        True
    """

    network: Network
    preparation: Preparation
    provenance: Provenance

    @property
    def config(self) -> SANEConfig:
        """The network's shape."""
        return self.network.config

    @property
    def latents_per_weight(self) -> float:
        """Latent numbers for every real weight of the networks it was trained on."""
        layouts = [frame.layout for frame in self.preparation.frames.values()]
        latents = sum(count_latents(self.network, layout) for layout in layouts)
        return latents / max(1, sum(layout.size for layout in layouts))

    @property
    def device(self) -> torch.device:
        """Where it encodes and decodes, and where networks that it decodes are asked."""
        return self.network.device

    def to(self, device: str | torch.device) -> "SANE":
        """The same model, its network moved to a device; `auto` takes the accelerator, if there is one.

        Raises:
            InputError: no such device here.
        """
        return replace(self, network=self.network.to(choose_device(str(device))))

    def untrained(self, seed: int = 1) -> "SANE":
        """A model of the same shape and preparation that was never trained: what training has to beat."""
        width = self.preparation.config.token_width
        network = Network(self.config, width, window=self.network.window, seed=seed)
        return replace(self, network=network, provenance=Provenance(training=self.provenance.training))

    def adopting(self, zoo: Zoo) -> "SANE":
        """A model that knows the architectures of a zoo too, whose first checkpoints others are aligned to.

        Nothing is trained. See `Preparation.adopting`.
        """
        preparation = self.preparation
        for row, name in enumerate(zoo.table["architecture"]):
            architecture = zoo.architectures[str(name)]
            if preparation.key_of(architecture) not in preparation.frames:
                preparation = preparation.adopting(architecture, zoo.weights(row))
        return replace(self, preparation=preparation)

    def trained_on(self, zoo: Zoo) -> frozenset[str]:
        """Those members of a zoo that it was trained on; see `Provenance.trained_on`."""
        return self.provenance.trained_on(zoo)

    @cached_property
    def _askers(self) -> dict[str, Asker]:
        """What asks networks of each architecture, kept from one network to the next."""
        return {}

    def embed(self, zoo: Zoo, aggregation: str = "mean", *, ask: bool = True) -> Embeddings:
        """One vector per checkpoint of a zoo.

        A model that sees responses asks the networks first; where they cannot be run, `notes` says so.

        Args:
            zoo: raw checkpoints; aligned, standardised and tokenised as the model's preparation says.
            aggregation: see `Aggregator`; all but `mean` need networks with the same layers.
            ask: the networks, if the model sees what they do; otherwise vectors are of weights alone.

        Raises:
            InputError: an unknown aggregation, NaN weights, or networks with different layers where that matters.
        """
        embedded = embed_zoo(self.network, self.preparation, zoo, aggregation, ask=ask)
        return replace(embedded, trained_on=self.trained_on(zoo))

    def embed_network(
        self,
        weights: Mapping[str, Tensor],
        aggregation: str = "mean",
        *,
        windows: int | None = None,
        architecture: Architecture | None = None,
        ask: bool = True,
    ) -> NetworkEmbedding:
        """One vector for a network, of an architecture that the model was trained on or of any other.

        A network that is aligned, or asked, is in memory as a whole. Any other is read from its file as it is encoded:
        memory does not grow with its size, only with its longest row (of a torch file, what was read stays mapped).

        A model that sees responses asks the network first, if it is known what it computes and how to run it; if not,
        the vector is of weights alone, and `assumed` says why.

        Args:
            weights: raw weights; `open_weights(path)` reads them as they are needed.
            aggregation: see `Aggregator`.
            windows: how many are encoded at once; by default as many as 16 MiB of tokens. The result does not depend on
                it beyond rounding.
            architecture: what the network is run as, where it is asked; by default the only known one that it fits.
            ask: it, if the model sees what networks do.

        Raises:
            InputError: an unknown aggregation, no 16- or 32-bit floats, NaN or infinite weights, positions beyond
                learned tables.
        """
        return embed_network(
            self.network,
            self.preparation,
            weights,
            aggregation,
            windows=windows,
            architecture=architecture,
            askers=self._askers if ask else None,
        )

    def embed_files(self, paths: Sequence[Path], aggregation: str = "mean") -> Embeddings:
        """Embeddings of networks in files: a row of the table for each, with what was assumed of it.

        Those that have none (broken files, NaN weights) are named in `left_out`, unless there are no others.

        Args:
            paths: weight files, folders with one model, or folders of such files.
            aggregation: see `Aggregator`; all but `mean` need networks with the same layers.

        Raises:
            InputError: no networks there, or of different layers where that matters.
        """
        return embed_files(self.network, self.preparation, paths, aggregation)

    def embed_paths(self, paths: Sequence[Path], aggregation: str = "mean") -> Embeddings:
        """`embed` of one zoo, or `embed_files` of networks in none; what `weightspace embed` does.

        Raises:
            InputError: nothing, or a zoo among other things.
        """
        if not paths:
            raise InputError("expected a zoo or networks to embed, found none")
        zoos = [path for path in paths if is_zoo(path)]
        if zoos and len(paths) > 1:
            raise InputError(f"expected one zoo, or networks that are in none, found the zoo {zoos[0]} among others")
        if zoos:
            return self.embed(Zoo.open(zoos[0], self.preparation.given), aggregation)
        return self.embed_files(paths, aggregation)

    def encode(self, weights: Mapping[str, Tensor]) -> tuple[Prepared, Float[Tensor, "tokens latent"]]:
        """Latents of one raw network, and what they do not hold."""
        prepared = self.preparation.prepare(weights)
        return prepared, encode_tokens(self.network, prepared.tokens[None], prepared.frame.layout)[0]

    def decode(
        self, latents: Float[Tensor, "tokens latent"], architecture: Architecture, carried: Mapping[str, Tensor]
    ) -> Weights:
        """A whole network's weights from its latents: decode, undo the standardisation, detokenise."""
        layout: TokenLayout = self.preparation.frame_of(architecture).layout
        tokens = decode_latents(self.network, latents[None], layout)[0]
        return self.preparation.restore(tokens, architecture, carried)

    def save(self, folder: Path) -> None:
        """Write `config.json`, `model.safetensors` and `preparation/` into an existing folder."""
        value = {
            "format": FORMAT,
            "sane": asdict(self.config),
            "window": self.network.window,
            "provenance": self.provenance.to_json(),
        }
        write_json(folder / CONFIG_FILE, value)
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.network.state_dict().items()}
        save_file(tensors, folder / MODEL_FILE)
        self.preparation.save(folder / PREPARATION_FOLDER)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        device: str = "cpu",
        weights: float = math.inf,
        given: Sequence[Architecture] = (),
    ) -> "SANE":
        """Read a trained model, in evaluation mode.

        Args:
            folder: of the model, or an address such as `hf://org/name`, which is fetched first; or the name of one that
                comes with the package (`boxed_models`), such as `any`.
            device: where it goes; see `choose_device`.
            weights: so many are going to be encoded, by which `auto` chooses.
            given: architectures that the caller vouches for; networks must be of one of these, if there are any.

        Raises:
            InputError: no model there, a damaged one, or no such device here.
        """
        folder = model_folder(folder)
        if not (folder / CONFIG_FILE).is_file() or not (folder / MODEL_FILE).is_file():
            raise InputError(f"expected a trained SANE ({CONFIG_FILE}, {MODEL_FILE}) in {folder}, found none")
        try:
            value = read_object(folder / CONFIG_FILE)
            require_format(value["format"], folder)
            config = config_from(SANEConfig, value["sane"], str(folder / CONFIG_FILE))
            preparation = Preparation.open(folder / PREPARATION_FOLDER)
            network = _read_network(config, preparation.config.token_width, value["window"], folder / MODEL_FILE)
            provenance = Provenance.from_json(value["provenance"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"expected a trained SANE in {folder}, found a damaged one ({error})") from error
        # Two operations for each parameter, and for a token, which has one weight at the least.
        parameters = sum(parameter.numel() for parameter in network.parameters())
        network.to(choose_device(device, 2.0 * parameters * weights / network.token_in.in_features))
        return cls(network=network.eval(), preparation=preparation.trusting(given), provenance=provenance)


def _read_network(config: SANEConfig, token_width: int, window: Any, path: Path) -> Network:
    """A network with the weights of a file, whose sizes are compared before anything of them is allocated."""
    if type(window) is not int or not 1 <= window <= LONGEST_WINDOW:
        raise InputError(f"expected a window of 1 to {LONGEST_WINDOW:,} tokens in {path.parent}, found {window!r:.40}")
    file = SafetensorsFile(path)
    if config.layers > len(file.tensors):
        raise InputError(f"expected tensors for {config.layers:,} layers in {path}, found {len(file.tensors):,}")
    with torch.device("meta"):
        expected = Network(config, token_width, window=window).state_dict()
    require_shapes(
        {name: torch.empty(entry.shape, device="meta") for name, entry in file.tensors.items()}, shapes_of(expected)
    )
    network = Network(config, token_width, window=window)
    network.load_state_dict({name: file.read(name) for name in file.tensors})
    return network


def boxed_models() -> list[str]:
    """Names of the models that come with the package; each one's card is the `README.md` in its folder."""
    return sorted(folder.parent.name for folder in BOX.glob(f"*/{CONFIG_FILE}"))


def model_folder(model: str | Path) -> Path:
    """The folder of a model that is given by its folder, or by the name of one that comes with the package."""
    folder = nearby(model)
    return BOX / folder if str(model) in boxed_models() and not folder.exists() else folder


def stored_weights(names: Iterable[str | Path]) -> float:
    """How many weights files and folders can hold at the most, at four bytes each; what is no path has none."""
    paths = [Path(name) for name in names]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 4


def open_for(
    model: str | Path, names: Iterable[str | Path], device: str = "auto", given: Sequence[Architecture] = ()
) -> SANE:
    """A trained model, on a device that is worth it for networks in some files and folders; see `SANE.open`."""
    return SANE.open(model, device, stored_weights(names), given)


def require_own(folder: Path) -> None:
    """Raise `InputError` for a model that comes with the package, or that is a copy of one behind an address, before
    anything is written into its folder.
    """
    if folder.resolve().is_relative_to(BOX.resolve()):
        raise InputError(f"expected a model of your own, found {folder.name}, which comes with the package")
    if is_fetched(folder):
        raise InputError(f"expected a model of your own, found {folder}, a copy of one behind an address")


def leading_model(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The model that stands first among words, and the words after it; without one, the model for any network."""
    if words:
        far = address_of(words[0]) is not None
        here = located(words[0]) if far else model_folder(words[0])
        if (here / PREPARATION_FOLDER).is_dir():  # nothing is fetched to find out
            return model_folder(words[0]), list(words[1:])
    return model_folder(ANY_NETWORK), list(words)


def require_format(found: object, folder: Path) -> None:
    """Raise `InputError` for a folder that another version of the package wrote."""
    if found != FORMAT:
        raise InputError(f"expected a SANE of format {FORMAT} in {folder}, found format {found}: pre-train it again")
