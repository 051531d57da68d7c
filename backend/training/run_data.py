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
    """Some samples, and their images in memory."""

    samples: Samples
    store: ImageStore


@dataclass(frozen=True)
class RunData:
    """A run's folder, settings and images, ready for its phases."""

    folder: RunFolder
    config: RunConfig
    splits: SampleSplits  # as read; `train` and `valid` below leave out images that cannot be decoded
    train: StoredSamples
    valid: StoredSamples | None
    previews: StoredSamples
    shape_prior: ShapePrior | None  # that predictions use
    origin: dict[str, Any]  # of the weights, for checkpoints: `learned_from` and `made_with`
    stop: threading.Event  # set by a signal handler

    @property
    def preview_split(self) -> str:
        """The name of the split that the previews show."""
        return TRAIN if self.valid is None else VALID

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """The points to learn, in the order of the networks' maps."""
        return self.splits.annotations.landmark_names


def load_run_data(folder: RunFolder, config: RunConfig, stop: threading.Event) -> RunData:
    """Read the data set and its images: as it is at the first start, later as `data.json` recorded it.

    What is found at the first start is reported then, and not again. Raises UserError if nothing is left to
    train on, if coordinates are implausible (at the first start only: a resumed run has already learned from
    them), or if the data set is not the recorded one.
    """
    resumes = folder.checkpoint_path("last").is_file()  # what was reported before is not reported again
    record = read_record(folder)
    program = describe_program(config.value("device"))
    _report_program(folder, program, resumes=resumes)
    warning = precision_warning(config.value("mixed_precision"), cpu_has_bfloat16())
    if warning:
        report_once(folder, "slow_precision", warning)
    splits, crop_choices = _read_splits(folder, config, record, resumes=resumes)
    config = replace(config, chosen={**config.chosen, **crop_choices})
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
        record = record_data(replace(splits, by_split=decoded), config.settings.annotation_type, crop_choices)
        folder.write_data({**record.to_dict(), "made_with": program})
    preview_samples = choose_preview_samples((valid or train).samples)
    return RunData(
        folder=folder,
        config=config,
        splits=splits,
        train=train,
        valid=valid,
        previews=StoredSamples(preview_samples, build.build_store(preview_samples, config)),
        shape_prior=None if isinstance(shape_prior, str) else shape_prior,
        origin={
            "learned_from": record.digests_by_split() if record is not None else {},
            "made_with": program,
        },
        stop=stop,
    )


def _read_splits(
    folder: RunFolder, config: RunConfig, record: DataRecord | None, *, resumes: bool
) -> tuple[SampleSplits, Mapping[str, Choice]]:
    """Return the splits, and the crop settings that the training images decide."""
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
    """Log the program and device that train; add an event if they differ from those before a resume."""
    log.info("program: %s", ", ".join(f"{name} {value}" for name, value in program.items()))
    if not resumes:
        return
    records = [folder.read_data() or {}, *folder.read_events()[0]]
    programs = [record["made_with"] for record in records if record.get("made_with")]
    change = describe_change(program, programs[-1]) if programs else ""
    if change:
        folder.append_event("program_changed", f"resumed with {change}", made_with=program)


def report_once(folder: RunFolder, kind: str, message: str, values: Mapping[str, Any] | None = None) -> None:
    """Log, and append an event unless the last one of its kind has the same message."""
    log.info("%s: %s", kind.replace("_", " "), message)
    reported = [event["message"] for event in folder.read_events()[0] if event.get("kind") == kind]
    if reported[-1:] != [message]:
        folder.append_event(kind, message, **(values or {}))


def _load_images(folder: RunFolder, config: RunConfig, samples: Samples, *, is_new: bool) -> StoredSamples:
    """Load the images of samples into memory; one that cannot be decoded is reported and left out."""
    store = build.build_store(samples, config)
    broken = store.preload()
    if not broken:
        return StoredSamples(samples, store)
    for error in broken.values():
        log.info("problem: %s", error)
        if is_new:
            folder.append_event("image_left_out", str(error))
    intact = [row for row in range(len(samples)) if row not in broken]
    if not intact:
        first = next(iter(broken.values()))
        raise UserError(f"none of {len(samples)} images can be decoded ({first})", field="dataset_path")
    # again, because the sizes in memory depend on the number of images
    return _load_images(folder, config, samples.take(intact), is_new=is_new)


def _log_problems(splits: SampleSplits) -> None:
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in splits.by_split.items())
    log.info("data: %s; %d landmarks", counts, len(splits.annotations.landmark_names))
    _log_first("problem", splits.annotations.problems)


def _report_left_out(folder: RunFolder, splits: SampleSplits) -> None:
    if splits.left_out:
        names = ", ".join(splits.left_out)
        message = f"annotated on no training image, so neither learned nor predicted: {names}"
        folder.append_event("landmarks_left_out", message, landmarks=list(splits.left_out))


def _report_leaks(folder: RunFolder, splits: SampleSplits) -> None:
    """Report images that are in two splits, and the cure.

    They do not stop a training, but make its errors look too small.
    """
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


def _report_shape_prior(folder: RunFolder, shape_prior: ShapePrior | str, num_images: int) -> None:
    """Report a shape prior, or why there is none; nothing if it is switched off (see build_shape_prior)."""
    if isinstance(shape_prior, ShapePrior):
        message = f"the shape prior is fitted to {num_images} training images"
        folder.append_event("shape_prior", message, used=True)
    elif shape_prior:
        folder.append_event("shape_prior", f"the shape prior is not used: {shape_prior}", used=False)


def _report_readers(folder: RunFolder, splits: SampleSplits, valid: Samples) -> None:
    """Record the inter-reader distance on the validation images, to be shown beside the errors."""
    annotations = splits.annotations
    names = annotations.landmark_names
    readers = points_of_readers(annotations, valid, names)
    distances = summarize_readers(readers, valid.mm_per_px_xy, names)
    if distances is not None:
        reader_names = list(annotations.reader_names)
        folder.write_readers({"reader_names": reader_names, "num_images": len(valid), **distances})


def _log_first(kind: str, items: Sequence[object]) -> None:
    """Log the first items of a list, and how many more there are."""
    for item in items[:MAX_LOGGED]:
        log.info("%s: %s", kind, item)
    if len(items) > MAX_LOGGED:
        log.info("... and %d more %ss", len(items) - MAX_LOGGED, kind)
