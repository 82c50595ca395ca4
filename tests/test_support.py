"""The README's support table is what the program does; `WRITE_README=1` writes it anew."""

import os
from pathlib import Path

import torch
from torch import nn

from garden import GARDEN
from weightspace.autoencoder.inference import encode_network, restore
from weightspace.autoencoder.sane import SANE
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.symmetry.matching import match
from weightspace.symmetry.tracing import trace_symmetry

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- support table: written by tests/test_support.py -->", "<!-- end of support table -->"
TRIALS = 5


def matched(module: nn.Module, example: torch.Tensor) -> str:
    """How many of some planted permutations weight matching finds again."""
    symmetry = trace_symmetry(module, example)
    if not symmetry.groups:
        return "–"
    weights = dict(module.state_dict())
    found = 0
    for seed in range(TRIALS):
        moved = permute(weights, symmetry, random_permutations(symmetry, derive_generator(seed)))
        back = permute(moved, symmetry, match(moved, weights, symmetry))
        found += all(torch.equal(back[name], weights[name]) for name in symmetry.moved if name not in symmetry.buffers)
    return f"{found} of {TRIALS}"


def written(sane: SANE, module: nn.Module) -> str:
    """Whether weights that went through an autoencoder which never saw the architecture load strictly."""
    weights = dict(module.state_dict())
    prepared, latents = encode_network(sane, weights)
    architecture = sane.preparation.architecture_for(weights)
    module.load_state_dict(restore(sane, latents, architecture, prepared.carried), strict=True)
    return "complete"


def support_table(sane: SANE) -> str:
    lines = ["| network | numbers | groups traced | parameters that move | planted permutations found | written |"]
    lines.append("|---|---|---|---|---|---|")
    for name, (build, example) in GARDEN.items():
        torch.manual_seed(0)
        module = build().eval()
        symmetry = trace_symmetry(module, example)
        cells = [name.replace("-", " "), f"{sum(t.numel() for t in module.state_dict().values()):,}"]
        cells += [
            str(len(symmetry.groups)),
            f"{symmetry.coverage:.0%}",
            matched(module, example),
            written(sane, module),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_readme_shows_what_is_supported(sane_folder: Path) -> None:
    text = README.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    expected = f"{before}\n{support_table(SANE.open(sane_folder))}\n{after}"
    if os.environ.get("WRITE_README"):
        README.write_text(expected)
    assert README.read_text() == expected
