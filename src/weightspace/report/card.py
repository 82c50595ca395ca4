"""The card of a trained SANE: one page that says what it was trained on and what it is worth."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightspace.analysis.examining import Examination, SplitZoo
from weightspace.autoencoder.sane import SANE
from weightspace.outputs import called_as, installed_versions, write_json
from weightspace.report.page import templates

CARD_FILE, NUMBERS_FILE = "README.md", "card.json"


def write_card(folder: str | Path, examination: Examination, zoos: list[SplitZoo]) -> dict[str, Any]:
    """Write `README.md`, `card.json` and the predictor into a model's folder; returns what is in `card.json`.

    Args:
        folder: of the model.
        examination: of that model, on the zoos.
        zoos: what it was trained on the first parts of.
    """
    folder, sane = Path(folder), SANE.open(folder)
    numbers = {
        "command": called_as(),
        "seed": sane.provenance.training.seed,
        "versions": installed_versions(),
        "trained_on": [
            {"zoo": zoo.name, "members": len(zoo.parts[0].members), "checkpoints": len(zoo.parts[0])} for zoo in zoos
        ],
        "architectures": [
            {"id": known.id, "numbers": known.parameters, "note": sane.preparation.frame_of(known).note}
            for known in sane.preparation.architectures.values()
        ],
        "final": sane.provenance.final,
        "latents_per_weight": sane.latents_per_weight,
        "parameters": sum(parameter.numel() for parameter in sane.network.parameters()),
        **examination.to_json(),
    }
    for predictor in (examination.predictor, examination.asking):
        if predictor is not None:
            predictor.save(folder)
    write_json(folder / NUMBERS_FILE, numbers)
    (folder / CARD_FILE).write_text(render_card(folder.absolute().name, numbers), encoding="utf-8")
    return numbers


def render_card(name: str, numbers: Mapping[str, Any]) -> str:
    """The card as Markdown, with the header that Hugging Face reads."""
    names = ("loss", "reconstruction", "contrastive", "statistics")
    final = [f"{loss} {numbers['final'][loss]:.3f}" for loss in names if loss in numbers["final"]]
    template = templates(autoescape=False).get_template("card.md.jinja")
    return template.render(
        name=name, losses=", ".join(final) or "none recorded", number=_number, share=_share, **numbers
    )


def _number(value: float | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def _share(value: float | None) -> str:
    return "too few members" if value is None or math.isnan(value) else f"{value:.0%}"
