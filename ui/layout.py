"""The page: its tabs, and what happens when a browser opens it, in each language."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend import __version__
from ui.api import bind_api
from ui.bindings import PRIVATE, script
from ui.check_panel import create_check_panel
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
from ui.train.parts import TrainTab

# Gradio checks its uploads and exports every 10 minutes and deletes them after an hour
CACHE_S = (600, 3600)


@dataclass(frozen=True)
class _Parts:
    """The parts of a page that its events connect."""

    session: gr.State
    unusable_gpus: gr.HTML
    tabs: gr.Tabs
    train: TrainTab
    monitor: monitor_tab.MonitorTab
    runs: runs_tab.RunsTab


def build_app(runs_dir: Path, data_root: Path) -> gr.Blocks:
    """Build the whole page for one folder of runs and one of data sets, once in each language."""
    page = gr.Blocks(title=say("title"), analytics_enabled=False, delete_cache=CACHE_S)
    for language in LANGUAGES.values():
        address = page.route(language.name, language.path, show_in_navbar=False) if language.path else page
        with address, speaking(language.code):
            if not language.path:
                bind_api(page, runs_dir, data_root)
            _bind_scripts(page)
            parts = _place_parts(page, runs_dir, data_root)
            _bind_load(page, parts, runs_dir)
            _bind_started_run(parts)
        # every handler answers in the language of its page
        for function in page.fns.values():
            if function.page == language.path and function.fn is not None:
                function.fn = answering_in(language.code, function.fn)
    return page


def _place_parts(page: gr.Blocks, runs_dir: Path, data_root: Path) -> _Parts:
    """Lay out the page from top to bottom, with the tabs in the order of work."""
    gr.HTML(_head())
    unusable = gr.HTML(elem_id="unusable-gpus", padding=False)
    session = gr.State(Session())
    with gr.Tabs(selected="train") as tabs:
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
    create_check_panel(runs_dir, data_root)
    gr.HTML(f"<small>{say('version', version=__version__)}</small>", elem_id="version")
    gr.on([tabs.change, tabs.select], None, js=script("fit_plots.js"), **PRIVATE)
    # the Data tab works on the Train form, which is there only now
    data_tab.bind_data_tab(data, data_item, train, data_root)
    reuse.bind_queue(train)
    reuse.bind_duplicated(train, runs.details.duplicated, tabs)
    predict_tab.bind_open(predict, [page.load, predict_item.select])
    return _Parts(
        session=session,
        unusable_gpus=unusable,
        tabs=tabs,
        train=train,
        monitor=monitor,
        runs=runs,
    )


def _bind_scripts(page: gr.Blocks) -> None:
    """Run the page's scripts before any other event of its load, since those call `answers.js`."""
    for name in ("answers.js", "sort_tables.js", "keep_zoom.js", "number_field.js"):
        page.load(None, js=script(name), **PRIVATE)


def _bind_load(page: gr.Blocks, parts: _Parts, runs_dir: Path) -> None:
    """Fill the page when a browser opens it: first what decides which tab it sees, then each tab."""
    page.load(unusable_gpus, None, [parts.unusable_gpus], **PRIVATE)
    is_training = gr.Checkbox(visible=False)
    checked = page.load(partial(_is_training, runs_dir), None, [is_training], **PRIVATE)
    checked.then(None, [is_training], [parts.tabs], js=script("turn_to_monitor.js"), **PRIVATE)

    train_tab.bind_load(parts.train, page)
    monitor_tab.bind_redraw(parts.monitor, page.load, monitor_tab.on_open)
    runs = parts.runs
    page.load(partial(runs_tab.on_load, runs), [parts.session], [runs.table, runs.empty], **PRIVATE)


def _bind_started_run(parts: _Parts) -> None:
    """Turn to the Monitor tab when a run is started, resumed or chosen to be watched.

    The tab is redrawn at once, since until its next tick it would still show the previous run.
    """
    for run_id in (parts.train.started, parts.runs.details.watched):
        turned = run_id.change(_show_monitor, [run_id], [parts.tabs, run_id], **PRIVATE)
        monitor_tab.bind_redraw(parts.monitor, turned.then, monitor_tab.on_tick)


def _head() -> str:
    """Return the program's name, with links to the other languages and to the API page, as HTML."""
    links = [f'<a href="./{API_QUERY}">{say("api_page")}</a>']
    links += [
        f'<a href="./{language.path}?language={language.code}" lang="{language.code}">{language.name}</a>'
        for language in LANGUAGES.values()
        if language != spoken()
    ]
    navigation = f'<nav aria-label="{say("navigation")}">{"".join(links)}</nav>'
    return (
        f'<div class="fiducial-head"><h1>{say("title")}</h1><span>{say("tagline")}</span>{navigation}</div>'
    )


def _is_training(runs_dir: Path) -> bool:
    return bool(live_runs(runs_dir))


def _show_monitor(run_id: str | None) -> tuple[Any, Any]:
    """Switch to the Monitor tab and clear the id, so that choosing the same run again fires another event."""
    return (gr.skip(), gr.skip()) if run_id is None else (gr.Tabs(selected="monitor"), None)
