"""Candidates' programs at one stage of the pipeline, in pieces: what one has shown serves all that have it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

from vgcomp.compiled_cost.cuts import Cut, NotLocal, Walk, bounds, find_cuts, first_change, shortened, walk_of
from vgcomp.compiled_cost.pieces import Form, Linked, Piece, Shared, SharedCalls, cut_up, link
from vgcomp.compiled_cost.trace import Trace
from vgcomp.space import Candidate, Option

#: Where in the network, and the options of the choices that act there.
_Key = tuple[int, tuple[Option, ...]]
#: How many storages enter, and the places of those that a piece touches.
_Seen = tuple[int, tuple[int, ...]]


class Memo:
    """Pieces of one stage. ``given``: the inputs from which small values are shared; ``most``: bytes of the largest."""

    def __init__(self, given: frozenset[str], most: int) -> None:
        self._given, self._most = given, most
        self._cuts: tuple[Cut, ...] = ()
        #: By forms of the touched storages.
        self._pieces: dict[_Key, dict[_Seen, dict[tuple[int, ...], Piece]]] = {}
        self._shared: dict[Hashable, Shared] = {}
        self._numbers: dict[Form, int] = {}

    def begin(self, base: Trace, others: dict[int, Sequence[Trace]]) -> None:
        """Finds the cuts, or raises NotLocal. ``others``: traces that differ from the base in one choice, by number."""
        walks = {choice: [self._walk(trace) for trace in traces] for choice, traces in others.items()}
        self._cuts = find_cuts(self._walk(base), walks)

    def learn(self, candidate: Candidate, trace: Trace) -> None:
        """Takes a candidate's program in. Raises NotLocal where it contradicts what is known."""
        walk = self._walk(trace)
        cuts = shortened(self._cuts, walk)
        if cuts != self._cuts:
            self._pieces.clear()  # they end elsewhere
            self._cuts = cuts
        shared = SharedCalls(trace, self._given, self._most)
        self._shared |= shared.calls
        for k, piece in enumerate(cut_up(trace, bounds(cuts, walk), shared)):
            seen = self._pieces.setdefault((k, self._options(k, candidate)), {})
            known = seen.setdefault((piece.entered, piece.touched), {})
            if known.setdefault(tuple(map(self._number, piece.forms)), piece) != piece:
                raise NotLocal(f"choices elsewhere change what candidates have at {self._named(k, candidate)}")

    def whole(self, candidate: Candidate) -> Linked | None:
        """The candidate's program, linked of pieces; None where one is not known."""
        found: list[Piece] = []
        entry: tuple[int, ...] = ()
        for k in range(len(self._cuts) + 1):
            piece = self._piece(k, candidate, entry)
            if piece is None:
                return None
            found.append(piece)
            entry = tuple(self._left(piece, entry))
        return link(found, self._shared)

    def _piece(self, k: int, candidate: Candidate, entry: tuple[int, ...]) -> Piece | None:
        for (entered, touched), known in self._pieces.get((k, self._options(k, candidate)), {}).items():
            piece = known.get(tuple(entry[place] for place in touched)) if entered == len(entry) else None
            if piece is not None:
                return piece
        return None

    def _left(self, piece: Piece, entry: tuple[int, ...]) -> Iterator[int]:
        for (place, _, _), form in zip(piece.exits, piece.left, strict=True):
            yield entry[place] if form is None else self._number(form)

    def places(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Each choice's number, and the shape of what the call before its place makes."""
        for cut in self._cuts:
            shape = (cut.tail or (cut.anchor,))[-1][2]
            yield from ((choice, shape) for choice in cut.choices)

    def __len__(self) -> int:
        return sum(len(known) for seen in self._pieces.values() for known in seen.values())

    def _walk(self, trace: Trace) -> Walk:
        return walk_of(trace, frozenset(SharedCalls(trace, self._given, self._most).keys))

    def _options(self, k: int, candidate: Candidate) -> tuple[Option, ...]:
        return tuple(candidate[choice] for choice in self._cuts[k - 1].choices) if k else ()

    def _named(self, k: int, candidate: Candidate) -> str:
        return ", ".join(map(str, self._options(k, candidate))) or "their beginning"

    def _number(self, form: Form) -> int:
        return self._numbers.setdefault(form, len(self._numbers))


def conditioning(base: Trace, others: Iterable[Trace]) -> frozenset[str]:
    """The inputs that are read where choices act or later: all but those that the network's beginning alone reads."""
    walk = walk_of(base)
    first = min(first_change(walk, walk_of(other)) for other in others)
    begin = walk.positions[first] if first < len(walk.positions) else len(base.calls)
    read = (x for call in base.calls[begin:] for x in call.node.all_input_nodes)
    return frozenset(x.name for x in read if x.op == "placeholder")
