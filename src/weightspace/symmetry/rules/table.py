"""Which rule each operation has.

One without a rule freezes all it touches: unknown means fewer symmetries, never wrong ones.
"""

import operator

from torch import fx

from weightspace.symmetry.labels import Labels, ValueLabel
from weightspace.symmetry.rules import along, arithmetic, attending, convolving, normalizing, recurring, shaping
from weightspace.symmetry.rules.bundles import bundle, sliced, through_bundle
from weightspace.symmetry.rules.operation import Bundle, Known, Operation, Rule, Several, Use, values_of

_POINTWISE = """
    relu relu6 leaky_relu elu selu celu gelu silu mish tanh sigmoid log_sigmoid softplus softsign softshrink
    hardshrink tanhshrink threshold hardtanh hardsigmoid hardswish exp exp2 expm1 log log2 log10 log1p sqrt rsqrt
    abs neg sign sin cos erf erfc square pow reciprocal floor ceil round clamp clamp_min clamp_max add sub rsub mul
    div floor_divide remainder fmod addcmul addcdiv lerp maximum minimum where masked_fill eq ne lt le gt ge
    logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not isnan isinf isfinite
    tan asin acos atan atan2 sinh cosh asinh acosh atanh logaddexp trunc frac nan_to_num complex real imag
""".split()
_SAME = """
    dropout feature_dropout alpha_dropout native_dropout clone contiguous detach alias to _to_copy type_as
    lift_fresh_copy positive softmax log_softmax _softmax _log_softmax _safe_softmax
""".split()
_CONSTANT = "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full scalar_tensor".split()
_RESHAPES = "flatten view reshape unflatten squeeze unsqueeze _unsafe_view view_as reshape_as".split()
_POOLS = "max_pool avg_pool adaptive_avg_pool _adaptive_avg_pool adaptive_max_pool lp_pool".split()
_CUMULATIVE = "cumsum cumprod logcumsumexp cummax cummin sort".split()
_SCATTERS = "scatter scatter_add scatter_reduce".split()
_INDEX_ADDS = "index_add index_copy index_reduce".split()
_RESIZES = "nearest1d nearest2d nearest3d linear1d bilinear2d bicubic2d trilinear3d".split()

_NAMED: dict[str, Rule] = {
    "linear": arithmetic.linear,
    "matmul": arithmetic.matmul,
    "mm": arithmetic.matmul,
    "bmm": arithmetic.matmul,
    "mv": arithmetic.matmul,
    "dot": arithmetic.matmul,
    "vdot": arithmetic.matmul,
    "addmm": arithmetic.addmm,
    "baddbmm": arithmetic.addmm,
    "einsum": arithmetic.einsum,
    "prelu": arithmetic.prelu,
    "_prelu_kernel": arithmetic.pointwise,
    "norm": arithmetic.norm,
    "linalg_vector_norm": arithmetic.norm,
    **{f"conv{dim}d": convolving.convolution for dim in (1, 2, 3)},
    **{f"conv_transpose{dim}d": convolving.transposed for dim in (1, 2, 3)},
    "convolution": convolving.general,
    "channel_shuffle": convolving.channel_shuffle,
    "native_channel_shuffle": convolving.channel_shuffle,
    "pixel_shuffle": convolving.pixel_shuffle,
    "pixel_unshuffle": convolving.pixel_unshuffle,
    "max_pool2d_with_indices": convolving.pool,
    "max_pool3d_with_indices": convolving.pool,
    "batch_norm": normalizing.batch_norm,
    "instance_norm": normalizing.batch_norm,
    "native_batch_norm": normalizing.batch_norm,
    "_native_batch_norm_legit": normalizing.batch_norm,
    "_native_batch_norm_legit_no_training": normalizing.batch_norm,
    "layer_norm": normalizing.layer_norm,
    "native_layer_norm": normalizing.layer_norm,
    "rms_norm": normalizing.layer_norm,
    "group_norm": normalizing.group_norm,
    "native_group_norm": normalizing.native_group_norm,
    "_weight_norm": normalizing.weight_norm,
    "_weight_norm_interface": normalizing.weight_norm,
    "scaled_dot_product_attention": attending.attention,
    "embedding": attending.embedding,
    **dict.fromkeys(recurring.GATES, recurring.recurrent),
    **{f"{kind}_cell": recurring.cell for kind in recurring.GATES},
    "permute": shaping.permute,
    "transpose": shaping.transpose,
    "t": shaping.transpose,
    "adjoint": shaping.matrix_transpose,
    "mT": shaping.matrix_transpose,
    "numpy_T": shaping.transpose,
    "expand": shaping.expand,
    "expand_as": shaping.expand,
    "broadcast_to": shaping.expand,
    "repeat": shaping.repeat,
    "repeat_interleave": shaping.repeat_interleave,
    "cat": shaping.cat,
    "concat": shaping.cat,
    "stack": shaping.stack,
    "split": shaping.split,
    "split_with_sizes": shaping.split,
    "chunk": shaping.split,
    "tensor_split": shaping.split,
    "unbind": shaping.unbind,
    "select": shaping.select,
    "slice": shaping.slice_,
    "slice_scatter": shaping.slice_scatter,
    "copy": shaping.copy,
    "pad": shaping.pad,
    "constant_pad_nd": shaping.pad,
    "roll": shaping.reorder,
    "flip": shaping.reorder,
    "tril": shaping.triangle,
    "triu": shaping.triangle,
    "glu": shaping.halves,
    "index": shaping.index,
    "max": arithmetic.extreme,
    "min": arithmetic.extreme,
    "index_select": shaping.index_select,
    "gather": along.gather,
    "grid_sampler": along.grid_sample,
    "grid_sampler_2d": along.grid_sample,
    "grid_sampler_3d": along.grid_sample,
    "max_unpool2d": along.unpool,
    "max_unpool3d": along.unpool,
    **dict.fromkeys(_CUMULATIVE, along.cumulative),
    **dict.fromkeys(_SCATTERS, along.scatter),
    **dict.fromkeys(_INDEX_ADDS, along.index_add),
    **dict.fromkeys(along.SPECTRA, along.spectrum),
    **dict.fromkeys(_POINTWISE, arithmetic.pointwise),
    **dict.fromkeys(_SAME, arithmetic.same),
    **dict.fromkeys(_CONSTANT, arithmetic.constant),
    **dict.fromkeys(_RESHAPES, shaping.reshape),
    **{f"{kind}{dim}d": convolving.pool for kind in _POOLS for dim in (1, 2, 3)},
    **{f"upsample_{kind}": convolving.resize for kind in _RESIZES},
    **{f"_upsample_nearest_exact{dim}d": convolving.resize for dim in (1, 2, 3)},
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "logsumexp", "prod"), arithmetic.reduce),
}
# Parts of a graph that run under another setting: mixed precision, or without gradients. What they compute is the same.
REGIONS = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1}
CHECKS = {"aten._assert_tensor_metadata", "aten._assert_async", "aten._assert_scalar", "aten.sym_constrain_range"}
RULES: dict[str, Rule] = {
    **{f"aten.{name}": rule for name, rule in _NAMED.items()},
    **{f"aten.{name}_": rule for name, rule in _NAMED.items() if name != "copy"},
    operator.getitem.__name__: shaping.item,
}

# Rules that know what to do with a value that is constant along an axis; for others it gets atoms of its own there.
BROADCASTING: set[Rule | None] = {
    arithmetic.pointwise,
    arithmetic.same,
    arithmetic.constant,
    arithmetic.reduce,
    arithmetic.extreme,
    arithmetic.norm,
    shaping.expand,
    shaping.copy,
    recurring.recurrent,
    recurring.cell,
}


def apply_rule(labels: Labels, node: fx.Node, known: Known, uses: dict[fx.Node, Use]) -> None:
    """Label the results of a node."""
    op = Operation(labels, node, known, uses)
    rule = RULES.get(op.name)
    first = known.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    if op.name in CHECKS:
        known[node] = ()
    elif op.name in REGIONS:
        known[node] = _through_region(labels, node, REGIONS[op.name], known, uses)
    elif isinstance(first, Bundle):
        known[node] = through_bundle(op, first, rule or shaping.select)
    elif rule is shaping.reshape and (dim := sliced(op)) is not None:
        known[node] = bundle(op, dim)
    else:
        known[node] = _apply(rule, op)


def _through_region(
    labels: Labels, region: fx.Node, number: int, known: Known, uses: dict[fx.Node, Use]
) -> Several | ValueLabel:
    """Label the results of a graph within the graph, whose arguments stand behind it."""
    inner = getattr(region.graph.owning_module, str(region.args[number].target)).graph  # type: ignore[union-attr]
    placeholders = [node for node in inner.nodes if node.op == "placeholder"]
    outer = dict(zip(placeholders, region.args[number + 1 :], strict=True))
    for placeholder, argument in outer.items():
        known[placeholder] = known[argument]
    noted: dict[fx.Node, Use] = {}
    results: tuple[fx.Node, ...] = ()
    for step in inner.nodes:
        if step.op == "call_function":
            apply_rule(labels, step, known, noted)
        elif step.op == "output":
            results = tuple(step.args[0])
    for placeholder, argument in outer.items():
        known[argument] = known[placeholder]  # what was filled within stays so
    for weight, use in noted.items():
        if weight in outer:
            uses.setdefault(outer[weight], use._replace(bias=outer.get(use.bias) if use.bias is not None else None))
    return Several(tuple(values_of(known[result])[0] for result in results))


def _apply(rule: Rule | None, op: Operation) -> ValueLabel | Several | Bundle:
    """A form of an operation that its rule does not foresee counts as unknown: what was united stays united."""
    if op.name.endswith("dropout") and True in op.node.args:
        return op.freeze_everything()  # it stays on in evaluation mode
    try:
        if rule not in BROADCASTING:
            op.fill_arguments()
        return rule(op) if rule is not None else op.freeze_everything()
    except (IndexError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return op.freeze_everything()
