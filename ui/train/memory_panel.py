"""The memory that a run needs and that the device has: a sentence, a chart, live readings, and buttons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.config import Settings, parse_settings
from backend.data.samples import read_splits
from backend.device.gpu import read_gpus
from backend.errors import UserError
from backend.memory.batch_size import (
    Batching,
    DeviceMemory,
    Recommendation,
    choose_reserve,
    read_device_memory,
    recommend,
    requested_batching,
)
from backend.memory.reasons import Reason
from ui.answers import VOID, Part, create_part
from ui.bindings import PRIVATE, Updates
from ui.devices import device_lines
from ui.run_rows import live_runs
from ui.text.say import in_markdown, say
from ui.torch_queries import (
    Answer,
    Subject,
    known_memory,
    measured_of,
    query_measurement,
    query_memory,
    query_speed,
    subject_of,
)
from ui.train.estimate import estimate_words
from ui.train.form import MEMORY_KEYS, FormValues, mistakes_by_key, settings_of, to_settings
from ui.train.memory_view import measured_words, plot_memory, remarks_words

POLL_S = 2.0
ONCE: dict[str, Any] = {**PRIVATE, "trigger_mode": "once"}
NEWS = 0.01  # share of the device's memory by which the free part must change to redraw the chart


@dataclass(frozen=True)
class Shown:
    """The answer that one browser shows."""

    question: str = ""  # that it answers
    subject: Subject | None = None
    memory: DeviceMemory | None = None
    answer: Answer | None = None
    found: Recommendation | None = None
    devices: str = ""


@dataclass(frozen=True)
class MemoryPanel:
    """The components, and the form's fields, which the buttons fill in."""

    runs_dir: Path
    fields: dict[str, Any]
    form: gr.JSON  # their values
    shown: gr.State
    step: Part  # what is said about a step's memory
    time: Part  # and about the time of an epoch
    advice: gr.Markdown
    recommend: gr.Button
    accumulate: gr.Button
    estimate: gr.Markdown
    devices: gr.HTML
    chart: gr.Plot
    measure: gr.Button
    measure_note: gr.Markdown
    measured: gr.Markdown
    timer: gr.Timer

    @property
    def drawn(self) -> list[Any]:
        """The components that a redraw may change; the note of a test stays until the test has ended."""
        return [
            self.shown, self.step.answered, self.advice, self.accumulate, self.devices, self.chart,
            self.measured,
        ]  # fmt: skip


def create_memory_panel(runs_dir: Path, fields: dict[str, Any], form: gr.JSON, **placed: Any) -> MemoryPanel:
    """Lay out the chart's side; `placed` are in the form: recommend, advice, accumulate, estimate."""
    devices = gr.HTML(elem_id="train-devices", padding=False)
    chart = gr.Plot(label=say("memory_chart"), elem_id="memory-chart")
    measure = gr.Button(say("measure"), size="sm", elem_id="measure")
    measure_note = gr.Markdown(say("measure_info"), elem_id="measure-note")
    measured = gr.Markdown(elem_id="measured")
    return MemoryPanel(
        runs_dir=runs_dir,
        fields=fields,
        form=form,
        shown=gr.State(Shown()),
        step=create_part(
            "step", ("#advice", "#accumulate", "#memory-chart", "#measured"), [form], keys=MEMORY_KEYS
        ),
        time=create_part("time", ("#estimate",), [form], keys=MEMORY_KEYS),
        devices=devices,
        chart=chart,
        measure=measure,
        measure_note=measure_note,
        measured=measured,
        timer=gr.Timer(POLL_S),
        **placed,
    )


def mark_memory_panel(panel: MemoryPanel) -> None:
    """Bind the marks, before the handlers (see `Part.asks`)."""
    for part in (panel.step, panel.time):
        part.asks(_changes(panel))


def _changes(panel: MemoryPanel) -> list[Any]:
    return [panel.fields[key].change for key in MEMORY_KEYS]


def bind_memory_panel(panel: MemoryPanel) -> None:
    """Bind the handlers."""
    changes = _changes(panel)
    about = [panel.shown, panel.form]
    asked = panel.step.binds(changes, partial(on_memory, panel), about, panel.drawn)
    _bind_estimate(panel, asked)
    # a late answer to an older form has replaced the right one
    panel.step.binds(panel.step.again.click, partial(on_memory, panel), about, panel.drawn)
    # not the form: the browser looks up each input of an event among all components, at every tick
    panel.step.settles(panel.timer.tick(partial(on_tick, panel), panel.shown, panel.drawn, **ONCE))
    batch_size, steps = panel.fields["batch_size"], panel.fields["gradient_accumulation_steps"]
    panel.step.binds(
        panel.recommend.click, partial(on_recommend, panel), about, [*panel.drawn, batch_size], how=PRIVATE
    )
    panel.accumulate.click(partial(on_accumulate, panel), [panel.shown], [batch_size, steps], **PRIVATE)
    panel.step.binds(
        panel.measure.click,
        partial(on_measure, panel),
        about,
        [*panel.drawn, panel.measure, panel.measure_note],
        how=ONCE,
    )


def load_memory_panel(panel: MemoryPanel, restored: Any) -> None:
    """Fill the panel when a browser opens the page; `restored`: the event that fills the form."""
    asked = panel.step.binds(restored.then, partial(on_memory, panel), [panel.shown, panel.form], panel.drawn)
    _bind_estimate(panel, asked)


def _bind_estimate(panel: MemoryPanel, asked: Any) -> None:
    panel.time.binds(asked.then, partial(on_estimate, panel), [panel.shown, panel.form], [panel.estimate])


def on_memory(panel: MemoryPanel, question: str, shown: Shown, form: FormValues) -> Iterator[Updates]:
    """The batch, or something else that changes a step's memory: a note at once while a step is traced, then
    the chart."""
    settings = settings_for_memory(form)
    if settings is None:  # the field that is wrong is marked
        yield _answered(panel, replace(shown, question=VOID + question))
        return
    shown = replace(shown, question=question)
    try:
        if not settings.dataset_path:
            words = say("choose_data")
            yield {**_answered(panel, Shown(question)), panel.advice: words, **_nothing_drawn(panel)}
            return
        subject = subject_of(settings, read_splits(settings))
        if known_memory(subject) is None:
            yield {panel.advice: say("predicting")}
        query_memory(subject)
        yield draw(panel, replace(shown, subject=subject, answer=None))
    except UserError as error:
        words = say("estimate_failed", reason=in_markdown(error))
        yield {**_answered(panel, Shown(question)), panel.advice: words, **_nothing_drawn(panel)}


def on_estimate(panel: MemoryPanel, question: str, shown: Shown, form: FormValues) -> Updates:
    """Afterwards: parameters and time for the current form. Time is measured once, and not while a run is
    training here."""
    settings = settings_for_memory(form)
    if settings is None:
        return {panel.estimate: "", panel.time.answered: question}
    if shown.question != question:
        return {panel.estimate: gr.skip()}  # the form has changed: its memory is asked for first
    if shown.subject is None or shown.answer is None:
        return {panel.estimate: "", panel.time.answered: question}
    try:
        busy = bool(live_runs(panel.runs_dir))
        answer = shown.answer if busy else query_speed(shown.subject)
        words = estimate_words(settings, read_splits(settings), answer, busy=busy)
    except UserError as error:
        words = say("estimate_failed", reason=in_markdown(error))
    return {panel.estimate: words, panel.time.answered: question}


def on_tick(panel: MemoryPanel, shown: Shown) -> Updates:
    """Update the readings that changed, and the chart if the free memory changed or a test has ended."""
    updates: Updates = {}
    devices = device_lines()
    if devices != shown.devices:
        shown = replace(shown, devices=devices)
        updates = {panel.devices: devices, panel.shown: shown}
    if shown.subject is None or shown.memory is None:
        return updates or {panel.shown: gr.skip()}
    answer = known_memory(shown.subject)
    if answer is not shown.answer or _is_news(shown.memory, _read_memory(shown.subject, shown.answer)):
        return {**updates, **draw(panel, shown)}
    return updates or {panel.shown: gr.skip()}


def settings_for_memory(form: FormValues) -> Settings | None:
    """Only the settings that decide a step's memory, so that a wrong learning rate does not hide it; None
    where one of them is wrong."""
    raw = to_settings(form)
    wrong = mistakes_by_key(raw)
    if any(key in MEMORY_KEYS for key in wrong):
        return None
    return parse_settings({key: value for key, value in raw.items() if key not in wrong})


def _answered(panel: MemoryPanel, shown: Shown) -> Updates:
    return {panel.shown: shown, panel.step.answered: shown.question}


def _nothing_drawn(panel: MemoryPanel) -> Updates:
    return {panel.chart: None, panel.measured: "", panel.accumulate: gr.update(visible=False)}


def on_recommend(panel: MemoryPanel, question: str, shown: Shown, form: FormValues) -> Iterator[Updates]:
    """Fill in the recommended batch for the memory that is free now."""
    for updates in on_memory(panel, question, shown, form):
        found = getattr(updates.get(panel.shown), "found", None)
        if found is not None and found.batch_size is not None:
            updates[panel.fields["batch_size"]] = found.batch_size
        yield updates


def on_accumulate(panel: MemoryPanel, shown: Shown) -> Updates:
    """Fill in the smaller batch that keeps the number of images per step."""
    batch_size, steps = panel.fields["batch_size"], panel.fields["gradient_accumulation_steps"]
    if shown.found is None or shown.found.instead is None:
        return {batch_size: gr.skip()}
    return {
        batch_size: shown.found.instead.batch_size,
        steps: shown.found.instead.gradient_accumulation_steps,
    }


def on_measure(panel: MemoryPanel, question: str, shown: Shown, form: FormValues) -> Iterator[Updates]:
    """Run real steps in separate processes; not while a run is training here, since both would slow down.

    Uses the current form, which may be newer than what is shown.
    """
    if live_runs(panel.runs_dir):
        yield {panel.measure_note: say("measure_busy")}
        return
    yield {panel.measure_note: say("measuring"), panel.measure: gr.update(interactive=False)}
    note = say("measure_info")
    try:
        settings = settings_of(form)
        if not settings.dataset_path:
            raise UserError(say("choose_data"))
        query_measurement(subject_of(settings, read_splits(settings)))
        yield from on_memory(panel, question, shown, form)
    except UserError as error:
        note = say("measure_failed", reason=in_markdown(error))
    yield {panel.measure_note: note, panel.measure: gr.update(interactive=True)}


def draw(panel: MemoryPanel, shown: Shown) -> Updates:
    """Sentence, chart and buttons for a subject whose memory is known, with the memory that is free now."""
    assert shown.subject is not None
    subject, answer = shown.subject, query_memory(shown.subject)
    memory = _read_memory(subject, answer)
    predicted = {int(size): num_bytes for size, num_bytes in answer["predicted_bytes"].items()}
    measured = measured_of(answer)
    found = _recommend(subject, answer, memory, predicted)
    if found.batch_size is None and memory.free_bytes is not None:
        # what would fit has to be predicted elsewhere, for the memory that is free now
        asked = DeviceMemory(memory.title, memory.total_bytes, answer["free_bytes"])
        if answer["recommended_batch_size"] is not None or _is_news(asked, memory):
            answer = query_memory(subject, anew=True)
        found = replace(found, reasons=tuple(Reason(**each) for each in answer["remarks"]))
    batch_size = subject.settings.batch_size
    return {
        **_answered(panel, replace(shown, answer=answer, memory=memory, found=found)),
        panel.advice: _advice(found),
        panel.accumulate: _offer(found.instead),
        panel.chart: plot_memory(
            predicted, found, memory, measured, None if batch_size == "auto" else batch_size
        ),
        panel.measured: measured_words(measured, predicted.__getitem__),
    }


def _advice(found: Recommendation) -> str:
    key = "recommended_none" if found.batch_size is None else "recommended"
    return say(key, reason=remarks_words(found.reasons))


def _recommend(
    subject: Subject, answer: Answer, memory: DeviceMemory, predicted: dict[int, int]
) -> Recommendation:
    return recommend(
        predicted.__getitem__,
        memory,
        num_images=subject.num_images,
        reserve_bytes=choose_reserve(subject.device, memory),
        terms=answer["terms"],
        measured=measured_of(answer),
        requested=requested_batching(subject.settings),
    )


def _offer(instead: Batching | None) -> Any:
    if instead is None:
        return gr.update(visible=False)
    words = say("accumulate", batch=instead.batch_size, steps=instead.gradient_accumulation_steps)
    return gr.update(value=words, visible=True)


def _read_memory(subject: Subject, answer: Answer | None) -> DeviceMemory:
    """Current where the driver or the system reports it, else as last read by the process that asks torch."""
    gpus = read_gpus()
    number = int(subject.device.partition(":")[2] or 0)
    if subject.device == "cpu" or any(gpu.index == number and gpu.free_bytes is not None for gpu in gpus):
        return read_device_memory(subject.device, gpus)
    if answer is None:
        return DeviceMemory(subject.device, None, None)
    return DeviceMemory(answer["device_title"], answer["total_bytes"], answer["free_bytes"])


def _is_news(before: DeviceMemory, now: DeviceMemory) -> bool:
    if before.free_bytes is None or now.free_bytes is None:
        return before.free_bytes is not now.free_bytes
    return abs(now.free_bytes - before.free_bytes) > NEWS * (now.total_bytes or now.free_bytes)
