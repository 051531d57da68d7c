"""Text about a data set (counts, pixel sizes, problems), its images for the page, and which splits it has."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.config import RunConfig, Settings
from backend.data.annotations import Problem, find_datasets
from backend.data.image_store import reduce_image
from backend.data.images import ImageArray, read_image
from backend.data.leaks import Leak, across_splits, advise, find_leaks
from backend.data.provenance import LEARNED_SPLITS, read_record
from backend.data.samples import Samples, SampleSplits, find_implausible, load_splits
from backend.geometry import RESIZES, FloatArray, mean_scale, sigma_in_force
from backend.run.folder import RunFolder
from ui.text.say import in_markdown, say, say_count

SAMPLE_SIDE_PX = 900
MAX_PROBLEMS = 50


@dataclass(frozen=True)
class SigmaText:
    """Sigma on one image, in every unit that is known."""

    sigma_px_image: float
    text: str


def crop_sides(settings: Settings, samples: Samples, row: int = 0) -> FloatArray | None:
    """Return width and height of a crop on an image, in image pixels; None without refinement."""
    if not settings.refine:
        return None
    frame = settings.crop_frame
    return frame.image_px_per_px_xy(samples.sizes_hw[row], samples.mm_per_px_xy[row]) * frame.side_px


def list_datasets(data_root: Path) -> list[tuple[str, str]]:
    """List (name, absolute path) of every data set below the data root."""
    return [(path.name, str(path.absolute())) for path in find_datasets(data_root)]


def splits_to_measure(folder: RunFolder, config: RunConfig, dataset_path: str, truth: str) -> list[str]:
    """List the splits of a data set on which a run can be evaluated. Raises UserError.

    For the run's own data set, `train` and `valid` are as the run had them. The error: the data set or the
    run's list cannot be read.
    """
    is_own = Path(dataset_path).resolve() == Path(config.value("dataset_path")).resolve()
    record = read_record(folder) if is_own else None
    today = load_splits(
        Path(dataset_path),
        dataset_format=annotation_format(config, dataset_path),
        annotation_type=truth,
        val_fraction=config.val_fraction_on(Path(dataset_path)) if record is None else 0.0,
        seed=config.settings.seed,
        for_training=False,
    )
    if record is None:
        return list(today.by_split)
    learned = [split for split in LEARNED_SPLITS if record.images_in_split(split)]
    return [*learned, *(split for split in today.by_split if split not in LEARNED_SPLITS)]


def annotation_format(config: RunConfig, dataset_path: str) -> str:
    """Return the run's own annotation format for its own data set; any other is recognized."""
    is_own = Path(dataset_path) == Path(config.value("dataset_path"))
    return config.settings.dataset_format if is_own else "auto"


def summarize(splits: SampleSplits) -> str:
    """Summarize images by split, landmarks, readers, spacings and problems in one line."""
    annotations = splits.annotations
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in splits.by_split.items())
    num_problems = len(annotations.problems)
    return say(
        "data_summary",
        images=say_count("num_images", sum(len(samples) for samples in splits.by_split.values())),
        splits=counts,
        landmarks=say_count("num_landmarks", len(annotations.landmark_names)),
        readers=say_count("num_readers", len(annotations.reader_names)),
        spacings=_spacings(splits),
        problems=say_count("num_problems", num_problems) if num_problems else say("problems_none"),
    )


def list_problems(splits: SampleSplits) -> str:
    """List the problems in Markdown, the first fifty of them."""
    problems = splits.annotations.problems
    lines = [_problem_line(problem) for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"- {say('problems_more', num=len(problems) - MAX_PROBLEMS)}")
    return "\n".join(lines)


def list_implausible(splits: SampleSplits) -> str:
    """List the problems that prevent a training in Markdown; empty if there are none."""
    return "\n".join(map(_problem_line, find_implausible(splits)))


def _problem_line(problem: Problem) -> str:
    return f"- `{problem.where}`: {in_markdown(problem.what)}; *{in_markdown(problem.cure)}*"


def read_leaks(splits: SampleSplits) -> tuple[Leak, ...]:
    """Find the identical images. Of two tabs that ask at once, the second uses what the first has decoded."""
    with _search_lock:
        return find_leaks(splits)


_search_lock = threading.Lock()


def summarize_leaks(leaks: Sequence[Leak]) -> str:
    """Say in one line how many pairs of identical images are in two splits."""
    num = len(across_splits(leaks))
    return say_count("leaks_some", num) if num else say("leaks_none")


def list_leaks(leaks: Sequence[Leak]) -> str:
    """List pairs of identical images in Markdown, below what to do: those in two splits first."""
    across = across_splits(leaks)
    ordered = [*across, *(leak for leak in leaks if leak not in across)]
    lines = [f"- *{cure}*" for cure in advise(leaks)]
    lines += [f"- `{leak}`" for leak in ordered[:MAX_PROBLEMS]]
    if len(ordered) > MAX_PROBLEMS:
        lines.append(f"- {say('problems_more', num=len(ordered) - MAX_PROBLEMS)}")
    return "\n".join(lines)


def describe_sigma(settings: Settings, samples: Samples, row: int = 0) -> SigmaText:
    """Describe the sigma that a run with these settings uses, on an image."""
    stride = settings.stride_in_force
    sigma_px = sigma_in_force(settings.sigma, settings.image_size, stride)
    scale = mean_scale(RESIZES[settings.resize](samples.sizes_hw[row], settings.image_size))
    text = say("sigma_note", sigma_px=sigma_px, sigma_cells=sigma_px / stride, stride=stride)
    text += say("sigma_note_image", sigma_image=sigma_px / scale)
    mm_per_px = float(samples.mm_per_px_xy[row].mean())
    if np.isfinite(mm_per_px):
        text += say("sigma_note_mm", sigma_mm=sigma_px / scale * mm_per_px)
    sides = crop_sides(settings, samples, row)
    if sides is not None:
        text += say("crop_note", side=settings.crop_size, width=sides[0], height=sides[1])
    return SigmaText(sigma_px / scale, text)


def read_display(path: Path, size_hw: tuple[int, int]) -> ImageArray:
    """Read an image, reduced for the page."""
    return reduce_image(read_image(path), SAMPLE_SIDE_PX / max(size_hw)).pixels


@functools.lru_cache(maxsize=4)
def read_full(path: Path) -> ImageArray:
    """Read an image in full resolution, not to be written to.

    The last few stay in memory, since one image is drawn in several places.
    """
    return read_image(path)


def shrink(pixels: ImageArray) -> ImageArray:
    """Reduce an image for the page."""
    return reduce_image(pixels, SAMPLE_SIDE_PX / max(pixels.shape[:2])).pixels


def _spacings(splits: SampleSplits) -> str:
    spacings = np.concatenate([samples.mm_per_px_xy for samples in splits.by_split.values()])
    sizes = np.unique(np.round(spacings[np.isfinite(spacings)], 4))
    if not sizes.size:
        return say("spacing_none")
    if sizes.size == 1:
        return say("spacing_one", spacing=f"{sizes[0]:g}")
    return say("spacing_many", num=sizes.size, low=f"{sizes[0]:g}", high=f"{sizes[-1]:g}")
