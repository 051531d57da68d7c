"""The Runs tab: the queue, all runs, comparisons, and everything about the opened run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.run.state import RunState
from ui.answers import create_part
from ui.bindings import LATEST, PRIVATE, Updates, read_static, script
from ui.run_rows import ORDERS, choose_rows, describe_state, rows_html, runs_table
from ui.runs.compare_panel import create_compare_panel
from ui.runs.details import RunDetails, create_run_details, draw_details, on_open
from ui.runs.evaluate_panel import create_evaluate_panel
from ui.runs.queue_panel import create_queue_panel
from ui.session import Session
from ui.text.say import say

POLL_S = 3.0


@dataclass(frozen=True)
class RunsTab:
    """The components of the tab and the folder of runs that it lists."""

    runs_dir: Path
    session: gr.State
    search: gr.Textbox
    state: gr.Dropdown
    order: gr.Dropdown
    table: gr.HTML
    empty: gr.Markdown
    details: RunDetails
    timer: gr.Timer

    @property
    def options(self) -> list[Any]:
        """The search, the state and the order of the table."""
        return [self.search, self.state, self.order]


def create_runs_tab(session: gr.State, runs_dir: Path, data_root: Path) -> RunsTab:
    """Lay out the tab and bind its handlers."""
    create_queue_panel(session, runs_dir)
    parts = _place_table()
    create_compare_panel(session, runs_dir)
    opened = gr.State()
    with gr.Column(visible=False) as column:
        details = create_run_details(session, opened, column, runs_dir)
        create_evaluate_panel(session, opened, runs_dir, data_root)
    tab = RunsTab(runs_dir, session, details=details, timer=gr.Timer(POLL_S), **parts)
    _bind(tab)
    return tab


def _place_table() -> dict[str, Any]:
    """Place the table of runs below the fields for searching and sorting it."""
    states = [(say("any_state"), ""), *((describe_state(state), state.value) for state in RunState)]
    orders = [(say(f"order_{order}"), order) for order in ORDERS]
    with gr.Row():
        search = gr.Textbox(
            label=say("search_runs"), info=say("search_runs_info"), elem_id="search-runs", min_width=220
        )
        state = gr.Dropdown(
            states, value="", label=say("state"), info=say("state_info"), elem_id="runs-state", min_width=140
        )
        order = gr.Dropdown(
            orders, value=ORDERS[0], label=say("order"), info=say("order_info"), elem_id="runs-order",
            min_width=140
        )  # fmt: skip
    return {
        "search": search,
        "state": state,
        "order": order,
        "empty": gr.Markdown(say("runs_none"), elem_id="runs-empty"),
        "table": gr.HTML(js_on_load=read_static("open_rows.js"), elem_id="runs-table", padding=False),
    }


def _bind(tab: RunsTab) -> None:
    """Bind the table, which answers its options, and the opening of a run by a click on its row."""
    details = tab.details
    outputs = [tab.session, tab.table, tab.empty]
    answers = create_part("runs", ("#runs-table", "#runs-empty"), tab.options)
    answers.asks([option.change for option in tab.options])
    answers.polls(
        tab.timer.tick,
        partial(on_tick, tab),
        [tab.session, details.opened, *tab.options],
        list(dict.fromkeys([*outputs, *details.outputs])),
        "runs_table",
    )
    answers.answers(
        [option.input for option in tab.options],
        partial(on_options, tab),
        [tab.session, *tab.options],
        outputs,
    )

    # a partial would hide the annotation by which Gradio passes the event
    def select(session: Session, event: gr.EventData) -> Updates:
        return on_open(details, session, str(event.key))

    opened = tab.table.chosen(select, [tab.session], details.outputs, **LATEST)
    opened.then(None, js=script("scroll_to.js", "#opened-run", "start", 100), **PRIVATE)


def on_load(tab: RunsTab, session: Session) -> Updates:
    """Draw the table when a browser opens the page."""
    session.drawn.pop("runs_table", None)
    return _draw_table(tab, session)


def on_options(tab: RunsTab, session: Session, *options: str) -> Updates:
    """Redraw the table for another search, state or order."""
    return {tab.session: session, **_draw_table(tab, session, *options)}


def on_tick(tab: RunsTab, session: Session, opened: str | None, *options: str) -> Updates:
    """Redraw what has changed in the table and the details."""
    updates = {tab.session: session, **_draw_table(tab, session, *options)}
    if opened is not None:
        updates |= draw_details(tab.details, session, opened)
    return updates


def _draw_table(tab: RunsTab, session: Session, *options: str) -> Updates:
    rows = runs_table(tab.runs_dir)
    chosen = choose_rows(rows, *options)
    if not session.has_changed("runs_table", (chosen, bool(rows))):
        return {}
    note = say("runs_no_match") if rows else say("runs_none")
    return {
        tab.table: gr.update(value=rows_html(chosen), visible=bool(chosen)),
        tab.empty: gr.update(value=note, visible=not chosen),
    }
