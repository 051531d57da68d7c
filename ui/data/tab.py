"""The Data tab: is the data sound? Counts, problems, suspect landmarks, every image, and what a training makes of it.

The data set and the settings are those of the Train form, so that the two tabs never speak of different things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backend.data.importing import import_zip
from backend.data.leaks import Leak
from backend.errors import UserError
from ui.answers import Part, Superseded, create_part
from ui.bindings import LATEST, PRIVATE, Updates, read_static
from ui.data.browser import BrowserPanel, Shown, create_browser, on_whole, show
from ui.data.summary import (
    ALL_SPLITS,
    DataView,
    groups_table,
    in_listed_order,
    leak_caption,
    problems_table,
    read_view,
    splits_table,
    suspects_note,
    suspects_table,
    view_key,
)
from ui.data.training_view import FLOOR_PART, TrainingPanel, create_training_panel, draw_sigma, on_floor
from ui.datasets import list_datasets, read_leaks, summarise
from ui.session import Session
from ui.text.say import in_markdown, say
from ui.train.form import DATA_KEYS, FORM_KEYS, SAMPLE_KEYS
from ui.train.tab import TrainTab, settings_for_data

TO_PICTURE = (
    "() => document.getElementById('data-picture').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
)
LEAKS_PART = "data_leaks"  # of the session: whose leaks are to be told
TO_FORM = "(path) => (path ?? '').trim()"


@dataclass(frozen=True)
class Answers:
    """The parts of the tab that answer the Train form, and those that answer which image was asked for."""

    data: Part
    problems: Part
    floor: Part
    views: Part
    image: Part
    sigma: Part

    @classmethod
    def create(cls, train: TrainTab) -> Answers:
        data = [train.fields[key] for key in DATA_KEYS]
        return cls(
            create_part("data-view", ("#data-tab-summary", "#data-body"), data),
            create_part("data-problems", ("#data-problems-note", "#data-problems"), data),
            create_part("data-floor", ("#data-floor",), train.inputs),
            create_part("data-views", ("#data-views",), train.inputs, keeps=True),
            create_part(
                "data-image",
                ("#data-caption", "#data-picture", "#data-marks", "#data-sigma", "#data-sigma-note"),
            ),
            create_part(
                "data-sigma",
                ("#data-sigma", "#data-sigma-note"),
                [train.fields[key] for key in (*DATA_KEYS, *SAMPLE_KEYS)],
            ),
        )


@dataclass(frozen=True)
class DataTab:
    """The components of the tab; `train` holds the form whose data set and settings are shown."""

    data_root: Path
    train: TrainTab
    view: gr.State  # DataView, None where no data set could be read
    leaks: gr.State  # the pairs that are listed among the problems
    dataset: gr.Dropdown
    upload: gr.UploadButton
    refused: gr.Markdown  # why an archive was not taken
    imported: gr.State  # the folder that was imported last
    reload: gr.Button
    summary: gr.Markdown
    body: gr.Column
    counts: gr.HTML
    suspects_note: gr.Markdown
    suspects: gr.HTML
    problems_note: gr.Markdown
    problems: gr.HTML
    browser: BrowserPanel
    training: TrainingPanel
    answers: Answers

    @property
    def everything(self) -> list[Any]:
        """What showing another data set changes."""
        return [
            self.view, self.leaks, self.dataset, self.summary, self.body, self.counts, self.suspects_note,
            self.suspects, self.problems_note, self.problems, *self.browser.parts, *self.training.parts,
        ]  # fmt: skip


def create_data_tab() -> dict[str, Any]:
    """Lay out the tab; `bind_data_tab` makes it work, once the Train form is there."""
    return {**_place_choice(), **_place_body()}


def bind_data_tab(parts: dict[str, Any], own: gr.Tab, train: TrainTab, data_root: Path) -> DataTab:
    """Bind the handlers. The tab reads when it is looked at, so that opening the page costs nothing."""
    states: dict[str, Any] = {"view": gr.State(), "leaks": gr.State(()), "imported": gr.State()}
    answers = Answers.create(train)
    tab = DataTab(data_root=data_root, train=train, answers=answers, **states, **parts)
    answers.data.asks(train.events(DATA_KEYS))
    answers.problems.asks(train.events(DATA_KEYS))
    answers.sigma.asks(train.events((*DATA_KEYS, *SAMPLE_KEYS)))
    for part in (answers.floor, answers.views):
        part.asks(train.events(FORM_KEYS))
    read: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "minimal",
        "show_progress_on": tab.summary,
    }
    form, session = train.inputs, train.session
    asked = [session, *form]
    drawn = (answers.image, answers.sigma)
    opened = answers.data.answers(
        own.select,
        partial(on_look, tab),
        [session, tab.view, tab.browser.shown, *form],
        tab.everything,
        how=read,
        also=(answers.sigma,),
    )
    # in the browser: the Train form has it at once, and what is shown of another one is marked
    moved = tab.dataset.input(None, [tab.dataset], [train.fields["dataset_path"]], js=TO_FORM, **PRIVATE)

    def reads(event: Any) -> Any:
        return answers.data.answers(
            event, partial(on_read, tab), asked, tab.everything, how={**LATEST, **read}, also=drawn
        )

    for part in (answers.data, answers.problems, answers.sigma, answers.floor, answers.views):
        part.asks(moved.then)
    chosen = reads(moved.then)
    for part in (answers.data, answers.problems):
        part.asks(tab.reload.click, anew=True)
    again = reads(tab.reload.click)

    # a partial would hide from Gradio the default by which it hands over the progress
    def upload(file: str, progress: gr.Progress = gr.Progress()) -> Updates:  # noqa: B008
        return on_import(tab, file, progress)

    tab.upload.upload(
        upload,
        [tab.upload],
        [tab.refused, tab.imported, tab.dataset, train.fields["dataset_path"], tab.summary],
        api_visibility="private",
    )
    imported = reads(tab.imported.change)
    about = [session, tab.view, *form]
    for event in (opened, chosen, again, imported):
        listed = answers.problems.answers(
            event.then, partial(on_leaks, tab), about, [tab.leaks, tab.problems_note, tab.problems]
        )
        answers.floor.answers(listed.then, partial(on_floor, tab.training), about, [tab.training.floor])
    _bind_browser(tab)
    tab.training.bind(tab.view, tab.browser.shown, form, answers.image, answers.sigma, answers.views)
    return tab


def _bind_browser(tab: DataTab) -> None:
    outputs = [*tab.browser.parts, tab.training.landmark, tab.training.sigma, tab.training.sigma_note]
    form = tab.train.inputs
    browser, number = tab.browser, tab.browser.number
    place = [tab.view, browser.shown, browser.split, number.slider, tab.training.landmark, *form]
    image, sigma = tab.answers.image, tab.answers.sigma
    number.bind()
    moves = [number.slider.input, browser.split.input, browser.previous.click, browser.next.click]
    for event in ([*moves, *number.typed], browser.whole.click, tab.suspects.chosen, tab.problems.chosen):
        image.asks(event)
    steps = (partial(on_step, tab, -1), partial(on_step, tab, 1))
    for event, handler in zip(moves, (partial(on_number, tab), partial(on_split, tab), *steps), strict=True):
        image.answers(event, handler, place, outputs, also=(sigma,))
    typed, marked = partial(on_typed_number, tab), [*outputs, number.field]
    image.answers(number.typed, typed, [number.field, *place], marked, also=(sigma,))
    image.answers(browser.whole.click, partial(on_whole, browser), [tab.view, browser.shown], browser.parts)

    # Gradio hands over the event by its annotation, which `answers` would hide
    def suspect(shown: str, drawn: str, view: DataView, event: gr.EventData, *values: Any) -> Updates:
        updates = on_suspect(tab, view, int(event.key), *values)
        return {image.answered: shown, sigma.answered: drawn, **updates}

    def problem(
        shown: str, drawn: str, view: DataView, leaks: tuple[Leak, ...], event: gr.EventData, *values: Any
    ) -> Updates:
        updates = on_problem(tab, view, leaks, int(event.key), *values)
        return {image.answered: shown, sigma.answered: drawn, **updates}

    for table, chosen, known in ((tab.suspects, suspect, []), (tab.problems, problem, [tab.leaks])):
        bound = image.binds(
            table.chosen, chosen, [tab.view, *known, *form], [sigma.answered, *outputs], also=(sigma,)
        )
        bound.then(None, js=TO_PICTURE, **PRIVATE)


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
    note = f'<p class="note">{escape(say("data_import_note"))}</p>'
    gr.HTML(note, elem_id="data-import-note", padding=False)
    refused = gr.Markdown(visible=False, elem_id="data-import-refused", elem_classes="refused")
    summary = gr.Markdown(say("data_reading"), elem_id="data-tab-summary")
    return {
        "dataset": dataset,
        "upload": upload,
        "refused": refused,
        "reload": reload,
        "summary": summary,
    }


def _place_body() -> dict[str, Any]:
    with gr.Column(visible=False, elem_id="data-body") as body:
        counts = gr.HTML(elem_id="data-counts")
        with gr.Row():
            with gr.Column(scale=3, min_width=330):
                browser = create_browser()
            with gr.Column(scale=2, min_width=330):
                parts = _place_lists()
        training = create_training_panel()
    return {"body": body, "counts": counts, "browser": browser, "training": training, **parts}


def _place_lists() -> dict[str, Any]:
    suspects_note, suspects = _place_list("suspects", say("data_suspects"))
    problems_note, problems = _place_list("problems", say("problems_title"))
    return {
        "suspects_note": suspects_note, "suspects": suspects, "problems_note": problems_note, "problems": problems
    }  # fmt: skip


def _place_list(name: str, title: str) -> tuple[gr.Markdown, gr.HTML]:
    """A note under a title, and the table whose rows show their image."""
    gr.Markdown(f"### {title}")
    note = gr.Markdown(elem_id=f"data-{name}-note")
    return note, gr.HTML(js_on_load=read_static("open_rows.js"), elem_id=f"data-{name}", padding=False)


def on_look(tab: DataTab, session: Session, view: DataView | None, shown: Shown, *values: Any) -> Updates:
    """The tab was turned to: read the form's data set unless it is shown already, and draw sigma anew."""
    try:
        settings = settings_for_data(values)
    except UserError:
        return on_read(tab, session, *values)  # which says what is wrong
    if view is None or view.key != view_key(settings):
        return on_read(tab, session, *values)
    return draw_sigma(tab.training, settings, view, shown.row or 0, None)


def on_import(tab: DataTab, file: str, progress: gr.Progress) -> Updates:
    """Unpack an uploaded archive into the data root and choose what was in it, or say why not."""
    archive = Path(file)
    try:
        folder = import_zip(
            archive,
            tab.data_root,
            lambda done, total: progress(done / max(total, 1), desc=say("data_unpacking")),
        )
    except UserError as error:
        return {
            tab.refused: gr.update(value=say("data_import_failed", reason=in_markdown(error)), visible=True)
        }
    finally:
        archive.unlink(missing_ok=True)  # the upload's own copy
    gr.Info(say("data_imported", name=folder.name))
    chosen = gr.update(choices=list_datasets(tab.data_root), value=str(folder))
    return {
        tab.refused: gr.update(visible=False),
        tab.imported: str(folder),
        tab.dataset: chosen,
        tab.train.fields["dataset_path"]: chosen,
        tab.summary: say("data_reading"),
    }


def on_read(tab: DataTab, session: Session, *values: Any) -> Updates:
    """Read the form's data set and show its first image."""
    session.asked.pop(FLOOR_PART, None)  # one that is computed for another data set is not told any more
    choices = list_datasets(tab.data_root)
    try:
        settings = settings_for_data(values)
        if not settings.dataset_path:
            words = say("data_none", folder=tab.data_root)
            return _nothing(tab, words, gr.update(choices=choices, value=None))
        view = read_view(settings)
    except UserError as error:
        path = values[0]
        return _nothing(
            tab, say("data_failed", reason=in_markdown(error)), gr.update(choices=choices, value=path)
        )
    splits = [(say("data_all"), ALL_SPLITS), *((name, name) for name in view.split_names)]
    return {
        tab.view: view,
        tab.leaks: (),
        tab.dataset: gr.update(choices=choices, value=settings.dataset_path),
        tab.summary: summarise(view.splits),
        tab.body: gr.update(visible=True),
        tab.counts: splits_table(view) + groups_table(view),
        tab.suspects_note: suspects_note(view),
        tab.suspects: gr.update(value=suspects_table(view), visible=bool(view.suspects.found)),
        **_list_problems(tab, view, ()),
        tab.problems_note: say("leaks_looking"),
        **show(tab.browser, view, Shown(row=0), ALL_SPLITS),
        tab.browser.split: gr.update(choices=splits, value=ALL_SPLITS),
        **draw_sigma(tab.training, settings, view, 0, None),
        tab.training.floor: say("data_floor_computing"),
        tab.training.views: "",
        tab.training.drawn: None,
    }


def on_leaks(tab: DataTab, session: Session, view: DataView | None, *values: Any) -> Updates:
    """After the rest: images that stand twice. The first look decodes every image."""
    if view is None:
        return {tab.leaks: ()}
    if values and not _is_of_form(view, values):
        raise Superseded  # another data set is being read
    session.asked[LEAKS_PART] = view.key
    leaks = read_leaks(view.splits)
    if session.asked[LEAKS_PART] != view.key:
        raise Superseded
    return {tab.leaks: leaks, **_list_problems(tab, view, leaks)}


def _is_of_form(view: DataView, values: Sequence[Any]) -> bool:
    try:
        return view.key == view_key(settings_for_data(values))
    except UserError:
        return False


def on_number(
    tab: DataTab, view: DataView, shown: Shown, split: str, number: float, landmark: str | None, *values: Any
) -> Updates:
    """Another place on the slider."""
    rows = view.rows_of(split)
    return _show_and_draw(tab, view, Shown(row=rows[min(int(number), len(rows)) - 1]), landmark, values)


def on_typed_number(
    tab: DataTab,
    typed: str,
    view: DataView,
    shown: Shown,
    split: str,
    number: float,
    landmark: str | None,
    *values: Any,
) -> Updates:
    """The number of an image was typed beside the slider."""
    asked, marks = tab.browser.number.take(typed, len(view.rows_of(split)))
    if asked is None or asked == number:
        return marks
    return {**on_number(tab, view, shown, split, asked, landmark, *values), **marks}


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


def on_suspect(tab: DataTab, view: DataView, place: int, *values: Any) -> Updates:
    """A line of the suspects was clicked."""
    one = view.suspects.found[place]
    shown = Shown(row=one.row, suspect=one)
    return _show_and_draw(tab, view, shown, view.names[one.landmark], values, ALL_SPLITS)


def on_problem(tab: DataTab, view: DataView, leaks: tuple[Leak, ...], place: int, *values: Any) -> Updates:
    """A line of the problems was clicked: the picture that it is about, where there is one."""
    problems, pair, path = view.splits.annotations.problems, None, None
    if place < len(problems):
        path = problems[place].image
        row = view.row_of_path(path) if path is not None else None
    else:
        pair = in_listed_order(leaks)[place - len(problems)]
        row = view.row_of_id(pair.image_ids[0])
    if row is not None:
        updates = _show_and_draw(tab, view, Shown(row=row), None, values, ALL_SPLITS)
        if pair is not None:
            updates[tab.browser.caption] += f" · {leak_caption(pair)}"
        return updates
    if path is None:
        return {tab.browser.caption: say("data_no_picture")}
    return show(tab.browser, view, Shown(path=path))


def _nothing(tab: DataTab, words: str, dataset: Any) -> Updates:
    """No data set can be shown."""
    return {
        tab.view: None,
        tab.dataset: dataset,
        tab.summary: words,
        tab.body: gr.update(visible=False),
    }


def _list_problems(tab: DataTab, view: DataView, leaks: tuple[Leak, ...]) -> Updates:
    problems = view.splits.annotations.problems
    num = len(problems) + len(leaks)
    note = say("data_problems_some", num=num) if num else say("data_problems_none")
    table = gr.update(value=problems_table(problems, leaks), visible=bool(num))
    return {tab.problems_note: note, tab.problems: table}


def _show_and_draw(
    tab: DataTab, view: DataView, shown: Shown, landmark: str | None, values: Any, split: str | None = None
) -> Updates:
    """The image, and sigma on it."""
    assert shown.row is not None
    settings = settings_for_data(values)
    return {
        **show(tab.browser, view, shown, split),
        **draw_sigma(tab.training, settings, view, shown.row, landmark),
    }
