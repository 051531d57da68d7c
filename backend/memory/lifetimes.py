"""When storages are allocated and freed in a step, and how many bytes are alive in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Moment:
    """A moment of a step: the bytes alive are a constant plus bytes per image."""

    constant_bytes: int
    bytes_per_image: int

    def bytes_at(self, batch_size: int) -> int:
        """Return the bytes alive at a batch."""
        return self.constant_bytes + self.bytes_per_image * batch_size


@dataclass(frozen=True)
class Lifetimes:
    """Storages by number, and their allocations and releases in order: n allocates storage n, ~n releases it.

    A step releases its own storages; what stays (the optimizer's states, in the first step) is alive from the
    start in every later one.
    """

    sizes: Sequence[Moment]
    before: Sequence[int]  # allocations and releases up to the first training step
    training: Sequence[int]
    validation: Sequence[int]

    @property
    def staying(self) -> set[int]:
        """Storages that the training step leaves behind."""
        return {n for n in self.training if n >= 0} - {~n for n in self.training if n < 0}

    def later_training(self) -> list[int]:
        """Return a training step after the first, which has left behind what stays."""
        staying = self.staying
        return [n for n in self.training if n not in staying]

    def training_moments(self) -> list[Moment]:
        """Return the moments of a training step that are the highest at some batch."""
        return self._moments([*self.before, *self.staying], self.later_training())

    def validation_moments(self) -> list[Moment]:
        """Return the moments of a validation step that are the highest at some batch."""
        return self._moments([*self.before, *self.training], self.validation)

    def _moments(self, before: Sequence[int], step: Sequence[int]) -> list[Moment]:
        """Return the highest moments of a step, with what was allocated before it."""
        constants, slopes = (
            [*accumulate(part)] for part in zip(*self._changes([*before, *step]), strict=True)
        )
        start = max(0, len(before) - 1)
        return upper_envelope({Moment(*pair) for pair in zip(constants[start:], slopes[start:], strict=True)})

    def _changes(self, order: Sequence[int]) -> Iterator[tuple[int, int]]:
        for number in order:
            size = self.sizes[number if number >= 0 else ~number]
            sign = 1 if number >= 0 else -1
            yield sign * size.constant_bytes, sign * size.bytes_per_image


def upper_envelope(moments: set[Moment]) -> list[Moment]:
    """Select the moments that are the highest at some batch of at least 1, by increasing slope."""
    top = [max(moments, key=lambda m: (m.bytes_at(1), m.bytes_per_image))]
    while steeper := [m for m in moments if m.bytes_per_image > top[-1].bytes_per_image]:
        top.append(min(steeper, key=lambda m: (_crossing(top[-1], m), -m.bytes_per_image)))
    return top


def _crossing(flat: Moment, steep: Moment) -> float:
    """Return the batch at which the steeper moment overtakes the flatter one."""
    return (flat.constant_bytes - steep.constant_bytes) / (steep.bytes_per_image - flat.bytes_per_image)
