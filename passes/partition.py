"""``partition``: parts that are loaded one after the other, cut where the fewest bytes cross.

Given (weights of 3 GB, a ceiling of 2 GB)::

    %a = convolution(%x, %w0)        # part 0
    %b = silu(%a)
    %y = linear(%b, %w1)             # part 1 takes %b from part 0

The program stays as it is; ``meta["part"]`` of each call says where it belongs (:mod:`vgcomp.parts`).

Every cut lies between two calls of the schedule. It costs the bytes that cross it, written by one part and read by the
next, and what memory could move while the next part is dispatched. A part holds its weights, what it is given, what
crosses over it, and the most that its own values come to. The cheapest cuts under the ceiling are found exactly: a
shortest path over the places of the schedule, from its end, as a value's life and a weight's first use in a part depend
on where the part begins and no longer on where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import fx

from vgcomp import ir
from vgcomp.device_memory import device_memory
from vgcomp.errors import Infeasible
from vgcomp.memory import analyse
from vgcomp.parts import PART, constants, n_parts, split
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.targets import Target
from vgcomp.units import format_bytes

#: Times that the ceiling is lowered by what an arena wastes.
TRIES = 4

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Partition:
    """See the module's text.

    ``ceiling``: bytes of a part, weights and activations together; 0 for the budget of the run. ``max_weights``: bytes
    of a part's weights; Apple's Stable Diffusion splits its UNet so that each part has less than 1 GB of them, which it
    calls required on the Neural Engine of phones. ``weight_bits``: of an element as stored, where weights are
    compressed. Raises Infeasible where a single call does not fit.
    """

    name: ClassVar[str] = "partition"
    equivalence: ClassVar[Equivalence] = "exact"

    ceiling: int = 0
    max_weights: int = 1_000_000_000
    weight_bits: int = 16

    def __post_init__(self) -> None:
        if self.weight_bits not in (2, 4, 6, 8, 16, 32):
            raise ValueError(f"weight-bits is 2, 4, 6, 8, 16 or 32, not {self.weight_bits}")
        if self.max_weights < 1 or self.ceiling < 0:
            raise ValueError("max-weights and ceiling are sizes, such as 1GB")

    def run(self, program: Program, context: PassContext) -> PassResult:
        if n_parts(program) > 1:
            return self._whole(program, "it is in parts already")
        wanted = self.ceiling or context.memory or context.target.usable_bytes
        costs = Costs.of(program, self.weight_bits)
        if not costs.calls:
            return self._whole(program, "it computes nothing")
        ceiling = float(wanted)
        for _ in range(TRIES):
            cuts = cheapest_cuts(costs, ceiling, self.max_weights, dispatch_bytes(context.target))
            if cuts is None:
                raise self._infeasible(program, costs, wanted)
            parted = _marked(program, costs, cuts)
            over = max(self._bytes(part, context.target) for part in split(parted)) - wanted
            if over <= 0:
                break
            ceiling -= over
        else:
            raise self._infeasible(program, costs, wanted)
        if not cuts:
            return self._whole(program, f"it fits {format_bytes(wanted)} whole")
        return PassResult(parted, True, {"parts": len(cuts) + 1, "crossing_bytes": int(costs.crossing[cuts].sum())})

    def _bytes(self, part: Program, target: Target) -> int:
        """What a part takes of the device."""
        saved = part.weight_bytes() - part.weight_bytes() * self.weight_bits // 16
        return device_memory(part, target).total_bytes - max(saved, 0)

    def _whole(self, program: Program, reason: str) -> PassResult:
        return PassResult(program, False, {"parts": n_parts(program)}, (Explanation(program.name, self.name, reason),))

    def _infeasible(self, program: Program, costs: Costs, wanted: int) -> Infeasible:
        least, at = smallest_ceiling(costs)
        return Infeasible(
            f"no part of {program.name} that holds {costs.calls[at].name} fits {format_bytes(wanted)}",
            smallest_bytes=max(least, wanted + 1),
            culprit=costs.calls[at].name,
        )


def dispatch_bytes(target: Target) -> float:
    """A dispatch in bytes: what memory moves meanwhile."""
    seconds = target.fallback.dispatch_s if target.fallback is not None else target.launch_s
    return seconds * target.memory_bytes_per_s


@dataclass(frozen=True)
class Costs:
    """What a partition is chosen by; places are numbered 0 (before the first call) to n (after the last).

    ``crossing[j]``: bytes that calls before place j made and calls after it read. ``held[i]``: what a part that begins
    at i is given or must keep for later parts, with the program's inputs. ``allowed[j]``: whether a cut is possible.
    """

    calls: list[fx.Node]
    crossing: _Floats
    held: _Floats
    allowed: NDArray[np.bool_]
    #: Of each call: the storages that begin there, as (last call that needs it, bytes); and bytes inside the call.
    storages: list[list[tuple[int, int]]]
    inner: _Floats
    #: Of each call: its weights, as (next call that uses the same one, bytes).
    weights: list[list[tuple[int, float]]]

    @staticmethod
    def of(program: Program, weight_bits: int = 16) -> Costs:
        fixed = constants(program.graph)
        calls = [n for n in program.graph.nodes if n.op == "call_function" and n not in fixed]
        place = {node: i for i, node in enumerate(calls)}
        crossing, held, allowed = _edges(program, calls, place, fixed)
        storages, inner = _storages(program.graph, place)
        weights = _weights(program, calls, fixed, weight_bits)
        return Costs(calls, crossing, held, allowed, storages, inner, weights)


def cheapest_cuts(costs: Costs, ceiling: float, max_weights: float, cut_bytes: float) -> list[int] | None:
    """The places to cut at, in order; None where no partition fits."""
    n = len(costs.calls)
    price = np.where(costs.allowed, costs.crossing + cut_bytes, np.inf)
    price[n] = 0.0
    # least[i]: of all that begins at place i, a cut at each part's end counted; follows[i]: where its first part ends.
    least = np.full(n + 1, np.inf)
    follows = np.zeros(n + 1, dtype=np.int64)
    least[n] = 0.0
    for i, memory, weights in _parts_from(costs):
        # Both only grow with the part, so what fits is a prefix.
        reach = int(np.searchsorted(memory + weights > ceiling, True))
        lighter = int(np.searchsorted(weights > max_weights, True))
        # Weights of one call cannot be cut: only memory holds it back.
        reach = min(reach, max(lighter, 1))
        if not reach:
            continue
        whole = price[i + 1 : i + 1 + reach] + least[i + 1 : i + 1 + reach]
        end = int(np.argmin(whole))
        least[i], follows[i] = whole[end], i + 1 + end
    if not np.isfinite(least[0]):
        return None
    cuts: list[int] = []
    at = int(follows[0])
    while at < n:
        cuts.append(at)
        at = int(follows[at])
    return cuts


def smallest_ceiling(costs: Costs) -> tuple[int, int]:
    """The least ceiling that some partition holds, and the call that asks for it: a bottleneck path."""
    n = len(costs.calls)
    least = np.full(n + 1, np.inf)
    culprit = np.zeros(n + 1, dtype=np.int64)
    least[n] = 0.0
    for i, memory, weights in _parts_from(costs):
        own = np.where(costs.allowed[i + 1 :], memory + weights, np.inf)
        whole = np.maximum(own, least[i + 1 :])
        end = int(np.argmin(whole))
        least[i] = whole[end]
        # Within the first part, the call that raises it to its peak; else whatever stands at the rest's.
        peak = i + int(np.searchsorted(own, own[end]))
        culprit[i] = peak if own[end] >= least[i + 1 + end] else culprit[i + 1 + end]
    return int(np.ceil(least[0])), int(culprit[0])


def _parts_from(costs: Costs) -> Iterator[tuple[int, _Floats, _Floats]]:
    """(i, memory, weights) for each place i, the last one first: bytes of the parts from i to each later call."""
    n = len(costs.calls)
    # Bytes live at each call of storages that begin at i or later, and of weights by first use: extended backwards.
    live = costs.inner.copy()
    weight_at = np.zeros(n)
    for i in range(n - 1, -1, -1):
        for last, size in costs.storages[i]:
            live[i : last + 1] += size
        for following, bytes_ in costs.weights[i]:
            weight_at[i] += bytes_
            if following < n:
                weight_at[following] -= bytes_
        yield i, costs.held[i] + np.maximum.accumulate(live[i:]), np.cumsum(weight_at[i:])


def _edges(
    program: Program, calls: list[fx.Node], place: dict[fx.Node, int], fixed: set[fx.Node]
) -> tuple[_Floats, _Floats, NDArray[np.bool_]]:
    n = len(calls)
    crossing, held = np.zeros(n + 2), np.zeros(n + 2)
    allowed = np.ones(n + 1, dtype=bool)
    for node in (*program.inputs, *calls):
        born = place.get(node, -1)
        last = max((place[user] for user in node.users if user in place), default=born)
        if ir.is_loop(node):
            allowed[born + 1 : last + 1] = False
            continue
        size = ir.nbytes(ir.val(node))
        if born >= 0 and last > born:
            crossing[born + 1] += size
            crossing[last + 1] -= size
        # Inputs are the caller's all the time, and outputs once they are made.
        kept = n if node.op == "placeholder" or node in program.outputs else last
        held[born + 1] += size
        held[kept + 1] -= size
    return np.cumsum(crossing)[: n + 1], np.cumsum(held)[: n + 1], allowed


def _storages(graph: fx.Graph, place: dict[fx.Node, int]) -> tuple[list[list[tuple[int, int]]], _Floats]:
    """Storages by the call that makes them, and what calls hold inside beside them."""
    nodes = list(graph.nodes)
    liveness = analyse(graph)
    n = len(place)
    found: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    known = np.zeros(len(nodes) + 1)
    for buffer in liveness.buffers:
        known[buffer.first] += buffer.size
        known[buffer.last + 1] -= buffer.size
        if buffer.kind not in ("value", "output") or not buffer.size or nodes[buffer.first] not in place:
            continue
        inside = [place[node] for node in nodes[buffer.first : buffer.last + 1] if node in place]
        found[place[nodes[buffer.first]]].append((max(inside), buffer.size))
    extra = np.array(liveness.at) - np.cumsum(known)[: len(nodes)]
    inner = np.zeros(n)
    for i, node in enumerate(nodes):
        if node in place and ir.is_loop(node):
            inner[place[node]] = max(0.0, float(extra[i]))
    return found, inner


def _weights(program: Program, calls: list[fx.Node], fixed: set[fx.Node], bits: int) -> list[list[tuple[int, float]]]:
    """The weights of each call, by way of constants too, each with the next call that uses it."""
    under: dict[fx.Node, frozenset[str]] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            under[node] = frozenset({str(node.target)})
        elif node in fixed:
            under[node] = frozenset().union(*(under[x] for x in node.all_input_nodes))
    found: list[list[tuple[int, float]]] = [[] for _ in calls]
    following: dict[str, int] = {}
    for i in range(len(calls) - 1, -1, -1):
        names = frozenset().union(*(under[x] for x in calls[i].all_input_nodes if x in fixed))
        names |= frozenset(_in_bodies(calls[i]))
        for name in sorted(names):
            size = program.weights[name].nbytes * min(1.0, bits / 16)
            found[i].append((following.get(name, len(calls)), size))
            following[name] = i
    return found


def _in_bodies(node: fx.Node) -> list[str]:
    if not ir.is_loop(node):
        return []
    bodies = [body.graph for body in ir.loop_of(node).bodies]
    names = [str(inner.target) for graph in bodies for inner in graph.nodes if inner.op == "get_attr"]
    return names + [name for graph in bodies for inner in graph.nodes for name in _in_bodies(inner)]


def _marked(program: Program, costs: Costs, cuts: list[int]) -> Program:
    """The program with each call's part; a constant takes that of the call behind it."""
    new = program.copy()
    ends = [*cuts, len(costs.calls)]
    names = {node.name: i for i, node in enumerate(costs.calls)}
    part = 0
    for node in new.graph.nodes:
        while node.name in names and names[node.name] >= ends[part]:
            part += 1
        if node.op == "call_function":
            node.meta[PART] = part
    return new
