"""A trace cut into pieces that know nothing of each other, and pieces linked to a whole again.

What crosses a cut is a list of storages, in the order of their births: the piece after it says of each how long it
still needs it, or that it hands it on. A piece's surroundings are in that list, so a piece is told by its options, by
the number of storages that enter and by the *forms* of those that it touches. Small values that follow from the
network's other inputs alone (an embedding's activation, the prompt repeated) are shared between pieces: each says which
it needs and when, and the first to need one makes it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.compiled_cost.trace import END, Call, Seconds, Storage, Trace
from vgcomp.errors import InternalError
from vgcomp.loops import alias_base

#: Bytes of a storage, and the first and last call that use it.
Life = tuple[int, int, int]
#: A storage that crosses a cut: its bytes, and how the values lie in it that are read after the cut.
Form = tuple[int, Hashable]


@dataclass(frozen=True, slots=True)
class Shared:
    """A call that pieces share. ``size``: of the storage that it makes, 0 for none; ``operands``: storages by key."""

    seconds: tuple[Seconds, ...]
    flops: float
    size: int
    operands: tuple[Hashable, ...]
    weights: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Ops in a row, and the shared calls that must have run before, by key."""

    at: int
    needs: tuple[Hashable, ...]
    seconds: tuple[Seconds, ...]


@dataclass(frozen=True)
class Piece:
    """Calls between two cuts; times are counted from its first call, storages by their place in the entry.

    ``touched``: those of the ``entered`` storages that it reads, with their ``forms``. ``ends``: the last call that
    uses each that ends here. ``exits``: what leaves, (place or -1, bytes, first call); ``left``: its forms, None as it
    came. ``uses``: shared storages by key, with the last call that uses each. ``scores``: of attentions. ``extra``: by
    call.
    """

    n: int
    entered: int
    touched: tuple[int, ...]
    forms: tuple[Form, ...]
    runs: tuple[Run, ...]
    flops: float
    lives: tuple[Life, ...]
    ends: tuple[tuple[int, int], ...]
    exits: tuple[tuple[int, int, int], ...]
    uses: tuple[tuple[Hashable, int], ...]
    scores: tuple[Life, ...]
    extra: tuple[int, ...]
    weights: tuple[tuple[str, int], ...]
    left: tuple[Form | None, ...]


@dataclass
class Linked:
    """Pieces in a row: what a trace holds, without its calls."""

    n: int = 0
    seconds: list[Seconds] = field(default_factory=list)
    flops: float = 0.0
    lives: list[Life] = field(default_factory=list)
    scores: list[Life] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)


def link(pieces: Sequence[Piece], shared: Mapping[Hashable, Shared]) -> Linked:
    """The whole that pieces make, each entered with what the one before leaves."""
    whole = Linked()
    held: list[tuple[int, int]] = []
    common: dict[Hashable, list[int]] = {}
    for piece in pieces:
        start = whole.n
        whole.flops += piece.flops
        whole.extra.extend(piece.extra)
        whole.weights.update(piece.weights)
        for run in piece.runs:
            for key in run.needs:
                if key not in common:
                    _make(key, start + run.at, shared, common, whole)
            whole.seconds.extend(run.seconds)
        for key, last in piece.uses:
            common[key][2] = max(common[key][2], start + last)
        whole.lives.extend([(size, start + first, start + last) for size, first, last in piece.lives])
        whole.scores.extend([(size, start + first, start + last) for size, first, last in piece.scores])
        whole.lives.extend([(*held[place], start + last) for place, last in piece.ends])
        held = [(size, start + first) if place < 0 else held[place] for place, size, first in piece.exits]
        whole.n = start + piece.n
    whole.lives.extend([(size, first, END) for size, first in held])
    whole.lives.extend([(size, first, last) for size, first, last in common.values() if size])
    return whole


def _make(
    key: Hashable, now: int, shared: Mapping[Hashable, Shared], common: dict[Hashable, list[int]], whole: Linked
) -> None:
    made = shared[key]
    common[key] = [made.size, now, now]
    for operand in made.operands:
        common[operand][2] = max(common[operand][2], now)
    whole.seconds.extend(made.seconds)
    whole.flops += made.flops
    whole.weights.update(made.weights)


class SharedCalls:
    """Which calls of a trace are shared: small, and following from weights and the inputs named ``given`` alone."""

    def __init__(self, trace: Trace, given: frozenset[str], most: int) -> None:
        self.keys: dict[fx.Node, Hashable] = {}
        self._most = most
        for call in trace.calls:
            self._look(call.node, given)
        self.calls: dict[Hashable, Shared] = {}
        roots: dict[fx.Node, Hashable] = {}
        storage_of = {node: storage for storage in trace.storages for node in storage.nodes}
        for call in trace.calls:
            if call.node in self.keys:
                self._describe(call, storage_of.get(call.node), roots, trace.weights)
        #: The key of the storage of each shared value that has one.
        self.roots = roots

    def _look(self, node: fx.Node, given: frozenset[str]) -> None:
        sources = list(node.all_input_nodes)
        if ir.is_loop(node) or ir.is_getitem(node) or not any(x in self.keys or x.name in given for x in sources):
            return
        if not all(x in self.keys or x.name in given or x.op == "get_attr" for x in sources):
            return
        if node.target in ir.VIEW_OPS or ir.nbytes(ir.val(node)) <= self._most:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._named)
            self.keys[node] = hash((str(node.target), repr(args), repr(kwargs)))

    def _named(self, node: fx.Node) -> Any:
        return self.keys.get(node, str(node.target))

    def _describe(
        self, call: Call, storage: Storage | None, roots: dict[fx.Node, Hashable], weights: Mapping[str, int]
    ) -> None:
        key, node = self.keys[call.node], call.node
        operands = tuple(dict.fromkeys(roots[x] for x in node.all_input_nodes if x in roots))
        makes = storage is not None and storage.nodes[0] is node
        if storage is not None:
            roots[node] = key if makes else roots[storage.nodes[0]]
        size = storage.size if storage is not None and makes else 0
        self.calls[key] = Shared(call.seconds, call.flops, size, operands, tuple(_weights(call, weights)))

    def needed(self, node: fx.Node) -> Iterator[Hashable]:
        """The shared calls that a call rests on, the first one first."""
        for x in node.all_input_nodes:
            if x in self.keys:
                yield from self.needed(x)
                yield self.keys[x]


def cut_up(trace: Trace, bounds: Sequence[int], shared: SharedCalls) -> list[Piece]:
    """The pieces of a trace between ``bounds``, positions of first calls; ends included."""
    return _Cutter(trace, bounds, shared).run()


class _Cutter:
    def __init__(self, trace: Trace, bounds: Sequence[int], shared: SharedCalls) -> None:
        self.trace, self.shared = trace, shared
        self.bounds = [0, *bounds, len(trace.calls)]
        self.position = {call.node: i for i, call in enumerate(trace.calls)}
        #: Calls that no piece owns take no time of their own: by position, the calls before it that count.
        self.ticks = [0]
        for call in trace.calls:
            self.ticks.append(self.ticks[-1] + (call.node not in shared.keys))
        self.storages = [s for s in trace.storages if any(node not in shared.keys for node in s.nodes)]
        self.storages.sort(key=lambda s: s.first)

    def run(self) -> list[Piece]:
        crossing = [self._crossing(bound) for bound in self.bounds[:-1]]
        crossing.append([s for s in self.storages if s.last == END])
        return [self._piece(k, crossing[k], crossing[k + 1]) for k in range(len(self.bounds) - 1)]

    def _crossing(self, bound: int) -> list[Storage]:
        return [s for s in self.storages if s.first < bound <= s.last]

    def _piece(self, k: int, entry: list[Storage], leaving: list[Storage]) -> Piece:
        begin, end = self.bounds[k], self.bounds[k + 1]
        start = self.ticks[begin]
        place = {id(s): i for i, s in enumerate(entry)}
        touched = [i for i, s in enumerate(entry) if self._touches(s, begin, end)]
        untouched = set(range(len(entry))).difference(touched)
        leaves = {id(s) for s in leaving}
        own = [s for s in self.storages if begin <= s.first < end and id(s) not in leaves]
        calls = [call for call in self.trace.calls[begin:end] if call.node not in self.shared.keys]
        return Piece(
            n=len(calls),
            entered=len(entry),
            touched=tuple(touched),
            forms=tuple(self._form(entry[i], begin) for i in touched),
            runs=tuple(self._runs(calls)),
            flops=sum(call.flops for call in calls),
            lives=tuple(self._lives(own, start)),
            ends=tuple((place[id(s)], self.ticks[s.last] - start) for s in entry if id(s) not in leaves),
            exits=tuple(self._exit(s, place.get(id(s), -1), start) for s in leaving),
            uses=tuple(self._uses(calls)),
            scores=tuple(self._scores(calls)),
            extra=tuple(call.extra for call in calls),
            weights=tuple(pair for call in calls for pair in _weights(call, self.trace.weights)),
            left=tuple(None if place.get(id(s), -1) in untouched else self._form(s, end) for s in leaving),
        )

    def _exit(self, storage: Storage, place: int, start: int) -> tuple[int, int, int]:
        return place, storage.size, 0 if place >= 0 else self.ticks[storage.first] - start

    def _lives(self, storages: Iterable[Storage], start: int) -> Iterator[Life]:
        for s in storages:
            yield s.size, self.ticks[s.first] - start, self.ticks[s.last] - start

    def _scores(self, calls: Sequence[Call]) -> Iterator[Life]:
        for i, call in enumerate(calls):
            if call.scores:
                yield call.scores, i, i

    def _runs(self, calls: Sequence[Call]) -> Iterator[Run]:
        seen: set[Hashable] = set()
        at = 0
        needs: list[Hashable] = []
        seconds: list[Seconds] = []
        for i, call in enumerate(calls):
            new = [key for key in dict.fromkeys(self.shared.needed(call.node)) if key not in seen]
            if new:
                yield Run(at, tuple(needs), tuple(seconds))
                at, needs, seconds = i, new, []
                seen.update(new)
            seconds.extend(call.seconds)
        yield Run(at, tuple(needs), tuple(seconds))

    def _uses(self, calls: Sequence[Call]) -> Iterator[tuple[Hashable, int]]:
        last: dict[Hashable, int] = {}
        for i, call in enumerate(calls):
            last |= {self.shared.roots[x]: i for x in call.node.all_input_nodes if x in self.shared.roots}
        yield from last.items()

    def _touches(self, storage: Storage, begin: int, end: int) -> bool:
        users = (user for node in storage.nodes for user in node.users)
        return any(begin <= self.position.get(node, -1) < end for node in (*storage.nodes, *users))

    def _form(self, storage: Storage, bound: int) -> Form:
        """A storage at a cut: what of it is made before, and read after."""
        end = len(self.trace.calls)
        before = (node for node in storage.nodes if self.position[node] < bound)
        read = (node for node in before if any(self.position.get(user, end) >= bound for user in node.users))
        return storage.size, tuple(sorted(_lies(ir.val(node)) for node in read))


def _lies(value: Any) -> tuple[tuple[int, ...], tuple[int, ...], str, int]:
    if not isinstance(value, torch.Tensor):
        raise InternalError(f"a value that crosses a cut is a {type(value).__name__}")
    return tuple(value.shape), tuple(value.stride()), str(value.dtype), int(value.storage_offset())


def _weights(call: Call, sizes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The weights that a call reads, and their bytes."""
    stack = list(call.node.all_input_nodes)
    while stack:
        x = stack.pop()
        if x.op == "get_attr":
            yield str(x.target), sizes[str(x.target)]
        elif alias_base(x) is not None:
            stack.extend(x.all_input_nodes)
