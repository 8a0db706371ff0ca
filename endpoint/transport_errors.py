"""The typed errors of one endpoint: each says what was tried, what came back, and what to check."""

import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from errors import EndpointAnswerError, EndpointUnreachableError, EndpointUntrustedError, Silence
from network.http_errors import explain


@dataclass(frozen=True)
class Advice:
    """What an endpoint's errors say to check: what has to run, and the setting that holds its address."""

    runs: str = "the inference server runs"
    address: str = "ENDPOINT_URL"


FIXED_ENDPOINT = Advice()


class TransportErrors:
    """Makes the errors of the endpoint at `url`."""

    def __init__(self, url: str, advice: Advice) -> None:
        self.link = f"Inference endpoint {url}"
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
