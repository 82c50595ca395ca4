"""What the checkpoints of a folder do when they are asked: which do the same, and which are damaged."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from weightspace.analysis.inspecting.checkpoints import Inspection
from weightspace.analysis.inspecting.kinship import Relations
from weightspace.analysis.inspecting.relating_folders import is_whole, opened
from weightspace.analysis.representations.responses import answer
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.responses.asking import CONSTANT, Asker, Responses, agreement
from weightspace.responses.config import AskConfig
from weightspace.weights.files import meta_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import which_architecture

# Below this share of the same answers, what has nearly another's weights does not do what that one does.
SAME = 0.5


class BehaviorView(NamedTuple):
    """What one checkpoint does, beside the others of its folder.

    Attributes:
        path: of the checkpoint.
        nearest: the checkpoint that answers most alike; nothing if it is alone.
        agreement: the share of inputs that both answer alike: of class scores with the same winner, else the share of
            their outputs' variation that they have in common.
        note: what is wrong with it, if anything, or why it was not asked.
    """

    path: str
    nearest: str
    agreement: float | None
    note: str


class _Asked(NamedTuple):
    responses: Responses
    kind: str


def ask_folder(
    address: str | Path,
    inspection: Inspection,
    related: Mapping[str, Relations],
    given: Sequence[Architecture],
    ask: AskConfig | None = None,
) -> list[BehaviorView]:
    """Ask every checkpoint of a folder that has no broken numbers, and compare what they answer.

    Args:
        address: of the folder, as it was inspected.
        inspection: of the folder.
        related: checkpoints that are related by their weights, of which a damaged one answers otherwise.
        given: architectures of the checkpoints, which the caller vouches for.
        ask: what they are asked with.

    Raises:
        InputError: no architecture is given.
    """
    if not given:
        raise InputError(
            "expected --architecture my_nets:Net --example 1,3,32,32 to ask checkpoints what they do, found none"
        )
    whole = [checkpoint for checkpoint in inspection.checkpoints if is_whole(checkpoint)]
    askers: dict[str, Asker] = {}
    asked: dict[str, _Asked] = {}
    refused: dict[str, str] = {}
    with opened(address, whole, inspection.key) as networks, progress_bar("asking", len(whole)) as advance:
        for checkpoint in whole:
            try:
                weights = networks[checkpoint.path]
                architecture = which_architecture(meta_of(weights), given, ())
                responses = answer(weights, architecture, askers, ask, keep=True)
                asked[checkpoint.path] = _Asked(responses, checkpoint.architecture)
            except InputError as refusal:
                refused[checkpoint.path] = str(refusal)
            advance()
    relatives = dict(_relatives(related))
    views = [_view(path, asked, relatives.get(path, ())) for path in asked]
    return views + [BehaviorView(path, "", None, why) for path, why in refused.items()]


def _relatives(related: Mapping[str, Relations]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Of every checkpoint those that it is related to by its weights."""
    for relations in related.values():
        edges = [(edge.first, edge.second) for tree in relations.trees for edge in tree]
        for path in {path for edge in edges for path in edge}:
            yield path, tuple(other for edge in edges for other in edge if path in edge and other != path)


def _view(path: str, asked: Mapping[str, _Asked], relatives: Sequence[str]) -> BehaviorView:
    mine = asked[path]
    alike = {
        name: agreement(mine.responses, there.responses)
        for name, there in asked.items()
        if name != path and there.kind == mine.kind
    }
    nearest = max(alike, key=lambda name: alike[name], default="")
    known = [name for name in relatives if name in alike]
    strange = [name for name in known if alike[name] < SAME]
    note = _damage(mine.responses)
    if not note and known and len(strange) == len(known):
        note = f"nearly the weights of {strange[0]}, but answers alike on {alike[strange[0]]:.0%} of inputs only"
    return BehaviorView(path, nearest, alike.get(nearest), note)


def _damage(responses: Responses) -> str:
    """What is wrong with a network whatever others do."""
    if responses.finite < 1:
        return f"{1 - responses.finite:.1%} of what its units write is not finite"
    outputs = responses.returned[0].flatten(1)
    if responses.scores:
        outputs = responses.returned[0].softmax(-1).flatten(1)
    if float(outputs.std(0).mean()) <= CONSTANT * float(outputs.abs().mean()):
        return "answers every input alike"
    return ""
