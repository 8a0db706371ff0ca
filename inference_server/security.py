"""Who may ask: the bearer is checked before anything of a body is read, and a refusal ends the connection."""

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.errors import Refusal
from inference_server.responses import refusal_response

ANONYMOUS_PATHS = frozenset({"/healthcheck"})


class BearerMiddleware:
    """ASGI middleware. Sets `scope["state"]["trusted"]`: the bearer was right, or the server is open."""

    def __init__(self, app: ASGIApp, bearer: str | None) -> None:
        self._app = app
        self._digest = _digest(bearer.encode("utf-8")) if bearer else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        anonymous = not given and scope["path"] in ANONYMOUS_PATHS
        trusted = self._digest is None or (len(given) == 1 and self._is_right(given[0]))
        if not trusted and not anonymous:
            told = "The bearer is wrong." if given else "This needs the server's bearer: Authorization: Bearer TOKEN."
            await refusal_response(Refusal(401, "UNAUTHORIZED", told), close=True)(scope, receive, send)
            return
        scope.setdefault("state", {})["trusted"] = trusted
        await self._app(scope, receive, send)

    def _is_right(self, header: bytes) -> bool:
        scheme, _, token = header.strip().partition(b" ")
        same = hmac.compare_digest(_digest(token.strip()), self._digest or b"")
        return scheme.lower() == b"bearer" and same


def _digest(token: bytes) -> bytes:
    """Digests are compared, not tokens: the time taken says nothing of the token, its length included."""
    return hashlib.sha256(token).digest()
