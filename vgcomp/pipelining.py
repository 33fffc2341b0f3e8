"""Where to cut a loop's bodies into stages, so that slices in flight take the least time.

Of the body that runs most often every cut before a working op is tried; the other bodies are cut where the same share
of their time has gone by, as near as dependences allow. More stages come by cutting the best of fewer stages again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import fx

from vgcomp import ir
from vgcomp.loops import plan_outputs
from vgcomp.overlap import least_s, pipelined_s
from vgcomp.simulate import BodyPhases, Setup, body_ops, body_phases, join_s, joins_host_s, staged, step_s
from vgcomp.stages import BodyStages, dependence_complaints, has_pipeline

#: Cuts of each body in order: one tuple a body.
Cuts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Overlap:
    """A pipeline for a loop: seconds one slice after the other, and with it."""

    pipeline: ir.Pipeline
    alone_s: float
    seconds: float

    @property
    def gain_s(self) -> float:
        """Seconds that it saves."""
        return self.alone_s - self.seconds


def pipelined(loop: ir.Loop, pipeline: ir.Pipeline) -> ir.Loop:
    """The loop with its slices in flight."""
    return replace(loop, pipeline=pipeline)


def best_overlap(node: fx.Node, setup: Setup, in_flight: int, engines: int) -> Overlap | str:
    """The fastest pipeline of a loop node, of at most so many slices in flight and engines; or why there is none."""
    loop = ir.loop_of(node)
    if loop.n_slices < 2:
        return "it has one slice"
    if any(has_pipeline(inner) for body in loop.bodies for inner in body.graph.nodes):
        return "a loop within it is pipelined"
    return _Search(node, setup, engines).best(in_flight)


class _Search:
    """The cuts of one loop."""

    def __init__(self, node: fx.Node, setup: Setup, engines: int) -> None:
        self.node, self.setup, self.engines = node, setup, engines
        self.loop = ir.loop_of(node)
        self.puts = plan_outputs(node)
        counted = Counter(step.body for step in self.loop.steps)
        self.runs = [counted[index] for index in range(len(self.loop.bodies))]
        self.main = max(range(len(self.runs)), key=self.runs.__getitem__)
        self.phases = [body_phases(node, index, setup) for index in range(len(self.runs))]
        self.alone_s = sum(n * step_s(phases) for n, phases in zip(self.runs, self.phases, strict=True))
        bodies = (body_ops(node, index, 1, setup) for index, n in enumerate(self.runs) if n)
        self.host_s = sum(op.host_s for ops in bodies for _, op in ops)
        self.places = [list(_places(body, found)) for body, found in zip(self.loop.bodies, self.phases, strict=True)]
        #: Why a cut that might have gained was refused.
        self.refused = ""

    def best(self, in_flight: int) -> Overlap | str:
        best: Overlap | None = None
        for _ in range(in_flight - 1):
            more = self._cut_again(best)
            if more is None:
                break
            best = more
        if best is not None:
            return best
        if self.refused:
            return f"its slices depend on each other: {self.refused}"
        return "side by side its slices take no less time: each op alone fills the device or its memory"

    def _cut_again(self, best: Overlap | None) -> Overlap | None:
        """The fastest with one cut more, where that is faster."""
        old = best.pipeline.cuts[self.main] if best is not None else ()
        limit = best.seconds if best is not None else max(self.alone_s, self.host_s)
        found: Overlap | None = None
        tries = [tuple(sorted({*old, place})) for place in self.places[self.main] if place not in old]
        for least, mine in sorted((self._least(cuts), cuts) for cuts in tries):
            if least >= limit:
                break
            cuts = self._matched(mine)
            for engines in self._engines(len(mine) + 1) if cuts is not None else ():
                assert cuts is not None
                tried = self._timed(ir.Pipeline(cuts, engines))
                if tried.seconds < limit:
                    found, limit = tried, tried.seconds
        return found

    def _engines(self, n_stages: int) -> Iterator[tuple[int, ...]]:
        """Which engine runs which stage: later stages first, or earlier ones."""
        used = min(n_stages, self.engines)
        for engines in (range(used), range(used - 1, -1, -1)):
            yield tuple(engines[s % used] for s in range(n_stages))

    def _least(self, cuts: tuple[int, ...]) -> float:
        """Seconds that the loop's full rounds take at the least, with all steps those of the main body."""
        stages = staged([BodyStages(self.loop.bodies[self.main], cuts)], [self.phases[self.main]])[0]
        return max(0, self.runs[self.main] - len(cuts)) * least_s(stages)

    def _timed(self, pipeline: ir.Pipeline) -> Overlap:
        stages = [BodyStages(body, cuts) for body, cuts in zip(self.loop.bodies, pipeline.cuts, strict=True)]
        device_s = pipelined_s(staged(stages, self.phases), self.loop.steps, pipeline.engines)
        turns = self.loop.n_slices + pipeline.in_flight - 1
        host_s = self.host_s + turns * joins_host_s(pipeline, self.setup)
        seconds = max(device_s + turns * join_s(self.setup.target), host_s)
        return Overlap(pipeline, max(self.alone_s, self.host_s), seconds)

    def _matched(self, mine: tuple[int, ...]) -> Cuts | None:
        """Cuts of all bodies beside the main one's; None where dependences forbid them."""
        found = dict.fromkeys(range(len(self.runs)), mine)
        if not self._allows({self.main: mine}):
            return None
        for index in found.keys() - {self.main}:
            near = next(
                (cuts for cuts in self._near(index, mine) if self._allows({self.main: mine, index: cuts})), None
            )
            if near is None:
                return None
            found[index] = near
        return tuple(found[index] for index in range(len(self.runs))) if self._allows(found) else None

    def _near(self, index: int, mine: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Cuts of a body, those first at which as much of its time has gone by as of the main body's at its own."""
        shares = [_share(self.phases[self.main], cut) for cut in mine]
        places = self.places[index]
        there = {place: _share(self.phases[index], place) for place in places}
        ranked = [sorted(places, key=lambda place, share=share: abs(there[place] - share)) for share in shares]  # type: ignore[misc]
        for tries in zip(*ranked, strict=True):
            if list(tries) == sorted(tries):
                yield tries

    def _allows(self, cuts: dict[int, tuple[int, ...]]) -> bool:
        stages = [BodyStages(self.loop.bodies[index], cut) for index, cut in cuts.items()]
        puts = [self.puts[index] for index in cuts]
        complaint = next(dependence_complaints(self.node, stages, puts), "")
        self.refused = complaint or self.refused
        return not complaint


def _places(body: ir.Body, phases: BodyPhases) -> Iterator[int]:
    """Where a body may be cut: before what takes time, and at its end."""
    nodes = list(body.graph.nodes)
    first = sum(node.op == "placeholder" for node in nodes)
    yield from (i for i in range(first, len(nodes) - 1) if phases.get(i))
    yield len(nodes) - 1


def _share(phases: BodyPhases, cut: int) -> float:
    """The part of a body's time that is before a cut."""
    total = step_s(phases)
    before = sum(phase.seconds for i, found in phases.items() if i < cut for phase in found)
    return before / total if total else 0.0
