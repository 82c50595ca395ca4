"""Convolutions and pooling: channels move, space stands still."""

from torch import Tensor

from weightspace.symmetry.labels import AxisLabel, ValueLabel
from weightspace.symmetry.rules.operation import Operation, Several

SPACE = "space"


def convolution(op: Operation) -> ValueLabel:
    """Plain, grouped and depth-wise convolutions: weight [out, in / groups, *kernel]."""
    weight = op.label(op.argument(1))
    channels, group_in = _channels_by_group(op, op.argument(6, "groups", 1))
    by_group, _ = _split(op, weight[0], op.argument(6, "groups", 1))
    op.labels.unite(channels, by_group)
    op.labels.unite(group_in, weight[1])
    return _finish(op, out=weight[0], kind_axis=0)


def transposed(op: Operation) -> ValueLabel:
    """Transposed convolutions: weight [in, out / groups, *kernel]."""
    groups = op.argument(6, "groups", 1)
    weight = op.label(op.argument(1))
    channels, group_in = _channels_by_group(op, groups)
    by_group, own_in = _split(op, weight[0], groups)
    op.labels.unite(channels, by_group)
    op.labels.unite(group_in, own_in)
    return _finish(op, out=(*by_group, *weight[1]), kind_axis=1)


def general(op: Operation) -> ValueLabel:
    """`aten.convolution`, which is either of them."""
    groups, is_transposed = op.argument(8, "groups", 1), op.argument(6, "transposed", False)
    node = op.node
    weight = op.label(node.args[1])
    channels, group_in = _channels_by_group(op, groups)
    by_group, own = _split(op, weight[0], groups)
    op.labels.unite(channels, by_group)
    op.labels.unite(group_in, own if is_transposed else weight[1])
    out = (*by_group, *weight[1]) if is_transposed else weight[0]
    return _finish(op, out=out, kind_axis=int(is_transposed))


def pool(op: Operation) -> ValueLabel | Several:
    """Pooling and resizing over the last one, two or three axes."""
    image = op.label(op.argument(0))
    space = 1 if "1d" in op.name else 3 if "3d" in op.name else 2
    op.freeze(image[-space:], SPACE)
    value = (*image[:-space], *op.fixed(op.shape[-space:], SPACE))
    # The second result says where in space the maxima were, so it moves with its channel.
    return value if isinstance(op.node.meta.get("val"), Tensor) else Several((value, value))


def resize(op: Operation) -> ValueLabel:
    """Upsampling: [batch, channels, *space]."""
    image = op.label(op.argument(0))
    op.freeze(image[2:], SPACE)
    return (*image[:2], *op.fixed(op.shape[2:], SPACE))


def channel_shuffle(op: Operation) -> ValueLabel:
    """Channels (groups, channels in a group) change places."""
    image = op.filled(op.argument(0))
    slow, fast = _split(op, image[1], op.argument(1, "groups"))
    return (image[0], (*fast, *slow), *image[2:])


def pixel_shuffle(op: Operation) -> ValueLabel:
    """Channels (c, r, r) become space."""
    image, factor = op.filled(op.argument(0)), op.argument(1)
    channels, inner = _split(op, image[-3], op.labels.size(image[-3]) // factor**2)
    op.freeze((inner, *image[-2:]), SPACE)
    return (*image[:-3], channels, *op.fixed(op.shape[-2:], SPACE))


def pixel_unshuffle(op: Operation) -> ValueLabel:
    """Space becomes channels (c, r, r)."""
    image, factor = op.label(op.argument(0)), op.argument(1)
    op.freeze(image[-2:], SPACE)
    inner = op.labels.new(factor**2, SPACE)
    return (*image[:-3], (*image[-3], *inner), *op.fixed(op.shape[-2:], SPACE))


def _finish(op: Operation, *, out: AxisLabel, kind_axis: int) -> ValueLabel:
    """What all convolutions share: kernel and space stand still, the bias goes with the outputs."""
    image, weight, bias = op.label(op.argument(0)), op.label(op.argument(1)), op.argument(2, "bias")
    space = len(weight) - 2
    op.freeze((*weight[2:], *image[-space:]), SPACE)
    if bias is not None:
        op.labels.unite(out, op.label(bias)[0])
    op.use(op.argument(1), "conv", kind_axis, bias)
    return (*image[: -space - 1], out, *op.fixed(op.shape[-space:], SPACE))


def _channels_by_group(op: Operation, groups: int) -> tuple[AxisLabel, AxisLabel]:
    """The input channels as (groups, channels in a group)."""
    image = op.argument(0)
    return _split(op, op.filled(image)[-len(op.label(op.argument(1))) + 1], groups)


def _split(op: Operation, axis: AxisLabel, slow: int) -> tuple[AxisLabel, AxisLabel]:
    if slow == 1:
        return (), axis
    first, second = op.labels.regroup((axis,), (slow, op.labels.size(axis) // slow), "grouped convolution")
    return first, second
