"""Keeps the engine process alive: starts it, notices when it is ready, silent or gone, and starts it again.

It also ends an idle process, so that the GPU is free. It knows nothing of requests: messages about a drawing go to its
listener.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Protocol

from inference_server.engine_child import EngineChild
from inference_server.messages import (
    DOWNLOADING,
    GPU_BUSY,
    FromEngine,
    Hardware,
    LoadFailed,
    ModelInfo,
    Ready,
    Stage,
    ToEngine,
)

log = logging.getLogger("inference_server.dispatcher")
LOAD_DEADLINE_S = 1800.0  # without a word from a loading engine; a hub download of some GB fits
STEP_DEADLINE_S = 180.0  # without a step from a drawing engine
FIRST_STAGE = "starting the engine"
MAX_PAUSE_S = 300  # between two tries to load a model that cannot be loaded; it begins with 2 s and doubles
GPU_BUSY_PAUSE_S = 15  # between two tries, each asked for, while something else holds the GPU's memory
GPU_BUSY_RETRY_S = 60.0  # the same unasked, until the model was loaded once
CRASH_PAUSE_S = 30.0  # an idle engine that dies twice within this stays asleep until it is needed


class Phase(StrEnum):
    """What the engine process is at."""

    LOADING = "loading"
    READY = "ready"
    ASLEEP = "asleep"
    FAILED = "failed"


class Listener(Protocol):
    """The dispatcher, as the supervisor calls it."""

    def on_phase(self, phase: Phase) -> None: ...

    def on_stage(self) -> None: ...

    def on_ready(self, model_info: ModelInfo) -> None:
        """Raises: ValueError when this model cannot be served."""

    def on_wake(self, took_s: float) -> None:
        """The engine is ready `took_s` after its start, nothing of which was a download."""

    def on_failed(self, failure: LoadFailed, pause_s: int) -> None:
        """The next try is in `pause_s`, or with a post after it."""

    def on_lost(self, reason: str) -> bool:
        """The process died unasked; True if it was drawing, or something waits for the next one."""

    def on_drawing_message(self, message: FromEngine) -> None: ...


class Supervisor:
    """Belongs to the event loop's thread, which is the main thread (see `EngineChild`)."""

    def __init__(self, start_child: Callable[[], EngineChild], listener: Listener) -> None:
        self._start_child, self._listener = start_child, listener
        self.phase = Phase.LOADING
        self.stage = FIRST_STAGE
        self.stage_since_s = time.monotonic()
        self._has_downloaded = False  # since the start of this process
        self.hardware: Hardware | None = None  # what the engine process last told of the GPU
        self.ready_s = 0.0  # when it was last ready, on the monotonic clock
        self.failure = LoadFailed("")  # why the model is not loaded, while FAILED
        self._retry_s = 0.0  # when the next try is allowed, on the loop's clock, while FAILED
        self._child: EngineChild | None = None
        self._load_failures = 0
        self._load_crashes = 0
        self._idle_crash_s = float("-inf")  # when it last died with nothing to draw
        self._watchdog: asyncio.TimerHandle | None = None
        self._recovery: asyncio.TimerHandle | None = None

    @property
    def pause_s(self) -> float:
        """How long a failed load is not tried again; 0 or less: it may be, infinite: never."""
        return self._retry_s - asyncio.get_running_loop().time()

    @property
    def is_downloading(self) -> bool:
        """Whether it waits for a download."""
        return self.phase is Phase.LOADING and self.stage.startswith(DOWNLOADING)

    def start(self, child: EngineChild | None = None) -> None:
        """Starts the engine process, or takes over one that was started before the event loop was."""
        self._stop_recovery()
        self.stage, self.stage_since_s, self._has_downloaded = FIRST_STAGE, time.monotonic(), False
        self._set_phase(Phase.LOADING)
        loop = asyncio.get_running_loop()
        try:
            self._child = child = child or self._start_child()
            child.listen(partial(_call, loop, self._on_message, child), partial(_call, loop, self._on_end, child))
        except (OSError, RuntimeError) as exc:  # out of memory, processes, threads or files
            self._fail(LoadFailed(f"the engine process cannot be started: {getattr(exc, 'strerror', None) or exc}"))
            return
        log.info("engine process %d started", child.pid)
        self.expect_word(LOAD_DEADLINE_S)

    def send(self, message: ToEngine) -> None:
        if self._child is not None:
            self._child.send(message)

    def sleep(self) -> None:
        """Ends the process, so that what it holds is free; `start` brings it back."""
        self.end()
        self._set_phase(Phase.ASLEEP)

    def end(self) -> None:
        self._stop_recovery()
        child, self._child = self._child, None
        self.expect_word(None)
        if child is not None:
            child.kill()

    def expect_word(self, deadline_s: float | None) -> None:
        """From now on the process must say something within `deadline_s`; None: it need not."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = None
        if deadline_s is not None:
            self._watchdog = asyncio.get_running_loop().call_later(deadline_s, self._on_silence, deadline_s)

    def _on_message(self, child: EngineChild, message: FromEngine) -> None:
        if child is not self._child:
            return
        match message:
            case Stage(text):
                self.stage = text
                self._has_downloaded |= self.is_downloading
                self.expect_word(LOAD_DEADLINE_S)
                self._listener.on_stage()
            case Hardware():
                self.hardware = message
            case Ready(model_info):
                self._on_ready(model_info)
            case LoadFailed(reason, code) if code == GPU_BUSY:
                self._fail(LoadFailed(f"gpu-busy: {reason.removeprefix('gpu-busy').lstrip(' :')}", code))
            case LoadFailed():
                self._fail(message)
            case _:
                self._listener.on_drawing_message(message)

    def _on_ready(self, model_info: ModelInfo) -> None:
        self.expect_word(None)
        now_s = time.monotonic()
        self._set_phase(Phase.READY)
        log.info("engine ready: %s, after %.2f s", model_info.name, now_s - self.stage_since_s)
        try:
            self._listener.on_ready(model_info)
        except ValueError as exc:
            self._fail(LoadFailed(f"the configured limits do not fit the model: {exc}"))
            return
        self._load_failures = self._load_crashes = 0
        self.ready_s = now_s
        if not self._has_downloaded:
            self._listener.on_wake(now_s - self.stage_since_s)

    def _on_end(self, child: EngineChild, reason: str) -> None:
        """The process ended unasked. It is started again, after a pause if it ended before it was ready."""
        if child is not self._child:
            return
        self._child = None
        self.expect_word(None)
        log.error("the engine process %d is gone: %s", child.pid, reason)
        needed = self._listener.on_lost(reason)
        if self.phase is Phase.LOADING:
            self._load_crashes += 1
            if self._load_crashes > 1:
                self._fail(LoadFailed(f"the engine process cannot get ready ({reason})"))
                return
        elif not needed:
            before_s, self._idle_crash_s = self._idle_crash_s, time.monotonic()
            if self._idle_crash_s - before_s < CRASH_PAUSE_S:
                self._set_phase(Phase.ASLEEP)
                return
        self.start()

    def _fail(self, failure: LoadFailed) -> None:
        self.end()
        self._load_crashes = 0
        pause_s = GPU_BUSY_PAUSE_S
        if failure.code != GPU_BUSY:
            self._load_failures += 1
            pause_s = min(MAX_PAUSE_S, 2**self._load_failures)
        self.failure, self._retry_s = failure, asyncio.get_running_loop().time() + pause_s
        if failure.permanent:
            self._retry_s = math.inf
        self._set_phase(Phase.FAILED)
        told = "not tried again" if failure.permanent else f"next try in {pause_s} s"
        log.error("the model cannot be loaded: %s; %s", failure.reason, told)
        self._listener.on_failed(failure, pause_s)
        if not failure.permanent:
            self._recover(failure, pause_s)

    def _recover(self, failure: LoadFailed, pause_s: int) -> None:
        """Tries again unasked: clients post nothing to a failed server, and the cause may be over.

        After a busy GPU, a server that was healthy once is healthy again, and loads when it gets a request.
        """
        loop = asyncio.get_running_loop()
        if failure.code != GPU_BUSY:
            self._recovery = loop.call_later(pause_s, self.start)
        elif self.ready_s:
            self._recovery = loop.call_later(GPU_BUSY_PAUSE_S, self._set_phase, Phase.ASLEEP)
        else:
            self._recovery = loop.call_later(GPU_BUSY_RETRY_S, self.start)

    def _stop_recovery(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            self._recovery = None

    def _on_silence(self, deadline_s: float) -> None:
        log.error("the engine process said nothing for %d s while %s: ending it", deadline_s, self.phase)
        if self._child is not None:
            self._child.kill()  # `_on_end` does the rest

    def _set_phase(self, phase: Phase) -> None:
        self.phase = phase
        self._listener.on_phase(phase)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """From the reader thread to the event loop, unless that is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
