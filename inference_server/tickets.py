"""A ticket is one request in the server: its newest event, and its outcome once it ended.

A follower sees the newest event, not every event, so that a slow reader costs no memory.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from inference_server.errors import Refusal
from inference_server.input_images import NO_IMAGES
from inference_server.messages import RawImage
from inference_server.wire import PictureRequest


@dataclass(frozen=True)
class Waking:
    """The engine is being started; `since_s` on the monotonic clock. `wakes_in_s`: how long that took lately."""

    stage: str
    since_s: float
    wakes_in_s: tuple[int, int] | None = None


@dataclass(frozen=True)
class Queued:
    """`place` requests, this one included, until it is drawn."""

    place: int


@dataclass(frozen=True)
class Progress:
    """`step` of `total_steps` is done, over all images; the newest preview and its number (0 = none yet)."""

    step: int
    total_steps: int
    num_inference_steps: int  # of one image, as in `$meta`; of those that go on from another, what is left of them
    preview: RawImage | None
    preview_number: int


@dataclass(frozen=True)
class Outcome:
    """The end: the result's JSON, or the refusal."""

    body: bytes
    refusal: Refusal | None = None


Event = Waking | Queued | Progress


class Ticket:
    """Belongs to the event loop's thread."""

    def __init__(self, request: PictureRequest) -> None:
        self.request = request
        self.submitted_s = time.monotonic()
        self.attempts = 0  # how often the engine began to draw it
        self.event: Event | None = None
        self.outcome: Outcome | None = None
        self.on_done: list[Callable[[Ticket], None]] = []
        self._version = 0
        self._changed = asyncio.Event()

    def tell(self, event: Event) -> None:
        """What is happening now."""
        self.event = event
        self._wake()

    def finish(self, outcome: Outcome) -> None:
        """Ends the ticket; only the first end counts."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.request = self.request.with_images(NO_IMAGES)  # a result is kept for minutes, what it was drawn from not
        self._wake()
        for callback in self.on_done:
            callback(self)

    def refuse(self, refusal: Refusal) -> None:
        self.finish(Outcome(refusal.body(), refusal))

    def _wake(self) -> None:
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed_since(self, version: int, timeout_s: float) -> int:
        """The newest version, as soon as it is another than `version` or after `timeout_s`."""
        if self._version == version and self.outcome is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self._version

    async def done(self) -> Outcome:
        """Waits for the end; the engine's own deadlines bound it."""
        while self.outcome is None:
            await self._changed.wait()
        return self.outcome

    async def done_within(self, timeout_s: float) -> bool:
        """Whether the end came within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.done()
        except TimeoutError:
            return False
        return True
