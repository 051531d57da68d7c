"""DICOM files made here by pydicom: what a person would see of them, and their pixel size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLosslessSV1

from backend.data.annotations import read_annotations
from backend.data.dicom import is_dicom, read_spacing
from backend.data.images import read_image, read_image_size, read_mm_per_px_xy
from backend.errors import UserError

Pixels = np.ndarray[Any, Any]


def write_dicom(path: Path, pixels: Pixels, *, bits: int = 16, **fields: Any) -> Path:
    """A file with these pixels (H, W) or (H, W, 3) and whatever else is asked for."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = fields.pop("syntax", ExplicitVRLittleEndian)
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    dataset.PatientName = "Secret^Name"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = pixels.itemsize * 8
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    dataset.PixelData = fields.pop("data", pixels.tobytes())
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def ramp() -> Pixels:
    """24 x 40 pixels of 12 bit, each row from 0 to 3900."""
    return np.tile(np.arange(40, dtype=np.uint16) * 100, (24, 1))


def test_a_window_is_applied_and_the_size_read_from_the_header(tmp_path: Path, ramp: Pixels) -> None:
    path = write_dicom(tmp_path / "x.dcm", ramp, bits=12, WindowCenter="1000.5", WindowWidth="1001")
    image = read_image(path)
    assert image.shape == (24, 40) == read_image_size(path) and image.dtype == np.uint8
    # PS3.3 C.11.2.1.2.1: black up to 500, white from 1500 on, linear between
    assert (image[0, :6] == 0).all() and (image[0, 15:] == 255).all()
    assert image[0, 10] == round(255 * 0.5) and image[0, 12] == round(255 * 0.7)


def test_of_several_windows_the_first_counts_and_the_rescaling_comes_before(
    tmp_path: Path, ramp: Pixels
) -> None:
    path = write_dicom(
        tmp_path / "x.dcm", ramp, bits=12, RescaleSlope="2", RescaleIntercept="-1000",
        WindowCenter=["1000.5", "9"], WindowWidth=["2001", "9"],
    )  # fmt: skip
    image = read_image(path)  # 2 v - 1000 from 0 to 2000: v from 500 to 1500
    assert image[0, 5] == 0 and image[0, 15] == 255 and image[0, 10] == round(255 * 0.5)


def test_monochrome1_is_turned_round(tmp_path: Path, ramp: Pixels) -> None:
    plain = read_image(
        write_dicom(tmp_path / "2.dcm", ramp, bits=12, WindowCenter="2048", WindowWidth="4096")
    )
    turned = write_dicom(
        tmp_path / "1.dcm", ramp, bits=12, WindowCenter="2048", WindowWidth="4096",
        PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    assert np.array_equal(read_image(turned), 255 - plain)
    assert plain[0, 0] < plain[0, -1]


def test_without_a_window_16_bit_goes_through_the_percentiles_and_8_bit_stays(
    tmp_path: Path, ramp: Pixels
) -> None:
    image = read_image(write_dicom(tmp_path / "deep.dcm", ramp, bits=16))
    assert image.min() == 0 and image.max() == 255
    grey = (ramp // 40).astype(np.uint8)
    assert np.array_equal(read_image(write_dicom(tmp_path / "grey.dcm", grey, bits=8)), grey)


@pytest.mark.parametrize("width", ["0", "-5", "0.5"])
def test_a_window_that_the_standard_forbids_is_none(tmp_path: Path, ramp: Pixels, width: str) -> None:
    plain = read_image(write_dicom(tmp_path / "plain.dcm", ramp, bits=12))
    windowed = write_dicom(tmp_path / "x.dcm", ramp, bits=12, WindowCenter="1000", WindowWidth=width)
    assert np.array_equal(read_image(windowed), plain)


def test_a_table_of_grey_values_comes_before_a_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.add_new("LUTData", "US", [0, 255, 100, 50])
    pixels = np.array([[0, 1, 2, 3]] * 2, np.uint16)
    path = write_dicom(tmp_path / "x.dcm", pixels, VOILUTSequence=[table], WindowCenter="1", WindowWidth="2")
    assert read_image(path)[0].tolist() == [0, 255, 100, 50]


@pytest.mark.parametrize("kind", ["US", "OW"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_table_may_be_longer_than_its_entries_are_wide(
    tmp_path: Path, ramp: Pixels, bits: int, kind: str
) -> None:
    entries = np.round(np.linspace(0, 2**bits - 1, 4096)).astype(np.uint16)
    table = Dataset()
    table.LUTDescriptor = [4096, 0, bits]
    table.add_new("LUTData", kind, entries.tolist() if kind == "US" else entries.astype("<u2").tobytes())
    image = read_image(write_dicom(tmp_path / "x.dcm", ramp, bits=12, VOILUTSequence=[table]))
    assert image[0].tolist() == pytest.approx((ramp[0] / 4095 * 255).tolist(), abs=1)


def test_a_rescaling_that_changes_nothing_leaves_8_bit_as_they_are(tmp_path: Path, ramp: Pixels) -> None:
    faint = (ramp // 64 + 90).astype(np.uint8)
    path = write_dicom(tmp_path / "x.dcm", faint, bits=8, RescaleSlope="1", RescaleIntercept="0")
    assert (read_image(path) == faint).all()


def test_colour_is_rgb_and_equal_channels_are_grey(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    assert np.array_equal(read_image(write_dicom(tmp_path / "c.dcm", colour, bits=8)), colour)
    grey = np.repeat(colour[..., :1], 3, axis=2)
    assert np.array_equal(read_image(write_dicom(tmp_path / "g.dcm", grey, bits=8)), colour[..., 0])


def test_jpeg_is_decoded(tmp_path: Path) -> None:
    grey = np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1))
    data = encapsulate([cv2.imencode(".jpg", grey)[1].tobytes()])
    path = write_dicom(tmp_path / "j.dcm", grey, bits=8, syntax=JPEGBaseline8Bit, data=data)
    assert np.abs(read_image(path).astype(int) - grey).max() <= 6


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, ((0.1, 0.2), "PixelSpacing")),  # rows first
        ({"ImagerPixelSpacing": [0.15, 0.15]}, ((0.15, 0.15), "ImagerPixelSpacing")),
        ({"PixelSpacing": [0.13, 0.13], "ImagerPixelSpacing": [0.15, 0.15]}, ((0.13, 0.13), "PixelSpacing")),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.15, 0.15]}, ((0.15, 0.15), "ImagerPixelSpacing")),
        ({"PixelSpacing": 0.2, "ImagerPixelSpacing": [0.15, 0.15]}, ((0.15, 0.15), "ImagerPixelSpacing")),
        ({}, None),
    ],
)
def test_spacing_and_which_field_says_so(
    tmp_path: Path, ramp: Pixels, fields: dict[str, Any], expected: tuple[Any, str] | None
) -> None:
    path = write_dicom(tmp_path / "x.dcm", ramp, **fields)
    spacing = read_spacing(path)
    assert (None if spacing is None else (spacing.mm_per_px_xy, spacing.field)) == expected
    assert np.array_equal(
        read_mm_per_px_xy(path), expected[0] if expected else (np.nan, np.nan), equal_nan=True
    )


def test_a_file_without_a_suffix_is_known_by_its_bytes(tmp_path: Path, ramp: Pixels) -> None:
    path = write_dicom(tmp_path / "IM0001", ramp)
    assert is_dicom(path) and read_image(path).shape == (24, 40)
    assert not is_dicom(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"NumberOfFrames": 2, "data": bytes(24 * 40 * 4)}, "holds 2 pictures"),
        ({"syntax": JPEGLosslessSV1, "data": encapsulate([b"x" * 10])}, "compressed as JPEG Lossless"),
        ({"syntax": JPEGBaseline8Bit, "data": encapsulate([b"x" * 10])}, "damaged DICOM"),
        ({"Rows": 99}, "damaged DICOM"),
    ],
)
def test_what_cannot_be_shown_is_named(
    tmp_path: Path, ramp: Pixels, fields: dict[str, Any], words: str
) -> None:
    path = write_dicom(tmp_path / "bad.dcm", ramp, **fields)
    with pytest.raises(UserError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "Secret" not in str(caught.value) and caught.value.cure


def test_a_file_that_is_cut_off_is_damaged(tmp_path: Path, ramp: Pixels) -> None:
    path = write_dicom(tmp_path / "cut.dcm", ramp)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        read_image(path)


def test_a_data_set_may_hold_dicom_and_takes_its_pixel_size(tmp_path: Path, ramp: Pixels) -> None:
    write_dicom(tmp_path / "a.dcm", ramp, PixelSpacing=[0.2, 0.1])
    write_dicom(tmp_path / "b.dcm", ramp, PixelSpacing=[0.2, 0.1])
    (tmp_path / "labels.csv").write_text("image,nose_x,nose_y,mm_per_px\na.dcm,3,4,\nb.dcm,5,6,0.5\n")
    images = read_annotations(tmp_path).images
    assert images[["height", "width"]].to_numpy().tolist() == [[24, 40]] * 2
    assert images[["mm_per_px_x", "mm_per_px_y"]].to_numpy().tolist() == [[0.1, 0.2], [0.5, 0.5]]
