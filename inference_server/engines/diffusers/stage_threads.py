"""The threads beside the step loop, which encode requests, decode images and have them checked; what they tell it.

While they work, steps go on: a newcomer's prompt or a finished picture holds nobody up.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch

from inference_server.engines import WorkChannel
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.adapters.encoder import AdapterEncoder
from inference_server.engines.diffusers.cuda_errors import Failure
from inference_server.engines.diffusers.decode import LatentDecoder, Unchecked
from inference_server.engines.diffusers.encode import ActiveImage, RequestEncoder
from inference_server.engines.diffusers.streams import ThreadStream

FREE_MEMORY_DEADLINE_S = 30.0  # the loop looks between two steps


@dataclass(frozen=True)
class Encoded:
    """The images of one request are ready for their first step."""

    images: tuple[ActiveImage, ...]


@dataclass(frozen=True)
class MemoryShort:
    """A stage found too little memory, and waits until the loop has freed what it can spare."""

    freed: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class EncodeEnded:
    """No more requests will come. `error`: because the process cannot go on."""

    error: Exception | None = None


@dataclass(frozen=True)
class DecodeEnded:
    """All pictures are decoded. `error`: because the process cannot go on."""

    error: Exception | None = None


StageEvent = Encoded | MemoryShort | EncodeEnded | DecodeEnded
StageEvents = SimpleQueue[StageEvent]


class EncodeThread:
    """Takes requests from the channel and encodes them; ends when the channel has no more to give."""

    def __init__(self, encoder: RequestEncoder | AdapterEncoder, device: torch.device, events: StageEvents) -> None:
        self._encoder, self._stream, self._events = encoder, ThreadStream(device), events

    def start(self, channel: WorkChannel) -> None:
        threading.Thread(target=self._run, args=(channel,), name="encode", daemon=True).start()

    def _run(self, channel: WorkChannel) -> None:
        error: Exception | None = None
        try:
            with self._stream.entered():
                while (order := channel.take()) is not None:
                    request = ActiveRequest(order, channel)
                    if not request.end_if_cancelled():
                        self._encode(request)
        except Exception as exc:
            error = exc
        self._events.put(EncodeEnded(error))

    def _encode(self, request: ActiveRequest) -> None:
        """Raises: what the process cannot survive; anything else ends this request alone."""

        def encode() -> None:
            images = self._encoder.encode(request)
            self._stream.synchronize()
            request.wait()
            self._events.put(Encoded(tuple(images)))

        if failure := _try_twice(encode, request, self._events):
            request.fail(failure.reason)


@dataclass(frozen=True)
class _Latents:
    """Latents (1, C, h, w) that are complete after `event` of the loop's stream."""

    request: ActiveRequest
    latents: torch.Tensor
    event: Any
    index: int | None  # which of the request's images is finished; None: a preview


class DecodeThread:
    """Decodes finished images and previews, and tells them in the order in which they come."""

    def __init__(self, decoder: LatentDecoder, device: torch.device, events: StageEvents) -> None:
        self._decoder, self._stream, self._events = decoder, ThreadStream(device), events
        self._checks = _CheckThread(decoder, device, events)
        self._queue: SimpleQueue[_Latents | None] = SimpleQueue()

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be decoded."""
        return self._queue.empty()

    def start(self) -> None:
        threading.Thread(target=self._run, name="decode", daemon=True).start()
        self._checks.start()

    def finish(self, image: ActiveImage, event: Any) -> None:
        self._queue.put(_Latents(image.request, image.latents, event, image.index))

    def preview(self, request: ActiveRequest, denoised: torch.Tensor, event: Any) -> None:
        self._queue.put(_Latents(request, denoised, event, None))

    def close(self) -> None:
        """Says that no more will come; once all are decoded, the loop gets `DecodeEnded`."""
        self._queue.put(None)

    def _run(self) -> None:
        error: Exception | None = None
        try:
            with self._stream.entered():
                while (one := self._queue.get()) is not None:
                    if not one.request.end_if_cancelled():
                        self._decode(one)
        except Exception as exc:
            error = exc
        else:
            self._checks.close()
        self._events.put(DecodeEnded(error))

    def _decode(self, one: _Latents) -> None:
        """Raises: what the process cannot survive; anything else ends this request alone."""
        self._stream.receive([one.latents], after=one.event)
        if one.index is None:  # a preview is no loss: one try, and its failure ends nothing
            _attempt(lambda: self._decoder.preview(one.request, one.latents), one.request)
            return
        index = one.index

        def finish() -> None:
            unchecked = self._decoder.finish(one.request, index, one.latents)
            if unchecked is not None:
                self._checks.put(unchecked, self._stream.record_event())

        failure = _try_twice(finish, one.request, self._events)
        if failure:
            one.request.fail(failure.reason)


class _CheckThread:
    """Has pictures seen by the safety checker while the next ones are decoded: much of its work is the CPU's."""

    def __init__(self, decoder: LatentDecoder, device: torch.device, events: StageEvents) -> None:
        self._decoder, self._stream, self._events = decoder, ThreadStream(device), events
        self._queue: SimpleQueue[tuple[Unchecked, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="check", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, picture: Unchecked, event: Any) -> None:
        """`event`: after which the picture is complete."""
        self._queue.put((picture, event))

    def close(self) -> None:
        """Waits until all that was put has been told."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._stream.entered():
                while (one := self._queue.get()) is not None:
                    self._check(*one)
        except Exception as exc:
            self._events.put(DecodeEnded(exc))

    def _check(self, picture: Unchecked, event: Any) -> None:
        """Raises: what the process cannot survive; anything else ends this request alone."""
        if picture.request.end_if_cancelled():
            return
        self._stream.receive([picture.decoded], after=event)
        failure = _try_twice(lambda: self._decoder.check(picture), picture.request, self._events)
        if failure:
            picture.request.fail(failure.reason)


def _try_twice(work: Callable[[], None], request: ActiveRequest, events: StageEvents) -> Failure | None:
    """Does `work`; where memory is short, once more after the loop has freed what it can spare.

    Raises: what the process cannot survive.
    """
    failure = _attempt(work, request)
    if failure is None or not failure.out_of_memory:
        return failure
    short = MemoryShort()
    events.put(short)
    short.freed.wait(FREE_MEMORY_DEADLINE_S)
    return _attempt(work, request)


def _attempt(work: Callable[[], None], request: ActiveRequest) -> Failure | None:
    """The exception ends here, so that it does not hold the memory that the loop frees next."""
    try:
        work()
    except Exception as exc:
        return cuda_errors.failure_of(exc, request.params.width_px, request.params.height_px)
    return None
