"""Bearer tokens: random, expiring, and kept only as digests."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_TTL_S = 12 * 3600.0
_KEPT_AT_MOST = 10_000  # beyond it the oldest token stops to be valid


@dataclass(frozen=True)
class _Grant:
    account: str
    expires_at: float  # the clock's seconds


class Tokens:
    """The tokens of one run of the server: a restart ends them all, and clients log in again."""

    def __init__(self, ttl_s: float = DEFAULT_TTL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._grants: dict[bytes, _Grant] = {}  # by digest, oldest first

    def issue(self, account: str) -> str:
        """Returns a new token of that account."""
        self._drop_old()
        token = secrets.token_urlsafe(32)
        self._grants[_digest(token)] = _Grant(account, self._clock() + self._ttl_s)
        return token

    def account_of(self, token: str) -> str | None:
        """Returns whose token this is, None for one that is unknown or has expired.

        The look-up is by digest, so its duration tells nothing about a token.
        """
        grant = self._grants.get(_digest(token))
        if grant is None or grant.expires_at <= self._clock():
            return None
        return grant.account

    def _drop_old(self) -> None:
        now = self._clock()
        surplus = len(self._grants) - _KEPT_AT_MOST + 1
        for number, (digest, grant) in enumerate(list(self._grants.items())):
            if number >= surplus and grant.expires_at > now:
                break  # all later ones expire later
            del self._grants[digest]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
