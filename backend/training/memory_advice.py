"""Advice for a run that ran out of memory: flags for a new run that needs less."""

from __future__ import annotations

from backend.config import SIZE_MULTIPLE, RunConfig, sides_of

MIN_BATCH = 2  # batch normalization needs two images


def advise(config: RunConfig, phase: str, num_images: int | None, *, is_resumable: bool) -> str:
    """Return one line of cures, the mildest first.

    `num_images` at once were too many; None: memory ran out elsewhere.
    """
    cures = ["--on_oom retry (a step in smaller parts)"] if config.settings.on_oom == "stop" else []
    cures += _refinement_cures(config) if phase == "refine" else _first_cures(config, num_images)
    first = "Free memory that other programs hold" + (" and resume" if is_resumable else "")
    return f"{first}, or start a new run with {', or '.join(cures) if cures else 'another model'}"


def _first_cures(config: RunConfig, num_images: int | None) -> list[str]:
    too_many = num_images or config.value("batch_size")
    fewer = max(MIN_BATCH, too_many // 2)
    effective = config.value("batch_size") * config.settings.gradient_accumulation_steps
    cures = []
    if fewer < too_many:
        steps = -(-effective // fewer)
        cures.append(
            f"--batch_size {fewer} --gradient_accumulation_steps {steps} (an effective batch of "
            f"{fewer * steps}, now {effective})"
        )
    return [*cures, *_precision_cures(config), *_image_cures(config)]


def _image_cures(config: RunConfig) -> list[str]:
    height, width = config.settings.image_size
    smaller_hw = [
        max(SIZE_MULTIPLE, side * 3 // 4 // SIZE_MULTIPLE * SIZE_MULTIPLE) for side in (height, width)
    ]
    share = smaller_hw[0] * smaller_hw[1] / (height * width)
    if share == 1:
        return []
    return [f"--image_size {smaller_hw[0]} {smaller_hw[1]} ({share:.0%} of the pixels)"]


def _refinement_cures(config: RunConfig) -> list[str]:
    """Return cures for the refinement; no smaller batch: it is two images, or one after memory ran out."""
    settings, cures = config.settings, []
    sides = sides_of(settings.refiner_sides)
    all_small = f" --refiner_sides {min(sides)}" if len(set(sides)) > 1 else ""
    if all_small:
        cures.append(f"{all_small.strip()} (now {settings.refiner_sides})")
    if settings.num_refiners > 1:
        cures.append(f"--num_refiners {settings.num_refiners // 2}{all_small} (now {settings.num_refiners})")
    if settings.crop_size > SIZE_MULTIPLE and not sides:
        smaller = max(SIZE_MULTIPLE, settings.crop_size * 3 // 4 // SIZE_MULTIPLE * SIZE_MULTIPLE)
        cures.append(f"--crop_size {smaller} ({smaller**2 / settings.crop_size**2:.0%} of the pixels)")
    return [*cures, *_precision_cures(config), "--no-refine"]


def _precision_cures(config: RunConfig) -> list[str]:
    on_gpu = str(config.value("device")).startswith("cuda")
    if config.value("mixed_precision") or not on_gpu:
        return []
    return ["--mixed_precision (half the bytes of a map)"]
