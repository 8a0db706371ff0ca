"""The core: drawings join and leave the running batch at any step, sizes take turns.

Three threads, each with its own CUDA stream. The preparing thread takes drawings from the channel and encodes prompts
while steps run; this one, the caller's, runs the UNet and the schedulers and nothing else; the finishing thread decodes
and tells. While there is work nothing is waited for but the device; without work the loop sleeps until a drawing is
prepared, and then begins at once.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty

import torch

from inference_server.engines import WorkChannel
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.arrivals import AllTold, Arrival, Arrivals, Ended, MemoryShort
from inference_server.engines.diffusers.batch import Advanced, Batch, BatchKey, RowsHeld, key_of
from inference_server.engines.diffusers.encode import ImageInMaking
from inference_server.engines.diffusers.finishing_thread import FinishingThread
from inference_server.engines.diffusers.predicted import PredictedOriginal
from inference_server.engines.diffusers.streams import Lane, Pace, StepTime, give_memory_back
from inference_server.engines.diffusers.unet import UNetRunner
from inference_server.messages import BatchStats, Capacity

log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16)  # images side by side
PREVIEW_EVERY_S = 0.3


def buckets_up_to(capacity: int) -> tuple[int, ...]:
    """The buckets of an engine that draws at most `capacity` images side by side."""
    return (*(bucket for bucket in BUCKETS if bucket < capacity), capacity)


@dataclass(frozen=True)
class Room:
    """How many images may be drawn side by side."""

    capacity: int  # all sizes together
    buckets: tuple[int, ...]  # of one size, rising
    default_area_px: int  # of the model's default picture


class ContinuousBatching:
    """Draws what arrives, until it is told that no more will come."""

    def __init__(
        self,
        channel: WorkChannel,
        arrivals: Arrivals,
        finishing: FinishingThread,
        runner: UNetRunner,
        predicted: PredictedOriginal,
        device: torch.device,
        room: Room,
        preview_every_s: float = PREVIEW_EVERY_S,
    ) -> None:
        self._channel, self._arrivals, self._finishing = channel, arrivals, finishing
        self._runner, self._predicted, self._room = runner, predicted, room
        self._preview_every_s = preview_every_s
        self._lane, self._pace = Lane(device, urgent=True), Pace(device)
        self._held = RowsHeld()
        self._capacity = room.capacity  # lowered when memory was short
        self._max_area_px: int | None = None  # of all images of one step; None until memory was short
        self._waiting: deque[ImageInMaking] = deque()  # prepared, without a place yet
        self._batches: deque[Batch] = deque()  # in the order of their turns
        self._open = True  # whether more may arrive
        self._all_told = False

    def run(self) -> None:
        """Raises: whatever leaves the process unfit to go on."""
        with self._lane.entered():
            while self._take_in():
                batch = self._batches[0]
                self._batches.rotate(-1)
                self._step(batch)
            self._tell_times(self._pace.drain())

    def see_out(self) -> None:
        """After the last step: until the finishing thread has told all. Raises: as `run`."""
        while not self._all_told:
            self._on_arrival(self._arrivals.get())

    def _take_in(self) -> bool:
        """Lets leave whom nobody waits for, and join what was prepared; False when all is done."""
        while True:
            self._drop_ended()
            self._receive()
            self._seat()
            if self._batches:
                return True
            if not self._open:
                return False
            self._tell_times(self._pace.drain())
            self._on_arrival(self._arrivals.get())  # the one place where the loop sleeps

    def _receive(self) -> None:
        while True:
            try:
                self._on_arrival(self._arrivals.get_nowait())
            except Empty:
                return

    def _on_arrival(self, arrival: Arrival) -> None:
        if isinstance(arrival, MemoryShort):
            self._make_room()
            arrival.answered.set()
            return
        if isinstance(arrival, Ended | AllTold):
            if arrival.error is not None:
                raise arrival.error
            self._open, self._all_told = False, isinstance(arrival, AllTold)
            return
        for image in arrival.images:
            self._lane.adopt(image.tensors())
            self._waiting.append(image)

    def _drop_ended(self) -> None:
        for batch in tuple(self._batches):
            for image in batch.images:
                if image.in_hand.end_if_cancelled():
                    self._remove(batch, image)
        for image in tuple(self._waiting):
            if image.in_hand.end_if_cancelled():
                self._waiting.remove(image)

    def _seat(self) -> None:
        """Oldest first; a batch of a new size has its turn after all others had theirs.

        Who finds no place in the own size holds up nobody of another.
        """
        seated = sum(len(batch.images) for batch in self._batches)
        for image in tuple(self._waiting):
            if seated >= self._capacity:
                return
            if not self._has_place(key_of(image)):
                continue
            self._waiting.remove(image)
            if image.in_hand.end_if_cancelled():
                continue
            self._batch_for(key_of(image)).join(image)
            image.in_hand.begin()
            image.preview_at_s = time.monotonic() + self._preview_every_s
            seated += 1

    def _has_place(self, key: BatchKey) -> bool:
        """Once memory was short, no more of one size are drawn than take one step together."""
        same = [batch for batch in self._batches if batch.key == key]
        return self._max_area_px is None or not same or any(batch.has_room for batch in same)

    def _batch_for(self, key: BatchKey) -> Batch:
        for batch in self._batches:
            if batch.key == key and batch.has_room:
                return batch
        self._batches.append(Batch(key, self._buckets_of(key)))
        return self._batches[-1]

    def _buckets_of(self, key: BatchKey) -> tuple[int, ...]:
        """Those that memory has not been too short for."""
        buckets = self._room.buckets
        if self._max_area_px is None:
            return buckets
        most = self._max_area_px // key.area_px
        return tuple(bucket for bucket in buckets if bucket <= most) or buckets[:1]

    def _step(self, batch: Batch) -> None:
        """One step of one size. Errors of the UNet end drawings, never silently."""
        self._pace.begin()
        try:
            advanced = batch.step(self._runner, self._held)
        except Exception as exc:
            if cuda_errors.is_fatal(exc):
                raise
            cuda_errors.log_without_text(exc)
            short, reason = cuda_errors.is_out_of_memory(exc), _reason(exc, batch)
        else:
            for one in advanced:
                self._on_advanced(batch, one)
            self._tell_times(self._pace.end(len(advanced)))
            return
        # Outside of the handler, so that the exception no longer holds the memory that is to be given back.
        if short:
            self._on_out_of_memory(batch, reason)
        else:
            for image in batch.images:
                image.in_hand.fail(reason)

    def _on_advanced(self, batch: Batch, one: Advanced) -> None:
        image = one.image
        if image.in_hand.ended:  # by another image's error; it leaves before the next step
            return
        if one.error is not None:
            if cuda_errors.is_fatal(one.error):
                raise one.error
            cuda_errors.log_without_text(one.error)
            image.in_hand.fail(_reason(one.error, batch))
            return
        image.in_hand.step(image.index, image.schedule.steps_done)
        if image.schedule.done:
            self._remove(batch, image)
            self._finishing.finish(image, self._lane.mark())
        else:
            self._preview(one)

    def _preview(self, one: Advanced) -> None:
        """Of a drawing's first image alone; left out while finished pictures wait."""
        image, now_s = one.image, time.monotonic()
        if image.index > 0 or now_s < image.preview_at_s or not self._finishing.idle:
            return
        image.preview_at_s = now_s + self._preview_every_s
        denoised = self._predicted.latents(one.timestep, one.seen, one.prediction)
        if denoised is not None:
            self._finishing.preview(image.in_hand, denoised, self._lane.mark())

    def _on_out_of_memory(self, batch: Batch, reason: str) -> None:
        """The newest drawing of the batch ends, the others go on in smaller batches; so do all to come."""
        bucket, key, shape = batch.bucket, batch.key, batch.shape
        newest = max(batch.images, key=lambda image: image.in_hand.number)
        newest.in_hand.fail(reason)
        log.warning("out of memory with %d images of %dx%d px", bucket, key.width_px, key.height_px)
        if bucket > 1:
            self._lower(bucket // 2 * key.area_px)
        self._drop_ended()
        self._regroup()
        self._runner.forget(None if bucket > 1 else shape)  # one picture that is too large is no reason for the others
        give_memory_back()

    def _make_room(self) -> None:
        """A picture could not be decoded, or a prompt encoded, beside the largest of the present batches."""
        largest = max(self._batches, key=lambda batch: batch.bucket * batch.key.area_px, default=None)
        log.warning("out of memory beside the steps")
        if largest is not None and largest.bucket > 1:
            self._lower(largest.bucket // 2 * largest.key.area_px)
            self._regroup()
        self._runner.forget()
        give_memory_back()

    def _lower(self, area_px: int) -> None:
        """No step has more pixels than this from now on."""
        self._max_area_px = min(area_px, self._max_area_px or area_px)
        self._capacity = max(1, min(self._capacity, self._max_area_px // self._room.default_area_px))
        self._channel.tell(Capacity(self._capacity))

    def _regroup(self) -> None:
        """Everyone sits down anew, the oldest first, within the batches that are now allowed."""
        images = [image for batch in self._batches for image in batch.images]
        self._batches.clear()
        for image in sorted(images, key=lambda image: (image.in_hand.number, image.index)):
            self._batch_for(key_of(image)).join(image)

    def _remove(self, batch: Batch, image: ImageInMaking) -> None:
        batch.leave(image)
        if not batch.images:
            self._batches.remove(batch)

    def _tell_times(self, times: Sequence[StepTime]) -> None:
        for time_ in times:
            self._channel.tell(BatchStats(time_.step_s, time_.images, self._pace.device_bytes()))


def _reason(exc: BaseException, batch: Batch) -> str:
    return cuda_errors.drawing_reason(exc, batch.key.width_px, batch.key.height_px)
