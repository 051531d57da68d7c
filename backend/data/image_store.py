"""Images decoded once and kept small: a 1935 x 2400 film costs 20 ms to decode, its 256-pixel version nothing.

An image is reduced by area averaging to about the size at which the network sees it, so that the one affine that
follows never samples coarser than the pixels it reads (no aliasing).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backend.data.images import read_image
from backend.errors import UserError
from backend.geometry import FloatArray, Size, compose, invert_affine, scaling

Image = npt.NDArray[np.uint8]
SHARE_OF_FREE_MEMORY = 0.25  # which the kept images may take
MAX_COPIES = 8  # of a store that is sent to data workers
HEADROOM = 1.25  # kept larger than the input, since augmentation may zoom in


@dataclass(frozen=True)
class ReducedImage:
    """An image (H, W) or (H, W, 3) RGB and the affine (2, 3) from its original pixels."""

    pixels: Image
    affine_from_image: FloatArray


def reduce_image(image: Image, scale: float) -> ReducedImage:
    """Shrink by area averaging to `scale` of its size; never enlarge."""
    height, width = image.shape[:2]
    if scale >= 1:
        return ReducedImage(image, scaling(1, 1))
    reduced_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
    pixels = cv2.resize(image, (reduced_hw[1], reduced_hw[0]), interpolation=cv2.INTER_AREA)
    return ReducedImage(np.asarray(pixels, np.uint8), scaling(reduced_hw[1] / width, reduced_hw[0] / height))


def warp(reduced: ReducedImage, affine_image_to_input: FloatArray, input_hw: Size) -> Image:
    """The input picture: margins take the image's mean, so that they stand out as little as possible."""
    matrix = compose(affine_image_to_input, invert_affine(reduced.affine_from_image))
    margin = tuple(float(v) for v in np.atleast_1d(reduced.pixels.mean(axis=(0, 1))))
    picture = cv2.warpAffine(
        reduced.pixels,
        matrix,
        (input_hw[1], input_hw[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=margin,
    )
    return np.asarray(picture, np.uint8)


class ImageStore:
    """Reduced images by index, decoded on first use and kept while they fit into `budget_bytes`."""

    def __init__(
        self, paths: Sequence[Path], sizes_hw: Sequence[Size], input_hw: Size, budget_bytes: int
    ) -> None:
        self._paths = list(paths)
        self._scales = [
            HEADROOM * max(input_hw[0] / height, input_hw[1] / width) for height, width in sizes_hw
        ]
        self._budget_bytes = budget_bytes
        self._kept: dict[int, ReducedImage] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._paths)

    def __getstate__(self) -> dict[str, Any]:
        """Sent to a process that does not inherit this one's memory (Windows), a store goes without its images."""
        return {
            **self.__dict__,
            "_kept": {},
            "_kept_bytes": 0,
            "_budget_bytes": self._budget_bytes // MAX_COPIES,
        }

    def get(self, index: int) -> ReducedImage:
        """Raises UserError where the file cannot be decoded."""
        if index in self._kept:
            return self._kept[index]
        reduced = self._decode(index)
        self._keep(index, reduced)
        return reduced

    def preload(self, threads: int = 4) -> dict[int, UserError]:
        """Decode everything once, in threads (OpenCV releases the interpreter lock), and keep what fits.

        Returns what cannot be decoded, by index: a file may be cut off behind a header that reads well.
        """
        broken: dict[int, UserError] = {}
        with ThreadPoolExecutor(threads) as pool:
            for index, reduced in enumerate(pool.map(self._try_decode, range(len(self)))):
                if isinstance(reduced, UserError):
                    broken[index] = reduced
                else:
                    self._keep(index, reduced)
        return broken

    def _try_decode(self, index: int) -> ReducedImage | UserError:
        try:
            return self._decode(index)
        except UserError as error:
            return error

    def _decode(self, index: int) -> ReducedImage:
        return reduce_image(read_image(self._paths[index]), self._scales[index])

    def _keep(self, index: int, reduced: ReducedImage) -> None:
        if self._kept_bytes + reduced.pixels.nbytes <= self._budget_bytes:
            self._kept[index] = reduced
            self._kept_bytes += reduced.pixels.nbytes
