"""Images decoded once and kept small: to decode a 1935 x 2400 radiograph takes 20 ms.

An image is reduced by area averaging to about the size at which a network sees it, so that the one affine
that follows never samples coarser than the pixels it reads (no aliasing). A network on crops sees it larger
than one on whole images: a store keeps a level for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backend.data.images import read_image
from backend.data.shared_pixels import SharedPixels
from backend.errors import UserError
from backend.geometry import FloatArray, Size, apply_affine, compose, invert_affine, scaling

Image = npt.NDArray[np.uint8]
SHARE_OF_FREE_MEMORY = 0.25  # for the kept images
MAX_COPIES = 8  # of a store; the rest of its budget is divided among them
NO_PIXELS = np.zeros((0, 0), np.uint8)
HEADROOM = 1.25  # kept larger than the network sees it, because augmentation may zoom in


@dataclass(frozen=True)
class ReducedImage:
    """An image (H, W) or (H, W, 3) RGB, and the affine (2, 3) from the original pixels."""

    pixels: Image
    affine_from_image: FloatArray
    mean: tuple[float, ...]  # of each channel


Levels = tuple[ReducedImage, ...]


def _with_pixels(levels: Levels, pixels: Iterator[Image]) -> Levels:
    """Replace the pixels of the levels by the next pictures."""
    return tuple(replace(level, pixels=picture) for level, picture in zip(levels, pixels, strict=False))


def input_scale(image_hw: Size, input_hw: Size) -> float:
    """Return the scale at which an image is kept for a network that sees all of it at `input_hw`."""
    return HEADROOM * max(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])


def reduce_image(image: Image, scale: float) -> ReducedImage:
    """Shrink by area averaging to `scale` of its size; never enlarge."""
    height, width = image.shape[:2]
    if scale >= 1:
        return ReducedImage(image, scaling(1, 1), _channel_means(image))
    reduced_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
    pixels = cv2.resize(image, (reduced_hw[1], reduced_hw[0]), interpolation=cv2.INTER_AREA)
    affine = scaling(reduced_hw[1] / width, reduced_hw[0] / height)
    return ReducedImage(np.asarray(pixels, np.uint8), affine, _channel_means(pixels))


def _channel_means(pixels: npt.NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.atleast_1d(pixels.mean(axis=(0, 1))))


def warp(
    reduced: ReducedImage,
    affine_image_to_input: FloatArray,
    input_hw: Size,
    displacement: FloatArray | None = None,
) -> Image:
    """Warp an image into the input frame; margins have its mean, so that they are inconspicuous.

    With a `displacement` (h, w, 2) in input pixels, pixel x shows what would be at x + displacement(x).
    """
    matrix = compose(affine_image_to_input, invert_affine(reduced.affine_from_image))
    border: dict[str, Any] = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": reduced.mean}
    if displacement is None:
        size_wh = (input_hw[1], input_hw[0])
        picture = cv2.warpAffine(reduced.pixels, matrix, size_wh, flags=cv2.INTER_LINEAR, **border)
    else:
        rows, columns = np.mgrid[: input_hw[0], : input_hw[1]]
        displaced = np.stack([columns, rows], axis=-1) + displacement
        sources = apply_affine(invert_affine(matrix), displaced).astype(np.float32)
        picture = cv2.remap(reduced.pixels, sources[..., 0], sources[..., 1], cv2.INTER_LINEAR, **border)
    return np.asarray(picture, np.uint8)


class ImageStore:
    """Images by index at one or more scales, decoded on first use and kept within a budget in bytes."""

    def __init__(self, paths: Sequence[Path], scales: Sequence[Sequence[float]], budget_bytes: int) -> None:
        """Take each image's path and `scales`: its levels' sizes as shares of the original (see
        `input_scale`)."""
        assert len(paths) == len(scales)
        self._paths = list(paths)
        self._scales = [tuple(levels) for levels in scales]
        self._budget_bytes = budget_bytes
        self._kept: dict[int, Levels] = {}
        self._kept_bytes = 0
        self._is_preloaded = False
        self._shared: SharedPixels | None = None
        self._shared_images: tuple[int, ...] = ()  # in their order there

    def __len__(self) -> int:
        return len(self._paths)

    def __getstate__(self) -> dict[str, Any]:
        """Share the images with a started process that does not inherit this one's memory (Windows, macOS).

        They are all decoded here, once for all such processes. Any other copy of a store has no images.
        """
        if get_spawning_popen() is not None:
            self._share()
            shared = {index: self._kept[index] for index in self._shared_images}
            kept = {index: _with_pixels(levels, repeat(NO_PIXELS)) for index, levels in shared.items()}
            state = {"_kept": kept, "_budget_bytes": (self._budget_bytes - self._kept_bytes) // MAX_COPIES}
        else:
            state = {
                "_kept": {},
                "_shared": None,
                "_shared_images": (),
                "_budget_bytes": self._budget_bytes // MAX_COPIES,
            }
        return {**self.__dict__, **state, "_kept_bytes": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._use_shared_pixels()

    def _share(self) -> None:
        if not self._is_preloaded:
            self.preload()
        if self._shared is None and self._kept:
            self._shared_images = tuple(self._kept)
            self._shared = SharedPixels([level.pixels for levels in self._kept.values() for level in levels])
            self._use_shared_pixels()

    def _use_shared_pixels(self) -> None:
        if self._shared is not None:
            pixels = iter(self._shared.pictures())
            for index in self._shared_images:
                self._kept[index] = _with_pixels(self._kept[index], pixels)

    def get(self, index: int) -> Levels:
        """Return the image at each of its scales. Raises UserError if the file cannot be decoded."""
        if index in self._kept:
            return self._kept[index]
        levels = self._decode(index)
        self._keep(index, levels)
        return levels

    def preload(self, threads: int = 4) -> dict[int, UserError]:
        """Decode all missing images, in threads (OpenCV releases the interpreter lock), and keep what fits.

        Returns the images that cannot be decoded, by index: a file may be cut off behind an intact header.
        """
        broken: dict[int, UserError] = {}
        missing = [index for index in range(len(self)) if index not in self._kept]
        with ThreadPoolExecutor(threads) as pool:
            for index, levels in zip(missing, pool.map(self._try_decode, missing), strict=True):
                if isinstance(levels, UserError):
                    broken[index] = levels
                else:
                    self._keep(index, levels)
        self._is_preloaded = True
        return broken

    def _try_decode(self, index: int) -> Levels | UserError:
        try:
            return self._decode(index)
        except UserError as error:
            return error

    def _decode(self, index: int) -> Levels:
        image = read_image(self._paths[index])
        return tuple(reduce_image(image, scale) for scale in self._scales[index])

    def _keep(self, index: int, levels: Levels) -> None:
        num_bytes = sum(level.pixels.nbytes for level in levels)
        if self._kept_bytes + num_bytes <= self._budget_bytes:
            self._kept[index] = levels
            self._kept_bytes += num_bytes
