"""A posted body, read: bytes -> `PictureRequest`, with every type checked and nothing yet compared with the model.

Inputs that this server has no use for are ignored, and named in `$meta.ignored` unless they only describe how the
caller's own server would load a model. Nothing that a request names is ever fetched.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from inference_server.errors import invalid_inputs
from inference_server.input_images import NO_IMAGES, InputImages
from inference_server.json_model import JsonModel, wrong_values
from inference_server.params import CallInputs, ModelInputs

# Accepted and ignored without a word: upstream's own clients send them.
SILENTLY_IGNORED = frozenset(
    {
        *("PRECISION", "REVISION", "MODEL_PRECISION", "MODEL_REVISION", "MODEL_URL", "CHECKPOINT_URL", "SEND_URL"),
        *("SIGN_KEY", "HF_AUTH_TOKEN"),
    }
)
# As a client posts it -> as it is called here. Source: test.py and api/extras/upsample of docker-diffusers-api
IMAGE_INPUTS = {"init_image": "image", "input_image": "image", "image": "image"}
IMAGE_INPUTS |= {name: name for name in ("mask_image", "control_image")}
TOO_DEEP = "The body is nested too deeply."


class _Body(JsonModel, extra="ignore"):
    modelInputs: ModelInputs
    callInputs: CallInputs = CallInputs()


@dataclass(frozen=True)
class PictureRequest:
    """One post, its types checked."""

    inputs: ModelInputs
    call: CallInputs
    request_id: str
    has_own_id: bool  # the client gave the id: the result is kept, and a repeated post joins
    digest: bytes  # the same for the same body, however its answer is streamed
    fetched_loras: bool  # upstream's `lora_weights`, which names files to fetch
    ignored: tuple[str, ...]
    encoded_images: Mapping[str, Any] = field(default_factory=dict, repr=False)  # as they came; until they are read
    images: InputImages = NO_IMAGES

    @property
    def image_inputs(self) -> tuple[str, ...]:
        """The names of the images that came along."""
        return tuple(self.encoded_images)

    def with_images(self, images: InputImages) -> "PictureRequest":
        """Its images were read; what was encoded is not kept."""
        return replace(self, images=images, encoded_images=dict.fromkeys(self.encoded_images))


def read_request(raw: bytes) -> PictureRequest:
    """Raises: Refusal (INVALID_INPUTS), naming the input that is wrong."""
    content = read_json(raw)
    try:
        body = _Body.model_validate(content)
    except ValidationError as exc:
        raise invalid_inputs(explain(exc)) from None
    model_inputs, call_inputs = content["modelInputs"], content.get("callInputs") or {}
    own_id = body.callInputs.startRequestId
    return PictureRequest(
        inputs=body.modelInputs,
        call=body.callInputs,
        request_id=own_id or secrets.token_hex(16),
        has_own_id=own_id is not None,
        digest=_digest(model_inputs, call_inputs),
        fetched_loras=bool(call_inputs.get("lora_weights")),
        ignored=_ignored({**model_inputs, **call_inputs}),
        encoded_images={IMAGE_INPUTS[name]: model_inputs[name] for name in IMAGE_INPUTS if model_inputs.get(name)},
    )


def read_json(raw: bytes, holds: str = "modelInputs and callInputs") -> dict[str, Any]:
    """The body's object. `holds`: what it should have been. Raises: Refusal."""
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise invalid_inputs(f"The body is no UTF-8 text. Send JSON with {holds}.") from exc
    except RecursionError as exc:
        raise invalid_inputs(TOO_DEEP) from exc
    except ValueError as exc:
        raise invalid_inputs(f"The body is no JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise invalid_inputs(f"The body must be a JSON object with {holds}.")
    return content


def explain(exc: ValidationError) -> str:
    """Which values are wrong, and what is right; ASCII."""
    told = [f"{name}: {right}" for name, right, _ in wrong_values(exc)]
    return "; ".join(told[:5]).encode("ascii", "backslashreplace").decode("ascii")


def _digest(model_inputs: dict[str, Any], call_inputs: dict[str, Any]) -> bytes:
    call = {key: value for key, value in call_inputs.items() if key != "streamEvents"}
    try:
        text = json.dumps({"modelInputs": model_inputs, "callInputs": call}, sort_keys=True)
    except RecursionError as exc:
        raise invalid_inputs(TOO_DEEP) from exc
    return hashlib.sha256(text.encode("ascii")).digest()


def _ignored(given: dict[str, Any]) -> tuple[str, ...]:
    """Names of inputs that nothing here uses, at most 20, each cut to 64 characters."""
    known = {"lora_weights", *ModelInputs.model_fields, *CallInputs.model_fields, *SILENTLY_IGNORED, *IMAGE_INPUTS}
    unused = sorted(name[:64] for name, value in given.items() if name not in known and value is not None)
    return tuple(unused[:20])
