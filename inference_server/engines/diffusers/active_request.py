"""A drawing that was taken from the channel: how far its images are, and the one word with which it ends."""

import threading
import time
from collections.abc import Callable

from inference_server.engines import WorkChannel
from inference_server.messages import Cancelled, Draw, DrawFailed, Drawn, FromEngine, GenerationParams, RawImage, Step


class ActiveRequest:
    """Used by all threads that work on the drawing; after its end it says nothing more."""

    def __init__(self, order: Draw, channel: WorkChannel, clock: Callable[[], float] = time.monotonic) -> None:
        self.number: int = order.number
        self.drawing: GenerationParams = order.drawing
        self._channel, self._clock = channel, clock
        self._taken_s = clock()
        self._prepared_s: float | None = None  # while it waits for a place
        self._waited_s = 0.0
        self._lock = threading.Lock()
        count = len(order.drawing.seeds)
        self._steps_done = [0] * count
        self._images: list[RawImage | None] = [None] * count
        self._nsfw: list[bool | None] = [None] * count
        self.ended = False

    def wait(self) -> None:
        """For a place: that is not drawing. It may be more than once."""
        self._prepared_s = self._clock()

    def begin(self) -> None:
        """Its first image has a place; later calls do nothing."""
        if self._prepared_s is not None:
            self._waited_s += self._clock() - self._prepared_s
            self._prepared_s = None

    def step(self, image: int, steps_done: int) -> None:
        """Image `image` has come to this step."""
        with self._lock:
            if self._steps_done[image] != steps_done:
                self._steps_done[image] = steps_done
                self._tell_step(None)

    def preview(self, preview: RawImage) -> None:
        with self._lock:
            self._tell_step(preview)

    def finish(self, image: int, picture: RawImage, nsfw: bool | None) -> None:
        """The drawing ends when all its images have come."""
        with self._lock:
            self._images[image], self._nsfw[image] = picture, nsfw
            images = tuple(done for done in self._images if done is not None)
            if len(images) == len(self._images):
                flags = tuple(flag for flag in self._nsfw if flag is not None)
                looked = flags if len(flags) == len(images) else None
                self._end(Drawn(self.number, images, self._clock() - self._taken_s - self._waited_s, looked))

    def fail(self, reason: str) -> None:
        with self._lock:
            self._end(DrawFailed(self.number, reason))

    def end_if_cancelled(self) -> bool:
        """True when nobody waits for it any more, or it has ended otherwise."""
        if not self.ended and self._channel.is_cancelled(self.number):
            with self._lock:
                self._end(Cancelled(self.number))
        return self.ended

    def _tell_step(self, preview: RawImage | None) -> None:
        if not self.ended:
            steps = self.drawing.num_inference_steps * len(self._images)
            self._channel.tell(Step(self.number, sum(self._steps_done), steps, preview))

    def _end(self, message: FromEngine) -> None:
        if not self.ended:
            self.ended = True
            self._channel.tell(message)
