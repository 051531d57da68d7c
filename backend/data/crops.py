"""Crops around landmarks in fine resolution, the input of the refinement.

A sample is all the crops of one image, the k-th around landmark k. In training, they are drawn once for each
network.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backend.data.augmentation import Augmentation, apply_photometric, build_photometric, rng_for
from backend.data.dataset import Batch, Key
from backend.data.image_store import HEADROOM, ImageStore, ReducedImage, warp
from backend.data.samples import Samples
from backend.geometry import (
    CropFrame,
    FloatArray,
    apply_affine,
    compose,
    displace_points,
    invert_affine,
    mirror,
)

TAIL_SHARE, TAIL_FACTOR = 1 / 6, 1.9  # this share of the jittered crops is moved about twice as far


def crop_scale(image_px_per_px_xy: FloatArray) -> float:
    """Return the scale at which an image is kept for crops; never above 1."""
    return min(1.0, HEADROOM / float(image_px_per_px_xy.min()))


class CropDataset(Dataset[Batch]):
    """Crops of a store's last level by (epoch, index).

    `centres_xy_image` (N, K, 2) are the centers of the crops, in original pixels; a NaN center gives an empty
    crop. With `augmentation` they are moved by a jitter of `jitter_px` crop pixels (standard deviation per
    axis) with a tail, like the errors of the first network. `num_draws` is how often the crops of an image
    are drawn, one draw after the other: (num_draws * K, ...).
    """

    def __init__(
        self,
        samples: Samples,
        frame: CropFrame,
        centres_xy_image: FloatArray,
        *,
        store: ImageStore,
        augmentation: Augmentation | None = None,
        jitter_px: float = 0.0,
        num_draws: int = 1,
        seed: int = 0,
    ) -> None:
        self._samples = samples
        self._frame = frame
        self._centres_xy_image = np.asarray(centres_xy_image, np.float64)
        self._store = store
        self._augmentation = augmentation.without_shift() if augmentation else None
        self._photometric = build_photometric(augmentation.photometric) if augmentation else None
        self._jitter_px = jitter_px
        self._num_draws = num_draws
        self._seed = seed
        self._mm_per_px_xy = samples.mm_per_px_xy
        self._px_per_px_xy = [
            frame.image_px_per_px_xy(size, spacing)
            for size, spacing in zip(samples.sizes_hw, self._mm_per_px_xy, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: Key) -> Batch:
        epoch, index = key
        rng = rng_for(self._seed, epoch, index)
        draws = [self._draw(index, rng) for _ in range(self._num_draws)]
        pictures, affines, points_xy_crop, points_xy_image = (
            np.concatenate(part) for part in zip(*draws, strict=True)
        )
        return Batch(
            images=standardize_each(pictures),
            points_xy_input=torch.from_numpy(points_xy_crop.astype(np.float32)),
            points_xy_image=torch.from_numpy(points_xy_image),
            affine_input_to_image=torch.from_numpy(np.stack([invert_affine(affine) for affine in affines])),
            mm_per_px_xy=torch.from_numpy(self._mm_per_px_xy[index]),
            rows=torch.tensor(index),
        )

    def _draw(
        self, index: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], FloatArray, FloatArray, FloatArray]:
        """Draw an image's crops (K, h, w[, 3]) once.

        Returns also the affines from image to crop (K, 2, 3), and the points (K, 2) in the crops and in the
        image.
        """
        points_xy_image = self._samples.points_xy_image[index].astype(np.float64)
        centres_xy_image = self._centres_xy_image[index]
        is_mirrored = self._augmentation is not None and self._augmentation.draw_flip(rng)
        if self._augmentation is not None and is_mirrored:
            order = list(self._augmentation.flip_order or ())
            points_xy_image, centres_xy_image = points_xy_image[order], centres_xy_image[order]
        affines = self._draw_affines(centres_xy_image, self._px_per_px_xy[index], is_mirrored, rng)
        displacements = self._draw_displacements(len(affines), rng)
        pictures = self._cut(self._store.get(index)[-1], affines, displacements)
        if self._photometric is not None:
            # an image has one exposure: all its crops change together
            column = pictures.reshape(-1, *pictures.shape[2:])
            pictures = apply_photometric(self._photometric, column, rng).reshape(pictures.shape)
        points_xy_crop = [apply_affine(*pair) for pair in zip(affines, points_xy_image, strict=True)]
        for k, displacement in enumerate(displacements):
            if displacement is not None:
                points_xy_crop[k] = displace_points(points_xy_crop[k], displacement)
        return pictures, np.stack(affines), np.stack(points_xy_crop), points_xy_image

    def _draw_affines(
        self, centres_xy_image: FloatArray, scale_xy: FloatArray, is_mirrored: bool, rng: np.random.Generator
    ) -> list[FloatArray]:
        """Draw the affine from image to crop for each landmark; NaN without a center."""
        frame, augment = self._frame, self._augmentation
        if augment is None:
            return [frame.affine(centre, scale_xy) for centre in centres_xy_image]
        centres = centres_xy_image + self._draw_jitter(rng, len(centres_xy_image)) * scale_xy
        moves = [augment.draw_affine(rng, frame.hw) for _ in centres]
        if is_mirrored:
            moves = [compose(mirror(frame.hw), move) for move in moves]
        return [
            compose(move, frame.affine(centre, scale_xy)) for move, centre in zip(moves, centres, strict=True)
        ]

    def _draw_displacements(self, num: int, rng: np.random.Generator) -> list[FloatArray | None]:
        if self._augmentation is None:
            return [None] * num
        return [self._augmentation.draw_displacement(rng, self._frame.hw) for _ in range(num)]

    def _draw_jitter(self, rng: np.random.Generator, num: int) -> FloatArray:
        """Draw distances (num, 2) from the centers, crop pixels."""
        is_far = rng.random((num, 1)) < TAIL_SHARE
        sd = self._jitter_px * np.where(is_far, TAIL_FACTOR, 1.0)
        jitter: FloatArray = sd * rng.standard_normal((num, 2))
        return jitter

    def _cut(
        self, level: ReducedImage, affines: list[FloatArray], displacements: list[FloatArray | None]
    ) -> npt.NDArray[np.uint8]:
        """Cut the crops (K, h, w) or (K, h, w, 3) from an image."""
        empty = np.zeros((*self._frame.hw, *level.pixels.shape[2:]), np.uint8)
        crops = [
            warp(level, affine, self._frame.hw, displacement) if np.isfinite(affine).all() else empty
            for affine, displacement in zip(affines, displacements, strict=True)
        ]
        return np.stack(crops)


def standardize_each(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """Turn uint8 (K, h, w) or (K, h, w, 3) into float32 (K, 3, h, w), each of mean 0 and deviation 1."""
    values = torch.from_numpy(pictures).float()
    planes = values.permute(0, 3, 1, 2) if values.ndim == 4 else values[:, None].expand(-1, 3, -1, -1)
    mean = values.flatten(1).mean(1).view(-1, 1, 1, 1)
    deviation = values.flatten(1).std(1).view(-1, 1, 1, 1)
    return (planes - mean) / deviation.clamp(min=1.0)
