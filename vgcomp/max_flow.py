"""Maximum flow, hence minimum cut, in exact integers: Dinic's algorithm.

SciPy's ``maximum_flow`` takes 32-bit capacities; ours are bytes of tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator


class Network:
    """A flow network from SOURCE to SINK; its other vertices are numbered as they are made."""

    SOURCE, SINK = 0, 1
    _UNBOUNDED = 1 << 62

    def __init__(self) -> None:
        self._vertices: dict[Hashable, int] = {}
        self._out: list[list[int]] = [[], []]  # edge ids; edge e and its reverse e ^ 1
        self._head: list[int] = []
        self._room: list[int] = []

    @property
    def n_edges(self) -> int:
        """Edges added so far."""
        return len(self._head) // 2

    def new_vertex(self) -> int:
        """A vertex without a name."""
        self._out.append([])
        return len(self._out) - 1

    def vertex(self, name: Hashable) -> int:
        """The vertex of that name, made when first asked for."""
        if name not in self._vertices:
            self._vertices[name] = self.new_vertex()
        return self._vertices[name]

    def edge(self, start: int, end: int, capacity: int | None) -> None:
        """``capacity`` (>= 0) from ``start`` to ``end``; None is unbounded."""
        for a, b, room in ((start, end, self._UNBOUNDED if capacity is None else capacity), (end, start, 0)):
            self._out[a].append(len(self._head))
            self._head.append(b)
            self._room.append(room)

    def max_flow(self) -> int:
        """The greatest flow, which is the least cut. Uses the network up."""
        total = 0
        while levels := self._levels():
            total += sum(self._augmentations(levels))
        return total

    def source_side(self) -> frozenset[int]:
        """After :meth:`max_flow`: the vertices that a minimum cut leaves with the source, as few as there can be."""
        reached, stack = {self.SOURCE}, [self.SOURCE]
        while stack:
            for e in self._out[stack.pop()]:
                if self._room[e] and self._head[e] not in reached:
                    reached.add(self._head[e])
                    stack.append(self._head[e])
        return frozenset(reached)

    def _levels(self) -> list[int] | None:
        """Distance from the source of each vertex, None once the sink is out of reach."""
        levels = [-1] * len(self._out)
        levels[self.SOURCE] = 0
        queue = deque([self.SOURCE])
        while queue:
            a = queue.popleft()
            for e in self._out[a]:
                b = self._head[e]
                if self._room[e] and levels[b] < 0:
                    levels[b] = levels[a] + 1
                    queue.append(b)
        return levels if levels[self.SINK] >= 0 else None

    def _augmentations(self, levels: list[int]) -> Iterator[int]:
        """Saturates one shortest path after another; depth first, without recursion."""
        cursor = [0] * len(self._out)
        path: list[int] = []
        here = self.SOURCE
        while True:
            if here == self.SINK:
                yield self._push(path)
                path, here = [], self.SOURCE
                continue
            step = self._advance(here, levels, cursor)
            if step is not None:
                path.append(step)
                here = self._head[step]
                continue
            if not path:
                return
            here = self._head[path.pop() ^ 1]
            cursor[here] += 1

    def _advance(self, here: int, levels: list[int], cursor: list[int]) -> int | None:
        edges = self._out[here]
        while cursor[here] < len(edges):
            e = edges[cursor[here]]
            if self._room[e] and levels[self._head[e]] == levels[here] + 1:
                return e
            cursor[here] += 1
        return None

    def _push(self, path: list[int]) -> int:
        amount = min(self._room[e] for e in path)
        for e in path:
            self._room[e] -= amount
            self._room[e ^ 1] += amount
        return amount
