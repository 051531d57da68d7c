"""Each language at its address, its handlers in its language, both at once."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

import backend
from ui.bindings import STATIC
from ui.layout import build_app
from ui.monitor import tab as monitor_tab
from ui.session import Session
from ui.text.language import LANGUAGES, answering_in, speaking
from ui.text.language_choice import API_QUERY, COOKIE, PERSIAN_FILES, LanguageChoice, name_language
from ui.text.say import say

GRADIO_PAGE = (Path(gr.__file__).parent / "templates/frontend/index.html").read_bytes()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> gr.Blocks:

    async def build() -> gr.Blocks:
        return build_app(tmp_path_factory.mktemp("runs"), tiny_dataset.parent)

    # without a running loop, Gradio makes one and leaves it open
    return asyncio.run(build())


async def _gradio(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers every address with Gradio's own template, in pieces."""
    halves = GRADIO_PAGE[:900], GRADIO_PAGE[900:]
    length = str(len(GRADIO_PAGE)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": halves[0], "more_body": True})
    await send({"type": "http.response.body", "body": halves[1]})


@pytest.fixture
def browser() -> TestClient:
    """One browser, with its own cookies, before a dashboard that serves Gradio's template."""
    return TestClient(LanguageChoice(_gradio), base_url="http://127.0.0.1", follow_redirects=False)


def elements(page: gr.Blocks, path: str) -> list[str]:
    return sorted(
        block.elem_id for block in page.blocks.values() if block.page == path and block.elem_id is not None
    )


def test_both_pages_have_the_same_elements_and_no_endpoint_shows_twice(page: gr.Blocks) -> None:
    assert len(elements(page, "")) > 60
    assert elements(page, "fa") == elements(page, "")
    shown = [fn.api_name for fn in page.fns.values() if fn.api_visibility != "private"]
    assert len(shown) == len(set(shown))


def test_the_foot_of_each_page_shows_the_version(page: gr.Blocks) -> None:
    foots = [block for block in page.blocks.values() if block.elem_id == "version"]
    assert {block.page for block in foots} == {"", "fa"}
    assert all(backend.__version__ in block.value for block in foots)


def test_no_event_without_progress_writes_to_what_it_does_not_change(page: gr.Blocks) -> None:
    """Gradio writes an event's progress into all its outputs at every later event (see ui/bindings.py)."""
    own = [fn for fn in page.fns.values() if fn.api_visibility == "private" and fn.fn is not None]
    assert len(own) > 50
    noisy = [fn.name for fn in own if fn.show_progress == "hidden" and fn.show_progress_on != []]
    assert not noisy


def test_gradio_does_not_sum_up_its_events_after_each_of_them() -> None:
    importlib.import_module("app")  # sets what Gradio reads when it makes its queue

    async def make() -> gr.Blocks:
        return gr.Blocks().queue()

    queue = asyncio.run(make())._queue
    queue.events_recorded = 1
    event = {"function": "tick", "status": "success", "process_time": 0.1}
    assert queue.compute_analytics_summary([event]) == {"functions": {}}
    assert queue.ANALYTICS_MAX_EVENTS == 1


def test_an_event_takes_few_inputs(page: gr.Blocks) -> None:
    """The browser writes the state of every input of every event that ever ran at each later event, and looks
    each up among all components: with the form's fields among them, every event would keep it busy."""
    own = [fn for fn in page.fns.values() if fn.api_visibility == "private" and fn.fn is not None]
    assert len(own) > 50
    assert not [fn.name for fn in own if len(fn.inputs) > 14]


def test_an_answer_that_a_late_one_replaced_is_asked_for_again(page: gr.Blocks) -> None:
    names = {block.elem_id for block in page.blocks.values()}
    pressed = {
        page.blocks[target].elem_id
        for fn in page.fns.values()
        if fn.fn is not None
        for target, event in fn.targets
        if event == "click"
    }
    for part in ("data", "leaks", "sample", "form", "step"):
        assert f"again-{part}" in names & pressed


def test_each_page_is_laid_out_in_its_language(page: gr.Blocks) -> None:
    labels = {
        path: {
            value
            for block in page.blocks.values()
            if block.page == path
            for value in (
                getattr(block, "label", None),
                getattr(block, "value", None),
                getattr(block, "info", None),
            )
            if isinstance(value, str)
        }
        for path in ("", "fa")
    }
    for key in ("start", "lr", "losses", "sigma_info", "evaluate_title", "runs_none"):
        assert say(key) in labels[""] - labels["fa"]
        with speaking("fa"):
            assert say(key) in labels["fa"] - labels[""]


def test_each_page_is_told_its_language_and_direction(browser: TestClient) -> None:
    english, persian, other = browser.get("/"), browser.get("/fa"), browser.get("/gradio_api/info")
    assert '<html\n\tlang="en" dir="ltr"' in english.text
    assert '<html\n\tlang="fa" dir="rtl"' in persian.text
    assert 'get: () => "fa"' in persian.text
    assert "persian.css" not in english.text
    assert "persian.css" in persian.text
    assert other.content == GRADIO_PAGE


def test_the_typeface_is_there_with_its_licence() -> None:
    css = (PERSIAN_FILES / "persian.css").read_text("utf-8")
    for name in re.findall(r"url\((.*?)\)", css):
        assert (PERSIAN_FILES / name).read_bytes()[:4] == b"wOF2"
    assert "SIL OPEN FONT LICENSE" in (PERSIAN_FILES / "OFL.txt").read_text("utf-8")


def test_the_choice_is_kept_by_the_browser(browser: TestClient) -> None:
    assert browser.get("/").status_code == 200
    chosen = browser.get("/?language=fa")
    assert (chosen.status_code, chosen.headers["location"]) == (303, "./fa")
    again = browser.get("/?__theme=dark")
    assert (again.status_code, again.headers["location"]) == (307, "./fa?__theme=dark")
    assert browser.get(f"/{API_QUERY}").status_code == 200  # in English alone
    back = browser.get("/fa?language=en")
    assert (back.status_code, back.headers["location"]) == (303, "./")
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"accept-language": "fa-IR,fa;q=0.9,en;q=0.8"}, 307),
        ({"accept-language": "fa", "cookie": f"{COOKIE}=en"}, 200),
        ({"accept-language": "de,fa;q=0.9"}, 200),
        ({"cookie": f"{COOKIE}=xx"}, 200),
        ({"cookie": "a=b; ,;=,=;"}, 200),
    ],
)
def test_without_a_choice_the_browser_is_asked(
    browser: TestClient, headers: dict[str, str], status: int
) -> None:
    assert browser.get("/", headers=headers).status_code == status


def test_a_page_of_another_shape_is_left_as_it_is() -> None:
    assert name_language(b"no html", LANGUAGES["fa"]) == b"no html"


def test_two_browsers_in_two_languages_do_not_mix(page: gr.Blocks) -> None:
    """Both pages ask at once, through Gradio, for the Monitor tab of an empty folder of runs."""

    def opening(path: str) -> Any:
        return next(
            fn
            for fn in page.fns.values()
            if fn.page == path
            and monitor_tab.on_open in getattr(getattr(fn.fn, "__wrapped__", None), "args", ())
        )

    async def ask(path: str) -> str:
        answer = await page.call_function(opening(path), ["", "", Session(), 0, False, True, "all"])
        return next(str(card) for block, card in answer["prediction"].items() if block.elem_id == "run-card")

    async def ask_all() -> list[str]:
        return await asyncio.gather(*(ask(path) for _ in range(20) for path in ("", "fa")))

    cards = asyncio.run(ask_all())
    with speaking("fa"):
        persian = say("no_runs")
    assert cards == [say("no_runs"), persian] * 20


def test_a_handler_keeps_its_signature() -> None:
    def on_select(session: int, event: gr.SelectData) -> str:
        """Says something."""
        return say("tab_runs")

    wrapped = answering_in("fa", on_select)
    assert gr.helpers.special_args(wrapped)[2] == 1
    assert wrapped(0, None) == "اجراها"
    assert on_select(0, None) == "Runs"


def test_a_handler_that_answers_in_steps_keeps_to_its_language_and_is_closed() -> None:
    closed = []

    def in_steps(first: str) -> Iterator[str]:
        try:
            yield say(first)
            yield say("tab_runs")
        finally:
            closed.append(first)

    both = [answering_in(code, partial(in_steps, "tab_train"))() for code in ("en", "fa")]
    assert [next(answers) for answers in both] == ["Train", "آموزش"]
    assert say("tab_runs") == "Runs"
    assert [list(answers) for answers in both] == [["Runs"], ["اجراها"]]
    left = answering_in("fa", in_steps)("tab_monitor")
    assert next(left) == "پایش"
    left.close()
    assert closed == ["tab_train", "tab_train", "tab_monitor"]


def test_a_coroutine_is_refused() -> None:
    async def later() -> str:
        return say("tab_runs")

    with pytest.raises(TypeError, match="before it has answered"):
        answering_in("fa", later)


def test_no_escape_of_the_styles_is_read_as_one_of_python() -> None:
    """ "\\2195" in a string is two characters of Python's, and an arrow in a style sheet."""
    sheets = [file.read_text("utf-8") for file in sorted(STATIC.rglob("*.css"))]
    assert any("plain-table" in sheet for sheet in sheets)
    assert not [
        character for sheet in sheets for character in sheet if ord(character) < 32 and character != "\n"
    ]
