"""One request to a Fair server: with a deadline, to that server and no other, every trouble a typed error.

The environment may name a proxy and authorities (a private one has no other way in), but nothing else changes what is
sent: no ~/.netrc, no redirect.
"""

import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.exceptions import InvalidURL
from urllib3.exceptions import ConnectTimeoutError, LocationValueError, NewConnectionError

from addresses import is_loopback
from errors import FairError, causes, is_among

_NO_PROXIES = {"http": None, "https": None, "all": None}  # a proxy of the environment does not lead to this machine


def send(method: str, url: str, *, tried: str, timeout_s: float, **kwargs: Any) -> requests.Response:
    """The answer, whatever its status; `timeout_s`: how long it, and each part of it, may take to come.

    Raises: FairError that says what was `tried`, when none comes.
    """
    if is_loopback(urlsplit(url).hostname or ""):
        kwargs["proxies"] = _NO_PROXIES
    try:
        return requests.request(
            method,
            url,
            timeout=(min(5.0, timeout_s), timeout_s),
            auth=_as_it_is,
            allow_redirects=False,
            **kwargs,
        )
    # Not all that goes wrong there is one of requests' own: a host name that is none, authorities that are not there.
    except (OSError, urllib3.exceptions.HTTPError, UnicodeError) as error:
        of = causes(error)
        raise FairError(
            tried=tried,
            came_back=f"{_failure(error, timeout_s)} ({_words(of[-1])})",
            next_step="Check FAIRCOMPUTE_SERVER_ADDRESS, and that the Fair server runs and can be reached "
            "from here (a Space reaches ports 80, 443 and 8080 only).",
            lasting=_is_lasting(of),
            unsent=is_among(of, NewConnectionError, ConnectTimeoutError, LocationValueError),
        ) from error


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


def _failure(error: Exception, timeout_s: float) -> str:
    late = isinstance(error, requests.Timeout)
    return f"nothing came back within {timeout_s:g} s" if late else "the connection failed"


def _is_lasting(of: list[BaseException]) -> bool:
    """Whether it will not be over in a moment: a name that is none or that nobody knows, a certificate of nobody's."""
    if is_among(of, InvalidURL, LocationValueError, UnicodeError, ssl.SSLCertVerificationError):
        return True
    return any(isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN for error in of)


def _words(error: BaseException) -> str:
    """The reason of a failed request, without object addresses and URLs."""
    return str(error).rsplit(": ", 1)[-1][:200] or type(error).__name__
