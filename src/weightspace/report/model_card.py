"""The card of a trained SANE: one page that says what it was trained on and what it is worth.

Everything on it was measured on members that the model never saw, beside an untrained model of the same shape.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from weightspace.analysis.predicting.calibrating import TARGETS, fit_predictor
from weightspace.analysis.probing.probe import probe
from weightspace.analysis.representations.baselines import layer_statistics
from weightspace.analysis.representations.catalog import Represent, rename
from weightspace.autoencoder.fidelity import Fidelity, measure_fidelity, measure_layers
from weightspace.autoencoder.inference import embed
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.squeezing import PrincipalLatents
from weightspace.errors import InputError
from weightspace.images import Images
from weightspace.outputs import called_as, installed_versions, write_json
from weightspace.zoo.concatenating import concatenate
from weightspace.zoo.zoo import Zoo

CARD_FILE, NUMBERS_FILE = "README.md", "card.json"
SHARES = (0.1, 0.25, 0.5, 1.0)
MOST_NETWORKS = 24


class CardZoo(NamedTuple):
    """A zoo in three parts by member, and images to score its networks on, if there are any."""

    name: str
    parts: Sequence[Zoo]
    images: Images | None = None


def write_model_card(folder: str | Path, zoos: Sequence[CardZoo], *, command: str = "") -> dict[str, Any]:
    """Measure a trained model, fit its predictor, and write `README.md` and `card.json` into its folder.

    Args:
        folder: of the model.
        zoos: what it was trained on the first parts of; the last parts are what it is measured on, at most 24
            networks of each, at their last epoch.
        command: what made the model; this process's command line by default.

    Returns:
        What is in `card.json`.

    Raises:
        InputError: no model there, or test members that it was trained on.
    """
    folder, sane = Path(folder), SANE.open(folder)
    numbers = {
        "command": command or called_as(),
        "seed": sane.about.get("training", {}).get("seed"),
        "versions": installed_versions(),
        "trained_on": [
            {"zoo": zoo.name, "members": len(zoo.parts[0].members), "checkpoints": len(zoo.parts[0])} for zoo in zoos
        ],
        "architectures": [
            {"id": own.id, "numbers": own.parameters, "note": sane.preparation.frame_of(own).note}
            for own in sane.preparation.architectures.values()
        ],
        "final": sane.about.get("final", {}),
        "latents_per_weight": sane.latents_per_weight,
        "parameters": sum(parameter.numel() for parameter in sane.parameters()),
        "fidelity": [_fidelity(sane, zoo) for zoo in zoos],
        "reading": [_reading(sane, zoo) for zoo in zoos],
        "predicting": _predicting(sane, folder, zoos),
    }
    write_json(folder / NUMBERS_FILE, numbers)
    (folder / CARD_FILE).write_text(render_card(folder.absolute().name, numbers), encoding="utf-8")
    return numbers


def _fidelity(sane: SANE, zoo: CardZoo) -> dict[str, Any]:
    """What is left of the networks of one zoo: as a whole, with fewer latents, and layer by layer."""
    held_out = held_out_networks(zoo.parts[-1])
    whole = measure_fidelity(sane, held_out, zoo.images)
    components = PrincipalLatents.fit(sane, zoo.parts[0])
    width, own = sane.config.latent_width, whole.latents_per_weight
    kept = [math.floor(share * width / own) for share in SHARES if share < own]
    curve = [
        {"latents_per_weight": own * count / width, **_scores(measured)}
        for count in kept
        if count >= 1 and (measured := measure_fidelity(sane, held_out, zoo.images, components.keeping(count)))
    ]
    return {
        "zoo": zoo.name,
        "networks": whole.networks,
        "scored_on": _scored_on(whole),
        "latents_per_weight": own,
        **_scores(whole),
        "curve": [*curve, {"latents_per_weight": own, **_scores(whole)}],
        "layers": _layers(sane, held_out, zoo.images),
    }


def _scored_on(measured: Fidelity) -> str:
    if math.isnan(measured.agreement):
        return "nothing, as the networks cannot be built"
    return "random inputs, as no images fit" if math.isnan(measured.original) else "images"


def held_out_networks(zoo: Zoo, most: int = MOST_NETWORKS) -> Zoo:
    """The last checkpoints of at most so many members."""
    last = zoo.last()
    return last.where(lambda table: table["member"].isin(last.members[:most]))


def _scores(measured: Fidelity) -> dict[str, Any]:
    return {
        "r2": measured.overall_r2,
        "agreement": measured.agreement,
        "original_accuracy": measured.original,
        "reconstructed_accuracy": measured.reconstructed,
    }


def _layers(sane: SANE, held_out: Zoo, images: Images | None) -> list[dict[str, Any]]:
    try:
        return [layer._asdict() for layer in measure_layers(sane, held_out, images)]
    except InputError:
        return []  # of several layouts there are no layers in common


def _reading(sane: SANE, zoo: CardZoo) -> dict[str, Any]:
    """R² of linear probes on unseen members: the model, an untrained one of its shape, and layer statistics."""
    untrained = SANE(sane.config, sane.preparation, window=sane.window, seed=1)
    several = len(sane.preparation.frames) > 1
    represent: list[Represent] = [
        lambda parts: [rename(embed(untrained, part), "untrained SANE (mean)") for part in parts],
        lambda parts: [embed(sane, part) for part in parts],
    ]
    if not several:
        represent = [
            lambda parts: [layer_statistics(part) for part in parts],
            *represent,
            lambda parts: [embed(sane, part, "readout") for part in parts],
        ]
    rows, notes = [], []
    for target in (name for name in TARGETS if name in zoo.parts[0].properties):
        try:
            results = [probe(*own(zoo.parts), target=target) for own in represent]
        except InputError as refusal:
            notes.append(f"{target.replace('_', ' ')}: {refusal}")
            continue
        fields = ("representation", "target", "r2", "r2_low", "r2_high", "tau")
        rows += [{name: getattr(result, name) for name in fields} for result in results]
    return {"zoo": zoo.name, "rows": rows, "note": "; ".join(notes)}


def _predicting(sane: SANE, folder: Path, zoos: Sequence[CardZoo]) -> dict[str, Any]:
    """Fit the predictor, save it with the model, and say how well its intervals hold."""
    parts = [_together([zoo.parts[number] for zoo in zoos]) for number in range(3)]
    try:
        predictor = fit_predictor(sane, parts)
    except InputError as refusal:
        return {"rows": [], "note": str(refusal)}
    predictor.save(folder)
    fields = ("target", "r2", "usual_radius", "coverage")
    rows = [{name: getattr(own, name) for name in fields} for own in predictor.properties]
    about = {name: getattr(predictor, name) for name in ("level", "strangers", "members")}
    return {"rows": rows, "note": "", **about}


def _together(zoos: Sequence[Zoo]) -> Zoo:
    return concatenate(zoos) if len(zoos) > 1 else zoos[0]


def render_card(name: str, numbers: Mapping[str, Any]) -> str:
    """The card as Markdown, with the header that Hugging Face reads."""
    trained = numbers["trained_on"]
    members, checkpoints = (sum(zoo[key] for zoo in trained) for key in ("members", "checkpoints"))
    lines = [
        "---",
        "library_name: weightspace",
        "tags: [weight-space-learning, sane]",
        "---",
        f"# {name}",
        "",
        f"A SANE autoencoder of {numbers['parameters']:,} parameters, trained on {members:,} members "
        f"({checkpoints:,} checkpoints) of {', '.join(zoo['zoo'] for zoo in trained)}. It keeps "
        f"{numbers['latents_per_weight']:.2f} latent numbers for every weight. All figures below are of members that "
        "it never saw.",
        "",
        "| architecture | numbers | note |",
        "|---|---|---|",
        *(f"| {own['id']} | {own['numbers']:,} | {own['note']} |" for own in numbers["architectures"]),
        "",
        f"Final losses: {_final(numbers['final'])}.",
        "",
        "## What is left of networks",
        "",
    ]
    for zoo in numbers["fidelity"]:
        lines += _fidelity_lines(zoo)
    lines += ["## What can be read", "", "R² of linear probes on test members, all kept epochs, 95 % interval.", ""]
    for zoo in numbers["reading"]:
        lines += _reading_lines(zoo)
    lines += ["## What it predicts", "", *_predicting_lines(numbers["predicting"])]
    versions = ", ".join(f"{package} {version}" for package, version in numbers["versions"].items())
    lines += ["## How it was made", "", f"    {numbers['command']}", "", f"Seed {numbers['seed']}; {versions}."]
    return "\n".join(lines) + "\n"


def _final(final: Mapping[str, Any]) -> str:
    names = ("loss", "reconstruction", "contrastive", "statistics")
    return ", ".join(f"{name} {final[name]:.3f}" for name in names if name in final) or "none recorded"


def _fidelity_lines(zoo: Mapping[str, Any]) -> list[str]:
    head = ["R²", "same answer", "accuracy as it was", "reconstructed"]
    keys = ("r2", "agreement", "original_accuracy", "reconstructed_accuracy")
    lines = [
        f"**{zoo['zoo']}**: {zoo['networks']} networks at their last epoch, compared on {zoo['scored_on']}. With fewer "
        "latents: the first principal components of each token's, which is less than a model trained with so few would "
        "keep.",
        "",
        f"| latents per weight | {' | '.join(head)} |",
        "|---|---|---|---|---|",
    ]
    for point in zoo["curve"]:
        lines.append(f"| {point['latents_per_weight']:.2f} | {' | '.join(_number(point[key]) for key in keys)} |")
    if zoo["layers"]:
        lines += [
            "",
            "| only this layer reconstructed | weights | R² | same answer | accuracy |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {own['layer']} | {own['weights']:,} | {_number(own['r2'])} | {_number(own['agreement'])} | "
            f"{_number(own['reconstructed'])} |"
            for own in zoo["layers"]
        ]
    return [*lines, ""]


def _reading_lines(zoo: Mapping[str, Any]) -> list[str]:
    if not zoo["rows"]:
        return [f"**{zoo['zoo']}**: {zoo['note'] or 'no properties to read'}", ""]
    targets = list(dict.fromkeys(row["target"] for row in zoo["rows"]))
    cells = {(row["representation"], row["target"]): row for row in zoo["rows"]}
    lines = [
        f"**{zoo['zoo']}**",
        "",
        f"| representation | {' | '.join(target.replace('_', ' ') for target in targets)} |",
        "|---" * (len(targets) + 1) + "|",
    ]
    for name in dict.fromkeys(row["representation"] for row in zoo["rows"]):
        own = [cells[name, target] for target in targets]
        shown = [f"{row['r2']:.3f} [{_number(row['r2_low'], 2)}, {_number(row['r2_high'], 2)}]" for row in own]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return [*lines, "", *([zoo["note"], ""] if zoo["note"] else [])]


def _predicting_lines(found: Mapping[str, Any]) -> list[str]:
    if not found["rows"]:
        return [f"Nothing: {found['note']}.", ""]
    train, validation, test = found["members"]
    lines = [
        f"`weightspace predict` says so much of a network like these, with intervals for {found['level']:.0%} of "
        f"networks: fitted on {train} members, calibrated on {validation}, checked on {test}. It takes "
        f"{found['strangers']:.1%} of the checkpoints of the last for unlike the zoo.",
        "",
        "| property | R² | usual interval | true values in it |",
        "|---|---|---|---|",
    ]
    for own in found["rows"]:
        name, radius = own["target"].replace("_", " "), _number(own["usual_radius"])
        lines.append(f"| {name} | {_number(own['r2'])} | ± {radius} | {own['coverage']:.0%} |")
    return [*lines, ""]


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"
