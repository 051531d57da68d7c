"""The page: its tabs, and what happens when a browser opens it, in each language."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend import __version__
from ui.api import bind_api
from ui.bindings import PRIVATE, script
from ui.data import tab as data_tab
from ui.devices import unusable_gpus
from ui.monitor import tab as monitor_tab
from ui.predict import tab as predict_tab
from ui.run_rows import live_runs
from ui.runs import reuse
from ui.runs import tab as runs_tab
from ui.session import Session
from ui.text.language import LANGUAGES, answering_in, speaking, spoken
from ui.text.language_choice import API_QUERY
from ui.text.say import say
from ui.train import tab as train_tab

# Gradio checks its uploads and exports every 10 minutes and deletes them after an hour
CACHE_S = (600, 3600)


def build_app(runs_dir: Path, data_root: Path) -> gr.Blocks:
    """Build the whole page for one folder of runs and one of data sets, once in each language."""
    page = gr.Blocks(title=say("title"), analytics_enabled=False, delete_cache=CACHE_S)
    for language in LANGUAGES.values():
        address = page.route(language.name, language.path, show_in_navbar=False) if language.path else page
        with address, speaking(language.code):
            if not language.path:
                bind_api(page, runs_dir, data_root)
            _lay_out(page, runs_dir, data_root)
        for function in page.fns.values():
            if function.page == language.path and function.fn is not None:
                function.fn = answering_in(language.code, function.fn)
    return page


def _lay_out(page: gr.Blocks, runs_dir: Path, data_root: Path) -> None:
    gr.HTML(_head())
    unusable = gr.HTML(elem_id="unusable-gpus", padding=False)
    page.load(None, js=script("answers.js"), **PRIVATE)  # first: the events below use it
    page.load(None, js=script("sort_tables.js"), **PRIVATE)
    session = gr.State(Session())
    with gr.Tabs(selected="train") as tabs:  # in the order of work
        with gr.Tab(say("tab_data"), id="data") as data_item:
            data = data_tab.create_data_tab()
        with gr.Tab(say("tab_train"), id="train"):
            train = train_tab.create_train_tab(session, runs_dir, data_root)
        with gr.Tab(say("tab_monitor"), id="monitor"):
            monitor = monitor_tab.create_monitor_tab(session, runs_dir)
        with gr.Tab(say("tab_runs"), id="runs"):
            runs = runs_tab.create_runs_tab(session, runs_dir, data_root)
        with gr.Tab(say("tab_predict"), id="predict") as predict_item:
            predict = predict_tab.create_predict_tab(runs_dir)
    gr.HTML(f"<small>{say('version', version=__version__)}</small>", elem_id="version")
    gr.on([tabs.change, tabs.select], None, js=script("fit_plots.js"), **PRIVATE)
    is_training = gr.Checkbox(visible=False)
    page.load(unusable_gpus, None, [unusable], **PRIVATE)
    asked = page.load(partial(_is_training, runs_dir), None, [is_training], **PRIVATE)
    asked.then(None, [is_training], [tabs], js=script("turn_to_monitor.js"), **PRIVATE)
    train_tab.bind_load(train, page)
    data_tab.bind_data_tab(data, data_item, train, data_root)
    monitor_tab.bind_redraw(monitor, page.load, monitor_tab.on_open)
    for name in ("keep_zoom.js", "number_field.js"):
        page.load(None, js=script(name), **PRIVATE)
    page.load(partial(runs_tab.on_load, runs), [session], [runs.table, runs.empty], **PRIVATE)
    opened = [page.load, predict_item.select]
    noted = [predict.answers.answered, predict.run, predict.run_note]
    predict.answers.settles(
        gr.on(opened, partial(predict_tab.on_open, predict), [predict.run], noted, **PRIVATE)
    )
    for chosen in (train.started, runs.details.watched):
        shown = chosen.change(_show_monitor, [chosen], [tabs, chosen], **PRIVATE)
        # at once: until the next tick the previous run would still be shown
        monitor_tab.bind_redraw(monitor, shown.then, monitor_tab.on_tick)
    reuse.bind_queue(train)
    reuse.bind_duplicated(train, runs.details.duplicated, tabs)


def _head() -> str:
    """The program's name, and links to the other languages and to the API page."""
    ways = [f'<a href="./{API_QUERY}">{say("api_page")}</a>']
    ways += [
        f'<a href="./{language.path}?language={language.code}" lang="{language.code}">{language.name}</a>'
        for language in LANGUAGES.values()
        if language != spoken()
    ]
    links = f'<nav aria-label="{say("ways")}">{"".join(ways)}</nav>'
    return f'<div class="fiducial-head"><h1>{say("title")}</h1><span>{say("tagline")}</span>{links}</div>'


def _is_training(runs_dir: Path) -> bool:
    return bool(live_runs(runs_dir))


def _show_monitor(run_id: str | None) -> tuple[Any, Any]:
    """Turn to the Monitor tab once; the id is cleared, so that the same run can be chosen again."""
    return (gr.skip(), gr.skip()) if run_id is None else (gr.Tabs(selected="monitor"), None)
