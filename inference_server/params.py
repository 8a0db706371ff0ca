"""The parameters of a drawing: as a client posts them, and as the engine gets them.

A new parameter is a field of `ModelInputs` (or `CallInputs`), with its bounds and its default, and a field of the same
name of `GenerationParams`; the engine reads it there. Nothing between them names it.
Source of the names: https://github.com/kiri-art/docker-diffusers-api#usage
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict

from inference_server.json_model import Float, Int, JsonModel
from inference_server.loras import Selection, Weight, read_request
from inference_server.raw_image import RawImage
from inference_server.tasks import TEXT2IMAGE

MAX_SEED = 2**32 - 1
_FORMAT_SPELLINGS = {frozenset({"webp", "lossless"}): "WEBP_LOSSLESS", frozenset({"jpg"}): "JPEG"}


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ValueError("must hold no lone surrogates") from exc
    if "\0" in value:
        raise ValueError("must hold no NUL character")
    return value


def _request_id(value: str) -> str:
    if not all("!" <= character <= "~" for character in value):
        raise ValueError("must be printable ASCII without spaces")
    return value


def _image_format(asked: str) -> str:
    """The name in the limits of what a client spells otherwise: `lossless WebP`, `webp-lossless`, `jpg`."""
    return _FORMAT_SPELLINGS.get(frozenset(re.findall(r"[^\W_]+", asked.lower())), asked)


def _random_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def steps_left(num_inference_steps: int, strength: float) -> int:
    """Source: `get_timesteps` of diffusers' image pipelines."""
    return min(int(num_inference_steps * strength), num_inference_steps)


Text = Annotated[str, AfterValidator(_text)]
RequestId = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_request_id)]
Flag = Annotated[bool, Strict(False)]  # upstream's clients send 1 for true


class _Inputs(JsonModel):
    model_config = ConfigDict(extra="ignore")


class ModelInputs(_Inputs):
    """What to draw. None: the model's default. What the limits bound is checked against them later."""

    prompt: Text
    negative_prompt: Text = ""
    width: Int | None = None  # px
    height: Int | None = None
    num_inference_steps: Int | None = None
    guidance_scale: Float | None = None
    strength: Annotated[Float, Field(ge=0, le=1)] | None = None  # of an image: how much of it is drawn anew
    num_images_per_prompt: Int = 1
    seed: Annotated[Int, Field(ge=0, le=MAX_SEED)] = Field(default_factory=_random_seed)


class CallInputs(_Inputs):
    """With what to draw it, and how to answer. None: the model's, or the server's default."""

    MODEL_ID: Text | None = None
    PIPELINE: Text | None = None
    SCHEDULER: Text | None = None
    safety_checker: Flag = True  # where the model has one
    prompt_weighting: Flag = False  # (word:1.3) and [word] weigh words
    # LoRAs of this server by name, each with its strength; None: its default
    loras: Annotated[dict[str, Weight | None], BeforeValidator(read_request)] = Field(default_factory=dict)
    image_format: Annotated[Text, AfterValidator(_image_format)] | None = None
    png_compress_level: Annotated[Int, Field(ge=0, le=9)] | None = None  # None: the fast encoder
    streamEvents: Flag = False
    startRequestId: RequestId | None = None


@dataclass(frozen=True)
class GenerationParams:
    """One request as the engine draws it: everything decided, everything within the model's limits."""

    prompt: str
    negative_prompt: str
    width_px: int
    height_px: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str  # diffusers' class name
    seeds: tuple[int, ...]  # one per image, each 0 to 2**32-1
    safety_checker: bool = True  # where the model has one
    loras: Selection = ()
    prompt_weighting: bool = False
    task: str = TEXT2IMAGE
    strength: float | None = None  # None: the task takes none
    spreads_steps: bool = False  # whatever the strength, no step is skipped
    image: RawImage | None = field(default=None, repr=False)
    mask_image: RawImage | None = field(default=None, repr=False)  # white is drawn anew

    @property
    def is_plain(self) -> bool:
        """Whether the model itself is to blame for a spoilt picture: LoRAs and weights can be too strong."""
        return not (self.loras or self.prompt_weighting)

    @classmethod
    def of(cls, inputs: ModelInputs, call: CallInputs, decided: Mapping[str, Any]) -> "GenerationParams":
        """What was decided, by the wire's names; what nothing decides is as it was asked for."""
        values = {**dict(inputs), **dict(call), **decided}
        return cls(**{field.name: values[field.name.removesuffix("_px")] for field in fields(cls)})

    @property
    def steps_drawn(self) -> int:
        """Of one image: as many as `strength` leaves, as diffusers counts them."""
        steps = self.num_inference_steps
        return steps if self.strength is None or self.spreads_steps else steps_left(steps, self.strength)

    def by_wire_names(self) -> dict[str, Any]:
        """Every parameter as used, by the name that a client posts it with; `seeds` has one for each image."""
        used = {field.name.removesuffix("_px"): getattr(self, field.name) for field in fields(self)}
        used["SCHEDULER"] = used.pop("scheduler")
        if loras := dict(used.pop("loras")):
            used["loras"] = loras
        if not used["prompt_weighting"]:
            del used["prompt_weighting"]
        for name in ("task", "spreads_steps", "image", "mask_image", *(["strength"] if self.strength is None else [])):
            del used[name]
        return used | {"seed": self.seeds[0], "num_images_per_prompt": len(self.seeds)}
