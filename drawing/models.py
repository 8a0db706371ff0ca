"""A picture's request with its limits, and the picture that comes back: plain values that all other modules share."""

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Annotated, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from errors import InvalidRequestError

SEED_MAX = 2**32 - 1
_SCHEDULERS_MAX, _FEATURES_MAX, _NAME_CHARS = 100, 100, 100
STRENGTH_MIN = 0.05  # less of an image drawn anew leaves no step to draw
NUMBER_MAX = 2**53  # beyond it no float is exact, and a Python integer may not even fit into one


class Range(BaseModel):
    """Inclusive bounds; `multiple`: the value has to be a multiple of it (0: of nothing)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    min: float
    max: float
    multiple: int = 0

    def wider(self, other: "Range") -> "Range":
        """What lies in either of them, and what lies between."""
        multiple = math.gcd(max(1, self.multiple), max(1, other.multiple))
        return Range(min=min(self.min, other.min), max=max(self.max, other.max), multiple=multiple)

    def nearest(self, value: float) -> float:
        """The value itself where it lies within, else the nearest that does."""
        inside = max(self.min, min(self.max, value))
        if self.multiple <= 1:
            return inside
        lowest, highest = math.ceil(self.min / self.multiple), math.floor(self.max / self.multiple)
        return max(lowest, min(highest, round(inside / self.multiple))) * self.multiple

    def check(self, name: str, value: float, unit: str = "") -> None:
        """Raises: InvalidRequestError with what would be right."""
        if not self.min <= value <= self.max:
            raise InvalidRequestError(f"{name} must be from {self.min:g} to {self.max:g}{unit}, not {value:g}.")
        if self.multiple > 1 and value % self.multiple:
            raise InvalidRequestError(
                f"{name} must be a multiple of {self.multiple}{unit} "
                f"({self.min:g} to {self.max:g}), and {value:g} is not."
            )


class Limits(BaseModel):
    """What the inference server says that it can do; the values here hold until it was asked.

    Sides in pixels, `prompt_chars` in characters; `images_at_once`: how many it draws side by side; `schedulers`: by
    the names that it takes, diffusers' and people's, none where it does not tell; `features`: what the loaded model can
    do, such as `img2img` and `inpaint`, none where that is not known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    num_inference_steps: Range = Range(min=1, max=250)
    width: Range = Range(min=64, max=2048, multiple=8)
    height: Range = Range(min=64, max=2048, multiple=8)
    guidance_scale: Range = Range(min=0, max=30)
    prompt_chars: int = 2000
    images_at_once: Annotated[int, Field(ge=1)] = 1
    schedulers: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    @classmethod
    def from_health(cls, answer: dict[str, Any]) -> "Limits":
        """From the healthcheck's `limits`, where a plain maximum is written `{"max": n}`."""
        read = dict(answer)
        for name in ("prompt_chars", "images_at_once"):
            told = read.pop(name, None)
            if isinstance(told, dict) and "max" in told:
                read[name] = told["max"]
        for name, most in (("schedulers", _SCHEDULERS_MAX), ("features", _FEATURES_MAX)):
            named = read.pop(name, None)
            if isinstance(named, list | tuple):
                read[name] = [one for one in named[:most] if isinstance(one, str) and len(one) < 100]
        return cls.model_validate(read)

    def offers_scheduler(self, name: str) -> bool:
        """Whether a request may name it; where nothing is known of schedulers it may name any."""
        return not self.schedulers or name.lower() in (one.lower() for one in self.schedulers)

    @property
    def takes_image(self) -> bool:
        """Whether a picture can start from an image."""
        return "img2img" in self.features

    @property
    def takes_mask(self) -> bool:
        """Whether a mask can say which part of that image is drawn anew."""
        return self.takes_image and "inpaint" in self.features

    def wider(self, other: "Limits") -> "Limits":
        """What one of two servers can do, and how much both together. Either may get a request: `features` are what
        both have.
        """
        return Limits(
            num_inference_steps=self.num_inference_steps.wider(other.num_inference_steps),
            width=self.width.wider(other.width),
            height=self.height.wider(other.height),
            guidance_scale=self.guidance_scale.wider(other.guidance_scale),
            prompt_chars=max(self.prompt_chars, other.prompt_chars),
            images_at_once=self.images_at_once + other.images_at_once,
            schedulers=tuple(dict.fromkeys((*self.schedulers, *other.schedulers))),
            features=tuple(feature for feature in self.features if feature in other.features),
        )


class Defaults(BaseModel):
    """What the inference server takes where a request says nothing; None: not known yet, its own choice."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None


def _number(name: str, value: Any, *, integer: bool) -> float | int | None:
    """`value` as a finite number; None stays None. Whole floats (JSON's 256.0, a visitor's "20.0" or "1e2") count as
    integers, and "2,5" is 2.5.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = value.strip()
        if not re.search(r",\d{3}$", value):  # "1,000" could be either: it is no number here
            value = value.replace(",", ".")
    kind = "a whole number" if integer else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InvalidRequestError(f"{name} must be {kind}.")
    try:
        exact = isinstance(value, int) or (integer and isinstance(value, str) and value.lstrip("+-").isdecimal())
        number = int(value) if exact else float(value)
    except ValueError:
        raise InvalidRequestError(f"{name} must be {kind}, and {str(value)[:40]!r} is none.") from None
    if isinstance(number, float) and (not math.isfinite(number) or (integer and number != int(number))):
        raise InvalidRequestError(f"{name} must be {kind}, not {number:g}.")
    if abs(number) > NUMBER_MAX:
        raise InvalidRequestError(f"{name} is far outside of what can be drawn.")
    return int(number) if integer else float(number)


def _text(name: str, value: Any, max_chars: int) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} must be text.")
    text = value.strip()
    if len(text) > max_chars:
        raise InvalidRequestError(f"{name} has {len(text)} characters; {max_chars} is the most.")
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidRequestError(f"{name} holds characters that are no text.")
    return text


def _file(name: str, value: Any) -> bytes:
    if not isinstance(value, bytes) or not value:
        raise InvalidRequestError(f"{name} must be a file.")
    return value


def _described(description: str) -> dict[str, str]:
    """What a program that calls the page's API is told of a parameter."""
    return {"description": description}


@dataclass(frozen=True)
class GenerationRequest:
    """One picture to draw: its parameters under diffusers' names. None means: the server's own default.

    A parameter is written down here and nowhere else on the page's side: the page, `submit` and the wire take the
    fields as they are. `width`, `height` in pixels; `seed` 0 to 2**32 - 1, None: a random one, told afterwards.
    `image`, `mask_image`: files, of the mask the white part is drawn anew; `strength`: how much of the image, up to 1.
    What has no description, such as `scheduler` (one of the limits' names), is no parameter of the page's API.
    """

    prompt: str = field(metadata=_described("What to draw, in words."))
    negative_prompt: str = field(default="", metadata=_described("What should not be in the picture."))
    height: int | None = field(default=None, metadata=_described("Height in pixels; null: the model's own."))
    width: int | None = field(default=None, metadata=_described("Width in pixels; null: the model's own."))
    num_inference_steps: int | None = field(
        default=None, metadata=_described("Denoising steps: more take longer; null: the model's own number.")
    )
    guidance_scale: float | None = field(
        default=None, metadata=_described("How closely the picture follows the prompt; null: the model's own value.")
    )
    seed: int | None = field(
        default=None,
        metadata=_described(
            "Where the randomness begins, 0 to 4294967295: the same again; null or -1: another each time."
        ),
    )
    scheduler: str | None = field(default=None, kw_only=True)
    image: bytes | None = field(default=None, kw_only=True, repr=False)
    mask_image: bytes | None = field(default=None, kw_only=True, repr=False)
    strength: float | None = field(default=None, kw_only=True)

    @property
    def without_images(self) -> "GenerationRequest":
        """The request as it is kept when it has been drawn: its images would fill the memory."""
        return replace(self, image=None, mask_image=None)

    @classmethod
    def checked(cls, limits: Limits, *values: Any, **named: Any) -> "GenerationRequest":
        """The request of these parameters, in the order of the fields or by name, once each has been looked at.

        Numbers may come as text; a seed of -1 is as good as None. A field's type says how it is read.
        Raises: InvalidRequestError for the first part that cannot be drawn, in a visitor's words.
        """
        given = cls(*values, **named)
        read: dict[str, Any] = {}
        for parameter in fields(cls):
            name, value = parameter.name, getattr(given, parameter.name)
            with _about(name):
                if value is None and parameter.default is not MISSING:
                    read[name] = parameter.default
                elif parameter.type == str | None:
                    read[name] = _text(_label(name), value, _NAME_CHARS) or None
                elif parameter.type == bytes | None:
                    read[name] = _file(_label(name), value)
                elif parameter.type is str:
                    read[name] = _text(_label(name), value, limits.prompt_chars)
                else:
                    read[name] = _number(_label(name), value, integer=parameter.type == int | None)
        if read["seed"] == -1:  # the usual way to write "any" in other programs
            read["seed"] = None
        request = cls(**read)
        with _about("prompt"):
            if not request.prompt:
                raise InvalidRequestError("Please type what you would like to see: the prompt is empty.")
        with _about("seed"):
            if request.seed is not None and not 0 <= request.seed <= SEED_MAX:
                raise InvalidRequestError(f"The seed must be from 0 to {SEED_MAX}, not {request.seed}.")
        with _about("strength"):
            if request.strength is not None:
                Range(min=STRENGTH_MIN, max=1).check("The strength", request.strength)
        with _about("mask_image"):
            if request.mask_image and not request.image:
                raise InvalidRequestError("A mask needs the picture that it lies on.")
        request.check(limits)
        return request

    def within(self, limits: Limits) -> "GenerationRequest":
        """The request without what lies outside `limits`: there the server takes its own."""
        outside: dict[str, Any] = {}
        for parameter in fields(self):
            try:
                self._check_parameter(parameter.name, limits)
            except InvalidRequestError:
                outside[parameter.name] = None
        return replace(self, **outside)

    def nearest(self, limits: Limits) -> "GenerationRequest":
        """The request with each number that lies outside `limits` moved to the nearest that does not, and without a
        scheduler that is not offered.
        """
        moved: dict[str, Any] = {}
        if self.scheduler is not None and not limits.offers_scheduler(self.scheduler):
            moved["scheduler"] = None
        for parameter in fields(self):
            bounds, value = getattr(limits, parameter.name, None), getattr(self, parameter.name)
            if isinstance(bounds, Range) and value is not None:
                moved[parameter.name] = type(value)(bounds.nearest(value))
        return replace(self, **moved)

    def check(self, limits: Limits) -> None:
        """Raises: InvalidRequestError if something lies outside `limits` (a server may be stricter than the first)."""
        for parameter in fields(self):
            self._check_parameter(parameter.name, limits)

    def _check_parameter(self, name: str, limits: Limits) -> None:
        bounds, value = getattr(limits, name, None), getattr(self, name)
        if isinstance(bounds, Range) and value is not None:
            with _about(name):
                bounds.check(_label(name), value, " px" if name in ("width", "height") else "")
        if name == "scheduler" and value is not None and not limits.offers_scheduler(value):
            with _about(name):
                offered = ", ".join(limits.schedulers)
                raise InvalidRequestError(f"There is no scheduler {value!r} here. There are: {offered}.")
        takes = {"image": limits.takes_image, "mask_image": limits.takes_mask}
        if limits.features and value is not None and not takes.get(name, True):
            with _about(name):
                what = "parts of a picture" if name == "mask_image" else "a picture"
                raise InvalidRequestError(f"The model that draws here cannot start from {what}. Please leave it out.")


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """An InvalidRequestError that is raised within is one about this parameter."""
    try:
        yield
    except InvalidRequestError as error:
        error.parameter = name
        raise


def _label(name: str) -> str:
    """What an error calls a parameter."""
    return {"num_inference_steps": "Steps", "guidance_scale": "Guidance"}.get(name, f"The {name.replace('_', ' ')}")


@dataclass(frozen=True)
class Receipt:
    """How a drawing was made, as the inference server tells it. Times in seconds; None: it did not say.

    `queue_s`, `init_s`, `inference_s`, `encode_s`: at the server, in its queue, until its engine was ready, drawing and
    writing the file. `line_s`, `ready_s`, `total_s`: on this side, in line, until the server was ready, and in all.
    """

    model: str | None = None
    scheduler: str | None = None
    inference_s: float | None = None
    queue_s: float | None = None
    init_s: float | None = None
    encode_s: float | None = None
    line_s: float | None = None
    ready_s: float | None = None
    total_s: float | None = None
    substituted: tuple[str, ...] = field(default=())
    unused_words: tuple[str, ...] = ()  # of the prompt: the model reads only so many
    worker: str | None = None  # which of several drew it

    @property
    def in_line_s(self) -> float | None:
        """Time in line, here and at the server."""
        return _sum(self.line_s, self.queue_s)

    @property
    def waking_s(self) -> float | None:
        """Time until all that draws was ready."""
        return _sum(self.ready_s, self.init_s)

    @property
    def way_s(self) -> float | None:
        """What is left of the whole time: on the way to the server and back."""
        if self.total_s is None or self.inference_s is None:
            return None
        rest = (self.in_line_s, self.waking_s, self.inference_s, self.encode_s)
        return max(0.0, self.total_s - sum(filter(None, rest)))


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


@dataclass(frozen=True)
class GeneratedImage:
    """A finished picture.

    `image`: RGB, decoded; `encoded`: the file as it came (PNG with its text metadata), `image_format`: its kind as
    Pillow names it; `seed`: as used, None when the server does not tell (upstream's).
    """

    image: Image.Image
    encoded: bytes = field(repr=False)
    image_format: str
    seed: int | None
    receipt: Receipt
