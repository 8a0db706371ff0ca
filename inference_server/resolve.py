"""Compares a request with what the model can do: `PictureRequest` -> `Resolved`, everything decided.

Strict: a request that cannot be honoured is refused, and the refusal names what can be asked for. Lenient: the nearest
is served, and `$meta.served_instead` says so. Static limits hold until the model is loaded; then all is checked again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inference_server import asked_task, image_size
from inference_server.errors import Refusal, invalid_inputs
from inference_server.limits import Defaults, Limits, Scale
from inference_server.messages import ModelInfo
from inference_server.params import MAX_SEED, GenerationParams, steps_left
from inference_server.tasks import AUTO, TEXT2IMAGE, UPSCALE, Task
from inference_server.wire import PictureRequest

# The inputs that `Limits` bounds, by the names that both have.
BOUNDED = ("width", "height", "num_inference_steps", "num_images_per_prompt", "guidance_scale")


@dataclass(frozen=True)
class Offer:
    """What a request may ask for: the limits, and once the model was loaded what it can do and its defaults."""

    model_name: str
    limits: Limits
    model_info: ModelInfo | None
    defaults: Defaults | None
    lenient: bool


@dataclass(frozen=True)
class Resolved:
    """What is drawn and how it is handed over."""

    params: GenerationParams
    model_info: ModelInfo
    pipeline: str  # the class that draws it
    image_format: str
    served_instead: dict[str, dict[str, Any]] = field(default_factory=dict)


def check(request: PictureRequest, offer: Offer) -> None:
    """Refuses what can be refused by what is known now. Raises: Refusal."""
    _Resolver(request, offer).check()


def resolve(request: PictureRequest, offer: Offer) -> Resolved:
    """Decides everything; the model must have been loaded. Raises: Refusal."""
    resolver = _Resolver(request, offer)
    resolver.check()
    return resolver.resolved()


class _Resolver:
    def __init__(self, request: PictureRequest, offer: Offer) -> None:
        self._request, self._offer = request, offer
        self._instead: dict[str, dict[str, Any]] = {}

    def check(self) -> None:
        """The pipeline first: an image for another pipeline is never decoded."""
        inputs, call, limits = self._request.inputs, self._request.call, self._offer.limits
        self.task = self._task()
        self._text("prompt", inputs.prompt)
        self._text("negative_prompt", inputs.negative_prompt)
        if not inputs.prompt.strip() and (self.task is None or self.task.name != UPSCALE):
            raise invalid_inputs("modelInputs.prompt: is empty. Say what to draw.")
        self._model()
        self.scheduler = self._choice("SCHEDULER", call.SCHEDULER, limits.schedulers, "INVALID_SCHEDULER")
        self.image_format = self._choice("image_format", call.image_format, limits.image_formats, "INVALID_INPUTS")
        self.bounded = {name: self._number(name, getattr(inputs, name), getattr(limits, name)) for name in BOUNDED}
        if self.task is not None and self._request.images.refusal is not None:
            raise self._request.images.refusal

    def resolved(self) -> Resolved:
        request, model_info, defaults = self._request, self._offer.model_info, self._offer.defaults
        if model_info is None or defaults is None or self.task is None:
            raise RuntimeError("a request was resolved before the model was loaded")
        images = request.images
        if images.image is not None:
            self.bounded |= image_size.choose(self.task, images.image, self.bounded, self._offer.limits, defaults)
        decided: dict[str, Any] = {
            name: getattr(defaults, name) if one is None else one for name, one in self.bounded.items()
        }
        decided |= {"task": self.task.name, "image": images.image, "mask_image": images.mask_image}
        decided["spreads_steps"] = self.task.spreads_steps
        decided["strength"] = self._strength(self.task, decided["num_inference_steps"])
        decided["scheduler"] = self.scheduler or defaults.scheduler
        first, count = request.inputs.seed, decided["num_images_per_prompt"]
        decided["seeds"] = tuple((first + image) % (MAX_SEED + 1) for image in range(count))
        params = GenerationParams.of(request.inputs, request.call, decided)
        image_format = self.image_format or defaults.image_format
        return Resolved(params, model_info, self.task.pipeline, image_format, self._instead)

    def _task(self) -> Task | None:
        """None: the model was not loaded yet."""
        asked, model_info, images = self._request.call.PIPELINE, self._offer.model_info, self._request.image_inputs
        if model_info is not None:
            return asked_task.choose(model_info.tasks, asked, images)
        if images and asked == AUTO[TEXT2IMAGE]:
            raise invalid_inputs(f"modelInputs.{images[0]}: {asked} draws from text alone.")
        return None

    def _strength(self, task: Task, steps: int) -> float | None:
        if task.strength is None:
            return None
        asked = self._request.inputs.strength
        strength = task.strength if asked is None else asked
        if not task.spreads_steps and steps_left(steps, strength) < 1:
            raise invalid_inputs(
                f"modelInputs.strength: {_short(strength)} of {steps} steps leaves none to draw; "
                f"from {math.ceil(1000 / steps) / 1000:g} on it leaves one."
            )
        return strength

    def _model(self) -> None:
        asked, served = self._request.call.MODEL_ID, self._offer.model_name
        if asked == "":
            raise Refusal(400, "NO_MODEL_ID", "callInputs.MODEL_ID is empty. Leave it out for the model served here.")
        if asked in (None, served):
            return
        if not self._offer.lenient:
            raise Refusal(
                400,
                "MODEL_MISMATCH",
                f"The model {_quoted(asked)} is not served here. This server draws with {_quoted(served)}.",
            )
        self._tell("MODEL_ID", asked, served)

    def _text(self, name: str, text: str) -> None:
        longest = self._offer.limits.prompt_chars.max
        if len(text) > longest:
            raise invalid_inputs(f"modelInputs.{name}: has {len(text)} characters, at most {longest} are taken.")

    def _choice(self, name: str, asked: str | None, offered: Sequence[str], code: str) -> str | None:
        """The one of `offered` that was asked for, None for the default."""
        if asked is None:
            return None
        found = next((one for one in offered if one.lower() == asked.lower()), None)
        if found is not None:
            return found
        if self._offer.lenient:
            default = getattr(self._offer.defaults, name.lower(), None)
            self._tell(name, asked[:100], default)
            return None
        raise Refusal(
            400, code, f"callInputs.{name}: there is no {_quoted(asked)} here. Offered: {', '.join(offered)}."
        )

    def _number(self, name: str, asked: float | None, bounds: Scale) -> float | None:
        """The number that was asked for, or the nearest; None for the default."""
        if asked is None or bounds.allows(asked):
            return asked
        if not self._offer.lenient:
            raise invalid_inputs(f"modelInputs.{name}: {bounds.refusal(_short(asked))}")
        self._tell(name, asked, bounds.nearest(asked))
        return bounds.nearest(asked)

    def _tell(self, name: str, asked: Any, served: Any) -> None:
        self._instead[name] = {"asked": asked, "served": served}


def _quoted(text: str) -> str:
    """What was asked for, safe to repeat: ASCII, at most 100 characters."""
    return ascii(text[:100])


def _short(number: float) -> str:
    """A number as text; a huge one by its length alone."""
    try:
        text = f"{number}"
    except ValueError:
        text = "a number of more than 4,300 digits"
    return text if len(text) <= 30 else f"a number of {len(text)} digits"
