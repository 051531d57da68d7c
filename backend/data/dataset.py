"""Samples and batches for a network: images in the input frame, and what is needed to score predictions."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from backend.data.augmentation import Augmentation, apply_photometric, build_photometric, rng_for
from backend.data.image_store import ImageStore, warp
from backend.data.samples import Samples
from backend.geometry import (
    RESIZES,
    FloatArray,
    Size,
    apply_affine,
    compose,
    displace_points,
    invert_affine,
    mirror,
)

Key = tuple[int, int]  # (epoch, index)


class Batch(NamedTuple):
    """B samples of K landmarks; NaN if a landmark or a spacing is unknown."""

    images: Tensor  # (B, 3, H, W), or crops (B, K, 3, H, W); float32, each of mean 0 and deviation 1
    points_xy_input: Tensor  # (B, K, 2) float32, input pixels: each landmark in the frame of its own crop
    points_xy_image: Tensor  # (B, K, 2) float64, original pixels
    # (B, 1, 2, 3), or (B, K, 2, 3) for crops; float64; without the elastic shift
    affine_input_to_image: Tensor
    mm_per_px_xy: Tensor  # (B, 2) float64
    rows: Tensor  # (B,) position in the samples

    def to(self, device: torch.device) -> Batch:
        """Return the batch with the tensors that network and loss need on the device."""
        layout = torch.channels_last if self.images.ndim == 4 else torch.preserve_format
        images = self.images.to(device, non_blocking=True, memory_format=layout)
        return self._replace(
            images=images, points_xy_input=self.points_xy_input.to(device, non_blocking=True)
        )


class View(NamedTuple):
    """The input for one image, before it is standardized."""

    picture: npt.NDArray[np.uint8]  # (H, W) or (H, W, 3)
    points_xy_input: FloatArray  # (K, 2)
    points_xy_image: FloatArray  # (K, 2), of a mirrored image in the order of its mirror
    affine_image_to_input: FloatArray  # (2, 3); without the elastic shift


class LandmarkDataset(Dataset[Batch]):
    """Whole images by (epoch, index), from a store's first level.

    The epoch in the key determines the augmentation, so that workers need no messages.
    """

    def __init__(
        self,
        samples: Samples,
        input_hw: Size,
        *,
        resize: str,
        store: ImageStore,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self._samples = samples
        self._input_hw = input_hw
        self._store = store
        self._augmentation = augmentation
        self._photometric = build_photometric(augmentation.photometric) if augmentation else None
        self._seed = seed
        self._affines = [RESIZES[resize](size, input_hw) for size in samples.sizes_hw]
        self._mm_per_px_xy = samples.mm_per_px_xy

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: Key) -> Batch:
        _, index = key
        view = self.draw(key)
        return Batch(
            images=standardize(view.picture),
            points_xy_input=torch.from_numpy(view.points_xy_input.astype(np.float32)),
            points_xy_image=torch.from_numpy(view.points_xy_image),
            affine_input_to_image=torch.from_numpy(invert_affine(view.affine_image_to_input)[None]),
            mm_per_px_xy=torch.from_numpy(self._mm_per_px_xy[index]),
            rows=torch.tensor(index),
        )

    def draw(self, key: Key) -> View:
        """Draw the picture of an image in an epoch, with its landmarks."""
        epoch, index = key
        rng = rng_for(self._seed, epoch, index)
        affine = self._affines[index]
        points_xy_image = self._samples.points_xy_image[index].astype(np.float64)
        displacement = None
        if (augment := self._augmentation) is not None:
            affine = compose(augment.draw_affine(rng, self._input_hw), affine)
            displacement = augment.draw_displacement(rng, self._input_hw)
            if augment.draw_flip(rng):
                affine = compose(mirror(self._input_hw), affine)
                points_xy_image = points_xy_image[list(augment.flip_order or ())]
        picture = warp(self._store.get(index)[0], affine, self._input_hw, displacement)
        if self._photometric is not None:
            picture = apply_photometric(self._photometric, picture, rng)
        points_xy_input = apply_affine(affine, points_xy_image)
        if displacement is not None:
            points_xy_input = displace_points(points_xy_input, displacement)
        return View(picture, points_xy_input, points_xy_image, affine)


def standardize(picture: npt.NDArray[np.uint8]) -> Tensor:
    """Turn uint8 (H, W) or (H, W, 3) into float32 (3, H, W) of mean 0 and deviation 1; grey is repeated."""
    values = torch.from_numpy(picture).float()
    planes = values.permute(2, 0, 1) if values.ndim == 3 else values.expand(3, -1, -1)
    return (planes - values.mean()) / values.std().clamp(min=1.0)


class EpochBatches(Sampler[list[Key]]):
    """The keys of the samples in each batch of an epoch, from a batch on; the same ones after a resume.

    An epoch is cut into batches of nearly equal size, none larger than `batch_size`. So the last one is not a
    single sample, which batch normalization cannot use (except for batches of 2 and an odd number of
    samples).
    """

    def __init__(self, num_samples: int, batch_size: int, *, shuffle_seed: int | None = None) -> None:
        self._num_samples = num_samples
        self.num_batches = -(-num_samples // batch_size)  # in a whole epoch
        self.largest_batch = -(-num_samples // self.num_batches)
        self._shuffle_seed = shuffle_seed
        self._epoch = 0
        self._first_batch = 0

    def __len__(self) -> int:
        return self.num_batches - self._first_batch

    def start_at(self, epoch: int, batch_index: int = 0) -> None:
        """Set the epoch (from 0) and the batch with which the next iteration begins."""
        self._epoch, self._first_batch = epoch, batch_index

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.arange(self._num_samples)
        if self._shuffle_seed is not None:
            order = np.random.default_rng([self._shuffle_seed, self._epoch]).permutation(order)
        for batch in np.array_split(order, self.num_batches)[self._first_batch :]:
            yield [(self._epoch, int(index)) for index in batch]


def ignore_signals(worker_id: int) -> None:
    """Ignore Ctrl-C in a worker, which every process of a terminal gets: the training ends its workers."""
    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Batches:
    """The batches of a data set, epoch by epoch, for the Trainer."""

    def __init__(
        self, dataset: Dataset[Batch], sampler: EpochBatches, *, num_workers: int, pin_memory: bool
    ) -> None:
        self._sampler = sampler
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=ignore_signals,
            # starting an epoch draws a seed: from this generator, so that torch's global one does not change
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return self._sampler.num_batches

    @property
    def largest_batch(self) -> int:
        """The number of samples in the largest batch."""
        return self._sampler.largest_batch

    def iterate_epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch (from 0), beginning with `first_batch`."""
        self._sampler.start_at(epoch, first_batch)
        try:
            return iter(self._loader)
        except OSError as error:  # from starting a worker, not from a step
            if not self._loader.num_workers:
                raise
            raise RuntimeError(f"DataLoader worker could not be started: {error}") from error
