"""docker-diffusers-api's wire format for a client: writes requests, reads healthchecks, events, results and errors.

It reads both our inference server's answers and upstream's: HTTP 200 with `$error`, `image_base64` or `images_base64`,
events without a step. It trusts nothing that comes in.

Source: github.com/kiri-art/docker-diffusers-api (README and app.py); the additions are our inference server's.
"""

import base64
import binascii
import io
import json
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drawing.events import Queued, Step, Waking
from drawing.models import Defaults, GeneratedImage, GenerationRequest, Limits, Receipt
from endpoint.transport_errors import read_error
from errors import (
    Absence,
    DrawingError,
    EndpointAnswerError,
)

PIXELS_MAX = 4096 * 4096
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
_WORDS_MAX, _NOTICE_CHARS = 200, 500
_MS_MAX = 7 * 24 * 3600 * 1000.0
_LEFT_MAX_S, _WAKE_MAX_S = 400 * 24 * 3600, 24 * 3600


class Hardware(BaseModel):
    """The machine of an inference server. `gpu`: its name; sizes in bytes; `memory`: the GPU's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    gpu: str | None = Field(default=None, max_length=100)
    driver: str | None = Field(default=None, max_length=40)
    cuda: str | None = Field(default=None, max_length=40)
    memory_bytes: int | None = None
    free_bytes: int | None = None
    disk_free_bytes: int | None = None


class Health(BaseModel):
    """What `GET /healthcheck` told. `limits` is None for a server that tells none (upstream's).

    `state`: `loading`, `healthy` or `failed`; `engine`: `loading`, `ready`, `asleep` or None.
    `stage`: what a loading engine is at. `absence`: its owner lets it draw nothing now; `wakes_in_s`: how long the
    engine took to wake lately, at least and at most.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    state: str
    gpu: bool = False
    engine: str | None = None
    model: str | None = None
    deployment: str | None = None
    fingerprint: str | None = None
    reason: str | None = None
    stage: str | None = None
    hardware: Hardware | None = None
    limits: Limits | None = None
    defaults: Defaults = Defaults()
    absence: Absence | None = None
    wakes_in_s: tuple[int, int] | None = None
    memory_plan: str = ""  # how the model lies on the GPU, and why
    notices: tuple[str, ...] = ()  # for the maintainer: the model's licence and what it asks, its precision

    @property
    def licence(self) -> str:
        """The sentence about the model's licence; empty where it is not known."""
        return next((notice[:_NOTICE_CHARS] for notice in self.notices if notice.startswith("Licence: ")), "")

    @property
    def gpu_busy(self) -> bool:
        """Something else uses the GPU. Nothing needs to be started for that: each post tries again to load."""
        return self.state == "failed" and (self.reason or "").startswith("gpu-busy")

    @property
    def broken(self) -> bool:
        """The model could not be loaded. Our server tries again by itself, at growing intervals."""
        return self.state == "failed" and not self.gpu_busy

    @property
    def is_downloading(self) -> bool:
        """It fetches its model, which may take hours; it fails by itself when no byte comes for a minute."""
        return self.state == "loading" and (self.stage or "").startswith("Downloading the model")

    @property
    def loading_sentence(self) -> str:
        """What a visitor reads while it loads."""
        return _sentence(self.stage) if self.is_downloading else "Loading the model"

    @property
    def takes_posts(self) -> bool:
        """Whether to post a request: its answer tells what comes of it."""
        return self.absence is None and (self.state == "healthy" or self.gpu_busy)


def read_health(link: str, text: str) -> Health:
    """Raises: EndpointAnswerError if this is no healthcheck's answer."""
    answer = {name: value for name, value in read_object(link, text).items() if value is not None}
    try:
        limits, pause = answer.pop("limits", None), answer.pop("pause", None)
        hardware = _hardware(answer.pop("hardware", None))
        read: dict[str, Any] = {
            "hardware": hardware,
            "absence": _absence(pause),
            "wakes_in_s": _seconds_range(answer.pop("wakes_in_s", None)),
        }
        if isinstance(limits, dict):
            read["limits"] = Limits.from_health(limits)
        return Health.model_validate(answer).model_copy(update=read)
    except ValidationError as error:
        raise _not_understood(link, f"its healthcheck says {text[:200]!r}") from error


def _absence(pause: Any) -> Absence | None:
    """A server's `{"reason", "left_s"}`. Its clock may be wrong, so it says how long the pause still lasts; to the
    minute, the end is the same with every answer.
    """
    if not isinstance(pause, dict):
        return None
    left_s = pause.get("left_s")
    until = None
    if isinstance(left_s, int | float) and 0 <= left_s < _LEFT_MAX_S:
        until = round((time.time() + left_s) / 60) * 60.0
    return Absence("budget" if pause.get("reason") == "budget" else "paused", until=until)


def _hardware(told: Any) -> Hardware | None:
    """For the owner alone: what cannot be read is passed over."""
    try:
        return Hardware.model_validate(told) if told else None
    except ValidationError:
        return None


def _seconds_range(told: Any) -> tuple[int, int] | None:
    """`[20, 35]`; None for anything else."""
    if not isinstance(told, list) or len(told) != 2 or not all(isinstance(one, int) for one in told):
        return None
    return (told[0], told[1]) if 0 < told[0] <= told[1] < _WAKE_MAX_S else None


def write_request(request: GenerationRequest, request_id: str) -> dict[str, Any]:
    """The body of `POST /`: streamed, and repeatable under `request_id`."""
    inputs = {name: value for name, value in vars(request).items() if value not in (None, "")}
    call = {"startRequestId": request_id, "streamEvents": 1}
    if request.image is None:  # else the images decide
        call["PIPELINE"] = "AutoPipelineForText2Image"
    for name in ("image", "mask_image"):
        if file := inputs.pop(name, None):
            inputs[name] = base64.b64encode(file).decode("ascii")
    if scheduler := inputs.pop("scheduler", None):
        call["SCHEDULER"] = scheduler
    return {"modelInputs": inputs, "callInputs": call}


def read_object(link: str, text: str | bytes) -> dict[str, Any]:
    """One JSON object. Raises: EndpointAnswerError for anything else, cut short included."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_understood(link, f"{text[:80]!r} came back, which is no (whole) JSON") from error
    if not isinstance(answer, dict):
        raise _not_understood(link, f"JSON of another kind came back ({type(answer).__name__})")
    return answer


def read_event(answer: dict[str, Any], num_inference_steps: int | None) -> Waking | Queued | Step | None:
    """The event in a line of the stream; None for a line without one that a visitor sees."""
    try:
        match answer.get("type"):
            case "waking":
                return Waking(_sentence(answer.get("stage")), _seconds_range(answer.get("wakes_in_s")))
            case "queued":
                return Queued(int(answer["place"]))
            case "progress":
                told = answer.get("total_steps") or answer.get("num_inference_steps")  # the first: of all images
                steps = max(1, int(told or num_inference_steps or 100))
                step = int(answer["step"]) if "step" in answer else round(float(answer["progress"]) * steps)
                step = max(0, min(step, steps))
                return Step(step, steps, _preview(answer.get("preview")), arriving=answer.get("arriving") is True)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # progress is a courtesy: a picture is not lost over it
    return None


def is_result(answer: dict[str, Any]) -> bool:
    """Whether a line of the stream is its last one."""
    return "$error" in answer or "image_base64" in answer or "images_base64" in answer


def read_result(link: str, answer: dict[str, Any], files: Sequence[bytes] = ()) -> GeneratedImage:
    """The picture of a result: the first of `files`, which came beside it, or in it as text.

    Raises: what `read_error` makes of a `$error`, DrawingError for one that the safety checker made black,
    EndpointAnswerError for a picture that is none.
    """
    if "$error" in answer:
        raise read_error(link, answer["$error"])
    if _is_hidden(answer.get("nsfw_content_detected")):
        raise DrawingError(
            "The model's safety checker hid this picture. Try other words or another seed.",
            code="NSFW_CONTENT_DETECTED",
        )
    data = files[0] if files else _picture_in(link, answer)
    image, image_format = _decode(link, data)
    meta = answer.get("$meta")
    return GeneratedImage(
        image=image,
        encoded=data,
        image_format=image_format,
        seed=_seed(meta),
        receipt=_receipt(meta, answer.get("$timings")),
    )


def _picture_in(link: str, answer: dict[str, Any]) -> bytes:
    images = answer.get("images_base64")
    encoded = answer.get("image_base64") or (images[0] if isinstance(images, list) and images else None)
    if not isinstance(encoded, str):
        raise _not_understood(link, "its result holds no image")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_understood(link, "its image is no base64") from error


def _is_hidden(nsfw: Any) -> bool:
    """Whether the first picture was found unsafe; one flag for each, or one for all."""
    return nsfw is True or (isinstance(nsfw, list) and nsfw[:1] == [True])


def _decode(link: str, data: bytes) -> tuple[Image.Image, str]:
    try:
        image = Image.open(io.BytesIO(data), formats=_IMAGE_FORMATS)
        too_large = image.width * image.height > PIXELS_MAX
        if not too_large:
            image.load()
    except Exception as error:  # Pillow's decoders raise nearly anything at bytes made up to hurt
        raise _not_understood(link, f"its image cannot be decoded ({type(error).__name__})") from error
    if too_large:
        raise _not_understood(link, f"its image claims {image.width} x {image.height} pixels")
    return (image if image.mode == "RGB" else image.convert("RGB")), str(image.format)


def _preview(text: Any) -> bytes | None:
    return base64.b64decode(text, validate=True) if isinstance(text, str) and len(text) < 200_000 else None


def _sentence(stage: Any) -> str:
    text = str(stage or "waking the machine that draws")[:200]
    return text[:1].upper() + text[1:]


def _seed(meta: Any) -> int | None:
    seeds = meta.get("seeds") if isinstance(meta, dict) else None
    seed = seeds[0] if isinstance(seeds, list) and seeds else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _receipt(meta: Any, timings: Any) -> Receipt:
    meta = meta if isinstance(meta, dict) else {}
    timings = timings if isinstance(timings, dict) else {}

    def seconds(name: str) -> float | None:
        value = timings.get(name)
        return value / 1000 if isinstance(value, int | float) and 0 <= value < _MS_MAX else None

    def text(name: str) -> str | None:
        value = meta.get(name)
        return value if isinstance(value, str) else None

    return Receipt(
        model=text("MODEL_ID"),
        scheduler=text("SCHEDULER"),
        inference_s=seconds("inference"),
        queue_s=seconds("queue"),
        init_s=seconds("init"),
        encode_s=seconds("encode"),
        substituted=_substituted(meta.get("served_instead")),
        unused_words=_words(meta.get("unused_prompt_words")),
    )


def _words(told: Any) -> tuple[str, ...]:
    """A list of words, bounded in number and length."""
    words = told[:_WORDS_MAX] if isinstance(told, list) else []
    return tuple(word[:80] for word in words if isinstance(word, str))


def _substituted(served_instead: Any) -> tuple[str, ...]:
    """A lenient server's `{"name": {"asked": ..., "served": ...}}` as sentences."""
    if not isinstance(served_instead, dict):
        return ()
    return tuple(
        f"{str(name)[:40]}: {str(how.get('served'))[:80]} instead of {str(how.get('asked'))[:80]}"
        for name, how in list(served_instead.items())[:10]
        if isinstance(how, dict)
    )


def _not_understood(link: str, came_back: str) -> EndpointAnswerError:
    return EndpointAnswerError(
        link,
        tried="read its answer",
        came_back=came_back,
        next_step="Check that it is an inference server of docker-diffusers-api's format, and see its log.",
    )
