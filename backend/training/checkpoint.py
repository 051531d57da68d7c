"""Save and load checkpoints, which `torch.load(path, weights_only=True)` can read too."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from backend.data.shape_prior import ShapePrior
from backend.errors import UserError
from backend.files import write_bytes_atomic
from backend.run.best import REFINE, TRAIN, MeanError
from backend.training.checkpoint_checks import check_content
from backend.training.out_of_memory import is_out_of_memory

FORMAT_VERSION = 1
DOWNLOAD_PATIENCE_S = 300.0  # on Windows, a download locks the old file; that must not end the training
REQUIRED_KEYS = ("format_version", "epoch", "model_state_dict", "args", "landmark_names", "preprocessing")
# keys that only a resume needs, empty in a file that only predicts
WITHOUT_RESUME: dict[str, Any] = {
    **{key: {} for key in ("raw_model_state_dict", "optimizer_state_dict", "scheduler", "scaler", "rng")},
    "last_good": None,
}
RESUME_KEYS = ("raw_model_state_dict", "optimizer_state_dict", "scheduler", "rng", "loop")


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, or replace it atomically: written beside it, flushed to disk, renamed.

    Tensors are saved as CPU tensors, so that a file from cuda:1 loads on any machine.
    """
    buffer = io.BytesIO()
    on_cpu = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu"), dict(content))
    torch.save({"format_version": FORMAT_VERSION, **on_cpu}, buffer)
    write_bytes_atomic(path, buffer.getbuffer(), DOWNLOAD_PATIENCE_S)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint. Raises UserError for a missing, damaged or foreign file, or an unknown format."""
    if not path.is_file():
        raise UserError(f"{path} is not a file", field="checkpoint", cure="give a run's checkpoints/best.pt")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise anything, from EOFError to KeyError
        raise UserError(
            f"{path} cannot be read as a checkpoint ({error!r:.120})",
            field="checkpoint",
            cure="the file is damaged or not Fiducial's; copy it again or use the run's other checkpoint",
        ) from error
    missing = [k for k in REQUIRED_KEYS if not isinstance(content, dict) or k not in content]
    if missing:
        raise UserError(
            f"{path} is not a checkpoint of Fiducial: it lacks {', '.join(missing)}",
            field="checkpoint",
            cure="give a run's checkpoints/best.pt",
        )
    check_content(path, content)
    if content["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {content['format_version']}, this program reads {FORMAT_VERSION}",
            field="checkpoint",
            cure="use the version of Fiducial that made it",
        )
    return dict(content)


def load_best(path: Path) -> dict[str, Any] | None:
    """Read a best.pt; None if it is missing or damaged.

    Raises UserError if it cannot be read at the moment, but may be intact.
    """
    try:
        return load_checkpoint(path) if path.is_file() else None
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) or (cause is not None and is_out_of_memory(cause)):
            raise
        return None


def load_resumable(path: Path) -> dict[str, Any]:
    """Read a last.pt. Raises UserError if it cannot be read or is a best.pt, which only predicts."""
    content = load_checkpoint(path)
    missing = [key for key in RESUME_KEYS if not content.get(key)]
    if missing:
        raise UserError(
            f"{path} has no {', '.join(missing)}: training cannot be resumed from it",
            field="resume",
            cure="a best.pt only predicts; put the run's own last.pt back",
        )
    return content


def keep_first_network(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a best.pt with a checkpoint's first network, without the second one.

    Its errors are those on the validation images of the run that trained it, if the checkpoint has them: they
    are unknown for the weights of a last.pt. After a refinement the epoch is unknown.
    """
    epoch, metrics = content["epoch"], content.get("val_metrics", {})
    if content.get("phase") == REFINE:
        unrefined = content.get("networks", {}).get(REFINE, {}).get("unrefined", {})
        epoch, metrics = None, {f"val/{name}": value for name, value in unrefined.items()}
    elif content.get("raw_model_state_dict"):  # a last.pt
        metrics = {}
    error = MeanError.of(metrics)
    return {
        **content,
        **WITHOUT_RESUME,
        "phase": TRAIN,
        "epoch": epoch,
        "val_metrics": metrics,
        "best_mre": error.px,
        "best_mre_mm": error.mm,
        "loop": {},
        "networks": {},
    }


def shape_prior_content(prior: ShapePrior | None) -> dict[str, torch.Tensor]:
    """Return what a checkpoint holds as `shape_prior`; empty without one."""
    return {} if prior is None else {name: torch.from_numpy(values) for name, values in vars(prior).items()}
