"""A module as a graph of operations on its inputs, parameters and buffers."""

import contextlib
import copy
import io
import logging
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from weightspace.errors import InputError

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class Graph(NamedTuple):
    """A traced module.

    Attributes:
        nodes: the operations.
        names: for the node of every saved parameter and buffer its name.
        constants: the values of other tensors that are no inputs, where known.
        module: what the nodes run in.
    """

    nodes: fx.Graph
    names: dict[fx.Node, str]
    constants: dict[fx.Node, Tensor]
    module: fx.GraphModule


def shapes_of_node(node: fx.Node) -> list[tuple[int, ...]]:
    """The static shapes of a node's results; () for what is no tensor."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    return [tuple(int(size) for size in getattr(own, "shape", ())) for own in values] or [()]


def trace_graph(module: nn.Module, examples: tuple[Any, ...], named: Mapping[str, Any]) -> Graph:
    """The graph that `torch.export` finds; where it fails, the one that `make_fx` records from one run.

    The second way sees operators that export cannot run without data, such as custom ones. Both refuse a
    course that depends on values.

    Raises:
        InputError: neither way works; the sentence tells inputs that the module does not take from the rest.
    """
    try:
        return _exported(module, examples, named)
    except Exception as error:  # noqa: BLE001 # whatever a module's code may raise under tracing
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    try:
        return _recorded(module, examples, named)
    except Exception as error:
        require_taken(module, examples, named)
        raise InputError(
            f"expected a module that torch.export can trace, found {type(module).__name__}, which it cannot "
            f"({reason}); give a Symmetry by hand instead: ws.Symmetry(groups, axes), proved by ws.prove_symmetry"
        ) from error


def require_taken(module: nn.Module, examples: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Refuse inputs that a module does not take, in its own words."""
    try:
        with _quietly(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy_module(module)(*examples, **named)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        given = torch.utils._pytree.tree_leaves((examples, dict(named)))
        shapes = " and ".join(str(list(value.shape)) for value in given if isinstance(value, Tensor)) or "no tensor"
        raise InputError(
            f"expected inputs that {type(module).__name__} takes, found some of shape {shapes}, at which it fails: "
            f"{reason}"
        ) from error


def one_by_one(examples: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs, which may have been given as one tuple of them."""
    return examples[0] if len(examples) == 1 and isinstance(examples[0], tuple) else examples


def bare_module(module: nn.Module) -> nn.Module:
    """What data parallel training, compiling or averaging has wrapped: the module itself, its parameters shared."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, WRAPPERS):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


class _Plain(nn.Module):
    """A wrapper that does nothing, under which names stay as they were."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.module(*inputs, **named)


def copy_module(module: nn.Module, *, training: bool = False) -> nn.Module:
    """A copy in evaluation mode, whose hooks keep what they keep in copies too: those of the module stay as they are.

    Args:
        module: it is left as it is.
        training: in training mode instead, but for the layers of torch, which would draw random numbers and keep
            statistics: what a module computes in training only is computed.

    Raises:
        InputError: it is no module, or one that cannot be copied.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"expected an nn.Module, found {module!r:.80}")
    # Tensors that a module computed for itself, as weight norm does, have a history, with which torch copies none.
    computed = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    copied: dict[int, Any] = {id(value): value.detach().clone() for value in computed if value.grad_fn is not None}
    try:
        duplicate = copy.deepcopy(module, copied).eval()
    except RuntimeError as error:
        raise InputError(f"expected a module that can be copied, found {type(module).__name__} ({error})") from error
    for part in duplicate.modules() if training else ():
        part.training = not type(part).__module__.startswith("torch.nn.")
    if isinstance(duplicate, WRAPPERS):  # torch calls none of these with other weights than its own
        duplicate = _Plain(duplicate.module).train(training)
    for part in duplicate.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            for key, hook in hooks.items():
                hooks[key] = _with_own_state(hook, copied)
    return duplicate


def _with_own_state(hook: Any, copied: dict[int, Any]) -> Any:
    """A hook that writes into copies of what it would write into: what its closure holds, and containers it names."""
    if not isinstance(hook, types.FunctionType):
        return hook  # methods and callable objects were copied with the module
    named = {name: hook.__globals__.get(name) for name in hook.__code__.co_names}
    kept = {name: value for name, value in named.items() if isinstance(value, dict | list | set)}
    try:
        containers = {name: copy.deepcopy(value, copied) for name, value in kept.items()}
        cells = tuple(types.CellType(copy.deepcopy(cell.cell_contents, copied)) for cell in hook.__closure__ or ())
    except (RuntimeError, TypeError, ValueError):
        return hook  # it holds something that cannot be copied, or nothing yet
    scope = {**hook.__globals__, **containers} if containers else hook.__globals__
    return types.FunctionType(hook.__code__, scope, hook.__name__, hook.__defaults__, cells)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch says while it traces.

    It warns of how its own recurrent modules keep their weights and of its own deprecations, and where it fails it
    prints the graph so far; what is found is proved, and a failure becomes one sentence.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _exported(module: nn.Module, examples: tuple[Any, ...], named: Mapping[str, Any]) -> Graph:
    with _quietly(), torch.no_grad():
        program = torch.export.export(module, examples, dict(named), strict=False)
        if any(_mutates(node) for node in program.graph.nodes):
            program = program.run_decompositions({})
    for node in program.graph.nodes:
        shapes_of_node(node)  # raises where a size depends on values, which the rules could not read
    signature = program.graph_signature
    known = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = {**signature.inputs_to_lifted_tensor_constants, **known}
    buffers = dict(module.named_buffers(remove_duplicate=False))
    # Buffers that are not saved with the weights are constants to us.
    saved = module.state_dict()
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    names = {node: known[node.name] for node in placeholders if known.get(node.name) in saved}
    constants = {}
    for node in placeholders:
        name = lifted.get(node.name)
        value = program.constants.get(name, buffers.get(name)) if name is not None and node not in names else None
        if isinstance(value, Tensor):
            constants[node] = value
    return Graph(program.graph, names, constants, program.graph_module)


def _mutates(node: fx.Node) -> bool:
    """Whether an operation writes into its argument."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _recorded(module: nn.Module, examples: tuple[Any, ...], named: Mapping[str, Any]) -> Graph:
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors = {name: tensor.detach() for name, tensor in module.state_dict(keep_vars=True).items()}
    inputs, spec = torch.utils._pytree.tree_flatten((examples, dict(named)))

    def run(weights: list[Tensor], given: list[Any]) -> Any:
        positional, keywords = torch.utils._pytree.tree_unflatten(given, spec)
        outputs = functional_call(
            module, dict(zip(tensors, weights, strict=True)), positional, keywords, tie_weights=False
        )
        return [value for value in torch.utils._pytree.tree_leaves(outputs) if isinstance(value, Tensor)]

    with _quietly(), torch.no_grad():
        traced = make_fx(torch.func.functionalize(run), tracing_mode="real", _allow_non_fake_inputs=True)
        recorded = traced(list(tensors.values()), inputs)
    placeholders = [node for node in recorded.graph.nodes if node.op == "placeholder"]
    names = dict(zip(placeholders, tensors, strict=False))
    attributes = [node for node in recorded.graph.nodes if node.op == "get_attr"]
    constants = {node: getattr(recorded, str(node.target)) for node in attributes}
    _note_shapes(recorded, [*tensors.values(), *inputs])
    return Graph(recorded.graph, names, constants, recorded)


def _note_shapes(recorded: fx.GraphModule, values: list[Any]) -> None:
    """Give every node the shapes that the rules read."""
    for node, value in zip(recorded.graph.nodes, values, strict=False):
        if node.op == "placeholder" and isinstance(value, Tensor):
            node.meta["val"] = value
    for node in recorded.graph.nodes:
        if "val" not in node.meta and "tensor_meta" in node.meta:
            node.meta["val"] = node.meta["tensor_meta"]
