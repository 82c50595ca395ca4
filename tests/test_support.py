"""The table of supported networks is what the program does; `WRITE_SUPPORT=1` writes it anew."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from garden import GARDEN, planted
from weightspace.autoencoder.sane import SANE
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import Symmetry, permute, random_permutations
from weightspace.symmetry.matching import match_weights
from weightspace.symmetry.proving import prove_symmetry
from weightspace.weights.values import Weights

PAGE = Path(__file__).parent.parent / "docs" / "pages" / "results" / "symmetry.md"
BEGIN, END = "<!-- support table: written by tests/test_support.py -->", "<!-- end of support table -->"
SHORT, SHORT_END = "<!-- short -->", "<!-- end of short -->"
TRIALS = 5
# What opens the page: networks that everybody knows.
KNOWN = (
    *("LeNet", "VGG-11, batch norm", "ResNeXt", "DenseNet", "MobileNetV2", "ConvNeXt", "U-Net", "ViT"),
    *("GPT-2 (transformers)", "Llama with grouped queries (transformers)", "LSTM language model, tied"),
)


def matched(weights: Weights, symmetry: Symmetry) -> str:
    """How many of some planted permutations weight matching finds again."""
    if not symmetry.groups:
        return "–"
    found = 0
    for seed in range(TRIALS):
        moved = permute(weights, symmetry, random_permutations(symmetry, derive_generator(seed)))
        back = permute(moved, symmetry, match_weights(moved, weights, symmetry))
        found += all(torch.equal(back[name], weights[name]) for name in symmetry.moved if name not in symmetry.buffers)
    return f"{found} of {TRIALS}"


def proved(module: nn.Module, symmetry: Symmetry, example: torch.Tensor) -> str:
    """Whether outputs stay equal, on weights and inputs that the trace has not been proved on."""
    prove_symmetry(module, symmetry, example, seed=1)
    return "equal"


def written(sane: SANE, module: nn.Module) -> str:
    """Whether weights that went through an autoencoder which never saw the architecture load strictly."""
    weights = dict(module.state_dict())
    prepared, latents = sane.encode(weights)
    architecture = sane.preparation.architecture_for(weights)
    module.load_state_dict(sane.decode(latents, architecture, prepared.carried), strict=True)
    return "complete"


def support_table(sane: SANE) -> str:
    lines = [
        "| network | numbers | groups traced | parameters that move | outputs after permuting | planted permutations "
        "found | written |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for name in GARDEN:
        module, example, traced = planted(name)
        weights, symmetry = dict(module.state_dict()), traced.symmetry
        cells = [
            name,
            f"{sum(tensor.numel() for tensor in weights.values()):,}",
            str(len(symmetry.groups)),
            f"{symmetry.coverage:.1%}",
            proved(module, symmetry, example),
            matched(weights, symmetry),
            written(sane, module),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def known_rows(table: str) -> str:
    """The head of the table, and the rows of networks that everybody knows."""
    head, line, *rows = table.splitlines()
    kept = [row for row in rows if row.split(" | ")[0].removeprefix("| ") in KNOWN]
    assert len(kept) == len(KNOWN)
    return "\n".join([head, line, *kept])


@pytest.mark.slow
def test_the_page_shows_what_is_supported(sane_folder: Path) -> None:
    table, expected = support_table(SANE.open(sane_folder)), PAGE.read_text()
    for begin, end, rows in ((SHORT, SHORT_END, known_rows(table)), (BEGIN, END, table)):
        before, after = expected.split(begin)[0], expected.split(end)[1]
        expected = f"{before}{begin}\n{rows}\n{end}{after}"
    if os.environ.get("WRITE_SUPPORT"):
        PAGE.write_text(expected)
    assert PAGE.read_text() == expected
