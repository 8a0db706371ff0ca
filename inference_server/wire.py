"""A posted body, read: bytes -> `PictureRequest`, with every type checked and nothing yet compared with the model.

Inputs that this server has no use for are ignored, and named in `$meta.ignored` unless they only describe how the
caller's own server would load a model. Nothing that a request names is ever fetched.
Source of the names: https://github.com/kiri-art/docker-diffusers-api#usage
"""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from inference_server.errors import Refusal, invalid_inputs
from inference_server.json_model import Float, Int

MAX_SEED = 2**32 - 1
# Accepted and ignored without a word: upstream's own clients send them.
SILENTLY_IGNORED = frozenset(
    {
        *("PRECISION", "REVISION", "MODEL_PRECISION", "MODEL_REVISION", "MODEL_URL", "CHECKPOINT_URL", "SEND_URL"),
        *("SIGN_KEY", "HF_AUTH_TOKEN", "strength"),
    }
)
_FORMAT_SPELLINGS = {frozenset({"webp", "lossless"}): "WEBP_LOSSLESS", frozenset({"jpg"}): "JPEG"}
IMAGE_INPUTS = ("image", "init_image", "mask_image", "control_image")


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


Text = Annotated[str, AfterValidator(_text)]
RequestId = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_request_id)]


class _Inputs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, protected_namespaces=())


class ModelInputs(_Inputs):
    """What to draw; None is as good as left out."""

    prompt: Text
    negative_prompt: Text | None = None
    width: Int | None = None  # px
    height: Int | None = None
    num_inference_steps: Int | None = None
    guidance_scale: Float | None = None
    num_images_per_prompt: Int | None = None
    seed: Annotated[Int, Field(ge=0, le=MAX_SEED)] | None = None


class CallInputs(_Inputs):
    """How to draw it, and how to answer."""

    MODEL_ID: Text | None = None
    PIPELINE: Text | None = None
    SCHEDULER: Text | None = None
    image_format: Text | None = None
    png_compress_level: Annotated[Int, Field(ge=0, le=9)] | None = None
    safety_checker: bool | None = None
    streamEvents: bool | None = None
    startRequestId: RequestId | None = None


class _Body(_Inputs):
    modelInputs: ModelInputs
    callInputs: CallInputs = CallInputs()


@dataclass(frozen=True)
class PictureRequest:
    """One post, its types checked. `None` means the server's default."""

    request_id: str
    has_own_id: bool  # the client gave the id: the result is kept, and a repeated post joins
    digest: bytes  # the same for the same body, however its answer is streamed
    stream: bool
    prompt: str
    negative_prompt: str
    width_px: int | None
    height_px: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    num_images: int
    seed: int  # drawn at random when none was given
    model_id: str | None
    pipeline: str | None
    scheduler: str | None
    image_format: str | None
    png_compress_level: int | None  # None: the fast encoder
    safety_checker: bool  # where the model has one
    image_inputs: tuple[str, ...]  # inputs that only an image pipeline could use
    ignored: tuple[str, ...]


def read_request(raw: bytes) -> PictureRequest:
    """Raises: Refusal (INVALID_INPUTS), naming the input that is wrong."""
    content = _read_json(raw)
    try:
        body = _Body.model_validate(content)
    except ValidationError as exc:
        raise invalid_inputs(_told(exc)) from None
    return _request(body, content)


def _request(body: _Body, content: dict[str, Any]) -> PictureRequest:
    inputs, call = body.modelInputs, body.callInputs
    seed = inputs.seed
    return PictureRequest(
        request_id=call.startRequestId or secrets.token_hex(16),
        has_own_id=call.startRequestId is not None,
        digest=_digest(content),
        stream=bool(call.streamEvents),
        prompt=inputs.prompt,
        negative_prompt=inputs.negative_prompt or "",
        width_px=inputs.width,
        height_px=inputs.height,
        num_inference_steps=inputs.num_inference_steps,
        guidance_scale=inputs.guidance_scale,
        num_images=1 if inputs.num_images_per_prompt is None else inputs.num_images_per_prompt,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        model_id=call.MODEL_ID,
        pipeline=call.PIPELINE,
        scheduler=call.SCHEDULER,
        image_format=_image_format(call.image_format),
        png_compress_level=call.png_compress_level,
        safety_checker=call.safety_checker is not False,
        image_inputs=tuple(name for name in IMAGE_INPUTS if content["modelInputs"].get(name)),
        ignored=_ignored(content),
    )


def _image_format(asked: str | None) -> str | None:
    """The name in the limits of what a client spells otherwise: `lossless WebP`, `webp-lossless`, `jpg`."""
    words = frozenset(re.findall(r"[^\W_]+", asked.lower())) if asked else frozenset()
    return _FORMAT_SPELLINGS.get(words, asked)


def _read_json(raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise invalid_inputs("The body is no UTF-8 text. Send JSON with modelInputs and callInputs.") from exc
    except RecursionError as exc:
        raise invalid_inputs("The body is nested too deeply.") from exc
    except ValueError as exc:
        raise invalid_inputs(f"The body is no JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise invalid_inputs("The body must be a JSON object with modelInputs and callInputs.")
    if content.get("callInputs", {}) is None:
        del content["callInputs"]
    return content


def _told(exc: ValidationError) -> str:
    rows = exc.errors(include_url=False, include_input=False)
    told = [f"{'.'.join(str(part) for part in row['loc'])}: {row['msg'].removeprefix('Value error, ')}" for row in rows]
    return "; ".join(told[:5]).encode("ascii", "backslashreplace").decode("ascii")


def _digest(content: dict[str, Any]) -> bytes:
    call = {key: value for key, value in content.get("callInputs", {}).items() if key != "streamEvents"}
    relevant = {"modelInputs": content["modelInputs"], "callInputs": call}
    try:
        text = json.dumps(relevant, sort_keys=True)
    except RecursionError as exc:
        raise Refusal(400, "INVALID_INPUTS", "The body is nested too deeply.") from exc
    return hashlib.sha256(text.encode("ascii")).digest()


def _ignored(content: dict[str, Any]) -> tuple[str, ...]:
    """Names of inputs that nothing here uses, at most 20, each cut to 64 characters."""
    known = {*ModelInputs.model_fields, *CallInputs.model_fields, *SILENTLY_IGNORED, *IMAGE_INPUTS}
    given = {**content["modelInputs"], **content.get("callInputs", {})}
    unused = sorted(name[:64] for name, value in given.items() if name not in known and value is not None)
    return tuple(unused[:20])
