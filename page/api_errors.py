"""Readable refusals for programs: Gradio answers 500 without a word to a call by name with wrong names or no prompt."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATH = "/gradio_api/call/v2/"
_MORE = "GET /gradio_api/info tells the endpoints with their parameters."


class ReadableErrors:
    """ASGI middleware in front of `POST /gradio_api/call/v2/NAME`; `BodyLimit` has to stand before it.

    `parameters`: of each endpoint the names of its parameters, and how many of the first ones have to be there.
    """

    def __init__(self, app: ASGIApp, parameters: Mapping[str, tuple[Sequence[str], int]]) -> None:
        self._app = app
        self._parameters = parameters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or _PATH not in scope["path"]:
            await self._app(scope, receive, send)
            return
        name = scope["path"].partition(_PATH)[2].rstrip("/")
        body, read = bytearray(), list[Message]()
        while not read or read[-1].get("more_body"):
            message = await receive()
            read.append(message)
            body.extend(message.get("body", b""))
            if message["type"] != "http.request":
                break
        fault = self._fault(name, bytes(body))
        if fault is not None:
            status, reason = fault
            await JSONResponse({"error": f"{reason} {_MORE}"}, status)(scope, receive, send)
            return

        async def replay() -> Message:
            return read.pop(0) if read else await receive()

        await self._app(scope, replay, send)

    def _fault(self, name: str, body: bytes) -> tuple[int, str] | None:
        if name not in self._parameters:
            return 404, f"There is no endpoint {name[:60]!r}; there are {', '.join(self._parameters)}."
        known, required = self._parameters[name]
        try:
            given: Any = json.loads(body or b"{}")
        except (ValueError, RecursionError):  # the latter for brackets in brackets in brackets
            return 422, "The body is no JSON."
        if not isinstance(given, dict):
            return 422, f"The body must be a JSON object of parameters by name: {', '.join(known)}."
        if unknown := [key for key in given if key not in known]:
            return 422, f"There is no parameter {unknown[0][:60]!r}; there are {', '.join(known)}."
        if missing := [key for key in known[:required] if key not in given]:
            return 422, f"The parameter {missing[0]!r} is missing."
        return None
