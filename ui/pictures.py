"""Images with landmarks as plotly figures: names on hover, zoom by dragging. Pure: arrays to figures.

Every point is in the original image's pixels, and so are the axes, whatever the size of the picture shown.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from backend.geometry import FloatArray, Size
from backend.overlays import ERROR_RGB, PREDICTION_RGB, TRUTH_RGB, encode_jpeg
from ui.text import say

Image = npt.NDArray[np.uint8]
CIRCLE_CORNERS = 24


def plot_sample(
    display: Image,
    size_hw: Size,
    points_xy_image: FloatArray,
    names: Sequence[str],
    sigma_px_image: float,
    crop_sides_xy_image: FloatArray | None,
) -> go.Figure:
    """An image with its truth (K, 2), a circle of radius sigma round each landmark, and the crop of the refinement
    about one of them; all in image pixels."""
    figure = _image_figure(display, size_hw, height_px=520)
    _add_circles(figure, points_xy_image, sigma_px_image)
    if crop_sides_xy_image is not None:
        _add_crop(figure, points_xy_image, names, crop_sides_xy_image)
    _add_points(figure, points_xy_image, names, say("truth"), TRUTH_RGB, "cross-thin-open")
    return figure


def plot_prediction(
    display: Image,
    size_hw: Size,
    truth_xy_image: FloatArray,
    predicted_xy_image: FloatArray,
    names: Sequence[str],
    errors: Sequence[str],
) -> go.Figure:
    """An image with truth (K, 2), predictions (K, 2) and the lines between; `errors` are words for the hover."""
    figure = _image_figure(display, size_hw, height_px=340)
    gap = np.full_like(truth_xy_image, np.nan)
    lines = np.stack([truth_xy_image, predicted_xy_image, gap], axis=1).reshape(-1, 2)
    figure.add_scatter(
        x=lines[:, 0],
        y=lines[:, 1],
        mode="lines",
        name=say("error_line"),
        line={"color": _css(ERROR_RGB), "width": 1.5},
        hoverinfo="skip",
    )
    _add_points(figure, truth_xy_image, names, say("truth"), TRUTH_RGB, "circle-open")
    hovers = [f"{name}: {error}" for name, error in zip(names, errors, strict=True)]
    _add_points(figure, predicted_xy_image, hovers, say("prediction"), PREDICTION_RGB, "x-thin-open")
    return figure


def _image_figure(display: Image, size_hw: Size, height_px: int) -> go.Figure:
    height, width = size_hw
    figure = go.Figure()
    figure.add_layout_image(
        source="data:image/jpeg;base64," + base64.b64encode(encode_jpeg(display)).decode("ascii"),
        xref="x",
        yref="y",
        x=-0.5,
        y=-0.5,
        sizex=width,
        sizey=height,
        sizing="stretch",
        layer="below",
    )
    figure.update_xaxes(range=[-0.5, width - 0.5], visible=False, constrain="domain")
    figure.update_yaxes(range=[height - 0.5, -0.5], visible=False, scaleanchor="x", constrain="domain")
    figure.update_layout(
        height=height_px,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        showlegend=False,
        hovermode="closest",
        dragmode="zoom",
        uirevision="kept",
    )
    return figure


def _add_points(
    figure: go.Figure,
    points_xy: FloatArray,
    hovers: Sequence[str],
    name: str,
    rgb: tuple[int, int, int],
    symbol: str,
) -> None:
    figure.add_scatter(
        x=points_xy[:, 0],
        y=points_xy[:, 1],
        mode="markers",
        name=name,
        text=list(hovers),
        hovertemplate="%{text}<br>%{x:.1f}, %{y:.1f} px<extra>" + name + "</extra>",
        marker={"symbol": symbol, "size": 9, "color": _css(rgb), "line": {"width": 2, "color": _css(rgb)}},
    )


def _add_circles(figure: go.Figure, centres_xy: FloatArray, radius: float) -> None:
    angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS)
    ring = np.column_stack([np.cos(angles), np.sin(angles)]) * radius
    corners = np.concatenate([ring, [[np.nan, np.nan]]])
    lines = (centres_xy[:, None, :] + corners[None]).reshape(-1, 2)
    figure.add_scatter(
        x=lines[:, 0],
        y=lines[:, 1],
        mode="lines",
        name="sigma",
        line={"color": _css(PREDICTION_RGB), "width": 1.5},
        hoverinfo="skip",
    )


def _add_crop(
    figure: go.Figure, points_xy_image: FloatArray, names: Sequence[str], sides_xy_image: FloatArray
) -> None:
    """The outline of one crop, about the known landmark nearest to the middle of all."""
    known = np.flatnonzero(np.isfinite(points_xy_image).all(-1))
    if not known.size:
        return
    middle = points_xy_image[known].mean(axis=0)
    shown = known[np.hypot(*(points_xy_image[known] - middle).T).argmin()]
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * sides_xy_image / 2
    outline = points_xy_image[shown] + corners
    figure.add_scatter(
        x=outline[:, 0],
        y=outline[:, 1],
        mode="lines",
        name=say("crop_of", name=names[shown]),
        line={"color": _css(PREDICTION_RGB), "width": 2, "dash": "dot"},
        hoverinfo="name",
    )


def _css(rgb: tuple[int, int, int]) -> str:
    return f"rgb({rgb[0]}, {rgb[1]}, {rgb[2]})"
