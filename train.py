"""Train a landmark detector from the command line: `python train.py --help`.

Makes a run folder and trains it in this process; the dashboard sees the same run.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from backend.config import RunConfig, parse_settings
from backend.data.samples import SampleSplits, require_plausible
from backend.device.gpu import read_gpus
from backend.device.machine import Machine
from backend.errors import UserError
from backend.flags import OneLineParser, add_preset_flag, add_setting_flags, given_settings, run_command
from backend.geometry import adaptive_sigma, sigma_in_force
from backend.overrides import resolve_overrides
from backend.placement import busy_devices
from backend.presets import record_preset, with_preset
from backend.resolve import decide
from backend.run.folder import RunFolder, create_run, open_run
from backend.run.queue import queue_lock
from backend.run.supervisor import record_launch
from backend.torch_devices import describe_machine


def main(arguments: Sequence[str]) -> int:
    """Create or resume a run and train it. Returns the exit code."""
    options = _parser().parse_args(arguments)
    asked = given_settings(options)
    if options.resume:
        folder = _run_to_resume(options.resume)
        preset = {"preset": options.preset} if options.preset else {}
        busy = busy_devices(folder.path.parent)
        overrides = resolve_overrides(folder, {**preset, **asked}, describe_machine(), busy)
        first_lines = [f"resuming with the settings in {folder.config_path}", *_changes(overrides)]
        record_launch(folder, overrides=overrides)
    else:
        folder, first_lines = _begin(asked, options.preset, Path(options.runs_dir).absolute())
    with _copied_to(folder.log_path):
        print(f"run: {folder.path.absolute()}", *first_lines, sep="\n", flush=True)
        from backend.worker import train_run

        return train_run(folder)


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python train.py", description=__doc__)
    parser.add_argument(
        "--resume", metavar="RUN", help="folder of a run, or its last.pt: go on there with its settings"
    )
    parser.add_argument("--runs_dir", default="runs", help="folder in which runs are made (default: runs)")
    add_preset_flag(parser)
    add_setting_flags(parser)
    return parser


def _run_to_resume(path: str) -> RunFolder:
    folder = open_run(path)
    if not folder.checkpoint_path("last").is_file():
        raise UserError(
            f"{folder.path} has no checkpoints/last.pt to go on from",
            field="resume",
            cure="start a new run",
        )
    return folder


def _changes(overrides: dict[str, Any]) -> list[str]:
    return [f"{name}: {choice['value']} ({choice['reason']})" for name, choice in overrides.items()]


def _begin(asked: dict[str, object], preset: str | None, runs_dir: Path) -> tuple[RunFolder, list[str]]:
    """Make the run and record that it trains. Of several GPUs a run takes one that no other took while it was decided:
    two that are started at once never share a card while another is free."""
    machine, busy = describe_machine(), busy_devices(runs_dir)
    while True:
        config, first_lines = _configure(asked, preset, machine, busy)
        is_open = config.settings.device == "auto" and len(machine.gpus) > 1
        runs_dir.mkdir(parents=True, exist_ok=True)
        with queue_lock(runs_dir) if is_open else nullcontext():
            taken = busy_devices(runs_dir)
            if not is_open or config.value("device") not in taken - busy:
                folder = create_run(runs_dir, config.to_dict(), config.settings.model)
                record_launch(folder)
                return folder, first_lines
        busy = taken


def _configure(
    asked: dict[str, object], preset: str | None, machine: Machine, busy: Collection[str]
) -> tuple[RunConfig, list[str]]:
    """Settings checked and decided, and what to say of it; the data is read once, before anything is made."""
    from backend.memory.batch_size import recommend_for_settings
    from backend.training.build import build_splits
    from backend.training.start_checks import check_start

    settings = parse_settings(with_preset(preset, asked))
    config = decide(settings, machine, recommend_for_settings, busy, read_gpus())
    if preset:
        config = record_preset(config, preset)
    splits = build_splits(config)
    require_plausible(splits, accepted=settings.accept_implausible)
    check_start(config, splits.annotations.landmark_names)
    return config, [*_decisions(config), _data_line(splits), _sigma_line(config)]


def _decisions(config: RunConfig) -> list[str]:
    return [f"{name}: {choice.value} ({choice.reason})" for name, choice in config.chosen.items()]


def _data_line(splits: SampleSplits) -> str:
    problems = splits.annotations.problems
    return f"format: {splits.annotations.format}, {len(problems)} problems"


def _sigma_line(config: RunConfig) -> str:
    settings = config.settings
    stride = settings.stride_in_force
    sigma = sigma_in_force(settings.sigma, settings.image_size, stride)
    return (
        f"sigma: {sigma:g} px of the input, {sigma / stride:g} heatmap cells at output stride {stride} "
        f"(adaptive rule: {adaptive_sigma(*settings.image_size):g})"
    )


class _Tee(io.TextIOBase):
    """Text to the screen and to the log."""

    def __init__(self, screen: TextIO, log: TextIO) -> None:
        self._screen, self._log = screen, log

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        with suppress(OSError):  # a terminal that was closed, or a pipe that nobody reads: training goes on
            self._screen.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._screen.flush()

    def isatty(self) -> bool:
        return self._screen.isatty()

    def fileno(self) -> int:
        return self._screen.fileno()


@contextmanager
def _copied_to(log_path: Path) -> Iterator[None]:
    """Everything printed goes to the run's log as well."""
    with (
        log_path.open("a", encoding="utf-8", errors="backslashreplace") as log,
        redirect_stdout(_Tee(sys.stdout, log)),
        redirect_stderr(_Tee(sys.stderr, log)),
    ):
        yield


if __name__ == "__main__":
    sys.exit(run_command(main))
