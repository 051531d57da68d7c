"""A record as one self-contained HTML page, with figures, tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from backend.data.image_store import reduce_image
from backend.data.images import read_image
from backend.errors import UserError
from backend.evaluation.figures import (
    plot_confidence,
    plot_cumulative,
    plot_groups,
    plot_landmarks,
    plotly_script,
    to_html,
)
from backend.evaluation.record import Record
from backend.evaluation.text import (
    as_interval,
    count_cases,
    describe_leaked,
    in_percent,
    in_unit,
    with_spread,
)
from backend.geometry import apply_affine
from backend.overlays import draw_points, encode_jpeg
from backend.training.metrics import SDR_THRESHOLDS_MM

TEMPLATE = Path(__file__).with_name("report.html")
PICTURE_SIDE_PX = 720
SHOWN_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)


def build_report(record: Record) -> str:
    """Return the page; `record["about"]` says what was evaluated (see `backend.evaluate`).

    Every name is escaped.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": in_percent, "interval": as_interval, "distance": in_unit}
    environment.filters["cases"] = count_cases
    environment.filters["without"] = lambda text, unit: text.removesuffix(f" {unit}")
    environment.globals["with_spread"] = with_spread
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        r=record,
        about=record["about"],
        unit=record["unit"],
        leaked_text=describe_leaked(record),
        thresholds=[f"{threshold:g}" for threshold in SDR_THRESHOLDS_MM],
        figures=_figures(record),
        worst=[(image, _picture(image)) for image in record["worst_images"]],
        reviewed=_reviewed(record["confidence"]["review"]),
        settings=_settings(record["about"]["config"]),
        plotly_script=Markup(plotly_script()),
    )


def _figures(record: Record) -> dict[str, Any]:
    return {
        "cumulative": Markup(to_html(plot_cumulative(record))),
        "landmarks": Markup(to_html(plot_landmarks(record))),
        "confidence": Markup(to_html(plot_confidence(record))),
        "groups": {column: Markup(to_html(plot_groups(record, column))) for column in record["by_group"]},
    }


def _picture(image: Mapping[str, Any]) -> str | None:
    """Draw an image: annotation a ring, prediction a cross, error a line; None if the file cannot be read.

    Returns a data URI.
    """
    try:
        pixels = read_image(Path(image["path"]))
    except UserError:
        return None
    reduced = reduce_image(pixels, PICTURE_SIDE_PX / max(pixels.shape[:2]))
    points = [
        apply_affine(reduced.affine_from_image, np.array(image[key], np.float64))
        for key in ("predicted_xy_image", "true_xy_image")
    ]
    jpeg = encode_jpeg(draw_points(reduced.pixels, *points))
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _reviewed(review: Mapping[str, Any] | None) -> Sequence[tuple[float, float]]:
    """Return some of the pairs (share reviewed, share of the errors caught)."""
    if review is None or review["caught"] is None:
        return []
    pairs = zip(review["reviewed"], review["caught"], strict=True)
    return [(share, caught) for share, caught in pairs if share in SHOWN_SHARES]


def _settings(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value in effect, why it was chosen) of every setting of the run."""
    chosen = config["chosen"]
    rows = []
    for name, requested in config["settings"].items():
        choice = chosen.get(name, {"value": requested, "reason": ""})
        value = choice["value"]
        text = " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        rows.append((name, text, choice["reason"]))
    return rows
