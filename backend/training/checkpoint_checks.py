"""Check that the content of a checkpoint has the right types and sizes and finite numbers.

A checkpoint may come from anywhere: nothing in it is used before it is checked here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.config import RunConfig
from backend.data.shape_prior import ShapePrior, find_flaw
from backend.errors import UserError
from backend.run.best import REFINE, TRAIN

MAX_SHOWN = 200  # characters of another error that a message quotes
OTHER_CHECKPOINT = "use the run's other checkpoint, or train again"


def check_content(path: Path, content: Mapping[str, Any]) -> None:
    """Raise UserError for the first key whose value has the wrong type; missing keys are not checked."""
    for key, (is_right, kind) in _KINDS.items():
        if key in content and not is_right(content[key]):
            raise UserError(
                f"{path} is damaged or not Fiducial's: its {key} is not {kind}",
                field="checkpoint",
                cure=OTHER_CHECKPOINT,
            )


def parse_config(path: Path, args: Mapping[str, Any]) -> RunConfig:
    """Read the configuration in a checkpoint. Raises UserError, naming the file, if it is not valid."""
    try:
        return RunConfig.from_dict(args)
    except UserError as error:
        reason = " ".join(str(error).split())[:MAX_SHOWN]
        raise UserError(
            f"the settings in {path} cannot be used ({reason})", field="checkpoint", cure=OTHER_CHECKPOINT
        ) from error


def check_weights(path: Path, weights: Mapping[str, Tensor], network: nn.Module, name: str) -> None:
    """Raise UserError if weights do not fit a network or are not finite numbers.

    The network may be on torch's meta device.
    """
    expected = network.state_dict()
    misfits = [
        key
        for key in [*expected, *weights]
        if key not in expected or not _fits(weights.get(key), expected[key])
    ]
    if misfits:
        raise UserError(
            f"the weights in {path} do not fit {name}: {', '.join(map(repr, misfits[:2]))} and "
            f"{len(misfits) - 1} more are missing, unknown, or of another size or type",
            field="checkpoint",
            cure="use the version of Fiducial that made it",
        )
    broken = [key for key, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError(
            f"{len(broken)} of {len(weights)} weights of {name} in {path} are not finite numbers",
            field="checkpoint",
            cure=OTHER_CHECKPOINT,
        )


def read_shape_prior(path: Path, content: Mapping[str, Any]) -> ShapePrior | None:
    """Read the shape prior in a checkpoint; None without one, as in older files.

    Raises UserError if it is not valid.
    """
    tensors = content.get("shape_prior")
    if not tensors:
        return None
    names = ("mean_xy", "covariance")
    flaw = "it holds other keys than mean_xy and covariance"
    if set(tensors) == set(names):
        prior = ShapePrior(*(tensors[name].double().numpy() for name in names))
        flaw = find_flaw(prior, len(content["landmark_names"]))
        if not flaw:
            return prior
    raise UserError(
        f"the shape_prior in {path} cannot be used: {flaw}", field="checkpoint", cure=OTHER_CHECKPOINT
    )


def _fits(tensor: Tensor | None, expected: Tensor) -> bool:
    return (
        tensor is not None
        and tensor.shape == expected.shape
        and tensor.is_floating_point() == expected.is_floating_point()
        and not tensor.is_complex()
    )


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor whose numbers can be read: dense, real and on a device."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_complex())
    )


def _mapping_check(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check whether a value is a mapping from names to values that pass `is_right`."""

    def is_mapping(value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            isinstance(key, str) and is_right(item) for key, item in value.items()
        )

    return is_mapping


def _is_plain_mapping(value: Any) -> bool:
    """Whether a value is a mapping that JSON can hold, as the program writes it."""
    try:
        json.dumps(value)
    # in this order: a tensor, a number with too many digits, a mapping that contains itself
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, Mapping)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_epoch(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(name, str) and name for name in value)
        and len(set(value)) == len(value)
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _is_network(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and are_weights(value.get("model_state_dict"))
        and _are_numbers(value.get("unrefined", {}))
    )


_are_numbers = _mapping_check(_is_number)
are_weights = _mapping_check(_is_tensor)
# by key: a check, and what the value is if it passes
_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "format_version": (lambda value: isinstance(value, int | float | str | None), "a number"),
    "phase": (lambda value: isinstance(value, str) and value in (TRAIN, REFINE), "a phase of a run"),
    "epoch": (_is_epoch, "a whole number"),
    "model_state_dict": (are_weights, "a set of named tensors"),
    "networks": (_mapping_check(_is_network), "a set of named networks"),
    "landmark_names": (_are_names, "a list of names, each once"),
    "shape_prior": (are_weights, "a set of named tensors"),
    "learned_from": (_mapping_check(_are_texts), "a set of lists of fingerprints"),
    "first_learned_from": (_mapping_check(_are_texts), "a set of lists of fingerprints"),
    "val_metrics": (_are_numbers, "a set of named numbers"),
    "best_mre": (_is_number, "a number"),
    "best_mre_mm": (_is_number, "a number"),
    **dict.fromkeys(("args", "first_args", "preprocessing"), (_is_plain_mapping, "a set of plain values")),
}
