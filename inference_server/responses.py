"""The two ways to answer a post: one JSON body when all is done, or ndjson lines while it is being done.

Both notice a client that hangs up. The first line comes at once, then at least one a second; the last is the result or
`{"$error": ...}`.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference_server import pictures
from inference_server.errors import Refusal
from inference_server.tickets import Event, Outcome, Progress, Queued, Ticket, Waking

LINE_EVERY_S = 0.8  # a line a second is promised
PROGRESS_EVERY_S = 0.1
OPENAI_PATHS = "/v1/"  # their refusals have OpenAI's shape


def refusal_response(refusal: Refusal, close: bool = False, path: str = "") -> Response:
    """`close` ends the connection after it: for refusals before the body was read. `path`: whose clients read it."""
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if close:
        headers["Connection"] = "close"
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if path.startswith(OPENAI_PATHS):
        return Response(refusal.openai_body(), refusal.openai_status, headers, "application/json")
    return Response(refusal.body(), refusal.status, headers, "application/json")


class TicketResponse(Response):
    """Follows a ticket until it ends or the client hangs up; `leave` is called in any case."""

    def __init__(self, ticket: Ticket, leave: Callable[[Ticket, bool], None]) -> None:
        self._ticket, self._leave = ticket, leave
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = asyncio.create_task(self._answer(scope, receive, send))
        hang_up = asyncio.create_task(_hang_up(receive))
        try:
            await asyncio.wait({answer, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                await answer
        finally:
            self._leave(self._ticket, answer.done())
            for task in (answer, hang_up):
                task.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class ResultResponse(TicketResponse):
    """The result, or the refusal with its status, once it is there."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = await self._ticket.done()
        if outcome.refusal is not None:
            await refusal_response(outcome.refusal)(scope, receive, send)
        else:
            await Response(outcome.body, media_type="application/json")(scope, receive, send)


class StreamResponse(TicketResponse):
    """ndjson lines with status 200. A failure is the last line."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        ticket, version, preview_sent = self._ticket, -1, 0
        payload = {"startRequestId": ticket.request.request_id}
        await _line(send, {"type": "inference", "status": "start", "payload": payload})
        while ticket.outcome is None:
            version = await ticket.changed_since(version, LINE_EVERY_S)
            event = ticket.event
            if ticket.outcome is not None or event is None:
                continue
            await _line(send, event_json(event, preview_sent))
            if isinstance(event, Progress):
                preview_sent = event.preview_number
                await ticket.done_within(PROGRESS_EVERY_S)
        await self._last(ticket.outcome, send)

    async def _last(self, outcome: Outcome, send: Send) -> None:
        await send({"type": "http.response.body", "body": outcome.body + b"\n", "more_body": False})


def event_json(event: Event, preview_sent: int) -> dict[str, Any]:
    """An event as its line; a preview only if it is newer than number `preview_sent`."""
    match event:
        case Waking(stage, since_s, wakes_in_s):
            waking = {"type": "waking", "stage": stage, "elapsed_s": round(time.monotonic() - since_s, 1)}
            return waking | ({"wakes_in_s": wakes_in_s} if wakes_in_s else {})
        case Queued(place):
            return {"type": "queued", "place": place}
        case Progress(step, total_steps, num_inference_steps, preview, number):
            told: dict[str, Any] = {
                "type": "progress",
                "progress": round(step / total_steps, 4),
                "step": step,
                "total_steps": total_steps,
                "num_inference_steps": num_inference_steps,
            }
            if preview is not None and number > preview_sent:
                told["preview"] = pictures.preview(preview)
            return told


async def _line(send: Send, content: dict[str, Any]) -> None:
    await send({"type": "http.response.body", "body": json.dumps(content).encode() + b"\n", "more_body": True})


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
