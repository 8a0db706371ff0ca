"""`POST /v1/images/generations`: pictures as OpenAI's clients ask for them, drawn as those of `POST /` are.

The bearer is the API key. `response_format` is `b64_json`, or `url`: an address on this server, good for ten minutes to
whoever has it. Without it both are told, as OpenAI's models differ in their default. What those models have and this
server has not (`quality`, `style`, ...) is ignored; `seed`, `negative_prompt`, `num_inference_steps` and
`guidance_scale` are taken beside (`extra_body` of the stock client).
Source: https://platform.openai.com/docs/api-reference/images/create
"""

import asyncio
import base64
import json
import re
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from inference_server.errors import Refusal, invalid_inputs
from inference_server.json_model import Float, Int, JsonModel
from inference_server.params import Text
from inference_server.responses import TicketResponse, refusal_response
from inference_server.tickets import Ticket
from inference_server.wire import explain, read_json

PATH, FILES_PATH = "/v1/images/generations", "/v1/images/files/"
KEEP_S = 600.0
KEEP_BYTES = 64_000_000
_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def _size(value: str) -> str:
    if value != "auto" and not _SIZE.fullmatch(value):
        raise ValueError("must be width x height in px, such as 512x512, or auto")
    return value


class ImagesRequest(JsonModel, extra="ignore"):
    """The body, by OpenAI's names. None: the model's default."""

    prompt: Text
    model: Text | None = None
    n: Int | None = None
    size: Annotated[str, AfterValidator(_size)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    stream: Literal[False] = False
    seed: Int | None = None
    negative_prompt: Text | None = None
    num_inference_steps: Int | None = None
    guidance_scale: Float | None = None

    @property
    def wire(self) -> bytes:
        """The same as it is posted to `/`."""
        size = _SIZE.fullmatch(self.size or "")
        inputs = {
            "prompt": self.prompt,
            "num_images_per_prompt": self.n,
            "width": int(size[1]) if size else None,
            "height": int(size[2]) if size else None,
            **{name: getattr(self, name) for name in ("seed", "negative_prompt", "num_inference_steps")},
            "guidance_scale": self.guidance_scale,
        }
        call = {"MODEL_ID": self.model, "image_format": _FORMATS[self.output_format]}
        return json.dumps({"modelInputs": inputs, "callInputs": call}).encode()


def read_images_request(raw: bytes) -> ImagesRequest:
    """Raises: Refusal (INVALID_INPUTS), naming what is wrong."""
    try:
        return ImagesRequest.model_validate(read_json(raw, "prompt"))
    except ValidationError as exc:
        raise invalid_inputs(explain(exc)) from None


class PictureFiles:
    """Pictures that can be fetched for a while. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str]] = {}  # oldest first

    def keep(self, file: bytes, image_format: str) -> str:
        """The name under which it can be had, which nobody guesses."""
        name = f"{secrets.token_hex(16)}.{image_format}"
        self._files[name] = (file, f"image/{image_format}")
        while sum(len(one) for one, _ in self._files.values()) > KEEP_BYTES and len(self._files) > 1:
            del self._files[next(iter(self._files))]
        asyncio.get_running_loop().call_later(KEEP_S, self._files.pop, name, None)
        return name

    def response(self, name: str) -> Response:
        """Raises: Refusal (404)."""
        if name not in self._files:
            raise Refusal(404, "NO_SUCH_PICTURE", f"There is no such picture, or no longer: kept for {KEEP_S:g} s.")
        file, media_type = self._files[name]
        return Response(file, media_type=media_type, headers={"Cache-Control": "private, no-store"})


class ImagesResponse(TicketResponse):
    """`{"created", "data": [{"b64_json", "url"}, ...]}`, once the pictures are there."""

    def __init__(
        self, ticket: Ticket, leave: Callable[[Ticket, bool], None], asked: ImagesRequest, files: PictureFiles
    ) -> None:
        super().__init__(ticket, leave)
        self._asked, self._files = asked, files

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = await self._ticket.done()
        if outcome.refusal is not None:
            await refusal_response(outcome.refusal, path=PATH)(scope, receive, send)
            return
        pictures = await asyncio.to_thread(_pictures, outcome.body)
        base = f"{str(Request(scope).base_url).rstrip('/')}{FILES_PATH}"
        data = [self._told(encoded, file, base) for encoded, file in pictures]
        await JSONResponse({"created": int(time.time()), "data": data})(scope, receive, send)

    def _told(self, encoded: str, file: bytes, base: str) -> dict[str, str]:
        told = {}
        if self._asked.response_format != "url":
            told["b64_json"] = encoded
        if self._asked.response_format != "b64_json":
            told["url"] = base + self._files.keep(file, self._asked.output_format)
        return told


def _pictures(body: bytes) -> list[tuple[str, bytes]]:
    """Each in base64, and its file."""
    content: dict[str, Any] = json.loads(body)
    encoded = content.get("images_base64") or [content["image_base64"]]
    return [(one, base64.b64decode(one)) for one in encoded]


def models(name: str) -> dict[str, Any]:
    """`GET /v1/models`: the one that is served; chat programs offer what stands there."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "inference_server"}]}
