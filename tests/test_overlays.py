from __future__ import annotations

import cv2
import numpy as np

from backend.geometry import scaling
from backend.overlays import PREDICTION_RGB, TRUTH_RGB, blend_heatmaps, draw_points, encode_png, heatmap_layer


def test_points_are_drawn_on_a_copy() -> None:
    image = np.zeros((90, 120), np.uint8)
    cross = draw_points(image, np.array([[30.0, 40.0]]), None)
    ring = draw_points(image, None, np.array([[80.0, 50.0]]))
    both = draw_points(image, np.array([[30.0, 40.0]]), np.array([[80.0, 50.0]]))
    assert not image.any()
    assert tuple(cross[40, 30]) == PREDICTION_RGB
    assert np.abs(np.argwhere(cross.any(-1)).mean(0) - (40, 30)).max() < 0.5
    assert np.abs(np.argwhere(ring.any(-1)).mean(0) - (50, 80)).max() < 0.5
    assert not ring[50, 80].any() and np.abs(ring.max((0, 1)).astype(int) - TRUTH_RGB).max() < 60
    assert both[45, 55].any(), "the error is a line between the two"


def test_missing_points_are_not_drawn() -> None:
    nothing = np.full((2, 2), np.nan)
    assert not draw_points(np.zeros((60, 60), np.uint8), nothing, nothing).any()


def test_a_heatmap_lies_over_the_pixels_that_its_cells_cover() -> None:
    heatmap = np.zeros((8, 8), np.uint8)
    heatmap[2, 5] = 255
    picture = blend_heatmaps(np.zeros((32, 32), np.uint8), [heatmap], [scaling(4, 4)])
    y, x = np.argwhere(picture.sum(-1) == picture.sum(-1).max()).mean(0)
    assert abs(x - 21.5) < 1 and abs(y - 9.5) < 1


def test_png_keeps_the_colours() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = 200
    decoded = cv2.imdecode(np.frombuffer(encode_png(picture), np.uint8), cv2.IMREAD_COLOR)
    assert tuple(decoded[0, 0]) == (0, 0, 200)


def test_heatmap_layer_is_transparent_where_maps_are_low() -> None:
    heatmap = np.zeros((8, 8), np.uint8)
    heatmap[2, 5] = 255
    layer = heatmap_layer([heatmap], [scaling(4, 4)], (32, 24))
    assert layer.shape == (32, 24, 4) and layer[0, 0, 3] == 0 and layer[9, 21, 3] > 200
    decoded = cv2.imdecode(np.frombuffer(encode_png(layer), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded[..., [2, 1, 0, 3]], layer)
