"""Varies training images: one random affine per sample, and albumentations for changes that move no point.

The affine is composed with the one that fits the image into the input, so that an image is resampled once and
points follow exactly. Both parts depend on (seed, epoch, index) alone: a resumed run sees what an
uninterrupted one saw. Images are mirrored only if the pairs of landmarks that swap are given: a cephalogram
faces one way.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from backend.geometry import FloatArray, Size, rotate_scale_shift

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the internet for a newer version
import albumentations as A

MAX_DEVIATIONS = 2.5
ELASTIC_GRID = 4  # points per side: shifts vary over about a third of the picture


@dataclass(frozen=True)
class Augmentation:
    """Strengths, each a standard deviation; see the settings of the same names."""

    rotation_deg: float
    scale_jitter: float
    shift_jitter: float
    photometric: float
    elastic: float = 0.0
    # the landmark that each one becomes in a mirror; None: no flips
    flip_order: tuple[int, ...] | None = None

    def without_shift(self) -> Augmentation:
        """Return the augmentation for crops, which are shifted by a jitter of their own."""
        return replace(self, shift_jitter=0.0)

    def draw_flip(self, rng: np.random.Generator) -> bool:
        """Decide whether a sample is mirrored; its landmarks then change places by `flip_order`."""
        return self.flip_order is not None and bool(rng.random() < 0.5)

    def draw_displacement(self, rng: np.random.Generator, input_hw: Size) -> FloatArray | None:
        """Draw shifts (h, w, 2) in input pixels on a coarse grid, made smooth; None if they are off."""
        if self.elastic == 0:
            return None
        coarse = rng.standard_normal((ELASTIC_GRID, ELASTIC_GRID, 2)).clip(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        sizes = self.elastic * np.array([input_hw[1], input_hw[0]])
        size_wh = (input_hw[1], input_hw[0])
        return np.asarray(cv2.resize(coarse * sizes, size_wh, interpolation=cv2.INTER_CUBIC), np.float64)

    def draw_affine(self, rng: np.random.Generator, input_hw: Size) -> FloatArray:
        """Draw an affine (2, 3) within the input frame."""
        rotation, scale, shift_x, shift_y = rng.standard_normal(4).clip(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        return rotate_scale_shift(
            input_hw,
            degrees=self.rotation_deg * rotation,
            scale=float(np.exp(self.scale_jitter * scale)),
            shift_xy=(self.shift_jitter * input_hw[1] * shift_x, self.shift_jitter * input_hw[0] * shift_y),
        )


def build_photometric(strength: float) -> A.Compose | None:
    """Build changes of brightness, contrast, gamma, blur and noise for uint8 images; None at strength 0."""
    if strength == 0:
        return None
    span = int(30 * min(strength, 2.5))
    return A.Compose(
        [
            A.RandomBrightnessContrast(brightness_limit=0.2 * strength, contrast_limit=0.3 * strength, p=0.8),
            A.RandomGamma(gamma_limit=(100 - span, 100 + span), p=0.5),
            A.GaussNoise(std_range=(0.0, 0.03 * strength), p=0.3),
            A.GaussianBlur(blur_limit=(3, 5), p=0.1),
        ]
    )


def rng_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator of the random numbers of one sample in one epoch."""
    return np.random.default_rng([seed, epoch, index])


def apply_photometric(
    pipeline: A.Compose, image: npt.NDArray[np.uint8], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Run a pipeline with the random numbers of one sample."""
    pipeline.set_random_seed(int(rng.integers(2**31)))
    changed: npt.NDArray[np.uint8] = pipeline(image=image)["image"]
    return changed
