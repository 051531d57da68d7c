"""An evaluation's record as HTML and figures, with its worst images."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from backend.errors import UserError
from backend.evaluation.record import is_old
from backend.evaluation.text import (
    as_interval,
    find_leak_limits,
    find_leaked,
    in_percent,
    in_unit,
    with_spread,
)
from backend.run.folder import RunFolder
from ui.child_process import Progress
from ui.datasets import read_display
from ui.figures.pictures import plot_prediction
from ui.figures.table import cell_html, table_html
from ui.run_rows import file_link
from ui.text.say import say, say_cases, say_count

THRESHOLDS = ("2", "2.5", "3", "4")
MAX_WORST = 4
Record = Mapping[str, Any]


def progress_html(progress: Progress | None, *, is_training: bool) -> str:
    """Render the progress of an evaluation, or why it failed; empty if there is nothing to say."""
    if progress is None:
        return ""
    if progress.failure:
        return f'<p class="evaluation-failed">{escape(say("evaluate_failed", reason=progress.failure))}</p>'
    done, total = progress.num_done, progress.num_images
    if not total:
        text = say("evaluate_reading")
    elif done < total:
        text = say("evaluate_predicting", done=done, total=total)
    else:
        text = say("evaluate_measuring")
    busy = f"<p>{escape(say('evaluate_busy'))}</p>" if is_training else ""
    bar = f'<progress max="{total or 1}" value="{done}" aria-label="{escape(text)}"></progress>'
    return f'<div class="run-card"><div class="row"><span>{escape(text)}</span></div>{bar}{busy}</div>'


def headline(folder: RunFolder, name: str, record: Record) -> str:
    """Render the main numbers, what they were measured on, and the files to download."""
    links = file_link(folder.evaluation_path(name, "html"), say("evaluation_report"))
    links += file_link(folder.evaluation_path(name, "json"), say("evaluation_record"))
    return (
        f'<div class="numbers">{"".join(_main_cards(record))}</div>'
        f'<p class="note">{escape(_about_text(record))}</p>'
        f'<p class="note">{escape(_leaked_text(record))}</p>{_interval_note(record)}'
        f'<div class="files">{links}</div>'
    )


def _main_cards(record: Record) -> list[str]:
    """Render those of the main numbers that the record has."""
    unit = record["unit"]
    cards = [
        _card(
            say("evaluation_mre"),
            with_spread(record, unit),
            _interval_text(record, f"mre_{unit}", unit),
        ),
        _card(say("evaluation_median"), in_unit(record[f"median_{unit}"], unit)),
    ]
    if unit == "mm":
        for threshold in THRESHOLDS:
            key = f"sdr_{threshold}mm"
            note = _interval_text(record, key, "%") if key in record["interval"] else ""
            cards.append(_card(say("evaluation_within", threshold=threshold), in_percent(record[key]), note))
    cards.append(_card(say("evaluation_nme"), in_percent(record["nme"], 2)))
    if record["readers"]["between"]:
        between = record["readers"]["between"]
        cards.append(_card(say("evaluation_readers"), in_unit(between[f"mre_{unit}"], unit)))
    for earlier in ("unrefined", "unshaped"):
        if record.get(earlier):
            cards.append(_card(say(f"evaluation_{earlier}"), with_spread(record[earlier], unit)))
    return cards


def _about_text(record: Record) -> str:
    """Say what the numbers were measured on, and when."""
    about, truth = record["about"], record["readers"]["truth"]
    leaked = about.get("leaked")
    return say(
        "evaluation_about",
        dataset=about["dataset"],
        split=about["split"],
        images=say_count("num_images", record["num_images"]),
        truth=say("mean_choice") if truth == "mean" else truth,
        excluded=len(about["excluded"]) + (len(leaked["image_ids"]) if leaked and leaked["left_out"] else 0),
        time=about["time"],
    )


def landmark_errors(record: Record) -> str:
    """Render each landmark's error, worst first, and the inter-reader distance if it is known."""
    unit, between = record["unit"], record["readers"]["between"]
    heads = [say("landmark"), say("evaluation_mre"), say("evaluation_median")]
    heads += [say("evaluation_within", threshold=t) for t in THRESHOLDS] if unit == "mm" else []
    heads += [say("evaluation_readers")] if between else []
    lines = []
    for name in record["landmarks_worst_first"]:
        errors = record["per_landmark"][name]
        mean, median = errors[f"mre_{unit}"], errors[f"median_{unit}"]
        cells = [
            cell_html(name), cell_html(with_spread(errors, unit), mean),
            cell_html(in_unit(median, unit), median)
        ]  # fmt: skip
        shares = [errors[f"sdr_{t}mm"] for t in THRESHOLDS] if unit == "mm" else []
        cells += [cell_html(in_percent(share), share) for share in shares]
        if between:
            distance = between["per_landmark"][name][f"mre_{unit}"]
            cells.append(cell_html(in_unit(distance, unit), distance))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return table_html(say("evaluation_table"), heads, lines)


def worst_figures(record: Record) -> list[tuple[str, go.Figure | None]]:
    """Return (title, figure) of the worst images; None if a file can no longer be read."""
    return [_worst_figure(record, image) for image in record["worst_images"][:MAX_WORST]]


def _interval_text(record: Record, key: str, unit: str) -> str:
    """Return the interval, or why there is none."""
    interval = record["interval"][key]
    if interval is None and not is_old(record):
        cases = say_cases(record["num_cases"], record["case_kind"])
        return say("evaluation_no_interval", cases=cases, least=record["intervals"]["least_cases"])
    return say("evaluation_interval", interval=as_interval(interval, unit, say))


def _interval_note(record: Record) -> str:
    """Say what the intervals are over if that is not images."""
    if is_old(record):
        text = say("evaluation_old_intervals")
    elif record["case_kind"] != "image":
        cases = say_cases(record["num_cases"], record["case_kind"])
        text = say("evaluation_cases", cases=cases)
    else:
        return ""
    return f'<p class="note">{escape(text)}</p>'


def _leaked_text(record: Record) -> str:
    """Say how many of the images are in the training data, and how that is known."""
    findings = [find_leaked(record), *find_leak_limits(record)]
    return " ".join(say(f"evaluation_{key}", **numbers) for key, numbers in findings)


def _worst_figure(record: Record, image: Mapping[str, Any]) -> tuple[str, go.Figure | None]:
    unit, size_hw = record["unit"], (image["size_hw"][0], image["size_hw"][1])
    title = say("preview_title", image_id=image["image_id"], error=in_unit(image[f"mre_{unit}"], unit))
    try:
        display = read_display(Path(image["path"]), size_hw)
    except UserError:
        return say("evaluation_unreadable", image_id=image["image_id"]), None
    truth, predicted = (np.array(image[key], np.float64) for key in ("true_xy_image", "predicted_xy_image"))
    errors = [in_unit(error, unit) for error in image["errors"]]
    return title, plot_prediction(display, size_hw, truth, predicted, list(record["per_landmark"]), errors)


def _card(label: str, value: str, note: str = "") -> str:
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<div><small>{escape(label)}</small><strong><bdi>{escape(value)}</bdi></strong>{small}</div>"
