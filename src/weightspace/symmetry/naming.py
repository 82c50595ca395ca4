"""Names for what is still free when a graph has been labelled, and reasons for what is not."""

from collections.abc import Mapping

from weightspace.symmetry.axes import Axis, Factor
from weightspace.symmetry.labels import AxisLabel, Labels


def name_groups(labels: Labels, axis: AxisLabel, prefix: str, names: dict[int, str], groups: dict[str, int]) -> None:
    """Name the free atoms of an axis that have no name yet: by its place if they are all of it, else by number."""
    atoms = labels.resolve(axis)
    for number, atom in enumerate(atoms):
        name = prefix if len(atoms) == 1 else f"{prefix}.{number}"
        parts = labels.parts(atom)
        for position, part in enumerate(parts):
            name_groups(labels, part, f"{name}.{position}", names, groups)
        if not parts and labels.reason(atom) is None and atom not in names:
            names[atom] = name
            groups[name] = labels.size((atom,))


def axis_of(labels: Labels, axis: AxisLabel, names: Mapping[int, str]) -> Axis:
    """An axis with the names of its free atoms."""
    factors = []
    for atom in labels.resolve(axis):
        size, parts = labels.size((atom,)), tuple(axis_of(labels, part, names) for part in labels.parts(atom))
        moving = any(leaf for part in labels.parts(atom) for leaf in _free(labels, part))
        factors.append(Factor(names.get(atom), size, parts if moving else ()))
    return tuple(factors) or (Factor(None, 1),)


def _free(labels: Labels, axis: AxisLabel) -> list[int]:
    """The atoms of an axis that may move."""
    free: list[int] = []
    for atom in labels.resolve(axis):
        parts = labels.parts(atom)
        free += [inner for part in parts for inner in _free(labels, part)]
        if not parts and labels.reason(atom) is None:
            free.append(atom)
    return free


def reasons_of(labels: Labels, axis: AxisLabel) -> list[str]:
    """Why parts of an axis stand still."""
    reasons: list[str] = []
    for atom in labels.resolve(axis):
        parts = labels.parts(atom)
        reason = labels.reason(atom)
        reasons += [inner for part in parts for inner in reasons_of(labels, part)]
        reasons += [reason] if reason is not None and not parts else []
    return list(dict.fromkeys(reasons))
