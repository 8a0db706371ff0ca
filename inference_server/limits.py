"""The bounds within which the server draws, and what it draws when nothing is said: the healthcheck's two objects."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference_server.messages import ModelFacts

ImageFormat = Literal["PNG", "WEBP_LOSSLESS", "WEBP", "JPEG"]
IMAGE_FORMATS: tuple[str, ...] = get_args(ImageFormat)
STATIC_MAX_SIDE_PX = 2048
ALL_SCHEDULERS = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "LCMScheduler",
    "FlowMatchEulerDiscreteScheduler",
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Count = Annotated[int, Field(ge=0, le=10**9)]


class Range(_Frozen):
    min: Count
    max: Count


class Side(Range):
    """In px; only multiples of `multiple`."""

    multiple: Annotated[int, Field(ge=1, le=1024)]


class Scale(_Frozen):
    min: Annotated[float, Field(ge=0, le=1000)]
    max: Annotated[float, Field(ge=0, le=1000)]


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
    schedulers: tuple[str, ...] = ALL_SCHEDULERS
    image_formats: tuple[str, ...] = IMAGE_FORMATS


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
            elif value:
                merged[name] = value
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


def defaults_of_model(facts: ModelFacts) -> Defaults:
    return Defaults(
        width=facts.width_px,
        height=facts.height_px,
        num_inference_steps=facts.num_inference_steps,
        guidance_scale=facts.guidance_scale,
        scheduler=facts.scheduler,
    )
