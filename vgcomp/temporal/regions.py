"""Residual regions: stretches of a graph with one way in and one way out that add to what comes in.

``x -> x + f(x)``, and a blend ``x -> a·x + (1 - a)·f(x)`` likewise: from the sum, a path of views and of scales that do
not depend on the clip leads straight back to ``x``. Such a region can be taken out, or another one put in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import networkx as nx
from torch import fx

from vgcomp import ir
from vgcomp.ir import aten
from vgcomp.step_cuts.cut import upstream


@dataclass(frozen=True)
class Region:
    """``entry``: the value that comes in, computed outside. ``inside``: all that is computed, ``exit`` last."""

    entry: fx.Node
    exit: fx.Node
    inside: frozenset[fx.Node]


def residual_regions(alive: Sequence[fx.Node], starts: Collection[fx.Node]) -> list[Region]:
    """All residual regions among ``alive`` nodes, in the order of their exits. ``starts``: where the clip comes in."""
    inside = set(alive)
    above = _Dominators(alive, starts)
    found: list[Region] = []
    for node in alive:
        entry = _entry(node, inside, above) if node.target is aten.add.Tensor else None
        region = None if entry is None else region_between(entry, node, inside)
        if region is not None:
            found.append(region)
    return found


def region_between(entry: fx.Node, exit: fx.Node, alive: Collection[fx.Node]) -> Region | None:
    """What ``exit`` is computed by from ``entry``; None where others read it on the way. Views of ``entry`` may be."""
    inside = frozenset(node for node in upstream([exit], [entry]) if node in alive)
    for node in inside - {exit}:
        if any(user not in inside for user in node.users) and _viewed(node) is not entry:
            return None
    return Region(entry, exit, inside)


def _entry(node: fx.Node, alive: Collection[fx.Node], above: _Dominators) -> fx.Node | None:
    """What a sum adds to: the last value before it on a term's plain path that all ways to the sum go through."""
    terms = [term for term in node.all_input_nodes if term in alive]
    if len(terms) < 2:
        return None
    paths = {x for term in terms for x in _plain_path(term, alive)}
    way = next((x for x in above.of(node) if x in paths), None)
    return None if way is None else _viewed(way)


def _plain_path(node: fx.Node, alive: Collection[fx.Node]) -> list[fx.Node]:
    """Back over views, copies and scales by what does not depend on the clip."""
    found = [node]
    while (source := _plain_source(found[-1], alive)) is not None:
        found.append(source)
    return found


def _plain_source(node: fx.Node, alive: Collection[fx.Node]) -> fx.Node | None:
    sources = [x for x in node.all_input_nodes if x in alive]
    if len(sources) != 1:
        return None
    plain = node.target in ir.VIEW_OPS or node.target in (aten.clone.default, aten.mul.Tensor)
    divided = node.target is aten.div.Tensor and node.args[0] is sources[0]
    return sources[0] if plain or divided else None


def _viewed(node: fx.Node) -> fx.Node:
    """The value that a chain of views shows."""
    while node.target in ir.VIEW_OPS:
        node = node.all_input_nodes[0]
    return node


class _Dominators:
    """The nodes that every way from the starts to a node goes through."""

    def __init__(self, alive: Sequence[fx.Node], starts: Collection[fx.Node]) -> None:
        graph, inside = nx.DiGraph(), set(alive)
        root = object()
        graph.add_edges_from((root, node) for node in starts)
        for node in alive:
            if node not in starts:
                graph.add_edges_from((x, node) for x in node.all_input_nodes if x in inside)
        self._root, self._next = root, dict(nx.immediate_dominators(graph, root))

    def of(self, node: fx.Node) -> list[fx.Node]:
        """Nearest first."""
        found: list[fx.Node] = []
        while (above := self._next.get(node)) not in (None, self._root):
            assert isinstance(above, fx.Node)
            found.append(above)
            node = above
        return found
