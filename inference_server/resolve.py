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
from inference_server.loras import Selection
from inference_server.messages import PROMPT_WEIGHTING, ModelInfo
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
    checks: bool | None = None  # whether pictures are checked, as the maintainer wants it; None: as a request says


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
        self._fetched_loras()
        self.loras = self._loras()
        self.prompt_weighting = self._prompt_weighting()
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
        decided["safety_checker"] = self._safety_checker()
        decided["loras"], decided["prompt_weighting"] = self.loras, self.prompt_weighting
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

    def _loras(self) -> Selection:
        """Those that were asked for, with their strengths; a strength of 0 is as good as none."""
        asked, offered = self._request.call.loras, self._offer.limits.loras
        if self._offer.model_info is None:
            return ()
        chosen = {}
        for name, weight in asked.items():
            if name in offered:
                chosen[name] = offered[name] if weight is None else weight
            elif self._offer.lenient:
                self._tell(f"loras.{name[:64]}", weight, None)
            else:
                raise invalid_inputs(f"callInputs.loras: there is no LoRA {_quoted(name)} here. {self._offered_loras}")
        return tuple(sorted((name, weight) for name, weight in chosen.items() if weight))

    def _safety_checker(self) -> bool:
        asked, checks = self._request.call.safety_checker, self._offer.checks
        if checks and not asked:
            self._tell("safety_checker", False, True)
        return asked if checks is None else checks

    def _prompt_weighting(self) -> bool:
        """Whether prompts are read for weights, as asked, where the model can."""
        asked = self._request.call.prompt_weighting
        if not asked or self._offer.model_info is None or PROMPT_WEIGHTING in self._offer.limits.features:
            return asked
        if not self._offer.lenient:
            raise invalid_inputs("callInputs.prompt_weighting: this model reads prompts as they are, without weights.")
        self._tell("prompt_weighting", True, False)
        return False

    def _fetched_loras(self) -> None:
        """Refuses upstream's way to name LoRAs by their addresses: nothing that a request names is fetched."""
        if not self._request.fetched_loras:
            return
        if self._offer.lenient:
            self._tell("lora_weights", "weights to fetch", None)
        elif self._offer.model_info is not None:
            raise invalid_inputs(
                "callInputs.lora_weights: nothing that a request names is fetched here. callInputs.loras takes LoRAs "
                f'by name, such as {{"name": 0.8}}. {self._offered_loras}'
            )

    @property
    def _offered_loras(self) -> str:
        offered = self._offer.limits.loras
        told = ", ".join(f"{name} ({weight:g})" for name, weight in offered.items())
        return f"Offered: {told}." if offered else "This server offers none; its maintainer can (LORAS)."

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
