"""Who may use this server: accounts with argon2 hashes, the tokens of their logins, and the check of every request."""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from fair_server.errors import ApiError, ConfigError
from fair_server.login_queue import LoginQueue
from fair_server.request_limits import error_response

DEFAULT_TTL_S = 12 * 3600.0
_LOGIN_PATH = "/api/v0/auth/login"
_TOKENS_AT_MOST = 10_000  # beyond it the oldest token stops to be valid

# OWASP's smallest recommendation: about 20 ms and 19 MiB. Fifty logins at once take about a second.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_EMAIL = re.compile(r"[^\s:]+@[^\s:]+")


def hash_line(email: str, password: str) -> str:
    """Returns the line `email:hash` of an accounts file.

    Raises:
        ConfigError: the email is none, or the password is empty or came in another encoding than UTF-8.
    """
    if not _is_email(email):
        raise ConfigError(f"{email!r} is no email address.")
    if not password:
        raise ConfigError("The password is empty: give it on standard input.")
    try:
        return f"{email}:{_HASHER.hash(password)}"
    except UnicodeEncodeError:
        raise not_utf_8() from None  # the first error quotes the password


def not_utf_8() -> ConfigError:
    """Returns the refusal of a password whose bytes are not in UTF-8; it does not show them."""
    return ConfigError("The password is not in UTF-8, in which clients send it: give it in that encoding.")


class Accounts:
    """The accounts of one server. Who has logged in before is let in at once, however many others guess."""

    def __init__(self, hashes: Mapping[str, str], queue: LoginQueue | None = None) -> None:
        self._hashes = {email.lower(): digest for email, digest in hashes.items()}
        self._decoy = _HASHER.hash("no account has this")  # an unknown email must take as long as a known one
        self._queue = queue or LoginQueue()
        self._key = secrets.token_bytes(32)
        self._right_before: dict[str, bytes] = {}  # by account, a keyed digest, in this process's memory alone

    async def check(self, email: str, password: str, address: str = "") -> str:
        """Returns the account's name if the password is right. The work is done off the event loop.

        Raises:
            ApiError: 401 WRONG_CREDENTIALS; 503 BUSY when many logins wait already.
        """
        account, digest = email.lower(), self._digest(email, password)
        if hmac.compare_digest(self._right_before.get(account, b""), digest):
            return account
        async with self._queue.turn(address):
            right = await asyncio.to_thread(self._is_right, account, password)
        if not right:
            self._queue.was_wrong(address)
            raise ApiError(401, "WRONG_CREDENTIALS", "The email or the password is wrong.")
        self._right_before[account] = digest
        return account

    def _digest(self, email: str, password: str) -> bytes:
        text = f"{email.lower()}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, hashlib.sha256)

    def _is_right(self, email: str, password: str) -> bool:
        known = self._hashes.get(email)
        try:
            return _HASHER.verify(known or self._decoy, password) and known is not None
        except (VerificationError, InvalidHashError):
            return False


def load_accounts(path: Path | None, environment: Mapping[str, str]) -> Accounts:
    """Reads the accounts file, or without one the single account of `FAIRCOMPUTE_EMAIL`, `FAIRCOMPUTE_PASSWORD`.

    Raises:
        ConfigError: the file cannot be read or a line is wrong (named by its number), or there is no account.
    """
    if path is not None:
        return Accounts(_read_accounts(path))
    email, password = environment.get("FAIRCOMPUTE_EMAIL"), environment.get("FAIRCOMPUTE_PASSWORD")
    if not email or not password:
        raise ConfigError(
            "There is no account: give --accounts FILE (`python -m fair_server hash EMAIL` prints a line of it), "
            "or set FAIRCOMPUTE_EMAIL and FAIRCOMPUTE_PASSWORD."
        )
    return Accounts({email: hash_line(email, password).split(":", 1)[1]})


def _read_accounts(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # an editor's byte order mark is no part of an email
    except OSError as exc:
        raise ConfigError(f"The accounts file {path} cannot be read: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"The accounts file {path} is no text.") from exc
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        email, _, digest = line.strip().partition(":")
        if fault := _fault(email, digest):
            raise ConfigError(
                f"The accounts file {path} is wrong in line {number}: {fault}. "
                "Print the line anew with `python -m fair_server hash EMAIL`."
            )
        if email.lower() in hashes:
            raise ConfigError(f"The accounts file {path} names {email} twice, again in line {number}.")
        hashes[email.lower()] = digest
    if not hashes:
        raise ConfigError(f"The accounts file {path} names no account.")
    return hashes


def _is_email(text: str) -> bool:
    return _EMAIL.fullmatch(text) is not None and text.isprintable()


def _fault(email: str, digest: str) -> str | None:
    """Returns what is wrong with an account's line, without its hash; None where some password can be right.

    It takes as long as a login, since only verifying a password shows whether a hash is whole.
    """
    if not _is_email(email):
        return "it must be email:argon2-hash"
    try:
        _HASHER.verify(digest, "")
    except VerifyMismatchError:
        return None
    except VerificationError as exc:
        return f"no login can match its hash (argon2 says: {exc})"
    except (InvalidHashError, UnicodeEncodeError):
        return "it must be email:argon2-hash"
    return "its hash is that of an empty password"


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
        surplus = len(self._grants) - _TOKENS_AT_MOST + 1
        for number, (digest, grant) in enumerate(list(self._grants.items())):
            if number >= surplus and grant.expires_at > now:
                break  # all later ones expire later
            del self._grants[digest]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class BearerMiddleware:
    """Lets a login pass, and every other request only with a token that is valid now.

    It is ASGI middleware, since FastAPI reads a body before its dependencies run: no byte of an unwelcome body is read.
    The refusal closes the connection, since uvicorn would go on accepting that body.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, its account noted in the scope, or answers 401."""
        if scope["type"] != "http" or (scope["method"] == "POST" and scope["path"] == _LOGIN_PATH):
            await self._app(scope, receive, send)
            return
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        account = self._tokens.account_of(token.strip()) if scheme.lower() == "bearer" else None
        if account is None:
            refusal = ApiError(401, "BAD_TOKEN", "The bearer token is missing, wrong or expired. Log in again.")
            await error_response(refusal, close=True)(scope, receive, send)
            return
        scope["fair_server.account"] = account
        await self._app(scope, receive, send)


async def account_of(request: Request) -> str:
    """Returns the account that makes this request."""
    return str(request.scope["fair_server.account"])
