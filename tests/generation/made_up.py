"""Stages that were never a network: a few ways to run each, known in full."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vgcomp.generation.residency import Link, Search
from vgcomp.generation.stage import Answer


@dataclass
class MadeUp:
    """``ways``: the answers with all weights on the device, and with streamed ones."""

    name: str
    runs: int
    weight_bytes: int
    ways: tuple[Answer, ...]
    asked: int = 0

    @property
    def floor_bytes(self) -> int:
        return min(way.need_bytes for way in self.ways)

    def fastest(self, room: int, most_s: float = math.inf, *, streamed: bool = False) -> Answer | None:
        self.asked += 1
        fitting = [w for w in self.ways if w.streamed == streamed and w.need_bytes <= room and w.latency_s < most_s]
        return min(fitting, key=lambda way: way.latency_s, default=None)

    def smallest(self) -> Answer:
        return min(self.ways, key=lambda way: way.need_bytes)


def search_of(stages: Sequence[MadeUp], held: Sequence[int], link: Link, worth: float = 0.0) -> Search:
    """Weights take their bytes beside a stage, no more."""

    def beside(stage: int, kept: frozenset[int]) -> int:
        return held[stage] + sum(stages[i].weight_bytes for i in kept)

    return Search(stages, beside, link, worth)
