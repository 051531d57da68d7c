"""build_app(): the tabs, and what happens when a browser opens the page. Nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ui import tab_data, tab_monitor, tab_runs, tab_train
from ui.runs import live_runs
from ui.session import Session
from ui.text import say

# a plot that is drawn on a hidden tab has no box to fit into: plotly measures again when the window changes
FIT_PLOTS = "() => { setTimeout(() => window.dispatchEvent(new Event('resize')), 100); }"


def build_app(runs_dir: Path, data_root: Path) -> gr.Blocks:
    """The whole page over one folder of runs and one of data sets."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    page = gr.Blocks(title=say("title"), analytics_enabled=False)
    with page:
        gr.HTML(f'<div class="fiducial-head"><h1>{say("title")}</h1><span>{say("tagline")}</span></div>')
        session = gr.State(Session())
        with gr.Tabs(selected="train") as tabs:
            with gr.Tab(say("tab_data"), id="data") as data_tab:
                data = tab_data.create_data_tab()
            with gr.Tab(say("tab_train"), id="train"):
                train = tab_train.create_train_tab(session, runs_dir, data_root)
            with gr.Tab(say("tab_monitor"), id="monitor"):
                monitor = tab_monitor.create_monitor_tab(session, runs_dir)
            with gr.Tab(say("tab_runs"), id="runs"):
                runs = tab_runs.create_runs_tab(session, runs_dir, data_root)
        gr.on([tabs.change, tabs.select], None, js=FIT_PLOTS, **quiet)
        page.load(partial(_first_tab, runs_dir), None, [tabs], **quiet)
        tab_train.bind_load(train, page)
        tab_data.bind_data_tab(data, data_tab, train, data_root)
        page.load(partial(tab_monitor.on_open, monitor), monitor.inputs, monitor.outputs, **quiet)
        page.load(partial(tab_runs.on_open, runs), [session], [runs.table, runs.empty], **quiet)
        for chosen in (train.started, runs.watched):
            chosen.change(_show_monitor, [chosen], [tabs, chosen], **quiet)
    return page


def _first_tab(runs_dir: Path) -> Any:
    """The page opens on Monitor while a run is alive."""
    return gr.Tabs(selected="monitor") if live_runs(runs_dir) else gr.skip()


def _show_monitor(run_id: str | None) -> tuple[Any, Any]:
    """Turn to the Monitor tab once; the id is cleared, so that the same run can be chosen again."""
    return (gr.skip(), gr.skip()) if run_id is None else (gr.Tabs(selected="monitor"), None)
