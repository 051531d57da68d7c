"""The errors of each landmark on the validation images, their trend, and the inter-reader distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ui.figures.plots import Row, error_unit
from ui.figures.table import cell_html, table_html
from ui.monitor.curves import Readers
from ui.run_rows import has_validated
from ui.text.say import say

TREND_EPOCHS = 10  # how many validations back the last one is compared with
SPARK_POINTS = 40  # newest validations
SPARK_HW = (20, 84)  # px


def landmark_table(rows: Sequence[Row], readers: Mapping[str, Any] | None = None) -> str:
    """Mean error of each landmark at the last validation, worst first, with its change and trend, and the
    inter-reader distance where `readers` (as stored in the run folder) has it."""
    validated = [row for row in rows if row.get("val/mre_px") is not None]
    if not validated:
        is_measured = not rows or has_validated(rows)
        words = say("landmarks_none" if is_measured else "landmarks_not_validated")
        return f'<p class="note">{escape(words)}</p>'
    unit, last = error_unit(rows), validated[-1]
    before = validated[-1 - TREND_EPOCHS] if len(validated) > TREND_EPOCHS else validated[0]
    prefix = f"val/mre_{unit}/"
    names = [key.removeprefix(prefix) for key in last if key.startswith(prefix) and last[key] is not None]
    heads = [say("landmark"), say("within", **_when(last))]
    if before is not last:
        heads += [say("change_since", **_when(before)), say("course")]
    if readers is not None:
        heads.append(say("readers_apart"))
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
            apart = _apart(readers, name, unit)
            cells.append(cell_html("-" if apart is None else f"{apart:.2f} {unit}", apart))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{escape(say("readers_note"))}</p>' if readers is not None else ""
    return table_html(say("landmark_table"), heads, lines) + note


def readers_in(unit: str, readers: Mapping[str, Any] | None) -> Readers | None:
    """The inter-reader distance over all landmarks, where it is known in this unit."""
    apart = (readers or {}).get(f"mre_{unit}")
    return None if apart is None else Readers(float(apart), unit)


def _when(row: Row) -> dict[str, Any]:
    return {"epoch": row["epoch"], "phase": say(f"phase_{row.get('phase', 'train')}")}


def _change(change: float | None, unit: str) -> str:
    """In words and with a sign, so that nobody needs to see a color or a curve."""
    if change is None:
        return "-"
    if abs(change) < 0.005:
        return escape(say("change_none"))
    kind, arrow = ("better", "↓") if change < 0 else ("worse", "↑")
    return f'<span class="verdict {kind}">{arrow} {abs(change):.2f} {unit}</span>'


def _sparkline(course: Sequence[float]) -> str:
    """The newest errors as a small curve from 0 up; the change beside it says the same in words."""
    shown = course[-SPARK_POINTS:]
    height, width = SPARK_HW
    top = max(*shown, 1e-9) if len(shown) > 1 else 1.0
    step = (width - 2) / max(1, len(shown) - 1)
    points = " ".join(
        f"{1 + number * step:.1f},{height - 1 - (height - 2) * value / top:.1f}"
        for number, value in enumerate(shown)
    )
    return (
        f'<svg class="sparkline" width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<polyline points="{points}"/></svg>'
    )


def _apart(readers: Mapping[str, Any], name: str, unit: str) -> float | None:
    value = readers.get("per_landmark", {}).get(name, {}).get(f"mre_{unit}")
    return None if value is None else float(value)
