"""How long something has gone on, and for how long a fault of Fair's is taken for one that passes."""

import logging
import time
from collections.abc import Callable

from errors import FairError

log = logging.getLogger(__name__)

HICCUPS_S = 30.0


class Spell:
    """For how long something has held without a break."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def observe(self, holds: bool) -> None:
        """Takes down whether it holds now."""
        if not holds:
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    @property
    def seconds(self) -> float:
        """For how long it has held; 0 if it did not when last observed."""
        return 0.0 if self._since is None else self._clock() - self._since


class Hiccups:
    """Faults of Fair's while something else is waited for: they end the wait only when they last `tolerated_s` seconds.

    `last`: the fault under way, None while Fair answers.
    """

    def __init__(self, tolerated_s: float = HICCUPS_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.last: FairError | None = None
        self._tolerated_s = tolerated_s
        self._spell = Spell(clock)

    def forgive(self, error: FairError) -> None:
        """Lets a fault pass.

        Raises: FairError, the fault itself, if it is a refusal or if there was nothing else for too long.
        """
        self._spell.observe(True)
        if not error.may_pass or self._spell.seconds > self._tolerated_s:
            raise error
        if self.last is None:
            log.warning("waiting on although Fair cannot be asked just now: %s", error)
        self.last = error

    def over(self) -> None:
        """Fair has answered."""
        self._spell.observe(False)
        self.last = None
