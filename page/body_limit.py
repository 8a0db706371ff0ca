"""Refuses bodies that are larger than anything this page is asked, before they fill its memory: Gradio reads all."""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES_MAX = 1_000_000


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than `most` bytes, told or counted as it comes."""

    def __init__(self, app: ASGIApp, most: int = BODY_BYTES_MAX) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        if told.isdecimal() and int(told[:20]) > self._most:
            await self._refuse(scope, receive, send)
            return
        size, is_refused, has_begun = 0, False, False

        async def counted() -> Message:
            nonlocal size, is_refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most and not has_begun:
                is_refused = True
                return {"type": "http.disconnect"}  # what reads it gives up; its answer goes nowhere
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal has_begun
            if not is_refused:
                has_begun = True
                await send(message)

        try:
            await self._app(scope, counted, unless_refused)
        except Exception:
            if not is_refused:
                raise
        if is_refused:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = f"A call has at most {self._most} bytes. GET /gradio_api/info tells what there is to call."
        await JSONResponse({"error": reason}, 413, headers={"Connection": "close"})(scope, receive, send)
