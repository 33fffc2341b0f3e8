"""Runs a pipelined loop: the rounds of :mod:`vgcomp.stages`, on streams where the device has them.

In a round the host issues what the slice furthest on has left up to where that holds most, then the next slice's
stage in the same way, and then the rest: so what an allocator sees together is what the engines may hold together
(``vgcomp.memory`` counts it). On a CPU that is the order in which ops run.

A stream's blocks go back to its own pool as soon as the host lets go of them, and are handed out again to work that
comes later on that stream. So a value that another stream reads must not go before that stream is done: such values
(and they alone) are dropped after the round, when all streams have waited for each other. Nothing needs
``record_stream``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from vgcomp import ir
from vgcomp.backends.torch_outputs import Frame, Instruction
from vgcomp.stages import rounds


@dataclass(slots=True)
class StageCode:
    """One stage of a compiled body: what comes before the next slice's work is issued, and after; then, slots."""

    before: list[Instruction] = field(default_factory=list)
    after: list[Instruction] = field(default_factory=list)
    #: Dropped when the round is done.
    crossing: list[int] = field(default_factory=list)


@dataclass(slots=True)
class PipelinedBody:
    """A compiled body: its number of slots, and its stages."""

    slots: int
    stages: list[StageCode]


class Engines:
    """The streams of a pipelined loop; on a device without streams all of them are the one order of the host."""

    def __init__(self, device: torch.device, n_engines: int) -> None:
        self._device = device
        self._side = [_stream(device, e) for e in range(1, n_engines)] if device.type == "cuda" else []

    def on(self, engine: int) -> AbstractContextManager[object]:
        """Work issued within goes to this engine."""
        return torch.cuda.stream(self._side[engine - 1]) if engine and self._side else nullcontext()

    def fork(self) -> None:
        """What the other engines do from now on waits for all that was given to the first before."""
        for stream in self._side:
            stream.wait_stream(torch.cuda.current_stream(self._device))

    def join(self) -> None:
        """What the first engine does from now on waits for all that was given to the others before."""
        for stream in self._side:
            torch.cuda.current_stream(self._device).wait_stream(stream)


_streams: dict[tuple[torch.device, int], torch.cuda.Stream] = {}


def _stream(device: torch.device, engine: int) -> torch.cuda.Stream:
    """One stream a device and engine, always the same: memory in its pool serves all loops. Higher ones go first."""
    key = (device, engine)
    if key not in _streams:
        _streams[key] = torch.cuda.Stream(device, priority=-engine)
    return _streams[key]


def run_pipelined(loop: ir.Loop, bodies: Sequence[PipelinedBody], frame: Frame) -> None:
    """Runs all steps. ``frame`` has the loop's operands and results; steps share its results and carries."""
    assert loop.pipeline is not None
    placed = loop.pipeline.engines
    engines = Engines(frame.device, max(placed) + 1)
    flight: dict[int, Frame] = {}

    def issue(running: Sequence[tuple[int, int]]) -> None:
        if not running:
            return
        (stage, i), *rest = running
        code = bodies[loop.steps[i].body].stages[stage]
        with engines.on(placed[stage]):
            _run(code.before, flight[i])
        issue(rest)
        with engines.on(placed[stage]):
            _run(code.after, flight[i])

    for running in rounds(loop.n_slices, loop.pipeline.in_flight):
        stage, newest = running[-1]
        if stage == 0:
            flight[newest] = _step_frame(frame, loop.steps[newest], bodies[loop.steps[newest].body].slots)
        engines.fork()
        issue(running)
        engines.join()
        for stage, i in running:
            for slot in bodies[loop.steps[i].body].stages[stage].crossing:
                flight[i].env[slot] = None
            if stage == loop.pipeline.in_flight - 1:
                del flight[i]


def _step_frame(frame: Frame, step: ir.Step, slots: int) -> Frame:
    return Frame([None] * slots, frame.weights, frame.device, frame.operands, step, frame.results, frame.carries)


def _run(instructions: Sequence[Instruction], frame: Frame) -> None:
    for instruction in instructions:
        instruction(frame)
