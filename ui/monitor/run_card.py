"""The Monitor's card, events and log as HTML and text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from backend.run.folder import RunFolder
from backend.run.state import LIVE_STATES, RunState
from ui.figures.plots import REFINE, Row
from ui.run_rows import describe_state
from ui.text.say import in_distance, in_time_left, say, say_count

LOG_BYTES = 12_000


def run_card(
    state: RunState, status: Row, rows: Sequence[Row], outcome: Row | None, best: Row | None = None
) -> str:
    """Render the head of the tab: state, progress, time left, and the error of the weights in best.pt."""
    parts = [f'<span class="badge {state.value}">{escape(describe_state(state))}</span>']
    parts += [f"<span>{escape(text)}</span>" for text in _list_progress(state, status, rows)]
    if best is not None:
        value = in_distance(best["val/mre_px"], best.get("val/mre_mm"))
        phase = say(f"phase_{best.get('phase', 'train')}")
        epoch = best["epoch"]
        text = say("best", value=value, epoch=epoch, phase=phase) if epoch else say("best_first", value=value)
        parts.append(f"<strong>{escape(text)}</strong>")
        since = epochs_since_best(rows, best)
        if since:
            parts.append(f"<span>{escape(say('since_best', num=since))}</span>")
    share = _share_done(state, status)
    bar = f'<progress max="1" value="{share:.4f}" aria-label="{escape(say("progress"))}"></progress>'
    reason = f'<p dir="ltr">{escape(str(outcome.get("reason", "")))}</p>' if outcome else ""
    if state in (RunState.COMPLETED, RunState.FINISHED_EARLY):
        reason += f'<p class="note">{escape(say("next_steps"))}</p>'
    row = f'<div class="row">{"".join(parts)}</div>'
    return f'<div class="run-card" data-state="{state.value}">{row}{bar}{reason}</div>'


def epochs_since_best(rows: Sequence[Row], best: Row) -> int:
    """Count the epochs that were validated after the best one, over both phases."""

    def place(row: Row) -> tuple[bool, int]:
        return row.get("phase") == REFINE, row["epoch"] or 0

    return sum(row.get("val/mre_px") is not None and place(row) > place(best) for row in rows)


def event_list(events: Sequence[Row]) -> str:
    """Render the run's events, newest first."""
    if not events:
        return f'<p class="note">{escape(say("no_events"))}</p>'
    lines = [f"<li>{escape(str(event.get('message', event.get('kind', ''))))}</li>" for event in events[::-1]]
    label = escape(say("events"))
    return (
        f'<div class="event-list" tabindex="0" role="region" aria-label="{label}">'
        f'<ul dir="ltr">{"".join(lines)}</ul></div>'
    )


def log_text(folder: RunFolder) -> str:
    """Return the end of the log as a terminal shows it, where a progress bar overwrites itself."""
    lines = folder.read_log_tail(LOG_BYTES).split("\n")
    overwritten = [[part for part in line.split("\r") if part.strip()] for line in lines]
    return "\n".join(parts[-1].rstrip() if parts else "" for parts in overwritten).strip("\n")


def _list_progress(state: RunState, status: Row, rows: Sequence[Row]) -> list[str]:
    """List the progress of a run: its epoch, and while it lives also step, speed and time left."""
    if state in LIVE_STATES and status.get("phase") == "preparing":
        return [say("preparing")]
    if not status.get("num_epochs"):
        return []
    epoch = status["epoch"] if state in LIVE_STATES else rows[-1]["epoch"] if rows else 0
    phase = say(f"phase_{status['phase']}")
    parts = [say("epoch_of", phase=phase, epoch=epoch, num_epochs=status["num_epochs"])]
    if state in LIVE_STATES:
        parts.append(say("step_of", step=status["step"], steps=status["steps_per_epoch"]))
        parts.append(say("speed", speed=status["images_per_s"] or 0))
        if status.get("micro_batch"):
            parts.append(say("in_parts", images=say_count("num_images", status["micro_batch"])))
        if status.get("seconds_left") is not None:
            then = say("then_refinement") if status.get("refinement_follows") else ""
            parts.append(in_time_left(status["seconds_left"]) + then)
    return parts


def _share_done(state: RunState, status: Row) -> float:
    if state in (RunState.COMPLETED, RunState.FINISHED_EARLY):
        return 1.0
    return float(status.get("share_done") or 0.0)
