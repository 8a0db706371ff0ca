"""The requests that the engine process was given and has not finished, and how many more it takes.

A request that was in flight when an engine process died is drawn alone the next time: if it caused the crash, it
harms no other request again.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from inference_server.encoding import Finished
from inference_server.messages import Draw, Drawn, RawImage, Step
from inference_server.resolve import Resolved
from inference_server.tickets import Progress, Ticket


@dataclass
class InFlightRequest:
    """One request in the engine. `alone`: no other may be in flight beside it."""

    ticket: Ticket
    resolved: Resolved
    number: int
    alone: bool
    has_begun: bool = False  # it has made a step
    preview: RawImage | None = None
    preview_number: int = 0

    @property
    def images(self) -> int:
        return len(self.resolved.params.seeds)

    def on_step(self, message: Step) -> None:
        """Tells the ticket, with the newest preview so far."""
        self.has_begun = True
        if message.preview is not None:
            self.preview, self.preview_number = message.preview, self.preview_number + 1
        self._tell(message.step, message.num_steps)

    def begin(self) -> None:
        """Tells the ticket that its steps come next."""
        self._tell(0, self.resolved.params.steps_drawn * self.images)

    def _tell(self, step: int, total_steps: int) -> None:
        steps = self.resolved.params.steps_drawn
        self.ticket.tell(Progress(step, total_steps, steps, self.preview, self.preview_number))

    def finished(self, message: Drawn, ready_s: float) -> Finished:
        """What is answered. `ready_s`: when the engine was last ready, on the monotonic clock."""
        ticket = self.ticket
        waited_s = max(0.0, time.monotonic() - ticket.submitted_s - message.inference_s)
        init_s = min(max(0.0, ready_s - ticket.submitted_s), waited_s)
        return Finished(
            request=ticket.request,
            resolved=self.resolved,
            drawn=message,
            init_ms=init_s * 1000,
            queue_ms=(waited_s - init_s) * 1000,
        )


class InFlight:
    """The requests in the engine, in the order in which they were given to it.

    The engine draws `images_at_once` images side by side. It gets up to `images_ahead` more early and prepares them, so
    that no place stays empty when a drawing ends.
    """

    def __init__(self) -> None:
        self._requests: dict[int, InFlightRequest] = {}
        self._images_at_once, self._images_ahead = 1, 0
        self._number = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[InFlightRequest]:
        return iter(self._requests.values())

    @property
    def images_at_once(self) -> int:
        """How many images are drawn side by side."""
        return self._images_at_once

    def allow(self, images_at_once: int, images_ahead: int) -> None:
        """Sets the bounds, the first at least 1; requests in flight go on."""
        self._images_at_once, self._images_ahead = max(1, images_at_once), images_ahead

    def lower(self, images_at_once: int) -> None:
        """Lowers both bounds, and never raises one: what waits in the engine takes memory too."""
        lowered = max(1, min(self._images_at_once, images_at_once))
        self.allow(lowered, min(self._images_ahead, lowered))

    def has_place(self, images: int) -> bool:
        """Whether a drawing of `images` images would be drawn at once."""
        return not self._requests or sum(request.images for request in self) + images <= self._images_at_once

    def has_room(self, images: int, *, alone: bool) -> bool:
        """Whether the engine may get a drawing of `images` images. An empty engine may get any."""
        if not self._requests:
            return True
        if alone or any(request.alone for request in self):
            return False
        bound = self._images_at_once + self._images_ahead
        return sum(request.images for request in self) + images <= bound

    def ahead_of_time(self) -> list[InFlightRequest]:
        """The requests that wait in the engine for a place, the oldest first."""
        ahead, images = [], 0
        for request in self:
            images += request.images
            if images > self._images_at_once and images > request.images and not request.has_begun:
                ahead.append(request)
        return ahead

    def begin(self, ticket: Ticket, resolved: Resolved, *, alone: bool) -> Draw:
        """The order for the engine process, under a new number."""
        self._number += 1
        ticket.attempts += 1
        self._requests[self._number] = request = InFlightRequest(ticket, resolved, self._number, alone)
        if request not in self.ahead_of_time():
            request.begin()
        return Draw(self._number, resolved.params)

    def get(self, number: int) -> InFlightRequest | None:
        return self._requests.get(number)

    def of(self, ticket: Ticket) -> InFlightRequest | None:
        return next((request for request in self if request.ticket is ticket), None)

    def end(self, number: int) -> None:
        del self._requests[number]

    def clear(self) -> list[InFlightRequest]:
        """Takes all out, in their order."""
        drawings = list(self)
        self._requests.clear()
        return drawings
