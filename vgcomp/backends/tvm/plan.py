"""Where every value of a Program lies: one arena, planned ahead, loops and their bodies included.

The rules are those of ``vgcomp.memory``: a view has no storage, a loop's result goes where its ``Result`` says, a body
holds its own values and copies. A kernel can store into any slice, so a result that nothing else reads is never copied.
Bodies are planned once for each way that they are entered; each has a share of the loop's region in the arena, at the
same place in every step.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from vgcomp import ir
from vgcomp.backends.tvm.layout import row_major
from vgcomp.backends.tvm.loop_plan import plan_loop
from vgcomp.backends.tvm.scope import Names, Scope
from vgcomp.backends.tvm.storage import Buffer, GraphPlan, Value
from vgcomp.loops import output_nodes
from vgcomp.program import Program

#: Annealings for a tighter packing of the arena where the greedy one is above what is live.
_SEEDS = 8


class ProgramPlan:
    """The plan of a Program: ``main``, its inputs and the weights that it reads, in the order of its arguments."""

    def __init__(self, program: Program) -> None:
        self.names = Names()
        self.main = GraphPlan("main")
        scope = Scope(program.graph, self.main, self.names)
        self.inputs: list[Buffer] = []
        for i, node in enumerate(scope.nodes):
            if node.op == "placeholder":
                self._input(scope, node)
            elif ir.is_loop(node):
                plan_loop(scope, i, node)
            elif node.op == "call_function" or node.op == "get_attr":
                scope.node(i, node)
        scope.now = 2 * len(scope.nodes)
        self._outputs(scope, program)
        self.main.pack(seeds=_SEEDS)
        self.main.place(0)

    @property
    def weights(self) -> dict[str, Buffer]:
        """By name, in the order of their first use."""
        return self.names.weights

    @property
    def planned_bytes(self) -> int:
        """Of the arena, which holds the outputs too, and of the inputs: what a run holds besides the weights."""
        return self.main.size + sum(buffer.size for buffer in self.inputs)

    def _input(self, scope: Scope, node: fx.Node) -> None:
        value = ir.val(node)
        buffer = Buffer(ir.nbytes(value), 0, 0, "param", str(node.target))
        self.inputs.append(buffer)
        scope.values[node] = Value(buffer, row_major(value.shape), value.dtype)

    def _outputs(self, scope: Scope, program: Program) -> None:
        """Each output has a storage to the end: its value's, if row-major from the start of it; else a copy's."""
        taken: set[Buffer] = set()
        for node in output_nodes(program.graph):
            value = scope.values[node]
            wanted = row_major(value.view.shape)
            alone = value.buffer.kind == "arena" and value.buffer not in taken and _same(value, wanted.strides)
            if not alone:
                made = scope.buffer(ir.nbytes(ir.val(node)), f"out_{node.name}")
                scope.copy(value, Value(made, wanted, value.dtype))
                value = Value(made, wanted, value.dtype)
            scope.touch(value)
            taken.add(value.buffer)
            self.main.outputs.append(Value(value.buffer, wanted, value.dtype))


def _same(value: Value, strides: tuple[int, ...]) -> bool:
    pairs = zip(value.view.shape, value.view.strides, strides, strict=True)
    return not value.view.offset and not value.view.moves and all(n == 1 or a == b for n, a, b in pairs)


def functions_of(plan: GraphPlan) -> Iterator[GraphPlan]:
    """A plan and those of all bodies in it, inner ones first."""
    for region in plan.regions:
        for body in region.bodies:
            yield from functions_of(body)
    yield plan
