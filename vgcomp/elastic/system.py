"""The axes of a graph's values, and what they have to do with each other, whatever is chosen.

A variable stands for a dimension of a value: which of its elements are kept. *Ties* say that two keep the same;
classes of tied variables are one unknown. Links join classes: a dimension that a reshape merges from others, one that a
concatenation joins, and a slice of one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import fx

from vgcomp import ir

#: A variable's number; None for a dimension of one element, which is always kept.
Var = int | None


@dataclass(frozen=True)
class Link:
    """``whole`` is the row-major product, or the concatenation, of ``parts``; or ``parts[0]`` is a slice of it."""

    kind: Literal["product", "concat", "window"]
    whole: int
    parts: tuple[int, ...]
    node: fx.Node
    #: Of a window: start, end, step.
    bounds: tuple[int, int, int] = (0, 0, 1)


@dataclass
class System:
    """Variables, ties and links of one graph; filled by :mod:`vgcomp.elastic.ties`."""

    sizes: list[int] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    #: Dimensions that must stay whole, with the node that asks for it.
    whole: list[tuple[int, fx.Node]] = field(default_factory=list)
    #: The groups of a convolution, as a dimension of its own.
    groups: dict[fx.Node, Var] = field(default_factory=dict)
    _parent: list[int] = field(default_factory=list)
    _dims: dict[tuple[fx.Node, int], Var] = field(default_factory=dict)
    #: Which node tied a variable to which others: to name the place where two choices meet.
    _ties: dict[int, list[tuple[int, fx.Node]]] = field(default_factory=dict)

    def new(self, size: int) -> Var:
        """A variable of its own."""
        if size == 1:
            return None
        self.sizes.append(size)
        self._parent.append(len(self._parent))
        return len(self.sizes) - 1

    def dim(self, node: fx.Node, dim: int) -> Var:
        """The variable of one dimension of a node's value."""
        key = (node, dim)
        if key not in self._dims:
            self._dims[key] = self.new(int(ir.val(node).shape[dim]))
        return self._dims[key]

    def dims(self, node: fx.Node) -> list[Var]:
        """The variables of all of a value's dimensions."""
        return [self.dim(node, d) for d in range(ir.val(node).dim())]

    def size(self, var: Var) -> int:
        """Elements of a dimension."""
        return 1 if var is None else self.sizes[var]

    def root(self, var: int) -> int:
        """The number of a variable's class."""
        parent = self._parent
        while parent[var] != var:
            parent[var] = parent[parent[var]]
            var = parent[var]
        return var

    def tie(self, a: Var, b: Var, node: fx.Node) -> None:
        """Both keep the same elements, because of ``node``; nothing where their sizes differ, as in a broadcast."""
        if a is None or b is None or self.sizes[a] != self.sizes[b]:
            return
        one, other = self.root(a), self.root(b)
        if one == other:
            return
        self._parent[other] = one
        self._ties.setdefault(a, []).append((b, node))
        self._ties.setdefault(b, []).append((a, node))

    def keep_whole(self, var: Var, node: fx.Node) -> None:
        """A dimension that no choice may change."""
        if var is not None:
            self.whole.append((var, node))

    def product(self, whole: Var, parts: Sequence[Var], node: fx.Node) -> None:
        """A dimension merged from others, the outermost first."""
        real = [part for part in parts if part is not None]
        if whole is None or not real:
            return
        if len(real) == 1:
            self.tie(whole, real[0], node)
            return
        self.links.append(Link("product", whole, tuple(real), node))

    def concat(self, whole: Var, parts: Sequence[Var], node: fx.Node) -> None:
        """A dimension joined from others in order; a part of one element has a variable here all the same."""
        if whole is not None:
            found = tuple(self._single(node) if part is None else part for part in parts)
            self.links.append(Link("concat", whole, found, node))

    def window(self, part: Var, whole: Var, bounds: tuple[int, int, int], node: fx.Node) -> None:
        """A slice of a dimension."""
        if part is not None and whole is not None:
            self.links.append(Link("window", whole, (part,), node, bounds))

    def _single(self, node: fx.Node) -> int:
        self.sizes.append(1)
        self._parent.append(len(self._parent))
        self.whole.append((len(self.sizes) - 1, node))
        return len(self.sizes) - 1

    def meeting(self, a: int, b: int, order: dict[fx.Node, int]) -> fx.Node | None:
        """The last node, as the graph runs, on the way of ties from one variable to another: there the two meet."""
        back: dict[int, tuple[int, fx.Node] | None] = {a: None}
        queue = deque([a])
        while queue and b not in back:
            at = queue.popleft()
            for other, node in self._ties.get(at, ()):
                if other not in back:
                    back[other] = (at, node)
                    queue.append(other)
        nodes, step = [], back.get(b)
        while step is not None:
            nodes.append(step[1])
            step = back[step[0]]
        return max(nodes, key=lambda node: order[node], default=None)
