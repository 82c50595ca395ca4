"""Ask networks of one architecture: run them on synthetic inputs and observe every unit and every output."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from weightspace.errors import InputError
from weightspace.graphs import Graph, copy_module, shapes_of_node, trace_graph
from weightspace.responses.observing import Place, arguments_of, find_places, output_nodes, places_behind
from weightspace.responses.questions import Questions
from weightspace.responses.summarizing import UnitSums, sum_units, summarize_outputs, summarize_units

# Inputs are asked in parts, so that no value of the network has more numbers than this.
MOST_NUMBERS = 2**25
PARTS = 3
# Outputs that vary by less are constant.
CONSTANT = 1e-4
# What is done at every place: with the place, what it writes, and the number of inputs; returns what goes on.
Visit: TypeAlias = Callable[[Place, Any, int], Any]
VIEWS = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


class Responses(NamedTuple):
    """What one network does when it is asked.

    Attributes:
        units: for every place (see `Place`) seven numbers a unit and kind of input; see `summarize_units`.
        outputs: for every output eleven numbers a kind of input; see `summarize_outputs`.
        finite: the share of observed values that are finite.
        returned: what it returns of the inputs that are not perturbed, where that was to be kept; scores: whether the
            first output holds scores of classes.
    """

    units: dict[str, Float[Tensor, "units statistics"]]
    outputs: list[Float[Tensor, "statistics"]]
    finite: float
    returned: tuple[Tensor, ...] = ()
    scores: bool = False

    def vector(self) -> Float[Tensor, "features"]:
        """r(W): mean and spread over the units of every place, then the outputs, then the share of finite values."""
        moments = [moment for own in self.units.values() for moment in (own.mean(0), own.std(0, correction=0))]
        return torch.cat([*moments, *self.outputs, torch.tensor([self.finite])])

    def outline(self) -> Float[Tensor, "features"]:
        """r(W) of a length that all architectures share.

        The first place, the last one, and between the ends of the network three parts of equal depth, each the mean
        over its places; the mean over outputs.
        """
        rows = torch.stack([torch.cat([own.mean(0), own.std(0, correction=0)]) for own in self.units.values()])
        depth = torch.linspace(0, len(rows) - 1, PARTS + 1)
        parts = [rows[int(low) : int(high) + 1].mean(0) for low, high in pairwise(depth.tolist())]
        outputs = torch.stack(self.outputs).mean(0)
        return torch.cat([rows[0], *parts, rows[-1], outputs, torch.tensor([self.finite])])


class Asker:
    """Asks networks of one architecture: traced once, run with the weights of each.

    What is observed is the exported graph, so that functional code, attention, recurrent and residual networks are
    seen as they run; a norm, scale or shift that follows an operation directly is observed in its stead.

    Args:
        module: any module that `torch.export` can trace; in evaluation mode.
        questions: inputs it is asked with.
        device: where it runs.

    Attributes:
        at_once: so many inputs of each kind it is asked at once.
        places: where units are observed; answering: for every output the places that write it.

    Raises:
        InputError: the module cannot be traced with several inputs at once, or nothing of it can be observed.

    Examples:
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> asker = Asker(module, draw_questions([(1, 4)]))
        >>> {name: own.shape for name, own in asker.ask(module.state_dict()).units.items()}
        {'0': torch.Size([3, 14]), '2': torch.Size([2, 14])}
    """

    def __init__(self, module: nn.Module, questions: Questions, device: str | torch.device = "cpu") -> None:
        self.questions = questions
        self.device = torch.device(device)
        self._module = copy_module(module).to(self.device)
        self._graph, self.at_once = self._trace()
        batch = 2 * len(questions.kinds) * self.at_once
        self.places: list[Place] = _with_own_names(find_places(self._graph, batch))
        self._returned = output_nodes(self._graph, batch)
        if not self.places or not self._returned:
            raise InputError(
                f"expected a network whose weights write what it returns, found {type(module).__name__}: none of its "
                "operations on inputs has parameters, or it returns no real number for each input"
            )
        self.answering = [places_behind(node, self.places) for node in self._returned]
        self._scores = [_are_scores(node, questions) for node in self._returned]

    @property
    def depth(self) -> tuple[int, int]:
        """How many places and how many outputs are observed."""
        return len(self.places), len(self._returned)

    def _trace(self) -> tuple[Graph, int]:
        """The graph for as many inputs of each kind at once as memory allows."""
        few = min(4, self.questions.each)
        largest = _largest(self._traced(few))
        at_once = max(few, min(self.questions.each, few * MOST_NUMBERS // largest))
        while self.questions.each % at_once:
            at_once -= 1
        return self._traced(at_once), at_once

    def _traced(self, count: int) -> Graph:
        asked = self.questions.some(0, count).map(lambda tensor: tensor.to(self.device))
        return trace_graph(self._module, asked.positional, asked.named)

    def ask(self, weights: Mapping[str, Tensor], *, keep: bool = False) -> Responses:
        """What the network with these weights does.

        Args:
            weights: under the module's own names.
            keep: what it returns, too.
        """
        sums: dict[str, UnitSums] = {}
        outputs: list[list[Tensor]] = [[] for _ in self._returned]
        kinds = len(self.questions.kinds)

        def add(place: Place, value: Any, count: int) -> Any:
            part = sum_units(place.units_of(value, count), kinds)
            sums[place.name] = sums[place.name].joined(part) if place.name in sums else part
            return value

        for returned in self.run(weights, add):
            for number, value in enumerate(returned):
                outputs[number].append(value.unflatten(0, (2, kinds, -1)))
        finite = torch.stack([own.finite for own in sums.values()]).sum(0) if sums else torch.ones(2)
        whole = [torch.cat(parts, dim=2).flatten(0, 2) for parts in outputs]
        summaries = [
            summarize_outputs(own, kinds, scores=scores) for own, scores in zip(whole, self._scores, strict=True)
        ]
        return Responses(
            units={name: summarize_units(own).cpu() for name, own in sums.items()},
            outputs=[summary.cpu() for summary in summaries],
            finite=float(finite[0] / finite[1]),
            returned=tuple(own[: len(own) // 2].cpu() for own in whole) if keep else (),
            scores=self._scores[0],
        )

    def watch(self, weights: Mapping[str, Tensor], count: int) -> dict[str, Float[Tensor, "inputs units positions"]]:
        """What units write at every place, of the first `count` inputs of each kind, at most 64 positions of each.

        Raises:
            InputError: more inputs than it asks.
        """
        kinds, parts = len(self.questions.kinds), dict[str, list[Tensor]]()
        if count > self.questions.each:
            raise InputError(f"expected at most {self.questions.each} inputs of each kind to watch, found {count}")

        def keep(place: Place, value: Any, inputs: int) -> Any:
            units = place.units_of(value, inputs).unflatten(0, (2, kinds, -1))[0]
            parts.setdefault(place.name, []).append(units.cpu())
            return value

        for _ in self.run(weights, keep, count):
            pass
        return {name: torch.cat(values, dim=1)[:, :count].flatten(0, 1) for name, values in parts.items()}

    def run(self, weights: Mapping[str, Tensor], visit: Visit, count: int | None = None) -> Iterator[list[Tensor]]:
        """What the network returns, part by part of the inputs; every place is visited on the way.

        Args:
            weights: under the module's own names.
            visit: sees, and may change, what every place writes.
            count: parts are run until so many inputs of each kind were asked; all without it.
        """
        given = {node: self._placed(weights[name]) for node, name in self._graph.names.items()}
        for start in range(0, count or self.questions.each, self.at_once):
            part = self.questions.some(start, start + self.at_once).map(self._placed)
            one = _Run(self._graph, self.places, self._returned, visit)
            with torch.no_grad():
                one.ask(given, pytree.tree_leaves((part.positional, part.named)))
            yield [one.returned[node] for node in self._returned]

    def written_by(self, place: Place) -> tuple[str | None, str | None]:
        """The parameters that an operation scales and shifts a place's units by, its weight and its bias, where they
        are used nowhere else.
        """
        nodes = arguments_of(place.node)
        once = {node for node in self._graph.names if len(node.users) == 1}
        weight, bias = (nodes.get(name) for name in ("weight", "bias"))
        names = self._graph.names
        return names[weight] if weight in once else None, names[bias] if bias in once else None

    def _placed(self, tensor: Tensor) -> Tensor:
        """Where it runs; images and kernels with their channels last, in which pooling is several times as fast.

        In single precision, as modules are built, what was stored in half.
        """
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        return tensor.to(self.device, memory_format=layout)


def agreement(first: Responses, second: Responses) -> float:
    """The share of inputs that two networks answer alike: of class scores with the same winner, else the share of their
    outputs' variation that they have in common. What is not finite is like nothing.
    """
    (mine, *_), (theirs, *_) = first.returned, second.returned
    if mine.shape != theirs.shape:
        return 0.0
    finite = mine.isfinite() & theirs.isfinite()
    if first.scores:
        return float(((mine.argmax(-1) == theirs.argmax(-1)) & finite.all(-1)).float().mean())
    if not finite.all():
        return 0.0
    variation = sum(float((values - values.mean(0)).square().sum()) for values in (mine, theirs))
    return max(0.0, 1 - float((mine - theirs).square().sum()) / max(variation, CONSTANT))


class _Run(fx.Interpreter):
    """One run of a graph, in which places are visited."""

    def __init__(self, graph: Graph, places: list[Place], returned: list[fx.Node], visit: Visit) -> None:
        super().__init__(graph.module, graph=graph.nodes)
        self._known, self._places, self._visit = graph, {place.node: place for place in places}, visit
        self._wanted = set(returned)
        self.returned: dict[fx.Node, Tensor] = {}

    def ask(self, given: Mapping[fx.Node, Tensor], inputs: list[Any]) -> None:
        leaves = iter(inputs)
        arguments = []
        for node in self._known.nodes.nodes:
            if node.op == "placeholder":
                known = given.get(node, self._known.constants.get(node))
                arguments.append(known if known is not None else next(leaves))
        self._inputs = next(value.shape[0] for value in inputs if isinstance(value, Tensor))
        self.run(*arguments)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A view was right for the strides that the module was traced with.
        return super().call_function(VIEWS.get(target, target), args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._places:
            value = self._visit(self._places[n], value, self._inputs)
        if n in self._wanted:
            self.returned[n] = value
        return value


def _with_own_names(places: list[Place]) -> list[Place]:
    """Places of which no two have one name, as those of a module that is called twice have."""
    named: dict[str, Place] = {}
    for place in places:
        name = place.name if place.name not in named else f"{place.name}:{place.node.name}"
        named[name] = place._replace(name=name)
    return list(named.values())


def _largest(graph: Graph) -> int:
    """The numbers of the largest value."""
    sizes = [torch.Size(shape).numel() for node in graph.nodes.nodes for shape in shapes_of_node(node)]
    return max([1, *sizes])


def _are_scores(node: fx.Node, questions: Questions) -> bool:
    """Whether an output is taken for class scores: a row for each input, or for each token of one."""
    shape = shapes_of_node(node)[0]
    tensors = [leaf for leaf in pytree.tree_leaves(questions.positional) if isinstance(leaf, Tensor)]
    whole = any(not value.is_floating_point() for value in tensors)
    return (len(shape) == 2 or (len(shape) == 3 and whole)) and shape[-1] > 1
