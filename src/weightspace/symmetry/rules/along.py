"""Operations along some axes, which stand still, that treat all other axes alike: sums so far, spectra, scattering."""

from collections.abc import Iterable

from torch import Tensor, fx

from weightspace.symmetry.labels import AxisLabel, ValueLabel
from weightspace.symmetry.rules.operation import Operation, Several, dims_of

# Where each spectrum has its axes among the arguments, and which they are by default.
SPECTRA = {
    **dict.fromkeys(("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft"), (2, -1)),
    **dict.fromkeys(("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2", "fft_hfft2", "fft_ihfft2"), (2, (-2, -1))),
    **dict.fromkeys(("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn"), (2, None)),
    **dict.fromkeys(("fft_fftshift", "fft_ifftshift"), (1, None)),
    **dict.fromkeys(("_fft_r2c", "_fft_c2c", "_fft_c2r"), (1, None)),
}


def cumulative(op: Operation) -> ValueLabel | Several:
    """Sums, products and extremes so far, and sorting: the axis along which they go stands still."""
    axes = op.filled(op.argument(0))
    dims = dims_of(op.argument(1, "dim", -1), len(axes))
    value = _standing(op, axes, dims)
    # A second result says where along that axis entries come from, so it moves with the others.
    return value if isinstance(op.node.meta.get("val"), Tensor) else Several((value, value))


def spectrum(op: Operation) -> ValueLabel:
    """A Fourier transform over axes."""
    axes = op.filled(op.argument(0))
    place, default = SPECTRA[op.name.removeprefix("aten.")]
    return _standing(op, axes, dims_of(op.argument(place, "dim", default), len(axes)))


def _standing(op: Operation, axes: ValueLabel, dims: Iterable[int]) -> ValueLabel:
    """The same axes, of which some stand still, and may have another size in the result."""
    dims = set(dims)
    op.freeze(axes[dim] for dim in dims)
    return tuple(op.fixed((size,))[0] if dim in dims else axes[dim] for dim, size in enumerate(op.shape))


def index_add(op: Operation) -> ValueLabel:
    """Rows of a source added, copied or reduced into chosen rows: [self, dim, index, source]."""
    axes, source = op.filled(op.argument(0)), op.filled(op.argument(3, "source"))
    (dim,) = dims_of(op.argument(1, "dim"), len(axes))
    op.freeze((axes[dim], source[dim], *op.label(op.argument(2, "index"))))
    for number, (axis, other) in enumerate(zip(axes, source, strict=True)):
        if number != dim:
            op.labels.unite(axis, other)
    return axes


def scatter(op: Operation) -> ValueLabel:
    """Entries put, added or reduced where an index of the same axes says: [self, dim, index, source]."""
    axes, source = op.filled(op.argument(0)), op.argument(3, "src")
    (dim,) = dims_of(op.argument(1, "dim"), len(axes))
    others = [op.filled(source)] if isinstance(source, fx.Node) and op.label(source) else []
    _aligned(op, axes, dim, [op.label(op.argument(2, "index")), *others])
    return axes


def gather(op: Operation) -> ValueLabel:
    """Entries taken along an axis where an index of the same axes says."""
    axes, index = op.filled(op.argument(0)), op.label(op.argument(2, "index"))
    (dim,) = dims_of(op.argument(1, "dim"), len(axes))
    _aligned(op, axes, dim, [index])
    return (*axes[:dim], *op.fixed((op.shape[dim],)), *axes[dim + 1 :])


def _aligned(op: Operation, axes: ValueLabel, dim: int, others: Iterable[ValueLabel]) -> None:
    """Values that are read entry by entry beside another: their axes move together, but the one along `dim`."""
    op.freeze((axes[dim],))
    for value in others:
        op.freeze((value[dim],))
        for number, (axis, other) in enumerate(zip(axes, value, strict=True)):
            if number == dim or not other:  # constant along it
                continue
            if op.labels.size(axis) == op.labels.size(other):
                op.labels.unite(axis, other)
            else:
                op.freeze((axis, other))


def grid_sample(op: Operation) -> ValueLabel:
    """Values of an image [batch, channels, *space] at places [batch, *new space, coordinates]."""
    image, grid = op.filled(op.argument(0)), op.filled(op.argument(1, "grid"))
    op.freeze((*image[2:], *grid[1:]), "space")
    op.labels.unite(image[0], grid[0])
    return (*image[:2], *op.fixed(op.shape[2:], "space"))


def unpool(op: Operation) -> ValueLabel:
    """Values put back where the maxima were, channel by channel."""
    image, places = op.filled(op.argument(0)), op.filled(op.argument(1, "indices"))
    space = 3 if "3d" in op.name else 2
    op.freeze((*image[-space:], *places[-space:]), "space")
    channels: list[AxisLabel] = []
    for axis, other in zip(image[:-space], places[:-space], strict=True):
        op.labels.unite(axis, other)
        channels.append(axis)
    return (*channels, *op.fixed(op.shape[-space:], "space"))
