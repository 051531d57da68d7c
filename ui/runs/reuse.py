"""Queue the run of the Train form, and fill the form with the settings of an existing run."""

from __future__ import annotations

from functools import partial

import gradio as gr

from backend.errors import UserError
from backend.run.folder import RunFolder
from ui.bindings import PRIVATE, Updates
from ui.run_rows import read_config
from ui.text.say import say
from ui.train.form import ACCEPT, FormValues, form_values, settings_of
from ui.train.implausible_panel import refuse_start
from ui.train.parts import TrainTab
from ui.train.start import queue_run


def bind_queue(tab: TrainTab) -> None:
    """Bind the queue button beside Start."""
    tab.queue.click(
        partial(on_queue, tab),
        [tab.form],
        [tab.blocked, tab.fields[ACCEPT]],
        api_visibility="private",
        trigger_mode="once",
    )


def bind_duplicated(tab: TrainTab, duplicated: gr.State, tabs: gr.Tabs) -> None:
    """Fill the form when a run is chosen to be duplicated."""
    duplicated.change(
        partial(on_duplicated, tab, duplicated, tabs),
        [duplicated],
        [tabs, duplicated, *tab.inputs],
        **PRIVATE,
    )


def on_queue(tab: TrainTab, form: FormValues) -> Updates:
    """Create the run's folder with its final settings, and queue it."""
    try:
        run_id, place = queue_run(settings_of(form), tab.runs_dir)
    except UserError as error:
        return refuse_start(tab.blocked, tab.fields[ACCEPT], error)
    gr.Info(say("queued", run_id=run_id, place=place))
    return {tab.blocked: gr.update(visible=False)}


def on_duplicated(tab: TrainTab, duplicated: gr.State, tabs: gr.Tabs, run_id: str | None) -> Updates:
    """Turn to the form with a run's settings, and clear the id, so that the run can be chosen again."""
    config = None if run_id is None else read_config(RunFolder(tab.runs_dir / run_id))
    if config is None:
        return {duplicated: None}
    gr.Info(say("duplicated", run_id=run_id))
    filled = {tab.fields[key]: value for key, value in form_values(config).items()}
    return {tabs: gr.Tabs(selected="train"), duplicated: None, **filled}
