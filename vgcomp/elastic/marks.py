"""Marks: what a supernet's choices decide about its graph, as data, kept as JSON beside a Program or in it.

An axis is marked where a choice decides it; axes that must agree with it need no mark, as they are found. Names are
those of the Program's weights and nodes, as ``Program.text()`` shows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import fx

from vgcomp.errors import UsageError
from vgcomp.program import Program
from vgcomp.space import Option

SCHEMA = "vgcomp.marks/1"
#: Where a Program keeps its marks, among its notes.
NOTE = "vgcomp.marks"


@dataclass(frozen=True)
class AxisMark:
    """Axis ``axis`` of the weight or value ``of`` is as long as ``choice`` says.

    ``extents``: the elements that are kept for each option (as text). ``repeat``: the axis is so many equal parts, one
    after the other, and the first elements of each are kept; the halves of a gated layer are two.
    """

    of: str
    axis: int
    choice: str
    extents: Mapping[str, int]
    repeat: int = 1


@dataclass(frozen=True)
class BlockMark:
    """Options of ``choice`` in ``removed`` take a block away: who reads its ``output`` reads its ``input``."""

    choice: str
    removed: tuple[str, ...]
    output: str
    input: str


@dataclass(frozen=True)
class Marks:
    """All marks of a supernet. ``elsewhere``: choices that are not the graph's, such as the resolution."""

    axes: tuple[AxisMark, ...] = ()
    blocks: tuple[BlockMark, ...] = ()
    elsewhere: tuple[str, ...] = ()

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of the choices that decide something here, each once."""
        found = [mark.choice for mark in self.axes] + [mark.choice for mark in self.blocks]
        return tuple(dict.fromkeys(found))

    @property
    def names(self) -> frozenset[str]:
        """Names of all that is marked."""
        ends = (name for mark in self.blocks for name in (mark.output, mark.input))
        return frozenset((*(mark.of for mark in self.axes), *ends))

    def checked(self, named: Mapping[str, Option]) -> dict[str, str]:
        """The options as text. Raises UsageError for a choice left out or unknown, or an option without an extent."""
        unknown = [name for name in named if name not in self.choices and name not in self.elsewhere]
        missing = [name for name in self.choices if name not in named]
        if unknown or missing:
            what = f"has no choice {unknown[0]!r}" if unknown else f"wants an option for {missing[0]!r}"
            raise UsageError(f"the supernet {what}; its choices are {', '.join(self.choices)}")
        options = {name: str(named[name]) for name in self.choices}
        for mark in self.axes:
            if options[mark.choice] not in mark.extents:
                known = ", ".join(mark.extents)
                raise UsageError(f"choice {mark.choice!r} is one of {known}: not {options[mark.choice]}")
        return options

    def to_json(self) -> str:
        """The marks as JSON, one a line; :meth:`from_json` reads it."""
        parts = {"schema": json.dumps(SCHEMA), "elsewhere": json.dumps(self.elsewhere)}
        for name, marks in (("axes", self.axes), ("blocks", self.blocks)):
            parts[name] = "[\n" + ",\n".join(json.dumps(asdict(mark)) for mark in marks) + "\n]"
        return "{\n" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "\n}\n"

    @staticmethod
    def from_json(text: str) -> Marks:
        """Reads :meth:`to_json`. Raises UsageError on anything else."""
        try:
            raw = json.loads(text)
            if raw["schema"] != SCHEMA:
                raise ValueError(f"schema {raw['schema']!r}")
            axes = tuple(_axis(item) for item in raw["axes"])
            blocks = tuple(
                BlockMark(str(b["choice"]), tuple(map(str, b["removed"])), str(b["output"]), str(b["input"]))
                for b in raw["blocks"]
            )
            return Marks(axes, blocks, tuple(map(str, raw.get("elsewhere", ()))))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"not a supernet's marks: {error!r}; `Marks.to_json` writes them") from error

    def renamed(self, names: Mapping[str, str]) -> Marks:
        """The marks of the same network under other names. Raises UsageError for a mark on what has no other name."""
        lost = sorted(self.names - names.keys())
        if lost:
            raise UsageError(f"{lost[0]!r} is marked but is no weight or value here: mark another of its width")
        axes = (replace(m, of=names[m.of]) for m in self.axes)
        blocks = (replace(m, output=names[m.output], input=names[m.input]) for m in self.blocks)
        return Marks(tuple(axes), tuple(blocks), self.elsewhere)


def _axis(item: Any) -> AxisMark:
    extents = {str(option): int(extent) for option, extent in item["extents"].items()}
    return AxisMark(str(item["of"]), int(item["axis"]), str(item["choice"]), extents, int(item.get("repeat", 1)))


def with_marks(program: Program, marks: Marks) -> Program:
    """The program with its marks among its notes. Raises UsageError for a mark on what it does not have."""
    check_marks(program, marks)
    return replace(program, notes={**program.notes, NOTE: marks.to_json()})


def marks_of(program: Program) -> Marks | None:
    """The marks among a program's notes, None if it has none."""
    text = program.notes.get(NOTE)
    return None if text is None else Marks.from_json(text)


def check_marks(program: Program, marks: Marks) -> None:
    """Raises UsageError for a mark on what the program does not have, or has no more."""
    for what in _wrong(program, marks):
        raise UsageError(
            f"{program.name}: {what}; marks name weights and nodes as the program's text has them, before other passes"
        )


def _wrong(program: Program, marks: Marks) -> Iterator[str]:
    """What marks say that cannot be."""
    shapes = {node.name: tuple(node.meta["val"].shape) for node in program.graph.nodes if _is_tensor(node)}
    shapes |= {name: weight.shape for name, weight in program.weights.items()}
    for mark in marks.axes:
        shape = shapes.get(mark.of)
        if shape is None or not 0 <= mark.axis < len(shape):
            yield f"it has no {mark.of!r}" + ("" if shape is None else f" with an axis {mark.axis}")
            continue
        part, rest = divmod(shape[mark.axis], mark.repeat)
        if rest or any(not 0 < extent <= part for extent in mark.extents.values()):
            yield f"axis {mark.axis} of {mark.of!r} has {shape[mark.axis]} elements, which {mark.choice!r} exceeds"
    for block in marks.blocks:
        absent = [name for name in (block.output, block.input) if name not in shapes]
        yield from (f"it has no {name!r}" for name in absent)
        if not absent and shapes[block.output] != shapes[block.input]:
            yield f"a block from {block.input!r} to {block.output!r} changes the shape, so it cannot go"


def _is_tensor(node: fx.Node) -> bool:
    return node.op != "get_attr" and hasattr(node.meta.get("val"), "shape")
