"""The errors of each landmark on the validation images, their trend, and the inter-reader distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ui.figures.plots import Row, error_unit
from ui.figures.table import cell_html, table_html
from ui.monitor.curves import ReaderDistance
from ui.run_rows import has_validated
from ui.text.say import say

TREND_EPOCHS = 10  # how many validations back the last one is compared with
SPARK_POINTS = 40  # newest validations
SPARK_HW = (20, 84)  # px


def landmark_table(rows: Sequence[Row], readers: Mapping[str, Any] | None = None) -> str:
    """Render the mean error of each landmark at the last validation, worst first, with its change and trend.

    `readers` (as stored in the run folder) adds the inter-reader distance.
    """
    validated = [row for row in rows if row.get("val/mre_px") is not None]
    if not validated:
        is_measured = not rows or has_validated(rows)
        note = say("landmarks_none" if is_measured else "landmarks_not_validated")
        return f'<p class="note">{escape(note)}</p>'
    unit, last = error_unit(rows), validated[-1]
    before = validated[-1 - TREND_EPOCHS] if len(validated) > TREND_EPOCHS else validated[0]
    prefix = f"val/mre_{unit}/"
    names = [key.removeprefix(prefix) for key in last if key.startswith(prefix) and last[key] is not None]
    heads = [say("landmark"), say("error_at", **_when(last))]
    if before is not last:
        heads += [say("change_since", **_when(before)), say("trend")]
    if readers is not None:
        heads.append(say("reader_distance"))
    lines = []
    for name in sorted(names, key=lambda name: -float(last[prefix + name])):
        course = [float(row[prefix + name]) for row in validated if row.get(prefix + name) is not None]
        cells = [cell_html(name), cell_html(f"{course[-1]:.2f} {unit}", course[-1])]
        if before is not last:
            earlier = before.get(prefix + name)
            change = None if earlier is None else course[-1] - float(earlier)
            cells.append(cell_html("", change, html=_change(change, unit)))
            cells.append(cell_html("", change, html=_sparkline(course)))
        if readers is not None:
            distance = _reader_distance(readers, name, unit)
            cells.append(cell_html("-" if distance is None else f"{distance:.2f} {unit}", distance))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{escape(say("readers_note"))}</p>' if readers is not None else ""
    return table_html(say("landmark_table"), heads, lines) + note


def overall_readers(unit: str, readers: Mapping[str, Any] | None) -> ReaderDistance | None:
    """Return the inter-reader distance over all landmarks, if it is known in this unit."""
    distance = (readers or {}).get(f"mre_{unit}")
    return None if distance is None else ReaderDistance(float(distance), unit)


def _when(row: Row) -> dict[str, Any]:
    return {"epoch": row["epoch"], "phase": say(f"phase_{row.get('phase', 'train')}")}


def _change(change: float | None, unit: str) -> str:
    """Render a change as text with a sign, so that nobody needs to see a color or a curve."""
    if change is None:
        return "-"
    if abs(change) < 0.005:
        return escape(say("change_none"))
    kind, arrow = ("better", "↓") if change < 0 else ("worse", "↑")
    return f'<span class="verdict {kind}">{arrow} {abs(change):.2f} {unit}</span>'


def _sparkline(course: Sequence[float]) -> str:
    """Draw the newest errors as a small curve from 0 up; the change beside it says the same in text."""
    values = course[-SPARK_POINTS:]
    height, width = SPARK_HW
    top = max(*values, 1e-9) if len(values) > 1 else 1.0
    step = (width - 2) / max(1, len(values) - 1)
    points = " ".join(
        f"{1 + number * step:.1f},{height - 1 - (height - 2) * value / top:.1f}"
        for number, value in enumerate(values)
    )
    return (
        f'<svg class="sparkline" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<polyline points="{points}"/></svg>'
    )


def _reader_distance(readers: Mapping[str, Any], name: str, unit: str) -> float | None:
    value = readers.get("per_landmark", {}).get(name, {}).get(f"mre_{unit}")
    return None if value is None else float(value)
