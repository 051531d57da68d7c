"""Compare chosen runs: curves, numbers, settings that differ, and two of them on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.run.folder import RunFolder, list_runs
from ui.answers import Part, create_part
from ui.bindings import Updates
from ui.run_rows import find_best, read_config, read_rows
from ui.runs.compare_view import METRICS, caveats, choose_metric, plot_runs, values_table
from ui.runs.looks import MAX_RUNS, assign_looks
from ui.runs.paired_panel import PairedPanel, bind_redraw, create_paired_panel, offer_pair
from ui.runs.settings_view import differences_table
from ui.session import Session
from ui.text.say import say

POLL_S = 3.0


@dataclass(frozen=True)
class ComparePanel:
    """The components of the panel and the folder of runs."""

    runs_dir: Path
    session: gr.State
    chosen: gr.Dropdown
    empty: gr.Markdown
    results: gr.Column
    metric: gr.Dropdown
    log_axis: gr.Checkbox
    note: gr.HTML
    plot: gr.Plot
    values: gr.HTML
    settings: gr.HTML
    paired: PairedPanel
    answers: Part
    timer: gr.Timer

    @property
    def inputs(self) -> list[Any]:
        """The chosen runs, and the options of their curves."""
        return [self.session, self.chosen, self.metric, self.log_axis]

    @property
    def outputs(self) -> list[Any]:
        """The components that a redraw may change."""
        return [
            self.session, self.chosen, self.empty, self.results, self.note, self.plot, self.values,
            self.settings,
        ]  # fmt: skip


def create_compare_panel(session: gr.State, runs_dir: Path) -> ComparePanel:
    """Lay out the panel and bind its handlers."""
    with gr.Accordion(say("compare_title"), open=False, elem_id="compare-panel"):
        parts: dict[str, Any] = {
            "chosen": gr.Dropdown(
                [],
                value=[],
                multiselect=True,
                max_choices=MAX_RUNS,
                allow_custom_value=True,  # a restarted server knows only the first choices
                label=say("compare_chosen"),
                info=say("compare_chosen_info", num=MAX_RUNS),
                elem_id="compare-chosen",
            ),
            "empty": gr.Markdown(say("compare_empty"), elem_id="compare-empty"),
        }
        with gr.Column(visible=False) as parts["results"]:
            with gr.Row():
                parts["metric"] = gr.Dropdown(
                    [(say(f"metric_{name}"), name) for name in METRICS],
                    value=METRICS[0],
                    label=say("compare_metric"),
                    elem_id="compare-metric",
                    min_width=260,
                )
                parts["log_axis"] = gr.Checkbox(label=say("log_axis"), elem_id="compare-log", min_width=160)
            parts["note"] = gr.HTML(elem_id="compare-note", padding=False)
            with gr.Row():
                parts["plot"] = gr.Plot(
                    show_label=False, elem_id="compare-plot", elem_classes="keeps-zoom", min_width=320
                )
                parts["values"] = gr.HTML(elem_id="compare-values", min_width=320)
            gr.Markdown(f"#### {say('settings_differ')}")
            parts["settings"] = gr.HTML(elem_id="compare-settings")
            gr.Markdown(f"#### {say('paired_title')}")
            parts["paired"] = create_paired_panel(session, runs_dir)
    shown_in = ("#compare-empty", "#compare-note", "#compare-plot", "#compare-values", "#compare-settings")
    answers = create_part("compare", shown_in, [parts[name] for name in ("chosen", "metric", "log_axis")])
    panel = ComparePanel(runs_dir, session, answers=answers, timer=gr.Timer(POLL_S), **parts)
    _bind(panel)
    return panel


def _bind(panel: ComparePanel) -> None:
    draw = partial(on_tick, panel)
    panel.answers.asks([panel.chosen.change, panel.metric.change, panel.log_axis.change])
    panel.answers.polls(panel.timer.tick, draw, panel.inputs, panel.outputs, "compare")
    panel.answers.answers([panel.metric.input, panel.log_axis.input], draw, panel.inputs, panel.outputs)
    paired = panel.paired
    # the last of several quick choices is always answered, and the pair is taken from it
    redrawn = panel.answers.answers(
        panel.chosen.input, partial(on_choose, panel), panel.inputs, [*panel.outputs, *paired.choices]
    )
    bind_redraw(paired, redrawn.then)


def on_choose(panel: ComparePanel, session: Session, chosen: Sequence[str], *options: Any) -> Updates:
    """Show the curves of the chosen runs, and offer the first two of them as a pair."""
    run_ids = _existing(chosen, _run_ids(panel))
    return {**on_tick(panel, session, chosen, *options), **offer_pair(panel.paired, run_ids)}


def on_tick(
    panel: ComparePanel, session: Session, chosen: Sequence[str], metric: str, log_axis: bool
) -> Updates:
    """Redraw what changed: the list of runs, and the curves of the chosen ones."""
    updates: Updates = {panel.session: session}
    all_ids = _run_ids(panel)
    run_ids = _existing(chosen, all_ids)
    if session.has_changed("compare_names", all_ids):
        updates[panel.chosen] = gr.update(choices=all_ids, value=run_ids)
    folders = [RunFolder(panel.runs_dir / run_id) for run_id in run_ids]
    stamps = [folder.metrics_stamp() for folder in folders]
    if not session.has_changed("compare", (run_ids, stamps, metric, log_axis)):
        return updates
    are_several = len(run_ids) >= 2
    updates[panel.empty] = gr.update(visible=not are_several)
    updates[panel.results] = gr.update(visible=are_several)
    return updates | (_draw(panel, folders, metric, log_axis) if are_several else {})


def _draw(panel: ComparePanel, folders: Sequence[RunFolder], name: str, log_axis: bool) -> Updates:
    runs = {folder.run_id: read_rows(folder) for folder in folders}
    configs = {folder.run_id: config for folder in folders if (config := read_config(folder)) is not None}
    bests = {folder.run_id: find_best(folder) for folder in folders}
    metric = choose_metric(name, runs)
    looks = assign_looks(panel.runs_dir, list(runs), _run_ids(panel))
    return {
        panel.note: caveats(name, configs),
        panel.plot: plot_runs(metric, runs, looks, bests, log_axis=log_axis),
        panel.values: values_table(metric, runs, looks, bests),
        panel.settings: differences_table(configs) if configs else "",
    }


def _run_ids(panel: ComparePanel) -> list[str]:
    return [folder.run_id for folder in list_runs(panel.runs_dir)]


def _existing(chosen: Sequence[str], run_ids: Sequence[str]) -> list[str]:
    """Return those of the chosen names that are runs: one may have been deleted or mistyped."""
    return [run_id for run_id in chosen if run_id in run_ids][:MAX_RUNS]
