"""Whose turn it is to have a password verified: whoever guesses waits, and no one else does.

Fifty logins at once are never held back. Beyond that many wrong ones, an address has a password verified once a second.
"""

import asyncio
import contextlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable

from fair_server.errors import ApiError

_AT_ONCE = 2  # verifications that run side by side: each holds its memory
_WAITING_AT_MOST = 1000  # of all addresses: ten seconds of verifications
_WAITING_OF_ONE = 100
_WRONG_FREE = 50  # wrong logins of one address before it is slowed down
_FORGIVEN_S = 6.0  # after so long one of them no longer counts
_SLOWED_S = 1.0  # between two verifications of an address that is slowed down
_SLOWED_WAITING = 8
_SOURCES_AT_MOST = 10_000


class _Source:
    """One address. `wrong`: how many of its logins were, less what was forgiven by `counted_at`."""

    def __init__(self, now: float) -> None:
        self.waiting = 0
        self.wrong = 0.0
        self.counted_at = now
        self.next_at = now

    def count(self, now: float, more: float = 0.0) -> float:
        self.wrong = max(0.0, self.wrong - (now - self.counted_at) / _FORGIVEN_S) + more
        self.counted_at = now
        return self.wrong

    def is_slowed(self, now: float) -> bool:
        return self.count(now) >= _WRONG_FREE

    def pause_s(self, now: float) -> float:
        """How long its next verification has to wait."""
        if not self.is_slowed(now):
            return 0.0
        at = max(now, self.next_at)
        self.next_at = at + _SLOWED_S
        return at - now


class LoginQueue:
    """The verifications of one server."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0
        self._sources: OrderedDict[str, _Source] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Waits until a login from this address may be verified, and holds one of the places meanwhile.

        Raises:
            ApiError: 503 BUSY when many of this address wait, or very many of all.
        """
        source = self._source(address)
        if source.waiting >= (_SLOWED_WAITING if source.is_slowed(self._clock()) else _WAITING_OF_ONE):
            raise ApiError(503, "BUSY", f"{source.waiting} logins from your address wait already. Try again later.")
        if self._waiting >= _WAITING_AT_MOST:
            raise ApiError(503, "BUSY", f"{self._waiting} logins wait already. Try again in a few seconds.")
        source.waiting += 1
        self._waiting += 1
        try:
            if pause_s := source.pause_s(self._clock()):
                await self._sleep(pause_s)
            async with self._slots:
                yield
        finally:
            source.waiting -= 1
            self._waiting -= 1

    def was_wrong(self, address: str) -> None:
        """Notes that a login from this address was wrong."""
        self._source(address).count(self._clock(), 1.0)

    def _source(self, address: str) -> _Source:
        key = _source_of(address)
        source = self._sources.setdefault(key, _Source(self._clock()))
        self._sources.move_to_end(key)
        if len(self._sources) > _SOURCES_AT_MOST:
            idle = next((name for name, one in self._sources.items() if not one.waiting), None)
            if idle is not None:
                del self._sources[idle]
        return source


def _source_of(address: str) -> str:
    """The address, of IPv6 the network that one customer has (/64)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))
