"""``fold-timestep``: what depends on the timestep alone, computed once a step of the schedule, when compiling.

Given (a sinusoidal embedding and two layers; ``timesteps=999+499``)::

    %t : f32[] = input 'timestep'
    %e = cat([sin(mul(%t, %freqs)), cos(mul(%t, %freqs))])
    %h = linear(silu(linear(%e, %w1)), %w2)                  # [1, 1280], for each of the two timesteps known now

results::

    %s = gt(sub(%t, %borders), 0)                            # which of the steps it is: 749 is the border
    %o = sub(cat([1, %s]), cat([%s, 0]))                     # one 1, the rest 0
    %h = reshape(matmul(%o, %table), [1, 1280])              # a row of the table

The input keeps its name and meaning: a program that steps through the schedule feeds it as before, and the embedding's
layers, their weights and the wide arithmetic of angles are gone. A timestep selects the nearest one of the schedule, so
rounding it to fp16 on the way does no harm; what it may be is noted on the input (``meta["domain"]``), where checks
look. One table that the step selects from is shipped, and not one set of constants a step: the program and its
compiled form exist once. With a single timestep the values are constants and nothing is selected.

Row by row the values are what the original computes, by the same kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, fx

from vgcomp import infer, ir
from vgcomp.errors import UsageError
from vgcomp.legalize.editor import Editor, shape_of
from vgcomp.parts import constants
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.weights import Weight, from_tensor, without_data

aten, prims = ir.aten, ir.prims

#: The note on an input: the values that it may have.
DOMAIN = "domain"


@dataclass(frozen=True)
class FoldTimestep:
    """See the module's text.

    ``timesteps``: the schedule; none for no change. ``input``: the input's name, one number or a vector of equal ones.
    Where weights have no data the tables have none either. Raises UsageError for an input that is not there.
    """

    name: ClassVar[str] = "fold-timestep"
    equivalence: ClassVar[Equivalence] = "exact"

    timesteps: tuple[float, ...] = ()
    input: str = "timestep"

    def __post_init__(self) -> None:
        if len(set(self.timesteps)) < len(self.timesteps):
            raise ValueError("timesteps are listed twice; a schedule names each once")
        if not all(math.isfinite(t) for t in self.timesteps):
            raise ValueError("timesteps are finite numbers, such as timesteps=999+749+499+249")

    def run(self, program: Program, context: PassContext) -> PassResult:
        if not self.timesteps:
            return self._unchanged(program, "no schedule is given: timesteps=999+749+499+249, for example")
        given = next((node for node in program.inputs if str(node.target) == self.input), None)
        if given is None:
            known = ", ".join(program.input_names)
            raise UsageError(f"{program.name} has no input {self.input!r} to fold: its inputs are {known}")
        if DOMAIN in given.meta:
            return self._unchanged(program, f"{self.input} is folded already")
        dependent = depends_alone(program.graph, given)
        edge = frontier(program.graph, dependent)
        if not edge:
            return self._unchanged(program, f"nothing depends on {self.input} alone")
        new = program.copy()
        names = {node.name: node for node in new.graph.nodes}
        steps = sorted(self.timesteps)
        tables = _tables(program, given, edge, steps)
        weights = _fold(new.graph, names[given.name], [names[node.name] for node in edge], tables, steps)
        names[given.name].meta[DOMAIN] = tuple(steps)
        _remove_dead(new.graph, {names[node.name] for node in dependent})
        infer.propagate(new.graph)
        folded = replace(new, weights={**new.weights, **weights}).with_graph(new.graph)
        stats = {
            "steps": len(steps),
            "tables": len(edge),
            "folded": sum(node.op == "call_function" for node in dependent),
            "removed_weight_bytes": program.weight_bytes() - folded.weight_bytes(),
        }
        return PassResult(folded, True, stats)

    def _unchanged(self, program: Program, reason: str) -> PassResult:
        return PassResult(program, False, {}, (Explanation(program.name, self.name, reason),))


def depends_alone(graph: fx.Graph, given: fx.Node) -> list[fx.Node]:
    """Calls that depend on ``given`` and, beside it, on constants."""
    fixed = constants(graph)
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op != "call_function" or ir.is_loop(node) or ir.is_getitem(node) or node in fixed:
            continue
        inputs = [x for x in node.all_input_nodes if x not in fixed]
        if inputs and all(x is given or x in found for x in inputs):
            found[node] = None
    return list(found)


def frontier(graph: fx.Graph, dependent: Sequence[fx.Node]) -> list[fx.Node]:
    """Those of them that others read; of a repetition of a value, what it repeats. Views of the input are none."""
    inside = set(dependent)
    found: dict[fx.Node, None] = {}
    for node in dependent:
        if any(user not in inside for user in node.users):
            found[_unrepeated(node, inside)] = None
    computed = _computed(dependent)
    return [node for node in found if node in computed]


def _unrepeated(node: fx.Node, inside: set[fx.Node]) -> fx.Node:
    while node.target is aten.expand.default and node.args[0] in inside:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _computed(dependent: Sequence[fx.Node]) -> set[fx.Node]:
    """Nodes behind at least one op that is no view and no conversion."""
    cheap = ir.VIEW_OPS | {prims.convert_element_type.default, aten.clone.default}
    found: set[fx.Node] = set()
    for node in dependent:
        if node.target not in cheap or any(x in found for x in node.all_input_nodes):
            found.add(node)
    return found


def _tables(program: Program, given: fx.Node, edge: Sequence[fx.Node], steps: Sequence[float]) -> list[Tensor] | None:
    """For each node of the edge its values, a row a step; None where weights have no data."""
    needed = _ancestors(edge)
    weights = [program.weights[str(node.target)] for node in needed if node.op == "get_attr"]
    if not all(weight.present for weight in weights):
        return None
    rows: list[list[Tensor]] = [[] for _ in edge]
    value = ir.val(given)
    loaded = {node: program.weights[str(node.target)].load() for node in needed if node.op == "get_attr"}
    order = [node for node in program.graph.nodes if node in needed and node.op == "call_function"]
    for step in steps:
        env = {**loaded, given: torch.full(tuple(value.shape), step).to(value.dtype)}
        for node in order:
            args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)  # type: ignore[misc,arg-type]
            env[node] = node.target(*args, **kwargs)  # type: ignore[operator,misc]
        for found, node in zip(rows, edge, strict=True):
            found.append(env[node].reshape(-1))
    return [torch.stack(found) for found in rows]


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    found, queue = set(nodes), list(nodes)
    while queue:
        for used in queue.pop().all_input_nodes:
            if used not in found:
                found.add(used)
                queue.append(used)
    return found


def _fold(
    graph: fx.Graph, given: fx.Node, edge: Sequence[fx.Node], tables: list[Tensor] | None, steps: Sequence[float]
) -> dict[str, Weight]:
    """Puts rows of tables in the place of the edge's nodes; the weights to add, by name."""
    weights: dict[str, Weight] = {}
    for i, node in enumerate(edge):
        name = f"{given.name}_table_{i}"
        shape = (len(steps), math.prod(shape_of(node)))
        dtype = ir.val(node).dtype
        weights[name] = without_data(name, shape, dtype) if tables is None else from_tensor(name, tables[i].clone())
    selected: dict[torch.dtype, fx.Node] = {}
    first = min(edge, key=list(graph.nodes).index)
    for node, (name, weight) in zip(edge, list(weights.items()), strict=True):
        table = _weight(graph, name, weight)
        row = table
        if len(steps) > 1:
            if weight.dtype not in selected:
                selected[weight.dtype] = _one_hot(graph, first, given, steps, weight.dtype, weights)
            row = Editor(graph, node).call(aten.matmul.default, selected[weight.dtype], table)
        made = Editor(graph, node).call(aten.reshape.default, row, list(shape_of(node)))
        node.replace_all_uses_with(made)
    return weights


def _one_hot(
    graph: fx.Graph,
    first: fx.Node,
    given: fx.Node,
    steps: Sequence[float],
    dtype: torch.dtype,
    weights: dict[str, Weight],
) -> fx.Node:
    """(1, steps): 1 where the step is nearest, 0 elsewhere. Steps ascend."""
    at = Editor(graph, first)
    wide = torch.float32
    name = f"{given.name}_borders"
    if name not in weights:
        borders = torch.tensor([[(a + b) / 2 for a, b in zip(steps, steps[1:], strict=False)]], dtype=wide)
        weights[name] = from_tensor(name, borders)
        _weight(graph, name, weights[name])
    node = next(n for n in graph.nodes if n.op == "get_attr" and n.target == name)
    one = given
    if math.prod(shape_of(given)) > 1:
        flat = at.reshape(given, [math.prod(shape_of(given))])
        one = at.slice(flat, 0, 0, 1)
    one = at.reshape(one, [1, 1])
    one = one if ir.val(one).dtype == wide else at.call(prims.convert_element_type.default, one, wide)
    past = at.call(aten.gt.Scalar, at.call(aten.sub.Tensor, one, node), 0.0)
    past = at.call(prims.convert_element_type.default, past, dtype)
    ones, zeros = (at.call(aten.full.default, [1, 1], value, dtype=dtype) for value in (1.0, 0.0))
    return at.call(aten.sub.Tensor, at.cat([ones, past], 1), at.cat([past, zeros], 1))


def _weight(graph: fx.Graph, name: str, weight: Weight) -> fx.Node:
    """A new weight's node, after the inputs."""
    first = next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))
    with graph.inserting_before(first):
        node = graph.get_attr(name)
    node.meta["val"] = infer.fake_tensor(weight.shape, weight.dtype)
    return node


def _remove_dead(graph: fx.Graph, candidates: set[fx.Node]) -> None:
    """Erases folded calls that nothing reads any more, and weights that only they read."""
    for node in reversed(list(graph.nodes)):
        if not node.users and (node in candidates or node.op == "get_attr"):
            graph.erase_node(node)
