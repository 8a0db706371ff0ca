"""Compares a request with what the model can do: `PictureRequest` -> `Resolved`, everything decided.

Strict: a request that cannot be honoured is refused, and the refusal names what can be asked for. Lenient: the nearest
is served, and `$meta.served_instead` says so. Static limits hold until the model is loaded; then all is checked again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inference_server.errors import Refusal, invalid_inputs
from inference_server.limits import Defaults, Limits, Scale, Side
from inference_server.messages import ModelInfo
from inference_server.params import MAX_SEED, GenerationParams
from inference_server.wire import PictureRequest

TEXT_PIPELINE = "AutoPipelineForText2Image"  # "text to image", whatever the model's own class is


@dataclass(frozen=True)
class Offer:
    """What the server offers: the limits always, the model's model_info and defaults once it was loaded."""

    model_name: str
    limits: Limits
    model_info: ModelInfo | None
    defaults: Defaults | None
    lenient: bool


@dataclass(frozen=True)
class Resolved:
    """What is drawn and how it is handed over."""

    drawing: GenerationParams
    model_info: ModelInfo
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
        images = self._request.image_inputs
        self._pipeline()
        if images and (self._offer.model_info or call.PIPELINE in (None, TEXT_PIPELINE)):
            raise invalid_inputs(f"modelInputs.{images[0]}: this server draws from text alone.")
        self._text("prompt", inputs.prompt)
        self._text("negative_prompt", inputs.negative_prompt)
        if not inputs.prompt.strip():
            raise invalid_inputs("modelInputs.prompt: is empty. Say what to draw.")
        self._model()
        self.scheduler = self._choice("SCHEDULER", call.SCHEDULER, limits.schedulers, "INVALID_SCHEDULER")
        self.image_format = self._choice("image_format", call.image_format, limits.image_formats, "INVALID_INPUTS")
        self.width_px = self._side("width", inputs.width, limits.width)
        self.height_px = self._side("height", inputs.height, limits.height)
        self.steps = self._count("num_inference_steps", inputs.num_inference_steps, limits.num_inference_steps)
        self.images = self._count("num_images_per_prompt", inputs.num_images_per_prompt, limits.num_images_per_prompt)
        self.guidance = self._count("guidance_scale", inputs.guidance_scale, limits.guidance_scale)

    def resolved(self) -> Resolved:
        request, model_info, defaults = self._request, self._offer.model_info, self._offer.defaults
        if model_info is None or defaults is None:
            raise RuntimeError("a request was resolved before the model was loaded")
        images = 1 if self.images is None else int(self.images)
        drawing = GenerationParams.of(
            request.inputs,
            request.call,
            width_px=defaults.width if self.width_px is None else self.width_px,
            height_px=defaults.height if self.height_px is None else self.height_px,
            num_inference_steps=int(defaults.num_inference_steps if self.steps is None else self.steps),
            guidance_scale=defaults.guidance_scale if self.guidance is None else float(self.guidance),
            scheduler=self.scheduler or defaults.scheduler,
            seeds=tuple((request.inputs.seed + image) % (MAX_SEED + 1) for image in range(images)),
        )
        return Resolved(drawing, model_info, self.image_format or defaults.image_format, self._instead)

    def _pipeline(self) -> None:
        asked, model_info = self._request.call.PIPELINE, self._offer.model_info
        if asked is None or asked == TEXT_PIPELINE or model_info is None:
            return
        offered = (TEXT_PIPELINE, model_info.pipeline)
        if asked not in offered:
            raise Refusal(
                400, "NO_SUCH_PIPELINE", f"There is no pipeline {_quoted(asked)} here. Pipelines: {', '.join(offered)}."
            )

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

    def _side(self, name: str, asked: int | None, side: Side) -> int | None:
        if asked is None or side.allows(asked):
            return asked
        if not self._offer.lenient:
            raise invalid_inputs(
                f"modelInputs.{name}: {_short(asked)} px cannot be drawn; from {side.min} to {side.max} px "
                f"in multiples of {side.multiple}."
            )
        return int(self._tell(name, asked, side.nearest(asked)))

    def _count(self, name: str, asked: float | None, bounds: Scale) -> float | None:
        if asked is None or bounds.allows(asked):
            return asked
        if not self._offer.lenient:
            raise invalid_inputs(
                f"modelInputs.{name}: {_short(asked)} is outside the limits, {bounds.min:g} to {bounds.max:g}."
            )
        return float(self._tell(name, asked, bounds.nearest(asked)))

    def _tell(self, name: str, asked: Any, served: Any) -> Any:
        self._instead[name] = {"asked": asked, "served": served}
        return served


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
