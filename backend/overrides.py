"""Settings of a run that are changed when it is resumed: `launched.json` keeps them, `config.json` stays as made.

The one place that reads the settings in force. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from backend.config import Choice, RunConfig, Settings, parse_settings
from backend.data.provenance import read_record
from backend.data.restored_splits import read_whole_data, require_data, restore_splits
from backend.device.gpu import GpuReading
from backend.device.machine import Machine
from backend.errors import UserError
from backend.resolve import choose_dataset, choose_device, choose_precision, choose_workers
from backend.run.folder import RunFolder
from backend.run.state import RunState, derive_state

CHANGEABLE = ("dataset_path", "device", "patience", "num_workers")
AT_A_RESUME = "as asked at a resume"


def read_run_config(folder: RunFolder) -> RunConfig:
    """The settings in force: what the run was made with, and what was changed at its resumes. Raises UserError."""
    config = RunConfig.from_dict(folder.read_config())
    kept = (folder.read_launched() or {}).get("overrides") or {}
    try:
        return _with(config, {name: Choice(**choice) for name, choice in kept.items()})
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"launched.json is damaged ({error!r:.80})", field="run", cure="start a new run"
        ) from error


def resolve_overrides(
    folder: RunFolder,
    asked: Mapping[str, Any],
    machine: Machine,
    busy: Collection[str | None] = (),
    readings: Sequence[GpuReading] = (),
) -> dict[str, Any]:
    """What a resume with the asked settings (of CHANGEABLE) changes, as `launched.json` holds it.

    What depends on the device is resolved anew for another one; "auto" is resolved with `busy` and `readings` as in
    `choose_device`. Raises UserError, by field, for a setting that cannot change, a folder that does not hold the run's
    data, a device that is not there, and a run that would end at once.
    """
    others = [name for name in asked if name not in CHANGEABLE]
    if others:
        raise UserError(
            f"a run is resumed with its own settings, not with --{' --'.join(others)}",
            field="resume",
            cure=f"leave these out (--{', --'.join(CHANGEABLE)} may change), or start a new run",
        )
    config = read_run_config(folder)
    wanted = parse_settings({**config.settings.model_dump(), **_in_force(config), **asked})
    changes = _changes_of_device(config, wanted, machine, busy, readings)
    if "num_workers" in asked:
        device = changes["device"].value if "device" in changes else config.value("device")
        changes["num_workers"] = replace(choose_workers(wanted, device, machine), reason=AT_A_RESUME)
    if "patience" in asked:
        changes["patience"] = Choice(wanted.patience, AT_A_RESUME)
    _require_end_in_sight(folder, config, _with(config, changes))
    if "dataset_path" in asked:
        changes["dataset_path"] = _moved(folder, config, wanted)
    require_data(_with(config, changes))
    return {name: asdict(choice) for name, choice in changes.items()}


def ended_by_patience(folder: RunFolder) -> bool:
    """Whether the run ended early because it got no better, so that a resume alone would end it again at once."""
    if derive_state(folder) is not RunState.FINISHED_EARLY:
        return False
    events = [event for event in folder.read_events()[0] if event.get("kind") in ("early_stop", "resumed")]
    rows = folder.read_metrics()[0]
    if not events or not rows or events[-1]["kind"] != "early_stop":
        return False
    ended, last = events[-1], rows[-1]
    return (ended.get("phase"), ended.get("epoch")) == (last.get("phase"), last.get("epoch"))


def _with(config: RunConfig, changes: Mapping[str, Choice]) -> RunConfig:
    return replace(config, chosen={**config.chosen, **changes})


def _in_force(config: RunConfig) -> dict[str, Any]:
    """What holds now; the number of workers only where a resume has set it, for else it follows the device."""
    values = {name: config.value(name) for name in CHANGEABLE}
    workers = config.chosen.get("num_workers")
    if workers is None or workers.reason != AT_A_RESUME:
        del values["num_workers"]
    return values


def _changes_of_device(
    config: RunConfig,
    wanted: Settings,
    machine: Machine,
    busy: Collection[str | None],
    readings: Sequence[GpuReading],
) -> dict[str, Choice]:
    """Raises UserError where the device, the asked one or the run's own, is not on this machine."""
    device = choose_device(wanted, machine, busy, readings).value
    if device == config.value("device"):
        return {}
    changes = {"device": Choice(device, AT_A_RESUME), "num_workers": choose_workers(wanted, device, machine)}
    if wanted.mixed_precision:
        changes["mixed_precision"] = choose_precision(device, machine.cpu_bfloat16)
    return changes


def _require_end_in_sight(folder: RunFolder, before: RunConfig, after: RunConfig) -> None:
    patience = before.value("patience")
    if ended_by_patience(folder) and 0 < after.value("patience") <= patience:
        raise UserError(
            f"this run has ended because it got no better for {patience} epochs, and would end again at once",
            field="patience",
            cure=f"give a patience above {patience}, or 0 to train to the last epoch",
        )


def _moved(folder: RunFolder, config: RunConfig, wanted: Settings) -> Choice:
    """The folder that the data was moved to. Raises UserError where it is not the run's data."""
    choice = replace(choose_dataset(wanted), reason=AT_A_RESUME)
    today = read_whole_data(_with(config, {"dataset_path": choice}))
    record = read_record(folder)
    if record is not None:
        restore_splits(record, today)
    return choice
