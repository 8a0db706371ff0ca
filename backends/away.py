"""An owner's machine that draws nothing now: what is said of it, and how long it is waited for."""

import time
from dataclasses import replace
from datetime import UTC, datetime

from drawing.models import GeneratedImage
from errors import Absence, AwayError

_START_GRACE_S = 15.0  # after this Space's own start its workers need a moment to come back: they try every 10 s
_IS = {"off": "is off", "paused": "is paused", "budget": "has drawn its minutes for today"}
# What a visitor reads while another model begins to draw.
STANDS_IN = {reason: f"The machine that draws {told}: a small model sketches meanwhile" for reason, told in _IS.items()}
_CAME_BACK = {
    "off": "none is connected",
    "paused": "its owner has paused it",
    "budget": "it has drawn its minutes for today",
}
_NEXT_STEPS = {
    "off": "Its owner's machine is off; start the worker there.",
    "paused": "`python -m inference_server resume` on that machine ends the pause.",
    "budget": "MAX_GPU_MINUTES_PER_DAY on that machine sets them.",
}


def away_error(link: str, tried: str, absence: Absence) -> AwayError:
    """The error for a drawing that nobody takes."""
    until = "" if absence.until is None else f" until {datetime.fromtimestamp(absence.until, UTC):%d %b %H:%M} UTC"
    return AwayError(
        link,
        tried=tried,
        came_back=f"{_CAME_BACK[absence.reason]}{until}",
        next_step=_NEXT_STEPS[absence.reason],
        absence=absence,
    )


def as_sketch(image: GeneratedImage, absence: Absence) -> GeneratedImage:
    """A picture that another model has drawn meanwhile; its receipt says so."""
    told = f"A sketch: the machine that draws {_IS[absence.reason]}, and a small model stood in for it"
    return replace(image, receipt=replace(image.receipt, substituted=(*image.receipt.substituted, told)))


class Awaited:
    """How long those are waited for that were there a moment ago: `wait_s`. Times on the monotonic clock.

    After the start of this process nobody knows who was there. Where another model can draw meanwhile, it does so soon;
    `begins_alone`: none can, and a visitor would rather wait than be told to come back.
    """

    def __init__(self, wait_s: float, *, begins_alone: bool = False) -> None:
        self._wait_s = wait_s
        self._grace_s = wait_s if begins_alone else min(wait_s, _START_GRACE_S)
        self._begun_s = time.monotonic()
        self._lost_s: dict[str, float] = {}  # when those were lost that have not come back, by their name
        self.left_at: float | None = None  # when the newest of them was, in seconds since the epoch

    def came(self, name: str) -> None:
        """It is there."""
        self._lost_s.pop(name, None)

    def lost(self, name: str, *, paused: bool) -> None:
        """It is there no more. Nobody waits for one that was paused."""
        self.left_at = time.time()
        if not paused:
            self._lost_s[name] = time.monotonic()

    def until_s(self, *, at_start: bool) -> float:
        """Until when somebody is waited for. `at_start`: those too that were there before this process was."""
        lost_s = max(self._lost_s.values(), default=float("-inf"))
        grace_s = self._begun_s + self._grace_s if at_start else float("-inf")
        return max(lost_s + self._wait_s, grace_s)
