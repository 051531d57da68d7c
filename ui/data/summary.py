"""A data set as the Data tab shows it: one row per image, tables and text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from backend.config import Settings, settings_affecting
from backend.data.annotation_outliers import AnnotationOutlier, AnnotationOutliers, find_outliers
from backend.data.annotations import Problem
from backend.data.leaks import Leak, across_splits, ids_to_exclude
from backend.data.samples import Samples, SampleSplits, points_of_readers, read_splits
from backend.evaluation.statistics import group_columns
from backend.geometry import FloatArray
from ui.figures.table import BY_TEXT, SortKey, cell_html, opening_line, table_html
from ui.text.say import quote, say, say_count, say_label

ALL_SPLITS = "all"
MAX_SUSPECTS = 100
Key = tuple[object, ...]
Cell = tuple[str, SortKey]  # text and sort key


@dataclass(frozen=True)
class DataView:
    """A data set as the tab shows it: N images of all splits, R readers, K landmarks."""

    key: Key  # of the settings that it was read with
    splits: SampleSplits
    samples: Samples  # of all splits, in order
    readers_xy_image: FloatArray  # (N, R, K, 2)
    suspects: AnnotationOutliers

    @property
    def names(self) -> tuple[str, ...]:
        return self.splits.annotations.landmark_names

    @property
    def readers(self) -> tuple[str, ...]:
        return self.splits.annotations.reader_names

    def image_id(self, row: int) -> str:
        return str(self.samples.images["image_id"].iloc[row])

    @property
    def split_names(self) -> list[str]:
        return list(self.splits.by_split)

    def rows_in_split(self, split: str) -> list[int]:
        """Return the positions of a split's images, or of all."""
        if split == ALL_SPLITS:
            return list(range(len(self.samples)))
        return np.flatnonzero((self.samples.images["split"] == split).to_numpy()).tolist()

    def row_of_path(self, path: Path) -> int | None:
        """Return the position of the image in this file; None if it is not used."""
        rows = np.flatnonzero((self.samples.images["path"] == str(path)).to_numpy())
        return int(rows[0]) if rows.size else None

    def row_of_id(self, image_id: str) -> int | None:
        rows = np.flatnonzero((self.samples.images["image_id"] == image_id).to_numpy())
        return int(rows[0]) if rows.size else None


def view_key(settings: Settings) -> Key:
    """Return the settings that decide which data is shown."""
    return tuple(getattr(settings, name) for name in settings_affecting("data"))


def read_view(settings: Settings) -> DataView:
    """Read a data set and look for suspect landmarks. Raises UserError."""
    splits = read_splits(settings)
    # the split that an image is used in; its annotations may name another
    images = pd.concat(
        [part.images.assign(split=name) for name, part in splits.by_split.items()], ignore_index=True
    )
    truth = np.concatenate([part.points_xy_image for part in splits.by_split.values()])
    samples = Samples(images, truth)
    readers = points_of_readers(splits.annotations, samples, splits.annotations.landmark_names)
    suspects = find_outliers(readers, samples.mm_per_px_xy)
    return DataView(view_key(settings), splits, samples, readers, suspects)


def splits_table(view: DataView) -> str:
    """Render one line per split: images, annotations, sizes, pixel sizes."""
    heads = [say(f"data_column_{name}") for name in ("split", "images", "marks", "sizes", "spacings")]
    lines = []
    for name in view.split_names:
        part = view.splits.by_split[name]
        is_annotated = np.isfinite(part.points_xy_image).all(-1)
        sizes = Counter(f"{width}\u00a0x\u00a0{height}" for height, width in part.sizes_hw)
        spacings = part.mm_per_px_xy[:, 0]
        share, spacing = float(is_annotated.mean()), _smallest(spacings)
        cells: list[Cell] = [
            (name, BY_TEXT),
            (str(len(part)), len(part)),
            (f"{100 * share:.1f} %", share),
            (_list_few(sizes), BY_TEXT),
            (_spacings(spacings), spacing),
        ]
        lines.append(cells)
    return _table(say("data_counts"), heads, lines)


def groups_table(view: DataView) -> str:
    """Render how many images each group has in each split.

    One table for each column that groups the images, such as the machine or the pixel size.
    """
    splits = view.split_names
    tables = []
    images = view.samples.images
    for column, values in group_columns(images.drop(columns=["split", "height", "width"])).items():
        counts = pd.crosstab(pd.Series(values), images["split"])
        lines: list[list[Cell]] = []
        for value in counts.index:
            nums = [int(counts[split].get(value, 0)) for split in splits]
            lines.append([_group_cell(value), *((str(num), num) for num in nums)])
        label = say_label(column, "data_column_")
        tables.append(_table(label, [label, *splits], lines))
    return "".join(tables)


def problem_rows(problems: Sequence[Problem], leaks: Sequence[Leak]) -> list[tuple[str, str, str]]:
    """Return where, what and what to do for each problem; identical images come last."""
    rows = [(problem.where, problem.what, problem.cure) for problem in problems]
    for leak in in_listed_order(leaks):
        rows.append((leak.image_ids[0], leak_text(leak), _leak_cure(leak)))
    return rows


def in_listed_order(leaks: Sequence[Leak]) -> list[Leak]:
    """Return pairs in two splits first, then those within one."""
    across = set(across_splits(leaks))
    return sorted(leaks, key=lambda leak: leak not in across)


def problems_table(problems: Sequence[Problem], leaks: Sequence[Leak]) -> str:
    """Render `problem_rows` as a table whose rows open their image; the key of a row is its position."""
    rows = problem_rows(problems, leaks)
    lines = [opening_line(str(place), [(text, BY_TEXT) for text in row]) for place, row in enumerate(rows)]
    return table_html(say("problems_title"), say("data_problem_columns").split(","), lines, classes="opens")


def leak_text(leak: Leak) -> str:
    """Say how the first image of a pair is related to the other one."""
    split, other_split = leak.splits
    return say(
        "data_leak", kind=_leak_kind(leak), split=split, other=leak.image_ids[1], other_split=other_split
    )


def leak_caption(leak: Leak) -> str:
    """Name the other image of a pair, for the caption of the first."""
    return say("data_leak_shown", kind=_leak_kind(leak), other=leak.image_ids[1], other_split=leak.splits[1])


def _leak_kind(leak: Leak) -> str:
    return say("data_leak_bytes" if leak.kind == "same bytes" else "data_leak_picture")


def _leak_cure(leak: Leak) -> str:
    left_out = ids_to_exclude([leak])
    return say("data_leak_exclude", image=left_out[0]) if left_out else say("data_leak_remove")


def suspects_table(view: DataView) -> str:
    """Render one line per suspect, the worst first: image, landmark, reason, score.

    The key of a row is its position.
    """
    lines = []
    for place, suspect in enumerate(view.suspects.outliers[:MAX_SUSPECTS]):
        cells: list[Cell] = [
            (view.image_id(suspect.row), BY_TEXT),
            (view.names[suspect.landmark], BY_TEXT),
            (suspect_text(view, suspect), BY_TEXT),
            (f"{suspect.score:.1f} x", suspect.score),
        ]
        lines.append(opening_line(str(place), cells))
    return table_html(say("data_suspects"), say("data_suspect_columns").split(","), lines, classes="opens")


def suspects_note(view: DataView) -> str:
    """Say what the list shows, or why it is empty."""
    num = len(view.suspects.outliers)
    note = say_count("data_suspects_some", num) if num else say("data_suspects_none")
    if num:
        note += " " + say("data_suspects_usual")
    if num > MAX_SUSPECTS:
        note += " " + say("data_suspects_cut", num=MAX_SUSPECTS)
    return note if view.suspects.knows_shapes else f"{note} {say('data_no_shapes')}"


def suspect_text(view: DataView, suspect: AnnotationOutlier) -> str:
    """Say why a landmark is suspect."""
    distance = _distance(suspect.distance_px, suspect.distance_mm)
    if suspect.swapped_with is not None:
        return say("data_suspect_swapped", name=view.names[suspect.swapped_with])
    if suspect.reason == "shape":
        return say("data_suspect_shape", distance=distance)
    text = say("data_suspect_readers", distance=distance)
    if suspect.reader is not None:
        text += say("data_suspect_whose", reader=view.readers[suspect.reader])
    return text


def image_caption(view: DataView, row: int) -> str:
    """Describe the shown image in one line."""
    image = view.samples.images.iloc[row]
    height, width = view.samples.sizes_hw[row]
    spacing = view.samples.mm_per_px_xy[row]
    pixel_size = _spacings(spacing[:1]) if np.isfinite(spacing[0]) else say("spacing_none")
    facts = [str(image["split"]), f"{width} x {height} px", pixel_size, str(image["group"] or "")]
    return " · ".join([f"**{quote(image['image_id'])}**", *(quote(fact) for fact in facts if fact)])


def landmarks_table(view: DataView, row: int, highlighted: int | None) -> str:
    """Render the shown image's landmarks: position, inter-reader distance, distance from the expected one."""
    heads = [
        say("landmark"),
        say("data_column_place"),
        say("data_column_readers"),
        say("data_column_expected"),
    ]
    readers, truth = view.readers_xy_image[row], view.samples.points_xy_image[row]
    spacing = view.samples.mm_per_px_xy[row]
    lines = []
    for k, name in enumerate(view.names):
        between_readers = _span(readers[:, k], spacing)
        from_expected = _span(np.stack([truth[k], view.suspects.expected_xy_image[row, k]]), spacing)
        place = say("data_unmarked") if np.isnan(truth[k]).any() else "{:.1f}, {:.1f}".format(*truth[k])
        title = f"➤ {name}" if k == highlighted else name
        lines.append([(title, BY_TEXT), (place, BY_TEXT), between_readers, from_expected])
    return _table(say("data_marks"), heads, lines)


def _span(points_xy: FloatArray, mm_per_px_xy: FloatArray) -> Cell:
    """Return the largest distance between any two of the known points, as text and as a number."""
    points = points_xy[np.isfinite(points_xy).all(-1)].astype(np.float64)
    if len(points) < 2:
        return "-", None
    gaps = points[:, None] - points[None]
    px, mm = (float(np.linalg.norm(gap, axis=-1).max()) for gap in (gaps, gaps * mm_per_px_xy))
    return _distance(px, mm), mm if np.isfinite(mm) else px


def _distance(px: float, mm: float) -> str:
    return f"{mm:.1f} mm" if np.isfinite(mm) else f"{px:.0f} px"


def _spacings(values: FloatArray) -> str:
    sizes = np.unique(np.round(values[np.isfinite(values)], 4))
    if not sizes.size:
        return say("data_unknown")
    text = f"{sizes[0]:g} mm" if sizes.size == 1 else f"{sizes[0]:g} – {sizes[-1]:g} mm"
    return text if np.isfinite(values).all() else f"{text}, {say('data_partly')}"


def _list_few(counts: Counter[str], most: int = 3) -> str:
    """List the most common values, and how many others there are."""
    text = ", ".join(value for value, _ in counts.most_common(most))
    return text if len(counts) <= most else f"{text} {say_count('data_others', len(counts) - most)}"


def _smallest(spacings: FloatArray) -> float | None:
    sizes = spacings[np.isfinite(spacings)]
    return float(sizes.min()) if sizes.size else None


def _group_cell(value: object) -> Cell:
    """Return the cell of a group's name, which may be a number, such as a pixel size."""
    text = str(value)
    try:
        return text, float(text)
    except ValueError:
        return (text, BY_TEXT) if text else (say("data_unknown"), None)


def _table(label: str, heads: Sequence[str], lines: Sequence[Sequence[Cell]]) -> str:
    rows = [f"<tr>{''.join(cell_html(*cell) for cell in line)}</tr>" for line in lines]
    return table_html(label, heads, rows)
