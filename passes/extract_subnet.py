"""``extract-subnet``: the subnet of a supernet that a choice names, with its weights cut out of the supernet's.

Given (``width`` marks axis 0 of ``w0``; ``block`` marks the way from ``x`` to ``y``)::

    %x = convolution(%in, %w0, %b0)              # [1, 64, 8, 8]
    %n = group_norm(%x, 8, %g, %h)
    %y = add(%x, convolution(%n, %w1, %b1))
    %z = convolution(%y, %w2, %b2)

results, for ``choice=width=48+block=all``::

    %x = convolution(%in, %w0, %b0)              # [1, 48, 8, 8]; w0 and b0 have 48 of their rows left
    %n = group_norm(%x, 8, %g, %h)
    %y = add(%x, convolution(%n, %w1, %b1))      # w1 has 48 rows of 48 channels: nobody had to mark it
    %z = convolution(%y, %w2, %b2)

and for ``choice=width=48+block=skip`` ``%z`` reads ``%x``. What is not marked follows from the ops: through norms,
sums, concatenations, splits, heads of attention and reshapes (:mod:`vgcomp.elastic`). Exact against the supernet that
is run with the same choice, on its active channels alone; against the supernet run whole it is another network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vgcomp.elastic import Marks, extract, marks_of
from vgcomp.elastic.extract import SUBNET
from vgcomp.errors import UsageError
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.space import Option


@dataclass(frozen=True)
class ExtractSubnet:
    """See the module's text.

    ``choice``: a JSON file of options by choice, or ``name=option`` with ``+`` between; none for no change. ``marks``:
    a JSON file of the supernet's marks; by default those that the program carries. Raises UsageError for a file that
    cannot be read, for options that are not the supernet's, and for widths that do not go together.
    """

    name: ClassVar[str] = "extract-subnet"
    equivalence: ClassVar[Equivalence] = "exact"

    choice: str = ""
    marks: str = ""

    def run(self, program: Program, context: PassContext) -> PassResult:
        if not self.choice:
            return self._unchanged(program, "no choice is given: choice=FILE.json, or choice=width.0=48+block.1=skip")
        named = read_choice(self.choice)
        if program.notes.get(SUBNET) == json.dumps(named):
            return self._unchanged(program, "it is the subnet of this choice already")
        marks = Marks.from_json(_read(self.marks)) if self.marks else marks_of(program)
        if marks is None:
            raise UsageError(f"{program.name} carries no marks of what a choice decides: give them by marks=FILE.json")
        subnet = extract(program, marks, named)
        stats = {
            "removed_nodes": program.n_nodes - subnet.n_nodes,
            "parameters": subnet.parameters(),
            "of_parameters": program.parameters(),
        }
        return PassResult(subnet, True, stats, new_network=True)

    def _unchanged(self, program: Program, reason: str) -> PassResult:
        return PassResult(program, False, {}, (Explanation(program.name, self.name, reason),))


def read_choice(text: str) -> Mapping[str, Option]:
    """Options by choice, from a JSON file or from ``name=option+name=option``. Raises UsageError for neither."""
    if text.endswith(".json"):
        return _from_json(text)
    named: dict[str, Option] = {}
    for item in filter(None, (piece.strip() for piece in text.split("+"))):
        name, equals, option = item.partition("=")
        if not equals or name.strip() in named:
            raise UsageError(f"choice {item!r}: write name=option once for each, with + between")
        named[name.strip()] = option.strip()
    return named


def _from_json(path: str) -> Mapping[str, Option]:
    try:
        raw = json.loads(_read(path))
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}") from error
    if not isinstance(raw, dict) or any(isinstance(o, bool) or not isinstance(o, int | str) for o in raw.values()):
        raise UsageError(f"{path} is no choice: write an object of options by name, such as {{'width.0': 48}}")
    return raw


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
