"""The Data tab: is the data sound? Counts, problems, suspect landmarks, every image, and what a training makes of it.

The data set and the settings are those of the Train form, so that the two tabs never speak of different things.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from backend.data.importing import import_zip
from backend.data.leaks import Leak
from backend.data.suspects import Suspect
from backend.errors import UserError
from ui.data_training import TrainingPanel, create_training_panel, draw_sigma, on_floor
from ui.data_view import (
    ALL_SPLITS,
    DataView,
    caption,
    groups_table,
    landmarks_table,
    problem_rows,
    read_view,
    splits_table,
    suspect_rows,
    suspects_note,
    view_key,
)
from ui.datasets import list_datasets, read_full, read_leaks, shrink, summarise
from ui.pictures import Highlight, plot_marks, plot_plain, zoom_in
from ui.tab_train import TrainTab, settings_for_data
from ui.text import say

LEAST_WINDOW_SHARE = 0.2  # of an image's longer side, when a landmark is looked at closely
TO_PICTURE = (
    "() => document.getElementById('data-picture').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
)
Updates = dict[Any, Any]


@dataclass(frozen=True)
class Shown:
    """The image in the picture: one of the view's rows, or a file that is not among them; and the suspect, if any."""

    row: int | None = None
    path: Path | None = None
    suspect: Suspect | None = None


@dataclass(frozen=True)
class DataTab:
    """The components of the tab; `train` holds the form whose data set and settings are shown."""

    data_root: Path
    train: TrainTab
    view: gr.State  # DataView, None where no data set could be read
    shown: gr.State  # Shown
    leaks: gr.State  # the pairs that are listed among the problems
    dataset: gr.Dropdown
    upload: gr.UploadButton
    reload: gr.Button
    summary: gr.Markdown
    body: gr.Column
    counts: gr.HTML
    split: gr.Radio
    number: gr.Slider
    previous: gr.Button
    next: gr.Button
    whole: gr.Button
    caption: gr.Markdown
    picture: gr.Plot
    marks: gr.HTML
    suspects_note: gr.Markdown
    suspects: gr.Dataframe
    problems_note: gr.Markdown
    problems: gr.Dataframe
    training: TrainingPanel

    @property
    def browser(self) -> list[Any]:
        """What showing another image changes."""
        return [self.shown, self.split, self.number, self.whole, self.caption, self.picture, self.marks]

    @property
    def everything(self) -> list[Any]:
        """What showing another data set changes."""
        return [
            self.view, self.leaks, self.dataset, self.summary, self.body, self.counts, self.suspects_note,
            self.suspects, self.problems_note, self.problems, *self.browser, *self.training.parts,
        ]  # fmt: skip


def create_data_tab() -> dict[str, Any]:
    """Lay out the tab; `bind_data_tab` makes it work, once the Train form is there."""
    return {**_place_choice(), **_place_body()}


def bind_data_tab(parts: dict[str, Any], own: gr.Tab, train: TrainTab, data_root: Path) -> DataTab:
    """Bind the handlers. The tab reads when it is looked at, so that opening the page costs nothing."""
    states: dict[str, Any] = {"view": gr.State(), "shown": gr.State(Shown()), "leaks": gr.State(())}
    tab = DataTab(data_root=data_root, train=train, **states, **parts)
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    read: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "minimal",
        "show_progress_on": tab.summary,
    }
    latest: dict[str, Any] = {**quiet, "trigger_mode": "always_last"}
    form = train.inputs
    opened = own.select(partial(on_look, tab), [tab.view, tab.shown, *form], tab.everything, **read)
    chosen = tab.dataset.input(
        partial(on_choose, tab), [tab.dataset], [train.fields["dataset_path"]], **quiet
    ).then(partial(on_read, tab), form, tab.everything, **read)
    again = tab.reload.click(partial(on_read, tab), form, tab.everything, **read)

    # a partial would hide from Gradio the default by which it hands over the progress
    def upload(file: str, progress: gr.Progress = gr.Progress()) -> Updates:  # noqa: B008
        return on_import(tab, file, progress)

    imported = tab.upload.upload(
        upload,
        [tab.upload],
        [tab.dataset, train.fields["dataset_path"], tab.summary],
        api_visibility="private",
    ).success(partial(on_read, tab), form, tab.everything, **read)
    for event in (opened, chosen, again, imported):
        found = event.then(
            partial(on_leaks, tab), [tab.view], [tab.leaks, tab.problems_note, tab.problems], **quiet
        )
        _then_floor(tab, found)
    _bind_browser(tab, latest)
    tab.training.bind(tab.view, tab.shown, form)
    return tab


def _then_floor(tab: DataTab, event: Any) -> None:
    """The floor takes seconds, so it comes last; what is known already is there at once."""
    event.then(
        partial(on_floor, tab.training),
        [tab.view, *tab.train.inputs],
        [tab.training.floor],
        api_visibility="private",
        show_progress="hidden",
    )


def _bind_browser(tab: DataTab, latest: dict[str, Any]) -> None:
    outputs = [*tab.browser, tab.training.landmark, tab.training.sigma, tab.training.sigma_note]
    form = tab.train.inputs
    place = [tab.view, tab.shown, tab.split, tab.number, tab.training.landmark, *form]
    tab.number.input(partial(on_number, tab), place, outputs, **latest)
    tab.split.input(partial(on_split, tab), place, outputs, **latest)
    for button, step in ((tab.previous, -1), (tab.next, 1)):
        button.click(partial(on_step, tab, step), place, outputs, **latest)
    tab.whole.click(partial(on_whole, tab), [tab.view, tab.shown], tab.browser, **latest)

    def suspect(view: DataView, landmark: str | None, event: gr.SelectData, *values: Any) -> Updates:
        return on_suspect(tab, view, [str(cell) for cell in event.row_value], *values)

    def problem(view: DataView, leaks: tuple[Leak, ...], event: gr.SelectData, *values: Any) -> Updates:
        return on_problem(tab, view, leaks, [str(cell) for cell in event.row_value], *values)

    for table, handler, known in (
        (tab.suspects, suspect, tab.training.landmark), (tab.problems, problem, tab.leaks)
    ):  # fmt: skip
        table.select(handler, [tab.view, known, *form], outputs, **latest).then(
            None, js=TO_PICTURE, api_visibility="private", show_progress="hidden"
        )


def _place_choice() -> dict[str, Any]:
    with gr.Row(equal_height=True):
        dataset = gr.Dropdown(
            [],
            label=say("dataset_path"),
            info=say("data_dataset_info"),
            allow_custom_value=True,
            elem_id="data-dataset",
            scale=4,
            min_width=260,
        )
        with gr.Column(scale=1, min_width=150):
            upload = gr.UploadButton(
                say("data_import"), file_types=[".zip"], size="md", elem_id="data-import", min_width=150
            )
            reload = gr.Button(say("data_reload"), size="md", elem_id="data-reload", min_width=150)
    summary = gr.Markdown(say("data_reading"), elem_id="data-tab-summary")
    return {"dataset": dataset, "upload": upload, "reload": reload, "summary": summary}


def _place_body() -> dict[str, Any]:
    with gr.Column(visible=False, elem_id="data-body") as body:
        counts = gr.HTML(elem_id="data-counts")
        with gr.Row():
            with gr.Column(scale=3, min_width=330):
                parts = _place_browser()
            with gr.Column(scale=2, min_width=330):
                parts |= _place_lists()
        training = create_training_panel()
    return {"body": body, "counts": counts, "training": training, **parts}


def _place_browser() -> dict[str, Any]:
    split = gr.Radio(
        [(say("data_all"), ALL_SPLITS)], value=ALL_SPLITS, label=say("data_split"), elem_id="data-split"
    )
    with gr.Row(equal_height=True):
        number = gr.Slider(1, 2, value=1, step=1, label=say("data_number"), elem_id="data-number", scale=4)
        previous = gr.Button(say("data_previous"), elem_id="data-previous", min_width=60, scale=1)
        following = gr.Button(say("data_next"), elem_id="data-next", min_width=60, scale=1)
    shown = gr.Markdown(elem_id="data-caption")
    picture = gr.Plot(label=say("data_picture"), elem_id="data-picture")
    whole = gr.Button(say("data_whole"), visible=False, size="sm", elem_id="data-whole")
    with gr.Accordion(say("data_marks"), open=False):
        marks = gr.HTML(elem_id="data-marks")
    return {
        "split": split, "number": number, "previous": previous, "next": following, "whole": whole,
        "caption": shown, "picture": picture, "marks": marks,
    }  # fmt: skip


def _place_lists() -> dict[str, Any]:
    gr.Markdown(f"### {say('data_suspects')}")
    suspects_note = gr.Markdown(elem_id="data-suspects-note")
    suspects = gr.Dataframe(
        headers=say("data_suspect_columns").split(","),
        interactive=False,
        wrap=True,
        max_height=360,
        show_label=False,
        label=say("data_suspects"),
        column_widths=["22%", "24%", "38%", "16%"],
        elem_id="data-suspects",
    )
    gr.Markdown(f"### {say('problems_title')}")
    problems_note = gr.Markdown(elem_id="data-problems-note")
    problems = gr.Dataframe(
        headers=say("data_problem_columns").split(","),
        interactive=False,
        wrap=True,
        max_height=360,
        show_label=False,
        label=say("problems_title"),
        column_widths=["26%", "40%", "34%"],
        elem_id="data-problems",
    )
    return {
        "suspects_note": suspects_note, "suspects": suspects, "problems_note": problems_note, "problems": problems
    }  # fmt: skip


def on_look(tab: DataTab, view: DataView | None, shown: Shown, *values: Any) -> Updates:
    """The tab was turned to: read the form's data set unless it is shown already, and draw sigma anew."""
    try:
        settings = settings_for_data(values)
    except UserError:
        return on_read(tab, *values)  # which says what is wrong
    if view is None or view.key != view_key(settings):
        return on_read(tab, *values)
    return draw_sigma(tab.training, settings, view, shown.row or 0, None)


def on_choose(tab: DataTab, path: str | None) -> Any:
    """Another data set was chosen here: it is the Train form's."""
    return (path or "").strip()


def on_import(tab: DataTab, file: str, progress: gr.Progress) -> Updates:
    """Unpack an uploaded archive into the data root and choose what was in it."""
    archive = Path(file)
    try:
        folder = import_zip(
            archive,
            tab.data_root,
            lambda done, total: progress(done / max(total, 1), desc=say("data_unpacking")),
        )
    except UserError as error:
        raise gr.Error(say("data_import_failed", reason=error), duration=None) from error
    finally:
        archive.unlink(missing_ok=True)  # the upload's own copy
    gr.Info(say("data_imported", name=folder.name))
    chosen = gr.update(choices=list_datasets(tab.data_root), value=str(folder))
    return {tab.dataset: chosen, tab.train.fields["dataset_path"]: chosen, tab.summary: say("data_reading")}


def on_read(tab: DataTab, *values: Any) -> Updates:
    """Read the form's data set and show its first image."""
    choices = list_datasets(tab.data_root)
    try:
        settings = settings_for_data(values)
        if not settings.dataset_path:
            words = say("data_none", folder=tab.data_root)
            return _nothing(tab, words, gr.update(choices=choices, value=None))
        view = read_view(settings)
    except UserError as error:
        path = values[0]
        return _nothing(tab, say("data_failed", reason=error), gr.update(choices=choices, value=path))
    splits = [(say("data_all"), ALL_SPLITS), *((name, name) for name in view.split_names)]
    return {
        tab.view: view,
        tab.leaks: (),
        tab.dataset: gr.update(choices=choices, value=settings.dataset_path),
        tab.summary: summarise(view.splits),
        tab.body: gr.update(visible=True),
        tab.counts: splits_table(view) + groups_table(view),
        tab.suspects_note: suspects_note(view),
        tab.suspects: gr.update(value=suspect_rows(view), visible=bool(view.suspects.found)),
        **_list_problems(tab, view, ()),
        tab.problems_note: say("leaks_looking"),
        **_show(tab, view, Shown(row=0)),
        tab.split: gr.update(choices=splits, value=ALL_SPLITS),
        **draw_sigma(tab.training, settings, view, 0, None),
        tab.training.views: "",
        tab.training.drawn: None,
    }


def on_leaks(tab: DataTab, view: DataView | None) -> Updates:
    """After the rest: images that stand twice. The first look decodes every image."""
    if view is None:
        return {tab.leaks: ()}
    leaks = read_leaks(view.splits)
    return {tab.leaks: leaks, **_list_problems(tab, view, leaks)}


def on_number(
    tab: DataTab, view: DataView, shown: Shown, split: str, number: float, landmark: str | None, *values: Any
) -> Updates:
    """Another place on the slider."""
    rows = view.rows_of(split)
    return _show_and_draw(tab, view, Shown(row=rows[min(int(number), len(rows)) - 1]), landmark, values)


def on_split(
    tab: DataTab, view: DataView, shown: Shown, split: str, number: float, landmark: str | None, *values: Any
) -> Updates:
    """Another split: its first image, the slider as long as it."""
    return _show_and_draw(tab, view, Shown(row=view.rows_of(split)[0]), landmark, values, split)


def on_step(
    tab: DataTab,
    step: int,
    view: DataView,
    shown: Shown,
    split: str,
    number: float,
    landmark: str | None,
    *values: Any,
) -> Updates:
    """The image before or after, round the corner at the ends."""
    rows = view.rows_of(split)
    row = rows[(int(number) - 1 + step) % len(rows)]
    return _show_and_draw(tab, view, Shown(row=row), landmark, values, split)


def on_whole(tab: DataTab, view: DataView, shown: Shown) -> Updates:
    """The whole image again, the landmark in question still marked."""
    return _show(tab, view, shown, is_close=False)


def on_suspect(tab: DataTab, view: DataView, cells: list[str], *values: Any) -> Updates:
    """A line of the suspects was clicked."""
    row, landmark = view.row_of_id(cells[0]), view.names.index(cells[1])
    found = (one for one in view.suspects.found if (one.row, one.landmark) == (row, landmark))
    return _show_and_draw(tab, view, Shown(row=row, suspect=next(found)), cells[1], values, ALL_SPLITS)


def on_problem(
    tab: DataTab, view: DataView, leaks: tuple[Leak, ...], cells: list[str], *values: Any
) -> Updates:
    """A line of the problems was clicked: the picture that it is about, where there is one."""
    problems = view.splits.annotations.problems
    path = next((one.image for one in problems if [one.where, one.what] == cells[:2]), None)
    row = view.row_of_path(path) if path is not None else None
    if any(leak.image_ids[0] == cells[0] for leak in leaks) and path is None:
        row = view.row_of_id(cells[0])
    if row is not None:
        return _show_and_draw(tab, view, Shown(row=row), None, values, ALL_SPLITS)
    if path is None:
        return {tab.caption: say("data_no_picture")}
    return _show(tab, view, Shown(path=path))


def _nothing(tab: DataTab, words: str, dataset: Any) -> Updates:
    """No data set can be shown."""
    return {
        tab.view: None,
        tab.dataset: dataset,
        tab.summary: words,
        tab.body: gr.update(visible=False),
    }


def _list_problems(tab: DataTab, view: DataView, leaks: tuple[Leak, ...]) -> Updates:
    rows = problem_rows(view.splits.annotations.problems, leaks)
    note = say("data_problems_some", num=len(rows)) if len(rows) else say("data_problems_none")
    return {tab.problems_note: note, tab.problems: gr.update(value=rows, visible=bool(len(rows)))}


def _show_and_draw(
    tab: DataTab, view: DataView, shown: Shown, landmark: str | None, values: Any, split: str | None = None
) -> Updates:
    """The image, and sigma on it."""
    assert shown.row is not None
    settings = settings_for_data(values)
    return {**_show(tab, view, shown, split), **draw_sigma(tab.training, settings, view, shown.row, landmark)}


def _show(
    tab: DataTab, view: DataView, shown: Shown, split: str | None = None, *, is_close: bool = True
) -> Updates:
    """The picture and what stands about it; where `split` is given, the slider follows."""
    if shown.row is None:
        assert shown.path is not None
        return {
            tab.shown: shown,
            tab.marks: "",
            tab.whole: gr.update(visible=False),
            **_show_file(tab, shown.path),
        }
    row, suspect = shown.row, shown.suspect
    is_close = is_close and suspect is not None
    try:
        figure = _draw(view, shown, is_close)
    except UserError as error:
        return {tab.shown: shown, tab.caption: say("data_failed", reason=error), tab.picture: None}
    updates = {
        tab.shown: shown,
        tab.whole: gr.update(visible=is_close),
        tab.caption: caption(view, row),
        tab.picture: figure,
        tab.marks: landmarks_table(view, row, suspect.landmark if suspect else None),
    }
    if split is not None or row == 0:
        rows = view.rows_of(split or ALL_SPLITS)
        updates[tab.number] = gr.update(maximum=max(2, len(rows)), value=rows.index(row) + 1)
    if split is not None:
        updates[tab.split] = split
    return updates


def _show_file(tab: DataTab, path: Path) -> Updates:
    """An image that a problem keeps out of the data set."""
    try:
        pixels = read_full(path)
    except UserError as error:
        return {tab.caption: say("data_failed", reason=error), tab.picture: None}
    height, width = pixels.shape[:2]
    words = say("data_left_out", name=path.name)
    return {tab.caption: words, tab.picture: plot_plain(shrink(pixels), (height, width))}


def _draw(view: DataView, shown: Shown, is_close: bool) -> Any:
    """The image with every reader's marks; close by, the surroundings of the suspect."""
    row, suspect = shown.row, shown.suspect
    assert row is not None
    pixels = read_full(view.samples.paths[row])
    readers = view.readers_xy_image[row]
    highlight = None
    if suspect is not None:
        at_xy = _doubted_place(view, suspect)
        highlight = Highlight(view.names[suspect.landmark], (at_xy[0], at_xy[1]), suspect.expected_xy_image)
    size_hw = view.samples.sizes_hw[row]
    figure = plot_marks(shrink(pixels), size_hw, readers, view.names, view.readers, highlight)
    if is_close and suspect is not None:
        places = [*readers[:, suspect.landmark], suspect.expected_xy_image or (np.nan, np.nan)]
        known = np.array([place for place in places if np.isfinite(place).all()], np.float64)
        side = max(LEAST_WINDOW_SHARE * max(size_hw), 1.5 * float(np.ptp(known, axis=0).max()))
        figure = zoom_in(figure, pixels, (known.min(axis=0) + known.max(axis=0)) / 2, side)
    figure.update_layout(
        uirevision=f"{row} {suspect} {is_close}"
    )  # another picture is seen whole, not as the last one
    return figure


def _doubted_place(view: DataView, suspect: Suspect) -> tuple[float, float]:
    """The mark of the reader who is farther off, else the truth that a training would take."""
    if suspect.reader is not None:
        x, y = view.readers_xy_image[suspect.row, suspect.reader, suspect.landmark]
    else:
        known = view.readers_xy_image[suspect.row, :, suspect.landmark]
        x, y = np.nanmean(known, axis=0)
    return float(x), float(y)
