"""Matrix products and convolutions for GPUs, written with their threads.

A block of threads computes a tile of the result: tiles of both operands go through shared memory a slice of the depth
at a time, the next slice being read into registers while the present one is multiplied. A convolution is the product
of its filters and the windows of its input, which exist in shared memory only. The 16-bit floats use the matrix units
(16x16x16, fp32 accumulation) on CUDA; everything else multiplies in registers, 4x4 elements a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vgcomp.backends.tvm.contraction import Contraction, unravelled
from vgcomp.backends.tvm.kernel import Kernel, Store
from vgcomp.backends.tvm.registry import DTYPES, Operand, opmath

#: Side of a matrix unit's fragment, and threads that work on one together.
_FRAGMENT, _WARP = 16, 32
#: Elements between the rows of a tile that keep threads off each other's banks.
_PAD = 8
#: Blocks that fill a large device; with fewer, smaller tiles are better.
_FILL = 216


@dataclass(frozen=True)
class Tile:
    """What a block of threads computes: ``rows`` x ``columns`` elements, ``depth`` at a time."""

    rows: int
    columns: int
    depth: int
    threads: int

    def blocks(self, rows: int, columns: int) -> tuple[int, int]:
        """Tiles down and across."""
        return -(-rows // self.rows), -(-columns // self.columns)


def gemm(kernel: Kernel, problem: Contraction) -> Operand:
    """The sums of ``problem``, read once, at the index that the kernel stores."""
    if kernel.innermost in problem.rows:
        # Columns are what neighbouring threads store.
        problem = problem.turned()
    units = kernel.device == "cuda" and problem.dtype in (torch.float16, torch.bfloat16)
    writer = _Units(kernel, problem) if units else _Registers(kernel, problem)
    kernel.body, kernel.family = writer.write, "bound"
    return Operand(problem.shape, opmath(problem.dtype), lambda *_: writer.value)


class _Gemm:
    """A kernel under construction: what both ways of multiplying share."""

    tile: Tile
    #: Order of the tiles' dimensions in shared memory: depth outside or inside.
    depth_inside: bool

    def __init__(self, kernel: Kernel, problem: Contraction) -> None:
        self.kernel, self.problem = kernel, problem
        self.batches, self.rows, self.columns, self.depth = problem.sizes
        self.dtype, self.wide = DTYPES[problem.dtype], DTYPES[opmath(problem.dtype)]
        #: The element of the result that is being stored.
        self.value: Any = None

    def write(self, store: Store) -> None:
        """The whole kernel: threads, the loop over the depth, the store."""
        from tvm.script.ir_builder import tirx as T

        tile = self.tile
        down, across = tile.blocks(self.rows, self.columns)
        with (
            T.launch_thread("blockIdx.x", self.batches * down * across) as block,
            T.launch_thread("threadIdx.x", tile.threads) as thread,
        ):
            # Blocks that run together share the operand with fewer tiles.
            fast, slow = (down, across) if down <= across else (across, down)
            first, second = block % fast, block // fast % slow
            down_at, across_at = (first, second) if down <= across else (second, first)
            self.batch = block // (fast * slow)
            self.row, self.column, self.thread = down_at * tile.rows, across_at * tile.columns, thread
            self.left = _Side(self, "left")
            self.right = _Side(self, "right")
            self.start()
            self._depths()
            self.finish(store)

    def _depths(self) -> None:
        from tvm.script.ir_builder import tirx as T

        slices = -(-self.depth // self.tile.depth)
        for side in (self.left, self.right):
            side.fetch(0)
        with T.serial(slices) as step:
            sync()
            for side in (self.left, self.right):
                side.spill()
            sync()
            with T.If(step + 1 < slices), T.Then():
                for side in (self.left, self.right):
                    side.fetch((step + 1) * self.tile.depth)
            self.multiply()

    def index(self, row: Any, column: Any) -> list[Any]:
        """The result's index of an element in the matrix."""
        problem = self.problem
        index: list[Any] = [0] * len(problem.shape)
        for dims, position in ((problem.batch, self.batch), (problem.rows, row), (problem.columns, column)):
            for d, i in zip(dims, unravelled(position, [problem.shape[d] for d in dims]), strict=True):
                index[d] = i
        return index

    def put(self, store: Store, row: Any, column: Any, value: Any) -> None:
        """Stores an element if it lies in the result."""
        from tvm.script.ir_builder import tirx as T

        checks = bounds((row, self.rows, self.tile.rows), (column, self.columns, self.tile.columns))
        self.value = value
        if checks is None:
            store(self.index(row, column))
            return
        with T.If(checks), T.Then():
            store(self.index(row, column))

    def start(self) -> None:
        """Declares the accumulators and clears them."""
        raise NotImplementedError

    def multiply(self) -> None:
        """Adds the products of the tiles that are in shared memory."""
        raise NotImplementedError

    def finish(self, store: Store) -> None:
        """Stores the accumulators."""
        raise NotImplementedError


class _Side:
    """One operand: its registers and its tile in shared memory."""

    def __init__(self, owner: _Gemm, which: Literal["left", "right"]) -> None:
        from tvm.script.ir_builder import tirx as T

        self.owner, problem, tile = owner, owner.problem, owner.tile
        mine = which == "left"
        self.element = problem.left if mine else problem.right
        along = problem.left_along if mine else problem.right_along
        self.across = along == "side"
        self.side, self.size = (tile.rows, owner.rows) if mine else (tile.columns, owner.columns)
        self.base = owner.row if mine else owner.column
        self.mine = mine
        self.each = self.side * tile.depth // tile.threads
        self.registers = T.alloc_buffer((self.each,), owner.dtype, scope="local")
        shape = (self.side, tile.depth + _PAD) if owner.depth_inside else (tile.depth, self.side)
        self.shared = T.alloc_buffer(shape, owner.dtype, scope="shared")

    def fetch(self, start: Any) -> None:
        """Reads a slice of the depth into registers; zeros outside the matrix."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        owner, depth = self.owner, self.owner.tile.depth
        with T.unroll(self.each) as i:
            at, k = self._place(i)
            side, k = self.base + at, start + k
            index = owner.index(side, 0) if self.mine else owner.index(0, side)
            value = self.element(*index, *unravelled(k, owner.problem.over)).astype(owner.dtype)
            checks = bounds((side, self.size, self.side), (k, owner.depth, depth))
            if checks is not None:
                value = tirx.if_then_else(checks, value, tirx.const(0, owner.dtype))
            T.buffer_store(self.registers, value, [i])

    def spill(self) -> None:
        """Writes the registers into the tile."""
        from tvm.script.ir_builder import tirx as T

        with T.unroll(self.each) as i:
            at, k = self._place(i)
            T.buffer_store(self.shared, self.registers[i], [at, k] if self.owner.depth_inside else [k, at])

    def _place(self, i: Any) -> tuple[Any, Any]:
        """(place along the side, place in the depth) of the i-th element of this thread."""
        tile = self.owner.tile
        at = i * tile.threads + self.owner.thread
        return (at % self.side, at // self.side) if self.across else (at // tile.depth, at % tile.depth)


class _Registers(_Gemm):
    """Every thread multiplies 4x4 elements in registers."""

    depth_inside = False

    def __init__(self, kernel: Kernel, problem: Contraction) -> None:
        super().__init__(kernel, problem)
        self.tile = Tile(64, 64, 16, 256) if opmath(problem.dtype) == torch.float32 else Tile(32, 32, 16, 64)
        self.across = 16 if self.tile.threads == 256 else 8

    def start(self) -> None:
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        self.sums = T.alloc_buffer((16,), self.wide, scope="local")
        with T.unroll(16) as i:
            T.buffer_store(self.sums, tirx.const(0, self.wide), [i])

    def _places(self, i: Any) -> tuple[Any, Any]:
        """Place in the tile of this thread's element ``i``."""
        down = self.tile.threads // self.across
        return self.thread // self.across + i // 4 * down, self.thread % self.across + i % 4 * self.across

    def multiply(self) -> None:
        from tvm.script.ir_builder import tirx as T

        with T.serial(self.tile.depth) as k, T.unroll(16) as i:
            row, column = self._places(i)
            product = self.left.shared[k, row].astype(self.wide) * self.right.shared[k, column].astype(self.wide)
            T.buffer_store(self.sums, self.sums[i] + product, [i])

    def finish(self, store: Store) -> None:
        from tvm.script.ir_builder import tirx as T

        with T.unroll(16) as i:
            row, column = self._places(i)
            self.put(store, self.row + row, self.column + column, self.sums[i])


class _Units(_Gemm):
    """Four warps, each of which multiplies a quarter of the tile on the matrix units."""

    depth_inside = True

    def __init__(self, kernel: Kernel, problem: Contraction) -> None:
        super().__init__(kernel, problem)
        large, small = Tile(128, 64, 32, 128), Tile(64, 64, 32, 128)
        down, across = large.blocks(self.rows, self.columns)
        self.tile = large if self.batches * down * across >= _FILL else small
        self.down, self.across = self.tile.rows // 2 // _FRAGMENT, self.tile.columns // 2 // _FRAGMENT

    def start(self) -> None:
        from tvm.script.ir_builder import tirx as T

        warp = self.thread // _WARP
        self.warp_row, self.warp_column = warp // 2 * (self.tile.rows // 2), warp % 2 * (self.tile.columns // 2)
        area = _FRAGMENT * _FRAGMENT
        self.sums = T.alloc_buffer((self.down * self.across * area,), "float32", scope="wmma.accumulator")
        self.lefts = T.alloc_buffer((self.down * area,), self.dtype, scope="wmma.matrix_a")
        self.rights = T.alloc_buffer((self.across * area,), self.dtype, scope="wmma.matrix_b")
        self.made = T.alloc_buffer((self.tile.rows, self.tile.columns), "float32", scope="shared")
        with T.unroll(self.down * self.across) as i:
            T.evaluate(T.tvm_fill_fragment(self.sums.data, *[_FRAGMENT] * 3, i, T.float32(0)))

    def multiply(self) -> None:
        from tvm.script.ir_builder import tirx as T

        with T.unroll(self.tile.depth // _FRAGMENT) as k:
            with T.unroll(self.down) as i:
                self._load(self.lefts, i, self.left.shared, self.warp_row + i * _FRAGMENT, k, "row_major")
            with T.unroll(self.across) as j:
                self._load(self.rights, j, self.right.shared, self.warp_column + j * _FRAGMENT, k, "col_major")
            with T.unroll(self.down) as i, T.unroll(self.across) as j:
                place = i * self.across + j
                data = (self.lefts.data, i, self.rights.data, j, self.sums.data, place)
                T.evaluate(T.tvm_mma_sync(self.sums.data, place, *data))

    def _load(self, fragments: Any, i: Any, shared: Any, row: Any, k: Any, order: str) -> None:
        from tvm.script.ir_builder import tirx as T

        stride = self.tile.depth + _PAD
        pointer = shared.access_ptr("r", offset=row * stride + k * _FRAGMENT, extent=_FRAGMENT * stride)
        T.evaluate(T.tvm_load_matrix_sync(fragments.data, *[_FRAGMENT] * 3, i, pointer, stride, order))

    def finish(self, store: Store) -> None:
        from tvm.script.ir_builder import tirx as T

        tile = self.tile
        with T.unroll(self.down) as i, T.unroll(self.across) as j:
            offset = (self.warp_row + i * _FRAGMENT) * tile.columns + self.warp_column + j * _FRAGMENT
            pointer = self.made.access_ptr("w", offset=offset, extent=_FRAGMENT * tile.columns)
            place = i * self.across + j
            order = "row_major"
            T.evaluate(T.tvm_store_matrix_sync(self.sums.data, *[_FRAGMENT] * 3, place, pointer, tile.columns, order))
        sync()
        with T.serial(tile.rows * tile.columns // tile.threads) as i:
            at = i * tile.threads + self.thread
            row, column = at // tile.columns, at % tile.columns
            self.put(store, self.row + row, self.column + column, self.made[row, column])


def bounds(*checks: tuple[Any, int, int]) -> Any:
    """Whether each (position, size, extent of a tile) lies inside; None where tiles never reach outside."""
    from tvm import tirx

    found: Sequence[Any] = [at < size for at, size, tile in checks if size % tile]
    if not found:
        return None
    return found[0] if len(found) == 1 else tirx.all(*found)


def sync() -> None:
    """Every thread of the block waits for the others."""
    from tvm.script.ir_builder import tirx as T

    T.evaluate(T.tvm_storage_sync("shared"))
