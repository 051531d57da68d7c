"""The Monitor tab, which shows one run as it is in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.placement import device_of
from backend.run.folder import RunFolder, list_runs
from backend.run.rows import RowsRead, read_events, read_metrics
from backend.run.state import derive_state
from ui.answers import Part, create_part, question_of
from ui.bindings import LATEST, PRIVATE, Updates
from ui.devices import device_lines
from ui.figures.plots import error_unit
from ui.monitor.buttons import RunButtons, create_run_buttons, draw_buttons
from ui.monitor.curves import CurveOptions, plot_curves
from ui.monitor.landmarks import landmark_table, overall_readers
from ui.monitor.previews import Previews, create_previews, draw_previews, title_text
from ui.monitor.run_card import event_list, log_text, run_card
from ui.monitor.values import curves_table
from ui.number_field import NumberedSlider, create_numbered_slider
from ui.run_rows import default_run, find_best
from ui.session import Session
from ui.text.say import say

POLL_S = 2.0
SHOWN_IN = (
    "#run-card", "#acts-on", "#curves", "#curves-note", "#curve-values", "#landmarks", "#events", "#log",
    "#previews-title", "#previews-note", "[id^=preview-]",
)  # fmt: skip
MAX_SMOOTHING = 10  # epochs to each side


@dataclass(frozen=True)
class MonitorTab:
    """The components of the tab, and the folder of runs that it watches."""

    runs_dir: Path
    session: gr.State
    run: gr.Dropdown
    card: gr.HTML
    buttons: RunButtons
    devices: gr.HTML
    smoothing: NumberedSlider
    log_axis: gr.Checkbox
    clip: gr.Checkbox
    curves_note: gr.Markdown
    curves: gr.Plot
    values: gr.HTML
    landmarks: gr.HTML
    previews: Previews
    events: gr.HTML
    log: gr.Textbox
    answers: Part  # the run
    curves_part: Part  # the options of its curves
    timer: gr.Timer

    @property
    def inputs(self) -> list[Any]:
        """The components that a redraw depends on."""
        return [self.session, self.smoothing.slider, self.log_axis, self.clip, self.previews.heatmap]

    @property
    def outputs(self) -> list[Any]:
        """The components that a redraw may change."""
        parts = [
            self.session, self.run, self.card, self.devices, self.curves_note, self.curves, self.values,
            self.landmarks, self.events, self.log,
        ]  # fmt: skip
        return list(dict.fromkeys([*parts, *self.buttons.outputs, *self.previews.outputs]))


def create_monitor_tab(session: gr.State, runs_dir: Path) -> MonitorTab:
    """Lay out the tab and bind its handlers."""
    parts: dict[str, Any] = {
        "run": gr.Dropdown([], label=say("run"), allow_custom_value=True, elem_id="watched-run"),
        "card": gr.HTML(elem_id="run-card", padding=False),
        "buttons": create_run_buttons(session, runs_dir),
        "devices": gr.HTML(elem_id="devices"),
    }
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            parts |= _place_curves()
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(f"### {say('landmark_table')}")
            parts["landmarks"] = gr.HTML(elem_id="landmarks", padding=False)
            with gr.Accordion(say("events"), open=True):
                parts["events"] = gr.HTML(elem_id="events", padding=False)
    parts["previews"] = create_previews(session, runs_dir)
    with gr.Accordion(say("log"), open=False):
        parts["log"] = gr.Textbox(lines=14, max_lines=14, show_label=False, label=say("log"), elem_id="log")
    parts["answers"] = create_part("run", SHOWN_IN, [parts["run"]])
    options = [parts["smoothing"].slider, parts["log_axis"], parts["clip"]]
    parts["curves_part"] = create_part("curves", ("#curves",), options)
    tab = MonitorTab(runs_dir=runs_dir, session=session, timer=gr.Timer(POLL_S), **parts)
    _bind(tab)
    return tab


def _place_curves() -> dict[str, Any]:
    """Place the options of the curves, the curves, and their values."""
    parts: dict[str, Any] = {}
    with gr.Row(equal_height=True):
        parts["smoothing"] = create_numbered_slider(
            0,
            MAX_SMOOTHING,
            0,
            label=say("smoothing"),
            info=say("smoothing_info"),
            elem_id="smoothing",
            min_width=200,
        )
        with gr.Column(min_width=160):
            parts["log_axis"] = gr.Checkbox(label=say("log_axis"), value=False, elem_id="log-axis")
            parts["clip"] = gr.Checkbox(
                label=say("clip"), info=say("clip_info"), value=True, elem_id="clip-outliers"
            )
    parts["curves_note"] = gr.Markdown(say("curves_none"), elem_id="curves-note")
    parts["curves"] = gr.Plot(
        label=say("curves"), show_label=False, visible=False, elem_id="curves", elem_classes="keeps-zoom"
    )
    with gr.Accordion(say("values"), open=False):
        parts["values"] = gr.HTML(elem_id="curve-values", padding=False)
    return parts


def _bind(tab: MonitorTab) -> None:
    """Bind the redraws: at every tick, and when the options of the curves or the run change."""
    smoothing = tab.smoothing
    smoothing.bind()
    outputs = [smoothing.slider, smoothing.field]
    gr.on(smoothing.typed, partial(on_typed_smoothing, tab), [smoothing.field], outputs, **LATEST)

    # the marks come before the handlers of the same events (see `Part.asks`)
    tab.answers.asks(tab.run.change)
    options = [smoothing.slider.change, tab.log_axis.change, tab.clip.change]
    tab.curves_part.asks(options)
    bind_redraw(tab, tab.timer.tick, on_tick, {**PRIVATE, "trigger_mode": "once"})
    bind_redraw(tab, options, on_tick)

    def choose(run: str, curves: str, run_id: str, session: Session, *choices: Any) -> Updates:
        return _with_answers(tab, curves, session, on_choose(tab, run_id, session, *choices))

    _bind_drawing(tab, tab.run.input, choose, [tab.run, *tab.inputs], LATEST)


def bind_redraw(tab: MonitorTab, events: Any, handler: Any, how: dict[str, Any] = LATEST) -> None:
    """Redraw what changed; everything if a late answer made the browser show another than the watched run."""
    _bind_drawing(tab, events, partial(_redraw, tab, handler), tab.inputs, how)


def _redraw(
    tab: MonitorTab, handler: Any, unanswered: str, curves: str, session: Session, *choices: Any
) -> Updates:
    """Forget what the browser does not show any more, then let the handler redraw it.

    `unanswered`, `curves`: the questions about the run and the options that still wait for an answer.
    """
    if unanswered:
        session.forget()
    elif curves:
        session.drawn.pop("curves", None)
    return _with_answers(tab, curves, session, handler(tab, session, *choices))


def _bind_drawing(tab: MonitorTab, events: Any, handler: Any, inputs: list[Any], how: dict[str, Any]) -> None:
    tab.answers.binds(events, handler, inputs, tab.outputs, how=how, also=(tab.curves_part,), polls=True)


def _with_answers(tab: MonitorTab, curves: str, session: Session, updates: Updates) -> Updates:
    """Add what the updates answer: the run if any of it is drawn, and the options if the curves are."""
    answered: Updates = {}
    if {tab.run, tab.card, tab.curves, tab.landmarks} & set(updates):
        answered[tab.answers.answered] = question_of(session.run_id)
    if curves and tab.curves in updates:
        answered[tab.curves_part.answered] = curves
    return {**answered, **updates}


def on_open(tab: MonitorTab, session: Session, *choices: Any) -> Updates:
    """Draw everything when a browser opens the page, even if it was drawn before."""
    session.forget()
    return on_tick(tab, session, *choices)


def on_choose(tab: MonitorTab, run_id: str, session: Session, *choices: Any) -> Updates:
    """Watch another run; a name without a run is ignored."""
    exists = run_id in {folder.run_id for folder in list_runs(tab.runs_dir)}
    session.watch(run_id if exists else session.run_id)
    return on_tick(tab, session, *choices)


def on_typed_smoothing(tab: MonitorTab, typed: str) -> Updates:
    """Move the slider to a typed number; its change redraws the curves."""
    return tab.smoothing.take(typed, MAX_SMOOTHING)[1]


def on_tick(
    tab: MonitorTab, session: Session, smoothing: int, log_axis: bool, clip: bool, heatmap: str
) -> Updates:
    """Redraw what has changed in the run's folder, and send nothing else."""
    folder = _watched(tab, session)
    updates: Updates = {tab.session: session, **_draw_chooser(tab, session, folder)}
    devices = device_lines()
    if session.has_changed("devices", devices):
        updates[tab.devices] = devices
    if folder is None:
        return updates | _draw_nothing(tab, session)
    metrics, events = read_metrics(folder), read_events(folder)
    updates |= _draw_card(tab, session, folder, metrics)
    updates |= draw_buttons(tab.buttons, session, folder)
    updates |= _draw_tables(tab, session, folder, metrics)
    updates |= _draw_curves(tab, session, folder, metrics, events, CurveOptions(smoothing, log_axis, clip))
    updates |= draw_previews(tab.previews, session, folder, heatmap)
    updates |= _draw_events(tab, session, folder, events)
    updates |= _draw_log(tab, session, folder)
    return updates


def _watched(tab: MonitorTab, session: Session) -> RunFolder | None:
    """Return the run of this page; without a choice, or if it was deleted, a live run or the newest."""
    if session.run_id is not None:
        chosen = RunFolder(tab.runs_dir / session.run_id)
        if chosen.config_path.is_file():
            return chosen
    folder = default_run(tab.runs_dir)
    run_id = folder.run_id if folder is not None else None
    if run_id != session.run_id:
        session.watch(run_id)
    return folder


def _draw_nothing(tab: MonitorTab, session: Session) -> Updates:
    """Clear everything if there are no runs, or none any more, and say what to do."""
    if not session.has_changed("card", None):
        return {}
    return {
        tab.card: say("no_runs"),
        tab.curves_note: gr.update(visible=True),
        **dict.fromkeys((tab.curves, tab.previews.controls, *tab.previews.plots), gr.update(visible=False)),
        **dict.fromkeys((tab.values, tab.events, tab.log), ""),
        tab.landmarks: landmark_table([]),
        tab.previews.title: title_text(None),
        tab.previews.note: say("previews_none"),
        **draw_buttons(tab.buttons, session, None),
    }


def _draw_chooser(tab: MonitorTab, session: Session, folder: RunFolder | None) -> Updates:
    names = [run.run_id for run in list_runs(tab.runs_dir)]
    if not session.has_changed("runs", (names, session.run_id)):
        return {}
    return {tab.run: gr.update(choices=names, value=folder.run_id if folder else None)}


def _draw_card(tab: MonitorTab, session: Session, folder: RunFolder, metrics: RowsRead) -> Updates:
    state, outcome, best = derive_state(folder), folder.read_outcome(), find_best(folder)
    status = {name: value for name, value in (folder.read_status() or {}).items() if name != "heartbeat"}
    if not session.has_changed("card facts", (folder.run_id, state, status, metrics.version, outcome, best)):
        return {}
    card = run_card(state, status, metrics.rows, outcome, best)
    return {tab.card: card} if session.has_changed("card", card) else {}


def _draw_tables(tab: MonitorTab, session: Session, folder: RunFolder, metrics: RowsRead) -> Updates:
    """Draw the values and the landmarks, which do not depend on the options of the curves."""
    if not session.has_changed("tables", (folder.run_id, metrics.version)):
        return {}
    return {
        tab.values: curves_table(metrics.rows, _memory_title(folder)) if metrics.rows else "",
        tab.landmarks: landmark_table(metrics.rows, folder.read_readers()),
    }


def _draw_curves(
    tab: MonitorTab,
    session: Session,
    folder: RunFolder,
    metrics: RowsRead,
    events: RowsRead,
    options: CurveOptions,
) -> Updates:
    """Draw the curves, or say that they appear after the first epoch."""
    if not session.has_changed("curves", (folder.run_id, metrics.version, events.version, options)):
        return {}
    rows = metrics.rows
    if not rows:
        return {tab.curves_note: gr.update(visible=True), tab.curves: gr.update(value=None, visible=False)}
    figure = plot_curves(
        rows,
        events.rows,
        options,
        best=find_best(folder),
        readers=overall_readers(error_unit(rows), folder.read_readers()),
        memory_title=_memory_title(folder),
        revision=folder.run_id,
    )
    return {tab.curves_note: gr.update(visible=False), tab.curves: gr.update(value=figure, visible=True)}


def _memory_title(folder: RunFolder) -> str:
    is_cuda = str(device_of(folder)).startswith("cuda")
    return say("axis_gpu_memory" if is_cuda else "axis_process_memory")


def _draw_events(tab: MonitorTab, session: Session, folder: RunFolder, events: RowsRead) -> Updates:
    if not session.has_changed("events", (folder.run_id, events.version)):
        return {}
    return {tab.events: event_list(events.rows)}


def _draw_log(tab: MonitorTab, session: Session, folder: RunFolder) -> Updates:
    if not session.has_changed("log", (folder.run_id, folder.log_stamp())):
        return {}
    return {tab.log: log_text(folder)}
