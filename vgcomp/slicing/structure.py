"""What repeats: a token an op, such that equal runs of tokens mean the same computation on other values.

Regions grown backwards from two ends pass through the same states as long as the ops that they take in are alike:
the same calls on operands of the same form, connected in the same way. A network of 30 equal blocks is grown
through once and not 30 times.

A token names an operand by how far after the op it was read last ("3 ops on, the second operand") and not by the node:
so do parameterised suffix trees (Baker, 1993). A mention beyond the region's end counts as none, so an op's
token depends on its distance from the end, and takes only a handful of values over all distances.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import fx

from vgcomp.slicing.inner import comes_scattered
from vgcomp.slicing.problem import Problem

#: (how far after the op, where in the op that is there); an operand's position, -1 for an op's own value.
_Mention = tuple[int, int]
_OWN = -1
#: Farther than any end.
_NEVER = (1 << 40, 0)


class Structure:
    """The tokens of one problem's ops."""

    def __init__(self, problem: Problem) -> None:
        self._numbers: dict[Hashable, int] = {}
        #: By op: distances at which its token changes, and the tokens between them.
        self._changes: list[list[int]] = []
        self._tokens: list[list[int]] = []
        for kind, mentions in reversed([*_described(problem)]):
            self._add(kind, mentions)

    def token(self, i: int, depth: int) -> int:
        """The token of op i in a region that ends ``depth`` ops after it."""
        return self._tokens[i][bisect_right(self._changes[i], depth)]

    def _add(self, kind: Hashable, mentions: tuple[_Mention, ...]) -> None:
        changes = sorted({distance for distance, _ in mentions if distance < _NEVER[0]})
        tokens = []
        for depth in [0, *changes]:
            seen = tuple(m if m[0] <= depth else None for m in mentions)
            tokens.append(self._numbers.setdefault((kind, seen), len(self._numbers)))
        self._changes.append(changes)
        self._tokens.append(tokens)


def _described(problem: Problem) -> Iterator[tuple[Hashable, tuple[_Mention, ...]]]:
    """For each op, last first: what it is by itself, and when its values and their buffers are mentioned next."""
    after: dict[object, tuple[int, int]] = {}

    def mention(key: object, i: int) -> _Mention:
        found = after.get(key)
        return _NEVER if found is None else (found[0] - i, found[1])

    for i in range(problem.n - 1, -1, -1):
        node = problem.nodes[i]
        operands = problem.amap.operands(node)
        values: list[fx.Node] = [node, *operands]
        buffers = [id(problem.buffer.get(x)) for x in values]
        mentions: list[_Mention] = []
        for x, buffer in zip(values, buffers, strict=True):
            mentions += (mention(x, i), mention(buffer, i), _last_use(problem, buffer, i))
        # Repeats within the op: the same value or buffer twice.
        same = tuple((values.index(x), buffers.index(b)) for x, b in zip(values, buffers, strict=True))
        form = tuple(_form(problem, x) for x in values)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: _OPERAND)
        call = (node.target, _frozen(args), _frozen(kwargs))
        yield (call, same, form, problem.is_view[i], problem.works[i]), tuple(mentions)
        for k in range(len(values) - 1, -1, -1):
            after[values[k]] = after[buffers[k]] = (i, k + _OWN)


_OPERAND = "operand"


def _last_use(problem: Problem, buffer: int, i: int) -> _Mention:
    last = problem.last.get(buffer)
    return _NEVER if last is None else (max(0, last - i), 0)


def _form(problem: Problem, x: fx.Node) -> Hashable:
    """What a value looks like, whichever it is."""
    value, buffer = x.meta["val"], problem.buffer.get(x)
    if not isinstance(value, torch.Tensor):
        return None
    storage = None if buffer is None else (buffer.kind, buffer.size)
    return (comes_scattered(x), x.op, value.shape, value.stride(), value.dtype, value.storage_offset(), storage)


def _frozen(arg: Any) -> Hashable:
    """An argument as something hashable; 1, 1.0 and True are three."""
    if isinstance(arg, (list, tuple)):
        return tuple(_frozen(item) for item in arg)
    if isinstance(arg, dict):
        return tuple((name, _frozen(item)) for name, item in arg.items())
    return (type(arg), arg)
