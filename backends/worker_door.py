"""Who may connect as a worker: the one key, compared in constant time, and what comes of a wrong one."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from collections import deque

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.websockets import WebSocket

from backends.worker_status import WRONG_KEY, TurnedAway

log = logging.getLogger(__name__)

KEY_HEADER = "x-worker-key"
WRONG_KEYS_A_MINUTE = 10
SLOWED_S = 3.0
SLOWED_MAX = 32  # at the same time; each holds a connection and memory


class WorkerDoor:
    """Belongs to the event loop of the page's server. `turned_away`: who could not connect, and why."""

    def __init__(self, key: str) -> None:
        self._digest = _digest(key)
        self._wrong: deque[float] = deque(maxlen=WRONG_KEYS_A_MINUTE)
        self._slowed = 0
        self.turned_away = TurnedAway()

    def knows(self, headers: Headers) -> bool:
        """Whether the right key was shown."""
        return hmac.compare_digest(_digest(headers.get(KEY_HEADER, "")), self._digest)

    async def refuse(self, socket: WebSocket) -> None:
        """403 before the handshake is done; later, after too many wrong keys within a minute."""
        now = time.monotonic()
        if len(self._wrong) < WRONG_KEYS_A_MINUTE or now - self._wrong[0] >= 60:
            log.warning("somebody showed a wrong worker's key; `python manage.py worker-key` prints the right one")
            self._wrong.append(now)
        elif self._slowed < SLOWED_MAX:
            self._wrong.append(now)
            self._slowed += 1
            try:
                await asyncio.sleep(SLOWED_S)
            finally:
                self._slowed -= 1
        self.turned_away.note(WRONG_KEY)
        with contextlib.suppress(RuntimeError):  # a server that cannot say why says 403 alone
            await socket.send_denial_response(Response(status_code=403, headers={KEY_HEADER: "wrong"}))
            return
        await socket.close()


def _digest(key: str) -> bytes:
    """Digests are compared, not keys: the time taken tells nothing of the key."""
    return hashlib.sha256(key.strip().encode()).digest()
