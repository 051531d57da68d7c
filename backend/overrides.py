"""The settings of a run that were changed at a resume: in `launched.json`, as `config.json` never changes.

Only this module reads the settings in effect.
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
    """Read the settings in effect: the run's own with the changes of its resumes. Raises UserError."""
    config = RunConfig.from_dict(folder.read_config())
    overrides = (folder.read_launched() or {}).get("overrides") or {}
    try:
        return _with(config, {name: Choice(**choice) for name, choice in overrides.items()})
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"launched.json is damaged ({error!r:.80})", field="run", cure="start a new run"
        ) from error


def resolve_overrides(
    folder: RunFolder,
    given: Mapping[str, Any],
    machine: Machine,
    busy: Collection[str | None] = (),
    readings: Sequence[GpuReading] = (),
) -> dict[str, Any]:
    """Return what a resume with the given settings (of CHANGEABLE) changes, in the form of `launched.json`.

    For another device, what depends on it is chosen again; "auto" is resolved with `busy` and `readings` as
    in `choose_device`. Raises UserError, by field, for a setting that cannot change, a folder that does not
    hold the run's data, a device that cannot be used, and a run that would end at once.
    """
    unchangeable = [name for name in given if name not in CHANGEABLE]
    if unchangeable:
        raise UserError(
            f"a run is resumed with its own settings, not with --{' --'.join(unchangeable)}",
            field="resume",
            cure=f"leave these out (--{', --'.join(CHANGEABLE)} may change), or start a new run",
        )
    config = read_run_config(folder)
    settings = parse_settings({**config.settings.model_dump(), **_changeable_values(config), **given})
    changes = _change_device(config, settings, machine, busy, readings)
    if "num_workers" in given:
        device = changes["device"].value if "device" in changes else config.value("device")
        changes["num_workers"] = replace(choose_workers(settings, device, machine), reason=AT_A_RESUME)
    if "patience" in given:
        changes["patience"] = Choice(settings.patience, AT_A_RESUME)
    _require_epochs_left(folder, config, _with(config, changes))
    if "dataset_path" in given:
        changes["dataset_path"] = _change_dataset(folder, config, settings)
    require_data(_with(config, changes))
    return {name: asdict(choice) for name, choice in changes.items()}


def ended_by_patience(folder: RunFolder) -> bool:
    """Whether the run ended because of its patience, so that a mere resume would end it again at once."""
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


def _changeable_values(config: RunConfig) -> dict[str, Any]:
    """Return the values in effect, but a number of workers only if a resume has set it.

    Any other number depends on the device.
    """
    values = {name: config.value(name) for name in CHANGEABLE}
    workers = config.chosen.get("num_workers")
    if workers is None or workers.reason != AT_A_RESUME:
        del values["num_workers"]
    return values


def _change_device(
    config: RunConfig,
    settings: Settings,
    machine: Machine,
    busy: Collection[str | None],
    readings: Sequence[GpuReading],
) -> dict[str, Choice]:
    """Return the changes that another device brings; none for the same one.

    Raises UserError if the device, given or the run's own, is not on this machine.
    """
    device = choose_device(settings, machine, busy, readings).value
    if device == config.value("device"):
        return {}
    changes = {
        "device": Choice(device, AT_A_RESUME),
        "num_workers": choose_workers(settings, device, machine),
    }
    if settings.mixed_precision:
        changes["mixed_precision"] = choose_precision(device, machine.cpu_bfloat16)
    return changes


def _require_epochs_left(folder: RunFolder, before: RunConfig, after: RunConfig) -> None:
    """Raise UserError if the run has ended because of its patience, and would end again at once."""
    patience = before.value("patience")
    if ended_by_patience(folder) and 0 < after.value("patience") <= patience:
        raise UserError(
            f"this run has ended because it got no better for {patience} epochs, and would end again at once",
            field="patience",
            cure=f"give a patience above {patience}, or 0 to train to the last epoch",
        )


def _change_dataset(folder: RunFolder, config: RunConfig, settings: Settings) -> Choice:
    """Choose the folder that the data was moved to. Raises UserError if it does not hold the run's data."""
    choice = replace(choose_dataset(settings), reason=AT_A_RESUME)
    today = read_whole_data(_with(config, {"dataset_path": choice}))
    record = read_record(folder)
    if record is not None:
        restore_splits(record, today)
    return choice
