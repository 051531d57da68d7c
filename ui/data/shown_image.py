"""Which image the Data tab shows: by number, split, step, or a line of the suspects and problems."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from backend.data.leaks import Leak
from ui.bindings import PRIVATE, Updates, script
from ui.data.browser import Shown, on_whole, show
from ui.data.parts import DataTab
from ui.data.summary import ALL_SPLITS, DataView, in_listed_order, leak_caption
from ui.data.training_view import draw_sigma
from ui.text.say import say
from ui.train.data_view import settings_for_data


def bind_browser(tab: DataTab) -> None:
    outputs = [*tab.browser.parts, tab.training.landmark, tab.training.sigma, tab.training.sigma_note]
    form = tab.train.inputs
    browser, number = tab.browser, tab.browser.number
    place = [tab.view, browser.shown, browser.split, number.slider, tab.training.landmark, *form]
    image, sigma = tab.answers.image, tab.answers.sigma
    number.bind()
    moves = [number.slider.input, browser.split.input, browser.previous.click, browser.next.click]
    for event in ([*moves, *number.typed], browser.whole.click, tab.suspects.chosen, tab.problems.chosen):
        image.asks(event)
    steps = (partial(on_step, tab, -1), partial(on_step, tab, 1))
    for event, handler in zip(moves, (partial(on_number, tab), partial(on_split, tab), *steps), strict=True):
        image.answers(event, handler, place, outputs, also=(sigma,))
    typed, marked = partial(on_typed_number, tab), [*outputs, number.field]
    image.answers(number.typed, typed, [number.field, *place], marked, also=(sigma,))
    image.answers(browser.whole.click, partial(on_whole, browser), [tab.view, browser.shown], browser.parts)

    # Gradio passes the event by its annotation, which `answers` would hide
    def suspect(shown: str, drawn: str, view: DataView, event: gr.EventData, *values: Any) -> Updates:
        updates = on_suspect(tab, view, int(event.key), *values)
        return {image.answered: shown, sigma.answered: drawn, **updates}

    def problem(
        shown: str, drawn: str, view: DataView, leaks: tuple[Leak, ...], event: gr.EventData, *values: Any
    ) -> Updates:
        updates = on_problem(tab, view, leaks, int(event.key), *values)
        return {image.answered: shown, sigma.answered: drawn, **updates}

    for table, chosen, known in ((tab.suspects, suspect, []), (tab.problems, problem, [tab.leaks])):
        bound = image.binds(
            table.chosen, chosen, [tab.view, *known, *form], [sigma.answered, *outputs], also=(sigma,)
        )
        bound.then(None, js=script("scroll_to.js", "#data-picture", "nearest", 0), **PRIVATE)


def on_number(
    tab: DataTab, view: DataView, shown: Shown, split: str, number: float, landmark: str | None, *values: Any
) -> Updates:
    """The slider was moved."""
    rows = view.rows_of(split)
    return _show_and_draw(tab, view, Shown(row=rows[min(int(number), len(rows)) - 1]), landmark, values)


def on_typed_number(
    tab: DataTab,
    typed: str,
    view: DataView,
    shown: Shown,
    split: str,
    number: float,
    landmark: str | None,
    *values: Any,
) -> Updates:
    """The number of an image was typed beside the slider."""
    asked, marks = tab.browser.number.take(typed, len(view.rows_of(split)))
    if asked is None or asked == number:
        return marks
    return {**on_number(tab, view, shown, split, asked, landmark, *values), **marks}


def on_split(
    tab: DataTab, view: DataView, shown: Shown, split: str, number: float, landmark: str | None, *values: Any
) -> Updates:
    """Another split was chosen: show its first image, and fit the slider to it."""
    return _show_and_draw(tab, view, Shown(row=view.rows_of(split)[0]), landmark, values, split)


def on_step(
    tab: DataTab,
    step: int,
    view: DataView,
    shown: Shown,
    split: str,
    number: float,
    landmark: str | None,
    *values: Any,
) -> Updates:
    """The previous or the next image; after the last comes the first."""
    rows = view.rows_of(split)
    row = rows[(int(number) - 1 + step) % len(rows)]
    return _show_and_draw(tab, view, Shown(row=row), landmark, values, split)


def on_suspect(tab: DataTab, view: DataView, place: int, *values: Any) -> Updates:
    """A row of the suspects was clicked."""
    one = view.suspects.found[place]
    shown = Shown(row=one.row, suspect=one)
    return _show_and_draw(tab, view, shown, view.names[one.landmark], values, ALL_SPLITS)


def on_problem(tab: DataTab, view: DataView, leaks: tuple[Leak, ...], place: int, *values: Any) -> Updates:
    """A row of the problems was clicked: show its image, if it has one."""
    problems, pair, path = view.splits.annotations.problems, None, None
    if place < len(problems):
        path = problems[place].image
        row = view.row_of_path(path) if path is not None else None
    else:
        pair = in_listed_order(leaks)[place - len(problems)]
        row = view.row_of_id(pair.image_ids[0])
    if row is not None:
        updates = _show_and_draw(tab, view, Shown(row=row), None, values, ALL_SPLITS)
        if pair is not None:
            updates[tab.browser.caption] += f" · {leak_caption(pair)}"
        return updates
    if path is None:
        return {tab.browser.caption: say("data_no_picture")}
    return show(tab.browser, view, Shown(path=path))


def _show_and_draw(
    tab: DataTab, view: DataView, shown: Shown, landmark: str | None, values: Any, split: str | None = None
) -> Updates:
    """Show the image, and sigma on it."""
    assert shown.row is not None
    settings = settings_for_data(values)
    return {
        **show(tab.browser, view, shown, split),
        **draw_sigma(tab.training, settings, view, shown.row, landmark),
    }
