"""Continuous batching: requests join and leave the running batch between any two steps of the UNet.

Four threads work, each with its own CUDA stream. One takes requests from the channel and encodes their prompts; the
caller's runs the UNet and the schedulers and nothing else; one decodes pictures; one has the safety checker look at
them. While there is work, the loop waits for nothing but the device. Without work it sleeps until a request is encoded,
and begins at once.
"""

import logging
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from inference_server.engines import WorkChannel
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.adapters.encoder import AdapterEncoder
from inference_server.engines.diffusers.batch import Batch, StepResult
from inference_server.engines.diffusers.batch_queue import BatchLimits, BatchQueue
from inference_server.engines.diffusers.cuda_errors import Failure
from inference_server.engines.diffusers.decode import DenoisedLatents, LatentDecoder
from inference_server.engines.diffusers.encode import RequestEncoder
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.stage_threads import (
    DecodeEnded,
    DecodeThread,
    Encoded,
    EncodeEnded,
    EncodeThread,
    MemoryShort,
    StageEvent,
    StageEvents,
)
from inference_server.engines.diffusers.streams import StepTime, StepTimer, ThreadStream, empty_cache
from inference_server.engines.diffusers.unet import UNetRunner
from inference_server.engines.previews import PreviewMap
from inference_server.messages import BatchStats, Capacity

log = logging.getLogger(__name__)

PREVIEW_EVERY_S = 0.3


class ContinuousBatching:
    """Draws with a pipeline whose steps all requests share; for several channels, one after the other."""

    def __init__(
        self,
        loaded: LoadedPipeline,
        encoder: RequestEncoder | AdapterEncoder,
        runner: UNetRunner,
        limits: BatchLimits,
        preview_every_s: float = PREVIEW_EVERY_S,
    ) -> None:
        self.device, self.runner, self.preview_every_s = loaded.device, runner, preview_every_s
        self.limits, self.store = limits, loaded.store
        self.denoised = DenoisedLatents(loaded.pipeline.scheduler)
        self._encoder, self._decoder = encoder, LatentDecoder(loaded, PreviewMap())

    def work(self, channel: WorkChannel) -> None:
        """Draws until the channel has no more to give and all pictures are decoded.

        Raises: whatever the process cannot survive.
        """
        events: StageEvents = SimpleQueue()
        decode_thread = DecodeThread(self._decoder, self.device, events)
        loop = _StepLoop(self, channel, events, decode_thread)
        EncodeThread(self._encoder, self.device, events).start(channel)
        decode_thread.start()
        loop.run()
        decode_thread.close()
        loop.wait_for_decoding()


class _StepLoop:
    """Draws the images that the encode thread hands over, until no more will come."""

    def __init__(
        self, engine: ContinuousBatching, channel: WorkChannel, events: StageEvents, decode_thread: DecodeThread
    ) -> None:
        self._channel, self._events, self._decode_thread = channel, events, decode_thread
        self._runner, self._denoised, self._preview_every_s = engine.runner, engine.denoised, engine.preview_every_s
        self._stream, self._timer = ThreadStream(engine.device, urgent=True), StepTimer(engine.device)
        self._queue, self._store = BatchQueue(engine.limits, engine.store.known.max_area_px), engine.store
        self._more_to_come, self._all_decoded = True, False

    def run(self) -> None:
        """Raises: whatever the process cannot survive."""
        with self._stream.entered():
            while (batch := self._next_batch()) is not None:
                self._step(batch)
            self._tell_times(self._timer.drain())

    def wait_for_decoding(self) -> None:
        """Waits, after the last step, until the decode thread is done. Raises: as `run`."""
        while not self._all_decoded:
            self._on_event(self._events.get())

    def _next_batch(self) -> Batch | None:
        """Lets cancelled images leave and encoded ones join; None when all is done."""
        while True:
            self._queue.drop_ended()
            self._receive_events()
            for image in self._queue.fill():
                image.request.begin()
                image.preview_at_s = time.monotonic() + self._preview_every_s
            if (batch := self._queue.take_turn()) is not None or not self._more_to_come:
                return batch
            self._tell_times(self._timer.drain())
            self._on_event(self._events.get())  # the one place where the loop sleeps

    def _receive_events(self) -> None:
        while True:
            try:
                self._on_event(self._events.get_nowait())
            except Empty:
                return

    def _on_event(self, event: StageEvent) -> None:
        match event:
            case Encoded(images):
                for image in images:
                    self._stream.receive(image.tensors())
                self._queue.add(images)
            case MemoryShort(freed):
                self._free_memory()
                freed.set()
            case EncodeEnded(error) | DecodeEnded(error):
                if error is not None:
                    raise error
                self._more_to_come, self._all_decoded = False, isinstance(event, DecodeEnded)

    def _step(self, batch: Batch) -> None:
        """One step of one batch. An error of the UNet ends the requests in it."""
        self._timer.begin()
        try:
            results = batch.step(self._runner)
        except Exception as exc:
            failure = cuda_errors.failure_of(exc, batch.key.width_px, batch.key.height_px)
        else:
            for result in results:
                self._on_result(batch, result)
            self._tell_times(self._timer.end(len(results)))
            return
        # Outside of the handler, so that the exception does not hold the memory that is freed next.
        if failure.out_of_memory:
            self._on_out_of_memory(batch, failure)
        else:
            for image in batch.images:
                image.request.fail(failure.reason)

    def _on_result(self, batch: Batch, result: StepResult) -> None:
        image = result.image
        if image.request.ended:  # by another image's error; it leaves before the next step
            return
        if result.error is not None:
            failure = cuda_errors.failure_of(result.error, batch.key.width_px, batch.key.height_px)
            image.request.fail(failure.reason)
            return
        image.request.step(image.index, image.schedule.steps_done)
        if image.schedule.done:
            self._queue.remove(batch, image)
            self._decode_thread.finish(image, self._stream.record_event())
        else:
            self._preview(result)

    def _preview(self, result: StepResult) -> None:
        """Previews a request's first image alone, and only while no finished picture waits to be decoded."""
        image, now_s = result.image, time.monotonic()
        if image.index > 0 or now_s < image.preview_at_s or not self._decode_thread.idle:
            return
        image.preview_at_s = now_s + self._preview_every_s
        denoised = self._denoised.guess(result.timestep, result.sample, result.prediction)
        if denoised is not None:
            self._decode_thread.preview(image.request, denoised, self._stream.record_event())

    def _on_out_of_memory(self, batch: Batch, failure: Failure) -> None:
        """All of them, and all to come, go on in smaller batches; one that was alone has failed."""
        bucket, shape = batch.bucket, batch.shape
        log.warning("out of memory with %d images of %dx%d px", bucket, shape.width_px, shape.height_px)
        if bucket > 1:
            self._lower_limit(batch)
        else:
            for image in batch.images:
                image.request.fail(failure.reason)
        self._queue.drop_ended()
        self._queue.regroup()
        self._runner.forget(None if bucket > 1 else shape)  # one picture that is too large concerns no other size
        empty_cache()

    def _free_memory(self) -> None:
        """Makes room for a picture to be decoded or a prompt to be encoded beside the largest batch."""
        largest = self._queue.largest()
        log.warning("out of memory beside the steps")
        if largest is not None and largest.bucket > 1:
            self._lower_limit(largest)
            self._queue.regroup()
        self._runner.forget()
        empty_cache()

    def _lower_limit(self, batch: Batch) -> None:
        """Allows about half of this batch from now on, and when the model is loaded the next time."""
        self._channel.tell(Capacity(self._queue.lower(batch)))
        self._store.learn(max_area_px=self._queue.max_area_px)

    def _tell_times(self, times: Sequence[StepTime]) -> None:
        for time_ in times:
            self._channel.tell(BatchStats(time_.step_s, time_.images, self._timer.device_bytes()))
