from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.cache import cache_folder
from backend.data.augmentation import Augmentation
from backend.data.dataset import Batch, Batches, EpochBatches, LandmarkDataset
from backend.data.image_store import MAX_COPIES, input_scale
from backend.data.samples import Samples, load_splits
from backend.data.shared_pixels import SharedPixels
from backend.errors import UserError
from tests.counting_store import CountingStore

HW = (64, 64)
AUGMENTATION = Augmentation(rotation_deg=5, scale_jitter=0.08, shift_jitter=0.025, photometric=1)
START_METHODS = [name for name in multiprocessing.get_all_start_methods() if name != "fork"]


@pytest.fixture(scope="module")
def tiny(tiny_dataset: Path) -> Samples:
    return load_splits(
        tiny_dataset, dataset_format="auto", annotation_type="mean", val_fraction=0, seed=0
    ).train


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def store_of(samples: Samples, log_path: Path, budget_bytes: int = 10**8) -> CountingStore:
    scales = [[input_scale(size_hw, HW), 1.0] for size_hw in samples.sizes_hw]
    return CountingStore(samples.paths, scales, budget_bytes, log_path)


def batches_of(samples: Samples, store: CountingStore, num_workers: int) -> Batches:
    dataset = LandmarkDataset(samples, HW, resize="letterbox", store=store, augmentation=AUGMENTATION, seed=1)
    sampler = EpochBatches(len(samples), 2, shuffle_seed=1)
    return Batches(dataset, sampler, num_workers=num_workers, pin_memory=False)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return all(
        torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def files_left() -> list[Path]:
    return [path for path in (cache_folder() / "shared_pixels").glob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("is_preloaded", [True, False])
def test_workers_that_inherit_nothing_share_what_was_decoded_once(
    tiny: Samples, tmp_path: Path, start_method: str, is_preloaded: bool
) -> None:
    store = store_of(tiny, tmp_path / "decoded.txt")
    if is_preloaded:
        store.preload()
    together = batches_of(tiny, store, num_workers=2)
    found = [list(together.iterate_epoch(epoch)) for epoch in range(2)]
    assert sorted(store.decoded()) == [(os.getpid(), index) for index in range(len(tiny))]
    alone = batches_of(tiny, store_of(tiny, tmp_path / "alone.txt"), num_workers=0)
    assert all(same(part, list(alone.iterate_epoch(epoch))) for epoch, part in enumerate(found))
    assert files_left() == []


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_forked_workers_go_on_inheriting(tiny: Samples, tmp_path: Path) -> None:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("fork", force=True)
    try:
        store = store_of(tiny, tmp_path / "decoded.txt")
        store.preload()
        list(batches_of(tiny, store, num_workers=2).iterate_epoch(0))
        assert len(store.decoded()) == len(tiny) and store._shared is None
    finally:
        multiprocessing.set_start_method(before, force=True)


class Starting:
    """Stands for a process that is being started: hands over what it is given, as `multiprocessing` does."""

    class DupFd:
        def __init__(self, descriptor: int) -> None:
            self.descriptor = descriptor

        def detach(self) -> int:
            return os.dup(self.descriptor)

    def duplicate_for_child(self, descriptor: int) -> int:
        return descriptor


def sent(thing: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        for module in ("backend.data.image_store", "multiprocessing.context"):
            patch.setattr(f"{module}.get_spawning_popen", Starting)
        return pickle.loads(pickle.dumps(thing))


@pytest.mark.skipif(sys.platform == "win32", reason="memory has a name there, and needs no descriptor")
def test_spawned_store_has_images_and_a_share_of_the_budget(
    tiny: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path = tmp_path / "decoded.txt"
    each = sum(level.pixels.nbytes for level in store_of(tiny, log_path).get(0))
    store = store_of(tiny, log_path, budget_bytes=5 * each + each // 2)
    store.preload()
    kept = {index: store.get(index) for index in range(5)}
    copies = [sent(store, monkeypatch) for _ in range(2)]
    log_path.unlink()
    for copy in copies:
        assert copy._budget_bytes == each // 2 // MAX_COPIES and copy._kept_bytes == 0
        for index, levels in kept.items():
            for ours, theirs, here in zip(levels, copy.get(index), store.get(index), strict=True):
                assert np.array_equal(ours.pixels, theirs.pixels) and np.array_equal(ours.pixels, here.pixels)
                assert np.array_equal(ours.affine_from_image, theirs.affine_from_image)
                assert ours.mean == theirs.mean and not theirs.pixels.flags.writeable
    assert store.decoded() == []
    for copy in copies:
        copy.get(7)
        copy.get(7)
    assert len(store.decoded()) == 4  # no room to keep it


def test_another_copy_of_a_store_goes_without_its_images(tiny: Samples, tmp_path: Path) -> None:
    store = store_of(tiny, tmp_path / "decoded.txt")
    store.preload()
    copy = pickle.loads(pickle.dumps(store))
    assert copy._kept == {} and copy._shared is None
    assert np.array_equal(copy.get(0)[0].pixels, store.get(0)[0].pixels)


def test_a_full_disk_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr("mmap.mmap", full)
    with pytest.raises(UserError, match=r"cannot be shared .*No space left.*--num_workers 0"):
        SharedPixels([np.zeros((4, 4), np.uint8)])


def share_and_wait(connection: Any) -> None:
    shared = SharedPixels([np.ones((100, 100), np.uint8)])
    connection.send(int(shared.pictures()[0].sum()))
    connection.recv()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memory there is no file at all")
def test_a_killed_process_leaves_nothing_behind() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=share_and_wait, args=(theirs,))
    process.start()
    assert ours.recv() == 10_000
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert files_left() == []
