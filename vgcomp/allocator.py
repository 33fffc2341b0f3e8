"""PyTorch's CUDA caching allocator, replayed on sizes and addresses alone.

    allocator = CachingAllocator()
    block = allocator.malloc(5 << 20)     # takes 5 MiB of a new segment of 20 MiB
    allocator.free(block)
    allocator.reserved_bytes              # 20 MiB still: a segment is kept until it is asked for

Rules, as in ``c10/cuda/CUDACachingAllocator.cpp`` of PyTorch 2.x with no ``PYTORCH_CUDA_ALLOC_CONF``:

* sizes are rounded up to 512 bytes; up to 1 MiB they belong to the small pool, above to the large one;
* each stream has its own pools: a block freed by one is not handed to another;
* the smallest free block of the pool that is large enough is taken, the lowest address of equals;
* without one a segment is made: 2 MiB for the small pool, 20 MiB for sizes below 10 MiB, else the size rounded up to
  2 MiB;
* a block is split where at least 512 bytes (small) or more than 1 MiB (large) remain; the front is handed out;
* a freed block joins the free ones beside it in its segment;
* segments go back only by :meth:`CachingAllocator.empty_cache` or where ``limit`` would be passed, and only whole ones.

New segments get ever higher addresses; the driver may order them otherwise, which matters only between equal blocks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

MIB = 1 << 20
#: ``kMinBlockSize``: every size is a multiple.
MIN_BLOCK = 512
#: ``kSmallSize``: the largest size of the small pool.
SMALL_SIZE = MIB
#: ``kSmallBuffer``: a segment of the small pool.
SMALL_SEGMENT = 2 * MIB
#: ``kMinLargeAlloc``: from here on a segment is made to measure.
MIN_LARGE = 10 * MIB
#: ``kLargeBuffer``: the segment that smaller ones of the large pool share.
LARGE_SEGMENT = 20 * MIB
#: ``kRoundLarge``.
ROUND_LARGE = 2 * MIB


class OutOfDeviceMemory(Exception):
    """A segment would pass the allocator's limit, even with everything cached given back."""


@dataclass(slots=True, eq=False)
class Block:
    """A stretch of a segment. ``before`` and ``after``: its neighbours there."""

    address: int
    size: int
    small: bool
    requested: int = 0
    allocated: bool = False
    stream: int = 0
    before: Block | None = None
    after: Block | None = None


@dataclass(slots=True)
class CachingAllocator:
    """The allocator of one device. All figures are bytes; streams are numbered from 0.

    ``allocated_bytes``: blocks handed out, as ``torch.cuda.memory_allocated``. ``requested_bytes``: what was asked for
    of them. ``reserved_bytes``: segments, as ``torch.cuda.memory_reserved``. Each has its peak. ``limit``: what the
    device has for segments; None for no end.
    """

    limit: int | None = None
    allocated_bytes: int = 0
    requested_bytes: int = 0
    reserved_bytes: int = 0
    allocated_peak: int = 0
    requested_peak: int = 0
    reserved_peak: int = 0
    #: Free blocks of each stream's large pool and small pool, in turns: (size, address), in order.
    _free: list[list[tuple[int, int]]] = field(default_factory=lambda: [[], []])
    _blocks: dict[int, Block] = field(default_factory=dict)
    #: Addresses of segments given back, by size: the next segment of that size takes the last of them.
    _released: dict[int, list[int]] = field(default_factory=dict)
    _next_address: int = 0

    def malloc(self, size: int, stream: int = 0) -> Block:
        """A block of at least ``size`` (more than 0) bytes. Raises OutOfDeviceMemory where the limit forbids it."""
        while 2 * stream >= len(self._free):
            self._free += [[], []]
        rounded = rounded_size(size)
        small = rounded <= SMALL_SIZE
        block = self._take(rounded, 2 * stream + small) or self._segment(rounded, small, stream)
        if _splits(block.size - rounded, small):
            self._split(block, rounded)
        block.allocated, block.requested = True, size
        self.allocated_bytes += block.size
        self.requested_bytes += size
        self.allocated_peak = max(self.allocated_peak, self.allocated_bytes)
        self.requested_peak = max(self.requested_peak, self.requested_bytes)
        return block

    def free(self, block: Block) -> None:
        """Gives a block back to its pool, joined with its free neighbours."""
        assert block.allocated, "a block is freed once"
        block.allocated = False
        self.allocated_bytes -= block.size
        self.requested_bytes -= block.requested
        before, after = block.before, block.after
        if after is not None and not after.allocated:
            self._forget(after)
            self._join(block, after)
        if before is not None and not before.allocated:
            self._forget(before)
            self._join(before, block)
            block = before
        insort(self._free[2 * block.stream + block.small], (block.size, block.address))

    def empty_cache(self) -> None:
        """Gives back every segment that is free as a whole."""
        for blocks in self._free:
            whole = [key for key in blocks if _is_segment(self._blocks[key[1]])]
            for size, address in whole:
                blocks.remove((size, address))
                del self._blocks[address]
                self._released.setdefault(size, []).append(address)
                self.reserved_bytes -= size

    def free_bytes(self, least: int) -> int:
        """Bytes that are free in blocks of at least ``least``."""
        return sum(size for pool in self._free for size, _ in pool if size >= least)

    @property
    def fragmentation_bytes(self) -> int:
        """Reserved and not handed out, at the two peaks: what the device has to have beyond the blocks in use."""
        return self.reserved_peak - self.allocated_peak

    def state(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The free blocks. Equal states with equal blocks handed out behave the same from then on."""
        return tuple(tuple(blocks) for blocks in self._free)

    def _take(self, size: int, pool: int) -> Block | None:
        """The best fit among the free blocks of a pool."""
        blocks = self._free[pool]
        at = bisect_left(blocks, (size, -1))
        if at == len(blocks):
            return None
        return self._blocks[blocks.pop(at)[1]]

    def _segment(self, size: int, small: bool, stream: int) -> Block:
        total = segment_size(size)
        if not self._has_room(total):
            self.empty_cache()
        if not self._has_room(total):
            raise OutOfDeviceMemory(f"{total} bytes more than the {self.reserved_bytes} reserved of {self.limit}")
        block = Block(self._address(total), total, small, stream=stream)
        self._blocks[block.address] = block
        self.reserved_bytes += total
        self.reserved_peak = max(self.reserved_peak, self.reserved_bytes)
        return block

    def _address(self, size: int) -> int:
        released = self._released.get(size)
        if released:
            return released.pop()
        self._next_address += size
        return self._next_address - size

    def _has_room(self, size: int) -> bool:
        return self.limit is None or self.reserved_bytes + size <= self.limit

    def _split(self, block: Block, size: int) -> None:
        """Leaves ``size`` bytes in ``block`` and puts the rest among the free ones."""
        rest = Block(block.address + size, block.size - size, block.small, 0, False, block.stream, block, block.after)
        if rest.after is not None:
            rest.after.before = rest
        block.size, block.after = size, rest
        self._blocks[rest.address] = rest
        insort(self._free[2 * rest.stream + rest.small], (rest.size, rest.address))

    def _forget(self, block: Block) -> None:
        blocks = self._free[2 * block.stream + block.small]
        del blocks[bisect_left(blocks, (block.size, block.address))]

    def _join(self, block: Block, after: Block) -> None:
        """``after`` becomes part of ``block``."""
        block.size += after.size
        block.after = after.after
        if block.after is not None:
            block.after.before = block
        del self._blocks[after.address]


def rounded_size(size: int) -> int:
    """``size`` rounded up to 512 bytes, 512 at least."""
    return max(MIN_BLOCK, -(-size // MIN_BLOCK) * MIN_BLOCK)


def segment_size(size: int) -> int:
    """Bytes asked of the driver for a (rounded) size that no free block holds."""
    if size <= SMALL_SIZE:
        return SMALL_SEGMENT
    if size < MIN_LARGE:
        return LARGE_SEGMENT
    return -(-size // ROUND_LARGE) * ROUND_LARGE


def _splits(rest: int, small: bool) -> bool:
    return rest >= MIN_BLOCK if small else rest > SMALL_SIZE


def _is_segment(block: Block) -> bool:
    return block.before is None and block.after is None
