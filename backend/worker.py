"""The process that trains one run: `python -m backend.worker RUN_DIR`. Everything it says is in the folder.

`train_run` is also what train.py calls in the foreground. This is the outermost edge of a training: here, and
only here, any exception becomes an outcome.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

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
from backend.torch_devices import describe_machine
from backend.training.data_workers import WorkerFailure, find_worker_failure
from backend.training.loop_state import Ending
from backend.training.memory_advice import advise
from backend.training.memory_cap import cap_memory
from backend.training.out_of_memory import MemoryShortageError, is_out_of_memory
from backend.training.phases import train_phases
from backend.training.run_data import load_run_data, report_once
from backend.training.stability import DivergedError

# Data workers of a killed predecessor may hold the lock for a few seconds, and who asks for it for an instant.
LOCK_WAIT_S = 15.0
log = logging.getLogger(__name__)
DIVERGED_ADVICE = (
    "The last good weights are kept in last.pt. Resume goes on from there at a third of the learning rate; or start a "
    "new run with a lower one (1e-4), a longer warm-up, or without mixed precision; if it helps nothing, look for "
    "images with wrong landmarks"
)


def main(arguments: Sequence[str]) -> int:
    """Train the run in the given folder."""
    parser = OneLineParser(prog="python -m backend.worker", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder of a run, made by the dashboard or train.py")
    configure_logging(with_times=True)
    folder = open_run(parser.parse_args(arguments).run_dir)
    with folder.launch_lock().acquire(
        timeout=LOCK_WAIT_S
    ):  # held until the launch, and what it changes, is recorded
        pass
    if not is_live(folder):  # started by hand: what the supervisor starts is recorded, and lives
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
            log.error("error: %s", reason)
        else:
            log.info("%s: %s", state, reason)
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
    except MemoryShortageError as error:
        log.error("%s", error.shortage.trace)
        reason = f"{error}. {_memory_advice(folder, error.num_images)}"
        return "out_of_memory", reason, error.shortage.trace, EXIT_OUT_OF_MEMORY
    except KeyboardInterrupt:
        return (
            "stopped",
            "left at once, without saving; resume goes on from the last checkpoint",
            "",
            EXIT_INTERRUPTED,
        )
    except Exception as error:  # noqa: BLE001 (the worker's outermost edge)
        failure = find_worker_failure(error)
        if failure is not None:
            return _outcome_of_data_workers(folder, failure)
        trace = traceback.format_exc()
        log.error("%s", trace)
        if is_out_of_memory(error):
            return "out_of_memory", f"out of memory. {_memory_advice(folder)}", trace, EXIT_OUT_OF_MEMORY
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0], trace, EXIT_FAILED


def _outcome_of_data_workers(folder: RunFolder, failure: WorkerFailure) -> tuple[str, str, str, int]:
    """What befell the processes that prepare images; a traceback, which shows where they were waited for, tells
    nothing of it."""
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
    restore_signals = _handle_signals(stop)
    try:
        folder.write_status({"phase": "preparing"})
        config, machine = read_run_config(folder), describe_machine()
        if machine.unusable:
            report_once(folder, "gpu_unusable", "; ".join(gpu.message for gpu in machine.unusable))
        # here, because a GPU may be gone since the run was made or waited
        choose_device(config.settings.model_copy(update={"device": config.value("device")}), machine)
        cap = cap_memory(torch.device(config.value("device")))
        if cap is not None:
            report_once(folder, "memory_cap", cap.words, asdict(cap))
        data = load_run_data(folder, config, stop)
        return train_phases(data)
    finally:
        restore_signals()


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
        log.warning("stopping after this step; once more leaves at once")

    for name in names:
        signal.signal(getattr(signal, name), on_signal)
    return restore


if __name__ == "__main__":
    sys.exit(run_command(main))
