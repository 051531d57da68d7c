"""The endpoints for programs (`gradio_client`, and Gradio's API page), which do what the tabs do.

They check their arguments and pass them on, and answer in English, whatever the language of the page.
"""

# Annotations stay objects here (no `from __future__`): Gradio reads an answer's type from them.
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import gradio as gr
from gradio.events import api as gradio_api
from gradio.utils import get_function_description, get_upload_folder
from pydantic import BeforeValidator, ValidationError, validate_call

from backend.config import ModelName, parse_settings
from backend.data.annotations.writers import to_json
from backend.errors import UserError
from backend.numbers import read_number, read_whole_number
from backend.presets import PRESETS, with_preset
from backend.run import supervisor
from backend.run.folder import RunFolder, list_runs
from backend.run.queue import is_queued, remove_from_queue
from backend.run.state import LIVE_STATES, derive_state
from ui.annotator.uploads import Uploads, adopt, forget, list_for_prediction, take_in
from ui.datasets import list_datasets
from ui.predict.prediction_process import (
    follow_prediction,
    read_predictions,
    start_prediction,
    stop_prediction,
)
from ui.run_rows import default_run, find_best, read_rows
from ui.text.say import say
from ui.torch_queries import planned_subject, query_memory
from ui.train.start import queue_run, start_run

MAX_NAMES = 5  # in a cure
# what stands in the texts of the API page for the names of a table
NAMES = {"<models>": ", ".join(get_args(ModelName)), "<presets>": ", ".join(PRESETS)}
_DEFAULTS = parse_settings({})


def _check_upload(value: Any) -> Any:
    """Accept only a file that was uploaded to this dashboard."""
    path = value.get("path") if isinstance(value, Mapping) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(
        Path(get_upload_folder()).resolve()
    ):
        raise ValueError(say("api_no_upload"))
    return value


Upload = Annotated[gr.FileData, BeforeValidator(_check_upload)]
# read as the form and the flags are; Gradio shows them as the plain types
Number = Annotated[float, BeforeValidator(read_number)]
WholeNumber = Annotated[int, BeforeValidator(read_whole_number)]


@dataclass(frozen=True)
class Api:
    """The endpoints for one folder of runs and one of data sets, with docstrings for the API page."""

    runs_dir: Path
    data_root: Path

    def start_run(self, settings: dict[str, Any], preset: str = "", queue: bool = False) -> str:
        """Start a training and answer the id of its run.

        Settings go by their names in train.py's flags and in config.json; what is left out keeps its default.
        dataset_path is the name of a data set below the dashboard's data root, or an absolute path.

        Parameters:
            settings: by name, such as {"dataset_path": "demo", "epochs": 20}; they win over the preset
            preset: what to start from: <presets>; empty: none
            queue: let the run wait until its device is free; otherwise a busy device is an error
        """
        if preset and preset not in PRESETS:
            raise UserError(
                say("api_no_preset", name=preset), field="preset", cure=_choose_from(list(PRESETS))
            )
        parsed = parse_settings(with_preset(preset, {**settings, "dataset_path": self._find_data(settings)}))
        if queue:
            return queue_run(parsed, self.runs_dir, preset)[0]
        return start_run(parsed, self.runs_dir, preset, "api_busy")

    def run_status(self, run_id: str = "") -> dict[str, Any]:
        """Report the state of a run.

        Answers run_id, state, phase, epoch, num_epochs, seconds_left, best (mre_px, mre_mm, epoch and phase
        of the lowest validation error), outcome (state and reason, once it has ended) and folder; null if
        unknown.

        Parameters:
            run_id: empty: the run that is training, else the newest
        """
        return _describe_run(self._find_run(run_id) if run_id else self._default_run())

    def stop_run(self, run_id: str, keep_best: bool = True) -> dict[str, Any]:
        """Stop a run that is training, or remove a waiting one from the queue.

        Answers at once, like run_status; the state is stopping until the process has ended.

        Parameters:
            run_id: as start_run answered it
            keep_best: finish now, validate and keep the best weights; false: cancel (it can be resumed)
        """
        folder = self._find_run(run_id)
        was_queued = is_queued(folder)
        if was_queued:
            remove_from_queue(self.runs_dir, run_id)
        state = derive_state(folder)  # one that waited may have been started meanwhile
        if state in LIVE_STATES:
            (supervisor.request_finish if keep_best else supervisor.stop)(folder)
        elif not was_queued:
            raise UserError(
                say("api_not_training", run_id=run_id, state=state.value),
                field="run_id",
                cure=say("api_not_training_cure"),
            )
        return _describe_run(folder)

    def recommend_batch_size(
        self,
        num_landmarks: WholeNumber,
        model: str = _DEFAULTS.model,
        image_size: tuple[WholeNumber, WholeNumber] = _DEFAULTS.image_size,
        mixed_precision: bool = _DEFAULTS.mixed_precision,
        num_images: WholeNumber | None = None,
        settings: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Recommend a batch size from the memory that is free now and what a training step needs.

        Takes some seconds. Answers what `python -m backend.vram --json -` writes: recommended_batch_size
        (null if not even two images fit), reason, predicted_bytes by batch, free_bytes, instead (of a batch
        that does not fit) and more.

        Parameters:
            num_landmarks: landmarks per image
            model: the network: <models>
            image_size: height and width of the network's input, pixels; multiples of 32
            mixed_precision: float16 on a GPU, bfloat16 on a CPU that has instructions for it
            num_images: training images, if known; a batch is at most a tenth of them
            settings: any others by name, such as {"batch_size": 64, "device": "cpu"}; they win
        """
        named = {"model": model, "image_size": image_size, "mixed_precision": mixed_precision}
        parsed = parse_settings({**named, **(settings or {})})
        for field, number in (("num_landmarks", num_landmarks), ("num_images", num_images)):
            if number is not None and number < 1:
                raise UserError(say("api_count", number=number), field=field, cure=say("api_count_cure"))
        return dict(query_memory(planned_subject(parsed, num_landmarks, num_images), anew=True))

    def predict(self, run_id: str, images: list[Upload], mm_per_px: Number | None = None) -> dict[str, Any]:
        """Find the landmarks on images with the best weights of a run.

        Answers what `python -m backend.predict --json` writes: landmark_names, and for each image its
        landmarks by name with xy (pixels of the original image), xy_mm (null if no pixel size is known) and
        confidence (0 to 1). The images are deleted once they are read.

        Parameters:
            run_id: as start_run answered it
            images: each file wrapped in gradio_client.handle_file: PNG, JPEG, BMP, TIFF or DICOM
            mm_per_px: the pixel size of files that state none
        """
        checkpoint = self._find_run(run_id).checkpoint_path("best").absolute()
        if not checkpoint.is_file():
            raise UserError(
                say("api_no_weights", run_id=run_id), field="run_id", cure=say("api_no_weights_cure")
            )
        if not images:
            raise UserError(say("api_no_images"), field="images", cure=say("api_no_images_cure"))
        if mm_per_px is not None and not 0 < mm_per_px < float("inf"):
            raise UserError(
                say("api_bad_spacing", given=mm_per_px), field="mm_per_px", cure=say("api_bad_spacing_cure")
            )
        return _predict(checkpoint, [Path(image.path) for image in images], mm_per_px)

    def _find_data(self, settings: Mapping[str, Any]) -> str:
        """Return the path of the data set that settings name."""
        name = str(settings.get("dataset_path", ""))
        datasets = dict(list_datasets(self.data_root))
        path = Path(name)
        if name not in datasets and (not path.is_absolute() or ".." in path.parts):
            raise UserError(
                say("api_no_data", name=name, folder=self.data_root),
                field="dataset_path",
                cure=_choose_from(list(datasets), "api_choose_data"),
            )
        return datasets.get(name, name)

    def _find_run(self, run_id: str) -> RunFolder:
        """Find a run by its id among the existing runs, so that no id leads out of their folder."""
        runs = {folder.run_id: folder for folder in list_runs(self.runs_dir)}
        if run_id not in runs:
            raise UserError(say("api_no_run", run_id=run_id), field="run_id", cure=_choose_from(list(runs)))
        return runs[run_id]

    def _default_run(self) -> RunFolder:
        folder = default_run(self.runs_dir)
        if folder is None:
            raise UserError(say("api_no_runs"), field="run_id", cure=say("api_no_runs_cure"))
        return folder


def bind_api(page: gr.Blocks, runs_dir: Path, data_root: Path) -> None:
    """Bind the endpoints to the page that is being laid out.

    Their concurrency leaves room for the page's own polling.
    """
    api = Api(runs_dir, data_root)
    limits: dict[Callable[..., Any], int] = {
        api.start_run: 1,
        api.run_status: 4,
        api.stop_run: 4,
        api.recommend_batch_size: 1,
        api.predict: 2,
    }
    for endpoint, limit in limits.items():
        bound = gradio_api(_answering(endpoint), api_name=endpoint.__name__, concurrency_limit=limit)
        _describe(page.fns[bound["id"]].inputs, endpoint)


def _describe(inputs: Sequence[Any], endpoint: Callable[..., Any]) -> None:
    """Show the descriptions of the arguments, which Gradio reads from a docstring but does not show."""
    _, descriptions, _ = get_function_description(endpoint)
    for component, (name, description) in zip(inputs, descriptions.items(), strict=True):
        for place, names in NAMES.items():
            description = description.replace(place, names)
        component.label = name
        component._api_info["additional_description"] = description


def _answering(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an endpoint: check its arguments by type, and report mistakes in one line."""
    checked = validate_call(endpoint)
    names = list(inspect.signature(endpoint).parameters)

    @functools.wraps(endpoint)  # Gradio reads names, types and docstring
    def answer(*values: Any) -> Any:
        try:
            return checked(**dict(zip(names, values, strict=True)))
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except ValidationError as error:
            raise gr.Error(_format_mistakes(error), print_exception=False) from error

    return answer


def _format_mistakes(error: ValidationError) -> str:
    """Say which argument has a wrong type, and what it accepts."""
    first = error.errors()[0]
    what = str(first["msg"]).removeprefix("Value error, ")
    return str(UserError(what, field=str(first["loc"][0]), cure=say("api_type_cure")))


def _choose_from(names: list[str], key: str = "api_choose") -> str:
    """Name what to choose from, as far as that is short."""
    if not names:
        return say("api_choose_none")
    return say(key, names=", ".join(names[:MAX_NAMES]) + (" ..." if names[MAX_NAMES:] else ""))


def _describe_run(folder: RunFolder) -> dict[str, Any]:
    """Describe a run by what is in its folder."""
    state, status, outcome = derive_state(folder), folder.read_status() or {}, folder.read_outcome()
    rows = read_rows(folder)
    is_training, best = state in LIVE_STATES, find_best(folder)
    last = status if is_training or not rows else rows[-1]
    return {
        "run_id": folder.run_id,
        "state": state.value,
        "phase": last.get("phase"),
        "epoch": last.get("epoch"),
        "num_epochs": status.get("num_epochs"),
        "seconds_left": status.get("seconds_left") if is_training else None,
        "best": best
        and {
            "mre_px": best["val/mre_px"],
            "mre_mm": best.get("val/mre_mm"),
            "epoch": best["epoch"],
            "phase": best.get("phase"),
        },
        "outcome": outcome and {"state": state.value, "reason": outcome.get("reason", "")},
        "folder": str(folder.path.absolute()),
    }


def _predict(checkpoint: Path, files: list[Path], mm_per_px: float | None) -> dict[str, Any]:
    """Predict as the Predict tab does, without keeping anything of the images."""
    uploads = Uploads(typed_mm_per_px=mm_per_px)
    try:
        for file in files:
            take_in(uploads, file)
        assert uploads.folder is not None
        start_prediction(uploads.folder, list_for_prediction(uploads), checkpoint)
        for _ in follow_prediction(uploads.folder):
            pass
        predictions = read_predictions(uploads.folder)
        assert predictions is not None  # nobody else knows this folder and could stop it
        adopt(uploads, *predictions)
        return to_json(uploads.marked(), uploads.landmark_names)
    finally:
        if uploads.folder is not None:
            stop_prediction(uploads.folder)
        forget(uploads)
