"""A cut: the values of a graph that a full step leaves behind and a reuse step takes instead of computing them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import fx

from vgcomp import ir
from vgcomp.errors import UsageError
from vgcomp.program import Program


@dataclass(frozen=True)
class Kept:
    """One value: of ``node``, or with ``base`` the difference of the two.

    With a base the reuse step computes the base as it is now and adds the difference kept: what a range of layers
    added to their input, or what the empty prompt's half differs by from the other.
    """

    node: str
    base: str | None = None

    def __str__(self) -> str:
        return self.node if self.base is None else f"{self.node}-{self.base}"


@dataclass(frozen=True)
class Cut:
    """Values kept together, in the order in which they stand among the programs' inputs and outputs."""

    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.kept))

    @staticmethod
    def parse(items: tuple[str, ...]) -> Cut:
        """Of ``("add_3", "conv_7-add_1")``. Raises UsageError for what is no such text."""
        kept = []
        for item in items:
            node, dash, base = item.partition("-")
            if not node or (dash and not base):
                raise UsageError(f"{item!r} is not a value to keep: write NODE, or NODE-BASE for a difference")
            kept.append(Kept(node, base or None))
        if not kept:
            raise UsageError("a cut needs a value to keep: write cut=NODE or cut=NODE-BASE+NODE")
        return Cut(tuple(kept))

    def nodes(self, program: Program) -> list[tuple[fx.Node, fx.Node | None]]:
        """(node, base) of each value. Raises UsageError for an unknown name or a base that cannot be one."""
        named = {node.name: node for node in program.graph.nodes if node.op in ("call_function", "placeholder")}
        for name in (name for kept in self.kept for name in (kept.node, kept.base) if name is not None):
            if name not in named:
                raise UsageError(f"{program.name} has no node {name!r}: `vgcomp rehash` lists where it can be cut")
        found = [(named[kept.node], None if kept.base is None else named[kept.base]) for kept in self.kept]
        for node, base in found:
            _check(node, base)
        return found

    def nbytes(self, program: Program) -> int:
        """Bytes that are kept from step to step."""
        return sum(ir.nbytes(ir.val(node)) for node, _ in self.nodes(program))


def _check(node: fx.Node, base: fx.Node | None) -> None:
    if node.op != "call_function" or ir.is_loop(node):
        raise UsageError(f"{node.name!r} cannot be kept: it is no value that a step computes")
    if base is not None and (ir.val(base).shape, ir.val(base).dtype) != (ir.val(node).shape, ir.val(node).dtype):
        raise UsageError(f"{node.name!r} and {base.name!r} have no difference: their shapes or dtypes differ")
    if base is not None and node in upstream([base]):
        raise UsageError(f"{base.name!r} is computed from {node.name!r}: a base must not need what is kept")


def upstream(roots: Iterable[fx.Node], stops: Collection[fx.Node] = ()) -> set[fx.Node]:
    """``roots`` and all that they are computed from, not going past ``stops`` (which are not in it)."""
    stopped = set(stops)
    found = {node for node in roots if node not in stopped}
    stack = list(found)
    while stack:
        for node in stack.pop().all_input_nodes:
            if node not in found and node not in stopped:
                found.add(node)
                stack.append(node)
    return found
