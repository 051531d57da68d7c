"""Coordinates that cannot be pixels of the chosen data set, and the tick to train on them anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from backend.data.samples import SampleSplits
from backend.errors import UserError
from ui.bindings import Updates
from ui.datasets import list_implausible
from ui.number_field import MISTAKE, mistake_info
from ui.text.say import in_markdown, say
from ui.train.form import ACCEPT, build_field


@dataclass(frozen=True)
class ImplausiblePanel:
    """The components, shown only if there is such a problem."""

    box: gr.Column
    problems: gr.Markdown
    tick: gr.Checkbox

    @property
    def outputs(self) -> list[Any]:
        """The components that another data set changes."""
        return [self.box, self.problems, self.tick]


def create_implausible_panel() -> ImplausiblePanel:
    """Lay out the panel, hidden."""
    with gr.Column(visible=False, elem_id="implausible") as box:
        problems = gr.Markdown(elem_id="implausible-list", elem_classes=["problem-list"])
        tick = build_field(ACCEPT)
    assert isinstance(tick, gr.Checkbox)
    return ImplausiblePanel(box, problems, tick)


def show_implausible(panel: ImplausiblePanel, splits: SampleSplits | None) -> Updates:
    """Show the problems of the chosen data set; None: it cannot be read. A hidden tick accepts nothing."""
    if splits is None:
        return {panel.box: gr.update(visible=False)}
    problems = list_implausible(splits)
    return {
        panel.box: gr.update(visible=bool(problems)),
        panel.problems: problems,
        panel.tick: gr.skip() if problems else False,
    }


def refuse_start(blocked: Any, tick: Any, error: UserError) -> Updates:
    """Say why a run cannot start, and mark the tick if it would help."""
    gr.Warning(str(error))
    updates: Updates = {
        blocked: gr.update(value=say("start_blocked", reason=in_markdown(error)), visible=True)
    }
    if error.field == ACCEPT:
        updates[tick] = gr.update(info=mistake_info(error.what), elem_classes=[MISTAKE])
    return updates
