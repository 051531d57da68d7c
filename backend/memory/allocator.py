"""A model of PyTorch's CUDA caching allocator: how much it takes from the GPU for given births and deaths.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (`round_size`, `get_pool`, `get_allocation_size`,
`get_free_block`, `should_split`, `try_merge_blocks`) with the constants of c10/core/AllocatorConfig.h, as they are
without PYTORCH_CUDA_ALLOC_CONF, for one stream. Not modelled: the freeing of unused segments when the GPU is full,
which only makes more fit. Must not know torch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from backend.memory.lifetimes import Lifetimes

MIB = 2**20
MIN_BLOCK_BYTES = 512  # kMinBlockSize: every request is rounded up to a multiple of it
SMALL_BYTES = MIB  # kSmallSize: the largest request that is served from a small segment
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer
LARGE_SEGMENT_BYTES = 20 * MIB  # kLargeBuffer: for requests below the next
MIN_OWN_SEGMENT_BYTES = 10 * MIB  # kMinLargeAlloc: from here on a request gets a segment of its own ...
OWN_SEGMENT_MULTIPLE = 2 * MIB  # kRoundLarge: ... of a multiple of this


@dataclass(slots=True, eq=False)
class Block:
    """A part of a segment; its neighbours lie in the same one."""

    address: int
    size: int
    is_small: bool
    is_free: bool = False
    previous: Block | None = None
    following: Block | None = None


class CachingAllocator:
    """Keeps what is freed, and takes more only where no free block is large enough."""

    def __init__(self) -> None:
        self.reserved_bytes = 0  # never shrinks, so it is its own maximum
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}

    def allocate(self, num_bytes: int) -> Block:
        """The smallest free block that is large enough, lowest address first, cut where much would be left over."""
        size = max(1, -(-num_bytes // MIN_BLOCK_BYTES)) * MIN_BLOCK_BYTES
        is_small = size <= SMALL_BYTES
        free = self._free[is_small]
        place = bisect_left(free, (size, 0))
        block = free.pop(place)[2] if place < len(free) else self._new_segment(size, is_small)
        block.is_free = False
        rest = block.size - size
        if rest >= MIN_BLOCK_BYTES if is_small else rest > SMALL_BYTES:
            self._split(block, size)
        return block

    def release(self, block: Block) -> None:
        """Free it, together with free neighbours."""
        for neighbour in (block.previous, block.following):
            if neighbour is not None and neighbour.is_free:
                self._remove_free(neighbour)
                self._merge(block, neighbour)
        self._add_free(block)

    def _new_segment(self, size: int, is_small: bool) -> Block:
        if is_small:
            num_bytes = SMALL_SEGMENT_BYTES
        elif size < MIN_OWN_SEGMENT_BYTES:
            num_bytes = LARGE_SEGMENT_BYTES
        else:
            num_bytes = -(-size // OWN_SEGMENT_MULTIPLE) * OWN_SEGMENT_MULTIPLE
        block = Block(self.reserved_bytes, num_bytes, is_small)
        self.reserved_bytes += num_bytes
        return block

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.address + size, block.size - size, block.is_small, False, block, block.following)
        if rest.following is not None:
            rest.following.previous = rest
        block.size, block.following = size, rest
        self._add_free(rest)

    def _merge(self, block: Block, neighbour: Block) -> None:
        block.size += neighbour.size
        if neighbour is block.previous:
            block.address, block.previous = neighbour.address, neighbour.previous
            if block.previous is not None:
                block.previous.following = block
        else:
            block.following = neighbour.following
            if block.following is not None:
                block.following.previous = block

    def _add_free(self, block: Block) -> None:
        block.is_free = True
        insort(self._free[block.is_small], (block.size, block.address, block))

    def _remove_free(self, block: Block) -> None:
        free = self._free[block.is_small]
        del free[bisect_left(free, (block.size, block.address))]


def reserved_bytes(lifetimes: Lifetimes, batch_size: int) -> int:
    """What the allocator has taken after a training step, a validation step and another training step.

    The first training step leaves behind the optimizer's states, and validation free blocks of other sizes.
    """
    allocator, blocks = CachingAllocator(), dict[int, Block]()
    sizes = [size.bytes_at(batch_size) for size in lifetimes.sizes]

    def replay(order: Sequence[int]) -> None:
        for number in order:
            if number >= 0:
                blocks[number] = allocator.allocate(sizes[number])
            else:
                allocator.release(blocks.pop(~number))

    for order in (lifetimes.before, lifetimes.training, lifetimes.validation, lifetimes.later_training()):
        replay(order)
    return allocator.reserved_bytes
