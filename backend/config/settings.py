"""The settings of a run: the one source for command line, form, validation and config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from backend.config.checks import (
    SIZE_MULTIPLE,
    check_image_size,
    check_output_stride,
    check_refiner_sides,
    with_latin_digits,
)
from backend.config.declare import setting
from backend.config.typed_numbers import NumberSetting, number_setting_of
from backend.geometry import CropFrame, output_stride_for

# the names of two tables in their order, `models.MODELS` and `backend.data.annotations.FORMATS`, which a test
# compares
ModelName = Literal["hrnet", "resnet", "unet", "hourglass"]
DatasetFormat = Literal["auto", "aariz", "isbi2015", "deeplabcut", "wide_csv", "coco"]
Auto = Literal["auto"]


class Settings(BaseModel):
    """Everything that determines a run's result.

    The form shows a group's fields in the order declared here.
    """

    # an infinity has no JSON, so config.json could not hold it
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # main
    model: ModelName = setting("hrnet", "network", group="main", affects=("memory", "first_network"))
    image_size: Annotated[tuple[int, int], AfterValidator(check_image_size)] = setting(
        (256, 256),
        "height and width of the network's input, pixels; multiples of 32",
        group="main",
        affects=("sample", "memory", "decoding_error", "first_network"),
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = setting(
        8, "images per batch, or auto: what the free memory allows", group="main", affects=("estimate",)
    )
    loss: Literal["kl", "adaptive_wing", "mse"] = setting(
        "kl", "loss", group="main", affects=("sample", "memory", "decoding_error", "first_network")
    )
    lr: float = setting(
        1.5e-3,
        "peak learning rate of AdamW; 1e-4 if training is unstable",
        group="main",
        affects=(),
        gt=0,
        le=10,
    )
    epochs: int = setting(
        60, "passes over the training images", group="main", affects=("estimate",), ge=1, le=100_000
    )
    warmup_epochs: float = setting(
        6, "epochs over which the learning rate rises", group="main", affects=(), ge=0, le=100_000
    )
    refine: bool = setting(
        True,
        "then train a second, small network on crops around each landmark in fine resolution",
        group="main",
        affects=("sample", "memory", "decoding_error"),
    )
    mixed_precision: bool = setting(
        True,
        "float16 autocast with a gradient scaler on CUDA; bfloat16 on a CPU that has instructions for it "
        "(AVX512-BF16, AMX), float32 on others",
        group="main",
        affects=("memory",),
    )

    # dataset
    dataset_path: str = setting(
        "",
        "folder of annotated images; empty: Aariz beside train.py if it is there, else demo data",
        group="dataset",
        affects=("data", "decoding_error"),
    )
    annotation_type: str = setting(
        "mean",
        'reader whose annotations are the ground truth, such as "Senior Orthodontists", or mean of all '
        "readers",
        group="dataset",
        affects=("data", "decoding_error"),
    )
    accept_implausible: bool = setting(
        False,
        "train although the coordinates of the data set cannot be pixels of its images: shares, percent, "
        "another unit, exchanged axes",
        group="dataset",
        affects=(),
    )

    # target
    sigma: Annotated[float, Field(gt=0, le=64)] | Auto = setting(
        "auto",
        "standard deviation of the target Gaussian, input pixels; auto: 0.75 at 128, 1.5 at 256, "
        "3.0 at 512, and at least 0.7 heatmap cells",
        group="target",
        affects=("sample", "decoding_error"),
    )
    output_stride: Annotated[
        Annotated[int, Field(ge=1, le=4)] | Auto, AfterValidator(check_output_stride)
    ] = setting(
        "auto",
        "input pixels per heatmap cell, 1, 2 or 4; auto: 1 at 128, 2 at 256 and 384, 4 from 512 on",
        group="target",
        affects=("sample", "memory", "decoding_error", "first_network"),
    )
    decoder: Literal["auto", "dark", "expectation", "argmax"] = setting(
        "auto",
        "how a heatmap becomes a point; auto: local expectation for kl, DARK for the other losses",
        group="target",
        affects=("memory", "decoding_error", "first_network"),
    )
    shape_prior: bool = setting(
        False,
        "when predicting, pull points toward the shapes that the training images make likely, the more the "
        "less certain a heatmap is: for one anatomy in one pose, such as cephalograms; with the loss kl, "
        "at least 12 images and 4 landmarks",
        group="target",
        affects=(),
    )

    # data
    dataset_format: DatasetFormat = setting(
        "auto",
        "annotation format; auto: detected from the folder",
        group="data",
        affects=("data", "decoding_error"),
    )
    val_fraction: float = setting(
        0.1,
        "share of train split off for validation where the data set has no valid split; 0 trains on "
        "all and keeps the last weights",
        group="data",
        affects=("data", "decoding_error"),
        ge=0,
        le=0.5,
    )
    resize: Literal["letterbox", "stretch"] = setting(
        "stretch",
        "keep the image's proportions (letterbox) or fill the input (stretch)",
        group="data",
        affects=("sample", "decoding_error", "first_network"),
    )

    # augmentation
    rotation_deg: float = setting(
        5.0,
        "augmentation: rotation, degrees (standard deviation)",
        group="augmentation",
        affects=("views",),
        ge=0,
        le=180,
    )
    scale_jitter: float = setting(
        0.08,
        "augmentation: scaling, as a share (standard deviation)",
        group="augmentation",
        affects=("views",),
        ge=0,
        le=0.5,
    )
    shift_jitter: float = setting(
        0.025,
        "augmentation: shift, as a share of the input's size (standard deviation)",
        group="augmentation",
        affects=("views",),
        ge=0,
        le=0.5,
    )
    elastic: float = setting(
        0.0,
        "augmentation: smooth local shifts, as a share of the input's size (standard deviation)",
        group="augmentation",
        affects=("views",),
        ge=0,
        le=0.05,
    )
    photometric: float = setting(
        1.0,
        "augmentation: strength of brightness, contrast, gamma and noise; 0 is off",
        group="augmentation",
        affects=("views",),
        ge=0,
        le=3,
    )
    flip_pairs: str = setting(
        "",
        'augmentation: pairs of landmarks that change places in a mirror, such as "left eye=right eye, '
        'left ear=right ear"; half of the images are then mirrored; empty: none, as it must be for '
        "cephalograms",
        group="augmentation",
        affects=("views",),
    )

    # optimization
    gradient_accumulation_steps: int = setting(
        1,
        "batches whose gradients are added up for one optimizer step",
        group="optimization",
        affects=("memory",),
        ge=1,
        le=1024,
    )
    weight_decay: float = setting(1e-3, "weight decay of AdamW", group="optimization", affects=(), ge=0, le=1)
    clip_norm: float = setting(
        5.0, "gradients are clipped to this norm", group="optimization", affects=(), gt=0
    )
    ema_decay: float = setting(
        0.998,
        "decay per step of the averaged weights, which predict; 0: the raw weights",
        group="optimization",
        affects=(),
        ge=0,
        lt=1,
    )
    patience: int = setting(
        0,
        "epochs without a better validation error, after the warm-up, after which a phase ends early; "
        "0: never",
        group="optimization",
        affects=(),
        ge=0,
        le=100_000,
    )
    on_divergence: Literal["retry", "stop"] = setting(
        "retry",
        "when training becomes unstable: go back and retry at a third of the learning rate, at most "
        "three times, or stop",
        group="optimization",
        affects=(),
    )
    pretrained: str = setting(
        "",
        "file of torchvision's ImageNet weights for resnet's trunk (resnet34)",
        group="optimization",
        affects=(),
    )
    seed: int = setting(
        0,
        "seed of weights, order and augmentation",
        group="optimization",
        affects=("data", "views", "decoding_error"),
        ge=0,
        le=2**31 - 1,
    )

    # refinement
    refine_epochs: int = setting(
        40,
        "refinement: passes over the training images",
        group="refinement",
        affects=("estimate",),
        ge=1,
        le=100_000,
    )
    refine_lr: float = setting(
        2e-3, "refinement: peak learning rate", group="refinement", affects=(), gt=0, le=10
    )
    num_refiners: int = setting(
        3,
        "refinement: networks that are trained side by side and averaged",
        group="refinement",
        affects=("memory",),
        ge=1,
        le=8,
    )
    refine_crops: int = setting(
        64,
        "refinement: crops per step, rounded to whole images, of which there are at least two",
        group="refinement",
        affects=("memory",),
        ge=2,
        le=65_536,
    )
    crop_size: int = setting(
        64,
        "refinement: side of a crop, crop pixels",
        group="refinement",
        affects=("sample", "memory", "decoding_error"),
        ge=32,
        le=512,
        multiple_of=SIZE_MULTIPLE,
    )
    crop_mm_per_px: float = setting(
        0.3,
        "refinement: millimeters per crop pixel, where the image's pixel size is known",
        group="refinement",
        affects=("sample", "decoding_error"),
        gt=0,
        le=100,
    )
    crop_share: float = setting(
        0.06,
        "refinement: side of a crop as a share of the image's mean side, where no pixel size is known",
        group="refinement",
        affects=("sample", "decoding_error"),
        gt=0,
        le=1,
    )
    crop_jitter: Annotated[float, Field(ge=0, le=128)] | Auto = setting(
        "auto",
        "refinement: distance of the crops from the ground truth during training, crop pixels (standard "
        "deviation); auto: the error of the first network on the validation images",
        group="refinement",
        affects=(),
    )
    refine_sigma: Annotated[float, Field(gt=0, le=64)] | Auto = setting(
        "auto",
        "refinement: standard deviation of the target Gaussian, crop pixels; auto: 2, one heatmap cell",
        group="refinement",
        affects=("decoding_error",),
    )
    refiner_sides: str = setting(
        "",
        "refinement: side in pixels at which each network sees a crop, in turn, such as 128, 96, 64, because "
        "networks of different scales make less similar errors; empty: all see the crop as it is",
        group="refinement",
        affects=("memory",),
    )
    prediction_crops: int = setting(
        1,
        "refinement: crops around each landmark, slightly shifted, whose predictions are averaged",
        group="refinement",
        affects=(),
        ge=1,
        le=64,
    )
    first_network: str = setting(
        "",
        "a checkpoint of the same network: its weights are kept, and only the refinement is trained",
        group="refinement",
        affects=(),
    )

    # machine
    device: Annotated[str, BeforeValidator(with_latin_digits)] = setting(
        "auto",
        "auto, cpu, cuda or cuda:N; auto: a GPU if there is one",
        group="machine",
        affects=("estimate",),
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
    )
    num_workers: Annotated[int, Field(ge=0, le=64)] | Auto = setting(
        "auto",
        "processes that prepare images; auto: 0 on a CPU, up to 8 beside a GPU",
        group="machine",
        affects=(),
    )
    on_oom: Literal["retry", "stop"] = setting(
        "retry",
        "when memory runs out: compute a step in smaller parts, which leaves the batch as it is, and go "
        "on, at most three times, or stop",
        group="machine",
        affects=(),
    )
    preview_every: int = setting(
        1, "epochs between saved previews of the fixed images", group="machine", affects=(), ge=1
    )

    @property
    def stride_in_force(self) -> int:
        """The number of input pixels per heatmap cell."""
        return output_stride_for(*self.image_size) if self.output_stride == "auto" else self.output_stride

    @property
    def crop_frame(self) -> CropFrame:
        """The area of a crop of the refinement."""
        return CropFrame(self.crop_size, self.crop_mm_per_px, self.crop_share)

    @field_validator("*", mode="before")
    @classmethod
    def _read_typed_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = NUMBER_SETTINGS.get(info.field_name or "")
        return value if kind is None else kind.read_value(value)

    @field_validator("refiner_sides")
    @classmethod
    def _check_refiner_sides(cls, text: str, info: ValidationInfo) -> str:
        num_networks, crop_size = (info.data.get(name) for name in ("num_refiners", "crop_size"))
        if num_networks is None or crop_size is None:
            return text  # their own mistakes are reported first
        return check_refiner_sides(text, num_networks, crop_size)

    @field_validator("pretrained")
    @classmethod
    def _check_pretrained(cls, path: str, info: ValidationInfo) -> str:
        if path and info.data.get("model") != "resnet":
            raise ValueError("only resnet can load ImageNet weights; choose --model resnet or leave it out")
        return path

    @field_validator("first_network")
    @classmethod
    def _check_first_network(cls, path: str, info: ValidationInfo) -> str:
        if path and not info.data.get("refine"):
            raise ValueError("nothing is left to train with --no-refine; leave one of the two out")
        return path


NUMBER_SETTINGS: Mapping[str, NumberSetting] = {
    name: kind for name, field in Settings.model_fields.items() if (kind := number_setting_of(field))
}
