"""The Predict tab's list of images, progress, messages and result, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from backend.run.folder import RunFolder
from ui.annotator.picture import file_address
from ui.annotator.uploads import Upload, Uploads, thumbnail_path
from ui.child_process import Progress
from ui.predict.runs import own_error_html
from ui.run_rows import live_runs
from ui.text.say import say, say_count


def images_html(uploads: Uploads) -> str:
    """Render the list of images: a thumbnail, the name, and notes on what to check."""
    buttons = "".join(_thumbnail(uploads, image) for image in uploads.images)
    label = escape(say("predict_images"))
    return f'<div class="thumbnails" role="group" aria-label="{label}">{buttons}</div>' if buttons else ""


def _thumbnail(uploads: Uploads, image: Upload) -> str:
    remarks = [say("predict_num_low", num=image.num_low)] if image.num_low else []
    if image.is_corrected:
        remarks.append(say("predict_corrected"))
    name, small = f'<bdi dir="ltr">{escape(image.name)}</bdi>', escape(" · ".join(remarks))
    current = "true" if image.key == uploads.shown else "false"
    source = escape(file_address(thumbnail_path(uploads, image)))
    return (
        f'<button type="button" data-key="{image.key}" aria-pressed="{current}">'
        f'<img src="{source}" alt="" loading="lazy"><span>{name}</span><small>{small}</small></button>'
    )


def progress_html(text: str, done: int, total: int) -> str:
    """Render a card with a progress bar, indeterminate if the total is not known."""
    value = f'max="{total}" value="{done}" ' if total else ""
    bar = f'<progress {value}aria-label="{escape(text)}"></progress>'
    return (
        f'<div class="run-card" role="status"><div class="row"><span>{escape(text)}</span></div>{bar}</div>'
    )


def say_note(key: str, **values: object) -> str:
    """Render one sentence of a note."""
    return f'<p class="note" role="status">{escape(say(key, **values))}</p>'


def predicting_html(runs_dir: Path, progress: Progress) -> str:
    done, total = progress.num_done, progress.num_images
    text = say("predict_predicting", done=done, total=total) if total else say("predict_starting")
    busy = say_note("predict_busy") if live_runs(runs_dir) else ""
    return progress_html(text, done, total) + busy


def failures_html(failures: Sequence[str]) -> str:
    if not failures:
        return ""
    lines = "".join(f"<li>{escape(failure)}</li>" for failure in failures)
    return f'<ul class="evaluation-failed" role="alert">{lines}</ul>'


def remarks_html(remarks: Sequence[str]) -> str:
    """Render the decisions made while reading the files, in the backend's own text."""
    lines = "".join(f'<li><bdi dir="ltr">{escape(remark)}</bdi></li>' for remark in remarks)
    return say_note("predict_remarks") + f'<ul class="note">{lines}</ul>' if lines else ""


def summary_html(runs_dir: Path, uploads: Uploads, run_id: str) -> str:
    """Say how many landmarks were predicted, how many of them to look at first, and the run's own error."""
    predicted = [image for image in uploads.images if image.confidence is not None]
    num_low = sum(image.num_low for image in predicted)
    low = say_count("predict_summary_low", num_low) if num_low else say("predict_summary_sure")
    images = say_count("num_images", len(predicted))
    landmarks = say_count("num_landmarks", len(uploads.landmark_names))
    done = say_note("predict_done", images=images, landmarks=landmarks, run=run_id, low=low)
    return done + own_error_html(RunFolder(runs_dir / run_id))
