"""Subnets of a supernet, from its graph alone: marks say which axes and blocks a choice decides, the rest follows.

program = with_marks(load("supernet.onnx"), Marks.from_json(text))
subnet = extract(program, marks_of(program), {"width.0": 48, "block.1": "skip"})
"""

from __future__ import annotations

from vgcomp.elastic.extract import extract
from vgcomp.elastic.marks import AxisMark, BlockMark, Marks, marks_of, with_marks

__all__ = ["AxisMark", "BlockMark", "Marks", "extract", "marks_of", "with_marks"]
