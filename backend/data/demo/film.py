"""The radiograph of a synthetic head: densities add up along the ray, a tone curve makes grey values.

Frames: `_mm` is the template's or the patient's (see `backend.data.demo.shape`), `_image` is pixels with
integer centers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from backend.data.demo.shape import LANDMARKS_MM, Points, Warp, smooth_curve

FloatImage = npt.NDArray[np.float32]
Place = tuple[float, float] | str  # template mm, or the name of a landmark

_SUBPIXEL_BITS = 4
_COARSE_SIGMA_PX = 5.0  # wider blurs are made on a grid of a quarter of the size


@dataclass(frozen=True)
class Machine:
    """An X-ray machine, by its effect on pictures. `gain` to `grain` are in units of the tone curve."""

    name: str
    mode: str
    height_px: int
    width_px: int
    mm_per_px: float
    gain: float
    gamma: float
    fog: float
    blur_mm: float
    grain: float


@dataclass(frozen=True)
class Pose:
    """The patient's place: turned about the sella by `radians` (nose down), the sella at `sella_image`."""

    radians: float
    mm_per_px: float
    sella_image: Points  # (2,)

    def __call__(self, patient_mm: Points) -> Points:
        """Transform (P, 2) in patient mm to (P, 2) in image px."""
        cos, sin = np.cos(self.radians), np.sin(self.radians)
        turned = patient_mm @ np.array([[cos, sin], [-sin, cos]])
        placed: Points = turned / self.mm_per_px + self.sella_image
        return placed


class Film:
    """The accumulated density of one picture's structures; negative density is air."""

    def __init__(self, size_hw: tuple[int, int], warp: Warp, pose: Pose) -> None:
        self.density: FloatImage = np.zeros(size_hw, np.float32)
        self._warp = warp
        self._pose = pose
        self.mm_per_px = pose.mm_per_px

    def fill(self, outline: Points, density: float, *, blur_mm: float = 0.3) -> None:
        """Add `density` inside a closed outline in patient mm."""
        self._add(self._pose(outline), density, blur_mm, width_px=0, closed=True)

    def stroke(
        self,
        line: Points,
        density: float,
        *,
        width_mm: float = 0.8,
        blur_mm: float = 0.25,
        closed: bool = False,
    ) -> None:
        """Add `density` along a line in patient mm, for example a cortical plate seen edge-on."""
        width_px = max(1, round(width_mm / self.mm_per_px))
        self._add(self._pose(line), density, blur_mm, width_px=width_px, closed=closed)

    def curve(self, *places: Place, closed: bool = False) -> Points:
        """Return a smooth curve in patient mm through places of the template."""
        template = [LANDMARKS_MM[place] if isinstance(place, str) else place for place in places]
        return smooth_curve(self._warp(template), closed=closed)

    def _add(
        self, points_image: Points, density: float, blur_mm: float, *, width_px: int, closed: bool
    ) -> None:
        sigma_px = blur_mm / self.mm_per_px
        window = self._window(points_image, pad=round(3 * sigma_px + width_px) + 2)
        if window is None:
            return
        left, top, right, bottom = window
        mask = np.zeros((bottom - top, right - left), np.uint8)
        fixed = np.round((points_image - (left, top)) * 2**_SUBPIXEL_BITS).astype(np.int32)
        if width_px:
            cv2.polylines(mask, [fixed], closed, 255, width_px, cv2.LINE_AA, _SUBPIXEL_BITS)
        else:
            cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        layer = _blur(mask.astype(np.float32), sigma_px)
        self.density[top:bottom, left:right] += layer * np.float32(density / 255.0)

    def _window(self, points_image: Points, pad: int) -> tuple[int, int, int, int] | None:
        height, width = self.density.shape
        left, top = np.maximum(np.floor(points_image.min(axis=0)).astype(int) - pad, 0)
        right, bottom = np.minimum(np.ceil(points_image.max(axis=0)).astype(int) + pad + 1, (width, height))
        return (int(left), int(top), int(right), int(bottom)) if left < right and top < bottom else None


def _blur(layer: FloatImage, sigma_px: float) -> FloatImage:
    if sigma_px < 0.2:
        return layer
    if sigma_px < _COARSE_SIGMA_PX or min(layer.shape) < 16:
        return _as_float_image(cv2.GaussianBlur(layer, (0, 0), sigma_px))
    height, width = layer.shape
    coarse = cv2.resize(layer, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), sigma_px / 4)
    return _as_float_image(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))


def _as_float_image(pixels: npt.ArrayLike) -> FloatImage:
    return np.asarray(pixels, dtype=np.float32)


def develop(film: Film, machine: Machine, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Turn densities into 8-bit grey: mottle of bone, then the machine's exposure, tone curve and grain."""
    size_hw: tuple[int, int] = film.density.shape
    mottle = 1.0 + _smooth_noise(rng, size_hw, (1.2, 2.5, 25.0), (0.03, 0.04, 0.05), film.mm_per_px)
    density = np.maximum(film.density, 0.0) * mottle + machine.fog * _fog(rng, size_hw)
    density = _as_float_image(cv2.GaussianBlur(density, (0, 0), machine.blur_mm / film.mm_per_px))
    gain = machine.gain * float(rng.uniform(0.86, 1.16))
    gamma = machine.gamma * float(rng.uniform(0.92, 1.09))
    grey = (1.0 - np.exp(-gain * density)) ** gamma
    grain = rng.standard_normal(size_hw, dtype=np.float32)
    # Grain seen through a film is clumped: part of it is blurred over a pixel.
    grain = 0.5 * grain + 1.1 * _as_float_image(cv2.GaussianBlur(grain, (0, 0), 0.8))
    grey = grey + machine.grain * grain * (0.45 + grey)
    pixels: npt.NDArray[np.uint8] = np.clip(np.round(grey * 255.0), 0, 255).astype(np.uint8)
    return pixels


def _smooth_noise(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    scales_mm: Sequence[float],
    strengths: Sequence[float],
    mm_per_px: float,
) -> FloatImage:
    """Add up white noises, each drawn on a grid of its own scale and enlarged."""
    height, width = size_hw
    total = np.zeros(size_hw, np.float32)
    for scale_mm, strength in zip(scales_mm, strengths, strict=True):
        cells_per_px = mm_per_px / scale_mm
        grid_hw = (max(2, round(height * cells_per_px)), max(2, round(width * cells_per_px)))
        grid = rng.standard_normal(grid_hw, dtype=np.float32)
        total += strength * _as_float_image(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))
    return total


def _fog(rng: np.random.Generator, size_hw: tuple[int, int]) -> FloatImage:
    """Return the scatter: a slope across the picture in a random direction, about one on average."""
    height, width = size_hw
    angle = rng.uniform(0.0, 2 * np.pi)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    return _as_float_image(1.0 + 0.8 * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y))


def draw_border(pixels: npt.NDArray[np.uint8], machine: Machine, rng: np.random.Generator) -> None:
    """Draw what is beside the head on the radiograph: soft edge, side marker, ruler of 1 cm ticks."""
    height, width = pixels.shape
    edge_px = rng.uniform(1.5, 4.0) / machine.mm_per_px
    x = np.minimum(np.arange(width), np.arange(width)[::-1]) / edge_px
    y = np.minimum(np.arange(height), np.arange(height)[::-1]) / edge_px
    shade = np.clip(np.minimum(x[None], y[:, None]), 0.0, 1.0).astype(np.float32)
    pixels[:] = (pixels * (0.12 + 0.88 * shade)).astype(np.uint8)
    if machine.mode == "film":
        _draw_ruler(pixels, machine.mm_per_px, brightness=int(rng.integers(170, 225)))
    _draw_marker(pixels, machine.mm_per_px, brightness=int(rng.integers(190, 245)))


def _draw_ruler(pixels: npt.NDArray[np.uint8], mm_per_px: float, brightness: int) -> None:
    height, width = pixels.shape
    x = width - round(9 / mm_per_px)
    top = round(12 / mm_per_px)
    for tick in range(8):
        y = top + round(10 * tick / mm_per_px)
        length = round((5 if tick % 5 == 0 else 3) / mm_per_px)
        cv2.line(pixels, (x - length, y), (x, y), brightness, 1, cv2.LINE_AA)
    cv2.line(pixels, (x, top), (x, min(height - 1, top + round(70 / mm_per_px))), brightness, 1, cv2.LINE_AA)


def _draw_marker(pixels: npt.NDArray[np.uint8], mm_per_px: float, brightness: int) -> None:
    origin = (round(8 / mm_per_px), round(14 / mm_per_px))
    cv2.putText(pixels, "R", origin, cv2.FONT_HERSHEY_DUPLEX, 0.26 / mm_per_px, brightness, 1, cv2.LINE_AA)
