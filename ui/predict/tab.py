"""The Predict tab: images in, landmarks out, corrected by hand, and exported as data to train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.data.annotations.writers import EXPORTS
from backend.errors import UserError
from backend.numbers import read_number, to_latin
from backend.run.folder import RunFolder
from ui.annotator.picture import annotator_value, create_annotator
from ui.annotator.uploads import Uploads, adopt, correct, forget, list_for_prediction, take_in
from ui.answers import create_part, question_of
from ui.bindings import PRIVATE, SEQUENTIAL, Updates, read_static, script
from ui.number_field import MISTAKE, field_text, mistake_info, number_classes, understood_info
from ui.predict.parts import PredictTab, place_export, place_request, run_info
from ui.predict.prediction_process import (
    follow_prediction,
    is_running,
    read_predictions,
    start_prediction,
    stop_prediction,
)
from ui.predict.runs import run_choices, run_note_html
from ui.predict.view import (
    failures_html,
    images_html,
    predicting_html,
    progress_html,
    remarks_html,
    say_note,
    summary_html,
)
from ui.text.say import say

IN_ORDER: dict[str, Any] = {**SEQUENTIAL, "concurrency_id": "corrections"}
"""For corrections and the export, which must hold every correction before it."""


def create_predict_tab(runs_dir: Path) -> PredictTab:
    """Lay out the tab and bind its handlers."""
    uploads = gr.State(Uploads(), delete_callback=on_session_end)
    with gr.Row():
        files = gr.File(
            label=say("predict_files"), file_count="multiple", height=150, elem_id="predict-files", scale=2
        )
        with gr.Column(scale=3):
            parts = place_request(runs_dir)
    note = gr.HTML(elem_id="predict-note", padding=False)
    empty = gr.Markdown(say("predict_empty"), elem_id="predict-empty")
    by = gr.HTML(elem_id="predict-by", padding=False)
    images = gr.HTML(js_on_load=read_static("choose_image.js"), elem_id="predict-images", padding=False)
    annotator = create_annotator("predict-annotator")
    tab = PredictTab(
        runs_dir=runs_dir,
        uploads=uploads,
        files=files,
        by=by,
        answers=create_part("predict-run", ("#predict-run-note",), [parts["run"]]),
        predictions=create_part("predictions", ("#predict-by",), [parts["run"]], keeps=True),
        note=note,
        empty=empty,
        images=images,
        annotator=annotator,
        **parts,
        **place_export(),
    )
    _bind(tab)
    return tab


def _bind(tab: PredictTab) -> None:
    """Bind, in this order: the choice of a run, the images, their landmarks and the export."""
    uploads = [tab.uploads]
    for part in (tab.answers, tab.predictions):
        part.asks(tab.run.change)
    tab.answers.answers(
        tab.run.change,
        lambda run_id: {tab.run_note: run_note_html(tab.runs_dir, run_id)},
        [tab.run],
        [tab.run_note],
    )

    tab.files.upload(partial(on_upload, tab), [*uploads, tab.files], tab.working_parts, **SEQUENTIAL)
    _bind_prediction(tab)
    tab.clear.click(partial(on_clear, tab), uploads, [*tab.working_parts, tab.by], **PRIVATE)
    _bind_landmarks(tab)

    tab.format.change(lambda: gr.update(visible=False), None, tab.file, **PRIVATE)
    reported = tab.export.click(None, js=script("report_moves.js", "#predict-annotator"), **PRIVATE)
    exported = reported.success(
        partial(on_export, tab), [*uploads, tab.format], [tab.note, tab.file], **IN_ORDER
    )
    exported.success(None, js=script("click_when_drawn.js", "#predict-file"), **PRIVATE)


def _bind_prediction(tab: PredictTab) -> None:
    """Start and stop predicting. The landmarks answer the chosen run only once they are drawn."""

    def predict(question: str, uploads: Uploads, run_id: str | None) -> Iterator[Updates]:
        for updates in on_predict(tab, uploads, run_id):
            yield {**updates, tab.predictions.answered: question} if tab.by in updates else updates

    tab.predictions.binds(
        tab.predict.click,
        predict,
        [tab.uploads, tab.run],
        [*tab.working_parts, tab.by],
        how={**PRIVATE, "trigger_mode": "once"},
    )
    tab.cancel.click(on_cancel, [tab.uploads], [tab.uploads], **PRIVATE)


def _bind_landmarks(tab: PredictTab) -> None:
    """Bind the pixel size, the choice of an image and the corrections of its landmarks."""
    uploads = [tab.uploads]
    tab.spacing.change(
        partial(on_spacing, tab),
        [*uploads, tab.spacing],
        [*uploads, tab.spacing, tab.annotator, tab.file],
        **PRIVATE,
    )

    # a partial would hide the annotation by which Gradio passes the event
    def choose(uploads: Uploads, event: gr.EventData) -> Updates:
        return on_choose(tab, uploads, str(event.key))

    def move(uploads: Uploads, event: gr.EventData) -> Updates:
        return on_moved(tab, uploads, event._data)

    tab.images.chosen(choose, uploads, [*uploads, tab.images, tab.annotator], **PRIVATE)
    tab.annotator.moved(move, uploads, [*uploads, tab.images, tab.file], **IN_ORDER)


def bind_open(tab: PredictTab, events: Sequence[Any]) -> None:
    """Offer the current runs on these events: the page or the tab was opened."""
    outputs = [tab.answers.answered, tab.run, tab.run_note]
    tab.answers.settles(gr.on(events, partial(on_open, tab), [tab.run], outputs, **PRIVATE))


def on_open(tab: PredictTab, run_id: str | None) -> Updates:
    """Offer the current runs when the page or the tab is opened; the choice stays."""
    choices = run_choices(tab.runs_dir)
    run_ids = [name for _, name in choices]
    value = run_id if run_id in run_ids else next(iter(run_ids), None)
    return {
        tab.answers.answered: question_of(value),
        tab.run: gr.update(choices=choices, value=value, info=run_info(choices)),
        tab.run_note: run_note_html(tab.runs_dir, value),
    }


def on_upload(tab: PredictTab, uploads: Uploads, files: Sequence[str] | None) -> Iterator[Updates]:
    """Take in one file after another, and name those that are not images."""
    failures: list[str] = []
    remarks: list[str] = []
    first = ""
    for number, file in enumerate(files or (), start=1):
        note = progress_html(say("predict_reading", done=number, total=len(files or ())), 0, 0)
        # the field is cleared at once, for more files
        yield {tab.note: note, **({tab.files: None} if number == 1 else {})}
        try:
            image = take_in(uploads, Path(file))
            first = first or image.key
            remarks += [f"{image.name}: {remark}" for remark in image.remarks]
        except UserError as error:
            failures.append(str(error))
    uploads.shown = uploads.shown or first
    yield {
        **_draw(tab, uploads),
        **_buttons(tab, uploads),
        tab.note: failures_html(failures) + remarks_html(remarks),
    }


def on_predict(tab: PredictTab, uploads: Uploads, run_id: str | None) -> Iterator[Updates]:
    """Predict on all images, reporting progress."""
    by: Updates = {}
    try:
        checkpoint = _checkpoint(tab, run_id)
        if uploads.folder is None:
            raise UserError(say("predict_no_images"))
        folder = uploads.folder
        start_prediction(folder, list_for_prediction(uploads), checkpoint)
        for progress in follow_prediction(folder):
            yield {tab.note: predicting_html(tab.runs_dir, progress), **_buttons(tab, uploads)}
        # another folder: the images were removed meanwhile
        predictions = read_predictions(folder) if uploads.folder == folder else None
        if predictions is None:
            note = say_note("predict_stopped")
        else:
            adopt(uploads, *predictions)
            by = {tab.by: say_note("predict_by", run=str(run_id))}
            note = summary_html(tab.runs_dir, uploads, str(run_id))
    except UserError as error:
        note = failures_html([str(error)])
    yield {**_draw(tab, uploads), **_buttons(tab, uploads), **by, tab.note: note}


def on_cancel(uploads: Uploads) -> Uploads:
    """Stop the prediction; the handler that waits for it reports it."""
    if uploads.folder is not None:
        stop_prediction(uploads.folder)
    return uploads


def on_clear(tab: PredictTab, uploads: Uploads) -> Updates:
    """Delete all images of the page."""
    on_session_end(uploads)
    return {**_draw(tab, uploads), **_buttons(tab, uploads), tab.note: "", tab.by: ""}


def on_session_end(uploads: Uploads) -> None:
    """Delete everything of a page that was closed."""
    on_cancel(uploads)
    forget(uploads)


def on_spacing(tab: PredictTab, uploads: Uploads, typed: str) -> Updates:
    """Use the typed pixel size for images that do not state one; anything else leaves it unknown."""
    uploads.typed_mm_per_px, info, is_wrong = _read_spacing(typed)
    classes = [*number_classes(is_whole=False), *([MISTAKE] if is_wrong else [])]
    return {
        tab.uploads: uploads,
        tab.annotator: annotator_value(uploads),
        tab.spacing: gr.update(info=info, elem_classes=classes),
        tab.file: gr.update(visible=False),  # it has the previous pixel size
    }


def _read_spacing(typed: str) -> tuple[float | None, str, bool]:
    """Return the pixel size, the text at the field, and whether it is a mistake."""
    info = say("predict_mm_per_px_info")
    if not to_latin(typed):
        return None, info, False
    try:
        mm_per_px = read_number(typed)
        if mm_per_px <= 0:
            raise UserError(say("predict_bad_spacing", typed=typed.strip()))
    except UserError as error:
        return None, mistake_info(str(error)), True
    text = field_text(mm_per_px)
    return mm_per_px, info if text == typed.strip() else understood_info(text, info), False


def on_choose(tab: PredictTab, uploads: Uploads, key: str) -> Updates:
    """Show another image."""
    if uploads.find(key) is None:
        return {tab.uploads: uploads}
    uploads.shown = key
    return {tab.uploads: uploads, tab.images: images_html(uploads), tab.annotator: annotator_value(uploads)}


def on_moved(tab: PredictTab, uploads: Uploads, message: Mapping[str, Any]) -> Updates:
    """Store points that were dragged, nudged or typed; the browser already shows them."""
    before = images_html(uploads)
    # another folder: the images were removed meanwhile
    if uploads.folder is not None and uploads.folder.name == message["folder"]:
        correct(uploads, str(message["image"]), message["points"], int(message["number"]))
    after = images_html(uploads)
    images = {} if after == before else {tab.images: after}
    return {tab.uploads: uploads, tab.file: gr.update(visible=False), **images}


def on_export(tab: PredictTab, uploads: Uploads, format: str) -> Updates:
    """Write the file and offer it."""
    try:
        predicted = uploads.marked() if uploads.folder is not None else []
        if not predicted or uploads.folder is None:
            raise UserError(say("predict_nothing_to_export"))
        name, write = EXPORTS[format]
        path = uploads.folder / name
        write(path, predicted, uploads.landmark_names)
    except UserError as error:
        return {tab.note: failures_html([str(error)]), tab.file: gr.update(visible=False)}
    return {
        tab.note: "",
        tab.file: gr.update(value=str(path), label=say("predict_download_file", name=name), visible=True),
    }


def _checkpoint(tab: PredictTab, run_id: str | None) -> Path:
    """Return the path of the chosen run's best weights; the name comes from the browser."""
    if run_id not in {name for _, name in run_choices(tab.runs_dir)}:
        raise UserError(say("predict_no_run"))
    return RunFolder(tab.runs_dir / str(run_id)).checkpoint_path("best").absolute()


def _draw(tab: PredictTab, uploads: Uploads) -> Updates:
    """Draw the list of images, the shown one, and the export if there is anything to export."""
    is_predicted = any(image.points_xy_image is not None for image in uploads.images)
    return {
        tab.uploads: uploads,
        tab.empty: gr.update(visible=not uploads.images),
        tab.images: images_html(uploads),
        tab.annotator: annotator_value(uploads),
        tab.export_row: gr.update(visible=is_predicted),
        tab.file: gr.update(visible=False),
    }


def _buttons(tab: PredictTab, uploads: Uploads) -> Updates:
    """Enable the buttons that fit: there are images or not, and they are being predicted or not."""
    has_images = bool(uploads.images)
    is_busy = uploads.folder is not None and is_running(uploads.folder)
    return {
        tab.predict: gr.update(interactive=has_images and not is_busy),
        tab.cancel: gr.update(visible=is_busy),
        tab.clear: gr.update(interactive=has_images and not is_busy),
    }
