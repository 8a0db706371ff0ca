"""One request that the engine has taken: how far its images are, and the one message with which it ends."""

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from inference_server.engines import WorkChannel
from inference_server.messages import Cancelled, Draw, DrawFailed, Drawn, FromEngine, GenerationParams, RawImage, Step


class ActiveRequest:
    """The threads that work on the request share it; after its end it tells nothing more."""

    def __init__(self, order: Draw, channel: WorkChannel, clock: Callable[[], float] = time.monotonic) -> None:
        self.number: int = order.number
        self.params: GenerationParams = order.params
        # Words of the prompts beyond the text encoders' windows; the encode stage sets them.
        self.unused_words: tuple[str, ...] = ()
        self.unused_negative_words: tuple[str, ...] = ()
        self.ended = False
        self._channel, self._clock = channel, clock
        self._taken_s = clock()
        self._waiting_since_s: float | None = None
        self._waited_s = 0.0
        self._lock = threading.Lock()
        count = len(order.params.seeds)
        self._steps_done = [0] * count
        self._images: list[RawImage | None] = [None] * count
        self._nsfw: list[bool | None] = [None] * count

    def wait(self) -> None:
        """Stops the clock while the request waits for a place in a batch; it may do so more than once."""
        self._waiting_since_s = self._clock()

    def begin(self) -> None:
        """Starts the clock again when the first image has a place; later calls do nothing."""
        if self._waiting_since_s is not None:
            self._waited_s += self._clock() - self._waiting_since_s
            self._waiting_since_s = None

    def step(self, image: int, steps_done: int) -> None:
        """Tells that image `image` has done so many steps."""
        with self._lock:
            if self._steps_done[image] != steps_done:
                self._steps_done[image] = steps_done
                self._tell_step(None)

    def preview(self, preview: RawImage) -> None:
        with self._lock:
            self._tell_step(preview)

    def finish(self, image: int, pixels: npt.NDArray[np.uint8], nsfw: bool | None, mem_usage: float = 0.0) -> None:
        """Keeps a picture (H, W, 3), black if the safety checker found something; the last one ends the request.

        `mem_usage`: see `Drawn`.
        """
        height, width, _ = pixels.shape
        shown = np.zeros_like(pixels) if nsfw else pixels
        with self._lock:
            self._images[image], self._nsfw[image] = RawImage(width, height, shown.tobytes()), nsfw
            images = tuple(done for done in self._images if done is not None)
            if len(images) < len(self._images):
                return
            flags = tuple(flag for flag in self._nsfw if flag is not None)
            self._end(
                Drawn(
                    self.number,
                    images,
                    self._clock() - self._taken_s - self._waited_s,
                    nsfw=flags if len(flags) == len(images) else None,
                    mem_usage=mem_usage,
                    unused_words=self.unused_words,
                    unused_negative_words=self.unused_negative_words,
                )
            )

    def fail(self, reason: str) -> None:
        with self._lock:
            self._end(DrawFailed(self.number, reason))

    def end_if_cancelled(self) -> bool:
        """True if the request was cancelled, or has ended otherwise."""
        if not self.ended and self._channel.is_cancelled(self.number):
            with self._lock:
                self._end(Cancelled(self.number))
        return self.ended

    def _tell_step(self, preview: RawImage | None) -> None:
        if not self.ended:
            steps = self.params.steps_drawn * len(self._images)
            self._channel.tell(Step(self.number, sum(self._steps_done), steps, preview))

    def _end(self, message: FromEngine) -> None:
        if not self.ended:
            self.ended = True
            self._channel.tell(message)
