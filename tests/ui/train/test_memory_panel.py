from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from backend.config import parse_settings
from backend.device import machine as machine_module
from backend.device import machine_query
from backend.errors import UserError
from backend.memory.batch_size import DeviceMemory
from backend.memory.reasons import GIB
from ui import torch_queries
from ui.answers import VOID, Part
from ui.torch_queries import Subject
from ui.train import memory_panel
from ui.train.form import FORM_KEYS, build_field
from ui.train.memory_panel import MemoryPanel, Shown

SUBJECT = Subject(parse_settings({"batch_size": 48}), 29, 800, "cuda:0")
ANSWER: dict[str, Any] = {
    "recommended_batch_size": 35,
    "remarks": [],
    "predicted_bytes": {str(size): size * GIB // 4 for size in range(1, 65)},
    "terms": {"gradients": GIB // 10},
    "measured": [],
    "free_bytes": 10 * GIB,
    "total_bytes": 12 * GIB,
    "device_title": "card",
    "seconds_per_image": None,
}


class Machine:
    """A GPU whose free memory the test sets, and the process that predicts, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes, self.devices, self.questions = 10 * GIB, "card: 10 GiB free", 0
        self.answer = ANSWER
        monkeypatch.setattr(torch_queries, "_answers", {})
        monkeypatch.setattr(torch_queries, "_query_vram", self.ask)
        monkeypatch.setattr(memory_panel, "device_lines", lambda: self.devices)
        monkeypatch.setattr(memory_panel, "_read_memory", lambda subject, answer: self.memory)

    @property
    def memory(self) -> DeviceMemory:
        return DeviceMemory("card", 12 * GIB, self.free_bytes)

    def ask(self, subject: Subject, *more: str, timeout_s: float) -> dict[str, Any]:
        self.questions += 1
        return self.answer


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def panel(tmp_path: Path) -> MemoryPanel:
    # a component is only what an update is addressed to, so its name serves as well
    parts: dict[str, Any] = {field.name: field.name for field in fields(MemoryPanel)}
    names = {key: f"field-{key}" for key in ("batch_size", "gradient_accumulation_steps")}
    for name in ("step", "time"):
        parts[name] = Part(name, (), (), f"answered {name}", f"again {name}")  # type: ignore[arg-type]
    return MemoryPanel(**{**parts, "runs_dir": tmp_path, "fields": names})


def form_values(**changed: Any) -> dict[str, Any]:
    """What the form holds where nothing else was changed."""
    values = {key: build_field(key).value for key in FORM_KEYS}
    return {**values, "annotation_type": "mean", "dataset_path": "blobs", **changed}


def drawn(panel: MemoryPanel) -> Shown:
    torch_queries.query_memory(SUBJECT)
    shown = memory_panel.draw(panel, Shown(subject=SUBJECT))[panel.shown]
    assert isinstance(shown, Shown)
    return shown


def test_the_sentence_explains_the_number_and_offers_what_keeps_the_step(
    panel: MemoryPanel, machine: Machine
) -> None:
    torch_queries.query_memory(SUBJECT)
    updates = memory_panel.draw(panel, Shown(subject=SUBJECT))
    assert updates[panel.advice].startswith(
        "**Recommended batch size 35: 8.8 of 10.0 GiB free; 36 would leave less than the reserve"
    )
    assert updates[panel.accumulate]["value"] == "Use batches of 24 and accumulate 2 per step"
    filled = memory_panel.on_accumulate(panel, updates[panel.shown])
    batch_size, steps = panel.fields["batch_size"], panel.fields["gradient_accumulation_steps"]
    assert (filled[batch_size], filled[steps]) == (24, 2)


def test_a_tick_sends_nothing_while_nothing_changes(panel: MemoryPanel, machine: Machine) -> None:
    shown = replace(drawn(panel), devices=machine.devices)
    machine.free_bytes += round(0.009 * 12 * GIB)
    assert memory_panel.on_tick(panel, shown) == {panel.shown: gr.skip()}
    assert machine.questions == 1


def test_a_tick_sends_the_readings_alone_where_only_they_changed(
    panel: MemoryPanel, machine: Machine
) -> None:
    shown = drawn(panel)
    assert set(memory_panel.on_tick(panel, shown)) == {panel.shown, panel.devices}


def test_a_form_with_a_mistake_has_no_estimate(panel: MemoryPanel, machine: Machine) -> None:
    shown = drawn(panel)  # of the form before the mistake
    updates = memory_panel.on_estimate(panel, "new", shown, form_values(image_height=250))
    assert updates == {panel.estimate: "", panel.time.answered: "new"}


def test_a_form_with_a_mistake_leaves_what_is_shown_marked_as_of_other_settings(
    panel: MemoryPanel, machine: Machine
) -> None:
    (updates,) = memory_panel.on_memory(panel, "new", drawn(panel), form_values(image_height=250))
    assert updates[panel.step.answered] == VOID + "new" and panel.chart not in updates


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that need not be read."""
    monkeypatch.setattr(memory_panel, "read_splits", lambda settings: None)
    monkeypatch.setattr(
        memory_panel, "subject_of", lambda settings, splits: replace(SUBJECT, settings=settings)
    )


@pytest.mark.usefixtures("blobs")
def test_an_answer_says_which_question_it_answers(panel: MemoryPanel, machine: Machine) -> None:
    words, answer = memory_panel.on_memory(panel, "new", Shown("old"), form_values(lr=-1))
    assert panel.step.answered not in words  # the chart is still the one before
    assert answer[panel.step.answered] == answer[panel.shown].question == "new"
    # readings that were taken of a form of before do not pass for its successor's
    of_before = replace(drawn(panel), question="old")
    machine.free_bytes = 5 * GIB
    late = memory_panel.on_tick(panel, of_before)
    assert panel.chart in late and late[panel.step.answered] == "old"


@pytest.mark.usefixtures("blobs")
def test_a_failure_answers_too(panel: MemoryPanel, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("the folder is gone")

    monkeypatch.setattr(memory_panel, "read_splits", fail)
    (updates,) = memory_panel.on_memory(panel, "new", drawn(panel), form_values())
    assert "the folder is gone" in updates[panel.advice] and updates[panel.chart] is None
    assert updates[panel.step.answered] == "new"


@pytest.mark.usefixtures("blobs")
def test_the_time_of_an_epoch_is_not_told_of_the_memory_of_another_form(
    panel: MemoryPanel, machine: Machine
) -> None:
    of_before = replace(drawn(panel), question="old")
    updates = memory_panel.on_estimate(panel, "new", of_before, form_values())
    assert updates == {panel.estimate: gr.skip()}


def test_a_tick_draws_anew_when_the_free_memory_changed(panel: MemoryPanel, machine: Machine) -> None:
    shown = replace(drawn(panel), devices=machine.devices)
    machine.free_bytes = 5 * GIB
    updates = memory_panel.on_tick(panel, shown)
    assert updates[panel.advice].startswith("**Recommended batch size 15: 3.8 of 5.0 GiB free")
    assert panel.chart in updates
    assert machine.questions == 1  # the prediction stays


@pytest.mark.usefixtures("blobs")
def test_what_measuring_says_stands_while_the_chart_is_drawn_anew(
    panel: MemoryPanel, machine: Machine
) -> None:
    shown = drawn(panel)
    measuring = memory_panel.on_measure(panel, "new", shown, form_values())
    assert next(measuring)[panel.measure_note].startswith("Running real steps")
    machine.free_bytes = 5 * GIB
    redrawn = memory_panel.on_tick(panel, shown)
    assert panel.chart in redrawn and panel.measure_note not in redrawn
    assert set(redrawn) <= set(panel.drawn)
    *_, last = measuring
    assert last[panel.measure_note].startswith("Runs some real steps")


def test_where_nothing_fits_any_more_what_would_is_asked_for(panel: MemoryPanel, machine: Machine) -> None:
    shown = replace(drawn(panel), devices=machine.devices)
    machine.free_bytes = GIB
    machine.answer = {
        **ANSWER,
        "recommended_batch_size": None,
        "free_bytes": GIB,
        "remarks": [{"key": "model_fits", "values": {"model": "unet", "model_need": "0.3"}}],
    }
    updates = memory_panel.on_tick(panel, shown)
    assert updates[panel.advice] == "**the model unet (0.3 GiB) would fit**"
    assert machine.questions == 2
    memory_panel.on_tick(panel, updates[panel.shown])
    assert machine.questions == 2


def test_one_answer_serves_every_sensible_batch(machine: Machine) -> None:
    for batch_size in (8, 16, 64):
        settings = SUBJECT.settings.model_copy(update={"batch_size": batch_size})
        torch_queries.query_memory(replace(SUBJECT, settings=settings))
    assert machine.questions == 1
    torch_queries.query_memory(
        replace(SUBJECT, settings=SUBJECT.settings.model_copy(update={"batch_size": 65}))
    )
    assert machine.questions == 2


def test_speed_is_asked_for_once_and_not_where_nothing_fits(machine: Machine) -> None:
    machine.answer = {**ANSWER, "recommended_batch_size": None}
    torch_queries.query_speed(SUBJECT)
    assert machine.questions == 1
    machine.answer = {**ANSWER, "seconds_per_image": 0.5}
    torch_queries.query_memory(SUBJECT, anew=True)
    torch_queries.query_speed(SUBJECT)
    assert machine.questions == 2


def test_a_device_that_is_not_there_is_known_once_the_machine_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_query, "_machines", [])
    assert torch_queries.absent_device("cuda:9") == ""
    monkeypatch.setattr(
        machine_query,
        "run_json_command",
        lambda *args, **more: asdict(machine_module.Machine((), 2, "2", cpu_bfloat16=False)),
    )
    torch_queries.query_machine()
    assert torch_queries.absent_device("cuda:9").startswith("torch sees no cuda:9 here; choose cpu")
    assert torch_queries.absent_device("cpu") == torch_queries.absent_device("auto") == ""
