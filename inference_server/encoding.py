"""Turns drawings that came back into answers, on worker threads, while the engine goes on with the next."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from inference_server import errors
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
    """Belongs to the event loop's thread. `write`: `Finished` -> the body, called on a worker thread."""

    def __init__(self, write: Callable[[Finished], bytes]) -> None:
        self._write = write
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
            body = await asyncio.to_thread(self._write, finished)
        except Exception:
            log.exception("request %s: the picture could not be encoded", ticket.request.request_id)
            ticket.refuse(errors.cannot_draw("The picture was drawn but could not be encoded."))
        else:
            ticket.finish(Outcome(body))
