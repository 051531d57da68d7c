"""The command that shows what a training sees."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from backend import views
from backend.errors import UserError

FLAGS = ["--image_size", "64", "64"]


def test_decoding_error_and_pictures_as_json(tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--dataset_path",
        str(tiny_dataset),
        *FLAGS,
        "--image",
        "03.png",
        "--num_views",
        "2",
        "--json",
        "-",
    ]
    assert views.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0 < report["floor"]["mre_px"] < 0.5
    assert report["floor"]["mre_mm"] == pytest.approx(report["floor"]["mre_px"] * 0.5)
    assert report["crop_floor"]["num_images"] == report["floor"]["num_images"] == 11
    pictures = [_decode(base64.b64decode(view)) for view in report["views"]]
    assert [picture.shape for picture in pictures] == [(64, 64, 3)] * 3
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_epochs_are_those_of_a_training(tiny_dataset: Path, tmp_path: Path) -> None:
    def draw(first_epoch: int, num_views: int) -> list[bytes]:
        out = tmp_path / f"{first_epoch}"
        arguments = [
            "--dataset_path",
            str(tiny_dataset),
            *FLAGS,
            "--image",
            "03.png",
            "--no-floor",
            "--out",
            str(out),
        ]
        views.main([*arguments, "--first_epoch", str(first_epoch), "--num_views", str(num_views)])
        return [path.read_bytes() for path in sorted(out.iterdir())]

    first, later = draw(1, 4), draw(3, 2)
    assert later == [first[0], *first[3:]]


def test_without_augmentation_every_epoch_is_the_plain_image(tiny_dataset: Path, tmp_path: Path) -> None:
    off = ["--rotation_deg", "0", "--scale_jitter", "0", "--shift_jitter", "0", "--photometric", "0"]
    arguments = ["--dataset_path", str(tiny_dataset), *FLAGS, *off, "--image", "03.png", "--no-floor"]
    views.main([*arguments, "--num_views", "2", "--out", str(tmp_path / "out")])
    assert len({path.read_bytes() for path in (tmp_path / "out").iterdir()}) == 1


def test_the_decoding_error_as_text(tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views.main(["--dataset_path", str(tiny_dataset), *FLAGS, "--no-refine"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("decoding error on whole images: 0.") and " mm (11 images)" in line


def test_an_unknown_image_is_told(tiny_dataset: Path) -> None:
    with pytest.raises(UserError, match="no image 'x'"):
        views.main(["--dataset_path", str(tiny_dataset), *FLAGS, "--no-floor", "--image", "x"])


def _decode(encoded: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
