"""CONTRIBUTING's recipes, followed in a copy of the source: each touches the files it names, and no others."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]

NETWORK = '''"""A network of a few weights."""

from torch import Tensor, nn

from models.blocks import conv_bn_relu
from models.heads import HeatmapHead


class Dummy(nn.Module):
    """(B, 3, H, W) -> (B, K, H/output_stride, W/output_stride), raw maps."""

    def __init__(self, num_landmarks: int, output_stride: int = 4) -> None:
        super().__init__()
        self.trunk = conv_bn_relu(3, 4, stride=2)
        self.head = HeatmapHead(4, num_landmarks, trunk_stride=2, output_stride=output_stride)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.head(self.trunk(images))
        return maps
'''
FORMAT = '''"""One landmark per image: `image x y` on each line of points.dummy."""

from pathlib import Path

import numpy as np

from backend.data.annotations.builder import AnnotationsBuilder
from backend.data.annotations.table import Annotations


def matches(path: Path) -> bool:
    return (path / "points.dummy").is_file()


def read(path: Path) -> Annotations:
    builder = AnnotationsBuilder("dummy", path, ("tip",), ("annotator",))
    for line in (path / "points.dummy").read_text().splitlines():
        name, x, y = line.split()
        points = np.array([[[float(x), float(y)]]])
        builder.add_image(name, path / name, points, split="train")
    return builder.finish("none is needed")
'''
SETTING = """    dummy_strength: float = setting(
        0.5, "strength of the dummy", group="augmentation", affects=("views",), ge=0, le=1
    )
"""
TAB = '''"""The Dummy tab: one sentence."""

import gradio as gr

from ui.text.say import say


def create_dummy_tab() -> None:
    """Lay out the tab."""
    gr.Markdown(say("dummy_words"))
'''


class Source:
    """A copy of the source, and the files of it that were written."""

    def __init__(self, root: Path) -> None:
        self.root, self.touched = root, set[str]()

    def write(self, path: str, text: str) -> None:
        """Add a file."""
        assert not (self.root / path).exists()
        (self.root / path).parent.mkdir(exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")
        self.touched.add(path)

    def insert(self, path: str, after: str, text: str) -> None:
        """Put a text behind the first place of another one."""
        old = (self.root / path).read_text(encoding="utf-8")
        assert after in old, f"{path}: {after}"
        (self.root / path).write_text(old.replace(after, after + text, 1), encoding="utf-8")
        self.touched.add(path)

    def run(self, *arguments: str) -> str:
        """The output of a Python process in the copy."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def answer(self, code: str) -> Any:
        """What a piece of code prints last, as JSON."""
        return json.loads(self.run("-c", code).splitlines()[-1])


@pytest.fixture
def source(tmp_path: Path) -> Source:
    root = tmp_path / "source"
    for name in ("backend", "models", "ui"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, root / name)
    return Source(root)


def named_files(title: str, name: str = "dummy") -> set[str]:
    """The files that a recipe of CONTRIBUTING.md names, with NAME filled in."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipe = text.split(f"### {title}\n")[1].split("\n#")[0]
    files = re.findall(r"^\d+\. `([^`]+)`", recipe, re.MULTILINE)
    return {file.replace("NAME", name) for file in files}


def test_a_network(source: Source, tiny_dataset: Path) -> None:
    source.write("models/dummy.py", NETWORK)
    source.insert("models/__init__.py", "import SIZE_MULTIPLE\n", "from models.dummy import Dummy\n")
    source.insert("models/__init__.py", "nn.Module]] = {\n", '    "dummy": Dummy,\n')
    source.insert("backend/config/settings.py", "ModelName = Literal[", '"dummy", ')
    assert source.touched == named_files("A network")
    choices = "[value for _, value in build_field('model').choices]"
    offered = source.answer(
        f"import json; from ui.train.form import build_field; print(json.dumps({choices}))"
    )
    assert "dummy" in offered
    flags = "--model dummy --image_size 64 64 --batch_size 4 --epochs 1 --warmup_epochs 0 --no-refine"
    source.run(
        "train.py",
        *flags.split(),
        "--device",
        "cpu",
        "--dataset_path",
        str(tiny_dataset),
        "--runs_dir",
        "runs",
    )
    (checkpoint,) = source.root.glob("runs/*/checkpoints/best.pt")
    assert checkpoint.stat().st_size < 1e6


def test_a_format(source: Source, tmp_path: Path) -> None:
    source.write("backend/data/annotations/dummy.py", FORMAT)
    table = "backend/data/annotations/__init__.py"
    source.insert(
        table, "from backend.data.annotations import aariz, coco, coco_files, deeplabcut, ", "dummy, "
    )
    record = '    AnnotationFormat("dummy", layout="points.dummy", matches=dummy.matches, read=dummy.read),\n'
    source.insert(table, "_ALL = (\n", record)
    source.insert("backend/config/settings.py", 'DatasetFormat = Literal["auto", ', '"dummy", ')
    assert source.touched == named_files("An annotation format")
    folder = tmp_path / "points"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((8, 8), np.uint8))
    (folder / "points.dummy").write_text("a.png 3 4\n")
    (tmp_path / "empty").mkdir()
    code = f"""
import json
from pathlib import Path
from backend.config import parse_settings
from backend.data.annotations import detect_format, read_annotations
from backend.errors import UserError
found = read_annotations(Path({str(folder)!r}), parse_settings({{"dataset_format": "dummy"}}).dataset_format)
try:
    detect_format(Path({str(tmp_path / "empty")!r}))
except UserError as error:
    print(json.dumps([detect_format(found.root), found.points_xy_image.tolist(), str(error)]))
"""
    format, points, error = source.answer(code)
    assert (format, points) == ("dummy", [[[[3.0, 4.0]]]])
    assert "points.dummy (dummy)" in error


def test_a_setting(source: Source) -> None:
    source.insert("backend/config/settings.py", "    # augmentation\n", SETTING)
    words = '    "dummy_strength": "Dummy",\n    "dummy_strength_info": "0 is off",\n'
    for language in ("en", "fa"):
        source.insert(f"ui/text/{language}.py", "TEXT: dict[str, str] = {\n", words)
    assert source.touched == named_files("A setting")
    code = """
import json
from backend.config import Settings, find_mistakes, settings_affecting
from backend.flags import settings_to_flags
from ui.text.language import speaking
from ui.train.form import ADVANCED_GROUPS, build_field
with speaking("fa"):
    field = build_field("dummy_strength")
print(json.dumps([
    settings_to_flags(Settings(dummy_strength=1))[-2:],
    ADVANCED_GROUPS["augmentation"][0],
    field.value,
    str(find_mistakes({"dummy_strength": 2})[0]),
    "dummy_strength" in settings_affecting("views"),
]))
"""
    flags, first, value, mistake, affects = source.answer(code)
    assert flags == ["--dummy_strength", "1.0"]
    assert (first, value, affects) == ("dummy_strength", "0.5", True)
    assert mistake.startswith("dummy_strength: ")
    assert "--dummy_strength" in source.run("train.py", "--help")


def test_a_tab(source: Source) -> None:
    source.write("ui/dummy/__init__.py", "")
    source.write("ui/dummy/tab.py", TAB)
    source.insert(
        "ui/layout.py", "from ui.devices import unusable_gpus\n", "from ui.dummy import tab as dummy_tab\n"
    )
    last = "            predict = predict_tab.create_predict_tab(runs_dir)\n"
    tab = '        with gr.Tab(say("tab_dummy"), id="dummy"):\n            dummy_tab.create_dummy_tab()\n'
    source.insert("ui/layout.py", last, tab)
    for language in ("en", "fa"):
        words = '    "tab_dummy": "Dummy",\n    "dummy_words": "A sentence.",\n'
        source.insert(f"ui/text/{language}.py", "TEXT: dict[str, str] = {\n", words)
    source.insert("pyproject.toml", '    "train | monitor | predict', " | dummy")
    assert source.touched == named_files("A tab")
    code = """
import json
from pathlib import Path
from ui.layout import build_app
blocks = build_app(Path("runs"), Path("data")).blocks.values()
print(json.dumps([block.id for block in blocks if type(block).__name__ == "Tab"]))
"""
    assert source.answer(code).count("dummy") == 2  # in each language
    source.run(
        "-c", "import sys; from importlinter.cli import lint_imports_command as main; sys.exit(main())"
    )
