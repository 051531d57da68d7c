"""The image that the Data tab shows: by number, split, step, or a line of the suspects and problems."""

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
from ui.train.form import FormValues


def bind_browser(tab: DataTab) -> None:
    """Bind what shows another image, after the marks of the same events (see `Part.asks`)."""
    browser, number = tab.browser, tab.browser.number
    moves = [number.slider.input, browser.split.input, browser.previous.click, browser.next.click]
    tables = [tab.suspects.chosen, tab.problems.chosen]
    for event in ([*moves, *number.typed], browser.whole_image.click, *tables):
        tab.answers.image.asks(event)

    number.bind()
    _bind_moves(tab)
    _bind_tables(tab)


def _bind_moves(tab: DataTab) -> None:
    """Show another image by its number, its split or a step, or the whole image again."""
    browser, number = tab.browser, tab.browser.number
    image, sigma = tab.answers.image, tab.answers.sigma
    inputs = [tab.view, browser.split, number.slider, tab.training.landmark, tab.train.form]
    outputs = _outputs(tab)
    for event, handler in (
        (number.slider.input, partial(on_number, tab)),
        (browser.split.input, partial(on_split, tab)),
        (browser.previous.click, partial(on_step, tab, -1)),
        (browser.next.click, partial(on_step, tab, 1)),
    ):
        image.answers(event, handler, inputs, outputs, also=(sigma,))
    image.answers(
        number.typed,
        partial(on_typed_number, tab),
        [number.field, *inputs],
        [*outputs, number.field],
        also=(sigma,),
    )
    image.answers(
        browser.whole_image.click, partial(on_whole, browser), [tab.view, browser.shown], browser.parts
    )


def _bind_tables(tab: DataTab) -> None:
    """Show the image of a row of the suspects or problems, and scroll to it."""
    image, sigma = tab.answers.image, tab.answers.sigma

    # Gradio passes the event by its annotation, which `answers` would hide
    def open_suspect(
        image_question: str, sigma_question: str, view: DataView, event: gr.EventData, form: FormValues
    ) -> Updates:
        updates = on_suspect(tab, view, int(event.key), form)
        return {image.answered: image_question, sigma.answered: sigma_question, **updates}

    def open_problem(
        image_question: str,
        sigma_question: str,
        view: DataView,
        leaks: tuple[Leak, ...],
        event: gr.EventData,
        form: FormValues,
    ) -> Updates:
        updates = on_problem(tab, view, leaks, int(event.key), form)
        return {image.answered: image_question, sigma.answered: sigma_question, **updates}

    outputs = [sigma.answered, *_outputs(tab)]
    for event, handler, inputs in (
        (tab.suspects.chosen, open_suspect, [tab.view, tab.train.form]),
        (tab.problems.chosen, open_problem, [tab.view, tab.leaks, tab.train.form]),
    ):
        opened = image.binds(event, handler, inputs, outputs, also=(sigma,))
        opened.then(None, js=script("scroll_to.js", "#data-picture", "nearest", 0), **PRIVATE)


def _outputs(tab: DataTab) -> list[Any]:
    """Return the components that another image changes, with sigma on it."""
    return [*tab.browser.parts, tab.training.landmark, tab.training.sigma, tab.training.sigma_note]


def on_number(
    tab: DataTab, view: DataView, split: str, number: float, landmark: str | None, form: FormValues
) -> Updates:
    """Show the image at the slider."""
    rows = view.rows_in_split(split)
    return _show_and_draw(tab, view, Shown(row=rows[min(int(number), len(rows)) - 1]), landmark, form)


def on_typed_number(
    tab: DataTab,
    typed: str,
    view: DataView,
    split: str,
    number: float,
    landmark: str | None,
    form: FormValues,
) -> Updates:
    """Show the image whose number was typed beside the slider."""
    typed_number, updates = tab.browser.number.take(typed, len(view.rows_in_split(split)))
    if typed_number is None or typed_number == number:
        return updates
    return {**on_number(tab, view, split, typed_number, landmark, form), **updates}


def on_split(
    tab: DataTab, view: DataView, split: str, number: float, landmark: str | None, form: FormValues
) -> Updates:
    """Show the first image of another split, and fit the slider to the split."""
    return _show_and_draw(tab, view, Shown(row=view.rows_in_split(split)[0]), landmark, form, split)


def on_step(
    tab: DataTab, step: int, view: DataView, split: str, number: float, landmark: str | None, form: FormValues
) -> Updates:
    """Show the previous or the next image; after the last comes the first."""
    rows = view.rows_in_split(split)
    row = rows[(int(number) - 1 + step) % len(rows)]
    return _show_and_draw(tab, view, Shown(row=row), landmark, form, split)


def on_suspect(tab: DataTab, view: DataView, place: int, form: FormValues) -> Updates:
    """Show the image of a suspect whose row was clicked."""
    suspect = view.suspects.outliers[place]
    shown = Shown(row=suspect.row, suspect=suspect)
    return _show_and_draw(tab, view, shown, view.names[suspect.landmark], form, ALL_SPLITS)


def on_problem(
    tab: DataTab, view: DataView, leaks: tuple[Leak, ...], place: int, form: FormValues
) -> Updates:
    """Show the image of a problem whose row was clicked, if it has one."""
    problems, pair, path = view.splits.annotations.problems, None, None
    if place < len(problems):
        path = problems[place].image
        row = view.row_of_path(path) if path is not None else None
    else:
        pair = in_listed_order(leaks)[place - len(problems)]
        row = view.row_of_id(pair.image_ids[0])
    if row is not None:
        updates = _show_and_draw(tab, view, Shown(row=row), None, form, ALL_SPLITS)
        if pair is not None:
            updates[tab.browser.caption] += f" · {leak_caption(pair)}"
        return updates
    if path is None:
        return {tab.browser.caption: say("data_no_picture")}
    return show(tab.browser, view, Shown(path=path))


def _show_and_draw(
    tab: DataTab,
    view: DataView,
    shown: Shown,
    landmark: str | None,
    form: FormValues,
    split: str | None = None,
) -> Updates:
    """Show the image, and sigma on it."""
    assert shown.row is not None
    settings = settings_for_data(form)
    return {
        **show(tab.browser, view, shown, split),
        **draw_sigma(tab.training, settings, view, shown.row, landmark),
    }
