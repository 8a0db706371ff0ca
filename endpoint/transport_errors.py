"""What is wrong with an endpoint, as typed errors: what was tried, what came back, what to look at.

Told by the classes of urllib3's exceptions, not by their texts; OpenSSL's reasons alone are there as texts only.
"""

import errno
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests.exceptions import InvalidURL
from urllib3.exceptions import ConnectTimeoutError, LocationValueError, NewConnectionError, ReadTimeoutError

from addresses import host_port
from errors import (
    EndpointAnswerError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    Silence,
    causes,
    is_among,
)

_NOT_OURS = ("Fingerprints did not match", "WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY", "RECORD_LAYER_FAILURE")
_NO_WAY_THERE = {  # the network's own word; a firewall may say the first one
    errno.EHOSTUNREACH: "the network leads to no such machine, or a firewall says so",
    errno.EHOSTDOWN: "that machine is down",
    errno.ENETUNREACH: "this machine has no network that leads there (to an IPv6 address, perhaps)",
    errno.ENETDOWN: "this machine's network is down",
}


@dataclass(frozen=True)
class Advice:
    """What the errors of an endpoint say to look at: what has to run, and the setting that its address comes from."""

    runs: str = "the inference server runs"
    address: str = "ENDPOINT_URL"


FIXED_ENDPOINT = Advice()


class TransportErrors:
    """The errors of the endpoint at `url`."""

    def __init__(self, url: str, advice: Advice) -> None:
        parts = urlsplit(url)
        self.link = f"Inference endpoint {url}"
        self._advice = advice
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)

    def wrong_answer(self, tried: str, came_back: str) -> EndpointAnswerError:
        """The typed error for an answer that cannot be understood."""
        return EndpointAnswerError(
            self.link,
            tried=tried,
            came_back=came_back,
            next_step="Check that this is the inference server's own address, and see its log.",
        )

    def of_transport(
        self, tried: str, error: Exception, since: float
    ) -> EndpointUnreachableError | EndpointUntrustedError:
        """The typed error for what `requests` raised.

        `since`: when the last sign of life was there, or when we began to wait for one (`time.monotonic`).
        """
        of = causes(error)
        waited = f"{round(time.monotonic() - since, 1):g} s"
        if any(sign in str(cause) for cause in of for sign in _NOT_OURS):
            return EndpointUntrustedError(
                self.link,
                tried=tried,
                came_back="what answers there does not hold the certificate that belongs to our ENDPOINT_SECRET",
                next_step="If the secret was changed, let the services of the old one be replaced; otherwise somebody "
                "else's service listens there.",
            )
        if is_among(of, LocationValueError, InvalidURL, UnicodeError):  # nobody was asked at all
            return self.unreachable("unknown", tried, f"{self._host} is no host name that could be looked up")
        for cause in of:
            if isinstance(cause, socket.gaierror):
                return self.unreachable("unknown", tried, f"the name {self._host} is not known ({cause.strerror})")
            if isinstance(cause, OSError) and cause.errno in _NO_WAY_THERE:
                return self.unreachable("unheard", tried, _NO_WAY_THERE[cause.errno])
        if is_among(of, ConnectTimeoutError) and not is_among(of, NewConnectionError):  # which is one, too
            place = host_port(self._host, self._port)
            return self.unreachable("unheard", tried, f"nothing came from {place} in {waited}, not even a refusal")
        if is_among(of, ReadTimeoutError, TimeoutError):
            return self.unreachable("silent", tried, f"nothing came for {waited}")
        if is_among(of, ConnectionRefusedError):
            return self.unreachable("refused", tried, "nobody listens there")
        return self.unreachable("closed", tried, "the connection was closed")

    def unreachable(self, how: Silence, tried: str, came_back: str) -> EndpointUnreachableError:
        """The typed error for no answer, or one that broke off."""
        next_step = f"Check that {self._advice.runs}."
        if how == "unknown":
            next_step = f"Check {self._advice.address}, and that this machine reaches a name server."
        elif how == "unheard":
            next_step = f"Check {self._advice.address}, and open TCP port {self._port} in that machine's firewall."
        return EndpointUnreachableError(self.link, how=how, tried=tried, came_back=came_back, next_step=next_step)
