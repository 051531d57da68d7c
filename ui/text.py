"""Every visible word of the page. Handlers and layouts name a text; they hold none.

The words here are English; `ui.text_fa` has the same names in Persian.
"""

from __future__ import annotations

from backend.config import Settings
from backend.evaluation.words import WORDS
from backend.presets import PRESETS
from ui.language import isolate, isolate_latin, spoken
from ui.text_fa import TEXT as PERSIAN

TEXT: dict[str, str] = {
    **{f"{name}_info": field.description or "" for name, field in Settings.model_fields.items()},
    **{f"preset_{name}_words": preset.description for name, preset in PRESETS.items()},
    "title": "Fiducial",
    "tagline": "train landmark detectors on your own images",
    "language": "Language",
    "tab_train": "Train",
    "tab_monitor": "Monitor",
    "tab_runs": "Runs",
    # train
    "dataset_path": "Data set",
    "dataset_path_info": "a folder below the data root, or the path of any other",
    "annotation_type": "Whose landmarks",
    "annotation_type_info": "the mean of all readers, or one of them",
    "data_summary": "**{num_images} images** ({splits}), **{num_landmarks} landmarks**, {readers}, "
    "{spacings}; {problems}",
    "spacing_none": "no pixel size (errors in px)",
    "spacing_one": "{spacing} mm/px",
    "spacing_many": "{num} pixel sizes from {low} to {high} mm/px",
    "readers_count": "{num} readers",
    "readers_one": "1 reader",
    "problems_none": "no problems found",
    "problems_some": "{num} problems",
    "problems_title": "Problems of the data set",
    "problems_more": "and {num} more",
    "leaks_looking": "looking for images that stand in two splits ...",
    "leaks_none": "no image of train or valid stands in another split",
    "leaks_some": "⚠ **{num} pairs of images are one image in two splits**: see the problems",
    "sample": "A sample, with the sigma that will be used",
    "preset": "Preset",
    "preset_info": "where to start; every field below stays yours to change",
    "preset_choice": "{name}: {words}",
    "preset_custom": "custom",
    "model": "Model",
    "model_info": "hrnet gains most from larger images and needs the memory for them",
    "image_height": "Image height, px",
    "image_width": "Image width, px",
    "image_height_info": "start at 256 x 256; larger costs memory",
    "image_width_info": "a multiple of 32, like the height",
    "batch_size": "Batch size",
    "batch_size_info": "set it by the memory that is free",
    "recommend": "Recommend",
    "lr": "Learning rate (LR)",
    "lr_info": "lower it to 1e-4 if training is unstable",
    "epochs": "Epochs",
    "epochs_info": "passes over the training images",
    "warmup_epochs": "Warm-up, epochs",
    "warmup_epochs_info": "the learning rate rises over them",
    "loss": "Loss",
    "loss_info": "kl learned fastest in our measurements",
    "mixed_precision": "Mixed precision",
    "mixed_precision_info": "less memory and faster on a GPU; a CPU computes in float32 anyway",
    "gradient_accumulation_steps": "Gradient accumulation, batches a step",
    "sigma": "Sigma of the target, input px",
    "output_stride": "Output stride, input px a cell",
    "refine": "Refine on crops in full resolution",
    "refine_info": "a second, small network looks closely at each landmark: most of the accuracy, for some minutes",
    "refine_epochs": "Refinement: epochs",
    "refine_lr": "Refinement: learning rate",
    "refine_crops": "Refinement: crops a step",
    "num_refiners": "Refinement: networks to average",
    "crop_size": "Crop, crop px a side",
    "crop_mm_per_px": "Crop, mm a crop px",
    "crop_share": "Crop, share of the image (no spacing)",
    "crop_jitter": "Crop jitter, crop px",
    "refine_sigma": "Refinement: sigma, crop px",
    "prediction_crops": "Refinement: crops when predicting",
    "dataset_format": "Annotation format",
    "val_fraction": "Validation share",
    "resize": "Fit into the input",
    "rotation_deg": "Rotation, degrees",
    "scale_jitter": "Scaling, share",
    "shift_jitter": "Shift, share of the input",
    "elastic": "Elastic, share of the input",
    "flip_pairs": "Pairs that swap in a mirror",
    "photometric": "Brightness, contrast and noise",
    "decoder": "Decoder",
    "weight_decay": "Weight decay",
    "clip_norm": "Gradient clip",
    "ema_decay": "Decay of the averaged weights",
    "patience": "Patience, epochs",
    "on_divergence": "When training becomes unstable",
    "on_oom": "When memory runs out",
    "pretrained": "ImageNet weights (resnet)",
    "first_network": "First network: keep that of a checkpoint",
    "device": "Device",
    "num_workers": "Data workers",
    "seed": "Seed",
    "preview_every": "Epochs between previews",
    "image_size": "Image size, px",
    "advanced": "Advanced: sigma, augmentation, seed, device ...",
    "sigma_note": "sigma {sigma_px:.3g} input px = {sigma_cells:.3g} cells at output stride {stride}",
    "sigma_note_image": " = {sigma_image:.1f} px of this image",
    "sigma_note_mm": " = {sigma_mm:.2f} mm",
    "crop_note": "; a crop of {side} x {side} covers {width:.0f} x {height:.0f} px of this image",
    "crop_of": "crop about {name}",
    "field_mistake": "{what}",
    "estimate_empty": "Device and time per epoch: measuring ...",
    "estimate": "**{device}**, {free} of {total} free · {parameters} parameters · {time}",
    "estimate_time": "about **{epoch}** an epoch, **{total}** for {epochs} epochs",
    "estimate_time_refine": " and the refinement, which takes {time} of it",
    "estimate_time_busy": "time per epoch is not measured while a run trains here",
    "estimate_time_none": "no time: not even two images fit into the memory",
    "estimate_failed": "The estimate failed: {reason}",
    "recommended": "**{reason}**",
    "no_answer": "{module} gave no answer in {seconds} s; try again",
    "no_answer_code": "{module} ended with code {code}",
    "command": "The same from a terminal",
    "start": "Start training",
    "start_blocked": "Cannot start: {reason}",
    "start_busy": "run {run_id} trains on {device} now; wait for it, or cancel it on the Monitor tab",
    "started": "Started {run_id}",
    "data_failed": "⚠ {reason}",
    "mean_choice": "mean",
    "no_such_data": "{path} does not exist; choose a folder that does",
    "choose_data": "Choose a data set first",
    "needs_batch_size": "the page needs a number; press Recommend",
    # monitor
    "run": "Run",
    "no_runs": "No run yet. Choose a data set on the Train tab and press Start training.",
    "state_created": "created",
    "state_running": "running",
    "state_stopping": "stopping",
    "state_interrupted": "interrupted",
    "state_completed": "completed",
    "state_finished_early": "finished early",
    "state_stopped": "cancelled",
    "state_out_of_memory": "out of memory",
    "state_diverged": "diverged",
    "state_failed": "failed",
    "preparing": "preparing: reading images ...",
    "phase_train": "training",
    "phase_refine": "refinement",
    "epoch_of": "{phase}: epoch {epoch} of {num_epochs}",
    "then_refinement": ", then the refinement",
    "step_of": "step {step} of {steps}",
    "in_parts": "{images} images at once",
    "time_left": "{time} left",
    "speed": "{speed:.1f} images/s",
    "best": "best {value} in epoch {epoch} of {phase}",
    "finish": "Finish now, keep the best",
    "cancel": "Cancel",
    "cancel_really": "Really cancel",
    "cancel_no": "Go on training",
    "finish_asked": "Finishing: validates and keeps the best weights",
    "cancel_asked": "Cancelling: saves where it is; Resume goes on from there",
    "log_axis": "Logarithmic axis",
    "losses": "Loss",
    "errors": "Validation error",
    "train": "train",
    "validation": "validation",
    "best_mark": "best",
    "best_value": "best: {value}",
    "mark_refinement": "refinement",
    "unrefined": "before refinement",
    "mark_lr_lowered": "LR {lr:.1e}",
    "mark_oom_retry": "parts of {images}",
    "mark_early_stop": "early stop",
    "mark_resumed": "resumed",
    "epoch": "epoch",
    "heatmap": "Heatmap",
    "heatmap_off": "off",
    "heatmap_all": "all landmarks",
    "previews": "Fixed validation images after epoch {epoch} of {phase}: truth is a ring, the prediction a cross",
    "previews_none": "Predictions on the fixed validation images appear after the first epoch.",
    "preview_title": "{image_id}: {error}",
    "truth": "truth",
    "prediction": "prediction",
    "error_line": "error",
    "landmark_table": "Landmarks, worst first",
    "landmark": "landmark",
    "within": "mean error, epoch {epoch}",
    "landmarks_none": "Errors of each landmark appear after the first validation.",
    "progress": "share of the training that is done",
    "events": "Events",
    "no_events": "nothing yet",
    "log": "Log",
    "gpu_line": "{title}: {used} of {total} used{load}{temperature}",
    "gpu_load": ", {load} % busy",
    "gpu_temperature": ", {temperature} °C",
    "host_line": "CPU {load} % busy, {used} of {total} memory used",
    "time_seconds": "{seconds} s",
    "time_minutes": "{minutes} min",
    "time_hours": "{hours} h {minutes} min",
    # runs
    "runs_columns": "run,state,model,size,loss,epochs,best MRE,data set,started",
    "open_run": "Open a run: click its row",
    "files": "Files to download",
    "no_files": "no checkpoint yet",
    "file_best": "best.pt, the weights to use ({size})",
    "file_last": "last.pt, to resume from ({size})",
    "file_metrics": "metrics.csv",
    "file_config": "config.json",
    "resume": "Resume",
    "watch": "Watch on Monitor",
    "resumed": "Resumed {run_id}",
    "settings_of": "Settings",
    "chosen_by": "chosen: {reason}",
    "setting": "setting",
    "value": "value",
    "note": "note",
    "runs_none": "No run yet. Runs started on this page or by train.py appear here.",
    # evaluate
    "evaluate_title": "Evaluate best.pt",
    "evaluate_split": "Split",
    "evaluate_split_info": "a test split has chosen no weights",
    "evaluate_truth": "Truth",
    "evaluate_exclude": "File of image ids to leave out",
    "evaluate_exclude_info": "one id a line; empty: none",
    "evaluate": "Evaluate",
    "evaluate_started": "Evaluating on {split}; the page can be used or closed meanwhile",
    "evaluate_busy": "A run trains now: both will be slower until one of them ends.",
    "evaluate_reading": "reading the network and the data set ...",
    "evaluate_predicting": "predicting: {done} of {total} images",
    "evaluate_measuring": "measuring and writing the report ...",
    "evaluate_failed": "⚠ The evaluation failed: {reason}",
    "evaluate_ended": "the process ended with code {code}; see evaluations/{name}.log in the run's folder",
    "evaluate_running": "this run is being evaluated already; wait for it",
    "evaluate_no_split": "choose a data set and a split first",
    "evaluation_shown": "Evaluation shown",
    "evaluation_about": "{dataset}, {split}: {num} images, truth {truth}, {excluded} left out, evaluated {time}",
    "evaluation_other_version": "this evaluation was made by another version; evaluate again",
    "evaluation_mre": "MRE ± SD",
    "evaluation_interval": "95 % interval {interval}",
    "evaluation_median": "median",
    "evaluation_within": "within {threshold} mm",
    "evaluation_nme": "NME",
    "evaluation_readers": "readers among themselves",
    "evaluation_unrefined": "before refinement",
    "evaluation_report": "report.html",
    "evaluation_record": "record.json",
    "evaluation_curve": "Cumulative error",
    "evaluation_by_landmark": "Error by landmark",
    "evaluation_by_group": "Error by group",
    "evaluation_group": "Group by",
    "evaluation_confidence": "Confidence and error (Spearman {spearman})",
    "evaluation_table": "Landmarks, worst first",
    "evaluation_worst": "Worst images: truth is a ring, the prediction a cross",
    "evaluation_unreadable": "{image_id}: the image can no longer be read",
    **WORDS,
}


_WORDS = {"en": TEXT, "fa": {key: isolate_latin(text) for key, text in PERSIAN.items()}}


def say(key: str, **values: object) -> str:
    """A text by its name in the language of the page, its places filled in."""
    return _WORDS[spoken().code][key].format(**values)


def say_label(key: str) -> str:
    """What a setting is called; one that is unknown here (a run of another version has it) goes by its own name."""
    return say(key) if key in TEXT else isolate(key)


def quote(words: str) -> str:
    """Words that stay as the backend wrote them (English, in whichever language the page is), kept in their order."""
    return isolate(words) if spoken().direction == "rtl" else words


def in_bytes(number: float) -> str:
    """Bytes for people: "10.4 GiB", "25 MiB"."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def in_time(seconds: float) -> str:
    """Seconds for people: "42 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return say("time_seconds", seconds=f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}")
    minutes = round(seconds / 60)
    if minutes < 90:
        return say("time_minutes", minutes=minutes)
    return say("time_hours", hours=minutes // 60, minutes=f"{minutes % 60:02d}")


def in_distance(px: float | None, mm: float | None) -> str:
    """An error in mm where the spacing is known, else in px; never both."""
    if mm is not None:
        return f"{mm:.2f} mm"
    return f"{px:.1f} px" if px is not None else "-"
