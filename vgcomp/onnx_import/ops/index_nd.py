"""GatherND and ScatterND with known indices: exporters write strided copies and upsampling with them."""

from __future__ import annotations

import math

import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.values import Constant, Value

aten = torch.ops.aten

TABLE = Table()

_UPSAMPLE = {1: aten.upsample_nearest1d.vec, 2: aten.upsample_nearest2d.vec, 3: aten.upsample_nearest3d.vec}


@TABLE("GatherND")
def _gather_nd(op: Op) -> Value:
    """Indices that form a grid pick along each leading dim; others pick rows of the flattened leading dims."""
    if op.attr_int("batch_dims"):
        raise ModelError("its batch_dims are not supported")
    x, where = op[0], op.known(1)
    depth = where.shape[-1]
    lead = x.shape[:depth]
    where = torch.where(where < 0, where + torch.tensor(lead), where)
    grid = _grid(where) if where.dim() == depth + 1 else None
    if grid is not None:
        return _gather_grid(op, x, grid)
    rows = op.b.reshape(x, [math.prod(lead), *x.shape[depth:]])
    picked = op.b.call(aten.index_select.default, rows, 0, Constant(_flat(where, lead)))
    return op.b.reshape(picked, [*where.shape[:-1], *x.shape[depth:]])


def _grid(where: torch.Tensor) -> list[list[int]] | None:
    """The index list of each dim, if coordinate i changes along dim i alone."""
    picks = []
    for i in range(where.shape[-1]):
        first = where[..., i].movedim(i, -1).reshape(-1, where.shape[i])
        if not bool((first == first[0]).all()):
            return None
        picks.append([int(n) for n in first[0].tolist()])
    return picks


def _gather_grid(op: Op, x: Value, picks: list[list[int]]) -> Value:
    """Nearest upsampling, in torch's order of dims, where it is that; a selection a dim elsewhere."""
    depth, rank = len(picks), len(x.shape)
    nearest = all(pick == [i * n // len(pick) for i in range(len(pick))] for n, pick in zip(x.shape, picks))
    if nearest and rank == depth + 2 and depth in _UPSAMPLE:
        last = op.b.permute(x, [depth, depth + 1, *range(depth)])
        grown = op.b.call(_UPSAMPLE[depth], last, [len(pick) for pick in picks], None)
        return op.b.permute(grown, [*range(2, rank), 0, 1])
    for dim, pick in enumerate(picks):
        x = op.b.call(aten.index_select.default, x, dim, Constant(torch.tensor(pick, dtype=torch.int64)))
    return x


def _flat(where: torch.Tensor, lead: tuple[int, ...]) -> torch.Tensor:
    """Row numbers of coordinates in a row-major array of shape ``lead``."""
    strides = torch.tensor([math.prod(lead[i + 1 :]) for i in range(len(lead))], dtype=torch.int64)
    return (where.reshape(-1, len(lead)) * strides).sum(-1)


@TABLE("ScatterND")
def _scatter_nd(op: Op) -> Value:
    """Rows replaced by updates: a join of slices where they are evenly spaced, a selection elsewhere."""
    if op.attr_str("reduction", "none") != "none":
        raise ModelError("its reduction is not supported")
    x, where, updates = op[0], op.known(1), op[2]
    depth = where.shape[-1]
    lead, rest = x.shape[:depth], x.shape[depth:]
    rows = _flat(torch.where(where < 0, where + torch.tensor(lead), where), lead).tolist()
    total = math.prod(lead)
    table = op.b.reshape(x, [total, *rest])
    new = op.b.reshape(updates, [len(rows), *rest])
    evenly = _even_rows(rows, total)
    if evenly is not None:
        return op.b.reshape(_interleaved(op, table, new, *evenly), x.shape)
    order = list(range(total))
    for place, row in enumerate(rows):
        order[row] = total + place
    picked = op.b.call(
        aten.index_select.default, op.b.cat([table, new], 0), 0, Constant(torch.tensor(order, dtype=torch.int64))
    )
    return op.b.reshape(picked, x.shape)


def _even_rows(rows: list[int], total: int) -> tuple[int, int, int] | None:
    """(blocks, start, width): of each of ``blocks`` equal blocks of rows, ``width`` are replaced from ``start`` on."""
    if not rows:
        return None
    width = 1
    while width < len(rows) and rows[width] == rows[width - 1] + 1:
        width += 1
    if len(rows) % width:
        return None
    blocks = len(rows) // width
    size = total // blocks
    start = rows[0]
    wanted = [block * size + start + i for block in range(blocks) for i in range(width)]
    return (blocks, start, width) if total % blocks == 0 and start + width <= size and rows == wanted else None


def _interleaved(op: Op, table: Value, new: Value, blocks: int, start: int, width: int) -> Value:
    rest = table.shape[1:]
    size = table.shape[0] // blocks
    split = op.b.reshape(table, [blocks, size, *rest])
    parts = [
        op.b.slice(split, 1, 0, start),
        op.b.reshape(new, [blocks, width, *rest]),
        op.b.slice(split, 1, start + width, size),
    ]
    return op.b.cat([part for part in parts if part.shape[1]], 1)
