"""Builds the objects that train and predict from a run's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from backend.config import Choice, RunConfig, Settings, sides_of
from backend.data.augmentation import Augmentation
from backend.data.crops import CropDataset, crop_scale
from backend.data.dataset import Batches, EpochBatches, LandmarkDataset
from backend.data.flip_pairs import flip_order
from backend.data.image_store import SHARE_OF_FREE_MEMORY, ImageStore, input_scale
from backend.data.samples import Samples, SampleSplits, read_splits, require_validation
from backend.data.shape_prior import ShapePrior, fit_shape_prior
from backend.device.host import read_memory
from backend.errors import UserError
from backend.geometry import (
    CropFrame,
    FloatArray,
    refiner_sigma_in_force,
    sigma_in_force,
    square_unit_xy,
)
from backend.training.checkpoint_checks import are_weights
from backend.training.engine import Trainer
from backend.training.loop_state import TrainerOptions
from backend.training.precision import compute_float32_in_full
from backend.training.protocols import Observer
from backend.training.task import DECODER_OF_LOSS, LandmarkTask
from models import build_model
from models.refiner import Refiner
from models.resnet import ResNet, load_pretrained_trunk

REFINER_STRIDE = 2  # of its maps: the stride of its trunk
REFINER_WARMUP = 0.1  # share of its epochs
# by `mixed_precision`; True is float16 in old runs
AUTOCAST = {False: None, True: torch.float16, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Schedule:
    """The training settings that differ between the phases of a run."""

    epochs: int
    lr: float
    warmup_epochs: float
    accumulation: int


def build_splits(config: RunConfig) -> SampleSplits:
    """Read the run's data set as it is today, with its validation split. Raises UserError."""
    splits = read_splits(config.settings, config.value("dataset_path"))
    require_validation(splits, config.value("patience"))
    return splits


def build_task(config: RunConfig, landmark_names: Sequence[str]) -> LandmarkTask:
    """Build the heatmap task at the run's image size, output stride, sigma and decoder."""
    settings = config.settings
    stride = settings.stride_in_force
    return LandmarkTask(
        landmark_names=tuple(landmark_names),
        input_hw=settings.image_size,
        stride=stride,
        sigma_px=sigma_in_force(settings.sigma, settings.image_size, stride),
        loss_name=settings.loss,
        decoder=decoder_in_force(settings),
    )


def build_refiner_task(config: RunConfig, landmark_names: Sequence[str]) -> LandmarkTask:
    """Build the same task in the frame of the crops."""
    settings, frame = config.settings, config.crop_frame
    return LandmarkTask(
        landmark_names=tuple(landmark_names),
        input_hw=frame.hw,
        stride=REFINER_STRIDE,
        sigma_px=refiner_sigma_in_force(settings.refine_sigma, REFINER_STRIDE),
        loss_name=settings.loss,
        decoder=decoder_in_force(settings),
    )


def build_shape_prior(config: RunConfig, train: Samples) -> ShapePrior | str:
    """Return the shape prior of the training images, or why there is none; empty if it is switched off."""
    settings = config.settings
    if not settings.shape_prior:
        return ""
    if settings.loss != "kl":
        return f"maps of {settings.loss} do not show how certain they are"
    prior = fit_shape_prior(train.points_xy_image * square_unit_xy(train.mm_per_px_xy)[:, None])
    return prior or "the training images have too few landmarks in common"


def decoder_in_force(settings: Settings) -> str:
    """Return the decoder that is set, or with "auto" the one that fits the loss."""
    return DECODER_OF_LOSS[settings.loss] if settings.decoder == "auto" else settings.decoder


def build_network(config: RunConfig, num_landmarks: int) -> nn.Module:
    """Build the run's network with seeded weights, before any checkpoint is loaded."""
    _prepare_torch(config)
    return build_model(config.settings.model, num_landmarks, output_stride=config.settings.stride_in_force)


def build_refiner(config: RunConfig, num_landmarks: int) -> nn.Module:
    """Build the second network with seeded weights."""
    _prepare_torch(config)
    settings = config.settings
    sides = sides_of(settings.refiner_sides)
    return Refiner(num_landmarks, settings.num_refiners, output_stride=REFINER_STRIDE, sides=sides)


def _prepare_torch(config: RunConfig) -> None:
    """Set the seed, and float32 to full precision, before a network of a run or a checkpoint is built."""
    torch.manual_seed(config.settings.seed)
    compute_float32_in_full()


def load_pretrained(network: nn.Module, path: Path) -> tuple[list[str], list[str]]:
    """Load ImageNet weights into a resnet's trunk.

    Returns the keys that were loaded and those that do not fit. Raises UserError if none fits.
    """
    assert isinstance(network, ResNet), "the settings admit pretrained weights for resnet only"
    try:
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as weights ({error!r:.120})",
            field="pretrained",
            cure="give torchvision's resnet34 state dict (.pth)",
        ) from error
    if not are_weights(weights) or not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise UserError(
            f"{path} is not a set of named tensors of finite numbers",
            field="pretrained",
            cure="give torchvision's resnet34 state dict (.pth)",
        )
    loaded, not_fitting = load_pretrained_trunk(network, weights)
    if not loaded:
        raise UserError(
            f"no weight in {path} fits resnet's trunk",
            field="pretrained",
            cure="give torchvision's resnet34 state dict (.pth)",
        )
    return loaded, not_fitting


def crops_in_force(config: RunConfig, train: Samples) -> dict[str, Choice]:
    """Return the crop settings that the training images decide, so that the refinement always sees one scale.

    If training images have a pixel size, crops of images without one are as wide as theirs on average. If
    none has, every crop is a share of its image, even of a later image with a pixel size: the network learned
    that scale.
    """
    settings = config.settings
    has_pixel_size = np.isfinite(train.mm_per_px_xy).all(axis=1)
    if not has_pixel_size.any():
        reason = "no training image has a pixel size: every crop is a share of its image"
        return {"crop_mm_per_px": Choice(None, reason)}
    if not settings.refine:
        return {}
    sides = image_px_per_crop_px(train, settings.crop_frame)[:, 0].mean(axis=1) * settings.crop_size
    share = min(1.0, float(np.median((sides / np.mean(train.sizes_hw, axis=1))[has_pixel_size])))
    reason = "as wide as the crops of training images with a pixel size"
    return {"crop_share": Choice(share, reason)}


def build_store(samples: Samples, config: RunConfig) -> ImageStore:
    """Build a store that keeps images in memory, within a share of what is free.

    It keeps each image at the scale of each network that the run trains.
    """
    budget_bytes = int(read_memory().free_bytes * SHARE_OF_FREE_MEMORY)
    settings, frame = config.settings, config.crop_frame
    scales = []
    for size_hw, spacing in zip(samples.sizes_hw, samples.mm_per_px_xy, strict=True):
        levels = [input_scale(size_hw, settings.image_size)]
        if settings.refine:
            levels.append(crop_scale(frame.image_px_per_px_xy(size_hw, spacing)))
        scales.append(levels)
    return ImageStore(samples.paths, scales, budget_bytes)


def build_augmentation(settings: Settings, landmark_names: Sequence[str]) -> Augmentation:
    """Build the augmentation of training images.

    Raises UserError for a flip pair that the data set does not have.
    """
    return Augmentation(
        rotation_deg=settings.rotation_deg,
        scale_jitter=settings.scale_jitter,
        shift_jitter=settings.shift_jitter,
        photometric=settings.photometric,
        elastic=settings.elastic,
        flip_order=flip_order(landmark_names, settings.flip_pairs),
    )


def build_images(
    settings: Settings, samples: Samples, store: ImageStore, augmentation: Augmentation | None = None
) -> LandmarkDataset:
    """Build the data set of whole images as the first network sees them, varied by `augmentation`."""
    return LandmarkDataset(
        samples,
        settings.image_size,
        resize=settings.resize,
        store=store,
        augmentation=augmentation,
        seed=settings.seed,
    )


def build_batches(
    config: RunConfig, samples: Samples, store: ImageStore, augmentation: Augmentation | None = None
) -> Batches:
    """Build batches of whole images: augmented and shuffled for training; without augmentation, in order."""
    dataset = build_images(config.settings, samples, store, augmentation)
    return _build_batches(config, dataset, config.value("batch_size"), training=augmentation is not None)


def build_crop_batches(
    config: RunConfig,
    samples: Samples,
    store: ImageStore,
    centres_xy_image: FloatArray,
    augmentation: Augmentation | None = None,
    jitter_px: float = 0.0,
) -> Batches:
    """Build batches of crops about centres (N, K, 2).

    For training they are shifted, augmented and shuffled, and each of the refiner's networks gets crops of
    its own. Without augmentation they are plain and in order.
    """
    settings = config.settings
    dataset = CropDataset(
        samples,
        config.crop_frame,
        centres_xy_image,
        store=store,
        augmentation=augmentation,
        jitter_px=jitter_px,
        num_draws=settings.num_refiners if augmentation is not None else 1,
        seed=settings.seed,
    )
    num_images = images_per_crop_batch(settings, centres_xy_image.shape[1])
    return _build_batches(config, dataset, num_images, training=augmentation is not None)


def image_px_per_crop_px(samples: Samples, frame: CropFrame) -> FloatArray:
    """Return the original pixels per crop pixel of each image, along x and y: (N, 1, 2)."""
    scales = [
        frame.image_px_per_px_xy(size, spacing)
        for size, spacing in zip(samples.sizes_hw, samples.mm_per_px_xy, strict=True)
    ]
    return np.stack(scales)[:, None]


def images_per_crop_batch(settings: Settings, num_landmarks: int) -> int:
    """Return how many images are in a batch of the refinement, each with all its crops."""
    return max(2, round(settings.refine_crops / num_landmarks))


def _build_batches(
    config: RunConfig, dataset: LandmarkDataset | CropDataset, batch_size: int, *, training: bool
) -> Batches:
    seed = config.settings.seed if training else None
    sampler = EpochBatches(len(dataset), batch_size, shuffle_seed=seed)
    on_gpu = str(config.value("device")).startswith("cuda")
    # one process is enough for validation, which is not augmented
    num_workers = config.value("num_workers") if training else min(1, config.value("num_workers"))
    return Batches(dataset, sampler, num_workers=num_workers, pin_memory=on_gpu)


def first_schedule(settings: Settings) -> Schedule:
    """Return how the first network is trained."""
    return Schedule(
        settings.epochs, settings.lr, settings.warmup_epochs, settings.gradient_accumulation_steps
    )


def refine_schedule(settings: Settings) -> Schedule:
    """Return how the refining network is trained."""
    warmup_epochs = REFINER_WARMUP * settings.refine_epochs
    return Schedule(settings.refine_epochs, settings.refine_lr, warmup_epochs, accumulation=1)


def min_micro_batch(task: LandmarkTask, network: nn.Module) -> int:
    """Return how many samples must be computed together in training: batch normalization needs two pictures.

    With one, it would learn each image's own statistics, which predictions do not use, and a map of one cell
    has none. The refiner sees several pictures for one image, a crop for each landmark.
    """
    return 1 if isinstance(network, Refiner) and len(task.landmark_names) > 1 else 2


def build_trainer(
    config: RunConfig,
    schedule: Schedule,
    network: nn.Module,
    task: LandmarkTask,
    train: Batches,
    valid: Batches | None,
    observer: Observer,
) -> Trainer:
    """Build the trainer of one phase's network."""
    settings = config.settings
    return Trainer(
        network,
        task,
        train,
        valid,
        device=torch.device(config.value("device")),
        options=TrainerOptions(
            epochs=schedule.epochs,
            lr=schedule.lr,
            warmup_epochs=schedule.warmup_epochs,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
            ema_decay=settings.ema_decay,
            accumulation=schedule.accumulation,
            autocast=AUTOCAST[config.value("mixed_precision")],
            patience=config.value("patience"),
            on_divergence=settings.on_divergence,
            on_oom=settings.on_oom,
            min_micro_batch=min_micro_batch(task, network),
        ),
        observer=observer,
    )
