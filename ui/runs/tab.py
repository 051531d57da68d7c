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
    words: gr.Textbox
    state: gr.Dropdown
    order: gr.Dropdown
    table: gr.HTML
    empty: gr.Markdown
    details: RunDetails
    timer: gr.Timer

    @property
    def options(self) -> list[Any]:
        """What to search for, and the order."""
        return [self.words, self.state, self.order]


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
    states = [(say("any_state"), ""), *((describe_state(state), state.value) for state in RunState)]
    orders = [(say(f"order_{order}"), order) for order in ORDERS]
    with gr.Row():
        words = gr.Textbox(
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
        "words": words,
        "state": state,
        "order": order,
        "empty": gr.Markdown(say("runs_none"), elem_id="runs-empty"),
        "table": gr.HTML(js_on_load=read_static("open_rows.js"), elem_id="runs-table", padding=False),
    }


def _bind(tab: RunsTab) -> None:
    details = tab.details
    drawn = [tab.session, tab.table, tab.empty]
    everything = list(dict.fromkeys([*drawn, *details.outputs]))
    listed = create_part("runs", ("#runs-table", "#runs-empty"), tab.options)
    wished = [tab.words.input, tab.state.input, tab.order.input]
    listed.asks([wish.change for wish in (tab.words, tab.state, tab.order)])
    listed.polls(
        tab.timer.tick,
        partial(on_tick, tab),
        [tab.session, details.opened, *tab.options],
        everything,
        "runs_table",
    )
    listed.answers(wished, partial(on_wish, tab), [tab.session, *tab.options], drawn)

    # a partial would hide the annotation by which Gradio passes the event
    def select(session: Session, event: gr.EventData) -> Updates:
        return on_open(details, session, str(event.key))

    shown = tab.table.chosen(select, [tab.session], details.outputs, **LATEST)
    shown.then(None, js=script("scroll_to.js", "#opened-run", "start", 100), **PRIVATE)


def on_load(tab: RunsTab, session: Session) -> Updates:
    """A browser opened the page."""
    session.drawn.pop("runs_table", None)
    return _draw_table(tab, session)


def on_wish(tab: RunsTab, session: Session, *options: str) -> Updates:
    """Another search, state or order."""
    return {tab.session: session, **_draw_table(tab, session, *options)}


def on_tick(tab: RunsTab, session: Session, opened: str | None, *options: str) -> Updates:
    """Redraw the table and the details where they changed."""
    updates = {tab.session: session, **_draw_table(tab, session, *options)}
    if opened is not None:
        updates |= draw_details(tab.details, session, opened)
    return updates


def _draw_table(tab: RunsTab, session: Session, *options: str) -> Updates:
    rows = runs_table(tab.runs_dir)
    chosen = choose_rows(rows, *options)
    if not session.has_changed("runs_table", (chosen, bool(rows))):
        return {}
    words = say("runs_no_match") if rows else say("runs_none")
    return {
        tab.table: gr.update(value=rows_html(chosen), visible=bool(chosen)),
        tab.empty: gr.update(value=words, visible=not chosen),
    }
