"""CONTRIBUTING's recipes, followed in a copy of the project: each touches the files it names and no others,
and what it says to run then passes.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.data.annotations.builder import AnnotationsBuilder
from models import MODELS

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]

NETWORK = '''"""A network of a few weights."""

from torch import Tensor, nn

from models.blocks import check_image_size, conv_bn_relu
from models.heads import HeatmapHead


class Dummy(nn.Module):
    """(B, 3, H, W) -> (B, K, H/output_stride, W/output_stride), raw maps."""

    def __init__(self, num_landmarks: int, output_stride: int = 4) -> None:
        super().__init__()
        self.trunk = conv_bn_relu(3, 4, stride=2)
        self.head = HeatmapHead(4, num_landmarks, trunk_stride=2, output_stride=output_stride)

    def forward(self, images: Tensor) -> Tensor:
        check_image_size(images)
        maps: Tensor = self.head(self.trunk(images))
        return maps
'''
FORMAT = '''"""One landmark per image: `image x y` on each line of points.txt."""

from pathlib import Path

from backend.data.annotations.builder import AnnotationsBuilder
from backend.data.annotations.image_names import ImageQuery
from backend.data.annotations.table import Annotations
from backend.errors import UserError


def matches(path: Path) -> bool:
    return (path / "points.txt").is_file()


'''
SETTING = """    dummy_strength: float = setting(
        0.5, "strength of the dummy", group="augmentation", affects=("views",), ge=0, le=1
    )
"""
TAB = '''"""The Dummy tab: how many runs there are."""

from pathlib import Path

import gradio as gr

from backend.run.folder import list_runs
from ui.text.say import say_count


def create_dummy_tab(runs_dir: Path) -> gr.Markdown:
    """Lay out the tab."""
    return gr.Markdown(on_open(runs_dir))


def on_open(runs_dir: Path) -> str:
    """The number of runs now."""
    return say_count("dummy_runs", len(list_runs(runs_dir)))
'''
WORDS = {
    "en": {"dummy_strength": "Dummy", "tab_dummy": "Dummy", "dummy_runs": "{num} runs",
    "dummy_runs_one": "{num} run"},
    "fa": {
        "dummy_strength": "آزمایشی", "dummy_strength_info": "قدرت آزمایشی", "tab_dummy": "آزمایشی",
        "dummy_runs": "{num} اجرا", "dummy_runs_one": "{num} اجرا",
    },
}  # fmt: skip


class Source:
    """A copy of the project, and the files of it that were written."""

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

    def say(self, begin: str) -> None:
        """Add the words whose keys begin so, in both languages."""
        for language, words in WORDS.items():
            lines = [f'    "{key}": "{text}",\n' for key, text in words.items() if begin in key]
            self.insert(f"ui/text/{language}.py", "TEXT: dict[str, str] = {\n", "".join(lines))

    def run(self, *arguments: str) -> str:
        """The output of a Python process in the copy."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def finish(self, title: str, *selection: str) -> None:
        """Run what stands at the end of a recipe; `selection` narrows its tests to what takes seconds."""
        commands = recipe_code(title)[-1].splitlines()
        assert any(line.startswith("pytest ") for line in commands)
        for program, *arguments in map(shlex.split, commands):
            if program == "pytest":
                self.run("-m", "pytest", "-p", "no:cacheprovider", *arguments, *selection)
            elif program == "lint-imports":
                self.run("-c", "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports_command())")
            else:
                assert program == "python"
                self.run(*arguments)
        self.run("-m", "ruff", "check", "--no-cache", *sorted(self.touched_code()))

    def touched_code(self) -> set[str]:
        return {path for path in self.touched if path.endswith(".py")}

    def answer(self, code: str) -> Any:
        """What a piece of code prints last, as JSON."""
        return json.loads(self.run("-c", code).splitlines()[-1])


@pytest.fixture
def source(tmp_path: Path) -> Source:
    root = tmp_path / "source"
    for name in ("backend", "install", "models", "ui", "docs", "bench", "tests"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in REPOSITORY.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, root)
    return Source(root)


def recipe_of(title: str) -> str:
    """A recipe of CONTRIBUTING.md."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split(f"### {title}\n")[1].split("\n#")[0]


def recipe_code(title: str) -> list[str]:
    """The blocks of code in a recipe, with NAME filled in."""
    blocks = re.findall(r"(?:^ {4}.*\n?)+", recipe_of(title), re.MULTILINE)
    return [textwrap.dedent(block).replace("NAME", "dummy") for block in blocks]


def named_files(title: str, group: str = "") -> set[str]:
    """Return the files that a recipe names, with NAME filled in."""
    recipe = recipe_of(title)
    files = re.findall(r"^\d+\. `([^`]+)`", recipe, re.MULTILINE)
    for row in re.findall(rf"^\| {group} \|.*$", recipe, re.MULTILINE) if group else ():
        files += re.findall(r"`([\w/]+\.py)`", row)
    return {file.replace("NAME", "dummy") for file in files}


def test_a_network(source: Source, tiny_dataset: Path) -> None:
    source.write("models/dummy.py", NETWORK)
    source.insert("models/__init__.py", "import SIZE_MULTIPLE\n", "from models.dummy import Dummy\n")
    source.insert("models/__init__.py", '"hourglass": StackedHourglass,\n', '    "dummy": Dummy,\n')
    source.insert("backend/config/settings.py", '"unet", "hourglass"', ', "dummy"')
    source.insert("README.md", "\n- Trains one of several networks (", "dummy,\n  ")
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
    source.finish(
        "A network", "-k", " and ".join(f"not {name}" for name in MODELS)
    )  # those are tested elsewhere


def test_a_format(source: Source, tmp_path: Path) -> None:
    example = inspect.cleandoc(AnnotationsBuilder.__doc__ or "").split("\n\n", maxsplit=2)[2]
    source.write("backend/data/annotations/dummy.py", FORMAT + textwrap.dedent(example) + "\n")
    table = "backend/data/annotations/__init__.py"
    source.insert(
        table, "from backend.data.annotations import aariz, coco, coco_files, deeplabcut, ", "dummy, "
    )
    record = """    AnnotationFormat(
        "dummy", title="Dummy", layout="points.txt", matches=dummy.matches, read=dummy.read
    ),
"""
    source.insert(table, "_ALL = (\n", record)
    source.insert("backend/config/settings.py", 'DatasetFormat = Literal["auto", ', '"dummy", ')
    source.insert("README.md", "\n- Reads ", "Dummy,\n  ")
    for page in ("docs/data.md", "docs/fa/data.md"):
        source.insert(page, "|---|---|\n", "| Dummy | `points.txt` |\n")
    assert source.touched == named_files("An annotation format")
    folder = tmp_path / "points"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((8, 8), np.uint8))
    (folder / "points.txt").write_text("a.png 3 4\nb.png 5 6\n")
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
    problems = [str(problem) for problem in found.problems]
    print(json.dumps([detect_format(found.root), found.points_xy_image.tolist(), problems, str(error)]))
"""
    format, points, problems, error = source.answer(code)
    assert (format, points) == ("dummy", [[[[3.0, 4.0]]]])
    assert problems[0].startswith("points.txt line 2: image b.png is missing; ")
    assert "points.txt (dummy)" in error
    source.finish("An annotation format")


def test_a_setting(source: Source) -> None:
    source.insert("backend/config/settings.py", "    # augmentation\n", SETTING)
    source.say("dummy_strength")
    drawing = "backend/data/augmentation.py"
    source.insert(drawing, "    elastic: float = 0.0\n", "    dummy_strength: float = 0.0\n")
    drawn = "standard_normal(4).clip(-MAX_DEVIATIONS, MAX_DEVIATIONS)\n"
    source.insert(drawing, drawn, "        rotation = rotation + self.dummy_strength\n")
    handed = "        dummy_strength=settings.dummy_strength,\n"
    source.insert("backend/training/build.py", "        elastic=settings.elastic,\n", handed)
    assert source.touched == named_files("A setting", "augmentation")
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
    source.finish("A setting")


def test_a_setting_without_an_effect_is_found(source: Source) -> None:
    source.insert("backend/config/settings.py", "    # augmentation\n", SETTING)
    with pytest.raises(AssertionError, match="no code reads it"):
        source.run("-m", "pytest", "-p", "no:cacheprovider", "tests/test_setting_effects.py", "-k", "dummy")


def test_a_tab(source: Source) -> None:
    source.write("ui/dummy/__init__.py", "")
    source.write("ui/dummy/tab.py", TAB)
    source.insert(
        "ui/layout.py", "from ui.devices import unusable_gpus\n", "from ui.dummy import tab as dummy_tab\n"
    )
    *laid_out, bound = recipe_code("A tab")[0].splitlines(keepends=True)
    last = "            predict = predict_tab.create_predict_tab(runs_dir)\n"
    source.insert("ui/layout.py", last, textwrap.indent("".join(laid_out), 8 * " "))
    source.insert("ui/layout.py", 'elem_id="version")\n', textwrap.indent(bound, 4 * " "))
    source.say("dummy_runs")
    source.say("tab_dummy")
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
    source.finish("A tab")
