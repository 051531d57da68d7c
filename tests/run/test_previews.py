from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.run.previews import PreviewFolder


@pytest.fixture
def previews(tmp_path: Path) -> PreviewFolder:
    return PreviewFolder(tmp_path / "previews")


def test_written_arrays_are_read_back(previews: PreviewFolder) -> None:
    points = np.array([[1.5, np.nan]], dtype=np.float32)
    heatmaps = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    previews.write("train", 7, {"points_xy": points, "heatmaps": heatmaps, "file": np.array(["a", "b"])})
    arrays = previews.read(("train", 7))
    assert arrays is not None
    np.testing.assert_array_equal(arrays["points_xy"], points)
    np.testing.assert_array_equal(arrays["heatmaps"], heatmaps)
    assert arrays["heatmaps"].dtype == np.uint8
    assert list(arrays["file"]) == ["a", "b"]
    previews.write_images({"images": heatmaps})
    images = previews.read_images()
    assert images is not None
    assert set(images) == {"images"}
    assert previews.list_keys() == [("train", 7)]


def test_pickles_are_neither_written_nor_read(previews: PreviewFolder) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        previews.write("train", 1, {"objects": np.array([object()])})
    assert previews.list_keys() == []
    previews.path.mkdir()
    np.savez(previews.path / "train-0002.npz", objects=np.array([object()]))
    assert previews.read(("train", 2)) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text"])
def test_damaged_preview_reads_as_none(previews: PreviewFolder, content: bytes) -> None:
    previews.write("train", 1, {"a": np.zeros(3)})
    (previews.path / "train-0001.npz").write_bytes(content)
    assert previews.read(("train", 1)) is None


def test_pruning_after_every_epoch_stays_even(previews: PreviewFolder) -> None:
    for epoch in range(1, 151):
        previews.write("train", epoch, {"epoch": np.array(epoch)})
        previews.prune(max_kept=12)
    epochs = [epoch for _, epoch in previews.list_keys()]
    assert len(epochs) == 12
    assert (epochs[0], epochs[-1]) == (1, 150)
    assert np.diff(epochs).max() <= 2.5 * 149 / 11
    assert previews.read_images() is None
    previews.prune(max_kept=2)
    assert previews.list_keys() == [("train", 1), ("train", 150)]
    with pytest.raises(ValueError, match="at least 2"):
        previews.prune(max_kept=1)


def test_pruning_keeps_the_images(previews: PreviewFolder) -> None:
    previews.write_images({"images": np.zeros(2)})
    for epoch in (1, 2, 10_000):
        previews.write("train", epoch, {"epoch": np.array(epoch)})
    previews.prune(max_kept=2)
    assert previews.list_keys() == [("train", 1), ("train", 10_000)]
    assert previews.read_images() is not None


def test_keys_follow_the_order_of_training_and_phases_are_pruned_apart(
    previews: PreviewFolder,
) -> None:
    for phase in ("refine", "train"):
        for epoch in (3, 1, 2):
            previews.write(phase, epoch, {"epoch": np.array(epoch)})
    assert previews.list_keys() == [(phase, epoch) for phase in ("train", "refine") for epoch in (1, 2, 3)]
    previews.prune(max_kept=2)
    assert previews.list_keys() == [(phase, epoch) for phase in ("train", "refine") for epoch in (1, 3)]
