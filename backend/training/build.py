"""From a run's configuration to the objects that train it: the one place where settings meet constructors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.config import RunConfig
from backend.data.augmentation import Augmentation
from backend.data.dataset import Batches, EpochBatches, LandmarkDataset
from backend.data.image_store import SHARE_OF_FREE_MEMORY, ImageStore
from backend.data.samples import Samples, SampleSplits, load_splits
from backend.device.host import read_memory
from backend.errors import UserError
from backend.geometry import Size, output_stride_for, sigma_in_force
from backend.training.engine import Observer, Trainer, TrainerOptions
from backend.training.task import DECODER_OF_LOSS, LandmarkTask
from models import build_model
from models.resnet import ResNet, load_pretrained_trunk


def build_splits(config: RunConfig) -> SampleSplits:
    """Read the run's data set. Raises UserError where patience has no validation images to watch."""
    settings = config.settings
    splits = load_splits(
        Path(config.value("dataset_path")),
        dataset_format=settings.dataset_format,
        annotation_type=settings.annotation_type,
        val_fraction=settings.val_fraction,
        seed=settings.seed,
    )
    if settings.patience and splits.valid is None:
        raise UserError(
            "there are no validation images, so it has no error to watch",
            field="patience",
            cure="give --val_fraction above 0, or --patience 0",
        )
    return splits


def build_task(config: RunConfig, landmark_names: Sequence[str]) -> LandmarkTask:
    """The heatmap task at the run's image size, output stride, sigma and decoder."""
    settings = config.settings
    height, width = settings.image_size
    return LandmarkTask(
        landmark_names=tuple(landmark_names),
        input_hw=(height, width),
        stride=output_stride_for(height, width),
        sigma_px=sigma_in_force(settings.sigma, settings.loss, height, width),
        loss_name=settings.loss,
        decoder=DECODER_OF_LOSS[settings.loss] if settings.decoder == "auto" else settings.decoder,
    )


def build_network(config: RunConfig, num_landmarks: int) -> nn.Module:
    """The run's network with seeded weights, before any checkpoint is loaded."""
    torch.manual_seed(config.settings.seed)
    return build_model(
        config.settings.model, num_landmarks, output_stride=output_stride_for(*config.settings.image_size)
    )


def load_pretrained(network: nn.Module, path: Path) -> tuple[list[str], list[str]]:
    """Load ImageNet weights into a resnet's trunk; returns the keys that were loaded and those that did not fit."""
    assert isinstance(network, ResNet), "the settings admit pretrained weights for resnet only"
    try:
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as weights ({error!r:.120})",
            field="pretrained",
            cure="give torchvision's resnet34 state dict (.pth)",
        ) from error
    loaded, not_fitting = load_pretrained_trunk(network, weights)
    if not loaded:
        raise UserError(
            f"no weight in {path} fits resnet's trunk",
            field="pretrained",
            cure="give torchvision's resnet34 state dict (.pth)",
        )
    return loaded, not_fitting


def build_store(samples: Samples, input_hw: Size) -> ImageStore:
    """Images in memory, within a quarter of what is free."""
    budget_bytes = int(read_memory().free_bytes * SHARE_OF_FREE_MEMORY)
    return ImageStore(samples.paths, samples.sizes_hw, input_hw, budget_bytes)


def build_batches(config: RunConfig, samples: Samples, store: ImageStore, *, training: bool) -> Batches:
    """Augmented and shuffled batches for training, plain ones in order for validation."""
    settings = config.settings
    augmentation = Augmentation(
        rotation_deg=settings.rotation_deg,
        scale_jitter=settings.scale_jitter,
        shift_jitter=settings.shift_jitter,
        photometric=settings.photometric,
    )
    dataset = LandmarkDataset(
        samples,
        settings.image_size,
        resize=settings.resize,
        store=store,
        augmentation=augmentation if training else None,
        seed=settings.seed,
    )
    sampler = EpochBatches(
        len(samples), config.value("batch_size"), shuffle_seed=settings.seed if training else None
    )
    on_gpu = str(config.value("device")).startswith("cuda")
    # validation is short: one process keeps up with it
    num_workers = config.value("num_workers") if training else min(1, config.value("num_workers"))
    return Batches(dataset, sampler, num_workers=num_workers, pin_memory=on_gpu)


def build_trainer(
    config: RunConfig,
    network: nn.Module,
    task: LandmarkTask,
    train: Batches,
    valid: Batches | None,
    observer: Observer,
) -> Trainer:
    """The engine for the run's settings."""
    settings = config.settings
    return Trainer(
        network,
        task,
        train,
        valid,
        device=torch.device(config.value("device")),
        options=TrainerOptions(
            epochs=settings.epochs,
            lr=settings.lr,
            warmup_epochs=settings.warmup_epochs,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
            ema_decay=settings.ema_decay,
            accumulation=settings.gradient_accumulation_steps,
            mixed_precision=config.value("mixed_precision"),
            patience=settings.patience,
            on_divergence=settings.on_divergence,
        ),
        observer=observer,
    )
