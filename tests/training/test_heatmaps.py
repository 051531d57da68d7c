from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from backend.training.heatmaps import (
    cells_to_points,
    decode_heatmaps,
    encode_heatmaps,
    expectation,
    inside_heatmap,
    measure_spread,
    points_to_cells,
    spatial_softmax,
)

SIZE_HW = (96, 128)
SIXTEENTHS = 16  # points on a grid of 1/16 px: exact in float32 under mirroring, scaling and halving

strides = st.sampled_from([1, 2, 4])
sigmas_cells = st.sampled_from([0.75, 1.0, 1.5, 2.0])


def points_within(margin_cells: float, stride: int) -> st.SearchStrategy[tuple[float, float]]:
    """Points at least so many cells away from the borders of an input of SIZE_HW."""
    margin = math.ceil(margin_cells * stride)
    axes = [st.integers(margin * SIXTEENTHS, (side - 1 - margin) * SIXTEENTHS) for side in reversed(SIZE_HW)]
    return st.tuples(*axes).map(lambda xy: (xy[0] / SIXTEENTHS, xy[1] / SIXTEENTHS))


def one_point(xy: tuple[float, float]) -> Tensor:
    return torch.tensor(xy, dtype=torch.float32).view(1, 1, 2)


def log_gaussian(xy: tuple[float, float], stride: int, sigma_cells: float) -> Tensor:
    """The logits whose softmax is a Gaussian about a point, offset by a constant."""
    centre = points_to_cells(one_point(xy), stride)
    columns = torch.arange(SIZE_HW[1] // stride)
    rows = torch.arange(SIZE_HW[0] // stride)
    squares = (columns - centre[..., 0:1])[..., None, :] ** 2 + (rows - centre[..., 1:2])[..., :, None] ** 2
    return 3.0 - squares / (2 * sigma_cells**2)


def worst_error_px(found: Tensor, xy: tuple[float, float]) -> float:
    return float((found - one_point(xy)).abs().max())


def mirrored(points_xy: Tensor) -> Tensor:
    return torch.stack([SIZE_HW[1] - 1 - points_xy[..., 0], points_xy[..., 1]], dim=-1)


@settings(max_examples=60, deadline=None)
@given(st.data(), strides, sigmas_cells)
def test_dark_finds_the_centre_of_an_encoded_gaussian(
    data: st.DataObject, stride: int, sigma_cells: float
) -> None:
    xy = data.draw(points_within(4, stride))
    maps = encode_heatmaps(one_point(xy), SIZE_HW, stride, sigma_cells * stride)
    found, confidence = decode_heatmaps(maps, stride, "dark")
    assert worst_error_px(found, xy) < 0.005 * stride
    assert 0.6 < confidence.item() <= 1


@settings(max_examples=60, deadline=None)
@given(st.data(), strides)
def test_expectation_finds_the_centre_of_a_gaussian_of_two_cells(data: st.DataObject, stride: int) -> None:
    xy = data.draw(points_within(8, stride))
    found, confidence = decode_heatmaps(log_gaussian(xy, stride, 2.0), stride, "expectation")
    assert worst_error_px(found, xy) < 0.005 * stride
    assert 0.99 < confidence.item() <= 1


@settings(max_examples=60, deadline=None)
@given(st.data(), strides, sigmas_cells)
def test_argmax_is_within_half_a_cell(data: st.DataObject, stride: int, sigma_cells: float) -> None:
    xy = data.draw(points_within(1, stride))
    maps = encode_heatmaps(one_point(xy), SIZE_HW, stride, sigma_cells * stride)
    found, _ = decode_heatmaps(maps, stride, "argmax")
    assert worst_error_px(found, xy) <= 0.5 * stride + 1e-4


@settings(max_examples=60, deadline=None)
@given(st.data(), strides)
def test_decoders_stay_within_a_stated_bound_at_the_border(data: st.DataObject, stride: int) -> None:
    """Half of the Gaussian may lie outside the map."""
    xy = data.draw(points_within(0, stride))
    maps = encode_heatmaps(one_point(xy), SIZE_HW, stride, 1.5 * stride)
    assert worst_error_px(decode_heatmaps(maps, stride, "dark")[0], xy) < 1.0 * stride
    assert worst_error_px(decode_heatmaps(maps, stride, "argmax")[0], xy) <= 0.5 * stride + 1e-4
    found, _ = decode_heatmaps(log_gaussian(xy, stride, 2.0), stride, "expectation")
    assert worst_error_px(found, xy) < 1.6 * stride


@settings(max_examples=60, deadline=None)
@given(st.data(), strides, sigmas_cells)
def test_mirroring_the_points_mirrors_the_encoded_maps_exactly(
    data: st.DataObject, stride: int, sigma_cells: float
) -> None:
    """Encoding by x / stride would be wrong by stride - 1 pixels here, however well it round-trips."""
    points_xy = torch.tensor(data.draw(st.lists(points_within(0, stride), min_size=3, max_size=3)))[None]
    maps = encode_heatmaps(points_xy, SIZE_HW, stride, sigma_cells * stride)
    maps_of_mirrored = encode_heatmaps(mirrored(points_xy), SIZE_HW, stride, sigma_cells * stride)
    assert torch.equal(maps_of_mirrored, maps.flip(-1))
    upside_down = torch.stack([points_xy[..., 0], SIZE_HW[0] - 1 - points_xy[..., 1]], dim=-1)
    maps_upside_down = encode_heatmaps(upside_down, SIZE_HW, stride, sigma_cells * stride)
    assert torch.equal(maps_upside_down, maps.flip(-2))


@pytest.mark.parametrize("decoder", ["dark", "expectation", "argmax"])
@settings(max_examples=30, deadline=None)
@given(st.data(), strides)
def test_mirrored_maps_decode_to_mirrored_points(decoder: str, data: st.DataObject, stride: int) -> None:
    xy = data.draw(points_within(0, stride))
    # where two cells share the peak the first of them wins: argmax cannot be symmetric
    assume(not ((points_to_cells(one_point(xy), stride) * 2) % 2 == 1).any())
    if decoder == "expectation":
        maps = log_gaussian(xy, stride, 2.0)
    else:
        maps = encode_heatmaps(one_point(xy), SIZE_HW, stride, 1.5 * stride)
    points_xy, confidence = decode_heatmaps(maps, stride, decoder)
    points_xy_mirrored, confidence_mirrored = decode_heatmaps(maps.flip(-1), stride, decoder)
    assert torch.allclose(points_xy_mirrored, mirrored(points_xy), atol=2e-3)
    assert torch.allclose(confidence_mirrored, confidence, atol=1e-5)


@pytest.mark.parametrize("decoder", ["dark", "expectation", "argmax"])
def test_random_maps_decode_equivariantly_too(decoder: str) -> None:
    maps = torch.rand(2, 5, 24, 32, generator=torch.Generator().manual_seed(0))
    if decoder == "expectation":
        maps = maps * 20
    points_xy, _ = decode_heatmaps(maps, 4, decoder)
    assert torch.allclose(decode_heatmaps(maps.flip(-1), 4, decoder)[0], mirrored(points_xy), atol=2e-3)


def test_missing_point_gives_a_zero_map_and_no_other_map_changes() -> None:
    points_xy = torch.tensor([[[20.0, 30.0], [math.nan, math.nan], [math.nan, 5.0]]])
    maps = encode_heatmaps(points_xy, SIZE_HW, 2, 3.0)
    assert maps.shape == (1, 3, 48, 64) and maps.dtype == torch.float32
    assert torch.equal(maps[0, 1:], torch.zeros(2, 48, 64))
    assert torch.equal(maps[:, :1], encode_heatmaps(points_xy[:, :1], SIZE_HW, 2, 3.0))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_peak_is_one_at_a_cells_centre_and_the_shape_is_a_gaussian(stride: int) -> None:
    centre_xy = ((10 + 0.5) * stride - 0.5, (7 + 0.5) * stride - 0.5)
    maps = encode_heatmaps(one_point(centre_xy), SIZE_HW, stride, 1.5 * stride)[0, 0]
    assert maps.max() == maps[7, 10] == 1
    for dx, dy in ((1, 0), (0, 2), (-3, 1)):
        expected = math.exp(-(dx**2 + dy**2) / (2 * 1.5**2))
        assert maps[7 + dy, 10 + dx].item() == pytest.approx(expected, rel=1e-5)


def test_centre_between_cells_is_kept_and_not_rounded() -> None:
    # stride 4: x 17.5 lies at cell 4.0, x 18.5 a quarter of a cell further
    maps = encode_heatmaps(torch.tensor([[[17.5, 17.5], [18.5, 17.5]]]), SIZE_HW, 4, 4.0)[0]
    assert maps[0, 4, 3] == maps[0, 4, 5]
    assert maps[1, 4, 5].item() == pytest.approx(math.exp(-0.5 * 0.75**2), rel=1e-5)
    assert maps[1, 4, 3].item() == pytest.approx(math.exp(-0.5 * 1.25**2), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 300), st.floats(-50, 300), strides)
def test_points_and_cells_convert_into_each_other(x: float, y: float, stride: int) -> None:
    points_xy = torch.tensor([x, y])
    assert torch.allclose(cells_to_points(points_to_cells(points_xy, stride), stride), points_xy, atol=1e-4)


def test_first_and_last_cells_centres_in_pixels() -> None:
    assert cells_to_points(torch.tensor([0.0, 31.0]), 4).tolist() == [1.5, 125.5]


def test_only_known_points_within_the_input_are_visible() -> None:
    points_xy = torch.tensor([[[-0.5, 0.0], [127.5, 95.5], [127.6, 0], [5, 95.6], [math.nan, math.nan]]])
    assert inside_heatmap(points_xy, SIZE_HW).tolist() == [[True, True, False, False, False]]


def test_softmax_sums_to_one_over_a_map_and_its_expectation_is_the_mean_cell() -> None:
    maps = torch.full((1, 1, 5, 7), -50.0)
    maps[0, 0, 1, 2] = maps[0, 0, 1, 6] = 3.0
    probabilities = spatial_softmax(maps)
    assert probabilities.sum().item() == pytest.approx(1)
    assert expectation(probabilities)[0, 0].tolist() == pytest.approx([4.0, 1.0])


def test_expectation_looks_only_near_the_peak_and_says_how_much_lies_there() -> None:
    probabilities = torch.full((1, 1, 24, 32), 1e-12)
    probabilities[0, 0, 5, 5] = 0.7
    probabilities[0, 0, 20, 28] = 0.3
    found, confidence = decode_heatmaps(probabilities.log(), 2, "expectation")
    assert found[0, 0].tolist() == pytest.approx([10.5, 10.5], abs=1e-3)
    assert confidence.item() == pytest.approx(0.7, abs=1e-4)


@pytest.mark.parametrize("decoder", ["dark", "expectation", "argmax"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_flat_map_decodes_to_a_point_inside_the_input(decoder: str, value: float) -> None:
    found, confidence = decode_heatmaps(torch.full((1, 1, 24, 32), value), 4, decoder)
    assert inside_heatmap(found, SIZE_HW).all()
    assert 0 <= confidence.item() <= 1


@pytest.mark.parametrize("decoder", ["dark", "expectation", "argmax"])
def test_confidence_stays_between_0_and_1_on_any_map(decoder: str) -> None:
    maps = torch.randn(4, 3, 24, 32, generator=torch.Generator().manual_seed(1)) * 5
    found, confidence = decode_heatmaps(maps.half(), 4, decoder)
    assert found.dtype == torch.float32
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_unknown_decoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="dark, expectation, argmax"):
        decode_heatmaps(torch.zeros(1, 1, 8, 8), 1, "soft")


# Synthetic truth on the grids that runs use, and how each decoder fares near the border


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([(1, 0.75), (2, 1.5), (2, 1.4), (4, 3.0)]))
def test_maps_of_peak_1_are_read_to_half_a_hundredth_of_a_cell(
    data: st.DataObject, stride_and_sigma_px: tuple[int, float]
) -> None:
    """Sigma of 0.75 cells at 128, 256 and 512 pixels, and the refinement's 0.7: the narrowest that are
    taught."""
    stride, sigma_px = stride_and_sigma_px
    xy = data.draw(points_within(3, stride))
    maps = encode_heatmaps(one_point(xy), SIZE_HW, stride, sigma_px)
    assert distance_cells(decode_heatmaps(maps, stride, "dark")[0], xy, stride) < 0.0075
    # half a cell's diagonal: the peak is the cell in which the point lies
    assert distance_cells(decode_heatmaps(maps, stride, "argmax")[0], xy, stride) <= math.sqrt(0.5) + 1e-4


def distance_cells(found: Tensor, xy: tuple[float, float], stride: int) -> float:
    return float((found - one_point(xy)).norm() / stride)


@pytest.mark.parametrize(
    ("margin_cells", "bounds"),
    # sigma of 0.75, 1.5 and 2 cells: the blur of 1 cell looks 3 cells far, over the border, where nothing is
    [
        (1, (0.06, 0.5, 0.75)),
        (2, (0.006, 0.06, 0.15)),
        (3, (0.006, 0.002, 0.008)),
        (4, (0.006, 0.001, 0.001)),
    ],
)
@settings(max_examples=30, deadline=None)
@given(st.data(), strides)
def test_dark_is_weaker_the_nearer_the_border_and_the_wider_the_gaussian(
    margin_cells: int, bounds: tuple[float, float, float], data: st.DataObject, stride: int
) -> None:
    xy = data.draw(points_within(margin_cells, stride))
    for sigma_cells, bound in zip((0.75, 1.5, 2.0), bounds, strict=True):
        maps = encode_heatmaps(one_point(xy), SIZE_HW, stride, sigma_cells * stride)
        assert worst_error_px(decode_heatmaps(maps, stride, "dark")[0], xy) / stride < bound


def bias_of_a_cut_gaussian(distance: float, sigma: float) -> float:
    """How far the mean of a Gaussian moves that is cut off at a distance on one side: sigma phi(d) /
    Phi(d)."""
    scaled = distance / sigma
    density = math.exp(-(scaled**2) / 2) / math.sqrt(2 * math.pi)
    return sigma * density / (0.5 * (1 + math.erf(scaled / math.sqrt(2))))


@settings(max_examples=100, deadline=None)
@given(st.data(), strides)
def test_expectation_errs_at_the_border_by_what_is_cut_off_of_the_gaussian(
    data: st.DataObject, stride: int
) -> None:
    xy = data.draw(points_within(0, stride))
    found, _ = decode_heatmaps(log_gaussian(xy, stride, 2.0), stride, "expectation")
    error_cells = ((found - one_point(xy)) / stride)[0, 0].tolist()
    for error, x, side in zip(error_cells, xy, reversed(SIZE_HW), strict=True):
        before, after = (x + 0.5) / stride, (side - 0.5 - x) / stride  # cells to either border
        expected = bias_of_a_cut_gaussian(before, 2.0) - bias_of_a_cut_gaussian(after, 2.0)
        assert error == pytest.approx(expected, abs=0.02)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 4]))
def test_logits_of_two_cells_are_read_to_half_a_hundredth_of_a_cell(data: st.DataObject, stride: int) -> None:
    """The best answer under the kl loss, the logarithm of its target, away from the border."""
    xy = data.draw(points_within(7, stride))
    maps = encode_heatmaps(one_point(xy), SIZE_HW, stride, 2.0 * stride).log().clamp(min=-80)
    assert distance_cells(decode_heatmaps(maps, stride, "expectation")[0], xy, stride) < 0.005
    assert distance_cells(decode_heatmaps(maps, stride, "argmax")[0], xy, stride) <= math.sqrt(0.5) + 1e-4


def test_a_map_that_is_its_target_leaves_nothing_open() -> None:
    maps = encode_heatmaps(torch.tensor([[[31.3, 40.6]]]), (96, 96), stride=2, sigma_px=2.0)
    spread = measure_spread(maps.clamp(min=1e-12).log(), stride=2, sigma_px=2.0)
    # one cell at the most: what a sampled Gaussian has more than its variance is below the least spread
    torch.testing.assert_close(
        spread[0, 0], (2 / 6) ** 2 * torch.eye(2, dtype=torch.float64), atol=0.02, rtol=0
    )


def test_a_map_of_two_places_is_open_along_the_line_between_them() -> None:
    places = torch.tensor([[[40.0, 36.0], [46.0, 44.0]]])  # 10 pixels apart
    both = encode_heatmaps(places, (96, 96), stride=2, sigma_px=2.0).sum(1, keepdim=True)
    spread = measure_spread(both.clamp(min=1e-12).log(), stride=2, sigma_px=2.0)[0, 0]
    variances, axes = torch.linalg.eigh(spread)
    assert variances[0] == pytest.approx((2 / 6) ** 2, abs=0.05)
    along = axes[:, 1].abs()
    torch.testing.assert_close(along, torch.tensor([0.6, 0.8], dtype=torch.float64), atol=0.05, rtol=0)
    assert variances[1] == pytest.approx(5.0**2, rel=0.03)
