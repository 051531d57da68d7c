"""The Data tab, which shows whether the data is sound: counts, problems, suspect landmarks, every image.

It also shows what training sees. Data set and settings are those of the Train form, so that the two tabs
always agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.data.importing import import_zip
from backend.data.leaks import Leak
from backend.errors import UserError
from ui.answers import Superseded
from ui.bindings import LATEST, PRIVATE, Updates
from ui.data.browser import Shown, show
from ui.data.parts import Answers, DataTab, place_body, place_choice
from ui.data.shown_image import bind_browser
from ui.data.summary import (
    ALL_SPLITS,
    DataView,
    groups_table,
    problems_table,
    read_view,
    splits_table,
    suspects_note,
    suspects_table,
    view_key,
)
from ui.data.training_view import DECODING_ERROR_PART, draw_sigma, on_decoding_error
from ui.datasets import list_datasets, read_leaks, summarize
from ui.session import Session
from ui.text.say import in_markdown, say
from ui.train.data_view import settings_for_data
from ui.train.form import DATA_KEYS, FORM_KEYS, SAMPLE_KEYS, FormValues
from ui.train.parts import TrainTab

LEAKS_PART = "data_leaks"  # of the session: the data set whose identical images are awaited
# the form's field and values, at once
TO_FORM = """(path, form) => {
    const dataset_path = (path ?? "").trim();
    return [dataset_path, {...form, dataset_path}];
}"""


def create_data_tab() -> dict[str, Any]:
    """Lay out the tab; `bind_data_tab` makes it work, once the Train form is there."""
    return {**place_choice(), **place_body()}


def bind_data_tab(parts: dict[str, Any], item: gr.Tab, train: TrainTab, data_root: Path) -> DataTab:
    """Bind the handlers. The tab reads when the user turns to it, so that opening the page costs nothing."""
    states: dict[str, Any] = {"view": gr.State(), "leaks": gr.State(()), "imported": gr.State()}
    answers = Answers.create(train)
    tab = DataTab(data_root=data_root, train=train, answers=answers, **states, **parts)
    _mark_changes(tab)
    for read in (_bind_look(tab, item), *_bind_choice(tab), _bind_import(tab)):
        _bind_slow_answers(tab, read)
    bind_browser(tab)
    tab.training.bind(tab.view, tab.browser.shown, train.form, answers.image, answers.sigma, answers.views)
    return tab


def _mark_changes(tab: DataTab) -> None:
    """Mark what the Train form no longer matches, before the handlers of the same events."""
    answers, train = tab.answers, tab.train
    answers.data.asks(train.events(DATA_KEYS))
    answers.problems.asks(train.events(DATA_KEYS))
    answers.sigma.asks(train.events((*DATA_KEYS, *SAMPLE_KEYS)))
    for part in (answers.decoding_error, answers.views):
        part.asks(train.events(FORM_KEYS))


def _bind_look(tab: DataTab, item: gr.Tab) -> Any:
    """Bind turning to the tab."""
    inputs = [tab.train.session, tab.view, tab.browser.shown, tab.train.form]
    return tab.answers.data.answers(
        item.select,
        partial(on_look, tab),
        inputs,
        tab.everything,
        how=_show_reading(tab),
        also=(tab.answers.sigma,),
    )


def _bind_choice(tab: DataTab) -> tuple[Any, Any]:
    """Bind choosing another data set, and reading the same one again."""
    answers = tab.answers
    # in the browser, so that the Train form has it at once and what is shown is marked
    form = tab.train.form
    outputs = [tab.train.fields["dataset_path"], form]
    copied = tab.dataset.input(None, [tab.dataset, form], outputs, js=TO_FORM, **PRIVATE)
    for part in (answers.data, answers.problems, answers.sigma, answers.decoding_error, answers.views):
        part.asks(copied.then)
    chosen = _bind_reading(tab, copied.then)

    for part in (answers.data, answers.problems):
        part.asks(tab.reload.click, repeated=True)
    return chosen, _bind_reading(tab, tab.reload.click)


def _bind_import(tab: DataTab) -> Any:
    """Bind uploading a zip file."""

    # a partial would hide the default by which Gradio passes the progress
    def upload(file: str, progress: gr.Progress = gr.Progress()) -> Updates:  # noqa: B008
        return on_import(tab, file, progress)

    outputs = [tab.refused, tab.imported, tab.dataset, tab.train.fields["dataset_path"], tab.summary]
    tab.upload.upload(upload, [tab.upload], outputs, api_visibility="private")
    return _bind_reading(tab, tab.imported.change, partial(on_read_imported, tab), [tab.imported])


def _bind_reading(tab: DataTab, event: Any, handler: Any = None, more: Sequence[Any] = ()) -> Any:
    """Bind reading the form's data set, or by `handler` another."""
    answers = tab.answers
    return answers.data.answers(
        event,
        handler or partial(on_read, tab),
        [tab.train.session, *more, tab.train.form],
        tab.everything,
        how={**LATEST, **_show_reading(tab)},
        also=(answers.image, answers.sigma),
    )


def _show_reading(tab: DataTab) -> dict[str, Any]:
    """Return how the progress of reading is shown."""
    return {"api_visibility": "private", "show_progress": "minimal", "show_progress_on": tab.summary}


def _bind_slow_answers(tab: DataTab, read: Any) -> None:
    """Bind what follows once a data set is read: identical images, then the decoding error."""
    answers, inputs = tab.answers, [tab.train.session, tab.view, tab.train.form]
    listed = answers.problems.answers(
        read.then, partial(on_leaks, tab), inputs, [tab.leaks, tab.problems_note, tab.problems]
    )
    answers.decoding_error.answers(
        listed.then, partial(on_decoding_error, tab.training), inputs, [tab.training.decoding_error]
    )


def on_look(tab: DataTab, session: Session, view: DataView | None, shown: Shown, form: FormValues) -> Updates:
    """Read the form's data set when the user turns to the tab, unless it is shown already; redraw sigma."""
    try:
        settings = settings_for_data(form)
    except UserError:
        return on_read(tab, session, form)  # it says what is wrong
    if view is None or view.key != view_key(settings):
        return on_read(tab, session, form)
    return draw_sigma(tab.training, settings, view, shown.row or 0, None)


def on_import(tab: DataTab, file: str, progress: gr.Progress) -> Updates:
    """Unpack an uploaded archive into the data root and choose its data set, or say why not."""
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
    dataset = gr.update(choices=list_datasets(tab.data_root), value=str(folder))
    return {
        tab.refused: gr.update(visible=False),
        tab.imported: str(folder),
        tab.dataset: dataset,
        tab.train.fields["dataset_path"]: dataset,
        tab.summary: say("data_reading"),
    }


def on_read_imported(tab: DataTab, session: Session, folder: str, form: FormValues) -> Updates:
    """Read the data set that was imported; in the browser the form may still name the one before."""
    return on_read(tab, session, {**form, "dataset_path": folder})


def on_read(tab: DataTab, session: Session, form: FormValues) -> Updates:
    """Read the form's data set and show its first image."""
    session.awaited.pop(DECODING_ERROR_PART, None)  # a late decoding error of another data set is not shown
    choices = list_datasets(tab.data_root)
    try:
        settings = settings_for_data(form)
        if not settings.dataset_path:
            reason = say("data_none", folder=tab.data_root)
            return _show_none(tab, reason, gr.update(choices=choices, value=None))
        view = read_view(settings)
    except UserError as error:
        reason = say("data_failed", reason=in_markdown(error))
        return _show_none(tab, reason, gr.update(choices=choices, value=form["dataset_path"]))
    splits = [(say("data_all"), ALL_SPLITS), *((name, name) for name in view.split_names)]
    return {
        tab.view: view,
        tab.leaks: (),
        tab.dataset: gr.update(choices=choices, value=settings.dataset_path),
        tab.summary: summarize(view.splits),
        tab.body: gr.update(visible=True),
        tab.counts: splits_table(view) + groups_table(view),
        tab.suspects_note: suspects_note(view),
        tab.suspects: gr.update(value=suspects_table(view), visible=bool(view.suspects.outliers)),
        **_list_problems(tab, view, ()),
        tab.problems_note: say("leaks_looking"),
        **show(tab.browser, view, Shown(row=0), ALL_SPLITS),
        tab.browser.split: gr.update(choices=splits, value=ALL_SPLITS),
        **draw_sigma(tab.training, settings, view, 0, None),
        tab.training.decoding_error: say("data_decoding_error_computing"),
        tab.training.views: "",
        tab.training.drawn: None,
    }


def on_leaks(tab: DataTab, session: Session, view: DataView | None, form: FormValues) -> Updates:
    """List identical images once the data set is shown.

    That takes long the first time, since every image is decoded.
    """
    if view is None:
        return {tab.leaks: ()}
    if not _is_of_form(view, form):
        raise Superseded  # another data set is being read
    session.awaited[LEAKS_PART] = view.key
    leaks = read_leaks(view.splits)
    if session.awaited[LEAKS_PART] != view.key:
        raise Superseded
    return {tab.leaks: leaks, **_list_problems(tab, view, leaks)}


def _is_of_form(view: DataView, form: FormValues) -> bool:
    """Whether the view shows the data set of the form."""
    try:
        return view.key == view_key(settings_for_data(form))
    except UserError:
        return False


def _show_none(tab: DataTab, reason: str, dataset: Any) -> Updates:
    """Hide everything, since there is no data set to show, and say why."""
    return {
        tab.view: None,
        tab.dataset: dataset,
        tab.summary: reason,
        tab.body: gr.update(visible=False),
    }


def _list_problems(tab: DataTab, view: DataView, leaks: tuple[Leak, ...]) -> Updates:
    problems = view.splits.annotations.problems
    num = len(problems) + len(leaks)
    note = say("data_problems_some", num=num) if num else say("data_problems_none")
    table = gr.update(value=problems_table(problems, leaks), visible=bool(num))
    return {tab.problems_note: note, tab.problems: table}
