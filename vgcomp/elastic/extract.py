"""A subnet of a supernet: blocks taken away, weights cut, in the graph as it is and with no code of the supernet's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from torch import fx

from vgcomp import ir
from vgcomp.elastic.kept import first_of_each
from vgcomp.elastic.marks import NOTE, AxisMark, Marks, check_marks
from vgcomp.elastic.rewrite import Rewriter
from vgcomp.elastic.solve import Marked, Solution
from vgcomp.elastic.system import System
from vgcomp.elastic.ties import build_system
from vgcomp.errors import UsageError
from vgcomp.program import Program
from vgcomp.space import Option

#: Where a subnet keeps the choice that it was made by, among its notes.
SUBNET = "vgcomp.subnet"


def extract(program: Program, marks: Marks, named: Mapping[str, Option]) -> Program:
    """The subnet of these options; its outputs are the supernet's, run with the same choice.

    Weights are cut when they are loaded. Raises UsageError for options that are not the marks', and, naming the node
    and the choices, for widths that do not go together.
    """
    options = marks.checked(named)
    check_marks(program, marks)
    if any(ir.is_loop(node) for node in program.graph.nodes):
        raise UsageError(f"{program.name} is sliced already: extract the subnet before slicing it")
    new = program.copy()
    _remove_blocks(new, marks, options)
    system = build_system(new.graph)
    solution = Solution(system, new.graph, _marked(new, system, marks, options))
    weights = Rewriter(new.graph, system, solution).run(new.weights)
    notes = {key: text for key, text in program.notes.items() if key != NOTE}
    notes[SUBNET] = json.dumps(dict(named))
    return replace(new, weights={**new.weights, **weights}, notes=notes).with_graph(new.graph)


def _remove_blocks(program: Program, marks: Marks, options: Mapping[str, str]) -> None:
    """Readers of a block's output read its input; what nobody reads any more goes."""
    nodes = _by_name(program)
    instead: dict[fx.Node, fx.Node] = {}
    for block in marks.blocks:
        if options[block.choice] not in block.removed:
            continue
        given = nodes[block.input]
        while given in instead:  # a block that is gone itself
            given = instead[given]
        nodes[block.output].replace_all_uses_with(given)
        instead[nodes[block.output]] = given
    for node in reversed(list(program.graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users:
            program.graph.erase_node(node)


def _marked(program: Program, system: System, marks: Marks, options: Mapping[str, str]) -> list[Marked]:
    """What the marked axes keep; those of blocks that are gone say nothing."""
    nodes = _by_name(program)
    found = []
    for mark in marks.axes:
        node = nodes.get(mark.of)
        var = None if node is None else system.dim(node, mark.axis)
        if var is not None:
            found.append(_one(mark, var, system.sizes[var], options[mark.choice]))
    return found


def _one(mark: AxisMark, var: int, size: int, option: str) -> Marked:
    kept = first_of_each(size, mark.extents[option], mark.repeat)
    return Marked(var, kept, f"{mark.choice}={option} at {mark.of}")


def _by_name(program: Program) -> dict[str, fx.Node]:
    """Nodes by their names, weights by theirs."""
    return {str(node.target) if node.op == "get_attr" else node.name: node for node in program.graph.nodes}
