"""A folder of checkpoints as a whole: one by one, between each other, and in the eyes of a SANE."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weightspace.analysis.inspecting.adapters import AdapterStudy, study_adapters
from weightspace.analysis.inspecting.checkpoints import Inspection, inspect_folder
from weightspace.analysis.inspecting.kinship import Kinship, Relations, families_of
from weightspace.analysis.inspecting.relating_folders import (
    SaneView,
    given_symmetries,
    relate_across,
    relate_folder,
)
from weightspace.errors import InputError
from weightspace.remote import without_secrets
from weightspace.responses.config import AskConfig
from weightspace.weights.values import some_of
from weightspace.zoo.architecture import Architecture

if TYPE_CHECKING:
    from weightspace.analysis.inspecting.asking import BehaviorView


FAULTS = ("unreadable", "nan", "dead", "duplicate", "outlying")


def require_faults(names: str) -> list[str]:
    """The faults that a check fails on, separated by commas; none of an empty text."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in FAULTS]
    if unknown:
        raise InputError(f"expected faults among {', '.join(FAULTS)}, found '{unknown[0]}'")
    return wanted


class FolderStudy(NamedTuple):
    """A folder's checkpoints one by one, between each other, and in the eyes of a SANE."""

    folder: str
    inspection: Inspection
    related: Mapping[str, Relations]
    seen: Sequence[SaneView]
    given: Sequence[str] = ()
    asked: "Sequence[BehaviorView]" = ()
    across: Sequence[Kinship] = ()
    adapters: AdapterStudy = AdapterStudy()

    def summary(self) -> str:
        """One line with all counts."""
        inspection = self.inspection
        remarked = sum(1 for checkpoint in inspection.checkpoints if checkpoint.remarks())
        twice = sum(map(len, (inspection.equal_files, inspection.equal_tensors, inspection.equal_numbers)))
        reordered = sum(len(relations.reordered) for relations in self.related.values())
        families = len(self.families())
        counts = [
            _counted(len(inspection.checkpoints), "checkpoint"),
            f"{remarked:,} with remarks",
            f"{_counted(twice, 'group')} of duplicates",
            f"{_counted(reordered, 'group')} equal up to order",
            _counted(families, "family", "families"),
        ]
        if self.adapters.seen:
            counts.insert(1, f"of them {_counted(len(self.adapters.seen), 'adapter')}")
        if not inspection.values:  # which all else was counted by
            counts = [counts[0], "by their headers: --values reads their numbers too"]
        if inspection.left_out:
            counts.append(f"{len(inspection.left_out):,} other files left out")
        return ", ".join(counts)

    def families(self) -> list[list[Kinship]]:
        """Checkpoints that are related, also across architectures: of each family its tree."""
        within = [edge for relations in self.related.values() for tree in relations.trees for edge in tree]
        return families_of([*within, *sorted(self.across, key=lambda edge: edge.distance)])

    def faults(self) -> dict[str, int]:
        """How many checkpoints have what a check may fail on, by its name."""
        inspection = self.inspection
        again = (*inspection.equal_files, *inspection.equal_tensors, *inspection.equal_numbers)
        return {
            "unreadable": sum(bool(checkpoint.problem) for checkpoint in inspection.checkpoints),
            "nan": sum(bool(checkpoint.broken) for checkpoint in inspection.checkpoints),
            "dead": sum(bool(checkpoint.zero_units) for checkpoint in inspection.checkpoints),
            "duplicate": len({path for group in again for path in group}),
            "outlying": sum(bool(checkpoint.outlying_layers) for checkpoint in inspection.checkpoints),
        }

    def notes(self) -> list[str]:
        """How many networks are of the architectures that were given; what was left out or not compared, and why."""
        kinds = [checkpoint.architecture for checkpoint in self.inspection.checkpoints]
        counts = [f"{kinds.count(name)} of {len(kinds)} files are of {name}" for name in self.given]
        reasons: dict[str, list[str]] = {}
        for entry in self.inspection.left_out:
            reasons.setdefault(entry["why"], []).append(entry["what"])
        counts += [f"left out: {some_of(names)} ({why})" for why, names in reasons.items()]
        return counts + [f"{name}: {note}" for name, relations in self.related.items() for note in relations.notes]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        related = {name: relations.to_json() for name, relations in self.related.items()}
        views = {"seen": _rows(self.seen), "asked": _rows(self.asked)}
        across = [asdict(edge) for edge in self.across]
        adapters = self.adapters.to_json()
        return {**self.inspection.to_json(), "related": related, "across": across, "adapters": adapters, **views}


def _rows(views: Sequence[Any]) -> list[dict[str, Any]]:
    return [view._asdict() for view in views]


def _counted(count: int, noun: str, nouns: str = "") -> str:
    """`1 group`, `2 groups`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def study_folder(
    folder: str,
    sane: Path | None = None,
    given: Sequence[Architecture] = (),
    *,
    key: str = "",
    device: str = "auto",
    ask: AskConfig | None = None,
    values: bool = False,
) -> FolderStudy:
    """Inspect a folder's checkpoints, relate them, and let a SANE look at them; what `weightspace inspect` does.

    Args:
        folder: or an archive, or an fsspec URL.
        sane: folder of a trained model, whose predictor speaks too if it has one.
        given: architectures whose networks are aligned before they are compared.
        key: of one of the networks in files that hold several; the usual one if empty.
        device: where the model encodes; see `choose_device`.
        ask: ask checkpoints of given architectures what they do; None asks none.
        values: see `inspect_folder`. Without them nothing is related, encoded or asked.

    Raises:
        InputError: see `inspect_folder`; or a model, or questions, without values.
    """
    inspection = inspect_folder(folder, given, key, values=values)
    shown = without_secrets(folder)
    if not inspection.values:
        if sane is not None or ask is not None:
            raise InputError("expected --values beside --sane or --by responses, which read all numbers, found none")
        return FolderStudy(shown, inspection, {}, [], tuple(architecture.id for architecture in given))
    study = _study(folder, inspection, sane, given, device)
    study = study._replace(
        folder=shown,
        across=relate_across(folder, study.inspection, study.related, given),
        adapters=study_adapters(folder, study.inspection),
    )
    if ask is None:
        return study
    from weightspace.analysis.inspecting.asking import ask_folder

    return study._replace(asked=ask_folder(folder, study.inspection, study.related, given, ask))


def _study(
    folder: str, inspection: Inspection, sane: Path | None, given: Sequence[Architecture], device: str
) -> FolderStudy:
    ids = tuple(architecture.id for architecture in given)
    if sane is None:
        related = relate_folder(folder, inspection, given_symmetries(given), given)
        return FolderStudy(folder, inspection, related, [], ids)
    # What a model needs takes a second to import, which nobody who has none should wait for.
    from weightspace.analysis.inspecting.looking import look_with

    view = look_with(sane, folder, inspection, device, given)
    known = [*given_symmetries(given), *view.symmetries]
    return FolderStudy(folder, inspection, relate_folder(folder, inspection, known, given), view.seen, ids)
