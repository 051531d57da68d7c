"""What the Train tab shows of the chosen data set: summary, problems, identical images and a sample."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from backend.config import Settings, parse_settings, settings_affecting
from backend.data.annotations import read_annotations
from backend.data.samples import SampleSplits, read_splits
from backend.errors import UserError
from ui.answers import NoAnswer
from ui.bindings import Updates
from ui.datasets import (
    crop_sides,
    describe_sigma,
    list_leaks,
    list_problems,
    read_display,
    read_leaks,
    summarize,
    summarize_leaks,
)
from ui.figures.pictures import plot_sample
from ui.text.say import in_markdown, say
from ui.train.form import DATA_KEYS, SAMPLE_KEYS, FormValues, field_keys, mistakes_by_key, to_settings
from ui.train.implausible_panel import show_implausible
from ui.train.parts import TrainTab


def on_data(tab: TrainTab, form: FormValues) -> Updates:
    """Update the summary, problems and readers when a data set is chosen."""
    cleared = {
        **show_implausible(tab.implausible, None),
        tab.problems_box: gr.update(visible=False),
        tab.leaks: "",
    }
    try:
        settings = settings_for_data(form)
        if not settings.dataset_path:
            return {**cleared, tab.summary: say("choose_data")}
        splits = read_splits(settings)
    except UserError as error:
        return {**cleared, tab.summary: say("data_failed", reason=in_markdown(error))}
    readers = [(say("mean_choice"), "mean"), *((name, name) for name in splits.annotations.reader_names)]
    return {
        **show_implausible(tab.implausible, splits),
        tab.summary: summarize(splits),
        tab.problems_box: gr.update(visible=bool(splits.annotations.problems)),
        tab.problems: list_problems(splits),
        tab.leaks: say("leaks_looking"),
        tab.leak_list: "",
        tab.fields["annotation_type"]: gr.update(choices=readers, value=settings.annotation_type),
    }


def on_leaks(tab: TrainTab, form: FormValues) -> Updates:
    """List images that are in two splits among the problems, once the data set is shown.

    That takes long the first time, since every image is decoded.
    """
    try:
        settings = settings_for_data(form)
        leaks = read_leaks(read_splits(settings)) if settings.dataset_path else None
    except UserError:
        leaks = None
    if leaks is None:
        return {tab.leaks: ""}  # on_data reports what is wrong
    box = gr.update(visible=True) if leaks else gr.skip()
    return {tab.leaks: summarize_leaks(leaks), tab.leak_list: list_leaks(leaks), tab.problems_box: box}


def on_sample(tab: TrainTab, form: FormValues) -> Updates:
    """Redraw the sample when the data set or something that changes sigma is chosen."""
    if any(key in SAMPLE_KEYS for key in mistakes_by_key(to_settings(form))):
        raise NoAnswer  # the field that is wrong is marked by on_form
    nothing = {tab.sample: None, tab.sigma_note: ""}
    try:
        settings = settings_for_data(form)
        return _draw_sample(tab, settings, read_splits(settings)) if settings.dataset_path else nothing
    except UserError:
        return nothing  # on_data reports what is wrong


def settings_for_data(form: FormValues) -> Settings:
    """Return settings for showing the data set: the data fields, and those display fields that are valid.

    Other fields keep their defaults, so that an error elsewhere on the form does not hide the data. A reader
    that the data set does not have counts as the mean. Raises UserError.
    """
    raw = to_settings(form)
    data = {key: raw[key] for key in DATA_KEYS}
    path = raw["dataset_path"]
    if path:
        readers = read_annotations(Path(path), raw["dataset_format"]).reader_names
        if raw["annotation_type"] not in readers:
            data["annotation_type"] = "mean"

    invalid = mistakes_by_key(raw)
    display_names = settings_affecting("sample", "views", "decoding_error")
    valid_display = {
        name: raw[name] for name in display_names if invalid.keys().isdisjoint(field_keys([name]))
    }
    return parse_settings({**valid_display, **data})


def _draw_sample(tab: TrainTab, settings: Settings, splits: SampleSplits) -> Updates:
    """Draw the first training image with its landmarks and sigma."""
    train = splits.train
    sigma = describe_sigma(settings, train)
    figure = plot_sample(
        read_display(train.paths[0], train.sizes_hw[0]),
        train.sizes_hw[0],
        train.points_xy_image[0],
        splits.annotations.landmark_names,
        sigma.sigma_px_image,
        crop_sides(settings, train),
    )
    return {tab.sample: figure, tab.sigma_note: sigma.text}
