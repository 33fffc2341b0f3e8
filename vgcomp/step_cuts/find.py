"""Finds where a denoiser can be cut: few candidates, from the graph alone, none of them named per network.

Three families, each over nodes that the latent reaches:

* **one value** that all of a large part of the work goes through on its way to the output: what the node
  post-dominates is saved (a decoder block's result, the tokens after some layer);
* **what lies behind one value**: all that the latent reaches through a single node (a UNet below a level), closed off
  by the values of least bytes between its heavy ops and the rest, a minimum cut of one or more tensors;
* **a difference**: of two values of one shape, the first on every path to the second (what a range of layers adds), or
  of the two halves of a guided batch (:mod:`vgcomp.step_cuts.halves`).

Of cuts with nearly the same FLOPs saved the one of fewest bytes stays. Pairs of cuts are tried last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, combinations

import networkx as nx
from torch import fx

from vgcomp import ir
from vgcomp.loops import storage_root
from vgcomp.max_flow import Network
from vgcomp.program import Program
from vgcomp.step_cuts.cut import Cut, Kept, upstream
from vgcomp.step_cuts.reach import downstream, node_flops

#: A cut saves at least this share of the FLOPs, and ops of less than the other weigh nothing in where it lies.
LEAST_SAVED, LIGHT = 0.05, 0.002
#: Shares of FLOPs closer than this count as the same.
GRAIN = 0.04
#: Places along a chain of dominators between which differences are looked at.
PLACES = 10
#: Cuts, those that save most, of which pairs are tried.
PAIRED = 16
#: Values of one cut.
MOST_KEPT = 4


@dataclass(frozen=True)
class Candidate:
    """A cut and what its graph says: ``saved`` of the FLOPs (0 to 1), bytes kept, what the reuse step still reads."""

    cut: Cut
    saved: float
    nbytes: int
    reads_latent: bool
    reads_timestep: bool

    @property
    def repeats(self) -> bool:
        """True where the reuse step says the same whatever the latent: a plain repeat."""
        return not self.reads_latent


class Finder:
    """Candidates of one program. ``latent`` and ``timestep`` are names of inputs."""

    def __init__(self, program: Program, latent: str, timestep: str) -> None:
        self.program = program
        inputs = {str(node.target): node for node in program.inputs}
        self.latent, self.timestep = inputs[latent], inputs[timestep]
        self.order = {node: i for i, node in enumerate(program.graph.nodes)}
        self.flops = {node: node_flops(node) for node in program.graph.nodes}
        self.total = sum(self.flops.values())
        alive = upstream(program.outputs) & downstream([self.latent])
        self.alive = [node for node in program.graph.nodes if node in alive]

    def candidates(self, extra: Iterable[Cut] = ()) -> list[Candidate]:
        """The fronts of all families by bytes and FLOPs saved, repeats apart; most FLOPs saved first."""
        cuts = dict.fromkeys((*self._values(), *self._regions(), *self._differences(), *extra))
        single = _front([self.measure(cut) for cut in cuts])
        return _front([*single, *self._pairs([c for c in single if c.reads_latent][:PAIRED])])

    def measure(self, cut: Cut) -> Candidate:
        """What the graph says of a cut."""
        pairs = cut.nodes(self.program)
        kept = [node for node, _ in pairs]
        left = upstream(self.program.outputs, kept)
        for node, base in pairs:
            if base is not None and (node in self.program.outputs or any(user in left for user in node.users)):
                left |= upstream([base], kept)
        saved = 1 - sum(self.flops[node] for node in left) / self.total
        size = sum(ir.nbytes(ir.val(node)) for node in kept)
        return Candidate(cut, saved, size, self.latent in left, self.timestep in left)

    def _pairs(self, single: Sequence[Candidate]) -> list[Candidate]:
        """Two cuts together, where that saves more than either and the latent is still read."""
        found = []
        for a, b in combinations(single, 2):
            cut = Cut((*a.cut.kept, *b.cut.kept))
            if not self._joins(cut):
                continue
            joint = self.measure(cut)
            if joint.reads_latent and joint.saved > max(a.saved, b.saved) + GRAIN:
                found.append(joint)
        return found

    def _joins(self, cut: Cut) -> bool:
        """Few enough values, of which none makes another pointless, or is what another differs from."""
        names = [kept.node for kept in cut.kept]
        if len(set(names)) < len(names) or len(cut.kept) > MOST_KEPT:
            return False
        if not {kept.base for kept in cut.kept}.isdisjoint(names):
            return False
        pairs = cut.nodes(self.program)
        kept = [node for node, _ in pairs]
        return all(_behind(node, [other for other in kept if other is not node], self.program) for node in kept)

    # -- one value ------------------------------------------------------------------------------------

    def _values(self) -> list[Cut]:
        """Nodes whose subtree of the post-dominator tree holds enough FLOPs."""
        tree = self._post_dominators()
        held = dict(self.flops)
        for node in self.program.graph.nodes:  # a node stands before what post-dominates it
            above = tree.get(node)
            if above is not None and above is not node and above in held:
                held[above] += held[node]
        wanted = [node for node in self.alive if held[node] >= LEAST_SAVED * self.total and _storable(node)]
        return [Cut((Kept(node.name),)) for node in wanted]

    def _post_dominators(self) -> dict[fx.Node, fx.Node]:
        graph = nx.DiGraph()
        for node in self.program.graph.nodes:
            graph.add_edges_from((node, other) for other in node.all_input_nodes)
        return dict(nx.immediate_dominators(graph, self.program.graph.output_node()))

    # -- what lies behind one value ---------------------------------------------------------------------

    def _regions(self) -> list[Cut]:
        """For each node that much is reached through: the least bytes between the heavy ops behind it and the rest."""
        behind: dict[fx.Node, float] = dict.fromkeys(self.alive, 0.0)
        below: dict[fx.Node, list[fx.Node]] = {node: [] for node in self.alive}
        for node in reversed(self.alive):  # a node stands after what dominates it
            behind[node] += self.flops[node]
            above = self.dominators.get(node)
            if above is not None and above is not node:
                behind[above] += behind[node]
                below[above].append(node)
        heads = [n for n in self.alive if LEAST_SAVED <= behind[n] / self.total < 1 - LEAST_SAVED / 2]
        found, last = [], -1.0
        for head in sorted(heads, key=behind.__getitem__):
            if behind[head] / self.total - last >= GRAIN / 2:
                last = behind[head] / self.total
                found += self._closed(_subtree(head, below))
        return found

    @cached_property
    def dominators(self) -> dict[fx.Node, fx.Node]:
        """Of the latent's part of the graph: the last node that every path from the latent to it goes through."""
        alive, graph = set(self.alive), nx.DiGraph()
        for node in self.alive:
            graph.add_edges_from((other, node) for other in node.all_input_nodes if other in alive)
        return dict(nx.immediate_dominators(graph, self.latent))

    def _closed(self, region: set[fx.Node]) -> list[Cut]:
        """A minimum vertex cut, in bytes, between the region's heavy ops and what reads the region."""
        heavy = {node for node in region if self.flops[node] >= LIGHT * self.total}
        network = Network()
        for node in region:
            network.edge(network.vertex((node, 0)), network.vertex((node, 1)), self._price(node))
            if node in heavy:
                network.edge(Network.SOURCE, network.vertex((node, 0)), None)
            for user in node.users:
                if user in region:
                    network.edge(network.vertex((node, 1)), network.vertex((user, 0)), None)
                else:
                    network.edge(network.vertex((node, 1)), Network.SINK, None)
        kept = _cut_vertices(network, region)
        if not 0 < len(kept) <= MOST_KEPT:
            return []
        return [Cut(tuple(Kept(node.name) for node in sorted(kept, key=self.order.__getitem__)))]

    def _price(self, node: fx.Node) -> int | None:
        return ir.nbytes(ir.val(node)) if _storable(node) else None

    # -- differences --------------------------------------------------------------------------------------

    def _differences(self) -> list[Cut]:
        """(value, base) where the base dominates the value and has its shape, between places of even work."""
        found: list[Cut] = []
        for line in self._lines():
            groups: dict[object, list[fx.Node]] = {}
            for node in line:
                value = ir.val(node)
                groups.setdefault((value.shape, value.dtype, value.stride()), []).append(node)
            for group in groups.values():
                places = self._spread(group)
                found += [Cut((Kept(b.name, a.name),)) for a, b in combinations(places, 2)]
        return found

    def _lines(self) -> list[list[fx.Node]]:
        """From each output, and from where its paths part, the dominators back to the latent, latent first."""
        lines = []
        for end in self._ends():
            line, node = [], end
            while node is not self.latent:
                if _storable(node):
                    line.append(node)
                node = self.dominators[node]
            lines.append(line[::-1])
        return lines

    def _ends(self) -> list[fx.Node]:
        """The outputs, and where a dominator is skipped (paths join) the inputs of the join."""
        chain = self.dominators
        ends = [node for node in self.program.outputs if node in chain]
        found: list[fx.Node] = []
        while ends and len(found) < 4:
            node = ends.pop(0)
            found.append(node)
            while node is not self.latent and chain[node] in node.all_input_nodes:
                node = chain[node]
            joined = [other for other in node.all_input_nodes if other in chain and other is not self.latent]
            ends += joined if node is not self.latent and len(joined) > 1 else []
        return found

    def _spread(self, group: Sequence[fx.Node]) -> list[fx.Node]:
        """At most :data:`PLACES` of a line's nodes, as evenly apart in work as they come; sums where there are some."""
        sums = [node for node in group if node.target is ir.aten.add.Tensor]
        group = [group[0], *(node for node in sums if node is not group[0])] if sums else list(group)
        if len(group) <= PLACES:
            return list(group)
        before = dict(zip(self.order, accumulate(self.flops[node] for node in self.order), strict=True))
        done = {node: before[node] for node in group}
        first, last = done[group[0]], done[group[-1]]
        marks = [first + (last - first) * i / (PLACES - 1) for i in range(PLACES)]
        return list(dict.fromkeys(_nearest(group, done, mark) for mark in marks))


def _nearest(group: Sequence[fx.Node], done: Mapping[fx.Node, float], mark: float) -> fx.Node:
    return min(group, key=lambda node: abs(done[node] - mark))


def _storable(node: fx.Node) -> bool:
    """A value with a storage of its own: a view costs nothing to make again from its base."""
    return node.op == "call_function" and not ir.is_loop(node) and storage_root(node)[0] is node


def _subtree(head: fx.Node, below: Mapping[fx.Node, Sequence[fx.Node]]) -> set[fx.Node]:
    """``head`` and all below it."""
    found, stack = {head}, [head]
    while stack:
        under = below[stack.pop()]
        found.update(under)
        stack.extend(under)
    return found


def _behind(node: fx.Node, others: Sequence[fx.Node], program: Program) -> bool:
    """True where some output still reads ``node`` once ``others`` are given."""
    left = upstream(program.outputs, others)
    return node in left


def _cut_vertices(network: Network, region: set[fx.Node]) -> list[fx.Node]:
    network.max_flow()
    side = network.source_side()
    return [n for n in region if network.vertex((n, 0)) in side and network.vertex((n, 1)) not in side]


def _front(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other of the same kind beats in bytes at nearly the same FLOPs saved."""
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.nbytes, -c.saved, str(c.cut))):
        if candidate.saved < LEAST_SAVED:
            continue
        rivals = [c for c in kept if _kind(c) == _kind(candidate) and c.nbytes <= candidate.nbytes]
        if all(abs(c.saved - candidate.saved) > GRAIN / 2 for c in rivals):
            kept.append(candidate)
    return sorted(kept, key=lambda c: (-c.saved, c.nbytes))


def _kind(candidate: Candidate) -> tuple[bool, bool]:
    return candidate.repeats, any(kept.base is not None for kept in candidate.cut.kept)
