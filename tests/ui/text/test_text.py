from __future__ import annotations

import ast
import re
import string
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.config import Settings
from ui.monitor.curves import MARKED_EVENTS
from ui.text import en, fa
from ui.text.language import LANGUAGES, isolate, isolate_latin, speaking
from ui.text.say import in_distance, in_markdown, in_time, in_time_left, quote, say, say_count, say_label

REPOSITORY = Path(__file__).resolve().parents[3]
UI_FILES = sorted((REPOSITORY / "ui").rglob("*.py"))
LATIN = re.compile(r"[A-Za-z]")
PERSIAN = re.compile(r"[\u0600-\u06ff]")
# names of files, of measures and of the program, and texts that are nothing but places: no Persian letter in
# the Persian text. A text of yours like these is added here.
SAME_IN_BOTH = {
    "title", "file_metrics", "file_config", "evaluation_mre", "evaluation_nme", "evaluation_report",
    "evaluation_record", "mark_lr_lowered", "sigma_note_mm", "spacing_one", "preset_choice", "preview_title",
    "recommended_none", "data_failed", "figure_images", "predict_spacing_dicom", "bundle_ready",
    "queue_place", "api_page", "field_understood", "draft_value", "data_column_place", "predict_run_choice",
    "check_name_version", "check_name_python", "check_name_torch",
}  # fmt: skip
# settings whose help on the form is not the one of --help and docs/settings.md, since more is said around it
# there
HELP_OF_ITS_OWN = {
    "model", "batch_size", "loss", "lr", "warmup_epochs", "refine", "mixed_precision",  # always in sight
    "dataset_path", "annotation_type", "accept_implausible",  # placed by hand
}  # fmt: skip
# what Gradio shows of these arguments is read by a person
SHOWN_ARGUMENTS = {"label", "info", "placeholder", "title", "name", "hovertemplate", "text", "submit_btn"}
SHOWN_FIRST = {"Markdown", "HTML", "Button", "Tab", "Accordion", "Info", "Warning", "UserError"}
# units, a chart's own places, and markup without a word
SHOWN_AS_THEY_ARE = {"GiB", "%{text}<br>%{x:.1f}, %{y:.1f} px<extra>"}


def places(text: str) -> list[tuple[str, str]]:
    """The places of a text with their formats, as often as each stands there."""
    return sorted((name, spec or "") for _, name, spec, _ in string.Formatter().parse(text) if name)


def test_every_word_is_there_in_both_languages_with_the_same_places() -> None:
    assert set(fa.TEXT) == set(en.TEXT)
    differing = {key for key in en.TEXT if places(en.TEXT[key]) != places(fa.TEXT[key])}
    assert not differing


def test_persian_is_persian() -> None:
    untranslated = {key for key, text in fa.TEXT.items() if not PERSIAN.search(text)}
    assert untranslated == SAME_IN_BOTH
    assert not {key for key, text in en.TEXT.items() if PERSIAN.search(text)}
    for key, text in fa.TEXT.items():
        assert not re.search("[\u064a\u0643\u0660-\u0669\u06f0-\u06f9]", text), (
            f"{key}: Arabic letters, or digits"
        )
        assert not re.search("\u200c[^\u0600-\u06ff]|[^\u0600-\u06ff]\u200c", text), (
            f"{key}: a joiner at an edge"
        )
        assert not re.search("(^| )(می|نمی) ", text), f"{key}: a prefix without its joiner"


def test_the_english_help_of_a_setting_is_its_description() -> None:
    """Which is written once, in backend/config/settings.py, and taken from there."""
    source = (REPOSITORY / "ui/text/en.py").read_text("utf-8")
    own = {name for name in Settings.model_fields if f'"{name}_info":' in source}
    assert own == HELP_OF_ITS_OWN, "leave NAME_info out of ui/text/en.py"
    assert all(en.TEXT[f"{name}_info"] != Settings.model_fields[name].description for name in own)


def test_what_is_counted_has_a_singular() -> None:
    sources = "".join(path.read_text("utf-8") for path in UI_FILES)
    counted = set(re.findall(r'say_count\(\s*"(\w+)"', sources))
    assert len(counted) > 8
    assert {f"{key}_one" for key in counted} <= set(en.TEXT)


@pytest.mark.parametrize("key", [key for key in en.TEXT if key.endswith("_info")])
def test_numbers_are_the_same_in_both_languages(key: str) -> None:
    """They are measured or taken from the settings, and change there first."""

    def numbers(text: str) -> set[str]:
        return set(re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", text))

    assert numbers(fa.TEXT[key]) <= numbers(en.TEXT[key])
    assert {number for number in numbers(en.TEXT[key]) if "." in number} <= numbers(fa.TEXT[key])


def test_the_columns_of_the_runs_are_as_many() -> None:
    assert len({table["runs_columns"].count(",") for table in (en.TEXT, fa.TEXT)}) == 1


def test_no_word_is_left_unused() -> None:
    sources = "".join(path.read_text("utf-8") for path in UI_FILES if path.stem not in ("en", "fa"))
    sources += "".join(path.read_text("utf-8") for path in (REPOSITORY / "backend/evaluation").glob("*.py"))
    sources = sources.replace("'", '"')  # as within an f-string
    found = set(re.findall(r'"(\w+)"', sources))
    found |= {f"mark_{kind}" for kind in MARKED_EVENTS}
    found |= {f"{key}_one" for key in found}  # by say_count
    # f"state_{state.value}" says every state_...
    composed = [
        re.sub(r"\{[^{}]*\}", r"\\w+", name) for name in re.findall(r'f"((?:\w|\{[^{}"]*\})+)"', sources)
    ]
    patterns = [re.compile(name) for name in composed if re.search(r"[a-z]{3}", name.replace(r"\w", ""))]
    unused = {key for key in en.TEXT if key not in found and not any(p.fullmatch(key) for p in patterns)}
    assert unused - {*Settings.model_fields} == set()


def shown_literals(path: Path) -> Iterator[tuple[int, str]]:
    """(line, literal) of every string with a word in it that a person would read, and that no `say` gave."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        shown = [keyword.value for keyword in node.keywords if keyword.arg in SHOWN_ARGUMENTS]
        shown += node.args[:1] if called in SHOWN_FIRST else []
        for part in shown if called not in ("say", "_Started", "plotly") else []:
            for literal in literals(part):
                if LATIN.search(re.sub(r"<[^>]*>|&\w+;|%\{[^}]*\}", "", literal)):
                    yield node.lineno, literal


def literals(node: ast.AST) -> Iterator[str]:
    """The strings of an expression, but those that are handed to a call or name a key."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif not isinstance(node, ast.Call | ast.Subscript | ast.Compare):
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


@pytest.mark.parametrize("path", UI_FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_visible_word_bypasses_the_table(path: Path) -> None:
    bypassing = [(line, text) for line, text in shown_literals(path) if text not in SHOWN_AS_THEY_ARE]
    assert not bypassing


def test_words_of_the_backend_stay_whole_in_markdown() -> None:
    """Markdown would take a placeholder for a tag, and text between two stars for emphasis."""
    text = "no column <name>_x; looked for labeled-data/*/CollectedData_*.csv, `x`"
    escaped = r"no column &lt;name&gt;_x; looked for labeled-data/\*/CollectedData_\*.csv, \`x\`"
    assert in_markdown(text) == escaped


def test_one_is_told_in_the_singular() -> None:
    assert [say_count("num_images", num) for num in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert say_count("replay_info", 1, first="epoch 3", last="epoch 3") == "1 epoch is kept: epoch 3"


def test_no_seconds_left_are_told_as_the_end() -> None:
    assert in_time_left(8.0) == "8.0 s left" and in_time_left(0.5) == "0.5 s left"
    assert in_time_left(0.4) == in_time_left(0.0) == "finishing ..."


def test_what_is_inserted_into_persian_keeps_its_order() -> None:
    with speaking("fa"):
        assert say("step_of", step=12, steps=100) == f"گام {isolate('12')} از {isolate('100')}"
        assert isolate("/data/my set") in say("no_such_data", path="/data/my set")
        assert isolate("1.5 px") in say("sigma_note_image", sigma_image=1.5)
        assert quote("a message; with its cure") == isolate("a message; with its cure")
        assert in_time(5400) == f"{isolate('1')} ساعت و {isolate('30')} دقیقه"
        assert in_distance(None, 1.234) == "1.23 mm"
        assert say_label("a_setting_of_another_version") == isolate("a_setting_of_another_version")
    assert quote("a message") == "a message"
    assert in_time(5400) == "1 h 30 min"
    assert isolate("x") not in "".join(en.TEXT.values())


@pytest.mark.parametrize(
    ("text", "isolated"),
    [
        ("تا 1e-4 پایین", "تا <1e-4> پایین"),
        ("{used} از {total}", "<{used}> از <{total}>"),
        ("{low} تا {high} {unit}", "<{low}> تا <{high} {unit}>"),
        ("{phase}: اپوک {epoch}", "<{phase}>: اپوک <{epoch}>"),
        ("{name}: {words}", "<{name}>: <{words}>"),
        ("در evaluations/{name}.log ببینید", "در <evaluations/{name}.log> ببینید"),
        ("مدل,بهترین MRE,شروع", "مدل,بهترین <MRE>,شروع"),
        ("{load} % مشغول", "<{load} %> مشغول"),
    ],
)
def test_latin_runs_are_isolated_whole(text: str, isolated: str) -> None:
    assert isolate_latin(text) == isolated.replace("<", "\u2068").replace(">", "\u2069")


def test_two_threads_speak_their_own_language() -> None:
    both = threading.Barrier(2)
    names: dict[str, str] = {}

    def speak(code: str) -> None:
        with speaking(code):
            both.wait()
            names[code] = say("tab_train")
            both.wait()

    threads = [threading.Thread(target=speak, args=(code,)) for code in LANGUAGES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == {"en": "Train", "fa": "آموزش"}
    assert say("tab_train") == "Train"
