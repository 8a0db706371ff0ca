"""Turns drawings that came back from the engine into answers, on worker threads, while the engine draws the next.

An answer is JSON: pictures in base64, `$meta` with everything as used, `$timings` in ms.
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from inference_server import errors, pictures
from inference_server.messages import RawImage
from inference_server.resolve import Resolved
from inference_server.tickets import Outcome, Ticket
from inference_server.wire import PictureRequest

log = logging.getLogger("inference_server.dispatcher")


@dataclass(frozen=True)
class Finished:
    """A drawing that came back from the engine, to be turned into the answer's JSON."""

    request: PictureRequest
    resolved: Resolved
    images: tuple[RawImage, ...]
    nsfw: tuple[bool, ...] | None  # one per image; None: nobody looked
    init_ms: float  # waiting for the engine to be ready
    queue_ms: float  # waiting for others
    inference_ms: float


class Encoder:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

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
        pictures.encode(raw, finished.resolved, image, finished.request.png_compress_level)
        for image, raw in enumerate(finished.images)
    ]
    content: dict[str, Any] = {"image_base64": encoded[0]} if len(encoded) == 1 else {"images_base64": encoded}
    if finished.nsfw is not None:
        content["nsfw_content_detected"] = list(finished.nsfw)
    content["$meta"] = meta(finished.request, finished.resolved)
    content["$timings"] = {
        "init": round(finished.init_ms, 1),
        "queue": round(finished.queue_ms, 1),
        "inference": round(finished.inference_ms, 1),
        "encode": round((time.monotonic() - started_s) * 1000, 1),
    }
    return json.dumps(content).encode("ascii")


def meta(request: PictureRequest, resolved: Resolved) -> dict[str, Any]:
    """What was served, by upstream's names; `served_instead` and `ignored` only where there is something to tell."""
    drawing = resolved.drawing
    told: dict[str, Any] = {
        "MODEL_ID": resolved.model_info.name,
        "PIPELINE": resolved.model_info.pipeline,
        "SCHEDULER": drawing.scheduler,
        "seeds": list(drawing.seeds),
        "width": drawing.width_px,
        "height": drawing.height_px,
        "num_inference_steps": drawing.num_inference_steps,
        "guidance_scale": drawing.guidance_scale,
        "num_images_per_prompt": len(drawing.seeds),
        "image_format": resolved.image_format,
        "startRequestId": request.request_id,
    }
    if resolved.served_instead:
        told["served_instead"] = resolved.served_instead
    if request.ignored:
        told["ignored"] = list(request.ignored)
    return told
