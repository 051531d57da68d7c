"""A run's configuration: the user's settings, and the values that the program chose, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.config.mistakes import parse_settings
from backend.config.settings import Settings
from backend.errors import UserError
from backend.geometry import CropFrame

FORMAT_VERSION = 1
# the values that may be chosen for mixed_precision; older runs have True
PRECISIONS = (False, True, "float16", "bfloat16")


@dataclass(frozen=True)
class Choice:
    """A value that the program chose for the user, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class RunConfig:
    """A run's frozen configuration: settings as given, and chosen values that replace some of them."""

    settings: Settings
    chosen: Mapping[str, Choice]

    def value(self, field: str) -> Any:
        """Return the value in effect: the chosen one, otherwise the given one."""
        return self.chosen[field].value if field in self.chosen else getattr(self.settings, field)

    @property
    def learned_pixel_sizes(self) -> bool:
        """Whether any training image had a pixel size; otherwise a stated size must not move a prediction."""
        return self.value("crop_mm_per_px") is not None

    @property
    def crop_frame(self) -> CropFrame:
        """The area of a crop of the refinement, after the training images have decided it.

        See `crops_in_force`.
        """
        return CropFrame(self.settings.crop_size, self.value("crop_mm_per_px"), self.value("crop_share"))

    def val_fraction_on(self, dataset_path: Path) -> float:
        """Return the share of the training images used for validation: 0 unless the data set is the run's."""
        is_own = Path(self.value("dataset_path")).resolve() == dataset_path.resolve()
        return self.settings.val_fraction if is_own else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for config.json and the checkpoint's `args`."""
        return {
            "format_version": FORMAT_VERSION,
            "settings": self.settings.model_dump(mode="json"),
            "chosen": {name: asdict(choice) for name, choice in self.chosen.items()},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RunConfig:
        """Undo `to_dict`. Raises UserError for another format or a setting out of range."""
        version = raw.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"config.json has format_version {version}, this program reads {FORMAT_VERSION}",
                cure="use the version of Fiducial that made the run",
            )
        try:
            chosen = {
                name: Choice(choice["value"], choice["reason"]) for name, choice in raw["chosen"].items()
            }
            # a run from before the refinement existed has no such setting
            settings = {"refine": False, **raw["settings"]}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"config.json is damaged ({error!r:.80})", cure="start a new run") from error
        _check_chosen(settings, chosen)
        return cls(parse_settings(settings), chosen)


def _check_chosen(settings: Mapping[str, Any], chosen: Mapping[str, Choice]) -> None:
    """Raise UserError for a chosen value that its setting does not accept: the file may have been edited."""
    values = {name: choice.value for name, choice in chosen.items() if name in Settings.model_fields}
    if values.get("crop_mm_per_px", 0) is None:  # no training image has a pixel size
        del values["crop_mm_per_px"]
    precision = values.pop("mixed_precision", False)
    if not isinstance(precision, bool | str) or precision not in PRECISIONS:
        raise UserError(
            f"{precision!r:.40} is not a precision", field="mixed_precision", cure="start a new run"
        )
    parse_settings({**settings, **values})
