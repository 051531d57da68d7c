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
    """The components, shown only where there is such a problem."""

    box: gr.Column
    words: gr.Markdown
    tick: gr.Checkbox

    @property
    def outputs(self) -> list[Any]:
        """What another data set changes."""
        return [self.box, self.words, self.tick]


def create_implausible_panel() -> ImplausiblePanel:
    """Lay out the panel, hidden."""
    with gr.Column(visible=False, elem_id="implausible") as box:
        words = gr.Markdown(elem_id="implausible-list", elem_classes=["problem-list"])
        tick = build_field(ACCEPT)
    assert isinstance(tick, gr.Checkbox)
    return ImplausiblePanel(box, words, tick)


def show_implausible(panel: ImplausiblePanel, splits: SampleSplits | None) -> Updates:
    """Another data set was chosen, or None: one that cannot be read. A hidden tick accepts nothing."""
    if splits is None:
        return {panel.box: gr.update(visible=False)}
    words = list_implausible(splits)
    return {
        panel.box: gr.update(visible=bool(words)),
        panel.words: words,
        panel.tick: gr.skip() if words else False,
    }


def refuse_start(blocked: Any, tick: Any, error: UserError) -> Updates:
    """Say why a run cannot start, and mark the tick where it would help."""
    gr.Warning(str(error))
    updates: Updates = {
        blocked: gr.update(value=say("start_blocked", reason=in_markdown(error)), visible=True)
    }
    if error.field == ACCEPT:
        updates[tick] = gr.update(info=mistake_info(error.what), elem_classes=[MISTAKE])
    return updates
