from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from backend import files
from backend.errors import UserError
from backend.training.checkpoint import FORMAT_VERSION, load_checkpoint, load_resumable, save_checkpoint

CONTENT: dict[str, Any] = {
    "epoch": 3,
    "model_state_dict": {"weight": torch.arange(6.0).view(2, 3)},
    "args": {"settings": {"lr": 5e-4, "image_size": [64, 64]}, "chosen": {}},
    "landmark_names": ["Sella", "Pog`"],
    "preprocessing": {"resize": "letterbox"},
    "best_mre": None,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    return path


def test_what_was_saved_is_loaded_with_its_version(path: Path) -> None:
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.pop("model_state_dict")["weight"], CONTENT["model_state_dict"]["weight"])
    expected = {name: value for name, value in CONTENT.items() if name != "model_state_dict"}
    assert loaded == {"format_version": FORMAT_VERSION, **expected}


def test_file_needs_no_code_to_be_loaded(path: Path) -> None:
    assert torch.load(path, weights_only=True)["landmark_names"] == ["Sella", "Pog`"]


def test_saving_replaces_the_file_and_leaves_nothing_beside_it(path: Path) -> None:
    save_checkpoint(path, {**CONTENT, "epoch": 4})
    assert load_checkpoint(path)["epoch"] == 4
    assert list(path.parent.iterdir()) == [path]


class OnGpu1(torch.Tensor):
    """A tensor that says it lies on a GPU, and can be copied from there."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda:1")

    def to(self, device: str) -> torch.Tensor:  # type: ignore[override]
        assert device == "cpu"
        return torch.zeros(self.shape) + self.as_subclass(torch.Tensor)


def on_gpu_1(*values: float) -> torch.Tensor:
    return torch.tensor(values).as_subclass(OnGpu1)


def test_tensors_of_any_device_in_any_nest_are_saved_as_those_of_the_main_memory(tmp_path: Path) -> None:
    """A file written on cuda:1 must load where there is no such device, also without a map_location."""
    nest: dict[str, Any] = {
        "model_state_dict": OrderedDict(weight=on_gpu_1(1, 2)),
        "networks": {"refine": {"model_state_dict": {"weight": on_gpu_1(3)}}},
        "optimizer_state_dict": {"state": {0: {"exp_avg": on_gpu_1(4), "step": torch.tensor(5.0)}}},
        "rng": {"cuda": [on_gpu_1(6), (on_gpu_1(7), None)]},
        "last_good": {"raw_model_state_dict": {"weight": on_gpu_1(8)}},
        "scaler": {"scale": on_gpu_1(9)},
    }
    path = tmp_path / "last.pt"
    save_checkpoint(path, {**CONTENT, **nest})
    loaded = torch.load(path, weights_only=True)
    found = [leaf for leaf in tree_leaves(loaded) if isinstance(leaf, torch.Tensor)]
    assert {(type(leaf), leaf.device.type) for leaf in found} == {(torch.Tensor, "cpu")}
    assert loaded["networks"]["refine"]["model_state_dict"]["weight"].tolist() == [3]
    assert loaded["rng"]["cuda"][1][0].tolist() == [7] and loaded["scaler"]["scale"].tolist() == [9]
    assert nest["scaler"]["scale"].device == torch.device("cuda:1")  # what is trained stays where it is


def test_what_lies_in_the_main_memory_already_is_saved_as_it_is(tmp_path: Path) -> None:
    """Nothing is copied: two names of one tensor stay one in the file, and a layout stays."""
    tensor = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    path = tmp_path / "best.pt"
    save_checkpoint(path, {**CONTENT, "model_state_dict": {"a": tensor, "b": tensor}})
    loaded = load_checkpoint(path)["model_state_dict"]
    assert torch.equal(loaded["a"], tensor) and loaded["a"].is_contiguous(memory_format=torch.channels_last)
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()


def test_a_tensor_without_values_is_not_saved(path: Path) -> None:
    with pytest.raises(NotImplementedError, match="meta"):
        save_checkpoint(path, {**CONTENT, "rng": {"cuda": [torch.zeros(2, device="meta")]}})
    assert load_checkpoint(path)["epoch"] == 3


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {**CONTENT, "epoch": 4})
    monkeypatch.undo()
    assert load_checkpoint(path)["epoch"] == 3
    assert list(path.parent.iterdir()) == [path]


def test_content_that_cannot_be_saved_leaves_the_old_file(path: Path) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {**CONTENT, "epoch": lambda: 4})
    assert load_checkpoint(path)["epoch"] == 3


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert str(path) in text and caught.value.cure and "\n" not in text
    return text


def test_missing_file_is_a_users_mistake(tmp_path: Path) -> None:
    assert "not a file" in refused(tmp_path / "best.pt")
    assert "not a file" in refused(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_cut_off_file_is_a_users_mistake(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "cannot be read" in refused(path)


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


def pickled_class() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b'{"settings": {}}\n',
        b"image,a_x,a_y\n1.png,3,4\n",
        pickle.dumps({"epoch": 3}),
        pickle.dumps([1, 2, 3], protocol=0),
        zip_file(),
        pickled_class(),
        b"\x80\x02" + b"garbage" * 9,
        bytes(range(256)),
    ],
)
def test_file_of_another_kind_is_a_users_mistake(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    refused(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda tail: b"\x80\x02" + tail)))
def test_no_bytes_whatsoever_end_in_another_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    refused(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_overwritten_bytes_load_or_are_a_users_mistake(tmp_path: Path, position: int, garbage: bytes) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    content = bytearray(path.read_bytes())
    start = position % len(content)
    content[start : start + len(garbage)] = garbage
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except UserError as error:
        assert str(path) in str(error)


def test_foreign_checkpoint_is_refused_naming_what_it_lacks(tmp_path: Path) -> None:
    for content in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        torch.save(content, tmp_path / "other.pt")
        text = refused(tmp_path / "other.pt")
        assert "model_state_dict" in text and "landmark_names" in text


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, None, "1"])
def test_other_format_version_is_refused(tmp_path: Path, version: Any) -> None:
    torch.save({**CONTENT, "format_version": version}, tmp_path / "best.pt")
    text = refused(tmp_path / "best.pt")
    assert str(version) in text and str(FORMAT_VERSION) in text


def test_a_best_checkpoint_is_refused_for_a_resume(path: Path) -> None:
    save_checkpoint(path, {**CONTENT, "raw_model_state_dict": {}, "optimizer_state_dict": {}})
    with pytest.raises(UserError, match="raw_model_state_dict") as caught:
        load_resumable(path)
    assert caught.value.field == "resume"
