"""A run's data, read and ready for its phases; what is wrong with it is told on the way.

Knows the run folder; must not know networks or processes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from backend.config import Choice, RunConfig
from backend.data.image_store import ImageStore
from backend.data.leaks import across_splits, advise, find_leaks
from backend.data.provenance import (
    DataRecord,
    read_record,
    read_whole_data,
    record_data,
    restore_splits,
    to_dict,
)
from backend.data.samples import Samples, SampleSplits, points_of_readers, require_plausible
from backend.data.shape_prior import ShapePrior
from backend.data.splits import TRAIN, VALID
from backend.device.machine import cpu_has_bfloat16
from backend.errors import UserError
from backend.resolve import precision_warning
from backend.run.folder import RunFolder
from backend.training import build
from backend.training.metrics import summarize_readers
from backend.training.origin import describe_change, describe_program
from backend.training.recorder import choose_preview_samples

MAX_TOLD = 20  # problems or leaks that are printed one by one


@dataclass(frozen=True)
class Stored:
    """Samples and their images in memory."""

    samples: Samples
    store: ImageStore


@dataclass(frozen=True)
class Job:
    """A run's data, read and ready for its phases."""

    folder: RunFolder
    config: RunConfig
    splits: SampleSplits  # of which `train` and `valid` are what can be decoded
    train: Stored
    valid: Stored | None
    previews: Stored
    shape_prior: ShapePrior | None  # to whose shapes predictions are drawn
    origin: dict[str, Any]  # of the weights, for checkpoints: `learned_from` and `made_with`
    stop: threading.Event

    @property
    def preview_split(self) -> str:
        """The split of the preview images."""
        return TRAIN if self.valid is None else VALID

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """Those to be learnt, in the order of the networks' maps."""
        return self.splits.annotations.landmark_names


def prepare(folder: RunFolder, config: RunConfig, stop: threading.Event) -> Job:
    """Read the data set and its images: at the first start as it is, later what `data.json` says was learned from.

    Raises UserError where nothing is left to train on, where coordinates cannot be meant (at the start alone: a run
    that goes on has learned from them), or where the data are another data set's.
    """
    goes_on = folder.checkpoint_path("last").is_file()  # what it has told is not told again
    record = read_record(folder)
    program = describe_program(config.value("device"))
    _report_program(folder, program, goes_on=goes_on)
    slow = precision_warning(config.value("mixed_precision"), cpu_has_bfloat16())
    if slow:
        report_once(folder, "slow_precision", slow)
    splits, chosen = _read_splits(folder, config, record, goes_on=goes_on)
    config = replace(config, chosen={**config.chosen, **chosen})
    _print_problems(splits)
    if not goes_on:
        require_plausible(splits, accepted=config.settings.accept_implausible)
        _tell_left_out(folder, splits)
        _tell_leaks(folder, splits)
    train = _readable(folder, config, splits.train, is_news=not goes_on)
    shape_prior = build.build_shape_prior(config, train.samples)
    if not goes_on:
        _tell_shape_prior(folder, shape_prior, len(train.samples))
    valid = _readable(folder, config, splits.valid, is_news=not goes_on) if splits.valid is not None else None
    if valid is not None:
        _tell_readers(folder, splits, valid.samples)
    if record is None and not goes_on:
        decoded = {TRAIN: train.samples} | ({VALID: valid.samples} if valid is not None else {})
        record = record_data(replace(splits, by_split=decoded), config.settings.annotation_type, chosen)
        folder.write_data({**to_dict(record), "made_with": program})
    shown = choose_preview_samples((valid or train).samples)
    previews = Stored(shown, build.build_store(shown, config))
    kept = None if isinstance(shape_prior, str) else shape_prior
    origin = {"learned_from": record.digests() if record is not None else {}, "made_with": program}
    return Job(folder, config, splits, train, valid, previews, kept, origin, stop)


def _read_splits(
    folder: RunFolder, config: RunConfig, record: DataRecord | None, *, goes_on: bool
) -> tuple[SampleSplits, Mapping[str, Choice]]:
    """The splits, and what the training images decide of the settings."""
    if record is not None:
        splits, changes = restore_splits(record, read_whole_data(config))
        build.require_validation(config, splits)
        if changes:
            report_once(
                folder, "data_changed", f"since the first start the data changed: {changes}", asdict(changes)
            )
        return splits, record.chosen
    splits = build.build_splits(config)
    if goes_on:
        report_once(
            folder, "data_unrecorded", "made before the list of its images was kept: today's folder was read"
        )
    return splits, build.crops_in_force(config, splits.train)


def _report_program(folder: RunFolder, program: Mapping[str, Any], *, goes_on: bool) -> None:
    """Print with what the run is trained; where that is not what it began with, it is an event."""
    print("program: " + ", ".join(f"{name} {value}" for name, value in program.items()), flush=True)
    earlier = [
        (folder.read_data() or {}).get("made_with"),
        *(e.get("made_with") for e in folder.read_events()[0]),
    ]
    before = next((one for one in reversed(earlier) if one), None)
    if goes_on and before and (change := describe_change(program, before)):
        folder.append_event("program_changed", f"goes on with {change}", made_with=program)


def report_once(folder: RunFolder, kind: str, message: str, values: Mapping[str, Any] | None = None) -> None:
    """Print, and keep as an event what the last one of its kind does not say already."""
    print(f"{kind.replace('_', ' ')}: {message}", flush=True)
    before = [event["message"] for event in folder.read_events()[0] if event.get("kind") == kind]
    if before[-1:] != [message]:
        folder.append_event(kind, message, **(values or {}))


def _readable(folder: RunFolder, config: RunConfig, samples: Samples, *, is_news: bool) -> Stored:
    """Samples with their images in memory; an image that cannot be decoded is left out, and told."""
    store = build.build_store(samples, config)
    broken = store.preload()
    if not broken:
        return Stored(samples, store)
    for error in broken.values():
        print(f"problem: {error}", flush=True)
        if is_news:
            folder.append_event("image_left_out", str(error))
    kept = [row for row in range(len(samples)) if row not in broken]
    if not kept:
        first = next(iter(broken.values()))
        raise UserError(f"none of {len(samples)} images can be decoded ({first})", field="dataset_path")
    return _readable(folder, config, samples.take(kept), is_news=is_news)


def _print_problems(splits: SampleSplits) -> None:
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in splits.by_split.items())
    print(f"data: {counts}; {len(splits.annotations.landmark_names)} landmarks", flush=True)
    _print_some("problem", splits.annotations.problems)


def _tell_left_out(folder: RunFolder, splits: SampleSplits) -> None:
    if splits.left_out:
        message = (
            f"marked on no training image, so neither learnt nor predicted: {', '.join(splits.left_out)}"
        )
        folder.append_event("landmarks_left_out", message, landmarks=list(splits.left_out))


def _tell_leaks(folder: RunFolder, splits: SampleSplits) -> None:
    """Images that stand in two splits, and the cure: they do not stop a training, but flatter what it reports."""
    leaks = find_leaks(splits)
    across = across_splits(leaks)
    if not across:
        print("leaks: no image of train or valid stands in another split", flush=True)
        return
    _print_some("leak", across)
    cures = advise(leaks)
    print(*(f"leaks: {cure}" for cure in cures), sep="\n", flush=True)
    pairs = [[*leak.image_ids, *leak.splits, leak.kind, leak.distance] for leak in across]
    message = f"{len(across)} pairs of images are one image in two splits; " + "; ".join(cures)
    folder.append_event("leaks", message, count=len(across), pairs=pairs)


def _tell_shape_prior(folder: RunFolder, found: ShapePrior | str, num_images: int) -> None:
    if found == "":
        return
    message = (
        f"predictions are not drawn to likely shapes: {found}"
        if isinstance(found, str)
        else f"predictions are drawn to the shapes that {num_images} training images make likely"
    )
    folder.append_event("shape_prior", message, used=not isinstance(found, str))


def _tell_readers(folder: RunFolder, splits: SampleSplits, valid: Samples) -> None:
    """Keep what the readers differ by on the validation images, to be shown beside the errors."""
    annotations = splits.annotations
    names = annotations.landmark_names
    readers = points_of_readers(annotations, valid, names)
    apart = summarize_readers(readers, valid.mm_per_px_xy, names)
    if apart is not None:
        folder.write_readers(
            {"reader_names": list(annotations.reader_names), "num_images": len(valid), **apart}
        )


def _print_some(kind: str, found: Sequence[object]) -> None:
    for one in found[:MAX_TOLD]:
        print(f"{kind}: {one}", flush=True)
    if len(found) > MAX_TOLD:
        print(f"... and {len(found) - MAX_TOLD} more {kind}s", flush=True)
