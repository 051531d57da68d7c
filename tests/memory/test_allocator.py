"""The rules of CUDACachingAllocator.cpp, each on requests whose blocks can be counted by hand."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from backend.memory.allocator import MIB, CachingAllocator, reserved_bytes
from backend.memory.lifetimes import Lifetimes, Moment


@pytest.fixture
def allocator() -> CachingAllocator:
    return CachingAllocator()


def test_small_requests_share_segments_of_two_mib(allocator):
    for _ in range(2 * MIB // 512):
        allocator.allocate(1)
    assert allocator.reserved_bytes == 2 * MIB
    allocator.allocate(512)
    assert allocator.reserved_bytes == 4 * MIB


def test_a_size_is_rounded_to_512_bytes(allocator):
    assert [allocator.allocate(size).size for size in (1, 512, 513, MIB)] == [512, 512, 1024, MIB]


@pytest.mark.parametrize(
    "num_bytes, segment",
    [(MIB, 2), (MIB + 1, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (10 * MIB + 1, 12), (31 * MIB, 32)],
)
def test_the_segment_of_a_first_request(allocator, num_bytes, segment):
    allocator.allocate(num_bytes)
    assert allocator.reserved_bytes == segment * MIB


def test_the_rest_of_a_large_segment_serves_others(allocator):
    for size in (9, 9, 2):
        allocator.allocate(size * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    allocator.allocate(2 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


def test_a_large_block_is_not_cut_for_a_rest_of_one_mib_or_less(allocator):
    allocator.release(allocator.allocate(12 * MIB))
    whole = allocator.allocate(11 * MIB)
    assert whole.size == 12 * MIB
    allocator.release(whole)
    cut = allocator.allocate(11 * MIB - 512)
    assert cut.size == 11 * MIB - 512
    assert allocator.reserved_bytes == 12 * MIB


def test_the_smallest_block_that_fits_is_taken(allocator):
    large, medium, small = (allocator.allocate(size * MIB) for size in (40, 30, 20))
    for block in (large, small, medium):
        allocator.release(block)
    assert allocator.allocate(25 * MIB).address == medium.address
    assert allocator.reserved_bytes == 90 * MIB


def test_free_neighbours_become_one_block(allocator):
    blocks = [allocator.allocate(5 * MIB) for _ in range(4)]
    for number in (0, 2, 1, 3):  # the third release joins three
        allocator.release(blocks[number])
    allocator.allocate(20 * MIB - 512)  # a request from 10 MiB on, in what was a shared segment
    assert allocator.reserved_bytes == 20 * MIB


def test_holes_make_it_take_more_than_is_alive(allocator):
    blocks = [allocator.allocate(5 * MIB) for _ in range(4)]
    for block in blocks[::2]:
        allocator.release(block)
    allocator.allocate(6 * MIB)  # 10 MiB are free, but no six in a row
    assert allocator.reserved_bytes == 40 * MIB


def test_blocks_never_overlap_and_all_come_back(allocator):
    generator = random.Random(0)
    alive = []
    for _ in range(3000):
        if alive and generator.random() < 0.5:
            allocator.release(alive.pop(generator.randrange(len(alive))))
        else:
            alive.append(allocator.allocate(int(2 ** generator.uniform(0, 25))))
    places = sorted((block.address, block.address + block.size) for block in alive)
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    for block in alive:
        allocator.release(block)
    free = allocator._free[True] + allocator._free[False]
    assert sum(size for size, _, _ in free) == allocator.reserved_bytes
    assert all(block.previous is None and block.following is None for _, _, block in free)


def test_a_replay_of_a_tiny_run():
    # 8 MiB of weights; 9 MiB of maps a pair of images: they share a segment of 20 up to two images
    tiny = Lifetimes([Moment(8 * MIB, 0), Moment(0, 9 * MIB // 2)], (0,), (1, ~1), (1, ~1))
    assert reserved_bytes(tiny, 2) == 20 * MIB
    assert reserved_bytes(tiny, 3) == (20 + 14) * MIB  # 13.5 MiB get a segment of their own
