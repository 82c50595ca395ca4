"""Which members are tested together, and by which model that has not seen them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pandas.api.types import is_numeric_dtype

from weightspace.analysis.config import TARGETS, ProbeConfig, usual_targets
from weightspace.analysis.probing.comparing import Fold, ProbeRow, compare_representations
from weightspace.analysis.representations.catalog import STANDARD, Choice, Represent, choose_representations
from weightspace.autoencoder.sane import SANE, stored_weights
from weightspace.corpus.asking import cannot_run, used_architectures
from weightspace.errors import InputError
from weightspace.responses.config import AskConfig
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.splitting import FEW, leave_one_out, split_any
from weightspace.zoo.zoo import Zoo

MOST_CATEGORIES = 20


class Targets(NamedTuple):
    """Numeric properties that change over training, and hyper-parameters, which do not."""

    results: list[str]
    hyper_parameters: list[str]


def make_folds(
    zoo: Zoo,
    shares: Sequence[float],
    sanes: Sequence[SANE] = (),
    choice: Choice = STANDARD,
    *,
    folds: int = 0,
    seed: int = 0,
    allow_overlap: bool = False,
) -> list[Fold]:
    """Splits of a zoo by member with representations for each.

    Args:
        zoo: all of its members.
        shares: of members for training, validation and test.
        sanes: trained models. Each fold takes the first that has seen none of its test members; folds that all
            models have seen members of are left out.
        choice: of representations; where networks cannot be run, `standard` and `all` leave out what they do.
        folds: how many; 0 for as many as test every member at most once. Of fewer than 12 trainings, without a number
            of folds, each is left out once and tested; nothing validates.
        seed: of the splits: the models' own, so that they have not seen the test members.
        allow_overlap: take the first model for every fold, whatever it has seen.

    Raises:
        InputError: no fold whose test members some model has not seen.
    """
    runnable, device = not cannot_run(used_architectures(zoo)), str(sanes[0].device) if sanes else "cpu"

    def choose(sane: SANE | None) -> list[Represent]:
        return choose_representations(choice.names, sane, ask=choice.ask, runnable=runnable, device=device)

    if zoo.lineages.nunique() < FEW and not folds:
        return _with_representations(leave_one_out(zoo, seed=seed), sanes, choose, allow_overlap=allow_overlap)
    most = max(1, int(1 / shares[-1] + 1e-9))
    if folds > most:
        raise InputError(f"expected at most {most} folds with test parts of share {shares[-1]:g}, found {folds}")
    splits = [split_any(zoo, shares, seed=seed, fold=fold).parts for fold in range(folds or most)]
    return _with_representations(splits, sanes, choose, allow_overlap=allow_overlap)


def _with_representations(
    splits: Sequence[Sequence[Zoo]],
    sanes: Sequence[SANE],
    choose: Callable[[SANE | None], list[Represent]],
    *,
    allow_overlap: bool,
) -> list[Fold]:
    """Splits with representations that have seen none of their test members; those for which there are none are left
    out."""
    kept, seen = [], 0
    for fold, parts in enumerate(splits):
        fresh = [sane for sane in sanes if allow_overlap or not sane.trained_on(parts[-1])]
        fresh.sort(key=lambda sane: len(sane.trained_on(parts[1])))  # validation members seen choose badly
        if fresh or not sanes:
            kept.append(Fold(parts, choose(fresh[0] if fresh else None)))
        elif not fold:
            seen = len(sanes[0].trained_on(parts[-1]))
    if not kept:
        raise InputError(
            f"expected test members that the SANE was not trained on, found {seen} of "
            f"{len(splits[0][-1].members)} among its training members in the first fold, and some "
            "in every other: give the shares and the seed it was trained with"
        )
    return kept


def find_targets(zoo: Zoo) -> Targets:
    """Every property of a zoo that can be probed for: those that vary."""
    results, hyper_parameters = [], []
    table = zoo.table
    several = bool(table["member"].duplicated().any())
    for name in zoo.properties:
        values = table[name].dropna()
        if values.nunique() < 2:
            continue
        numeric = is_numeric_dtype(values)
        # With one checkpoint a member nothing changes: numbers may be results, and are taken for such.
        constant = values.groupby(table["member"]).nunique().max() == 1 and (several or not numeric)
        if constant and (numeric or values.nunique() <= MOST_CATEGORIES):
            hyper_parameters.append(name)
        elif numeric:
            results.append(name)
    return Targets(results, hyper_parameters)


class ZooProbes(NamedTuple):
    """Rows for tables, how many folds they are of, how many of the zoo's members were tested, whether each was left out
    once, as there are few, and why networks were not asked, if they were not.
    """

    rows: list[ProbeRow]
    folds: int
    tested: int
    members: int
    left_out: bool = False
    not_asked: str = ""


def probe_zoo(
    folder: Path,
    sanes: Sequence[Path],
    config: ProbeConfig,
    ask: AskConfig | None = None,
    given: Sequence[Architecture] = (),
) -> ZooProbes:
    """Probe representations of a zoo, those of trained models in folders among them; what `weightspace probe` does.

    Networks are asked (see `AskConfig`) where they can be run: of architectures of ours, or that are `given`.

    Raises:
        InputError: no such properties, or refusals of `make_folds` and `compare_representations`.
    """
    zoo, stored = Zoo.open(folder, given), stored_weights([folder])
    models = [SANE.open(path, config.device, stored, given) for path in sanes]
    known = find_targets(zoo)
    everything = [*known.results, *known.hyper_parameters]
    wanted = [target.strip() for target in config.targets.split(",") if target.strip()]
    wanted = everything if wanted == ["all"] else wanted
    if config.targets == TARGETS:  # of the usual ones those that this zoo has
        wanted = usual_targets(everything)
    if not wanted:
        raise InputError(f"expected properties that vary in {folder} to probe for, found none of {config.targets}")
    choice = Choice([name.strip() for name in config.representations.split(",")], ask)
    overlap, seed = config.allow_overlap, config.seed
    folds = make_folds(zoo, config.split, models, choice, folds=config.folds, seed=seed, allow_overlap=overlap)
    compared = compare_representations(
        folds,
        [target for target in wanted if target not in known.hyper_parameters],
        hyper_parameters=[target for target in wanted if target in known.hyper_parameters],
        model=config.model,
        seed=seed,
        allow_overlap=overlap,
    )
    tested = {member for fold in folds for member in fold.parts[-1].members}
    alone = not config.folds and zoo.lineages.nunique() < FEW
    return ZooProbes(
        compared.rows, len(folds), len(tested), len(zoo.members), alone, cannot_run(used_architectures(zoo))
    )
