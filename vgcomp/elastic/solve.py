"""What every axis keeps, given what the marked ones keep: links are followed both ways until nothing is new."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from vgcomp.elastic import kept as masks
from vgcomp.elastic.kept import Kept
from vgcomp.elastic.system import Link, System, Var
from vgcomp.errors import UsageError


@dataclass(frozen=True)
class Marked:
    """A dimension that a choice decides. ``why``: the choice and its option, for messages."""

    var: int
    kept: Kept
    why: str


class Solution:
    """What each dimension keeps. Raises UsageError, naming the node and the choices, where two do not agree."""

    def __init__(self, system: System, graph: fx.Graph, marked: Sequence[Marked]) -> None:
        self._system = system
        self._order = {node: i for i, node in enumerate(graph.nodes)}
        #: By class: what it keeps, a variable that said so, and why.
        self._known: dict[int, tuple[Kept, int, str]] = {}
        self._links: dict[int, list[Link]] = defaultdict(list)
        for link in system.links:
            for var in {system.root(v) for v in (link.whole, *link.parts)}:
                self._links[var].append(link)
        self._changed: deque[int] = deque()
        for mark in marked:
            self._set(mark.var, mark.kept, mark.why, None)
        for var, node in system.whole:
            self._set(var, None, f"what {node.name} fixes", node)
        self._settle()
        self._assume_whole(set(self._inner()))
        self._assume_whole(set())
        for link in system.links:
            self._follow(link)

    def kept(self, var: Var) -> Kept:
        """What a dimension keeps; all of it where no tie or link was ever made."""
        known = None if var is None else self._known.get(self._system.root(var))
        return None if known is None else known[0]

    def count(self, var: Var) -> int:
        """How many elements a dimension keeps."""
        return masks.count(self.kept(var), self._system.size(var))

    # -- propagation ----------------------------------------------------------------------------

    def _inner(self) -> Iterator[int]:
        """Classes that a link may still decide: assumed to be whole only when nothing else is left."""
        for link in self._system.links:
            decided = link.parts if link.kind == "window" else (link.whole,)
            yield from (self._system.root(var) for var in decided)

    def _assume_whole(self, spared: set[int]) -> None:
        """What no choice has reached keeps everything."""
        roots = {self._system.root(var) for var in range(len(self._system.sizes))}
        for root in sorted(roots - self._known.keys() - spared):
            self._known[root] = (None, root, "what no choice decides")
            self._changed.append(root)
        self._settle()

    def _settle(self) -> None:
        while self._changed:
            for link in self._links.get(self._changed.popleft(), ()):
                self._follow(link)

    def _follow(self, link: Link) -> None:
        """What one side of a link says about the other."""
        whole = self._known.get(self._system.root(link.whole))
        if link.kind == "window":
            if whole is not None:
                self._set(link.parts[0], masks.window(whole[0], *link.bounds), whole[2], link.node)
            return
        sizes = [self._system.sizes[part] for part in link.parts]
        parts = [self._known.get(self._system.root(part)) for part in link.parts]
        if whole is not None:
            self._set_parts(link, whole, sizes)
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            join = masks.merged if link.kind == "product" else masks.joined
            reasons = " and ".join(dict.fromkeys(why for kept, _, why in known if kept is not None))
            made = join([kept for kept, _, _ in known], sizes)
            self._set(link.whole, made, reasons or known[0][2], link.node)

    def _set_parts(self, link: Link, whole: tuple[Kept, int, str], sizes: list[int]) -> None:
        found: list[Kept] | None
        if link.kind == "product":
            found = masks.split(whole[0], sizes)
        else:
            ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
            found = [masks.window(whole[0], end - size, end) for end, size in zip(ends, sizes, strict=True)]
        if found is None:
            size = self._system.sizes[link.whole]
            raise UsageError(
                f"{link.node.name}: {masks.count(whole[0], size)} of {size} elements ({whole[2]}) are no whole blocks "
                f"of {'×'.join(map(str, sizes))}: choose a width that is"
            )
        for part, kept in zip(link.parts, found, strict=True):
            self._set(part, kept, whole[2], link.node)

    def _set(self, var: int, kept: Kept, why: str, node: fx.Node | None) -> None:
        root = self._system.root(var)
        before = self._known.get(root)
        if before is None:
            self._known[root] = (kept, var, why)
            self._changed.append(root)
        elif not masks.same(before[0], kept):
            raise self._conflict(before, (kept, var, why), node)

    def _conflict(self, one: tuple[Kept, int, str], other: tuple[Kept, int, str], node: fx.Node | None) -> UsageError:
        size = self._system.sizes[one[1]]
        at = self._system.meeting(one[1], other[1], self._order) or node
        sides = " and ".join(f"{masks.count(kept, size)} ({why})" for kept, _, why in (one, other))
        where = at.name if at is not None else "one axis"
        return UsageError(f"{where} joins widths that differ, {sides} of {size}: choose options that agree")
