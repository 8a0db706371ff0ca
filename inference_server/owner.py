"""What the owner wants, for the running server: whether it may draw now, what it has drawn today, how it wakes.

All of it is kept in DATA_DIR (`state_file.py`), where the owner's commands change it. Where nothing can be kept, it
holds for as long as this process lives.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from inference_server.config import InferenceConfig
from inference_server.owner_state import OwnerState, Pause, Running, Wake, local_day, process_start
from inference_server.space import Space
from inference_server.state_file import StateFile, data_dir

log = logging.getLogger("inference_server.owner")

TICK_S = 0.5  # how late a pause may be noticed
_WRITE_EVERY_S = 10.0  # while it draws; what is counted since is lost with a server that is killed
_WRITE_AFTER_S = 1.0  # the same between two drawings


def owner_of(config: InferenceConfig, space: Space | None, environment: Mapping[str, str]) -> "Owner":
    """The owner of this machine, as its environment says. A server that listens keeps nothing without DATA_DIR: there
    may be several on one machine, each of somebody else's making.
    """
    kept = space is not None or environment.get("DATA_DIR", "").strip()
    model = [config.engine, config.model_name, config.model_revision, config.model_precision, config.device]
    return Owner(
        StateFile(data_dir(environment)) if kept else None,
        model=" ".join(part for part in model if part),
        max_gpu_minutes=config.max_gpu_minutes_per_day,
    )


class Owner:
    """Belongs to the event loop's thread.

    `file`: None keeps nothing; `model`: what the wake-ups are of; `now`: seconds since the epoch.
    """

    def __init__(
        self,
        file: StateFile | None = None,
        *,
        model: str = "",
        max_gpu_minutes: float | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._model, self._max_gpu_minutes = file, model, max_gpu_minutes
        self._now, self._clock = now, clock
        self._state = OwnerState()
        self._stamp: tuple[int, int] | None = None
        self._pictures, self._gpu_s, self._wakes = 0, 0.0, list[Wake]()  # not in the file yet
        self._working_since: float | None = None  # on the clock
        self._written = clock()
        self._running: Running | None = None
        self._engine = "loading"
        self._complained = False
        self._told: Pause | None = None  # to the log
        self._look()

    @property
    def folder(self) -> Path | None:
        """Where things are kept; None: nowhere."""
        return self._file.folder if self._file is not None else None

    @property
    def pause(self) -> Pause | None:
        """Why nothing new is drawn now; the one that lasts longer where there are two."""
        now = self._now()
        pauses = [self._state.owners_pause(now), self._counted().budget_pause(now, self._max_gpu_minutes)]
        found = [pause for pause in pauses if pause is not None]
        return max(found, key=lambda pause: float("inf") if pause.until is None else pause.until, default=None)

    @property
    def pause_left_s(self) -> float | None:
        """Seconds until `pause` ends; None where nobody knows, or there is none."""
        pause = self.pause
        return pause.left_s(self._now()) if pause else None

    @property
    def wakes_in_s(self) -> tuple[int, int] | None:
        """See `OwnerState.wakes_in_s`."""
        return self._counted().wakes_in_s(self._model, self._now())

    def begin(self, space: str | None, name: str | None) -> None:
        """This server runs from now on. `space`: the address that it dials; None: it listens."""
        pid = os.getpid()
        self._running = Running(
            pid=pid,
            process_start=process_start(pid),
            since=self._now(),
            model=self._model,
            engine=self._engine,
            space=space,
            name=name,
            max_gpu_minutes_per_day=self._max_gpu_minutes,
        )
        self._write()

    def on_line(self, connected: bool) -> None:
        """The line to the Space was made, or broke."""
        self._tell(connected_since=self._now() if connected else None)

    def on_engine(self, phase: str, works: bool) -> None:
        """`works`: it loads or draws, which counts as GPU time."""
        now = self._clock()
        if self._working_since is not None:
            self._gpu_s += now - self._working_since
        self._working_since = now if works else None
        self._engine = phase  # also before `begin`: a server that starts paused is asleep from the start
        self._tell(engine=phase)

    def on_pictures(self, number: int) -> None:
        """So many were drawn."""
        self._pictures += number

    def on_wake(self, took_s: float) -> None:
        """The engine was started and is ready, without a download."""
        self._wakes.append(Wake(at=self._now(), took_s=took_s))

    def tick(self) -> None:
        """Takes in what the owner has said since, and writes down what is due."""
        self._look()
        every_s = _WRITE_AFTER_S if self._working_since is None else _WRITE_EVERY_S
        if self._has_news and self._clock() - self._written > every_s:
            self._write()
        self._log_pause()

    def end(self) -> None:
        """Writes down everything."""
        self._write()

    @property
    def _has_news(self) -> bool:
        return bool(self._pictures or self._gpu_s or self._wakes or self._working_since is not None)

    def _log_pause(self) -> None:
        pause, told = self.pause, self._told
        self._told = pause
        if pause == told:
            return
        until = (
            ""
            if pause is None or pause.until is None
            else time.strftime(" until %d %b %H:%M", time.localtime(pause.until))
        )
        match pause:
            case None:
                log.info("the pause is over")
            case Pause(reason="owner"):
                log.info("paused by the owner%s: nothing new is drawn", until)
            case _:
                log.info("the GPU minutes of today are used up: nothing new is drawn%s", until)

    def _tell(self, **news: object) -> None:
        """For `status`, at once."""
        if self._running is not None and any(getattr(self._running, name) != value for name, value in news.items()):
            self._running = self._running.model_copy(update=news)
            self._write()

    def _counted(self, state: OwnerState | None = None) -> OwnerState:
        """The state with what is not in the file yet."""
        now = self._clock()
        working_s = 0.0 if self._working_since is None else now - self._working_since
        state = (state or self._state).on(local_day(self._now()))
        for wake in self._wakes:
            state = state.with_wake(self._model, wake)
        counts = {"pictures": state.pictures + self._pictures, "gpu_s": state.gpu_s + self._gpu_s + working_s}
        return state.model_copy(update={**counts, "running": self._running or state.running})

    def _look(self) -> None:
        if self._file is None:
            return
        try:
            stamp = self._file.stamp()
            if stamp != self._stamp:
                self._state, self._stamp = self._file.read(), stamp
        except OSError as exc:
            self._complain(exc)

    def _write(self) -> None:
        """Into the file, or into this process's memory where there is none."""
        self._written = self._clock()
        if self._file is None:
            self._state = self._counted()
        else:
            try:
                # Its stamp is left to `_look`: the owner may have written since, and would not be heard.
                self._state = self._file.update(self._counted, wait_s=0.1)
                self._complained = False
            except TimeoutError:
                return  # it is written the next time
            except OSError as exc:
                self._complain(exc)
                self._state = self._counted()
        self._pictures, self._gpu_s, self._wakes = 0, 0.0, []
        if self._working_since is not None:
            self._working_since = self._clock()

    def _complain(self, exc: OSError) -> None:
        if not self._complained and self._file is not None:
            log.warning(
                "DATA_DIR=%s cannot be used (%s): `pause` does not reach this server, and what it counts is "
                "forgotten when it ends; it draws all the same. Give it a folder that user %d may write to",
                *(self._file.folder, exc.strerror or type(exc).__name__, os.getuid()),
            )
        self._complained = True
