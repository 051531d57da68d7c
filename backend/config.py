"""The settings of a run: the one source for command line, form, validation and config.json.

What the user asked for (`Settings`) and what the program decided for them (`Choice`, with its reason) are kept
apart, and both are written to config.json. Needs no torch and knows no screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from backend.errors import UserError
from backend.geometry import OUTPUT_STRIDES, CropFrame, output_stride_for
from backend.numbers import read_number, read_whole_number, read_whole_numbers, to_latin

FORMAT_VERSION = 1
SIZE_MULTIPLE = 32  # every network halves its maps down to 1/32

ModelName = Literal["resnet", "hrnet", "unet", "hourglass"]
LossName = Literal["kl", "adaptive_wing", "mse"]
AUTO = "auto"
Auto = Literal["auto"]
# what mixed precision may be decided as; older runs had True
PRECISIONS = (False, True, "float16", "bfloat16")
SIDES = ("height", "width")  # the two numbers of image_size


class Settings(BaseModel):
    """Everything that decides a run's result. Every field's range and help serves the form and the flags too."""

    # an infinity has no JSON, so config.json could not hold it
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: ModelName = Field("hrnet", description="network")
    image_size: tuple[int, int] = Field(
        (256, 256), description="height and width of the network's input, pixels; multiples of 32"
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        8, description="images a batch, or auto: what the free memory allows"
    )
    lr: float = Field(
        1.5e-3, gt=0, le=10, description="peak learning rate of AdamW; 1e-4 if training is unstable"
    )
    epochs: int = Field(60, ge=1, le=100_000, description="passes over the training images")
    loss: LossName = Field("kl", description="loss")
    warmup_epochs: float = Field(6, ge=0, le=100_000, description="epochs over which the learning rate rises")
    mixed_precision: bool = Field(
        True,
        description="float16 autocast with a gradient scaler on CUDA; bfloat16 on a CPU that has instructions for it "
        "(AVX512-BF16, AMX), float32 on others",
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=1024, description="batches that are added up for one optimizer step"
    )
    sigma: Annotated[float, Field(gt=0, le=64)] | Auto = Field(
        "auto",
        description="standard deviation of the target Gaussian, input pixels; auto: 0.75 at 128, 1.5 at 256, "
        "3.0 at 512, and at least 0.7 heatmap cells",
    )

    output_stride: Annotated[int, Field(ge=1, le=4)] | Auto = Field(
        "auto",
        description="input pixels a heatmap cell, 1, 2 or 4; auto: 1 at 128, 2 at 256 and 384, 4 from 512 on",
    )

    refine: bool = Field(
        True,
        description="then train a second, small network on crops about each landmark in fine resolution",
    )
    refine_epochs: int = Field(
        40, ge=1, le=100_000, description="refinement: passes over the training images"
    )
    refine_lr: float = Field(2e-3, gt=0, le=10, description="refinement: peak learning rate")
    refine_crops: int = Field(
        64,
        ge=2,
        le=65_536,
        description="refinement: crops a step, in whole images, of which it takes two at least",
    )
    num_refiners: int = Field(
        3, ge=1, le=8, description="refinement: networks that are trained side by side and averaged"
    )
    crop_size: int = Field(
        64, ge=32, le=512, multiple_of=SIZE_MULTIPLE, description="refinement: side of a crop, crop pixels"
    )
    refiner_sides: str = Field(
        "",
        description="refinement: pixels a side at which its networks see a crop, in turn, such as 128, 96, 64, for "
        "networks of different scales err less alike; empty: all see it as it is",
    )
    crop_mm_per_px: float = Field(
        0.3,
        gt=0,
        le=100,
        description="refinement: millimetres a crop pixel, where the image's spacing is known",
    )
    crop_share: float = Field(
        0.06,
        gt=0,
        le=1,
        description="refinement: side of a crop as a share of the image's mean side, where no spacing is known",
    )
    crop_jitter: Annotated[float, Field(ge=0, le=128)] | Auto = Field(
        "auto",
        description="refinement: crops stand this far off the truth while it trains, crop pixels (one sd); auto: as "
        "the first network errs on validation images",
    )

    refine_sigma: Annotated[float, Field(gt=0, le=64)] | Auto = Field(
        "auto",
        description="refinement: standard deviation of the target Gaussian, crop pixels; auto: 2, one heatmap "
        "cell",
    )
    prediction_crops: int = Field(
        1,
        ge=1,
        le=64,
        description="refinement: crops about each landmark, a little apart, whose answers are averaged when predicting",
    )
    shape_prior: bool = Field(
        False,
        description="when predicting, draw points to the shapes that the training images make likely, the more the "
        "less sure a heatmap is: for one anatomy in one pose, such as cephalograms; under kl, from 12 images with 4 "
        "landmarks on",
    )

    dataset_path: str = Field(
        "", description="folder of annotated images; empty: Aariz beside train.py if there, else demo data"
    )
    dataset_format: Literal["auto", "aariz", "isbi2015", "wide_csv", "deeplabcut", "coco"] = Field(
        "auto", description="annotation format; auto: detected from the folder"
    )
    annotation_type: str = Field(
        "mean",
        description='whose landmarks: "Senior Orthodontists", "Junior Orthodontists", or mean of all readers',
    )
    accept_implausible: bool = Field(
        False,
        description="train although the coordinates of the data set cannot be pixels of its images: shares, percent, "
        "another unit, exchanged axes",
    )
    val_fraction: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="share of train carved off for validation where the data set has no valid split; 0 trains on "
        "all and keeps the last weights",
    )
    resize: Literal["letterbox", "stretch"] = Field(
        "stretch", description="keep the image's proportions (letterbox) or fill the input (stretch)"
    )
    rotation_deg: float = Field(5.0, ge=0, le=180, description="augmentation: rotation, degrees (one sd)")
    scale_jitter: float = Field(0.08, ge=0, le=0.5, description="augmentation: scaling, share (one sd)")
    shift_jitter: float = Field(
        0.025, ge=0, le=0.5, description="augmentation: shift, share of the input's size (one sd)"
    )
    elastic: float = Field(
        0.0,
        ge=0,
        le=0.05,
        description="augmentation: smooth local shifts, share of the input's size (one sd)",
    )
    flip_pairs: str = Field(
        "",
        description='augmentation: pairs of landmarks that change places in a mirror, such as "left eye=right eye, '
        'left ear=right ear"; half of the images are then mirrored; empty: none, as it must be for cephalograms',
    )
    photometric: float = Field(
        1.0,
        ge=0,
        le=3,
        description="augmentation: strength of brightness, contrast, gamma and noise; 0 is off",
    )

    decoder: Literal["auto", "dark", "expectation", "argmax"] = Field(
        "auto",
        description="how a heatmap becomes a point; auto: local expectation for kl, DARK for the other losses",
    )
    weight_decay: float = Field(1e-3, ge=0, le=1, description="weight decay of AdamW")
    clip_norm: float = Field(5.0, gt=0, description="gradients are clipped to this norm")
    ema_decay: float = Field(
        0.998,
        ge=0,
        lt=1,
        description="decay a step of the averaged weights, which predict; 0: the raw weights",
    )
    patience: int = Field(
        0,
        ge=0,
        le=100_000,
        description="epochs without a better validation error, after the warm-up, after which a phase ends early; "
        "0: never",
    )
    on_divergence: Literal["retry", "stop"] = Field(
        "retry",
        description="when training becomes unstable: go back and retry at a third of the learning rate, at most "
        "three times, or stop",
    )
    on_oom: Literal["retry", "stop"] = Field(
        "retry",
        description="when memory runs out: compute a step in smaller parts, which leaves the batch as it is, and go "
        "on, at most three times, or stop",
    )
    pretrained: str = Field(
        "", description="file of torchvision's ImageNet weights for resnet's trunk (resnet34)"
    )
    first_network: str = Field(
        "",
        description="a checkpoint of the same network: its weights are kept, and only the refinement is trained",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="auto, cpu, cuda or cuda:N; auto: a GPU if there",
    )
    num_workers: Annotated[int, Field(ge=0, le=64)] | Auto = Field(
        "auto", description="processes that prepare images; auto: 0 on a CPU, up to 8 beside a GPU"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of weights, order and augmentation")
    preview_every: int = Field(1, ge=1, description="epochs between kept previews of the fixed images")

    @property
    def stride_in_force(self) -> int:
        """Input pixels a heatmap cell."""
        return output_stride_for(*self.image_size) if self.output_stride == "auto" else self.output_stride

    @property
    def crop_frame(self) -> CropFrame:
        """What a crop of the refinement covers."""
        return CropFrame(self.crop_size, self.crop_mm_per_px, self.crop_share)

    @field_validator("*", mode="before")
    @classmethod
    def _read_typed_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = NUMBER_SETTINGS.get(info.field_name or "")
        if kind is None:
            return value
        if not kind.is_pair:
            return kind.read(value)
        if not isinstance(value, list | tuple) or len(value) != len(SIDES):
            return value  # which is refused as it is
        return tuple(kind.read(one, f"{side} ") for side, one in zip(SIDES, value, strict=True))

    @field_validator("device", mode="before")
    @classmethod
    def _read_device(cls, value: Any) -> Any:
        return to_latin(value) if isinstance(value, str) else value

    @field_validator("image_size")
    @classmethod
    def _check_image_size(cls, size: tuple[int, int]) -> tuple[int, int]:
        for name, value in zip(SIDES, size, strict=True):
            if not SIZE_MULTIPLE <= value <= 4096:
                raise ValueError(f"{name} {value} is outside 32 to 4096; start from 256 256")
            if value % SIZE_MULTIPLE:
                lower = value // SIZE_MULTIPLE * SIZE_MULTIPLE
                raise ValueError(
                    f"{name} {value} is no multiple of {SIZE_MULTIPLE}; "
                    f"the nearest that fit are {lower} and {lower + SIZE_MULTIPLE}"
                )
        return size

    @field_validator("output_stride")
    @classmethod
    def _check_output_stride(cls, stride: int | str) -> int | str:
        if stride not in ("auto", *OUTPUT_STRIDES):
            raise ValueError(f"{stride} is none of auto, {', '.join(map(str, OUTPUT_STRIDES))}")
        return stride

    @field_validator("refiner_sides")
    @classmethod
    def _check_refiner_sides(cls, text: str, info: Any) -> str:
        num_networks, crop_size = (info.data.get(name) for name in ("num_refiners", "crop_size"))
        if num_networks is None or crop_size is None:
            return text  # these are told first
        try:
            sides = sides_of(text)
        except UserError as error:
            raise ValueError(f"{text!r} is not a list of sides, such as 128, 96, 64: {error}") from None
        for side in sides:
            if side % SIZE_MULTIPLE or not SIZE_MULTIPLE <= side <= crop_size:
                limits = f"from {SIZE_MULTIPLE} to crop_size, {crop_size}"
                raise ValueError(f"{side} in {text!r} is no multiple of {SIZE_MULTIPLE} {limits}")
        if len(sides) > num_networks:
            raise ValueError(f"{text!r} wants num_refiners {len(sides)} or more, not {num_networks}")
        return ", ".join(map(str, sides))

    @field_validator("pretrained")
    @classmethod
    def _check_pretrained(cls, path: str, info: Any) -> str:
        if path and info.data.get("model") != "resnet":
            raise ValueError("only resnet can load ImageNet weights; choose --model resnet or leave it out")
        return path

    @field_validator("first_network")
    @classmethod
    def _check_first_network(cls, path: str, info: Any) -> str:
        if path and not info.data.get("refine"):
            raise ValueError("nothing is left to train with --no-refine; leave one of the two out")
        return path


def sides_of(text: str) -> tuple[int, ...]:
    """The numbers of the setting `refiner_sides`. Raises UserError for what is not a list of them."""
    return read_whole_numbers(text)


@dataclass(frozen=True)
class NumberSetting:
    """A setting that holds a number, or a pair of them (height, width), or may hold "auto" instead."""

    is_whole: bool
    accepts_auto: bool
    is_pair: bool

    def read(self, typed: Any, name: str = "") -> Any:
        """The number that was typed; None where nothing was. Raises ValueError with the cure, after the `name`."""
        text = to_latin(typed) if isinstance(typed, str) else typed
        if text is None or text == "":
            return None
        if self.accepts_auto and isinstance(text, str) and text.lower() == AUTO:
            return AUTO
        try:
            return read_whole_number(typed) if self.is_whole else read_number(typed)
        except UserError as error:
            choice = f", or {AUTO}" if self.accepts_auto else ""
            raise ValueError(f"{name}{error}{choice}") from None


def _find_number_settings() -> dict[str, NumberSetting]:
    found = {}
    for name, field in Settings.model_fields.items():
        kinds = _kinds_of(field.annotation)
        if int in kinds or float in kinds:
            found[name] = NumberSetting(int in kinds, AUTO in kinds, isinstance(field.default, tuple))
    return found


def _kinds_of(annotation: Any) -> set[Any]:
    """The types and the words that an annotation is made of."""
    parts = [part for part in get_args(annotation) if not isinstance(part, FieldInfo)]
    return set().union(*map(_kinds_of, parts)) if parts else {annotation}


NUMBER_SETTINGS: Mapping[str, NumberSetting] = _find_number_settings()


@dataclass(frozen=True)
class Choice:
    """A value that the program decided for the user, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class RunConfig:
    """A run's frozen configuration: what was asked and what was decided."""

    settings: Settings
    chosen: Mapping[str, Choice]

    def value(self, field: str) -> Any:
        """The value in force: the decided one, else the asked one."""
        return self.chosen[field].value if field in self.chosen else getattr(self.settings, field)

    @property
    def learned_pixel_sizes(self) -> bool:
        """Whether any training image had a pixel size; without one, a stated size must not move a prediction."""
        return self.value("crop_mm_per_px") is not None

    @property
    def crop_frame(self) -> CropFrame:
        """What a crop of the refinement covers, where the training images have decided it (`crops_in_force`)."""
        return CropFrame(self.settings.crop_size, self.value("crop_mm_per_px"), self.value("crop_share"))

    def val_fraction_on(self, dataset_path: Path) -> float:
        """What share of a data set's training images was kept from training: of any but the run's own, none."""
        is_own = Path(self.value("dataset_path")).resolve() == dataset_path.resolve()
        return self.settings.val_fraction if is_own else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json and the checkpoint's `args`."""
        return {
            "format_version": FORMAT_VERSION,
            "settings": self.settings.model_dump(mode="json"),
            "chosen": {k: {"value": c.value, "reason": c.reason} for k, c in self.chosen.items()},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RunConfig:
        """Inverse of `to_dict`. Raises UserError for another format or a setting out of range."""
        version = raw.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"config.json has format_version {version}, this program reads {FORMAT_VERSION}",
                cure="use the version of Fiducial that made the run",
            )
        try:
            chosen = {k: Choice(c["value"], c["reason"]) for k, c in raw["chosen"].items()}
            settings = {
                "refine": False,
                **raw["settings"],
            }  # a run made before there was a refinement has none
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"config.json is damaged ({error!r:.80})", cure="start a new run") from error
        _check_chosen(settings, chosen)
        return cls(parse_settings(settings), chosen)


def _check_chosen(settings: Mapping[str, Any], chosen: Mapping[str, Choice]) -> None:
    """Raises UserError for a decided value that is none of its setting: a file may have been written by anybody."""
    decided = {name: choice.value for name, choice in chosen.items() if name in Settings.model_fields}
    if decided.get("crop_mm_per_px", 0) is None:  # no training image has a pixel size
        del decided["crop_mm_per_px"]
    precision = decided.pop("mixed_precision", False)
    if not isinstance(precision, bool | str) or precision not in PRECISIONS:
        raise UserError(
            f"{precision!r:.40} is not a precision", field="mixed_precision", cure="start a new run"
        )
    parse_settings({**settings, **decided})


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Validate settings by name. Raises UserError for the first mistake."""
    mistakes = find_mistakes(values)
    if mistakes:
        raise mistakes[0]
    return Settings.model_validate(dict(values))


def find_mistakes(values: Mapping[str, Any]) -> list[UserError]:
    """Every mistake in a set of settings, one an entry, each with its field and what it accepts."""
    try:
        Settings.model_validate(dict(values))
    except ValidationError as error:
        by_field: dict[str, UserError] = {}
        for item in error.errors():
            field = str(item["loc"][0]) if item["loc"] else ""
            by_field.setdefault(field, _in_words(item, field))
        return list(by_field.values())
    return []


def _in_words(item: Any, field: str) -> UserError:
    if field not in Settings.model_fields:
        return UserError("unknown setting", field=field, cure=f"known are {', '.join(Settings.model_fields)}")
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if item["type"] == "value_error":
        return UserError(message, field=field)
    # what was typed is no number: the form hands over none
    message = (
        "is missing: a number belongs here" if item["input"] is None else f"{message}, not {item['input']!r}"
    )
    if field == "image_size" and len(item["loc"]) > 1:
        message = f"{SIDES[item['loc'][1]]} {message}"
    return UserError(message, field=field, cure=Settings.model_fields[field].description or "")
