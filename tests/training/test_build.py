from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backend.config import RunConfig, Settings
from backend.data.samples import Samples
from backend.training.build import image_px_per_crop_px, with_crops_of_one_width


def samples(*images: tuple[int, float | None]) -> Samples:
    """Square images by (side in px, mm a pixel)."""
    rows = [
        {"height": side, "width": side, "mm_per_px_x": mm or np.nan, "mm_per_px_y": mm or np.nan}
        for side, mm in images
    ]
    return Samples(pd.DataFrame(rows), np.zeros((len(rows), 1, 2), np.float32))


def test_a_crop_without_a_pixel_size_is_as_wide_as_those_that_were_learnt_from() -> None:
    """Trained on images of 0.1 mm, a network is shown the same scale on the same image without its pixel size."""
    settings = Settings(crop_size=64, crop_mm_per_px=0.3)
    config = with_crops_of_one_width(RunConfig(settings, {}), samples((2000, 0.1), (1000, 0.2), (1000, None)))
    scales = image_px_per_crop_px(samples((2000, 0.1), (2000, None), (500, None)), config.settings.crop_frame)
    assert scales[:, 0, 0] == pytest.approx([3, 3, 1])  # 0.75 px would be finer than the image
    assert config.value("crop_share") == config.settings.crop_share == pytest.approx(0.096)
    assert "training images" in config.chosen["crop_share"].reason
    assert settings.crop_share == Settings().crop_share  # what was asked for stays in config.json
    again = RunConfig.from_dict(config.to_dict())
    assert again == config


@pytest.mark.parametrize(("refine", "mm"), [(True, None), (False, 0.1)])
def test_without_pixel_sizes_or_a_refinement_the_share_is_as_asked(refine: bool, mm: float | None) -> None:
    config = RunConfig(Settings(refine=refine, crop_share=0.08), {})
    assert with_crops_of_one_width(config, samples((1000, mm))) == config
