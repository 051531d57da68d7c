"""The process that trains one run: `python -m backend.worker RUN_DIR`. Everything it says is in the folder.

`train_run` is also what train.py calls in the foreground. This is the outermost edge of a training: here, and
only here, any exception becomes an outcome.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import filelock
import torch
from torch import nn

from backend.config import RunConfig
from backend.data.dataset import LandmarkDataset
from backend.data.image_store import ImageStore
from backend.data.samples import Samples, SampleSplits
from backend.errors import UserError
from backend.flags import (
    EXIT_COMPLETED,
    EXIT_DIVERGED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OUT_OF_MEMORY,
    EXIT_USER_ERROR,
    OneLineParser,
    run_command,
)
from backend.run.folder import RunFolder, open_run
from backend.run.supervisor import record_launch
from backend.training import build
from backend.training.checkpoint import load_resumable
from backend.training.engine import DivergedError, Ending, Trainer
from backend.training.recorder import (
    PreviewImages,
    Recorder,
    choose_preview_samples,
    load_preview_batch,
)

LOCK_WAIT_S = 15.0  # data workers of a killed predecessor may hold the lock for a few seconds
StoredSamples = tuple[Samples, ImageStore]
DIVERGED_ADVICE = (
    "The last good weights are kept in last.pt. Start a new run with a lower learning rate (1e-4, or a third of this "
    "one), a longer warm-up, or without mixed precision; if it helps nothing, look for images with wrong landmarks"
)
OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")


def main(arguments: Sequence[str]) -> int:
    """Train the run in the given folder."""
    parser = OneLineParser(prog="python -m backend.worker", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder of a run, made by the dashboard or train.py")
    folder = open_run(parser.parse_args(arguments).run_dir)
    if folder.read_launched() is None:  # started by hand, not by the supervisor
        record_launch(folder)
    return train_run(folder)


def train_run(folder: RunFolder) -> int:
    """Train or resume a run and write its outcome. Returns the exit code.

    Raises UserError where another process trains it.
    """
    lock = folder.lock()
    try:
        lock.acquire(timeout=LOCK_WAIT_S)
    except filelock.Timeout:
        raise UserError("another process trains this run", field="run", cure="watch it on the page") from None
    with lock:
        state, reason, trace, code = _outcome_of(folder)
        folder.write_outcome(state, reason, trace)
        if code == EXIT_USER_ERROR:
            print(f"error: {reason}", file=sys.stderr, flush=True)
        else:
            print(f"{state}: {reason}", flush=True)
        return code


def _outcome_of(folder: RunFolder) -> tuple[str, str, str, int]:
    """(state, one-line reason, traceback, exit code) of a training, whatever happens in it."""
    try:
        ending, reason = _train(folder)
        state = Ending.FINISHED_EARLY if ending is Ending.EARLY_STOPPED else ending
        return state.value, reason, "", EXIT_INTERRUPTED if ending is Ending.STOPPED else EXIT_COMPLETED
    except UserError as error:
        return "failed", str(error), "", EXIT_USER_ERROR
    except DivergedError as error:
        return "diverged", f"training became unstable: {error}. {DIVERGED_ADVICE}", "", EXIT_DIVERGED
    except KeyboardInterrupt:
        return (
            "stopped",
            "left at once, without saving; resume goes on from the last checkpoint",
            "",
            EXIT_INTERRUPTED,
        )
    except Exception as error:  # noqa: BLE001 (the worker's outermost edge)
        trace = traceback.format_exc()
        print(trace, file=sys.stderr, flush=True)
        if _is_out_of_memory(error):
            advice = "memory ran out; choose a smaller batch or image, or add mixed precision on a GPU"
            return "out_of_memory", advice, trace, EXIT_OUT_OF_MEMORY
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0], trace, EXIT_FAILED


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in OUT_OF_MEMORY_WORDS)


def _train(folder: RunFolder) -> tuple[Ending, str]:
    stop = threading.Event()
    restore_signals = _handle_signals(stop)
    try:
        folder.write_status({"phase": "preparing"})
        trainer = _prepare(folder, RunConfig.from_dict(folder.read_config()), stop)
        if stop.is_set():
            return Ending.STOPPED, "stopped before the first step; start it again"
        ending = trainer.fit()
    finally:
        restore_signals()
    return ending, _reason(ending, trainer)


def _prepare(folder: RunFolder, config: RunConfig, stop: threading.Event) -> Trainer:
    """Read the data, build everything, and load the state to go on from where there is one."""
    splits = build.build_splits(config)
    _print_problems(splits)
    task = build.build_task(config, splits.annotations.landmark_names)
    train = _readable(folder, config, splits.train)
    assert train is not None, "load_splits leaves no empty split"
    valid = _readable(folder, config, splits.valid)
    recorder = Recorder(folder, config, task, _preview_images(config, valid or train), stop)
    last = folder.checkpoint_path("last")
    last.parent.mkdir(exist_ok=True)
    network = _build_network(config, len(task.landmark_names), resumes=last.is_file())
    train_batches = build.build_batches(config, *train, training=True)
    valid_batches = build.build_batches(config, *valid, training=False) if valid is not None else None
    trainer = build.build_trainer(config, network, task, train_batches, valid_batches, recorder)
    if last.is_file():
        trainer.load_state_dict(load_resumable(last))
        print(f"resumed after epoch {trainer.loop.epoch}, step {trainer.loop.global_step}", flush=True)
        where = {"epoch": trainer.loop.epoch, "step": trainer.loop.global_step}
        folder.append_event("resumed", f"resumed after epoch {trainer.loop.epoch}", **where)
    recorder.write_preview_images()
    return trainer


def _build_network(config: RunConfig, num_landmarks: int, *, resumes: bool) -> nn.Module:
    network = build.build_network(config, num_landmarks)
    if config.settings.pretrained and not resumes:
        loaded, not_fitting = build.load_pretrained(network, Path(config.value("pretrained")))
        print(f"pretrained: {len(loaded)} weights loaded; not fitting: {', '.join(not_fitting) or 'none'}")
    return network


def _readable(folder: RunFolder, config: RunConfig, samples: Samples | None) -> StoredSamples | None:
    """Samples with their images in memory; an image that cannot be decoded is told and left out."""
    if samples is None:
        return None
    store = build.build_store(samples, config.settings.image_size)
    broken = store.preload()
    if not broken:
        return samples, store
    for error in broken.values():
        print(f"problem: {error}", flush=True)
        folder.append_event("image_left_out", str(error))
    kept = [row for row in range(len(samples)) if row not in broken]
    if not kept:
        first = next(iter(broken.values()))
        raise UserError(f"none of {len(samples)} images can be decoded ({first})", field="dataset_path")
    return _readable(folder, config, samples.take(kept))


def _preview_images(config: RunConfig, stored: StoredSamples) -> PreviewImages:
    """Fixed validation images; without validation, training images without augmentation."""
    samples = choose_preview_samples(stored[0])
    size = config.settings.image_size
    store = build.build_store(samples, size)
    dataset = LandmarkDataset(samples, size, resize=config.settings.resize, store=store)
    return PreviewImages(samples, load_preview_batch(dataset))


def _print_problems(splits: SampleSplits) -> None:
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in splits.by_split.items())
    print(f"data: {counts}; {len(splits.annotations.landmark_names)} landmarks", flush=True)
    problems = splits.annotations.problems
    for problem in problems[:20]:
        print(f"problem: {problem}", flush=True)
    if len(problems) > 20:
        print(f"... and {len(problems) - 20} more problems", flush=True)


def _reason(ending: Ending, trainer: Trainer) -> str:
    loop = trainer.loop
    if ending is Ending.STOPPED:
        return f"stopped in epoch {loop.epoch + 1} at step {loop.global_step}; resume goes on from there"
    best = "" if loop.best_mre_px is None else f"; best in epoch {loop.best_epoch}: {loop.best_mre_px:.2f} px"
    if loop.best_mre_mm is not None:
        best += f", {loop.best_mre_mm:.2f} mm"
    done = f"{loop.epoch} of {trainer.options.epochs} epochs{best}"
    if ending is Ending.EARLY_STOPPED:
        return (
            f"no better validation error for {loop.epoch - loop.best_epoch} epochs: ended early after {done}"
        )
    return done


def _handle_signals(stop: threading.Event) -> Callable[[], None]:
    """First Ctrl-C, SIGTERM or Ctrl-Break: stop after the step under way. A second one leaves at once."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()
        print("stopping after this step; once more leaves at once", file=sys.stderr, flush=True)

    for name in names:
        signal.signal(getattr(signal, name), on_signal)
    return restore


if __name__ == "__main__":
    sys.exit(run_command(main))
