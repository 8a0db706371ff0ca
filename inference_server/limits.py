"""The bounds of what a request may ask for, and its defaults: `limits` and `defaults` of the healthcheck."""

import math
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, model_validator

from inference_server.engines.scheduler_names import KNOWN
from inference_server.json_model import Float, Int, JsonModel, without_null, wrong_values
from inference_server.messages import ModelInfo

ImageFormat = Literal["PNG", "WEBP_LOSSLESS", "WEBP", "JPEG"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
STATIC_MAX_SIDE_PX = 2048
# diffusers' class names that a text-to-image model may offer; which it does is known once it is loaded.
# Source: KarrasDiffusionSchedulers, https://github.com/huggingface/diffusers (schedulers/scheduling_utils.py)
ALL_SCHEDULERS = (
    *("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"),
    *("HeunDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"),
    *("DPMSolverSinglestepScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "DPMSolverSDEScheduler", "EDMEulerScheduler"),
    # further ones, which some models are made for
    *("LCMScheduler", "TCDScheduler", "SASolverScheduler", "EDMDPMSolverMultistepScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"),
    *KNOWN,  # the names that people know them by
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Count = Annotated[int, Field(ge=0, le=10**9)]


class Scale(_Frozen):
    """Any number from `min` to `max`."""

    min: Annotated[float, Field(ge=0, le=1000)]
    max: Annotated[float, Field(ge=0, le=1000)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return self

    def allows(self, value: float) -> bool:
        return self.min <= value <= self.max

    def nearest(self, value: float) -> float:
        return max(self.min, min(self.max, value))

    def refusal(self, value: str) -> str:
        """Why `value` is not allowed, and what is."""
        return f"{value} is outside the limits, {self.min:g} to {self.max:g}."


class Range(Scale):
    """Any integer from `min` to `max`."""

    min: Count
    max: Count


class Side(Range):
    """In px; only multiples of `multiple`."""

    multiple: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _holds_a_multiple(self) -> Self:
        if self.max // self.multiple * self.multiple < self.min:
            raise ValueError("no multiple lies between min and max")
        return self

    def allows(self, value: float) -> bool:
        return super().allows(value) and value % self.multiple == 0

    def nearest(self, value: float) -> int:
        lowest, highest = -(-self.min // self.multiple), self.max // self.multiple
        return max(lowest, min(highest, round(super().nearest(value) / self.multiple))) * self.multiple

    def refusal(self, value: str) -> str:
        return f"{value} px cannot be drawn; from {self.min} to {self.max} px in multiples of {self.multiple}."


class Number(Range):
    """A count of at least one."""

    min: Annotated[Count, Field(ge=1)]
    max: Annotated[Count, Field(ge=1)]


class Maximum(_Frozen):
    max: Count


class Limits(_Frozen):
    """As on the wire, names and all."""

    num_inference_steps: Number = Number(min=1, max=250)
    width: Side = Side(min=64, max=STATIC_MAX_SIDE_PX, multiple=8)
    height: Side = Side(min=64, max=STATIC_MAX_SIDE_PX, multiple=8)
    guidance_scale: Scale = Scale(min=0, max=30)
    num_images_per_prompt: Number = Number(min=1, max=4)
    prompt_chars: Maximum = Maximum(max=2000)
    waiting_requests: Maximum = Maximum(max=32)
    body_bytes: Maximum = Maximum(max=16_000_000)
    schedulers: Annotated[tuple[str, ...], Field(min_length=1)] = ALL_SCHEDULERS
    image_formats: Annotated[tuple[ImageFormat, ...], Field(min_length=1)] = IMAGE_FORMATS
    loras: dict[str, float] = {}  # name -> default strength of those that a request can have
    features: tuple[str, ...] = ("text2image",)  # what the loaded model can do beyond its bounds


class Defaults(_Frozen):
    """What a request gets for what it leaves open."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    image_format: ImageFormat = "PNG"


# How far a bound of endpoint.json may go where the model itself sets none.
WIDEST: dict[str, dict[str, Any]] = {
    "num_inference_steps": {"min": 1, "max": 1000},  # the timesteps of training: a scheduler has no more
    "num_images_per_prompt": {"min": 1, "max": 100},  # one answer holds all of them
    "guidance_scale": {"min": 0, "max": 1000},
}
Ints = Annotated[dict[str, Int], BeforeValidator(without_null)]
Floats = Annotated[dict[str, Float], BeforeValidator(without_null)]


class LimitsOverride(JsonModel):
    """`limits` of endpoint.json: any entries of `Limits`; what it leaves out stays."""

    num_inference_steps: Ints | None = None
    width: Ints | None = None
    height: Ints | None = None
    guidance_scale: Floats | None = None
    num_images_per_prompt: Ints | None = None
    prompt_chars: Ints | None = None
    waiting_requests: Ints | None = None
    body_bytes: Ints | None = None
    schedulers: Annotated[tuple[str, ...], Strict(False)] | None = None
    image_formats: Annotated[tuple[ImageFormat, ...], Strict(False)] | None = None

    def over(self, limits: Limits) -> Limits:
        """`limits` with these entries in place, cut to what the model can do.

        Raises: ValueError when nothing is left, or the result is no set of limits.
        """
        merged = limits.model_dump()
        for name, value in self.model_dump().items():
            if isinstance(value, dict):
                bounds = merged[name] if name in ("width", "height") else WIDEST.get(name, {})
                merged[name] = _cut({**merged[name], **value}, bounds)
            elif value is not None:
                merged[name] = [one for one in merged[name] if one in value]
        try:
            return Limits.model_validate(merged)
        except ValidationError as exc:
            name, right, _ = next(wrong_values(exc))
            raise ValueError(f"limits.{name}: {right}") from exc

    def without_effect(self, held: Limits) -> list[str]:
        """The entries that were cut where `over` made `held`, each as a phrase for the log."""
        told = []
        for name, value in self.model_dump().items():
            have = held.model_dump()[name]
            if isinstance(value, dict):
                told += [f"{name}.{key} {value[key]} -> {have[key]}" for key in value if value[key] != have[key]]
            elif value is not None:
                told += [f"{name}: no {one[:100]!a}" for one in value if one not in have]
        return told


def _cut(asked: dict[str, Any], bounds: dict[str, Any]) -> dict[str, Any]:
    """`asked`, moved inside `bounds`."""
    cut = dict(asked)
    if "min" in bounds:
        cut["min"], cut["max"] = max(asked["min"], bounds["min"]), min(asked["max"], bounds["max"])
    if "multiple" in bounds:  # 0 and less are left for the check to refuse
        cut["multiple"] = math.lcm(asked["multiple"], bounds["multiple"]) if asked["multiple"] > 0 else 0
    return cut


def of_model(model_info: ModelInfo) -> Limits:
    """What this model can be asked for."""
    smallest = max(64, model_info.side_multiple_px)
    side = Side(min=smallest, max=model_info.max_side_px, multiple=model_info.side_multiple_px)
    return Limits(
        width=side,
        height=side,
        schedulers=model_info.schedulers,
        loras=dict(model_info.loras),
        features=model_info.features,
    )


def defaults_of_model(model_info: ModelInfo, limits: Limits) -> Defaults:
    """What the model draws best, moved within the limits where they are narrower."""
    formats, schedulers = limits.image_formats, limits.schedulers
    return Defaults(
        width=limits.width.nearest(model_info.width_px),
        height=limits.height.nearest(model_info.height_px),
        num_inference_steps=int(limits.num_inference_steps.nearest(model_info.num_inference_steps)),
        guidance_scale=limits.guidance_scale.nearest(model_info.guidance_scale),
        scheduler=model_info.scheduler if model_info.scheduler in schedulers else schedulers[0],
        image_format="PNG" if "PNG" in formats else formats[0],
    )
