"""Checkpoints as nobody's training writes them: each is a mistake of one line, wherever a checkpoint is
taken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from backend import evaluate, predict
from backend.config import ModelName, RunConfig, Settings
from backend.data.shape_prior import ShapePrior
from backend.errors import UserError
from backend.flags import run_command
from backend.start_check import main as check_start
from backend.training import build
from backend.training.checkpoint import shape_prior_content
from backend.training.inference import load_predictor, unlabelled_samples
from tests.tiny_network import TinyNetwork

Content = dict[str, Any]
NAMES = ["nose", "chin", "ear"]
SETTINGS = Settings(image_size=(64, 64), refine=False, num_refiners=1, crop_size=32, dataset_path="-")
TRIANGLE = ShapePrior(np.array([[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]), 0.01 * np.eye(6))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "build_model", lambda name, num, output_stride: TinyNetwork(num))


@pytest.fixture(scope="module")
def whole() -> Content:
    """What a checkpoint holds that predicts with two networks and draws to shapes."""
    config = RunConfig(SETTINGS, {})
    return {
        "phase": "refine",
        "epoch": 3,
        "model_state_dict": TinyNetwork(3).state_dict(),
        "networks": {
            "refine": {"model_state_dict": build.build_refiner(config, 3).state_dict(), "unrefined": {}}
        },
        "args": config.to_dict(),
        "landmark_names": NAMES,
        "preprocessing": {},
        "shape_prior": shape_prior_content(TRIANGLE),
        "learned_from": {"train": ["00"], "valid": []},
        "val_metrics": {"val/mre_px": 1.0},
        "best_mre": 1.0,
        "best_mre_mm": None,
    }


def put(*keys: str, value: Any) -> Callable[[Content], None]:
    """A change of one value, however deep it lies."""

    def change(content: Content) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def drop(*keys: str) -> Callable[[Content], None]:
    """Take one value out."""

    def change(content: Content) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def fill(*keys: str, value: float) -> Callable[[Content], None]:
    """Every weight below some keys as one number."""

    def change(content: Content) -> None:
        for key in keys:
            content = content[key]
        for name, tensor in content.items():
            content[name] = torch.full_like(tensor, value) if tensor.is_floating_point() else tensor

    return change


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


OF_FIRST = {
    "weights of NaN": fill("model_state_dict", value=torch.nan),
    "weights without end": fill("model_state_dict", value=torch.inf),
    "one weight of NaN": put("model_state_dict", "last.bias", value=torch.tensor([0.0, torch.nan, 0.0])),
    "no weights": put("model_state_dict", value={}),
    "a list of weights": put("model_state_dict", value=[1, 2]),
    "words for a weight": put("model_state_dict", "last.bias", value="heavy"),
    "a weight of another size": put("model_state_dict", "last.bias", value=torch.zeros(4)),
    "a weight of complex numbers": put("model_state_dict", "last.bias", value=torch.zeros(3,
    dtype=torch.complex64)),
    "a sparse weight": put("model_state_dict", "last.bias", value=torch.zeros(3).to_sparse()),
    "a weight that spreads over all memory": put(
        "model_state_dict", "last.bias", value=torch.zeros(1).expand(2**40)
    ),
    "a weight too many": put("model_state_dict", "secret", value=torch.zeros(1)),
    "a weight too few": drop("model_state_dict", "last.bias"),
    "args of nothing": put("args", value=None),
    "args of a list": put("args", value=[1]),
    "args of a tensor": put("args", value=torch.zeros(3)),
    "a version of a tensor": put("args", "format_version", value=torch.zeros(2)),
    "another version": put("args", "format_version", value=99),
    "no settings": drop("args", "settings"),
    "settings of a number": put("args", "settings", value=7),
    "settings by numbers": put("args", "settings", value={1: 2}),
    "a setting of another program": put("args", "settings", "exec", value="rm"),
    "an unknown model": put("args", "settings", "model", value="../../model"),
    "a model of a list": put("args", "settings", "model", value=["hrnet"]),
    "a huge image": put("args", "settings", "image_size", value=[2**40, 2**40]),
    "three sides": put("args", "settings", "image_size", value=[64, 64, 64]),
    "a number of 5000 digits": put("args", "settings", "seed", value=10**5000),
    "a rate of NaN": put("args", "settings", "lr", value=float("nan")),
    "settings without a ground": put("args", "settings", "refiner_sides", value=nested(100)),
    "nothing decided": drop("args", "chosen"),
    "a decision without reason": put("args", "chosen", value={"device": {"value": "cpu"}}),
    "a decided batch of words": put("args", "chosen", value={"batch_size": {"value": "many", "reason": ""}}),
    "a decided crop of everything": put("args", "chosen", value={"crop_share": {"value": 1e30,
    "reason": ""}}),
    "a decided crop of words": put("args", "chosen", value={"crop_mm_per_px": {"value": "wide",
    "reason": ""}}),
    "a decided precision of a list": put("args", "chosen", value={"mixed_precision": {"value": [],
    "reason": ""}}),
    "a decided path of a number": put("args", "chosen", value={"dataset_path": {"value": 7, "reason": ""}}),
    "no names": put("landmark_names", value=[]),
    "names of numbers": put("landmark_names", value=[1, 2, 3]),
    "one name thrice": put("landmark_names", value=["nose"] * 3),
    "names in one text": put("landmark_names", value="abc"),
    "too many names": put("landmark_names", value=[f"n{number}" for number in range(10_000)]),
    "a version of nothing": put("format_version", value=torch.zeros(2)),
    "an epoch of words": put("epoch", value="late"),
    "a phase of a list": put("phase", value=["refine"]),
    "values of words": put("val_metrics", value={"val/mre_px": "small"}),
    "fingerprints of numbers": put("learned_from", value={"train": [1]}),
    "an error of words": put("best_mre", value="small"),
}  # fmt: skip
OF_PREDICTION = {
    "a refinement of NaN": fill("networks", "refine", "model_state_dict", value=torch.nan),
    "networks of a list": put("networks", value=[1]),
    "a refinement of nothing": put("networks", "refine", value=None),
    "a refinement without weights": put("networks", "refine", value={}),
    "a refinement that does not fit": put("networks", "refine", "model_state_dict",
    value={"a": torch.zeros(2)}),
    "shapes of a list": put("shape_prior", value=[1]),
    "shapes of words": put("shape_prior", "mean_xy", value="round"),
    "shapes without covariance": drop("shape_prior", "covariance"),
    "shapes with more": put("shape_prior", "more", value=torch.zeros(1)),
    "shapes of other landmarks": put("shape_prior", "mean_xy", value=torch.zeros(4, 2)),
    "shapes of NaN": fill("shape_prior", value=torch.nan),
    "huge shapes": fill("shape_prior", value=1e300),
    "shapes of one point": put("shape_prior", "mean_xy", value=torch.ones(3, 2)),
    "shapes that vary by less than nothing": put("shape_prior", "covariance", value=-torch.eye(6)),
    "shapes of a lopsided covariance": put("shape_prior", "covariance", value=torch.eye(6).cumsum(0)),
}  # fmt: skip


def save(path: Path, whole: Content, change: Callable[[Content], None]) -> Path:
    content = copy.deepcopy({"format_version": 1, **whole})
    change(content)
    torch.save(content, path)
    return path


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 1000
    return line


def test_a_checkpoint_as_it_should_be_predicts(whole: Content, tmp_path: Path, tiny_dataset: Path) -> None:
    path = save(tmp_path / "best.pt", whole, lambda content: None)
    found = load_predictor(path, "cpu").predict(unlabelled_samples([tiny_dataset / "00.png"], 3))
    assert found.unrefined_xy_image is not None and found.unshaped_xy_image is not None


@pytest.mark.parametrize("case", [*OF_FIRST, *OF_PREDICTION])
def test_a_crafted_checkpoint_is_one_line_for_predict_and_evaluate(
    whole: Content, case: str, tmp_path: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "best.pt", whole, {**OF_FIRST, **OF_PREDICTION}[case])
    out = tmp_path / "out.csv"
    flags = ["--checkpoint", str(path), "--device", "cpu"]
    assert (
        run_command(predict.main, [*flags, "--images", str(tiny_dataset / "00.png"), "--out", str(out)]) == 2
    )
    line = only_line(capsys)
    assert line.startswith("error: checkpoint: ") and str(path) in line and "; " in line
    assert run_command(evaluate.main, [*flags, "--dataset_path", str(tiny_dataset), "--split", "train"]) == 2
    assert only_line(capsys) == line and not out.exists()


@pytest.mark.parametrize("case", OF_FIRST)
def test_a_crafted_first_network_is_one_line_before_a_run_folder_is_made(
    whole: Content, case: str, tmp_path: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "best.pt", whole, OF_FIRST[case])
    flags = ["--dataset_path", str(tiny_dataset), "--image_size", "64", "64", "--device", "cpu"]
    flags += ["--first_network", str(path)]
    assert run_command(train.main, [*flags, "--runs_dir", str(tmp_path / "runs")]) == 2
    line = only_line(capsys)
    assert line.startswith("error: first_network: ") and str(path) in line and "; " in line
    assert not (tmp_path / "runs").exists()
    assert run_command(check_start, flags) == 2  # what the page asks
    assert only_line(capsys) == line


def test_weights_that_overflow_are_a_mistake_too(whole: Content, tmp_path: Path, tiny_dataset: Path) -> None:
    path = save(tmp_path / "best.pt", {**whole, "networks": {}}, fill("model_state_dict", value=3e38))
    with pytest.raises(UserError, match="not finite"):
        load_predictor(path, "cpu").predict(unlabelled_samples([tiny_dataset / "00.png"], 3))


def test_every_network_can_be_compared_without_memory_for_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    for model in ModelName.__args__:
        config = RunConfig(SETTINGS.model_copy(update={"model": model}), {})
        with torch.device("meta"):
            network = build.build_network(config, 3)
        assert all(tensor.is_meta for tensor in network.state_dict().values())
