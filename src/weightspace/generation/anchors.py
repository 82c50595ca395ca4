"""Anchors: the checkpoints that new networks are sampled around, chosen and encoded."""

from typing import NamedTuple

from jaxtyping import Float, Int
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from weightspace.autoencoder.coding import encode_corpus
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.corpus import opened_corpus
from weightspace.errors import InputError
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

USUAL = "validation_accuracy"


class Anchors(NamedTuple):
    """Encoded anchors: latents, which layer their tokens are of, and what the latents do not hold."""

    latents: Float[Tensor, "anchors tokens latent"]
    layers: Int[Tensor, "tokens"]
    architectures: list[Architecture]
    carried: list[Weights]


def training_members(sane: SANE, zoo: Zoo) -> Zoo:
    """The members of a zoo that a model was trained on; the whole zoo if there are none."""
    known = sane.trained_on(zoo)
    return zoo.where(lambda table: table["member"].isin(known)) if known else zoo


def choose_anchors(
    sane: SANE, zoo: Zoo, count: int, *, by: str = "validation_accuracy", architecture: str | None = None
) -> Zoo:
    """The best checkpoint of each of the `count` best training members, of one architecture if it is named.

    Chosen by a validation property of which more is better, so that test accuracy never decides what is generated.

    Of a zoo without a validation accuracy an accuracy that is not of test images ranks the members, else nothing does
    and its first members are taken; `describe_choice` says so, and that there were fewer members than asked for.

    Raises:
        InputError: an unknown property or architecture, a property of test images, or a loss.
    """
    if by.startswith("test") or by.endswith("loss"):
        raise InputError(f"expected a property to choose by that is no loss and not of test images, found '{by}'")
    if architecture is not None and architecture not in zoo.architectures:
        raise InputError(f"expected one of the architectures {', '.join(zoo.architectures)}, found '{architecture}'")
    members = training_members(sane, zoo)
    members = members if architecture is None else members.where(architecture=architecture)
    ranked = by if by in zoo.properties or by != USUAL else ranking_of(zoo)
    if ranked is None:
        return members.last().first(count)
    known = members.table[members.values(ranked).notna()]["member"].nunique()
    return members.best(max(1, min(count, known)), by=ranked)


def ranking_of(zoo: Zoo) -> str | None:
    """The property that stands in for a validation accuracy: an accuracy that is not of test images, else none."""
    numbers = [name for name in zoo.properties if is_numeric_dtype(zoo.table[name])]
    fitting = [name for name in numbers if "acc" in name.lower() and not name.startswith("test")]
    return next(iter(sorted(fitting, key=lambda name: name.startswith("train"))), None)


def describe_choice(anchors: Zoo, count: int, by: str) -> str:
    """What had to be done otherwise than it was asked for, in words; nothing if nothing had."""
    said = []
    if by == USUAL and by not in anchors.properties:
        ranking = ranking_of(anchors)
        said.append(
            f"no {by} in the zoo: anchors are " + (f"the best by {ranking}" if ranking else "its first members")
        )
    if len(anchors) < count:
        said.append(f"--best {count} asks for more members than there are: {len(anchors)}")
    return "; ".join(said)


def encode_anchors(sane: SANE, anchors: Zoo) -> Anchors:
    """Latents of the anchors, in haloed windows where they are long.

    Raises:
        InputError: no anchors, or anchors with different shapes.
    """
    if len(anchors) == 0:
        raise InputError("expected at least 1 anchor, found none")
    with opened_corpus(anchors, sane.preparation) as corpus:
        if len(corpus.parts) > 1:
            raise InputError(f"expected anchors with the same shapes, found {len(corpus.parts)} different kinds")
        ((part, latents),) = encode_corpus(sane.network, corpus)
    architectures = [anchors.architectures[str(name)] for name in part.table["architecture"]]
    carried: list[Weights] = [{} for _ in architectures]
    for number, architecture in enumerate(architectures if part.frame.layout.carried else []):
        weights = anchors.weights(int(anchors.table.index.get_loc(part.table.index[number])))
        carried[number] = part.frame.carried_of(weights, architecture)
    return Anchors(latents, part.positions[:, 1], architectures, carried)
