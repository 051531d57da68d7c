"""The runs that the Predict tab offers, and how well they predict."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from backend.run.folder import RunFolder, list_runs
from backend.run.rows import read_events
from ui.run_rows import find_best, read_config
from ui.text.say import in_distance, quote, say


def run_choices(runs_dir: Path) -> list[tuple[str, str]]:
    """Return (label, id) of the runs that have weights to predict with, newest first."""
    folders = [folder for folder in list_runs(runs_dir) if folder.checkpoint_path("best").is_file()]
    return [(_label(folder), folder.run_id) for folder in folders]


def run_note_html(runs_dir: Path, run_id: str | None) -> str:
    """Say how well the chosen run predicts, and warn if its training found that it learned nothing."""
    if run_id not in {folder.run_id for folder in list_runs(runs_dir)}:  # it comes from the browser
        return ""
    folder = RunFolder(runs_dir / str(run_id))
    messages = [
        event["message"] for event in read_events(folder).rows if event.get("kind") == "did_not_learn"
    ]
    warning = f'<p class="refused" role="alert">⚠ {escape(quote(messages[-1]))}</p>' if messages else ""
    return own_error_html(folder) + warning


def own_error_html(folder: RunFolder) -> str:
    """Say how large the run's best error on its own validation images is."""
    best = find_best(folder)
    text = say("predict_own_unknown") if best is None else say("predict_own_error", error=_error(best))
    return f'<p class="note">{escape(text)}</p>'


def _label(folder: RunFolder) -> str:
    """Return id, model, data set, number of landmarks and error, as far as they are known."""
    config, best = read_config(folder), find_best(folder)
    label = folder.run_id
    if config is not None:
        dataset = Path(config.value("dataset_path")).name
        label = say("predict_run_choice", run=label, model=config.settings.model, dataset=dataset)
    if best is None:
        return label
    num = best.get("num_landmarks") or sum(key.startswith("val/mre_px/") for key in best)
    return say("predict_run_validated", run=label, num=num, error=_error(best))


def _error(best: Mapping[str, Any]) -> str:
    return in_distance(best["val/mre_px"], best.get("val/mre_mm"))
