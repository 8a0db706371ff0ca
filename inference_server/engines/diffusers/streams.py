"""How the engine's threads share one device: a CUDA stream each, and tensors handed over without a stall.

On the CPU all of this does nothing.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

MEMORY_EVERY_S = 1.0  # asking takes some 0.1 ms


@dataclass(frozen=True)
class StepTime:
    """A step that the device has done."""

    step_s: float
    images: int


class Lane:
    """One thread's stream."""

    def __init__(self, device: torch.device, urgent: bool = False) -> None:
        """`urgent`: the device does this lane's work first where it has the choice."""
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device, priority=-1 if urgent else 0) if cuda else None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What this thread does in here goes to its own stream, and is inference."""
        on_stream = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with torch.inference_mode(), on_stream:
            yield

    def flush(self) -> None:
        """Waits until the device has done all of this lane's work; the other lanes run on."""
        if self._stream is not None:
            self._stream.synchronize()

    def mark(self) -> Any:
        """A point in this lane's work, for another lane to wait for; None on the CPU."""
        return None if self._stream is None else self._stream.record_event()

    def adopt(self, tensors: Iterable[torch.Tensor], after: Any = None) -> None:
        """Tensors of another lane may be read here, after its mark `after`.

        Without this the allocator would hand their memory out again as soon as nobody holds them any more, while this
        lane's work on them is still to come.
        """
        if self._stream is None:
            return
        if after is not None:
            self._stream.wait_event(after)
        for tensor in tensors:
            tensor.record_stream(self._stream)


class Pace:
    """Keeps the step loop at most one step ahead of the device, and tells how long the steps took.

    Ahead at all, so that the device never waits for Python; no more, so that a late arrival joins at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._running: deque[tuple[Any, Any, int]] = deque()
        self._start: Any = None
        self._memory: tuple[float, int | None] = (0.0, None)

    def begin(self) -> None:
        self._start = self._now()

    def end(self, images: int) -> list[StepTime]:
        """After a step was launched: waits for the one before it."""
        self._running.append((self._start, self._now(), images))
        return self._finished(leave=1 if self._cuda else 0)

    def drain(self) -> list[StepTime]:
        """Waits for all."""
        return self._finished(leave=0)

    def device_bytes(self) -> int | None:
        """Of the device's memory that this process holds; None on the CPU."""
        asked_s, held = self._memory
        if self._cuda and time.monotonic() - asked_s > MEMORY_EVERY_S:
            held = int(torch.cuda.memory_reserved(self._device))
            self._memory = (time.monotonic(), held)
        return held

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # blocking: sleeps instead of turning in circles
        event.record()
        return event

    def _finished(self, leave: int) -> list[StepTime]:
        times = []
        while len(self._running) > leave:
            start, end, images = self._running.popleft()
            if self._cuda:
                end.synchronize()
                times.append(StepTime(start.elapsed_time(end) / 1000, images))
            else:
                times.append(StepTime(end - start, images))
        return times


def is_recording(device: torch.device) -> bool:
    """Whether this thread's stream is being recorded as a CUDA graph."""
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


def settle(device: torch.device) -> None:
    """Waits until the device has done all: the weights are in place for every lane.

    Raises: what has broken the device.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def give_memory_back() -> None:
    """Lets the device have what nothing holds any more, so that the next try finds it in one piece."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
