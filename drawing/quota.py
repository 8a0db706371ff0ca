"""How many pictures one visitor may ask for within an hour."""

import threading
import time
from collections import deque

from errors import BusyError

_HOUR_S = 3600.0


class Quota:
    """Counts what each visitor asked for in the last hour. `per_hour`: 0 for any number."""

    def __init__(self, per_hour: int = 0) -> None:
        self._per_hour = per_hour
        self._asked: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def count(self, visitor: str) -> None:
        """Counts one picture. Raises: BusyError beyond `per_hour`, with the time until the next one."""
        if not self._per_hour:
            return
        now = time.monotonic()
        with self._lock:
            if len(self._asked) > 1000:
                self._asked = {name: told for name, told in self._asked.items() if told and now - told[-1] < _HOUR_S}
            times = self._asked.setdefault(visitor, deque())
            while times and now - times[0] >= _HOUR_S:
                times.popleft()
            if len(times) >= self._per_hour:
                raise BusyError(
                    f"one visitor gets {self._per_hour} pictures an hour here, and you have had yours.",
                    retry_after_s=max(1.0, times[0] + _HOUR_S - now),
                )
            times.append(now)

    def give_back(self, visitor: str) -> None:
        """The picture that was counted last is not drawn."""
        with self._lock:
            if times := self._asked.get(visitor):
                times.pop()
