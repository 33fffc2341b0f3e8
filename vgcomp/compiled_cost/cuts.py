"""Where the choices of a space act in its networks: the calls before which one choice's part begins.

Found by comparing programs, not by names: the base candidate and one that differs in a single choice make the same
calls up to where that choice acts. A cut is told again in any other candidate by the last call before it that reads a
weight of its own, and the calls from there to the cut.

Raises :class:`NotLocal` where candidates differ otherwise: choices that change the whole network (its widths, its
resolution) have no place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from vgcomp import ir
from vgcomp.compiled_cost.trace import Trace
from vgcomp.errors import VgcompError
from vgcomp.loops import alias_base

#: A call by what it does: op, weights by name, shape of the result.
Token = tuple[str, tuple[str, ...], tuple[int, ...]]


class NotLocal(VgcompError):
    """Candidates are not the same network with parts exchanged."""


@dataclass(frozen=True)
class Cut:
    """Right after ``tail``, the calls that follow the anchor, or right before ``lead``, those that it follows.

    ``choices``: the numbers of those that act here.
    """

    choices: tuple[int, ...]
    anchor: Token
    tail: tuple[Token, ...] = ()
    lead: tuple[Token, ...] = ()
    before: bool = False


@dataclass(frozen=True)
class Walk:
    """The calls of a trace by position in it. Views and copies are left out: which it is to be depends on how a value
    lies in memory, and that on parts far before."""

    positions: tuple[int, ...]
    tokens: tuple[Token, ...]


def walk_of(trace: Trace, left_out: frozenset[fx.Node] = frozenset()) -> Walk:
    """The walk of a trace without loops."""
    positions: list[int] = []
    tokens: list[Token] = []
    for i, call in enumerate(trace.calls):
        node = call.node
        if node in left_out or node.target in ir.VIEW_OPS or node.target is ir.aten.clone.default:
            continue
        read = tuple(name for x in node.all_input_nodes for name in _names(x))
        positions.append(i)
        tokens.append((str(node.target), read, _shape(node)))
    return Walk(tuple(positions), tuple(tokens))


def find_cuts(base: Walk, others: Mapping[int, Sequence[Walk]]) -> tuple[Cut, ...]:
    """The cuts in the order of the calls. ``others``: walks that differ from the base in one choice, by its number.

    Raises NotLocal where the parts of the network that two choices change overlap, or nothing tells them apart.
    """
    spans: dict[tuple[int, int], list[int]] = {}
    for choice, walks in others.items():
        changed = [_changed(base, other) for other in walks]
        span = min(begin for begin, _ in changed), max(end for _, end in changed)
        spans.setdefault(span, []).append(choice)
    found: list[Cut] = []
    after = 0
    order = sorted(spans)
    for (begin, end), (following, _) in zip(order, [*order[1:], (len(base.tokens), 0)], strict=True):
        if begin < after or following < end:
            raise NotLocal("the parts of the network that two choices change overlap")
        found.append(_cut(base, after, begin, tuple(spans[begin, end])))
        found.extend(_resumed(base, end, following))
        after = end
    return tuple(found)


def _changed(base: Walk, other: Walk) -> tuple[int, int]:
    """The calls of the base from the first that the other walk has not, through the last."""
    a, b = base.tokens, other.tokens
    shorter, begin = min(len(a), len(b)), first_change(base, other)
    same = next((i for i in range(shorter - begin) if a[-1 - i] != b[-1 - i]), shorter - begin)
    return begin, len(a) - same


def first_change(base: Walk, other: Walk) -> int:
    """How many calls come before the first that differs."""
    return _alike(base.tokens, other.tokens)


def _cut(base: Walk, after: int, begin: int, choices: tuple[int, ...]) -> Cut:
    for at in range(begin - 1, after - 1, -1):
        if _is_anchor(base, at):
            return Cut(choices, base.tokens[at], base.tokens[at + 1 : begin])
    raise NotLocal("nothing before a choice's place tells it from others")


def _resumed(base: Walk, begin: int, end: int) -> Iterator[Cut]:
    """Cuts around the first calls that all candidates have again after the place, through the first with a weight.

    What is made from there on seldom depends on how the choice's part left its result in memory.
    """
    at = next((at for at in range(begin, end - 1) if _is_anchor(base, at)), None)
    if at is not None:
        yield Cut((), base.tokens[at], lead=base.tokens[begin:at], before=True)
        yield Cut((), base.tokens[at])


def _is_anchor(base: Walk, at: int) -> bool:
    """True for a call with a weight that no other call reads in the same way."""
    return bool(base.tokens[at][1]) and base.tokens.count(base.tokens[at]) == 1


def shortened(cuts: Sequence[Cut], walk: Walk) -> tuple[Cut, ...]:
    """The cuts, moved back to where this walk still does what all others do before its part."""
    found = []
    for cut in cuts:
        at = _anchor(cut, walk)
        tail = _alike(cut.tail, walk.tokens[at + 1 :])
        lead = _alike(cut.lead[::-1], walk.tokens[:at][::-1])
        found.append(replace(cut, tail=cut.tail[:tail], lead=cut.lead[len(cut.lead) - lead :]))
    return tuple(found)


def bounds(cuts: Sequence[Cut], walk: Walk) -> list[int]:
    """The position in the trace of the first call after each cut."""
    found = [_bound(cut, walk) for cut in cuts]
    if sorted(found) != found:
        raise NotLocal("the choices' places come in another order")
    return found


def _bound(cut: Cut, walk: Walk) -> int:
    at = _anchor(cut, walk)
    return walk.positions[at - len(cut.lead)] if cut.before else walk.positions[at + len(cut.tail)] + 1


def _alike(a: Sequence[Token], b: Sequence[Token]) -> int:
    """How many tokens both begin with."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _anchor(cut: Cut, walk: Walk) -> int:
    try:
        return walk.tokens.index(cut.anchor)
    except ValueError:
        raise NotLocal(f"a candidate has no {cut.anchor[0]} of {', '.join(cut.anchor[1])}") from None


def _names(node: fx.Node) -> tuple[str, ...]:
    """The weights that a value is, or is a view of."""
    while alias_base(node) is not None and "reuse" not in node.meta:
        node = node.all_input_nodes[0]
    return (str(node.target),) if node.op == "get_attr" else ()


def _shape(node: fx.Node) -> tuple[int, ...]:
    value: Any = ir.val(node)
    return tuple(value.shape) if hasattr(value, "shape") else ()
