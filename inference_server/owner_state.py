"""What the owner of this machine has said, and what was drawn today: the content of the file in DATA_DIR.

Times are in seconds since the epoch, unless they say otherwise; days are those of this machine's time zone (TZ).
"""

import math
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from inference_server.json_model import JsonModel

WAKES_KEPT = 10
_RECENT_S = 3600.0  # wake-ups of the last hour tell more than older ones


class _Kept(JsonModel):
    """A part of the file. What a newer version has added is passed over."""

    model_config = ConfigDict(extra="ignore", strict=False)  # JSON has lists in place of tuples


class Pause(_Kept):
    """Why nothing new is drawn. `owner`: the owner said so; `budget`: the day's GPU minutes are used up.

    `until`: when it ends by itself; None: when the owner says so.
    """

    reason: Literal["owner", "budget"]
    until: float | None = None

    def left_s(self, now: float) -> float | None:
        """Seconds until it ends; None where nobody knows."""
        return None if self.until is None else max(0.0, self.until - now)


class Wake(_Kept):
    """The engine was started, and ready `took_s` later."""

    at: float
    took_s: float


class Running(_Kept):
    """The server that used this folder last."""

    pid: int
    process_start: str  # tells it from a later process of the same number
    since: float
    model: str
    engine: str
    space: str | None = None  # None: it listens on a port
    name: str | None = None  # as the Space knows it
    max_gpu_minutes_per_day: float | None = None
    connected_since: float | None = None  # None: there is no line to the Space

    @property
    def is_alive(self) -> bool:
        """Whether it runs now, on this machine or in this container."""
        return process_start(self.pid) == self.process_start != ""


class OwnerState(_Kept):
    """The file's content. `day`: the local date (YYYY-MM-DD) that `pictures` and `gpu_s` were counted on.

    `wakes_of`: the model whose wake-ups are kept, the oldest first.
    """

    paused: bool = False
    paused_until: float | None = None  # None while paused: until `resume`
    day: str = ""
    pictures: int = 0
    gpu_s: float = 0.0
    wakes_of: str = ""
    wakes: tuple[Wake, ...] = ()
    running: Running | None = None

    def owners_pause(self, now: float) -> Pause | None:
        """The owner's pause, while it lasts."""
        if not self.paused or (self.paused_until is not None and self.paused_until <= now):
            return None
        return Pause(reason="owner", until=self.paused_until)

    def budget_pause(self, now: float, max_gpu_minutes: float | None) -> Pause | None:
        """The pause until midnight, once the day's minutes are used up."""
        if max_gpu_minutes is None or self.on(local_day(now)).gpu_s < max_gpu_minutes * 60:
            return None
        return Pause(reason="budget", until=next_midnight(now))

    def on(self, day: str) -> "OwnerState":
        """The same on that day: the counts begin anew with each."""
        return self if self.day == day else self.model_copy(update={"day": day, "pictures": 0, "gpu_s": 0.0})

    def wakes_in_s(self, model: str, now: float) -> tuple[int, int] | None:
        """How long the engine took to wake, from the shortest to the longest; None where nothing is known of it."""
        if self.wakes_of != model or not self.wakes:
            return None
        recent = [wake.took_s for wake in self.wakes if 0 <= now - wake.at <= _RECENT_S]
        took = recent or [wake.took_s for wake in self.wakes]
        return max(1, math.floor(min(took))), max(1, math.ceil(max(took)))

    def with_wake(self, model: str, wake: Wake) -> "OwnerState":
        """The same with one wake-up more. Those of another model tell nothing of this one."""
        before = self.wakes if self.wakes_of == model else ()
        return self.model_copy(update={"wakes_of": model, "wakes": (*before, wake)[-WAKES_KEPT:]})


def local_day(now: float) -> str:
    """The date of that moment."""
    return datetime.fromtimestamp(now).date().isoformat()


def next_midnight(now: float) -> float:
    """When the next day begins."""
    tomorrow = date.fromisoformat(local_day(now)) + timedelta(days=1)
    return datetime.combine(tomorrow, datetime.min.time()).timestamp()


def process_start(pid: int) -> str:
    """When that process began, in ticks since the machine's start; empty if there is none, or it is a zombie.

    Source: man 5 proc, /proc/pid/stat, fields 3 and 22.
    """
    try:
        rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if rest[0] == "Z" else rest[19]
