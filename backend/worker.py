"""The process that trains one run: `python -m backend.worker RUN_DIR`. Everything it says is in the folder.

`train_run` is also what train.py calls in the foreground. This is the outermost edge of a training: here, and
only here, any exception becomes an outcome.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import filelock
import torch

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
from backend.logs import configure_logging
from backend.overrides import read_run_config
from backend.resolve import choose_device
from backend.run.folder import RunFolder, open_run
from backend.run.state import is_live
from backend.run.supervisor import record_launch
from backend.signals import on_first_signal
from backend.torch_devices import describe_machine
from backend.training.data_workers import WorkerFailure, find_worker_failure
from backend.training.loop_state import Ending
from backend.training.memory_advice import advise
from backend.training.memory_cap import cap_memory
from backend.training.out_of_memory import MemoryShortageError, is_out_of_memory
from backend.training.phases import train_phases
from backend.training.run_data import load_run_data, report_once
from backend.training.stability import DivergedError

# The processes that prepare images for a killed worker may hold the lock for a few seconds, and a page that
# asks whether it is held for an instant.
LOCK_WAIT_S = 15.0
log = logging.getLogger(__name__)
DIVERGED_ADVICE = (
    "The last good weights are kept in last.pt. Resume goes on from there at a third of the learning rate; "
    "or start a new run with a lower one (1e-4), a longer warm-up, or without mixed precision; if it helps "
    "nothing, look for images with wrong landmarks"
)


def main(arguments: Sequence[str]) -> int:
    """Train the run in the given folder."""
    parser = OneLineParser(prog="python -m backend.worker", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder of a run, made by the dashboard or train.py")
    configure_logging(with_times=True)
    folder = open_run(parser.parse_args(arguments).run_dir)
    # the supervisor holds the lock until the launch, and what it changes, is recorded
    with folder.launch_lock().acquire(timeout=LOCK_WAIT_S):
        pass
    if not is_live(folder):  # started by hand: no launch is recorded
        record_launch(folder)
    return train_run(folder)


def train_run(folder: RunFolder) -> int:
    """Train or resume a run and write its outcome. Returns the exit code.

    Raises UserError if another process trains it.
    """
    try:
        held_lock = folder.lock().acquire(timeout=LOCK_WAIT_S)
    except filelock.Timeout:
        raise UserError("another process trains this run", field="run", cure="watch it on the page") from None
    with held_lock:
        state, reason, trace, code = _train_to_outcome(folder)
        folder.write_outcome(state, reason, trace)
        if code == EXIT_USER_ERROR:
            log.error("error: %s", reason)
        else:
            log.info("%s: %s", state, reason)
        return code


def _train_to_outcome(folder: RunFolder) -> tuple[str, str, str, int]:
    """Train, and return state, one-line reason, traceback and exit code, whatever happens."""
    try:
        ending, reason = _train(folder)
        state = Ending.FINISHED_EARLY if ending is Ending.EARLY_STOPPED else ending
        return state.value, reason, "", EXIT_INTERRUPTED if ending is Ending.STOPPED else EXIT_COMPLETED
    except UserError as error:
        return "failed", str(error), "", EXIT_USER_ERROR
    except DivergedError as error:
        return "diverged", f"training became unstable: {error}. {DIVERGED_ADVICE}", "", EXIT_DIVERGED
    except MemoryShortageError as error:
        log.error("%s", error.trace)
        reason = f"{error}. {_memory_advice(folder, error.num_images)}"
        return "out_of_memory", reason, error.trace, EXIT_OUT_OF_MEMORY
    except KeyboardInterrupt:
        reason = "left at once, without saving; resume goes on from the last checkpoint"
        return "stopped", reason, "", EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 (the worker's outermost edge)
        failure = find_worker_failure(error)
        if failure is not None:
            return _describe_worker_failure(folder, failure)
        trace = traceback.format_exc()
        log.error("%s", trace)
        if is_out_of_memory(error):
            return "out_of_memory", f"out of memory. {_memory_advice(folder)}", trace, EXIT_OUT_OF_MEMORY
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0], trace, EXIT_FAILED


def _describe_worker_failure(folder: RunFolder, failure: WorkerFailure) -> tuple[str, str, str, int]:
    """Return the outcome if processes that prepare images failed.

    It has no traceback, which would only show where their images were waited for.
    """
    num_workers = int(read_run_config(folder).value("num_workers"))
    cure = failure.cure(num_workers, is_resumable=folder.checkpoint_path("last").is_file())
    state, code = ("out_of_memory", EXIT_OUT_OF_MEMORY) if failure.is_memory else ("failed", EXIT_FAILED)
    return state, f"{failure.what}; {cure}", "", code


def _memory_advice(folder: RunFolder, num_images: int | None = None) -> str:
    phase = str((folder.read_status() or {}).get("phase"))
    is_resumable = folder.checkpoint_path("last").is_file()
    return advise(read_run_config(folder), phase, num_images, is_resumable=is_resumable)


def _train(folder: RunFolder) -> tuple[Ending, str]:
    stop = threading.Event()

    def stop_after_this_step() -> None:
        stop.set()
        log.warning("stopping after this step; once more leaves at once")

    restore_signals = on_first_signal(stop_after_this_step)
    try:
        folder.write_status({"phase": "preparing"})
        config, machine = read_run_config(folder), describe_machine()
        if machine.unusable:
            report_once(folder, "gpu_unusable", "; ".join(gpu.message for gpu in machine.unusable))
        # again here, because a GPU may be gone since the run was made
        choose_device(config.settings.model_copy(update={"device": config.value("device")}), machine)
        cap = cap_memory(torch.device(config.value("device")))
        if cap is not None:
            report_once(folder, "memory_cap", cap.message, asdict(cap))
        data = load_run_data(folder, config, stop)
        return train_phases(data)
    finally:
        restore_signals()


if __name__ == "__main__":
    sys.exit(run_command(main))
