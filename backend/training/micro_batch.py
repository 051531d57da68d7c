"""The parts of a step: one or more batches, each split if memory is too small for the whole.

A split batch has the same samples in the same order; the gradients of its parts are added up, weighted by the
landmarks that each part shows. Only batch normalization differs: its statistics are those of a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeVar

from backend.data.dataset import Batch

MAX_RETRIES = 3

T = TypeVar("T")


class StepParts(NamedTuple):
    """The number and size of the pieces in which an optimizer step is computed."""

    num: int
    largest: int  # samples of the largest part
    num_samples: int  # of all parts: the effective batch


@dataclass(frozen=True)
class MicroBatch:
    """The number of samples that are computed at once; a part of the loop's state."""

    limit: int | None = None  # None: a whole batch
    num_retries: int = 0  # how often memory ran out

    def num_parts(self, num_samples: int, least: int = 1) -> int:
        """Return the number of parts of a batch.

        No part is larger than the limit, unless one would then be smaller than `least`.
        """
        if self.limit is None:
            return 1
        return max(1, min(-(-num_samples // self.limit), num_samples // least))

    def largest_part(self, num_samples: int, least: int = 1) -> int:
        """Return how many samples the largest part of a batch has."""
        return -(-num_samples // self.num_parts(num_samples, least))

    def split_step(self, batch_size: int, num_batches: int, least: int) -> StepParts:
        """Return the parts of an optimizer step from several batches of a size."""
        num = self.num_parts(batch_size, least)
        return StepParts(num * num_batches, self.largest_part(batch_size, least), batch_size * num_batches)

    def split(self, batch: Batch, least: int = 1) -> list[Batch]:
        """Split a batch into parts of nearly equal size, in order; one part without a limit."""
        num_samples = len(batch.rows)
        num = self.num_parts(num_samples, least)
        if num == 1:
            return [batch]
        ends = [-(-num_samples * part // num) for part in range(num + 1)]
        return [Batch(*(tensor[first:end] for tensor in batch)) for first, end in pairwise(ends)]

    def halved(self, num_samples: int, least: int, on_oom: str) -> MicroBatch | None:
        """Halve the parts, rounded up, after memory ran out in a batch of `num_samples`.

        None if `on_oom` is "stop", after MAX_RETRIES, or if no smaller part is possible.
        """
        if on_oom == "stop" or self.num_retries == MAX_RETRIES:
            return None
        largest = self.largest_part(num_samples, least)
        finer = replace(self, limit=max(least, -(-largest // 2)), num_retries=self.num_retries + 1)
        return finer if finer.largest_part(num_samples, least) < largest else None


WHOLE_BATCHES = MicroBatch()


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` consecutive items; the last may be shorter."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
