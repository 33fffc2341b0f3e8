"""Emitters by operator, one module a family."""

from __future__ import annotations

from vgcomp.onnx_import.op import Emitter
from vgcomp.onnx_import.ops import (
    attention,
    constants,
    conv,
    elementwise,
    index,
    index_nd,
    layout,
    linalg,
    norm,
    reduce,
    resize,
)

_FAMILIES = (elementwise, layout, constants, index, index_nd, reduce, linalg, conv, resize, norm, attention)

#: Operators of the standard domain.
EMITTERS: dict[str, Emitter] = {name: emit for family in _FAMILIES for name, emit in family.TABLE.emitters.items()}
