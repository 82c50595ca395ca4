"""Ask the networks of a zoo: what each of them does on the same inputs."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
import torch

from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus, CorpusPart, begin_array, open_heard
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.row_responses import ROW_NUMBERS, count_rows, responses_of_rows
from weightspace.errors import InputError
from weightspace.images import open_images
from weightspace.progress import progress_bar
from weightspace.responses.asking import Asker, Responses
from weightspace.responses.config import AskConfig
from weightspace.responses.questions import Questions, draw_questions, given_questions
from weightspace.tokens.tokenizing import unflatten_weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import images_for
from weightspace.zoo.zoo import Zoo

NOISE = "noise"


class Asked(NamedTuple):
    """The responses of checkpoints of one architecture, and their rows of the zoo's table."""

    architecture: Architecture
    asker: Asker
    responses: list[Responses]
    table: pd.DataFrame


def ask_zoo(zoo: Zoo, config: AskConfig | None = None, device: str | torch.device = "cpu") -> Iterator[Asked]:
    """Ask every checkpoint of a zoo the same questions, shard by shard.

    Args:
        zoo: of any architectures that can be built.
        config: what they are asked with.
        device: where they run.

    Raises:
        InputError: an architecture that cannot be built, or run on several inputs at once.
    """
    config, askers = config or AskConfig(), dict[str, Asker]()
    with progress_bar("asking", len(zoo)) as advance:
        for piece in zoo.stacks():
            name = piece.architecture.id
            if name not in askers:
                askers[name] = make_asker(piece.architecture, config, device, zoo=zoo)
            responses = []
            for row in range(len(piece.table)):
                weights = {key: tensor[row] for key, tensor in piece.stack.items()}
                responses.append(askers[name].ask(weights))
                advance()
            yield Asked(piece.architecture, askers[name], responses, piece.table)


def ask_corpus(zoo: Zoo, preparation: Preparation, corpus: Corpus, device: str | torch.device = "cpu") -> Corpus:
    """A corpus that also knows what its networks' units do, written beside its weights.

    Networks are asked as they are in the corpus, aligned and in canonical scales, so that units are in the order of
    their rows.

    Args:
        zoo: that the corpus was made of.
        preparation: that it was made with; its scale, if it has one.
        corpus: the same networks' weights.
        device: where they run.

    Raises:
        InputError: networks that cannot be run; see `require_askable`.
    """
    with progress_bar("asking", sum(len(part.flat) for part in corpus.parts)) as advance:
        return Corpus(tuple(_ask_part(zoo, preparation, part, device, advance) for part in corpus.parts))


def require_askable(zoo: Zoo, config: PreparationConfig) -> None:
    """Refuse tokens that show several rows, and networks that cannot be asked, before anything is made of them."""
    if config.token_style != "rows":
        raise InputError(
            f"expected tokens of one row to stand beside what its unit does, found {config.token_style}: "
            "use --token-style rows"
        )
    _try_asking(zoo)


def _try_asking(zoo: Zoo) -> None:
    """Trace every architecture of a zoo with several inputs at once, as it is when it is asked."""
    for architecture in used_architectures(zoo):
        make_asker(architecture, AskConfig())


def _ask_part(
    zoo: Zoo, preparation: Preparation, part: CorpusPart, device: str | torch.device, advance: Callable[[], None]
) -> CorpusPart:
    layout, askers, place = part.frame.layout, dict[str, Asker](), 0
    path = part.path.with_suffix(".responses.npy")
    with path.open("wb") as file:
        begin_array(file, (len(part.flat), count_rows(layout) * ROW_NUMBERS))
        for piece in zoo.where(lambda table: table.index.isin(part.table.index)).stacks():
            architecture = piece.architecture
            if architecture.id not in askers:
                askers[architecture.id] = make_asker(architecture, AskConfig(), device)
            names = part.frame.own_names(architecture)
            for row in range(len(piece.table)):
                carried = {name: piece.stack[names[name]][row] for name in layout.carried}
                weights = part.frame.to_own(unflatten_weights(part.flat[place], layout, carried), architecture)
                responses = askers[architecture.id].ask(weights)
                rows = responses_of_rows(responses, askers[architecture.id], layout, names)
                file.write(rows.numpy().astype("<f4", copy=False).data)
                place += 1
                advance()
    scale = preparation.heard.of(part.key, layout) if preparation.heard is not None else None
    return replace(part, heard=open_heard(path, scale))


def make_asker(
    architecture: Architecture,
    config: AskConfig,
    device: str | torch.device = "cpu",
    *,
    allow: Collection[str] = (),
    zoo: Zoo | None = None,
) -> Asker:
    """What asks networks of an architecture.

    Args:
        architecture: that can be built.
        config: what they are asked with.
        device: where they run.
        allow: factories that the caller vouches for.
        zoo: whose images are sized and normalised as its own were.

    Raises:
        InputError: nobody knows how to build it, or it takes no such inputs.
    """
    require_runnable(architecture, allow)
    return Asker(architecture.build(allow), make_questions(architecture, config, allow=allow, zoo=zoo), device)


def require_runnable(architecture: Architecture, allow: Collection[str] = ()) -> None:
    """Refuse an architecture that cannot be built here, or whose inputs nobody knows."""
    if architecture.factory is None:
        raise InputError(
            f"expected a network that can be run, found {architecture.id}, which nobody knows how to build: name it "
            "with --architecture my_nets:Net --example 1,3,32,32"
        )
    architecture.require_factory(allow)
    if not (architecture.example_shape or architecture.several_inputs or architecture.inputs_from):
        raise InputError(f"expected inputs for the architecture {architecture.id}, found no shape: give --example")


def cannot_run(architectures: Iterable[Architecture]) -> str:
    """Why networks of some architectures cannot be asked, in a sentence; "" if they all can."""
    try:
        for architecture in architectures:
            require_runnable(architecture)
    except InputError as refusal:
        return str(refusal)
    return ""


def cannot_ask(zoo: Zoo) -> str:
    """Why networks of a zoo cannot be asked, once it was tried with each of their architectures; "" if they can."""
    try:
        _try_asking(zoo)
    except InputError as refusal:
        return str(refusal)
    return ""


def used_architectures(zoo: Zoo) -> list[Architecture]:
    """Those that a zoo, or a part of one, has networks of."""
    return [zoo.architectures[str(name)] for name in dict.fromkeys(zoo.table["architecture"])]


def make_questions(
    architecture: Architecture, config: AskConfig, *, allow: Collection[str] = (), zoo: Zoo | None = None
) -> Questions:
    """Inputs for networks of an architecture: noise in their shape, or images, or what the user's function returns."""
    count, seed = config.inputs, config.ask_seed
    if config.ask_with != NOISE:
        size = architecture.example_shape[-1] if architecture.example_shape else None
        images = images_for(zoo, config.ask_with) if zoo is not None else open_images(config.ask_with, size=size)
        return given_questions((images.train.inputs[:count],), seed=seed)
    if architecture.inputs_from:
        inputs = architecture.inputs(allow)
        return given_questions(inputs.positional, inputs.named, seed=seed)
    if architecture.several_inputs:
        shapes, integers = zip(*architecture.several_inputs, strict=True)
        return draw_questions(shapes, integers, count=count, seed=seed)
    return draw_questions([architecture.example_shape or ()], [architecture.integers], count=count, seed=seed)
