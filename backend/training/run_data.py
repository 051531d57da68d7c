"""Load a run's data and report problems before training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from backend.config import Choice, RunConfig
from backend.data.image_store import ImageStore
from backend.data.leaks import across_splits, advise, find_leaks
from backend.data.provenance import DataRecord, read_record, record_data
from backend.data.restored_splits import read_whole_data, restore_splits
from backend.data.samples import (
    Samples,
    SampleSplits,
    points_of_readers,
    require_plausible,
    require_validation,
)
from backend.data.shape_prior import ShapePrior
from backend.data.splits import TRAIN, VALID
from backend.device.machine import cpu_has_bfloat16
from backend.errors import UserError
from backend.resolve import precision_warning
from backend.run.folder import RunFolder
from backend.training import build
from backend.training.metrics import summarize_readers
from backend.training.origin import describe_change, describe_program
from backend.training.previews import choose_preview_samples

log = logging.getLogger(__name__)

MAX_LOGGED = 20  # problems or leaks that are printed one by one


@dataclass(frozen=True)
class StoredSamples:
    """Samples and their images in memory."""

    samples: Samples
    store: ImageStore


@dataclass(frozen=True)
class RunData:
    """The data of a run, loaded and ready for its phases."""

    folder: RunFolder
    config: RunConfig
    splits: SampleSplits  # as read; `train` and `valid` below leave out images that cannot be decoded
    train: StoredSamples
    valid: StoredSamples | None
    previews: StoredSamples
    shape_prior: ShapePrior | None  # that predictions use
    origin: dict[str, Any]  # of the weights, for checkpoints: `learned_from` and `made_with`
    stop: threading.Event

    @property
    def preview_split(self) -> str:
        """The split of the preview images."""
        return TRAIN if self.valid is None else VALID

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """The landmarks to learn, in the order of the networks' maps."""
        return self.splits.annotations.landmark_names


def load_run_data(folder: RunFolder, config: RunConfig, stop: threading.Event) -> RunData:
    """Read the data set and its images: as it is at the first start, later as `data.json` recorded it.

    Raises UserError where nothing is left to train on, where coordinates are implausible (at the first start
    only: a resumed run has already learned from them), or where the data set is not the recorded one.
    """
    resumes = folder.checkpoint_path("last").is_file()  # what was reported before is not reported again
    record = read_record(folder)
    program = describe_program(config.value("device"))
    _report_program(folder, program, resumes=resumes)
    slow = precision_warning(config.value("mixed_precision"), cpu_has_bfloat16())
    if slow:
        report_once(folder, "slow_precision", slow)
    splits, chosen = _read_splits(folder, config, record, resumes=resumes)
    config = replace(config, chosen={**config.chosen, **chosen})
    _log_problems(splits)
    if not resumes:
        require_plausible(splits, accepted=config.settings.accept_implausible)
        _report_left_out(folder, splits)
        _report_leaks(folder, splits)
    train = _load_images(folder, config, splits.train, is_new=not resumes)
    shape_prior = build.build_shape_prior(config, train.samples)
    if not resumes:
        _report_shape_prior(folder, shape_prior, len(train.samples))
    valid = None
    if splits.valid is not None:
        valid = _load_images(folder, config, splits.valid, is_new=not resumes)
        _report_readers(folder, splits, valid.samples)
    if record is None and not resumes:
        decoded = {TRAIN: train.samples} | ({VALID: valid.samples} if valid is not None else {})
        record = record_data(replace(splits, by_split=decoded), config.settings.annotation_type, chosen)
        folder.write_data({**record.to_dict(), "made_with": program})
    shown = choose_preview_samples((valid or train).samples)
    previews = StoredSamples(shown, build.build_store(shown, config))
    fitted = None if isinstance(shape_prior, str) else shape_prior
    origin = {"learned_from": record.digests_by_split() if record is not None else {}, "made_with": program}
    return RunData(folder, config, splits, train, valid, previews, fitted, origin, stop)


def _read_splits(
    folder: RunFolder, config: RunConfig, record: DataRecord | None, *, resumes: bool
) -> tuple[SampleSplits, Mapping[str, Choice]]:
    """The splits, and the settings that the training images decide."""
    if record is not None:
        splits, changes = restore_splits(record, read_whole_data(config))
        require_validation(splits, config.value("patience"))
        if changes:
            message = f"since the first start the data changed: {changes}"
            report_once(folder, "data_changed", message, asdict(changes))
        return splits, record.chosen
    splits = build.build_splits(config)
    if resumes:
        message = "this run was made before its images were recorded: the folder is read as it is today"
        report_once(folder, "data_unrecorded", message)
    return splits, build.crops_in_force(config, splits.train)


def _report_program(folder: RunFolder, program: Mapping[str, Any], *, resumes: bool) -> None:
    """Log the program and device that train; an event where they differ from those before."""
    log.info("program: %s", ", ".join(f"{name} {value}" for name, value in program.items()))
    earlier = [
        (folder.read_data() or {}).get("made_with"),
        *(e.get("made_with") for e in folder.read_events()[0]),
    ]
    before = next((one for one in reversed(earlier) if one), None)
    if resumes and before and (change := describe_change(program, before)):
        folder.append_event("program_changed", f"resumed with {change}", made_with=program)


def report_once(folder: RunFolder, kind: str, message: str, values: Mapping[str, Any] | None = None) -> None:
    """Log, and append an event unless the last one of its kind says the same."""
    log.info("%s: %s", kind.replace("_", " "), message)
    before = [event["message"] for event in folder.read_events()[0] if event.get("kind") == kind]
    if before[-1:] != [message]:
        folder.append_event(kind, message, **(values or {}))


def _load_images(folder: RunFolder, config: RunConfig, samples: Samples, *, is_new: bool) -> StoredSamples:
    """Samples with their images in memory; an image that cannot be decoded is reported and left out."""
    store = build.build_store(samples, config)
    broken = store.preload()
    if not broken:
        return StoredSamples(samples, store)
    for error in broken.values():
        log.info("problem: %s", error)
        if is_new:
            folder.append_event("image_left_out", str(error))
    kept = [row for row in range(len(samples)) if row not in broken]
    if not kept:
        first = next(iter(broken.values()))
        raise UserError(f"none of {len(samples)} images can be decoded ({first})", field="dataset_path")
    return _load_images(folder, config, samples.take(kept), is_new=is_new)


def _log_problems(splits: SampleSplits) -> None:
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in splits.by_split.items())
    log.info("data: %s; %d landmarks", counts, len(splits.annotations.landmark_names))
    _log_first("problem", splits.annotations.problems)


def _report_left_out(folder: RunFolder, splits: SampleSplits) -> None:
    if splits.left_out:
        message = "annotated on no training image, so neither learned nor predicted: " + ", ".join(
            splits.left_out
        )
        folder.append_event("landmarks_left_out", message, landmarks=list(splits.left_out))


def _report_leaks(folder: RunFolder, splits: SampleSplits) -> None:
    """Images that are in two splits, and the cure: they do not stop a training, but make its errors look too
    small."""
    leaks = find_leaks(splits)
    across = across_splits(leaks)
    if not across:
        log.info("leaks: no image of train or valid is in another split")
        return
    _log_first("leak", across)
    cures = advise(leaks)
    for cure in cures:
        log.info("leaks: %s", cure)
    pairs = [[*leak.image_ids, *leak.splits, leak.kind, leak.distance] for leak in across]
    message = f"images in two splits: {len(across)}; " + "; ".join(cures)
    folder.append_event("leaks", message, count=len(across), pairs=pairs)


def _report_shape_prior(folder: RunFolder, found: ShapePrior | str, num_images: int) -> None:
    if found == "":
        return
    is_used = not isinstance(found, str)
    message = (
        f"the shape prior is fitted to {num_images} training images"
        if is_used
        else f"the shape prior is not used: {found}"
    )
    folder.append_event("shape_prior", message, used=is_used)


def _report_readers(folder: RunFolder, splits: SampleSplits, valid: Samples) -> None:
    """Record the inter-reader distance on the validation images, to be shown beside the errors."""
    annotations = splits.annotations
    names = annotations.landmark_names
    readers = points_of_readers(annotations, valid, names)
    apart = summarize_readers(readers, valid.mm_per_px_xy, names)
    if apart is not None:
        folder.write_readers(
            {"reader_names": list(annotations.reader_names), "num_images": len(valid), **apart}
        )


def _log_first(kind: str, found: Sequence[object]) -> None:
    for one in found[:MAX_LOGGED]:
        log.info("%s: %s", kind, one)
    if len(found) > MAX_LOGGED:
        log.info("... and %d more %ss", len(found) - MAX_LOGGED, kind)
