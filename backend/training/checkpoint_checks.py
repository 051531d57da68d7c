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
    """Raises UserError for the first key whose value has the wrong type; missing keys are not checked."""
    for key, (is_right, kind) in _KINDS.items():
        if key in content and not is_right(content[key]):
            raise UserError(
                f"{path} is damaged or not Fiducial's: its {key} is not {kind}",
                field="checkpoint",
                cure=OTHER_CHECKPOINT,
            )


def config_of(path: Path, args: Mapping[str, Any]) -> RunConfig:
    """The configuration in a checkpoint. Raises UserError, naming the file, where it is not valid."""
    try:
        return RunConfig.from_dict(args)
    except UserError as error:
        what = " ".join(str(error).split())[:MAX_SHOWN]
        raise UserError(
            f"the settings in {path} cannot be used ({what})", field="checkpoint", cure=OTHER_CHECKPOINT
        ) from error


def check_weights(path: Path, weights: Mapping[str, Tensor], network: nn.Module, name: str) -> None:
    """Raises UserError where weights do not fit a network (which may be on torch's meta device) or are not
    finite."""
    wanted = network.state_dict()
    odd = [
        key
        for key in [*wanted, *weights]
        if key not in wanted or not _is_alike(weights.get(key), wanted[key])
    ]
    if odd:
        raise UserError(
            f"the weights in {path} do not fit {name}: {', '.join(map(repr, odd[:2]))} and {len(odd) - 1} "
            "more are missing, unknown, or of another size or type",
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
    """The shape prior in a checkpoint; None without one, as in older files. Raises UserError where it is
    invalid."""
    kept = content.get("shape_prior")
    if not kept:
        return None
    names = ("mean_xy", "covariance")
    flaw = "it holds other keys than mean_xy and covariance"
    if set(kept) == set(names):
        prior = ShapePrior(*(kept[name].double().numpy() for name in names))
        flaw = find_flaw(prior, len(content["landmark_names"]))
        if not flaw:
            return prior
    raise UserError(
        f"the shape_prior in {path} cannot be used: {flaw}", field="checkpoint", cure=OTHER_CHECKPOINT
    )


def _is_alike(tensor: Tensor | None, wanted: Tensor) -> bool:
    return (
        tensor is not None
        and tensor.shape == wanted.shape
        and tensor.is_floating_point() == wanted.is_floating_point()
        and not tensor.is_complex()
    )


def _is_tensor(value: Any) -> bool:
    """Dense and with values, so that its numbers can be read."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_complex())
    )


def _is_mapping_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            isinstance(key, str) and is_right(one) for key, one in value.items()
        )

    return check


def _is_plain_mapping(value: Any) -> bool:
    """Only what JSON can hold, as the program writes it."""
    try:
        json.dumps(value)
    except (
        TypeError,
        ValueError,
        RecursionError,
    ):  # a tensor; a number of too many digits; a nest without end
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


_are_numbers = _is_mapping_of(_is_number)
are_weights = _is_mapping_of(_is_tensor)  # by name, dense and with values
_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "format_version": (lambda value: isinstance(value, int | float | str | None), "a number"),
    "phase": (lambda value: isinstance(value, str) and value in (TRAIN, REFINE), "a phase of a run"),
    "epoch": (_is_epoch, "a whole number"),
    "model_state_dict": (are_weights, "a set of named tensors"),
    "networks": (_is_mapping_of(_is_network), "a set of named networks"),
    "landmark_names": (_are_names, "a list of names, each once"),
    "shape_prior": (are_weights, "a set of named tensors"),
    "learned_from": (_is_mapping_of(_are_texts), "a set of lists of fingerprints"),
    "first_learned_from": (_is_mapping_of(_are_texts), "a set of lists of fingerprints"),
    "val_metrics": (_are_numbers, "a set of named numbers"),
    "best_mre": (_is_number, "a number"),
    "best_mre_mm": (_is_number, "a number"),
    **dict.fromkeys(("args", "first_args", "preprocessing"), (_is_plain_mapping, "a set of plain values")),
}
