"""What went wrong on the way to an HTTP server, read from the exception that requests or urllib3 raised.

The classes of the exceptions decide, not their texts; only OpenSSL's reasons exist as texts alone.
"""

import errno
import socket
import ssl
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.exceptions import ConnectTimeoutError, LocationValueError, NewConnectionError, ReadTimeoutError

from errors import Silence
from network.addresses import host_port

# What requests raises, and what it lets through: a host name that is none, a bundle of authorities that is not there.
HTTP_FAULTS = (OSError, urllib3.exceptions.HTTPError, UnicodeError)

_UNTRUSTED = ("Fingerprints did not match", "WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY", "RECORD_LAYER_FAILURE")
_NO_ROUTE = {  # a firewall may cause the first one
    errno.EHOSTUNREACH: "the network leads to no such machine, or a firewall says so",
    errno.EHOSTDOWN: "that machine is down",
    errno.ENETUNREACH: "this machine has no network that leads there (to an IPv6 address, perhaps)",
    errno.ENETDOWN: "this machine's network is down",
}


@dataclass(frozen=True)
class HttpTrouble:
    """Why no answer came. `how`: as in `EndpointUnreachableError`; `untrusted`: another certificate, or no TLS.

    `came_back`: what was seen, as part of a sentence; `reason`: the innermost exception's own words, without URLs;
    `timed_out`: the deadline ended it; `lasting`: waiting does not help; `unsent`: the request cannot have arrived.
    """

    how: Silence | Literal["untrusted"]
    came_back: str
    reason: str
    timed_out: bool
    lasting: bool
    unsent: bool


def explain(error: Exception, url: str, waited_s: float) -> HttpTrouble:
    """What `error`, one of `HTTP_FAULTS`, means for a request to `url` that was waited for so long."""
    causes = _causes(error)
    how, came_back = _what_was_seen(causes, url, f"{round(waited_s, 1):g} s")
    name_server_away = any(isinstance(one, socket.gaierror) and one.errno == socket.EAI_AGAIN for one in causes)
    return HttpTrouble(
        how=how,
        came_back=came_back,
        reason=str(causes[-1]).rsplit(": ", 1)[-1][:200] or type(causes[-1]).__name__,
        timed_out=isinstance(error, requests.Timeout),
        lasting=(how == "unknown" and not name_server_away) or _is_among(causes, ssl.SSLCertVerificationError),
        unsent=_is_among(causes, NewConnectionError, ConnectTimeoutError, LocationValueError),
    )


def _what_was_seen(causes: list[BaseException], url: str, waited: str) -> tuple[Silence | Literal["untrusted"], str]:
    """`how` and `came_back` of the trouble."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if any(sign in str(cause) for cause in causes for sign in _UNTRUSTED):
        return "untrusted", "its certificate is not the one to trust, or it speaks no TLS"
    if _is_among(causes, LocationValueError, requests.exceptions.InvalidURL, UnicodeError):  # nobody was asked at all
        return "unknown", f"{host} is no host name that could be looked up"
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return "unknown", f"the name {host} is not known ({cause.strerror})"
        if isinstance(cause, OSError) and cause.errno in _NO_ROUTE:
            return "unheard", _NO_ROUTE[cause.errno]
    if _is_among(causes, ConnectTimeoutError) and not _is_among(causes, NewConnectionError):  # a subclass of it
        place = host_port(host, parts.port or (443 if parts.scheme == "https" else 80))
        return "unheard", f"nothing came from {place} in {waited}, not even a refusal"
    if _is_among(causes, ReadTimeoutError, TimeoutError):
        return "silent", f"nothing came for {waited}"
    if _is_among(causes, ConnectionRefusedError):
        return "refused", "nobody listens there"
    return "closed", "the connection failed"


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error and what it came of, the innermost last."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _is_among(errors: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in errors)
