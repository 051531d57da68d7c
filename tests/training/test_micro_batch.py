from __future__ import annotations

import pytest
import torch

from backend.data.dataset import Batch
from backend.training.micro_batch import MAX_RETRIES, WHOLE_BATCHES, MicroBatch, StepParts, in_groups


def make_batch(num_samples: int, num_landmarks: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.rand(num_samples, 3, 4, 4, generator=generator),
        points_xy_input=torch.rand(num_samples, num_landmarks, 2, generator=generator),
        points_xy_image=torch.rand(num_samples, num_landmarks, 2, generator=generator).double(),
        affine_input_to_image=torch.rand(num_samples, 1, 2, 3, generator=generator).double(),
        mm_per_px_xy=torch.rand(num_samples, 2, generator=generator).double(),
        rows=torch.arange(num_samples),
    )


def sizes(num_samples: int, limit: int | None, least: int = 1) -> list[int]:
    return [len(part.rows) for part in MicroBatch(limit).split(make_batch(num_samples), least)]


def test_a_whole_batch_is_the_batch_itself() -> None:
    batch = make_batch(5)
    for whole in (WHOLE_BATCHES, MicroBatch(5), MicroBatch(99)):
        (part,) = whole.split(batch)
        assert part is batch


@pytest.mark.parametrize(
    ("num_samples", "limit", "expected"),
    [(16, 8, [8, 8]), (5, 3, [3, 2]), (7, 3, [3, 2, 2]), (7, 6, [4, 3]), (3, 1, [1, 1, 1])],
)
def test_parts_are_nearly_equal_and_none_is_larger_than_the_limit(
    num_samples: int, limit: int, expected: list[int]
) -> None:
    assert sizes(num_samples, limit) == expected


@pytest.mark.parametrize(
    ("num_samples", "limit", "expected"),
    [(4, 1, [2, 2]), (5, 2, [3, 2]), (3, 2, [3]), (3, 1, [3]), (1, 1, [1]), (8, 3, [3, 3, 2])],
)
def test_no_part_has_fewer_samples_than_batch_normalisation_wants(
    num_samples: int, limit: int, expected: list[int]
) -> None:
    """Where an odd number leaves a part over the limit, the part is the larger one."""
    assert sizes(num_samples, limit, least=2) == expected


def test_parts_hold_every_sample_once_in_the_batchs_order_and_share_its_memory() -> None:
    for num_samples in range(1, 20):
        batch = make_batch(num_samples)
        for limit in range(1, num_samples + 1):
            for least in (1, 2):
                micro_batch = MicroBatch(limit)
                parts = micro_batch.split(batch, least)
                for whole, *pieces in zip(batch, *parts, strict=True):
                    assert torch.equal(torch.cat(pieces), whole)
                assert all(
                    part.images.untyped_storage()._cdata == batch.images.untyped_storage()._cdata
                    for part in parts
                )
                lengths = [len(part.rows) for part in parts]
                assert max(lengths) == micro_batch.largest_part(num_samples, least)
                assert max(lengths) <= max(limit, least + 1) and max(lengths) - min(lengths) <= 1
                assert min(lengths) >= min(least, num_samples)


def halvings(num_samples: int, least: int) -> list[int]:
    """The largest part of the batch after each halving, until there is none."""
    micro_batch: MicroBatch | None = WHOLE_BATCHES
    found = []
    while (micro_batch := micro_batch.halved(num_samples, least, "retry")) is not None:
        found.append(micro_batch.largest_part(num_samples, least))
        assert micro_batch.num_retries == len(found)
    return found


@pytest.mark.parametrize(
    ("num_samples", "least", "expected"),
    [
        (64, 2, [32, 16, 8]),
        (16, 2, [8, 4, 2]),
        (9, 2, [5, 3]),
        (8, 2, [4, 2]),
        (5, 2, [3]),
        (3, 2, []),
        (2, 2, []),
        (1, 2, []),
        (5, 1, [3, 2, 1]),
        (2, 1, [1]),
    ],
)
def test_a_batch_is_halved_three_times_at_most_and_never_too_far(
    num_samples: int, least: int, expected: list[int]
) -> None:
    assert halvings(num_samples, least) == expected and len(expected) <= MAX_RETRIES


def test_asked_to_stop_nothing_is_halved() -> None:
    assert WHOLE_BATCHES.halved(16, 2, "stop") is None


def test_what_was_tried_counts_for_other_batches_too() -> None:
    """A validation that did not fit at 12 is halved from there; training batches of 16 become three parts."""
    finer = WHOLE_BATCHES.halved(12, 1, "retry")
    assert finer == MicroBatch(6, 1)
    assert finer.split_step(16, num_batches=1, least=2) == StepParts(num=3, largest=6, num_samples=16)


def test_a_step_has_the_parts_of_all_its_batches() -> None:
    assert MicroBatch(4).split_step(8, num_batches=3, least=2) == (6, 4, 24)
    assert WHOLE_BATCHES.split_step(8, num_batches=3, least=2) == (3, 8, 24)


def test_groups_are_of_the_asked_size_and_the_last_may_be_shorter() -> None:
    assert list(in_groups(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_groups([], 3)) == []
