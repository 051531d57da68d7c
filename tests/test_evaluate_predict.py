"""The commands that use a checkpoint, on one that a real run on the tiny data set left."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

import train
from backend import evaluate, predict
from backend.data.annotations import read_annotations
from backend.data.samples import Samples, load_splits
from backend.evaluation.record import measure
from backend.flags import run_command
from backend.training.inference import Predictor, load_predictor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    runs_dir = tmp_path_factory.mktemp("runs")
    flags = [
        "--dataset_path",
        str(tiny_dataset),
        "--image_size",
        "64",
        "64",
        "--epochs",
        "2",
        "--batch_size",
        "4",
        "--no-refine",
    ]
    assert run_command(train.main, [*flags, "--runs_dir", str(runs_dir)]) == 0
    return next(runs_dir.glob("*/checkpoints/best.pt"))


def test_evaluate_writes_the_metrics_of_a_split(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    flags = ["--checkpoint", str(checkpoint), "--dataset_path", str(tiny_dataset), "--split", "train"]
    assert run_command(evaluate.main, [*flags, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert set(result) >= {
        "mre_px", "mre_mm", "sdr_2mm", "sdr_2.5mm", "sdr_3mm", "sdr_4mm", "num_images", "per_landmark",
    }  # fmt: skip
    assert result["about"]["split"] == "train" and result["about"]["excluded"] == []
    assert result["readers"]["names"] == ["annotator"]
    assert list(result["per_landmark"]) == ["nose", "chin", "ear"]
    assert result["num_images"] == 11
    assert result["mre_mm"] == pytest.approx(result["mre_px"] / 2)
    mean = np.mean([landmark["mre_px"] for landmark in result["per_landmark"].values()])
    assert result["mre_px"] == pytest.approx(mean)
    capsys.readouterr()
    assert run_command(evaluate.main, [*flags, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for record in (printed, result):
        record["about"].pop("time")
    assert printed == result


def test_another_data_set_is_measured_whole(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of it was kept from training as validation; that split is carved only if it is requested."""
    shutil.copytree(tiny_dataset, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").glob("*.png"):
        cv2.imwrite(str(path), 255 - np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))
    flags = ["--checkpoint", str(checkpoint), "--dataset_path", str(tmp_path / "elsewhere"), "--json", "-"]
    for split, num_images in (("train", 12), ("valid", 1)):
        assert run_command(evaluate.main, [*flags, "--split", split]) == 0
        assert json.loads(capsys.readouterr().out)["num_images"] == num_images


def test_a_data_set_that_cannot_be_meant_is_measured_and_its_problem_shown(
    checkpoint: Path, dataset_in_shares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", str(checkpoint), "--dataset_path", str(dataset_in_shares), "--json", "-"]
    assert run_command(evaluate.main, [*flags, "--split", "train"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["num_images"] == 11  # the run knows its own images
    assert "problem: in shares: all coordinates lie within 0 to 1" in printed.err


def test_excluded_images_are_left_out_and_strangers_named(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [str(name) for name in read_annotations(tiny_dataset).images["image_id"]]
    exclude = tmp_path / "exclude.txt"
    # utf-8-sig, as an editor of Windows may write it
    exclude.write_text("\n".join([*ids[:4], "no-such-image"]), encoding="utf-8-sig")
    flags = ["--checkpoint", str(checkpoint), "--dataset_path", str(tiny_dataset), "--split", "train"]
    assert run_command(evaluate.main, [*flags, "--exclude", str(exclude), "--json", "-"]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert record["num_images"] in (7, 8)  # one of the four may be in the validation split
    assert len(record["about"]["excluded"]) == 11 - record["num_images"]
    assert not set(record["errors"]["image_ids"]) & set(ids[:4])
    assert "no-such-image" in printed.err


def load_older(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint from before fingerprints were kept: what it was trained on is read from today's folder."""
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    del content["learned_from"]
    return content


@pytest.fixture
def with_test_split(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A data set elsewhere: one of its two test images is 03.png of the training data, one is new."""
    folder = tmp_path / "other"
    folder.mkdir()
    header, *lines = (tiny_dataset / "annotations.csv").read_text(encoding="utf-8").splitlines()
    shutil.copyfile(tiny_dataset / "03.png", folder / "copy.png")
    rng = np.random.default_rng(3)
    cv2.imwrite(str(folder / "new.png"), rng.integers(0, 255, (96, 80), np.uint8))
    rows = [
        f"{header},split",
        *(f"{lines[3].replace('03.png', name)},test" for name in ("copy.png", "new.png")),
    ]
    (folder / "annotations.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("flags", "num_images", "message"),
    [
        ([], 2, "1 of the 2 images are in the training data: the error looks too small."),
        (["--leaked", "leave_out"], 1, "1 images left out: they are in the training data."),
    ],
)
def test_images_of_the_training_data_are_counted_and_said_or_left_out(
    checkpoint: Path,
    with_test_split: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    num_images: int,
    message: str,
) -> None:
    report = tmp_path / "report.html"
    always = [
        "--checkpoint",
        str(checkpoint),
        "--dataset_path",
        str(with_test_split),
        "--report",
        str(report),
    ]
    assert run_command(evaluate.main, [*always, "--json", "-", *flags]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert record["num_images"] == num_images and message in printed.err
    expected = {"image_ids": ["copy.png"], "left_out": bool(flags), "known_by": "list", "num_unseen": 0}
    assert record["about"]["leaked"] == expected
    assert ("copy.png" in record["errors"]["image_ids"]) is not bool(flags)
    assert message in report.read_text(encoding="utf-8")


def test_images_that_the_first_network_was_trained_on_in_another_run_are_counted_too(
    checkpoint: Path,
    with_test_split: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    header, *lines = (tiny_dataset / "annotations.csv").read_text(encoding="utf-8").splitlines()
    refined_on = tmp_path / "without image 3"
    refined_on.mkdir()
    for name in ("00.png", "01.png"):
        shutil.copyfile(tiny_dataset / name, refined_on / name)
    (refined_on / "annotations.csv").write_text("\n".join([header, *lines[:2]]), encoding="utf-8")
    loaded = load_older(checkpoint)
    args = copy.deepcopy(loaded["args"])
    args["chosen"].pop("dataset_path", None)
    args["settings"]["dataset_path"] = str(refined_on)
    for name, content in (("alone", {"args": args}), ("both", {"args": args, "first_args": loaded["args"]})):
        torch.save({**loaded, **content}, tmp_path / f"{name}.pt")
        flags = ["--checkpoint", str(tmp_path / f"{name}.pt"), "--dataset_path", str(with_test_split)]
        assert run_command(evaluate.main, [*flags, "--json", "-"]) == 0
        image_ids = json.loads(capsys.readouterr().out)["about"]["leaked"]["image_ids"]
        assert image_ids == (["copy.png"] if name == "both" else [])


def test_what_was_trained_on_can_be_unknown_but_then_not_left_out(
    checkpoint: Path, with_test_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_older(checkpoint)
    loaded["args"]["settings"]["dataset_path"] = str(tmp_path / "gone")
    loaded["args"]["chosen"].pop("dataset_path", None)
    moved = tmp_path / "run" / "checkpoints" / "best.pt"
    moved.parent.mkdir(parents=True)
    torch.save(loaded, moved)
    flags = ["--checkpoint", str(moved), "--dataset_path", str(with_test_split)]
    assert run_command(evaluate.main, flags) == 0
    assert "is unknown" in capsys.readouterr().out
    assert run_command(evaluate.main, [*flags, "--leaked", "leave_out"]) == 2
    assert "leaked: images of the training data cannot be found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "test9"], "choose"),
        (["--split", "train", "--annotation_type", "Nobody"], "choose mean"),
        (
            ["--split", "train", "--leaked", "leave_out"],
            "every image of this split is in the training data",
        ),
        (["--split", "train", "--checkpoint", "nowhere.pt"], "is not a file"),
        (
            ["--split", "train", "--nme_landmarks", "nose", "knee"],
            "no landmark knee; name two of nose, chin, ear",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    checkpoint: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    always = ["--checkpoint", str(checkpoint), "--dataset_path", str(tiny_dataset)]
    assert run_command(evaluate.main, [*always, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and "Traceback" not in err


def test_a_report_is_written_and_the_errors_are_normalised_as_asked(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    record_path, report_path = tmp_path / "new" / "r.json", tmp_path / "new" / "r.html"
    flags = ["--checkpoint", str(checkpoint), "--dataset_path", str(tiny_dataset), "--split", "valid"]
    flags += ["--nme_landmarks", "nose", "chin", "--json", str(record_path), "--report", str(report_path)]
    assert run_command(evaluate.main, flags) == 0
    record, report = json.loads(record_path.read_text()), report_path.read_text(encoding="utf-8")
    assert record["num_images"] == 1 and record["nme_by"] == ["nose", "chin"]
    (image,) = record["worst_images"]
    nose, chin = image["true_xy_image"][:2]
    assert record["nme"] == pytest.approx(record["mre_px"] / np.hypot(nose[0] - chin[0], nose[1] - chin[1]))
    assert f"{record['mre_mm']:.2f} " in report and "NME, by nose to chin" in report
    assert report.count("data:image/jpeg") == 1


def test_points_before_a_refinement_are_measured_where_the_predictions_have_them(
    checkpoint: Path, tiny_dataset: Path
) -> None:
    predictor = load_predictor(checkpoint, "cpu")
    splits = load_splits(
        tiny_dataset,
        dataset_format="auto",
        annotation_type="mean",
        val_fraction=0.1,
        seed=0,
        for_training=False,
    )
    samples = splits.train

    class Refined:
        task = predictor.task

        def predict(self, samples: Samples, on_batch: Any) -> SimpleNamespace:
            points = samples.points_xy_image
            return SimpleNamespace(
                points_xy_image=points,
                confidence=np.ones(points.shape[:2]),
                unrefined_xy_image=points + 3,
                unshaped_xy_image=points + 2,
            )

    comparison = evaluate.compare(cast(Predictor, Refined()), samples, splits, "mean")
    record = measure(comparison)
    assert record["mre_px"] == 0.0
    assert record["unrefined"]["mre_px"] == pytest.approx(np.hypot(3, 3), rel=1e-4)
    assert record["unshaped"]["mre_px"] == pytest.approx(np.hypot(2, 2), rel=1e-4)
    assert record["unrefined"]["sdr_2mm"] == 0.0


def test_predictions_can_be_read_back_and_are_drawn(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out, overlays = tmp_path / "out" / "predictions.csv", tmp_path / "overlays"
    flags = ["--checkpoint", str(checkpoint), "--images", str(tiny_dataset), "--out", str(out)]
    assert run_command(predict.main, [*flags, "--overlays", str(overlays)]) == 0
    read = read_annotations(out)
    assert read.landmark_names == ("nose", "chin", "ear")
    assert len(read.images) == 12
    header = out.read_text().splitlines()[0]
    assert header.startswith("image,nose_x,nose_y,nose_confidence,chin_x")
    assert len(list(overlays.glob("*.png"))) == 12


def test_images_of_one_name_keep_an_overlay_each(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    image = next(tiny_dataset.glob("*.png")).read_bytes()
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "same.png").write_bytes(image)
    flags = [
        "--checkpoint",
        str(checkpoint),
        "--images",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "p.csv"),
    ]
    assert run_command(predict.main, [*flags, "--overlays", str(tmp_path / "drawn")]) == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["same-2.png", "same.png"]


def test_a_damaged_image_is_named_and_the_others_are_predicted(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next(tiny_dataset.glob("*.png")).read_bytes()
    (tmp_path / "whole.png").write_bytes(image)
    (tmp_path / "cut.png").write_bytes(image[:200])
    out = tmp_path / "p.csv"
    flags = ["--checkpoint", str(checkpoint), "--out", str(out), "--images"]
    assert run_command(predict.main, [*flags, str(tmp_path)]) == 0
    assert "cut.png" in capsys.readouterr().err
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["image", "whole.png"]
    assert run_command(predict.main, [*flags, str(tmp_path / "cut.png")]) == 2


def test_a_folder_without_images_is_a_mistake(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", str(checkpoint), "--images", str(tmp_path), "--out", str(tmp_path / "p.csv")]
    assert run_command(predict.main, flags) == 2
    assert "no image at" in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()


def test_a_list_gives_pixel_sizes_and_json_and_maps_are_written(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("00.png", "01.png"):
        (tmp_path / name).write_bytes((tiny_dataset / name).read_bytes())
    (tmp_path / "list.csv").write_text("image,mm_per_px_x,mm_per_px_y\n.\\\\01.png,0.25,0.5\n00.png,,\n")
    out, maps = tmp_path / "p.csv", tmp_path / "maps"
    flags = ["--checkpoint", str(checkpoint), "--images", str(tmp_path / "list.csv"), "--out", str(out)]
    assert run_command(predict.main, [*flags, "--json", "-", "--maps", str(maps)]) == 0
    first, second = json.loads(capsys.readouterr().out)["images"]
    assert (first["image"], first["mm_per_px_xy"]) == ("01.png", [0.25, 0.5])
    assert (second["image"], second["mm_per_px_xy"]) == ("00.png", None)
    read = read_annotations(out)
    assert read.images["mm_per_px_y"].fillna(0).tolist() == [0.5, 0]
    for image in (first, second):
        with np.load(maps / image["image"].replace(".png", ".npz")) as arrays:
            heatmaps, affines = arrays["heatmaps"], arrays["affine_heatmap_to_image"]
        assert heatmaps.dtype == np.uint8 and heatmaps.shape[0] == 3 and affines.shape == (1, 2, 3)
        for landmark, heatmap in zip(image["landmarks"].values(), heatmaps, strict=True):
            row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
            cell_px = np.diag(affines[0, :, :2])  # an expectation within 7 cells of the peak
            assert np.abs(affines[0] @ (column, row, 1) - landmark["xy"]).max() <= 7 * cell_px.max()


def test_a_list_is_read_however_it_was_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_bytes("sep=;\nfilename;mm_per_px\nچانه.png;0,25\n".encode("cp1256"))
    (tmp_path / "چانه.png").touch()
    (source,) = predict.find_images(tmp_path / "list.csv")
    assert (source.path, source.mm_per_px_xy) == (tmp_path / "چانه.png", (0.25, 0.25))
    assert "read as cp1256" in capsys.readouterr().err


def test_the_images_of_a_list_are_found_as_those_of_annotations_are(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("A b.png", "0001.png"):
        shutil.copyfile(tiny_dataset / "00.png", tmp_path / name)
    names = ["D:\\films\\a%20b.png", "cam1/0001.png", "cam2/0001.png", "gone.png"]
    file = tmp_path / "list.csv"
    file.write_text("\n".join(["image,mm_per_px", *(f"{name},0.5" for name in names)]))
    assert predict.find_images(file) == [predict.Source(tmp_path / "A b.png", (0.5, 0.5))]
    near, first, second, gone = capsys.readouterr().err.splitlines()
    assert "line 2: image D:/films/a%20b.png does not exist: " in near and "A b.png was used" in near
    assert "line 3: image cam1/0001.png is ambiguous" in first and "cam2/0001.png" in first
    assert "line 4: image cam2/0001.png is ambiguous" in second and "cam1/0001.png" in second
    assert gone.endswith("line 5: image gone.png is missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image\ngone.png\n", "none of its 1 images exists"),
        ("picture\na.png\n", "lists no image"),
        ("", "lists no image"),
        ("image,mm_per_px\na.png,small\n", "line 2: 'small' and 'small' are not a pixel size"),
        ("image,mm_per_px\na.png,0\n", "line 2: '0' and '0' are not a pixel size"),
        ("image,mm_per_px\na.png,-0.1\n", "line 2: '-0.1' and '-0.1' are not a pixel size"),
        ("image,mm_per_px_x,mm_per_px_y\na.png,0.1,inf\n", "line 2: '0.1' and 'inf' are not a pixel size"),
        ("mm_per_px,image\n0.1\n", "line 2: no image"),
    ],
)
def test_a_list_that_cannot_be_used_is_a_mistake(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "list.csv").write_text(text)
    flags = ["--checkpoint", str(checkpoint), "--images", str(tmp_path / "list.csv")]
    assert run_command(predict.main, [*flags, "--out", str(tmp_path / "p.csv")]) == 2
    assert message in capsys.readouterr().err
