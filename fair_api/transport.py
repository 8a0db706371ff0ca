"""One request to a Fair server: with a deadline, to that server and no other, every trouble a typed error.

The environment may name a proxy and authorities (a private one has no other way in), but nothing else changes what is
sent: no ~/.netrc, no redirect. Where the server's certificate is pinned, the environment changes nothing at all.

Source of the pinning: urllib3's `assert_fingerprint`, which works only with verification off.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from errors import FairError
from network.addresses import is_loopback
from network.http_errors import HTTP_FAULTS, explain

_OTHER_CERTIFICATE = (
    "FAIRCOMPUTE_CERT_SHA256 pins another certificate. Where fair_server got a new one, set it to what "
    "`openssl x509 -in CERT -noout -fingerprint -sha256` prints there; where it did not, somebody is on the way."
)
_NO_PROXIES = {"http": None, "https": None, "all": None}  # a proxy of the environment does not lead to this machine


class _PinnedAdapter(HTTPAdapter):
    def __init__(self, certificate_sha256: str) -> None:
        self._pin = certificate_sha256
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, assert_fingerprint=self._pin, **kwargs)


def send(
    method: str, url: str, *, tried: str, timeout_s: float, certificate_sha256: str | None = None, **kwargs: Any
) -> requests.Response:
    """The answer, whatever its status; `timeout_s`: how long it, and each part of it, may take to come.

    `certificate_sha256`: of the one certificate to trust, in place of the authorities.

    Raises: FairError that says what was `tried`, when none comes.
    """
    if is_loopback(urlsplit(url).hostname or ""):
        kwargs["proxies"] = _NO_PROXIES
    since = time.monotonic()
    try:
        with _session(certificate_sha256) as session:
            return session.request(
                method,
                url,
                timeout=(min(5.0, timeout_s), timeout_s),
                auth=_as_it_is,
                allow_redirects=False,
                **kwargs,
            )
    except HTTP_FAULTS as error:
        trouble = explain(error, url, time.monotonic() - since)
        came_back = f"nothing came back within {timeout_s:g} s" if trouble.timed_out else trouble.came_back
        raise FairError(
            tried=tried,
            came_back=f"{came_back} ({trouble.reason})",
            next_step=_OTHER_CERTIFICATE
            if certificate_sha256 and trouble.how == "untrusted"
            else "Check FAIRCOMPUTE_SERVER_ADDRESS, and that the Fair server runs and can be reached "
            "from here (a Space reaches ports 80, 443 and 8080 only).",
            lasting=trouble.lasting,
            unsent=trouble.unsent,
        ) from error


@contextlib.contextmanager
def _session(certificate_sha256: str | None) -> Iterator[requests.Session]:
    with requests.Session() as session:
        if certificate_sha256:
            session.trust_env = False  # else a REQUESTS_CA_BUNDLE turns verification on again, and the pin off
            session.verify = False
            session.mount("https://", _PinnedAdapter(certificate_sha256))
        yield session


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps our own Authorization: without an `auth`, requests puts a password of ~/.netrc in its place."""
    return request


def is_success(response: requests.Response) -> bool:
    """A redirect is none: followed, it would take the password or the token to wherever it leads."""
    return 200 <= response.status_code < 300


def refusal(response: requests.Response) -> str:
    """Status and message of a refusal, short."""
    where = response.headers.get("Location")
    if where and response.is_redirect:
        return f"{response.status_code} (to {where[:200]}; redirects are not followed)"
    try:
        body = response.json()
        error = body.get("error") if isinstance(body, dict) else None
        message = error.get("message") if isinstance(error, dict) else error
    except requests.JSONDecodeError:
        message = response.text
    return f"{response.status_code} {str(message or response.reason)[:300]}"
