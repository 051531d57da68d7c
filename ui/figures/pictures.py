"""Images with landmarks as plotly figures: names on hover, zoom by dragging.

Every point, and so every axis, is in the original image's pixels, whatever the size of the picture.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from backend.data.annotations import mean_of_readers
from backend.geometry import FloatArray, Size, apply_affine, invert_affine
from backend.overlays import ERROR_RGB, PREDICTION_RGB, TRUTH_RGB, encode_jpeg
from ui.figures.theme import AXIS_COLOR, MARK_COLOR
from ui.text.say import say

Image = npt.NDArray[np.uint8]
Window = tuple[int, int, int, int]
CIRCLE_CORNERS = 24
# readers differ in shape as well as in color
READER_MARKS = (
    ("circle-open", TRUTH_RGB),
    ("square-open", PREDICTION_RGB),
    ("diamond-open", (0, 158, 115)),
    ("triangle-up-open", (213, 94, 0)),
)


@dataclass(frozen=True)
class Highlight:
    """The landmark in question, in original pixels."""

    name: str
    at_xy: tuple[float, float]
    expected_xy: tuple[float, float] | None


def plot_sample(
    display: Image,
    size_hw: Size,
    points_xy_image: FloatArray,
    names: Sequence[str],
    sigma_px_image: float,
    crop_sides_xy_image: FloatArray | None,
) -> go.Figure:
    """Plot an image with its ground truth (K, 2), sigma around each landmark, and one crop of the refinement.

    Sigma is the radius of a circle; all is in image pixels.
    """
    figure = _image_figure(display, size_hw, height_px=520)
    _add_circles(figure, points_xy_image, sigma_px_image)
    if crop_sides_xy_image is not None:
        _add_crop(figure, points_xy_image, names, crop_sides_xy_image)
    _add_points(figure, points_xy_image, names, say("truth"), TRUTH_RGB, "cross-thin-open")
    return _add_legend(figure)


def plot_prediction(
    display: Image,
    size_hw: Size,
    truth_xy_image: FloatArray,
    predicted_xy_image: FloatArray,
    names: Sequence[str],
    errors: Sequence[str],
) -> go.Figure:
    """Plot an image with ground truth (K, 2), predictions (K, 2) and the lines between them.

    `errors`: their text on hover.
    """
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


def plot_marks(
    display: Image,
    size_hw: Size,
    readers_xy_image: FloatArray,
    names: Sequence[str],
    reader_names: Sequence[str],
    highlight: Highlight | None = None,
) -> go.Figure:
    """Plot an image with the annotations (R, K, 2) of each reader in its own shape.

    Several readers also have their mean.
    """
    figure = _image_figure(display, size_hw, height_px=620)
    if highlight is not None:
        _add_highlight(figure, highlight)
    for number, (reader, points) in enumerate(zip(reader_names, readers_xy_image, strict=True)):
        symbol, rgb = READER_MARKS[number % len(READER_MARKS)]
        _add_points(figure, points, names, reader, rgb, symbol)
    if len(reader_names) > 1:
        _add_points(
            figure,
            mean_of_readers(readers_xy_image[None])[0],
            names,
            say("mean_choice"),
            ERROR_RGB,
            "x-thin-open",
        )
    if len(figure.data) > 1:
        _add_legend(figure)
    return figure


def plot_sigma(
    pixels: Image,
    points_xy_image: FloatArray,
    names: Sequence[str],
    landmark: int,
    affine_image_to_input: FloatArray,
    stride: int,
    sigma_px: float,
) -> go.Figure:
    """Plot the surroundings of one landmark of a whole image (H, W): the cells of the heatmap, and sigma.

    Circles of one and two sigma are around its ground truth, as they lie on the image.
    """
    to_image = invert_affine(affine_image_to_input)
    center_input = apply_affine(affine_image_to_input, points_xy_image[landmark].astype(np.float64))
    reach = max(3.0 * sigma_px, 4.0 * stride)
    angles = np.linspace(0, 2 * np.pi, 4 * CIRCLE_CORNERS)
    ring = np.column_stack([np.cos(angles), np.sin(angles)])
    corners = apply_affine(to_image, center_input + reach * np.array([[-1.0, -1.0], [1.0, 1.0]]))
    figure, window = _window_figure(pixels, corners, height_px=420)
    _add_cells(figure, to_image, center_input, reach, stride)
    for times, dash in ((1, "solid"), (2, "dot")):
        line = apply_affine(to_image, center_input + times * sigma_px * ring)
        figure.add_scatter(
            x=line[:, 0], y=line[:, 1], mode="lines", name=say("data_sigmas", num=times), hoverinfo="name",
            line={"color": _css(PREDICTION_RGB), "width": 2, "dash": dash},
        )  # fmt: skip
    _add_points(figure, points_xy_image, names, say("truth"), TRUTH_RGB, "cross-thin-open")
    return _show_window(figure, window)


def plot_plain(display: Image, size_hw: Size) -> go.Figure:
    """Plot an image without known landmarks."""
    return _image_figure(display, size_hw, height_px=620)


def zoom_in(figure: go.Figure, pixels: Image, center_xy: FloatArray, side_px: float) -> go.Figure:
    """Show a window of an image (H, W), in full resolution, in a figure of the whole image."""
    half = side_px / 2
    window = _cut_window(pixels, np.stack([center_xy - half, center_xy + half]))
    _add_window(figure, pixels, window)
    return _show_window(figure, window)


def _window_figure(pixels: Image, corners_xy: FloatArray, height_px: int) -> tuple[go.Figure, Window]:
    """Return a figure of only a part of an image, and its window."""
    window = _cut_window(pixels, corners_xy)
    left, top, right, bottom = window
    figure = _image_figure(pixels[top:bottom, left:right], (bottom - top, right - left), height_px)
    figure.layout.images[0].update(x=left - 0.5, y=top - 0.5)
    return figure, window


def _cut_window(pixels: Image, corners_xy: FloatArray) -> Window:
    """Return the whole pixels between two corners, at least one: left, top, right, bottom (exclusive)."""
    height, width = pixels.shape[:2]
    (left, top), (right, bottom) = np.sort(corners_xy, axis=0)
    first_x, first_y = min(max(0, int(left)), width - 1), min(max(0, int(top)), height - 1)
    return (
        first_x,
        first_y,
        max(first_x + 1, min(width, int(np.ceil(right)) + 1)),
        max(first_y + 1, min(height, int(np.ceil(bottom)) + 1)),
    )


def _add_window(figure: go.Figure, pixels: Image, window: Window) -> None:
    left, top, right, bottom = window
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    figure.add_layout_image(
        source=_source(part), xref="x", yref="y", x=left - 0.5, y=top - 0.5,
        sizex=right - left, sizey=bottom - top, sizing="stretch", layer="below",
    )  # fmt: skip


def _show_window(figure: go.Figure, window: Window) -> go.Figure:
    left, top, right, bottom = window
    figure.update_xaxes(range=[left - 0.5, right - 0.5])
    figure.update_yaxes(range=[bottom - 0.5, top - 0.5])
    return figure


def _add_cells(
    figure: go.Figure, to_image: FloatArray, center_input: FloatArray, reach: float, stride: int
) -> None:
    """Add the borders of the heatmap's cells.

    Cell c spans c * stride - 0.5 to (c + 1) * stride - 0.5 input pixels.
    """
    lines = []
    for axis in (0, 1):
        first = np.ceil((center_input[axis] - reach + 0.5) / stride)
        for border in np.arange(first, (center_input[axis] + reach + 0.5) / stride) * stride - 0.5:
            ends = np.array([center_input - reach, center_input + reach])
            ends[:, axis] = border
            lines += [*apply_affine(to_image, ends), (np.nan, np.nan)]
    grid = np.array(lines)
    figure.add_scatter(
        x=grid[:, 0], y=grid[:, 1], mode="lines", name=say("data_cells"), hoverinfo="skip",
        line={"color": "rgba(255, 255, 255, 0.55)", "width": 1},
    )  # fmt: skip


def _add_highlight(figure: go.Figure, highlight: Highlight) -> None:
    """Add a wide ring around the landmark in question, and a star where the others predict it."""
    places = [(highlight.at_xy, "circle-open", 30, say("data_in_question"))]
    if highlight.expected_xy is not None:
        places.append((highlight.expected_xy, "star-open", 14, say("data_expected")))
    for (x, y), symbol, size, name in places:
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=name, hovertemplate=highlight.name + f"<extra>{name}</extra>",
            marker={
                "symbol": symbol, "size": size, "color": MARK_COLOR,
                "line": {"width": 3, "color": MARK_COLOR},
            },
        )  # fmt: skip


def _image_figure(display: Image, size_hw: Size, height_px: int) -> go.Figure:
    """Return a figure of an image in the coordinates of its original pixels."""
    height, width = size_hw
    figure = go.Figure()
    figure.add_layout_image(
        source=_source(display),
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


def _add_legend(figure: go.Figure) -> go.Figure:
    """Add what the marks mean, below the image."""
    legend = {"orientation": "h", "y": 0, "yanchor": "top", "x": 0, "font": {"color": AXIS_COLOR}}
    return figure.update_layout(showlegend=True, margin={"b": 34}, legend=legend)


def _source(pixels: Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels)).decode("ascii")


def _add_points(
    figure: go.Figure,
    points_xy: FloatArray,
    hovers: Sequence[str],
    name: str,
    rgb: tuple[int, int, int],
    symbol: str,
) -> None:
    """Add points with their text on hover; `name` is in the legend."""
    figure.add_scatter(
        x=points_xy[:, 0],
        y=points_xy[:, 1],
        mode="markers",
        name=name,
        text=list(hovers),
        hovertemplate="%{text}<br>%{x:.1f}, %{y:.1f} px<extra>" + name + "</extra>",
        marker={"symbol": symbol, "size": 9, "color": _css(rgb), "line": {"width": 2, "color": _css(rgb)}},
    )


def _add_circles(figure: go.Figure, centers_xy: FloatArray, radius: float) -> None:
    angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS)
    ring = np.column_stack([np.cos(angles), np.sin(angles)]) * radius
    corners = np.concatenate([ring, [[np.nan, np.nan]]])
    lines = (centers_xy[:, None, :] + corners[None]).reshape(-1, 2)
    figure.add_scatter(
        x=lines[:, 0],
        y=lines[:, 1],
        mode="lines",
        name=say("sample_sigma"),
        line={"color": _css(PREDICTION_RGB), "width": 1.5},
        hoverinfo="skip",
    )


def _add_crop(
    figure: go.Figure, points_xy_image: FloatArray, names: Sequence[str], sides_xy_image: FloatArray
) -> None:
    """Add the outline of one crop, around the known landmark nearest to the middle of all."""
    annotated = np.flatnonzero(np.isfinite(points_xy_image).all(-1))
    if not annotated.size:
        return
    middle = points_xy_image[annotated].mean(axis=0)
    central = annotated[np.hypot(*(points_xy_image[annotated] - middle).T).argmin()]
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * sides_xy_image / 2
    outline = points_xy_image[central] + corners
    figure.add_scatter(
        x=outline[:, 0],
        y=outline[:, 1],
        mode="lines",
        name=say("crop_of", name=names[central]),
        line={"color": _css(PREDICTION_RGB), "width": 2, "dash": "dot"},
        hoverinfo="name",
    )


def _css(rgb: tuple[int, int, int]) -> str:
    return f"rgb({rgb[0]}, {rgb[1]}, {rgb[2]})"
