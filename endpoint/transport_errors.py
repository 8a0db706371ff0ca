"""What an inference endpoint says or does instead of drawing, as typed errors: each says what to check."""

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from errors import (
    Absence,
    AwayError,
    BusyError,
    DrawingError,
    EndpointAnswerError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    GpuBusyError,
    InvalidRequestError,
    JobCancelledError,
    Silence,
    SpaceError,
    StartError,
)
from network.http_errors import explain


@dataclass(frozen=True)
class Advice:
    """What an endpoint's errors say to check: what has to run, and the setting that holds its address."""

    runs: str = "the inference server runs"
    address: str = "ENDPOINT_URL"


FIXED_ENDPOINT = Advice()
_ABSENCES = {"PAUSED": Absence("paused"), "BUDGET_USED_UP": Absence("budget")}
_CALLERS_FAULT = ("INVALID_INPUTS", "INVALID_SCHEDULER", "NO_SUCH_PIPELINE", "MODEL_MISMATCH", "NO_MODEL_ID")


class TransportErrors:
    """Makes the errors of the endpoint at `url`. `pinned`: it may have one certificate alone, that of our secret."""

    def __init__(self, url: str, advice: Advice, link: str | None = None, *, pinned: bool = True) -> None:
        self._pinned = pinned
        self.link = link or f"Inference endpoint {url}"
        self._url = url
        self._advice = advice

    def wrong_answer(self, tried: str, came_back: str) -> EndpointAnswerError:
        """For an answer that cannot be understood."""
        return EndpointAnswerError(
            self.link,
            tried=tried,
            came_back=came_back,
            next_step="Check that this is the inference server's own address, and see its log.",
        )

    def of_transport(
        self, tried: str, error: Exception, since: float
    ) -> EndpointUnreachableError | EndpointUntrustedError:
        """For what `requests` raised. `since`: when the last sign of life came, or the wait began (`monotonic`)."""
        trouble = explain(error, self._url, time.monotonic() - since)
        if trouble.how != "untrusted":
            return self.unreachable(trouble.how, tried, trouble.came_back)
        if not self._pinned:
            return EndpointUntrustedError(
                self.link,
                tried=tried,
                came_back=f"no authority vouches for its certificate under that name ({trouble.reason})",
                next_step=f"Check that {self._advice.address} holds a host name of that certificate, and that the "
                "certificate has not run out; REQUESTS_CA_BUNDLE or SSL_CERT_FILE names authorities of your own.",
            )
        return EndpointUntrustedError(
            self.link,
            tried=tried,
            came_back="what answers there does not hold the certificate that belongs to our ENDPOINT_SECRET",
            next_step="If the secret was changed, let the services of the old one be replaced; otherwise somebody "
            "else's service listens there.",
        )

    def unreachable(self, how: Silence, tried: str, came_back: str) -> EndpointUnreachableError:
        """For no answer, or one that broke off."""
        next_step = f"Check that {self._advice.runs}."
        if how == "unknown":
            next_step = f"Check {self._advice.address}, and that this machine reaches a name server."
        elif how == "unheard":
            parts = urlsplit(self._url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            next_step = f"Check {self._advice.address}, and open TCP port {port} in that machine's firewall."
        return EndpointUnreachableError(self.link, how=how, tried=tried, came_back=came_back, next_step=next_step)


def read_error(
    link: str, error: Any, *, tried: str = "draw", status: int = 200, retry_after_s: float = 5.0
) -> SpaceError:
    """The typed error for a `$error` object and the HTTP status that came with it, when we `tried` something."""
    code, message = "", ""
    if isinstance(error, dict):
        code, message = str(error.get("code") or "")[:60], str(error.get("message") or "")[:600]
    if status == 401:
        return EndpointUntrustedError(
            link,
            tried=tried,
            came_back=f"it does not accept our bearer ({status} {message})",
            next_step="Its ENDPOINT_SECRET is another one: start it with the one set here.",
        )
    if code == "BUSY" or status == 429:
        return BusyError("the picture server has enough to do just now.", retry_after_s=retry_after_s)
    if code == "GPU_BUSY":
        return GpuBusyError()
    if code in _ABSENCES:
        return AwayError(
            link, tried=tried, came_back=message, next_step="Wait, or ask its owner.", absence=_ABSENCES[code]
        )
    if code == "REQUEST_CANCELLED":
        return JobCancelledError()
    if code == "SHUTTING_DOWN":  # idle, or told to: start it again
        return EndpointUnreachableError(
            link,
            how="closed",
            tried=tried,
            came_back="the inference server is shutting down",
            next_step="The next prompt starts it again.",
        )
    if code == "MODEL_NOT_LOADED":
        return StartError(
            "Inference server", tried=tried, came_back=message, next_step="Check MODEL_ID and its log; then try again."
        )
    if code in _CALLERS_FAULT or status in (400, 413, 422):
        return InvalidRequestError(message or f"The inference server refused the request ({code or status}).")
    return DrawingError(
        f"The inference server could not draw this: {message or 'it gave no reason'} ({code or status}).",
        code=code or "APP_INFERENCE_ERROR",
    )
