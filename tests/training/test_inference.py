"""A checkpoint of both networks predicts what the run that made it has scored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from backend import evaluate, predict
from backend.config import Choice, RunConfig, Settings
from backend.data.annotations import read_annotations
from backend.data.dataset import Batches
from backend.data.samples import Samples
from backend.data.shape_prior import ShapePrior
from backend.device.gpu import Driver
from backend.device.machine import Machine
from backend.device.unusable import Card, TorchBuild, find_unusable
from backend.errors import UserError
from backend.flags import run_command
from backend.run.folder import RunFolder, create_run
from backend.run.rows import merge_metrics
from backend.training import build, inference
from backend.training.checkpoint import load_checkpoint, save_checkpoint
from backend.training.inference import (
    OFFSET_RADIUS_PX,
    Predictor,
    crop_offsets,
    load_predictor,
    unlabelled_samples,
)
from backend.worker import train_run
from tests.tiny_network import TinyNetwork


@pytest.fixture(scope="module", autouse=True)
def tiny_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_model", lambda name, num, output_stride: TinyNetwork(num))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> RunFolder:
    """A run whose refinement is better than its first network."""
    settings = Settings(
        image_size=(64, 64), batch_size=3, epochs=2, lr=1e-2, warmup_epochs=0, val_fraction=0.25,
        refine_epochs=3,
        refine_crops=6, crop_size=32, num_refiners=2, prediction_crops=1,
        dataset_path=str(tiny_dataset), device="cpu", num_workers=0,
    )  # fmt: skip
    chosen = {
        "dataset_path": Choice(str(tiny_dataset), "as asked"),
        "mixed_precision": Choice(False, "a CPU"),
    }
    folder = create_run(tmp_path_factory.mktemp("runs"), RunConfig(settings, chosen).to_dict(), "tiny")
    assert train_run(folder) == 0
    return folder


@pytest.fixture(scope="module")
def best_path(run: RunFolder) -> Path:
    path = run.checkpoint_path("best")
    assert load_checkpoint(path)["phase"] == "refine", "else there is nothing to see here"
    return path


@pytest.fixture(scope="module")
def predictor(best_path: Path) -> Predictor:
    return load_predictor(best_path, "cpu")


@pytest.fixture(scope="module")
def valid(predictor: Predictor) -> Samples:
    samples = build.build_splits(predictor.config).valid
    assert samples is not None
    return samples


@pytest.mark.slow
def test_evaluate_gives_what_the_runs_validation_gave(
    run: RunFolder, best_path: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = merge_metrics(run.read_metrics()[0])
    best = load_checkpoint(best_path)
    row = next(row for row in rows if (row["phase"], row["epoch"]) == ("refine", best["epoch"]))
    flags = ["--checkpoint", str(best_path), "--dataset_path", str(tiny_dataset), "--split", "valid"]
    assert run_command(evaluate.main, [*flags, "--json", "-", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_images"] == 3
    for name in ("mre_px", "mre_mm", "sdr_2mm", "sdr_4mm"):
        assert result[name] == pytest.approx(row[f"val/{name}"], rel=1e-6)
    for landmark, metrics in result["per_landmark"].items():
        assert metrics["mre_px"] == pytest.approx(row[f"val/mre_px/{landmark}"], rel=1e-6)
    assert result["mre_px"] < row["val/unrefined_mre_px"]


def test_the_first_networks_points_are_given_beside(
    predictor: Predictor, valid: Samples, best_path: Path
) -> None:
    refined = predictor.predict(valid)
    first_alone = replace(predictor, refiner=None).predict(valid)
    assert first_alone.unrefined_xy_image is None
    assert refined.unrefined_xy_image is not None
    np.testing.assert_allclose(refined.unrefined_xy_image, first_alone.points_xy_image)
    errors = np.linalg.norm(refined.unrefined_xy_image - valid.points_xy_image, axis=-1)
    unrefined = load_checkpoint(best_path)["networks"]["refine"]["unrefined"]
    assert errors.mean() == pytest.approx(unrefined["mre_px"], rel=1e-6)
    moved = np.abs(refined.points_xy_image - refined.unrefined_xy_image)
    assert 0 < moved.max() <= 16.01  # within a crop of 32 image pixels
    assert (
        refined.confidence.shape == (3, 3) and ((refined.confidence >= 0) & (refined.confidence <= 1)).all()
    )


def test_images_of_several_sizes_are_predicted_together_as_each_alone(
    predictor: Predictor, tiny_dataset: Path, tmp_path: Path
) -> None:
    paths = []
    for number, (width, height) in enumerate([(80, 96), (160, 192), (200, 96), (37, 50), (80, 96)]):
        image = cv2.imread(str(tiny_dataset / f"{number:02d}.png"), cv2.IMREAD_UNCHANGED)
        assert image is not None
        if number == 4:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), cv2.resize(image, (width, height)))
    # colour and grey images lie in one batch, too
    heard: list[int] = []
    together = predictor.predict(unlabelled_samples(paths, 3), on_batch=heard.append)
    assert heard == [5]
    for number, path in enumerate(paths):
        alone = predictor.predict(unlabelled_samples([path], 3))
        for name in ("points_xy_image", "confidence", "unrefined_xy_image"):
            one, all_of_them = getattr(alone, name)[0], getattr(together, name)[number]
            np.testing.assert_allclose(one, all_of_them, rtol=1e-4, atol=1e-3)
        assert np.isfinite(alone.points_xy_image).all()


def test_more_images_than_a_batch_come_in_order(predictor: Predictor, tiny_dataset: Path) -> None:
    paths = sorted(tiny_dataset.glob("*.png"))
    samples = unlabelled_samples(paths, 3)
    heard: list[int] = []
    forward = predictor.predict(samples, on_batch=heard.append)
    backward = predictor.predict(samples.take(list(range(len(paths)))[::-1]))
    assert heard == [8, 4]
    np.testing.assert_allclose(forward.points_xy_image, backward.points_xy_image[::-1], atol=1e-3)
    assert forward.unrefined_xy_image is not None and forward.unrefined_xy_image.shape == (12, 3, 2)


def test_predict_writes_the_refined_points(
    predictor: Predictor, best_path: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    flags = [
        "--checkpoint",
        str(best_path),
        "--images",
        str(tiny_dataset),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    assert run_command(predict.main, flags) == 0
    expected = predictor.predict(unlabelled_samples(sorted(tiny_dataset.glob("*.png")), 3))
    read = read_annotations(out)
    np.testing.assert_allclose(read.points_xy_image[:, 0], expected.points_xy_image, atol=2e-3)


def test_a_checkpoint_without_a_second_network_predicts_with_the_first(
    best_path: Path, valid: Samples, predictor: Predictor, tmp_path: Path
) -> None:
    content: dict[str, Any] = {**load_checkpoint(best_path), "networks": {}}
    content.pop("format_version")
    save_checkpoint(tmp_path / "one.pt", content)
    one = load_predictor(tmp_path / "one.pt", "cpu").predict(valid)
    assert one.unrefined_xy_image is None
    np.testing.assert_allclose(one.points_xy_image, predictor.predict(valid).unrefined_xy_image)


def test_several_crops_stand_about_the_point_and_their_answers_are_averaged(
    run: RunFolder, tiny_dataset: Path
) -> None:
    assert (crop_offsets(1) == 0).all()
    offsets = crop_offsets(8)
    assert (offsets[0] == 0).all() and np.hypot(*offsets.T).max() == pytest.approx(OFFSET_RADIUS_PX)
    assert len(np.unique(offsets.round(6), axis=0)) == 8
    predictor = load_predictor(run.checkpoint_path("best"), "cpu")
    samples = build.build_splits(predictor.config).by_split["valid"]
    many = predictor.config.settings.model_copy(update={"prediction_crops": 4})
    averaged = replace(predictor, config=replace(predictor.config, settings=many)).predict(samples)
    one = predictor.predict(samples)
    assert np.array_equal(averaged.unrefined_xy_image, one.unrefined_xy_image)
    assert not np.array_equal(averaged.points_xy_image, one.points_xy_image)
    distance = np.hypot(*np.moveaxis(averaged.points_xy_image - one.points_xy_image, -1, 0))
    assert np.isfinite(distance).all() and distance.max() < 20  # crops of 32 px, an almost untrained network


def test_maps_of_the_last_network_are_told_with_their_place(predictor: Predictor, valid: Samples) -> None:
    heard: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    found = predictor.predict(valid, on_maps=lambda maps, affines: heard.append((maps, affines)))
    maps, affines = (np.concatenate(parts) for parts in zip(*heard, strict=True))  # batch after batch
    assert maps.dtype == np.uint8 and maps.shape == (3, 3, 16, 16)  # crops of 32 pixels at stride 2
    assert affines.shape == (3, 3, 2, 3)
    middle = affines @ (7.5, 7.5, 1.0)  # of each crop: the first network's point
    np.testing.assert_allclose(middle, found.unrefined_xy_image, atol=1e-6)
    first_alone = replace(predictor, refiner=None)
    heard.clear()
    first_alone.predict(valid, on_maps=lambda maps, affines: heard.append((maps, affines)))
    assert heard[0][0].shape[:2] == (3, 3) and heard[0][1].shape == (3, 1, 2, 3)


def test_a_checkpoint_from_a_gpu_predicts_here_without_pinned_memory(
    predictor: Predictor, valid: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[bool] = []

    class Watched(Batches):
        def __init__(self, *args: Any, pin_memory: bool, **options: Any) -> None:
            pinned.append(pin_memory)
            super().__init__(*args, pin_memory=pin_memory, **options)

    monkeypatch.setattr(build, "Batches", Watched)
    chosen = {**predictor.config.chosen, "device": Choice("cuda:1", "as asked")}
    replace(predictor, config=RunConfig(predictor.config.settings, chosen)).predict(valid)
    assert pinned == [False] * 2  # for each network


def test_auto_passes_over_a_gpu_that_torch_cannot_use_and_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = [Card("cuda:0", "RTX A", (8, 6))]
    unusable = find_unusable(cards, Driver("535", (12, 2)), TorchBuild("2.13.0", "13.0", ()), "too old")
    machine = Machine((), 2, "2.13.0", cpu_bfloat16=False, unusable=unusable)
    monkeypatch.setattr(inference, "describe_machine", lambda: machine)
    assert inference._choose_device("auto") == inference._choose_device("cpu") == torch.device("cpu")
    told = capsys.readouterr().err
    assert told.count("RTX A (cuda:0) cannot be used") == 1 and "580" in told
    with pytest.raises(UserError, match="serves CUDA 12") as caught:
        inference._choose_device("cuda")
    assert caught.value.field == "device" and "580" in caught.value.cure
    with pytest.raises(UserError, match="device"):
        inference._choose_device("tpu")


def test_a_prediction_that_memory_does_not_suffice_for_is_a_mistake_with_a_cure(
    predictor: Predictor, valid: Samples
) -> None:
    class Full(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="this computer has too little free memory") as error:
        replace(predictor, network=Full()).predict(valid)
    assert error.value.field == "device" and error.value.cure


def test_points_are_drawn_to_likely_shapes_in_millimetres_by_the_last_networks_maps(
    predictor: Predictor, valid: Samples
) -> None:
    oblong = replace(valid, images=valid.images.assign(mm_per_px_x=0.25, mm_per_px_y=0.5))
    unit = np.array([0.25, 0.5])
    plain = predictor.predict(oblong)
    prior = ShapePrior(np.array([[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]), 0.01 * np.eye(6))
    drawing = replace(predictor, shape_prior=prior)
    drawn = drawing.predict(oblong)
    assert plain.unshaped_xy_image is None and drawn.unshaped_xy_image is not None
    np.testing.assert_array_equal(drawn.unshaped_xy_image, plain.points_xy_image)
    assert drawn.spread_xy_image is not None and plain.unrefined_xy_image is not None
    spread_mm = drawn.spread_xy_image * unit[:, None] * unit
    expected = prior.draw(plain.points_xy_image * unit, spread_mm) / unit
    np.testing.assert_allclose(drawn.points_xy_image, expected)
    assert np.abs(drawn.points_xy_image - plain.points_xy_image).max() > 0.1
    # crops are about the first network's own points, and a crop's map is narrower than a whole image's
    np.testing.assert_array_equal(drawn.unrefined_xy_image, plain.unrefined_xy_image)
    first_alone = replace(drawing, refiner=None).predict(oblong)
    assert first_alone.spread_xy_image is not None
    np.testing.assert_array_equal(first_alone.unshaped_xy_image, plain.unrefined_xy_image)
    assert not np.allclose(first_alone.spread_xy_image, drawn.spread_xy_image)


def test_several_crops_are_drawn_to_shapes_as_one_answer(predictor: Predictor, valid: Samples) -> None:
    prior = ShapePrior(np.array([[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]), 0.01 * np.eye(6))
    many = predictor.config.settings.model_copy(update={"prediction_crops": 3})
    drawing = replace(predictor, config=replace(predictor.config, settings=many), shape_prior=prior)
    drawn = drawing.predict(valid)
    assert drawn.spread_xy_image is not None and drawn.spread_xy_image.shape == (3, 3, 2, 2)
    unit = valid.mm_per_px_xy[:, None]
    spread_mm = drawn.spread_xy_image * unit[..., None] * unit[..., None, :]
    assert drawn.unshaped_xy_image is not None
    np.testing.assert_allclose(
        drawn.points_xy_image, prior.draw(drawn.unshaped_xy_image * unit, spread_mm) / unit
    )
