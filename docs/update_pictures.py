"""Draw how it works, from real weights and with the package's own functions: `python docs/update_pictures.py`."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from weightspace.autoencoder.coding import cut_windows
from weightspace.report.figures import COLORS, PRINTED
from weightspace.symmetry.axes import identity_permutations, permute
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.tokens.layout import plan_layout
from weightspace.tokens.tokenizing import tokenize
from weightspace.zoo.growing.networks import cnn_s

PAGES = Path(__file__).parent / "pages"
WIDTH, WINDOW = 60, 16
CHANNELS, SIDE = 4, 2


def heat(axes: Axes, values: Any, title: str, largest: float) -> None:
    """Weights as colors, from `-largest` to `largest`."""
    values = np.atleast_2d(values)
    axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, loc="left")


def tokens() -> Figure:
    """One row of a convolution with its bias becomes tokens."""
    torch.manual_seed(0)
    weights = cnn_s().state_dict()
    layout = plan_layout(weights, WIDTH)
    name = "module_list.3.weight"
    kernel, bias = weights[name], weights["module_list.3.bias"]
    row = np.concatenate([kernel[0].flatten().numpy(), bias[:1].numpy()])
    block = next(block for block in layout.blocks if block.rows == len(kernel) and block.chunks > 1)
    values = tokenize(weights, layout).values[block.first : block.first + block.chunks].numpy()
    largest = float(np.abs(row).max())
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    grid = figure.add_gridspec(3, kernel.shape[1], height_ratios=[2, 0.5, 1.4])
    for channel in range(kernel.shape[1]):
        heat(figure.add_subplot(grid[0, channel]), kernel[0, channel].numpy(), f"input {channel}", largest)
    heat(
        figure.add_subplot(grid[1, :]),
        row,
        f"the row: {kernel[0].numel()} weights of output unit 0, and its bias at the end",
        largest,
    )
    last = figure.add_subplot(grid[2, :])
    heat(
        last, values, f"its {block.chunks} tokens of {WIDTH}; what is left over is padding, masked everywhere", largest
    )
    rest = block.chunks * WIDTH - len(row)
    last.add_patch(
        Rectangle(
            (WIDTH - rest - 0.5, block.chunks - 1.5),
            rest,
            1,
            hatch="////",
            fill=False,
            edgecolor="#888888",
            linewidth=0,
        )
    )
    return figure


def windows() -> Figure:
    """How a network's tokens are cut into windows that see their neighbors."""
    length = 48
    cut = cut_windows(length, WINDOW)
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    axes = figure.add_subplot()
    for number in range(cut.count):
        (start, stop), (first, last) = cut.kept(number, 1), cut.seen(number, 1)
        y = -number
        axes.barh(
            y,
            last - first,
            left=first,
            height=0.7,
            color=COLORS[0],
            alpha=0.25,
            label="halo: seen, not kept" if not number else None,
        )
        axes.barh(y, stop - start, left=start, height=0.7, color=COLORS[0], label="kept" if not number else None)
    axes.set(
        yticks=[-n for n in range(cut.count)], yticklabels=[f"window {n}" for n in range(cut.count)], xlim=(0, length)
    )
    axes.set_xlabel(f"tokens of one network ({length}); windows of {WINDOW}, an eighth of it as halo on either side")
    axes.legend(loc="lower left", fontsize=8)
    return figure


class Small(torch.nn.Module):
    """A convolution, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, CHANNELS, 2)
        self.linear = torch.nn.Linear(CHANNELS * SIDE * SIDE, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Outputs of images."""
        return self.linear(self.conv(images).relu().flatten(1))


def permutation() -> Figure:
    """One permutation of a convolution's channels, carried through flatten into blocks of a linear layer."""
    torch.manual_seed(1)
    module = Small()
    symmetry = trace_symmetry(module, torch.zeros(2, 1, SIDE + 1, SIDE + 1))
    (group,) = symmetry.groups
    permutations = identity_permutations(symmetry) | {group: torch.tensor([2, 0, 3, 1])}
    before = module.state_dict()
    after = permute(before, symmetry, permutations)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 3])
    for number, (weights, order) in enumerate(((before, range(CHANNELS)), (after, permutations[group].tolist()))):
        state = "as it was" if not number else "permuted"
        rows = figure.add_subplot(grid[number, 0])
        heat(rows, weights["conv.weight"].flatten(1).numpy(), f"conv, {state}", 0.5)
        rows.set_yticks(range(CHANNELS), [f"channel {channel}" for channel in order], fontsize=7)
        columns = figure.add_subplot(grid[number, 1])
        heat(columns, weights["linear.weight"].numpy(), "linear: the columns of a channel move as one block", 0.25)
        middle = [(place + 0.5) * SIDE * SIDE - 0.5 for place in range(CHANNELS)]
        columns.set_xticks(middle, [f"channel {channel}" for channel in order], fontsize=7)
        for place in range(1, CHANNELS):
            columns.axvline(place * SIDE * SIDE - 0.5, color="#222222", linewidth=1)
    return figure


def main() -> None:
    """Draw all three."""
    for draw in (tokens, windows, permutation):
        with mpl.rc_context({**PRINTED, "svg.hashsalt": draw.__name__}):
            draw().savefig(PAGES / f"how-{draw.__name__}.svg", facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
