"""The demo data set: layout, determinism, readers that disagree, shapes that vary, all or nothing on disk."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.data.annotations.aariz import LANDMARK_NAMES
from backend.data.demo import dataset as demo
from backend.data.demo.__main__ import main as demo_command
from backend.data.demo.dataset import DEMO_LANDMARKS, MACHINES, create_demo_dataset
from backend.data.demo.shape import CONTROL_MM, LANDMARKS_MM, Warp, sample_head, smooth_curve
from backend.errors import UserError

COUNTS = {"num_train": 3, "num_valid": 1, "num_test": 2}
READERS = ("Senior Orthodontists", "Junior Orthodontists")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_demo_dataset(tmp_path_factory.mktemp("demo") / "سفالومتری", **COUNTS)


def read_points(root: Path, split: str, reader: str, image_id: str) -> np.ndarray:
    folder = root / split / "Annotations" / "Cephalometric Landmarks" / reader
    content = json.loads((folder / f"{image_id}.json").read_text(encoding="utf-8"))
    assert content["ceph_id"] == image_id
    assert tuple((entry["symbol"], entry["title"]) for entry in content["landmarks"]) == DEMO_LANDMARKS
    assert len({entry["landmark_id"] for entry in content["landmarks"]}) == 29
    return np.array([[entry["value"]["x"], entry["value"]["y"]] for entry in content["landmarks"]])


def read_machines(root: Path) -> dict[str, dict[str, str]]:
    with (root / "cephalogram_machine_mappings.csv").open(encoding="utf-8", newline="") as file:
        return {row["cephalogram_id"]: row for row in csv.DictReader(file)}


def read_files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def list_images(root: Path) -> list[tuple[str, str]]:
    return [(file.parts[-3], file.stem) for file in sorted(root.glob("*/Cephalograms/*.png"))]


def test_landmarks_are_those_of_aariz_in_its_order() -> None:
    assert tuple(symbol for symbol, _ in DEMO_LANDMARKS) == LANDMARK_NAMES == tuple(LANDMARKS_MM)


def test_layout_is_complete(dataset: Path) -> None:
    images = list_images(dataset)
    machines = read_machines(dataset)
    splits = [split for split, _ in images]
    assert [splits.count(split) for split in ("train", "valid", "test")] == [3, 1, 2]
    assert set(machines) == {image_id for _, image_id in images}
    assert len({row["pixel_size"] for row in machines.values()}) == 3
    for split, image_id in images:
        stage = dataset / split / "Annotations" / "CVM Stages" / f"{image_id}.json"
        assert json.loads(stage.read_text(encoding="utf-8"))["cvm_stage"]["value"] in range(1, 7)


def test_landmarks_lie_inside_the_readable_grey_image(dataset: Path) -> None:
    machines = read_machines(dataset)
    for split, image_id in list_images(dataset):
        encoded = np.frombuffer((dataset / split / "Cephalograms" / f"{image_id}.png").read_bytes(), np.uint8)
        pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        assert pixels.dtype == np.uint8 and pixels.ndim == 2
        assert pixels.std() > 20
        margin_px = 2.0 / float(machines[image_id]["pixel_size"])
        for reader in READERS:
            points = read_points(dataset, split, reader, image_id)
            assert (points >= margin_px).all()
            assert (points <= np.array(pixels.shape[::-1]) - 1 - margin_px).all()


@pytest.mark.slow
def test_same_seed_same_bytes_and_another_seed_other_heads(dataset: Path, tmp_path: Path) -> None:
    again = create_demo_dataset(tmp_path / "again", **COUNTS)
    other = create_demo_dataset(tmp_path / "other", **COUNTS, seed=1)
    files = read_files(dataset)
    assert read_files(again) == files
    others = read_files(other)
    assert set(others) == set(files)
    assert all(others[name] != files[name] for name in files if name.endswith(".png"))


def test_an_image_depends_on_its_index_alone(dataset: Path) -> None:
    image = demo.render_demo_image(0, 4)
    np.testing.assert_array_equal(
        image.readings_image["Junior Orthodontists"], read_points(dataset, "test", READERS[1], "demo0005")
    )


def test_readers_disagree_within_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "draw_head", lambda *_: None)  # the readings come after the picture
    senior_mm, junior_mm, between_mm = [], [], []
    for index in range(24):
        image = demo.render_demo_image(0, index)
        senior, junior = (image.readings_image[reader] for reader in READERS)
        spacing = image.machine.mm_per_px
        senior_mm.append(np.linalg.norm(senior - image.landmarks_image, axis=1) * spacing)
        junior_mm.append(np.linalg.norm(junior - image.landmarks_image, axis=1) * spacing)
        between_mm.append(np.linalg.norm(senior - junior, axis=1) * spacing)
    assert 0.4 < np.mean(senior_mm) < 0.7
    assert 0.8 < np.mean(junior_mm) < 1.4
    assert 0.9 < np.mean(between_mm) < 1.6
    per_landmark = dict(zip(LANDMARK_NAMES, np.mean(between_mm, axis=0), strict=True))
    assert min(per_landmark["Go"], per_landmark["Or"]) > 1.5 * max(per_landmark["UIT"], per_landmark["LIT"])


def test_heads_vary_in_shape_and_have_a_realistic_size() -> None:
    rng = np.random.default_rng(0)
    heads = [sample_head(rng).landmarks_mm for _ in range(100)]
    normalised = []
    for points in heads:
        centred = points - points.mean(axis=0)
        normalised.append(centred / np.sqrt((centred**2).sum(axis=1).mean()))
    spread = np.std(normalised, axis=0)  # of the head's root mean square radius, about 50 mm
    assert spread.max(axis=1).min() > 0.015
    names = list(LANDMARKS_MM)
    sella_nasion_mm = [
        np.linalg.norm(points[names.index("S")] - points[names.index("N")]) for points in heads
    ]
    assert 64 < np.mean(sella_nasion_mm) < 74
    assert 2 < np.std(sella_nasion_mm) < 6


def test_every_patient_fits_on_every_film() -> None:
    for index in range(150):
        rng = np.random.default_rng([7, index])
        head = sample_head(rng)
        for machine in MACHINES:
            pose = demo._sample_pose(rng, machine, head.landmarks_mm, head.tilt_degrees)
            points = pose(head.landmarks_mm)
            margin_px = 6.0 / machine.mm_per_px
            assert (points > margin_px).all()
            assert (points < np.array([machine.width_px, machine.height_px]) - 1 - margin_px).all()


def test_warp_carries_the_control_points_exactly() -> None:
    target = sample_head(np.random.default_rng(3)).control_mm
    np.testing.assert_allclose(Warp(target)(CONTROL_MM), target, atol=1e-6)


@pytest.mark.parametrize("closed", [False, True])
def test_smooth_curve_passes_through_its_points(closed: bool) -> None:
    points = np.array([(0.0, 0.0), (10.0, 1.0), (12.0, 8.0), (3.0, 9.0)])
    curve = smooth_curve(points, closed=closed, num_between=5)
    np.testing.assert_allclose(curve[::5][:4], points)
    assert len(curve) == (20 if closed else 16)


def test_interrupted_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render = demo.render_demo_image

    def interrupted(seed: int, index: int) -> Any:
        if index == 1:
            raise KeyboardInterrupt
        return render(seed, index)

    monkeypatch.setattr(demo, "render_demo_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_demo_dataset(tmp_path / "demo", **COUNTS)
    assert list(tmp_path.iterdir()) == []


def test_same_spec_is_left_alone_and_another_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"num_train": 1, "num_valid": 0, "num_test": 0}
    path = create_demo_dataset(tmp_path / "demo", **one)
    before = read_files(path)
    with monkeypatch.context() as patch:
        patch.setattr(demo, "render_demo_image", None)  # would raise if called
        create_demo_dataset(path, **one)
    assert read_files(path) == before
    create_demo_dataset(path, **one, seed=5)
    assert read_files(path) != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="something else"):
        create_demo_dataset(tmp_path, **COUNTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("wrong", [{"num_test": -1}, {"seed": -1}])
def test_impossible_numbers_are_named(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError):
        create_demo_dataset(tmp_path / "demo", **(COUNTS | wrong))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_command([str(tmp_path / "demo"), "--num_train", "1", "--num_valid", "0", "--num_test", "0"])
    assert capsys.readouterr().out.count("\n") == 1
    assert len(list_images(tmp_path / "demo")) == 1
