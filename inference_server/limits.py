"""The bounds within which the server draws, and what it draws when nothing is said: the healthcheck's two objects."""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inference_server.messages import ModelFacts

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


class Range(Scale):
    """Any integer from `min` to `max`."""

    min: Count
    max: Count


class Side(Range):
    """In px; only multiples of `multiple`."""

    multiple: Annotated[int, Field(ge=1, le=1024)]

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


class Maximum(_Frozen):
    max: Count


class Limits(_Frozen):
    """As on the wire, names and all."""

    num_inference_steps: Range = Range(min=1, max=250)
    width: Side = Side(min=64, max=STATIC_MAX_SIDE_PX, multiple=8)
    height: Side = Side(min=64, max=STATIC_MAX_SIDE_PX, multiple=8)
    guidance_scale: Scale = Scale(min=0, max=30)
    num_images_per_prompt: Range = Range(min=1, max=4)
    prompt_chars: Maximum = Maximum(max=2000)
    waiting_requests: Maximum = Maximum(max=32)
    body_bytes: Maximum = Maximum(max=16_000_000)
    schedulers: Annotated[tuple[str, ...], Field(min_length=1)] = ALL_SCHEDULERS
    image_formats: Annotated[tuple[ImageFormat, ...], Field(min_length=1)] = IMAGE_FORMATS


class Defaults(_Frozen):
    """What a request gets that does not say otherwise."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    image_format: ImageFormat = "PNG"


class LimitsOverride(BaseModel):
    """`limits` of endpoint.json: any entries of `Limits`, each checked; what it leaves out stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_inference_steps: dict[str, int] = {}
    width: dict[str, int] = {}
    height: dict[str, int] = {}
    guidance_scale: dict[str, float] = {}
    num_images_per_prompt: dict[str, int] = {}
    prompt_chars: dict[str, int] = {}
    waiting_requests: dict[str, int] = {}
    body_bytes: dict[str, int] = {}
    schedulers: tuple[str, ...] | None = None
    image_formats: tuple[ImageFormat, ...] | None = None

    def over(self, limits: Limits) -> Limits:
        """`limits` with these entries in place. Raises: ValueError when the result is no set of limits."""
        merged = limits.model_dump()
        for name, value in self.model_dump().items():
            if isinstance(value, dict):
                merged[name] = {**merged[name], **value}
            elif value is not None:
                merged[name] = [one for one in merged[name] if one in value]
        try:
            return Limits.model_validate(merged)
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"limits.{where}: {first['msg']}") from exc


def of_model(facts: ModelFacts) -> Limits:
    """What this model can be asked for."""
    smallest = max(64, facts.side_multiple_px)
    side = Side(min=smallest, max=facts.max_side_px, multiple=facts.side_multiple_px)
    return Limits(width=side, height=side, schedulers=facts.schedulers)


def defaults_of_model(facts: ModelFacts, limits: Limits) -> Defaults:
    """What the model draws best, moved within the limits where they are narrower."""
    formats, schedulers = limits.image_formats, limits.schedulers
    return Defaults(
        width=limits.width.nearest(facts.width_px),
        height=limits.height.nearest(facts.height_px),
        num_inference_steps=int(limits.num_inference_steps.nearest(facts.num_inference_steps)),
        guidance_scale=limits.guidance_scale.nearest(facts.guidance_scale),
        scheduler=facts.scheduler if facts.scheduler in schedulers else schedulers[0],
        image_format="PNG" if "PNG" in formats else formats[0],
    )
