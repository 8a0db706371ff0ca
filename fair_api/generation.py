"""When this process began, by Fair's clock: of two processes of one Space, the one that began later goes on.

This machine's own clock may be wrong by hours. Fair's is read from the `Date` header of its answers, which tells whole
seconds: each answer narrows the moment down further.
"""

import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_BEGAN = time.monotonic()


class Birth:
    """The moment at which this process began. `began`: the same by `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, began: float = _BEGAN) -> None:
        self._clock = clock
        self._began = began
        self._lock = threading.Lock()
        self._earliest: datetime | None = None
        self._latest: datetime | None = None
        self._mark = secrets.token_hex(4)
        self._generation: str | None = None

    def observe(self, date: str | None, sent_at: float) -> None:
        """Notes a `Date` header, of the answer that has just come to a request sent at that moment of the clock."""
        try:
            told = parsedate_to_datetime(date or "").astimezone(UTC)
        except ValueError:
            return
        earliest = told - timedelta(seconds=self._clock() - self._began)
        latest = told + timedelta(seconds=1 - (sent_at - self._began))
        with self._lock:
            self._earliest = max(self._earliest or earliest, earliest)
            self._latest = min(self._latest or latest, latest)

    @property
    def generation(self) -> str:
        """The same at every call: a moment as text, and a mark that no other process has. Later ones are larger.

        Empty where Fair has not told its time: then nobody is taken for older.
        """
        with self._lock:
            if self._generation is None and self._earliest is not None and self._latest is not None:
                middle = self._earliest + (self._latest - self._earliest) / 2
                moment = middle.isoformat(timespec="milliseconds").replace("+00:00", "Z")
                self._generation = f"{moment}-{self._mark}"
            return self._generation or ""


THIS_PROCESS = Birth()
