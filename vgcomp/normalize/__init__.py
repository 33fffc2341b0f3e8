"""The canonical spelling: a table from each exported op to the function that rewrites it."""

from __future__ import annotations

from vgcomp.normalize import contractions, mutation, pointwise, reductions, resample, views
from vgcomp.normalize.builder import CONSTANT_LIMIT_BYTES, Builder, Value
from vgcomp.normalize.call import Call, Handler, Table

#: Every op that capture understands.
TABLE: Table = {
    **views.TABLE,
    **pointwise.TABLE,
    **contractions.TABLE,
    **reductions.TABLE,
    **resample.TABLE,
    **mutation.TABLE,
}

__all__ = ["CONSTANT_LIMIT_BYTES", "TABLE", "Builder", "Call", "Handler", "Table", "Value"]
