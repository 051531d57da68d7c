from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest

from backend.data.image_store import ImageStore
from backend.data.samples import SampleSplits, load_splits
from backend.errors import UserError


def load(path: Path, *, for_training: bool = True) -> SampleSplits:
    return load_splits(
        path,
        dataset_format="auto",
        annotation_type="mean",
        val_fraction=0.25,
        seed=0,
        for_training=for_training,
    )


@pytest.fixture
def copied(tiny_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset, tmp_path / "copied"))


def test_unmarked_images_are_left_out_before_splitting(copied: Path) -> None:
    table = copied / "annotations.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    unmarked = [line.split(",")[0] + ",0.5,,,,,," for line in lines[1:9]]
    table.write_text("\n".join([lines[0], *unmarked, *lines[9:]]), encoding="utf-8")
    splits = load(copied)
    assert splits.valid is not None
    assert (len(splits.train), len(splits.valid)) == (3, 1)


def test_test_images_alone_can_be_evaluated_but_not_trained_on(copied: Path) -> None:
    table = copied / "annotations.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text(
        "\n".join([lines[0] + ",split", *(line + ",test" for line in lines[1:])]), encoding="utf-8"
    )
    assert list(load(copied, for_training=False).by_split) == ["test"]
    with pytest.raises(UserError, match="train"):
        load(copied)


def test_landmark_on_no_training_image_is_left_out_and_reported(copied: Path) -> None:
    table = copied / "annotations.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "image,mm_per_px,nose_x,nose_y,chin_x,chin_y,ear_x,ear_y"
    cells = [line.split(",") for line in lines[1:]]
    train = [",".join([*line[:4], "", "", *line[6:], "train"]) for line in cells[:9]]
    test = [",".join([*line, "test"]) for line in cells[9:]]  # where the chin is marked
    table.write_text("\n".join([lines[0] + ",split", *train, *test]), encoding="utf-8")
    splits = load(copied)
    assert splits.left_out == ("chin",) and splits.annotations.landmark_names == ("nose", "ear")
    assert splits.annotations.points_xy_image.shape[2] == 2
    assert [samples.points_xy_image.shape[1] for samples in splits.by_split.values()] == [2] * 3
    first = splits.annotations.problems[0]
    assert "marked on no training image, so not learned: chin" in first.what and first.cure
    whole = load(copied, for_training=False)
    assert whole.annotations.landmark_names == ("nose", "chin", "ear") and not whole.left_out
    assert (
        whole.by_split["test"].points_xy_image[:, [0, 2]] == splits.by_split["test"].points_xy_image
    ).all()


def test_store_reports_broken_files_and_pickles_without_images(copied: Path) -> None:
    samples = load(copied).train
    samples.paths[2].write_bytes(samples.paths[2].read_bytes()[:200])
    store = ImageStore(samples.paths, [[1.0]] * len(samples), 10**8)
    broken = store.preload()
    assert list(broken) == [2] and samples.paths[2].name in str(broken[2])
    assert len(pickle.dumps(store)) < store.get(0)[0].pixels.nbytes
    assert (pickle.loads(pickle.dumps(store)).get(0)[0].pixels == store.get(0)[0].pixels).all()


def test_train_and_valid_come_first_among_splits(copied: Path) -> None:
    table = copied / "annotations.csv"
    head, *lines = table.read_text(encoding="utf-8").splitlines()
    splits = ["test2", "valid", "test1", *["train"] * len(lines)]
    marked = [f"{line},{split}" for line, split in zip(lines, splits, strict=False)]
    table.write_text("\n".join([f"{head},split", *marked]), encoding="utf-8")
    assert list(load(copied).by_split) == ["train", "valid", "test2", "test1"]
