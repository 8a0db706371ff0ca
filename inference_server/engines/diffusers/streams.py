"""Lets the engine's threads share one GPU: a CUDA stream for each, and tensors handed over without a stall.

On the CPU all of this does nothing.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-streams
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

MEMORY_EVERY_S = 1.0  # asking takes some 0.1 ms
URGENT = -1  # priority of a CUDA stream whose work goes first
CACHE_LOCK = threading.RLock()  # held while a CUDA graph is captured, and while the allocator's cache is emptied


class ThreadStream:
    """The CUDA stream of one thread."""

    def __init__(self, device: torch.device, urgent: bool = False) -> None:
        """`urgent`: the device prefers this stream's work where it has the choice."""
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device, priority=URGENT if urgent else 0) if cuda else None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sends what this thread launches to the stream, in inference mode."""
        on_stream = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with torch.inference_mode(), on_stream:
            yield

    def synchronize(self) -> None:
        """Waits until the device has done all of this stream's work; the other streams run on."""
        if self._stream is not None:
            self._stream.synchronize()

    def record_event(self) -> Any:
        """A point in this stream's work that another stream can wait for; None on the CPU."""
        return None if self._stream is None else self._stream.record_event()

    def receive(self, tensors: Iterable[torch.Tensor], after: Any = None) -> None:
        """Makes another stream's tensors safe to read here, once its event `after` has come.

        The allocator knows of the other stream alone. Without `record_stream` it would reuse the tensors' memory as
        soon as Python drops them, while this stream's work on them is still to come.
        """
        if self._stream is None:
            return
        if after is not None:
            self._stream.wait_event(after)
        for tensor in tensors:
            tensor.record_stream(self._stream)


@dataclass(frozen=True)
class StepTime:
    """How long the device took for a step."""

    step_s: float
    images: int


class StepTimer:
    """Keeps the step loop at most one step ahead of the device, and measures the steps.

    The loop runs ahead so that the device never waits for Python, and by one step only so that a late request joins
    at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._running: deque[tuple[Any, Any, int]] = deque()  # start, end, images
        self._start: Any = None
        self._memory: tuple[float, int | None] = (0.0, None)  # when it was asked, the answer

    def begin(self) -> None:
        self._start = self._now()

    def end(self, images: int) -> list[StepTime]:
        """Waits, after a step was launched, for the step before it."""
        self._running.append((self._start, self._now(), images))
        return self._finished(leave=1 if self._cuda else 0)

    def drain(self) -> list[StepTime]:
        """Waits for all steps."""
        return self._finished(leave=0)

    def device_bytes(self) -> int | None:
        """How much of the device's memory this process holds; None on the CPU."""
        asked_s, held = self._memory
        if self._cuda and time.monotonic() - asked_s > MEMORY_EVERY_S:
            held = int(torch.cuda.memory_reserved(self._device))
            self._memory = (time.monotonic(), held)
        return held

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # blocking: waiting for it sleeps, not spins
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


def is_capturing(device: torch.device) -> bool:
    """Whether this thread's stream is being captured as a CUDA graph."""
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all work of all streams. Raises: what has broken the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def mem_usage() -> float:
    """The memory that PyTorch has allocated on CUDA now, over the most that it ever had; 0 without CUDA."""
    most = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return torch.cuda.memory_allocated() / most if most else 0.0


def empty_cache() -> None:
    """Returns unused memory to the device, so that the next allocation finds it in one piece."""
    if torch.cuda.is_initialized():
        with CACHE_LOCK:
            torch.cuda.empty_cache()
