"""Decides which images are drawn together: who waits for a place, who has one, and whose turn the next step is."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from inference_server.engines.diffusers.batch import Batch, BatchKey
from inference_server.engines.diffusers.encode import ActiveImage

# Images side by side. Of a batch at most a third waits in vain (5 of 6 are used, 9 of 12), and each bucket is a shape
# of its own to CUDA graphs.
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)


def buckets_up_to(capacity: int) -> tuple[int, ...]:
    """The buckets of an engine that draws at most `capacity` images side by side."""
    return (*(bucket for bucket in BUCKETS if bucket < capacity), capacity)


@dataclass(frozen=True)
class BatchLimits:
    """How many images may be drawn side by side."""

    capacity: int  # all sizes together
    buckets: tuple[int, ...]  # of one size, rising
    default_area_px: int  # of the model's default picture


class BatchQueue:
    """All images of the step loop, for its thread alone. Batches of different sizes take turns, a step each."""

    def __init__(self, limits: BatchLimits, max_area_px: int | None = None) -> None:
        """`max_area_px`: of all images of one step, as an earlier process learnt it; None: memory was never short."""
        self._limits = limits
        self._capacity = limits.capacity  # lowered when memory was short
        self._max_area_px = max_area_px
        if max_area_px is not None:
            self._capacity = max(1, min(self._capacity, max_area_px // limits.default_area_px))
        self._waiting: list[ActiveImage] = []
        self._batches: deque[Batch] = deque()  # in the order of their turns

    def add(self, images: Iterable[ActiveImage]) -> None:
        self._waiting += images

    def drop_ended(self) -> None:
        """Removes the images of requests that were cancelled or have ended otherwise."""
        for batch in tuple(self._batches):
            for image in batch.images:
                if image.request.end_if_cancelled():
                    self.remove(batch, image)
        self._waiting = [image for image in self._waiting if not image.request.end_if_cancelled()]

    def fill(self) -> list[ActiveImage]:
        """Gives places to waiting images, the oldest first, and returns those that got one.

        An image that finds no place in its own size holds up no other size.
        """
        joined: list[ActiveImage] = []
        free = self._capacity - sum(len(batch.images) for batch in self._batches)
        for image in tuple(self._waiting):
            if len(joined) >= free:
                break
            if self._has_place(BatchKey.of(image)):
                self._waiting.remove(image)
                if not image.request.end_if_cancelled():
                    self._join(image)
                    joined.append(image)
        return joined

    def take_turn(self) -> Batch | None:
        """The batch that makes the next step; a new one has its turn after all others had theirs."""
        if not self._batches:
            return None
        self._batches.rotate(-1)
        return self._batches[-1]

    def remove(self, batch: Batch, image: ActiveImage) -> None:
        batch.leave(image)
        if not batch.images:
            self._batches.remove(batch)

    @property
    def max_area_px(self) -> int | None:
        """Of all images of one step; None until memory was short."""
        return self._max_area_px

    def largest(self) -> Batch | None:
        """The batch whose step has the most pixels."""
        return max(self._batches, key=lambda batch: batch.area_px, default=None)

    def lower(self, batch: Batch) -> int:
        """Allows no step more than about half the pixels of this batch from now on. Returns the new capacity."""
        fewer = max((bucket for bucket in self._limits.buckets if 3 * bucket <= 2 * batch.bucket), default=1)
        area_px = fewer * batch.key.area_px
        self._max_area_px = min(area_px, self._max_area_px or area_px)
        self._capacity = max(1, min(self._capacity, self._max_area_px // self._limits.default_area_px))
        return self._capacity

    def regroup(self) -> None:
        """Puts all images into new batches within what is now allowed, the oldest first."""
        images = [image for batch in self._batches for image in batch.images]
        self._batches.clear()
        for image in sorted(images, key=lambda image: (image.request.number, image.index)):
            self._join(image)

    def _has_place(self, key: BatchKey) -> bool:
        """Once memory was short, one size is drawn in one batch only."""
        same = [batch for batch in self._batches if batch.key == key]
        return self._max_area_px is None or not same or any(batch.has_room for batch in same)

    def _join(self, image: ActiveImage) -> None:
        key = BatchKey.of(image)
        for batch in self._batches:
            if batch.key == key and batch.has_room:
                return batch.join(image)
        self._batches.append(Batch(key, self._buckets_of(key)))
        self._batches[-1].join(image)

    def _buckets_of(self, key: BatchKey) -> tuple[int, ...]:
        """Those that memory has not been too short for."""
        buckets = self._limits.buckets
        if self._max_area_px is None:
            return buckets
        most = self._max_area_px // key.area_px
        return tuple(bucket for bucket in buckets if bucket <= most) or buckets[:1]
