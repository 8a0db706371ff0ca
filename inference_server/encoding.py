"""Turns drawings that came back from the engine into answers, on worker threads, while the engine draws the next.

An answer is JSON: pictures in base64, `$meta` with everything as used, `$timings` in ms, `$mem_usage` from 0 to 1.
Source: https://github.com/kiri-art/docker-diffusers-api/blob/main/api/app.py ($mem_usage: memory allocated now over the
most allocated so far, 0 without CUDA)
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from inference_server import errors, pictures
from inference_server.messages import Drawn
from inference_server.resolve import Resolved
from inference_server.tickets import Outcome, Ticket
from inference_server.wire import PictureRequest

log = logging.getLogger("inference_server.dispatcher")


@dataclass(frozen=True)
class Finished:
    """A drawing that came back from the engine, to be turned into the answer's JSON."""

    request: PictureRequest
    resolved: Resolved
    drawn: Drawn
    init_ms: float  # waiting for the engine to be ready
    queue_ms: float  # waiting for others


class Encoder:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    async def finish(self) -> None:
        """Waits until all that it has begun is written."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def begin(self, ticket: Ticket, finished: Finished) -> None:
        """Finishes the ticket once the answer is written."""
        task = asyncio.create_task(self._finish(ticket, finished))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, ticket: Ticket, finished: Finished) -> None:
        try:
            body = await asyncio.to_thread(result_json, finished)
        except Exception:
            log.exception("request %s: the picture could not be encoded", ticket.request.request_id)
            ticket.refuse(errors.cannot_draw("The picture was drawn but could not be encoded."))
        else:
            ticket.finish(Outcome(body))


def result_json(finished: Finished) -> bytes:
    """Encodes the pictures and writes the answer, ASCII throughout. Takes some ms: call it on a worker thread."""
    started_s = time.monotonic()
    encoded = [
        pictures.encode(raw, finished.resolved, image, finished.request.call.png_compress_level)
        for image, raw in enumerate(finished.drawn.images)
    ]
    content: dict[str, Any] = {"image_base64": encoded[0]} if len(encoded) == 1 else {"images_base64": encoded}
    if finished.drawn.nsfw is not None:
        content["nsfw_content_detected"] = finished.drawn.nsfw
    content["$meta"] = meta(finished)
    content["$mem_usage"] = round(finished.drawn.mem_usage, 4)
    content["$timings"] = {
        "init": round(finished.init_ms, 1),
        "queue": round(finished.queue_ms, 1),
        "inference": round(finished.drawn.inference_s * 1000, 1),
        "encode": round((time.monotonic() - started_s) * 1000, 1),
    }
    return json.dumps(content).encode("ascii")


def meta(finished: Finished) -> dict[str, Any]:
    """All inputs as used, by the wire's names, and what was ignored, replaced or unused, if anything was."""
    request, resolved, drawn = finished.request, finished.resolved, finished.drawn
    told: dict[str, Any] = {
        "MODEL_ID": resolved.model_info.name,
        "PIPELINE": resolved.pipeline,
        **resolved.params.by_wire_names(),
        "safety_checker": drawn.nsfw is not None,
        "image_format": resolved.image_format,
        "startRequestId": request.request_id,
    }
    more = {
        "png_compress_level": request.call.png_compress_level,
        "served_instead": resolved.served_instead or None,
        "ignored": request.ignored or None,
        "unused_prompt_words": drawn.unused_words or None,
        "unused_negative_prompt_words": drawn.unused_negative_words or None,
    }
    return told | {name: value for name, value in more.items() if value is not None}
