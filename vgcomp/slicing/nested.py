"""Nested regions: where a slice of a region is itself too much, its body is planned and sliced as a graph of its own.

A decoder that runs frame by frame still needs a whole frame's activations: the frame's slice in turn runs by tiles.
The body of a loop is a graph like any other, so the same search serves; only who owns what differs
(:func:`vgcomp.memory.body_liveness`).

What an outer region costs with its body sliced is not known before that body has been planned, and there are too many
regions to plan them all. So each one that slices cheaply but not small enough enters the search as a *hope*: the bytes
that cross it, the time of its outer slices. A path that uses hopes has them planned, their bodies in the room that
the rest of that path leaves; what they turn out to cost is held against hopes for much the same ops. The search runs
again until no path with a hope promises to be faster than the best without: a shortest path, its edges evaluated late.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import fx

from vgcomp import ir
from vgcomp.cost_models.base import CostModel
from vgcomp.loops import operands_of
from vgcomp.memory import Workspace, body_liveness, loop_bytes, loop_profile
from vgcomp.program import copy_graph
from vgcomp.simulate import node_seconds
from vgcomp.slicing.choices import Choice
from vgcomp.slicing.fit import Live, fit
from vgcomp.slicing.plan import PlanSpace, plan_space
from vgcomp.slicing.prepare import assign_reuse, split_attentions, split_group_norms
from vgcomp.slicing.problem import Ints, Problem, make_problem
from vgcomp.slicing.rewrite import rewrite
from vgcomp.targets import Target

#: For one budget: how far below it a body's ops are sliced too.
_HEADROOM = 0.8
#: What is hoped to be lost for each time that a slice's bytes must be divided.
_SQUEEZED = 0.1
#: Paths whose hopes are settled, at the most; how much faster than the best known one with a hope must promise to be.
_ROUNDS = 12
_WORTH = 0.98
#: Hopes that come to nothing before there is no more hoping for a budget.
_FAILURES = 3
#: Regions are alike that share this much of their ops; what a hope that came to nothing is taken to have cost.
_ALIKE = 0.5
_DISAPPOINTED = 4.0


@dataclass
class Nester:
    """Turns hopes of a plan space into edges with true figures, as far as plans for a budget want them."""

    space: PlanSpace
    target: Target
    cost_model: CostModel
    workspace: Workspace
    #: Bodies as planning problems, for all budgets: what was learnt of one serves the next.
    problems: dict[Hashable, Problem]
    #: Edges whose bodies are planned, with the bytes they then take.
    settled: dict[int, int] = field(default_factory=dict)
    #: The largest budget that an edge's bodies could not be made to fit.
    failed: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        space = self.space
        hopes = np.array([found.hopes is not None for found in space.candidates], dtype=bool)
        self._hopes = np.nonzero(hopes[space.which[:, 0]])[0] if len(hopes) else np.zeros(0, dtype=np.int64)
        self._peak, self._seconds = space.peak.copy(), space.seconds.copy()
        #: By edge: the bytes of a slice that is not sliced again (0 for edges that are no hopes).
        self._slice = np.zeros(len(self._peak))
        for edge in self._hopes.tolist():
            found = space.candidates[space.which[edge, 0]]
            assert found.hopes is not None
            self._slice[edge] = found.hopes[space.start[edge]]

    def explore(self, budget: int, live: Live) -> None:
        """Settles the hopes that the best plans for ``budget`` use; takes out the others."""
        self._hope_again(budget)
        best, failures = np.inf, 0
        for _ in range(_ROUNDS):
            plan = self.space.best(budget)
            if plan is None or plan.seconds > _WORTH * best:
                break
            written = rewrite(self.space, plan)
            hopes = [(choice, nodes) for choice, nodes in written.nodes_of if self._is_hope(choice)]
            if not hopes or failures >= _FAILURES:
                break
            at = dict(zip(written.graph.nodes, live(written.graph), strict=True))
            settled = [self._settle(choice, nodes, at, budget) for choice, nodes in hopes]
            failures += settled.count(False)
            best = self._best_settled(budget)
        self._drop_hopes()

    def _is_hope(self, choice: Choice) -> bool:
        return bool(self._slice[choice.edge]) and choice.edge not in self.settled

    def _unsettled(self) -> Ints:
        return self._hopes[[edge not in self.settled for edge in self._hopes.tolist()]]

    def _hope_again(self, budget: int) -> None:
        """All hopes as for this budget, but for edges settled within it or failed at no less.

        The more a slice has to shrink to fit beside what crosses its region, the less is hoped of its time.
        """
        for edge in [edge for edge, peak in self.settled.items() if peak > budget]:
            del self.settled[edge]
            for key in [key for key in self.space.built if key[0] == edge]:
                del self.space.built[key]
        again = self._unsettled()
        outside = self._peak[again] - self._slice[again] / self.space.limits.hope
        squeeze = self._slice[again] / np.maximum(budget - outside, 1.0)
        self.space.peak[again] = np.where(squeeze < self.space.limits.hope, self._peak[again], np.inf)
        self.space.seconds[again] = self._seconds[again] * (1.0 + _SQUEEZED * np.maximum(squeeze - 1.0, 0.0))
        for edge, tried in self.failed.items():
            if tried >= budget:
                self.space.peak[edge] = np.inf

    def _drop_hopes(self) -> None:
        self.space.peak[self._unsettled()] = np.inf

    def _best_settled(self, budget: int) -> float:
        """Seconds of the best plan that hopes for nothing."""
        rest = self._unsettled()
        hoped = self.space.peak[rest]
        self.space.peak[rest] = np.inf
        plan = self.space.best(budget)
        self.space.peak[rest] = hoped
        return np.inf if plan is None else plan.seconds

    def _settle(self, choice: Choice, nodes: tuple[fx.Node, ...], at: dict[fx.Node, int], budget: int) -> bool:
        """Plans the bodies of the choice's loops; False where they cannot be made to fit."""
        space, edge = self.space, choice.edge
        before = after = 0.0
        peak = 0
        for j, node in enumerate(nodes):
            room = budget - (at[node] - loop_bytes(node, workspace=self.workspace))
            loop = self._fitted(node, room, (choice.first, choice.end, choice.axis, choice.n_slices, choice.carry, j))
            if loop is None:
                self.failed[edge] = max(budget, self.failed.get(edge, 0))
                self._doubt(edge, _DISAPPOINTED)
                space.peak[edge] = np.inf
                return False
            nested = _standing(loop, operands_of(node))
            before += node_seconds(node, self.target, self.cost_model, self.workspace)
            after += node_seconds(nested, self.target, self.cost_model, self.workspace)
            peak = max(peak, budget - room + loop_bytes(nested, workspace=self.workspace))
            self._keep(edge, node, loop)
        self._doubt(edge, after / before * self._seconds[edge] / space.seconds[edge])
        space.peak[edge], space.seconds[edge] = peak - choice.extra, self._seconds[edge] * after / before
        self.settled[edge] = peak
        return True

    def _keep(self, edge: int, node: fx.Node, loop: ir.Loop) -> None:
        """The loop in place of the one that was written for the edge."""
        built = self.space.built
        (key,) = (k for k in built if k[0] == edge and built[k].loop.bodies == ir.loop_of(node).bodies)
        built[key] = replace(built[key], loop=replace(built[key].loop, bodies=loop.bodies))

    def _doubt(self, edge: int, ratio: float) -> None:
        """How much more than hoped one cost, held in part against hopes for much the same ops."""
        space, others = self.space, self._unsettled()
        first, end = space.first[others], space.end[others]
        common = np.minimum(end, space.end[edge]) - np.maximum(first, space.first[edge])
        union = np.maximum(end, space.end[edge]) - np.minimum(first, space.first[edge])
        alike = others[common > _ALIKE * union]
        space.seconds[alike] *= max(1.0, ratio) ** 0.5

    def _fitted(self, node: fx.Node, room: int, name: tuple[Hashable, ...]) -> ir.Loop | None:
        """The loop with bodies that take at most ``room`` bytes beside operands and results; None if they cannot."""
        loop = ir.loop_of(node)
        profiles = loop_profile(node, workspace=self.workspace)
        bodies = list(loop.bodies)
        for k, profile in enumerate(profiles):
            if max(profile.at) <= room:
                continue
            body = self._sliced_body(node, k, room, (*name, k))
            if body is None:
                return None
            bodies[k] = body
        return replace(loop, bodies=tuple(bodies))

    def _sliced_body(self, node: fx.Node, k: int, room: int, name: Hashable) -> ir.Body | None:
        loop = ir.loop_of(node)
        body = loop.bodies[k]

        def with_graph(graph: fx.Graph) -> ir.Loop:
            bodies = (*loop.bodies[:k], replace(body, graph=graph), *loop.bodies[k + 1 :])
            return replace(loop, bodies=bodies)

        def live(graph: fx.Graph) -> Sequence[int]:
            trial = _standing(with_graph(graph), operands_of(node))
            return loop_profile(trial, workspace=self.workspace)[k].at

        if name not in self.problems:
            self.problems[name] = self._problem(body)
        inner = plan_space(self.problems[name], int(room * _HEADROOM), room)
        found = fit(inner, room, live)
        return None if found is None else replace(body, graph=found.graph)

    def _problem(self, body: ir.Body) -> Problem:
        graph = copy_graph(body.graph)
        split_group_norms(graph)
        split_attentions(graph)
        assign_reuse(graph)
        liveness = body_liveness(replace(body, graph=graph), workspace=self.workspace)
        return make_problem(graph, self.target, self.cost_model, liveness, self.workspace)


def _standing(loop: ir.Loop, operands: Sequence[fx.Node]) -> fx.Node:
    """A loop node in a graph of its own, to be measured."""
    graph = fx.Graph()
    stand_ins: dict[fx.Node, fx.Node] = {}
    for operand in operands:
        if operand not in stand_ins:
            stand_ins[operand] = graph.placeholder(operand.name)
            stand_ins[operand].meta["val"] = ir.val(operand)
    arguments: Any = (loop, tuple(stand_ins[x] for x in operands))
    return graph.call_function(ir.sliced, arguments)
