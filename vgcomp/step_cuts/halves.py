"""Takes a guided batch apart: what computes the prompt's and the empty prompt's half as one batch, half by half.

Given (classifier-free guidance as one batch of 2)::

    %b = cat([%x, %x]);  %y = network(%b)                 # (2, ...)
    %free = slice(%y, 0, 1, 2);  %given = slice(%y, 0, 0, 1)

results, each op on one half, weights shared::

    %given = network(%x);  %free = network'(%x)           # (1, ...) each

Then the empty prompt's half is a value like any other, and may be kept from step to step. Which ops work half by half
is read from the axis rules (:mod:`vgcomp.axes`), from the slices back to what the batch was put together from. Every
op is computed once for each half, so FLOPs stay the same; ops are half as large.
"""

from __future__ import annotations

from torch import fx

from vgcomp import axes, ir
from vgcomp.axes import Window
from vgcomp.ir import Axis, Span, aten
from vgcomp.program import Program
from vgcomp.slicing.localize import BodyBuilder, localize
from vgcomp.step_cuts.cut import upstream
from vgcomp.step_cuts.emit import remove_dead, sort_graph
from vgcomp.step_cuts.reach import node_flops

#: Parts of a node: (node, axis, span) of the original graph.
Part = tuple[fx.Node, Axis, Span]
#: Halves are taken apart where they hold at least this share of the FLOPs.
LEAST = 0.5


def guided_halves(program: Program) -> tuple[Program, tuple[str, str]] | None:
    """The program with its guided batch taken apart, and the names of the two halves' results; None without one."""
    found = _halving(program)
    if found is None:
        return None
    first, second = found
    taken = _Taken(program)
    made = [taken.part(*_wanted(node)) for node in (first, second)]
    for node, half in zip((first, second), made, strict=True):
        new = taken.env[node]
        new.replace_all_uses_with(half)
    remove_dead(taken.graph)
    sort_graph(taken.graph)
    names = _computed(made[0]).name, _computed(made[1]).name
    return program.with_graph(taken.graph), names


def _halving(program: Program) -> tuple[fx.Node, fx.Node] | None:
    """Two slices of one value, a half each, behind which most FLOPs are and all can be followed."""
    total = sum(map(node_flops, program.graph.nodes))
    halves: dict[fx.Node, dict[int, fx.Node]] = {}
    for node in program.graph.nodes:
        if node.target is not aten.slice.Tensor:
            continue
        (source,) = node.all_input_nodes
        dim, start, end, step = axes.slice_args(node)
        if dim == 0 and step == 1 and 2 * (end - start) == ir.val(source).shape[0]:
            halves.setdefault(source, {})[start] = node
    for source, parts in halves.items():
        if len(parts) < 2 or sum(map(node_flops, upstream([source]))) < LEAST * total:
            continue
        first, second = (parts[start] for start in sorted(parts))
        if all(_followed(*_wanted(node)) for node in (first, second)):
            return first, second
    return None


def _wanted(node: fx.Node) -> Part:
    """The part of its operand that a slice along the first dimension is."""
    (source,) = node.all_input_nodes
    _, start, end, _ = axes.slice_args(node)
    return source, Axis(0, int(ir.val(source).shape[0])), (start, end)


def _operand_parts(part: Part) -> list[Part | fx.Node] | None:
    """What a part needs: parts of operands, whole operands; None where the op cannot be taken apart.

    An operand of which nothing is needed (the other side of a concatenation) is left out of neither: its span is empty.
    """
    node, axis, span = part
    demands = axes.demands(node, axis)
    if demands is None:
        return None
    found: list[Part | fx.Node] = []
    for operand, demand in zip(axes.operands(node), demands, strict=True):
        if isinstance(demand, Window):
            found.append((operand, demand.axis, demand.needs(span)))
        else:
            found.append(operand)
    return found


def _is_whole(part: Part) -> bool:
    _, axis, (low, high) = part
    return (low, high) == (0, axis.extent)


def _followed(node: fx.Node, axis: Axis, span: Span) -> bool:
    """Whether every op behind the part that is worth anything can be taken apart down to the graph's inputs."""
    seen: set[Part] = set()
    stack: list[Part] = [(node, axis, span)]
    while stack:
        part = stack.pop()
        if part in seen or _is_whole(part) or part[2][0] == part[2][1]:
            continue
        seen.add(part)
        if part[0].op != "call_function":
            return False
        parts = _operand_parts(part)
        if parts is None:
            return False
        stack.extend(item for item in parts if isinstance(item, tuple))
    return True


class _Taken(BodyBuilder):
    """The new graph: the old one copied, and parts of its nodes beside them."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        copy = program.copy()
        self.graph = copy.graph
        self.env = dict(zip(program.graph.nodes, copy.graph.nodes, strict=True))
        self.parts: dict[Part, fx.Node] = {}

    def part(self, node: fx.Node, axis: Axis, span: Span) -> fx.Node:
        """The node that computes a part, made where it is not there yet. Operands first, without recursion."""
        wanted: Part = (node, axis, span)
        stack = [wanted]
        with self.graph.inserting_before(self.graph.output_node()):
            while stack:
                top = stack[-1]
                needs = self._needs(top)
                missing = [p for p in needs if isinstance(p, tuple) and p not in self.parts]
                if missing:
                    stack.extend(missing)
                    continue
                stack.pop()
                if top not in self.parts:
                    self.parts[top] = self._make(top, needs)
        return self.parts[wanted]

    def _needs(self, part: Part) -> list[Part | fx.Node]:
        if _is_whole(part):
            return []
        needs = _operand_parts(part)
        assert needs is not None, "followed before"
        return [item for item in needs if not isinstance(item, tuple) or item[2][0] < item[2][1]]

    def _make(self, part: Part, needs: list[Part | fx.Node]) -> fx.Node:
        node, axis, span = part
        if _is_whole(part):
            return self.env[node]
        local: list[fx.Node | None] = []
        for item in _operand_parts(part) or ():
            if isinstance(item, tuple):
                local.append(self.parts[item] if item[2][0] < item[2][1] else None)
            else:
                local.append(self.env[item])
        return localize(self, node, axis, span, local)


def _computed(node: fx.Node) -> fx.Node:
    """The value behind a chain of views: what can be kept."""
    while node.target in ir.VIEW_OPS:
        node = node.all_input_nodes[0]
    return node
