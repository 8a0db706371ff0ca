"""Compares a request with what the model can do: `PictureRequest` -> `Resolved`, everything decided.

Strict: a request that cannot be honoured is refused, and the refusal names what can be asked for. Lenient: the nearest
is served, and `$meta.served_instead` says so. Static limits hold until the model is loaded; then all is checked again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inference_server.errors import Refusal, invalid_inputs
from inference_server.limits import Defaults, Limits, Scale
from inference_server.messages import ModelInfo
from inference_server.params import MAX_SEED, GenerationParams
from inference_server.wire import PictureRequest

TEXT_PIPELINE = "AutoPipelineForText2Image"  # "text to image", whatever the model's own class is
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
        self.bounded = {name: self._number(name, getattr(inputs, name), getattr(limits, name)) for name in BOUNDED}

    def resolved(self) -> Resolved:
        request, model_info, defaults = self._request, self._offer.model_info, self._offer.defaults
        if model_info is None or defaults is None:
            raise RuntimeError("a request was resolved before the model was loaded")
        decided: dict[str, Any] = {
            name: getattr(defaults, name) if one is None else one for name, one in self.bounded.items()
        }
        decided["scheduler"] = self.scheduler or defaults.scheduler
        first, images = request.inputs.seed, decided["num_images_per_prompt"]
        decided["seeds"] = tuple((first + image) % (MAX_SEED + 1) for image in range(images))
        params = GenerationParams.of(request.inputs, request.call, decided)
        return Resolved(params, model_info, self.image_format or defaults.image_format, self._instead)

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
