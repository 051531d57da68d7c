"""The picture on which landmarks are dragged, and the table in which they are typed, as one custom component.

Python passes an image with its points (`annotator_value`). annotator.js draws it, moves points at once, and
reports moved points with the event `moved`, {folder, image, points, number}.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np

from backend.errors import UserError
from backend.geometry import compose, scaling
from backend.numbers import read_number, to_latin
from backend.overlays import encode_png, heatmap_layer
from ui.annotator.uploads import Upload, Uploads, confidence_level, maps_path, shown_path, uploads_root
from ui.bindings import read_static
from ui.text.say import quote as quote_text
from ui.text.say import say

HEATMAP_SIDE_PX = 800
_turns = itertools.count()
_TEXT_KEYS = (
    "zoom_in", "zoom_out", "fit", "undo", "reset", "reset_all", "remove", "names", "heatmap", "heatmap_off",
    "heatmap_chosen", "heatmap_all", "opacity", "hint", "picture", "landmark", "confidence", "corrected",
    "moved", "missing", "tools", "unread",
)  # fmt: skip


def create_annotator(elem_id: str) -> gr.HTML:
    """Create the component; it shows nothing until it has a value."""
    return gr.HTML(
        value=None,
        html_template=read_static("annotator.html"),
        css_template=read_static("annotator.css"),
        js_on_load=read_static("annotator.js"),
        apply_default_css=False,
        server_functions=[heatmap_source, read_typed],
        elem_id=elem_id,
        padding=False,
    )


def annotator_value(uploads: Uploads) -> dict[str, Any] | None:
    """Return everything that picture and table show about the current image; None shows nothing."""
    image = uploads.find(uploads.shown)
    if image is None or uploads.folder is None:
        return None
    height, width = image.size_hw
    mm_per_px_xy = uploads.mm_per_px_xy(image)
    return {
        "turn": next(_turns),  # the browser redraws when the value changes
        "image": image.key,
        "folder": uploads.folder.name,
        "title": image.name,
        "source": file_address(shown_path(uploads, image)),
        "width": width,
        "height": height,
        "names": uploads.landmark_names if image.points_xy_image is not None else [],
        "points": _plain(image.points_xy_image),
        "predicted": _plain(image.predicted_xy_image),
        "heard": image.heard,
        "confidence": [] if image.confidence is None else [_confidence(value) for value in image.confidence],
        "mm_per_px_xy": list(mm_per_px_xy) if np.isfinite(mm_per_px_xy).all() else None,
        "spacing": _spacing_text(uploads, image),
        "words": _browser_text(),
    }


def _browser_text() -> dict[str, str]:
    """Return the text that the browser uses by itself, with placeholders that it fills in."""
    mistake = say("field_mistake", what=quote_text("{what}"))
    outside = say("number_outside", number="{number}", minimum="{minimum}", maximum="{maximum}")
    return {key: say(f"annotator_{key}") for key in _TEXT_KEYS} | {"mistake": mistake, "outside": outside}


def heatmap_source(request: Mapping[str, Any]) -> str:
    """Return the heatmaps of one landmark, or of all (-1), over an image, as a PNG data URL.

    Empty if there are none. Called by the browser, so its request can only reach heatmap files of uploads.
    """
    folder = uploads_root() / Path(str(request["folder"])).name
    path = maps_path(folder, Path(str(request["image"])).name)
    if not path.is_file():
        return ""
    with np.load(path) as arrays:
        heatmaps, affines = arrays["heatmaps"], arrays["affine_heatmap_to_image"]
    chosen = range(len(heatmaps))
    if int(request["landmark"]) >= 0:
        chosen = chosen[int(request["landmark"]) :][:1]
    height, width = int(request["height"]), int(request["width"])
    scale = min(1.0, HEATMAP_SIDE_PX / max(height, width))
    picture_hw = max(1, round(height * scale)), max(1, round(width * scale))
    to_picture = scaling(picture_hw[1] / width, picture_hw[0] / height)
    layer = heatmap_layer(
        [heatmaps[k] for k in chosen],
        [compose(to_picture, affines[k if len(affines) > 1 else 0]) for k in chosen],
        picture_hw,
    )
    return "data:image/png;base64," + base64.b64encode(encode_png(layer)).decode("ascii")


def read_typed(typed: str) -> dict[str, Any]:
    """Read a typed coordinate: its `value`, None for an empty field, or the `mistake`.

    Called by the browser.
    """
    if not to_latin(typed):
        return {"value": None}
    try:
        return {"value": read_number(typed)}
    except UserError as error:
        return {"mistake": str(error)}


def file_address(path: Path) -> str:
    """Return the address at which the browser gets a file of the page."""
    return "gradio_api/file=" + quote(path.as_posix())


def _confidence(value: float) -> dict[str, Any]:
    level = confidence_level(float(value))
    text = say(f"annotator_confidence_{level}", value=f"{value:.2f}")
    return {"level": level, "words": text}


def _spacing_text(uploads: Uploads, image: Upload) -> str:
    mm_x, mm_y = uploads.mm_per_px_xy(image)
    if not np.isfinite(mm_x):
        return say("predict_spacing_unknown")
    spacing = f"{mm_x:.4g}" if mm_x == mm_y else f"{mm_x:.4g} x {mm_y:.4g}"
    return say("predict_spacing", spacing=spacing, source=uploads.spacing_source(image))


def _plain(points: Any) -> list[list[float] | None]:
    """Return points (K, 2) as JSON; None for a landmark that is not there."""
    if points is None:
        return []
    return [[round(float(v), 3) for v in point] if np.isfinite(point).all() else None for point in points]
