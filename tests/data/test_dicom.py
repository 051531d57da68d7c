"""DICOM files made here by pydicom: what a person would see of them, and their pixel size."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLosslessSV1

from backend.data.annotations import read_annotations
from backend.data.dicom import is_dicom
from backend.data.images import read_image, read_image_facts, read_image_size
from backend.errors import UserError
from backend.predict import find_images
from ui.annotator.uploads import Uploads, forget, take_in

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


def test_missing_window_uses_percentiles_for_16_bit_only(tmp_path: Path, ramp: Pixels) -> None:
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
    facts = read_image_facts(write_dicom(tmp_path / "x.dcm", ramp, **fields))
    spacing_xy, field = expected or ((np.nan, np.nan), "")
    assert np.array_equal(facts.mm_per_px_xy, spacing_xy, equal_nan=True) and facts.spacing_field == field


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


def _table(**fields: Any) -> Dataset:
    item = Dataset()
    for name, value in fields.items():
        if name == "LUTData":
            item.add_new(name, "US", value)
        else:
            setattr(item, name, value)
    return item


# fields that cannot be read, and the names by which they are remarked on
UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "words for a spacing": ({"PixelSpacing": ["Secret^Name", "0.1"]}, "PixelSpacing"),
    "one number for a spacing": ({"PixelSpacing": "0.1"}, "PixelSpacing"),
    "three numbers for a spacing": ({"PixelSpacing": ["0.1", "0.1", "0.1"]}, "PixelSpacing"),
    "two numbers in one": ({"PixelSpacing": "0.1,0.1"}, "PixelSpacing"),
    "no spacing at all": ({"PixelSpacing": ["0", "0"]}, "PixelSpacing"),
    "a negative spacing": ({"PixelSpacing": ["-0.1", "0.1"]}, "PixelSpacing"),
    "an endless spacing": ({"ImagerPixelSpacing": ["inf", "nan"]}, "ImagerPixelSpacing"),
    "words for a window": ({"WindowCenter": "Secret^Name", "WindowWidth": "9"}, "WindowCenter"),
    "a window without width": ({"WindowCenter": "900"}, "WindowCenter"),
    "a window of no width": ({"WindowCenter": "900", "WindowWidth": "0"}, "WindowWidth"),
    "words for a slope": (
        {"RescaleSlope": "Secret^Name", "RescaleIntercept": "0", "WindowCenter": "9", "WindowWidth": "2"},
        "RescaleSlope",
    ),
    "a slope of nothing": ({"RescaleSlope": "0", "RescaleIntercept": "5"}, "RescaleSlope"),
    "a huge slope": ({"RescaleSlope": "1e300", "RescaleIntercept": "0"}, "RescaleSlope"),
    "words for an intercept": ({"RescaleSlope": "1", "RescaleIntercept": "Secret"}, "RescaleIntercept"),
    "a table without entries": ({"VOILUTSequence": [_table(LUTDescriptor=[4, 0, 8])]}, "VOILUTSequence"),
    "a table of nothing": ({"VOILUTSequence": [Dataset()]}, "VOILUTSequence"),
    "a table that is cut off": (
        {"VOILUTSequence": [_table(LUTDescriptor=[400, 0, 8], LUTData=[0, 9, 90])]},
        "VOILUTSequence",
    ),
    "a table of no depth": (
        {"VOILUTSequence": [_table(LUTDescriptor=[3, 0, 0], LUTData=[0, 9, 90])]},
        "VOILUTSequence",
    ),
    "a modality table that is cut off": (
        {"ModalityLUTSequence": [_table(LUTDescriptor=[400, 0, 16], LUTData=[0, 9, 90])]},
        "ModalityLUTSequence",
    ),
    "words for a number of frames": ({"NumberOfFrames": "Secret"}, "NumberOfFrames"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_optional_dicom_field_is_reported_everywhere(
    tmp_path: Path, ramp: Pixels, case: str
) -> None:
    fields, name = UNREADABLE[case]
    folder = tmp_path / "set"
    folder.mkdir()
    plain = read_image(write_dicom(tmp_path / "plain.dcm", ramp, bits=12))
    path = _write_with(folder / "x.dcm", ramp, fields)
    assert np.array_equal(read_image(path), plain)
    said = [str(remark) for remark in read_image_facts(path).remarks]
    assert len(said) == 1 and name in said[0] and "Secret" not in said[0]
    (folder / "labels.csv").write_text("image,nose_x,nose_y\nx.dcm,3,4\n", encoding="utf-8")
    annotations = read_annotations(folder)
    assert len(annotations.images) == 1
    assert said[0] in [f"{problem.what}; {problem.cure}" for problem in annotations.problems]
    (source,) = find_images(path)
    assert [str(remark) for remark in source.remarks] == said
    uploads = Uploads()
    image = take_in(uploads, path)
    assert [str(remark) for remark in image.remarks] == said
    forget(uploads)


def _write_with(path: Path, ramp: Pixels, fields: dict[str, Any]) -> Path:
    """Values that pydicom would not take are written in place of ones that it takes."""
    odd = {
        name: value
        for name, value in fields.items()
        if isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    }
    marks = {name: f"7{number}7" for number, name in enumerate(odd)}
    write_dicom(path, ramp, bits=12, **{**fields, **marks})
    dataset = dcmread(path)
    for name, value in odd.items():
        text = "\\".join([value] if isinstance(value, str) else value)
        raw = dataset.get_item(name)
        dataset[name] = RawDataElement(
            raw.tag, raw.VR, len(text), text.encode(), 0, is_implicit_VR=False, is_little_endian=True
        )
    dataset.save_as(path)
    return path


def test_a_decimal_comma_is_read_and_said(tmp_path: Path, ramp: Pixels) -> None:
    fields = {"PixelSpacing": ["0,2", "0,1"], "WindowCenter": "1000,5", "WindowWidth": "1001,0"}
    path = _write_with(tmp_path / "x.dcm", ramp, fields)
    plain = write_dicom(tmp_path / "p.dcm", ramp, bits=12, WindowCenter="1000.5", WindowWidth="1001")
    facts = read_image_facts(path)
    assert (facts.mm_per_px_xy, facts.spacing_field) == ((0.1, 0.2), "PixelSpacing")
    assert np.array_equal(read_image(path), read_image(plain))
    assert {remark.what.split()[0] for remark in facts.remarks} == set(fields)
    assert all("decimal comma" in remark.what for remark in facts.remarks)


def test_spacing_fields_that_contradict_each_other_are_reported(tmp_path: Path, ramp: Pixels) -> None:
    for imager, is_told in ((0.125, True), (0.1005, False)):
        path = write_dicom(
            tmp_path / "x.dcm", ramp, PixelSpacing=[0.1, 0.1], ImagerPixelSpacing=[imager, imager]
        )
        facts = read_image_facts(path)
        assert facts.mm_per_px_xy == (0.1, 0.1)
        assert [("PixelSpacing is used" in remark.what) for remark in facts.remarks] == [True] * is_told


@pytest.mark.parametrize(("given", "is_told"), [("0.5", True), ("0.2", True), ("0.1005", False), ("", False)])
def test_table_pixel_size_wins_over_dicom_and_is_reported(
    tmp_path: Path, ramp: Pixels, given: str, is_told: bool
) -> None:
    write_dicom(tmp_path / "a.dcm", ramp, PixelSpacing=[0.1, 0.1])
    (tmp_path / "labels.csv").write_text(f"image,nose_x,nose_y,mm_per_px\na.dcm,3,4,{given}\n")
    annotations = read_annotations(tmp_path)
    assert annotations.images["mm_per_px_x"].tolist() == [float(given or 0.1)]
    told = [problem.what for problem in annotations.problems if "image itself states" in problem.what]
    assert len(told) == is_told
    listed = tmp_path / "list.csv"
    listed.write_text(f"image,mm_per_px\na.dcm,{given}\n")
    (source,) = find_images(listed)
    assert source.mm_per_px_xy == (float(given or 0.1),) * 2
    assert [remark.what for remark in source.remarks] == told


@settings(max_examples=60)
@given(position=st.integers(132, 700), garbage=st.binary(min_size=1, max_size=6))
def test_overwritten_bytes_are_read_or_a_users_mistake(
    tmp_path_factory: pytest.TempPathFactory, position: int, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.dcm"
    write_dicom(
        path, np.zeros((24, 40), np.uint16), PixelSpacing=[0.1, 0.1], WindowCenter="9", WindowWidth="9",
        RescaleSlope="1", RescaleIntercept="0", VOILUTSequence=[_table(LUTDescriptor=[3, 0, 8], LUTData=[0,
        9, 90])],
    )  # fmt: skip
    raw = bytearray(path.read_bytes())
    raw[position : position + len(garbage)] = garbage
    path.write_bytes(raw)
    for read in (read_image, read_image_size, read_image_facts):
        with contextlib.suppress(UserError):
            read(path)
