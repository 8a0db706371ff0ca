"""The bearer token and TLS. The bearer is checked before a body is read; a refusal ends the connection."""

import hashlib
import hmac
import ssl
import tempfile

from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.config import ConfigError
from inference_server.errors import Refusal
from inference_server.responses import refusal_response

ANONYMOUS_PATHS = ("/healthcheck", "/v1/images/files/")  # the second: whoever has a picture's name may see it


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
        health, files = ANONYMOUS_PATHS
        anonymous = not given and (scope["path"] == health or scope["path"].startswith(files))
        trusted = self._digest is None or (len(given) == 1 and self._is_right(given[0]))
        if not trusted and not anonymous:
            told = "The bearer is wrong." if given else "This needs the server's bearer: Authorization: Bearer TOKEN."
            await refusal_response(Refusal(401, "UNAUTHORIZED", told), close=True, path=scope["path"])(
                scope, receive, send
            )
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


def server_context(key_pem: str, certificate_pem: str) -> ssl.SSLContext:
    """The TLS context. Python reads key and certificate from files only: the file lives for that moment.

    Raises: ConfigError; its text holds nothing of the key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="utf-8") as file:  # 0600, gone at the end
            file.write(f"{key_pem.strip()}\n{certificate_pem.strip()}\n")
            file.flush()
            # The empty password keeps OpenSSL from asking on the terminal for an encrypted key's.
            context.load_cert_chain(file.name, password="")
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(
            f"tls_key and tls_certificate cannot be used ({type(exc).__name__}): both must be PEM texts, and the key "
            "the certificate's own, without a password."
        ) from None
    return context
