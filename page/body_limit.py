"""Refuses bodies that are larger than anything this page is asked, before they fill its memory: Gradio reads all.

And files, unless the model that draws takes pictures.
"""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES_MAX = 1_000_000
FILE_BYTES_MAX = 12_000_000
_MULTIPART_BYTES = 10_000  # beside the file
_UPLOADS = "/gradio_api/upload"


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than `most` bytes, told or counted as it comes.

    `takes_files()`: whether a visitor may leave a file here just now, of `FILE_BYTES_MAX` at most.
    """

    def __init__(
        self, app: ASGIApp, most: int = BODY_BYTES_MAX, takes_files: Callable[[], bool] = lambda: False
    ) -> None:
        self._app = app
        self._most = most
        self._takes_files = takes_files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most
        if scope["path"].rstrip("/").endswith(_UPLOADS):
            if not self._takes_files():
                error = JSONResponse({"error": "This page takes no files."}, 403, headers={"Connection": "close"})
                await error(scope, receive, send)
                return
            most = FILE_BYTES_MAX + _MULTIPART_BYTES
        told = Headers(scope=scope).get("content-length", "")
        if told.isdecimal() and int(told[:20]) > most:
            await self._refuse(most, scope, receive, send)
            return
        size, is_refused, has_begun = 0, False, False

        async def counted() -> Message:
            nonlocal size, is_refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > most and not has_begun:
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
            await self._refuse(most, scope, receive, send)

    async def _refuse(self, most: int, scope: Scope, receive: Receive, send: Send) -> None:
        reason = f"A call has at most {most} bytes. GET /gradio_api/info tells what there is to call."
        await JSONResponse({"error": reason}, 413, headers={"Connection": "close"})(scope, receive, send)
