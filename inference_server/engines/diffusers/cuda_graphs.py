"""CUDA graphs: captures the UNet's hundreds of launches once per batch shape, and from then on replays them as one.

A capture takes tens of ms and one more step, between two steps; so it happens seldom, and only for shapes that are
really used. Whatever fails here, the network is called as before, and after a pause it is tried again, ever more
rarely.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from inference_server.engines.diffusers.streams import CACHE_LOCK, URGENT
from inference_server.engines.diffusers.unet import BatchShape, Network, UNetInputs

USES_BEFORE = 4  # steps of a shape before it is captured; they also warm up the libraries' kernels
STEPS_BETWEEN = 8  # of any shape, between two captures
PAUSE_S, MAX_PAUSE_S = 300.0, 3600.0  # without captures after a failure, or when memory was short; it doubles
MAX_SHAPES = 24  # that are known, captured or not; each holds its inputs


class Graph(Protocol):
    """One captured call."""

    def replay(self) -> torch.Tensor:
        """Runs it on the inputs it was captured with; the answer lies where it lay the last time."""

    def close(self) -> None:
        """Frees its memory."""


Capture = Callable[[Network, UNetInputs], Graph]


@dataclass
class _KnownShape:
    """What is known of one batch shape."""

    network: Network
    inputs: UNetInputs
    uses: int = 0
    graph: Graph | None = None


class CudaGraphs:
    """Calls networks, by their graph where there is one. For the step loop's thread alone."""

    def __init__(self, capture: Capture, clock: Callable[[], float] = time.monotonic) -> None:
        self._capture, self._clock = capture, clock
        self._pause_s, self._paused_until_s = PAUSE_S, float("-inf")
        self._shapes: dict[BatchShape, _KnownShape] = {}  # the longest unused first
        self._steps_since = STEPS_BETWEEN

    def run(self, shape: BatchShape, inputs: UNetInputs, network: Network) -> torch.Tensor:
        """What `network` answers; good until the next call. Raises: what the network raises."""
        one = self._known(shape, inputs, network)
        one.uses += 1
        self._steps_since += 1
        if one.graph is None and one.uses > USES_BEFORE and self._steps_since > STEPS_BETWEEN:
            self._try_to_capture(one)
        return one.graph.replay() if one.graph is not None else network(inputs)

    def forget(self, shape: BatchShape | None = None) -> None:
        """Frees all graphs, and captures none for a while, because memory was short.

        With a `shape`, it frees the graph of that one and changes nothing else.
        """
        if shape is not None:
            if one := self._shapes.pop(shape, None):
                _close(one)
            return
        for one in self._shapes.values():
            _close(one)
        self._shapes.clear()
        self._pause()

    def _pause(self) -> None:
        self._paused_until_s = self._clock() + self._pause_s
        self._pause_s = min(MAX_PAUSE_S, 2 * self._pause_s)

    def _known(self, shape: BatchShape, inputs: UNetInputs, network: Network) -> _KnownShape:
        """A graph of another network, or over other tensors, is of no use to this call."""
        one = self._shapes.pop(shape, None)
        if one is None or one.network is not network or one.inputs is not inputs:
            if one is not None:
                _close(one)
            one = _KnownShape(network, inputs)
        self._shapes[shape] = one
        if len(self._shapes) > MAX_SHAPES:
            _close(self._shapes.pop(next(iter(self._shapes))))
        return one

    def _try_to_capture(self, one: _KnownShape) -> None:
        if self._clock() < self._paused_until_s:
            return
        self._steps_since = 0
        try:
            one.graph = self._capture(one.network, one.inputs)
        except Exception as exc:
            told = f"for {self._pause_s:.0f} s, drawing goes on without them: {type(exc).__name__}"
            print(f"CUDA graphs are off {told}, raised in:", flush=True)
            traceback.print_tb(exc.__traceback__)
            self._pause()


def _close(one: _KnownShape) -> None:
    if one.graph is not None:
        one.graph.close()
        one.graph = None


class CudaCapture:
    """Captures on a stream of its own; all graphs share one pool of memory, since only one of them runs at a time.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(
            device, priority=URGENT
        )  # a graph keeps the priority that it was captured with
        self._pool = torch.cuda.graph_pool_handle()
        self._open = 0

    def __call__(self, network: Network, inputs: UNetInputs) -> Graph:
        """Raises: torch.OutOfMemoryError, RuntimeError."""
        if not self._open:
            self._pool = torch.cuda.graph_pool_handle()  # the old one ended with its last graph
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            network(inputs)  # what libraries do at their first call cannot be captured
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: the threads that encode and decode may go on allocating meanwhile.
        # But none may empty the allocator's cache: what it frees then may be a part of the graph.
        with (
            CACHE_LOCK,
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            output = network(inputs)
        self._open += 1
        return _CudaGraph(graph, output, self._closed)

    def _closed(self) -> None:
        self._open -= 1


class _CudaGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, output: torch.Tensor, closed: Callable[[], None]) -> None:
        self._graph, self._output, self._closed = graph, output, closed

    def replay(self) -> torch.Tensor:
        self._graph.replay()
        return self._output

    def close(self) -> None:
        torch.cuda.synchronize()  # its last replay may still be running
        self._graph.reset()
        self._closed()
