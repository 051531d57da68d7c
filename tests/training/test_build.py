from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backend.config import RunConfig, Settings
from backend.data.samples import Samples
from backend.training.build import crops_in_force, image_px_per_crop_px


def samples(*images: tuple[int, float | None]) -> Samples:
    """Square images by (side in px, mm a pixel)."""
    rows = [
        {"height": side, "width": side, "mm_per_px_x": mm or np.nan, "mm_per_px_y": mm or np.nan}
        for side, mm in images
    ]
    return Samples(pd.DataFrame(rows), np.zeros((len(rows), 1, 2), np.float32))


def in_force(settings: Settings, train: Samples) -> RunConfig:
    return RunConfig(settings, crops_in_force(RunConfig(settings, {}), train))


def test_a_crop_without_a_pixel_size_is_as_wide_as_those_that_were_learned_from() -> None:
    """Trained on images of 0.1 mm, a network is shown the same scale on the same image without its pixel
    size."""
    settings = Settings(crop_size=64, crop_mm_per_px=0.3)
    config = in_force(settings, samples((2000, 0.1), (1000, 0.2), (1000, None)))
    scales = image_px_per_crop_px(samples((2000, 0.1), (2000, None), (500, None)), config.crop_frame)
    assert scales[:, 0, 0] == pytest.approx([3, 3, 1])  # 0.75 px would be finer than the image
    assert config.value("crop_share") == pytest.approx(0.096) and config.learned_pixel_sizes
    assert "training images" in config.chosen["crop_share"].reason
    assert config.settings == settings  # what was asked for stays
    assert RunConfig.from_dict(config.to_dict()) == config


def test_trained_without_pixel_sizes_a_crop_is_the_same_whether_an_image_has_one_or_not() -> None:
    config = in_force(Settings(crop_size=64, crop_share=0.08), samples((1000, None), (2000, None)))
    scales = image_px_per_crop_px(samples((2000, 0.1), (2000, 0.33), (2000, None)), config.crop_frame)
    assert scales[:, 0, 0] == pytest.approx([2.5] * 3)
    assert not config.learned_pixel_sizes and config.value("crop_share") == 0.08
    assert RunConfig.from_dict(config.to_dict()) == config


def test_without_a_refinement_the_share_is_as_asked() -> None:
    config = in_force(Settings(refine=False, crop_share=0.08), samples((1000, 0.1)))
    assert config.value("crop_share") == 0.08 and config.chosen == {}
