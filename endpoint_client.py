"""Client of one inference endpoint: asks for its health, draws with progress, cancels."""

import json
import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from drawing.events import Tell
from drawing.models import GeneratedImage, GenerationRequest
from endpoint.transport import EndpointTransport, Transport
from endpoint.transport_errors import FIXED_ENDPOINT, Advice
from endpoint.wire_format import Health, is_result, read_event, read_health, read_result, write_request
from errors import (
    DrawingError,
    EndpointError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    JobCancelledError,
)

log = logging.getLogger(__name__)

CANCEL_S = 3.0  # so long a server may take to answer that it drops a request


class EndpointClient:
    """A client of one endpoint; safe to use from many threads at once.

    `url`: `http://` or `https://`, host and port. `certificate_sha256`: the only certificate to trust, hexadecimal;
    None over https: what the authorities vouch for, `authorities` (a file or folder of their certificates; None: those
    of certifi). `silence_s`: how long a connection may bring nothing before it
    counts as dead; `upstream_silence_s`: the same for a server that tells no limits (upstream's) and so sends no signs
    of life. `drawing_s`: how long one drawing may take in all, whatever comes. `advice`: what its errors say to check.
    """

    def __init__(
        self,
        url: str,
        *,
        bearer: str | None = None,
        certificate_sha256: str | None = None,
        authorities: str | None = None,
        silence_s: float = 10.0,
        upstream_silence_s: float = 300.0,
        drawing_s: float = 3600.0,
        advice: Advice = FIXED_ENDPOINT,
        transport: Transport | None = None,
    ) -> None:
        transport = transport or EndpointTransport(
            url, bearer=bearer, certificate_sha256=certificate_sha256, authorities=authorities, advice=advice
        )
        self._transport = transport
        self.url, self.link = transport.url, transport.trouble.link
        self._silence_s = silence_s
        self._upstream_silence_s = upstream_silence_s
        self._drawing_s = drawing_s
        self._signs_of_life = True  # until a healthcheck shows otherwise

    def __repr__(self) -> str:
        return f"<EndpointClient {self.url}>"

    def health(self, *, timeout_s: float = 3.0) -> Health:
        """How the server is.

        Raises: EndpointUnreachableError, EndpointUntrustedError, EndpointAnswerError.
        """
        tried = "ask for its health"
        transport = self._transport
        with transport.request("GET", "/healthcheck", tried=tried, timeout_s=timeout_s) as response:
            if response.status_code != 200:
                refusal = transport.refusal(response, tried)
                if not isinstance(refusal, EndpointError):
                    refusal = transport.trouble.wrong_answer(tried, str(refusal))
                raise refusal
            text = b"".join(transport.lines(response, tried, transport.within(timeout_s, tried))).decode(
                errors="replace"
            )
        health = read_health(self.link, text)
        self._signs_of_life = health.limits is not None
        return health

    def infer(
        self,
        request: GenerationRequest,
        *,
        request_id: str,
        tell: Tell,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> GeneratedImage:
        """Draws, telling every event. A lost connection is repeated once, on a fresh one, under the same id.

        Raises: JobCancelledError once `cancelled()` says so (the server is told of what it was posted),
        EndpointUnreachableError, EndpointUntrustedError, EndpointAnswerError, InvalidRequestError, BusyError,
        DrawingError.
        """
        body = json.dumps(write_request(request, request_id)).encode()
        if cancelled():
            raise JobCancelledError()
        try:
            return self._infer_once(body, request, request_id, tell, cancelled)
        except EndpointUnreachableError as error:
            lost = error
        # Not within the handler: what goes wrong from here on would pass for a consequence of the first loss.
        if cancelled():
            # The way there may be broken while the server draws on.
            raise JobCancelledError(server_knows=self.cancel(request_id))
        log.warning("connection lost, trying once more on a fresh one: %s", lost.came_back)
        self._transport.renew()
        if lost.how in ("silent", "unheard"):
            self.health(timeout_s=min(3.0, self._silence_s))  # a frozen server need not be waited for twice
        return self._infer_once(body, request, request_id, tell, cancelled)

    def cancel(self, request_id: str) -> bool:
        """Asks the server to drop a request (upstream's cannot); returns whether it was reached."""
        try:
            path = f"/requests/{quote(request_id, safe='')}"
            with self._transport.request("DELETE", path, tried="cancel the drawing", timeout_s=CANCEL_S):
                return True
        except (EndpointUnreachableError, EndpointUntrustedError) as error:
            log.warning("the server could not be told of the cancel: %s", error)
            return False

    def close(self) -> None:
        """Closes the idle connections."""
        self._transport.close()

    def _infer_once(
        self,
        body: bytes,
        request: GenerationRequest,
        request_id: str,
        tell: Tell,
        cancelled: Callable[[], bool],
    ) -> GeneratedImage:
        tried = "draw"
        silence_s = self._silence_s if self._signs_of_life else self._upstream_silence_s
        deadline = time.monotonic() + self._drawing_s

        def go_on() -> None:
            if cancelled():
                raise JobCancelledError(server_knows=self.cancel(request_id))
            if time.monotonic() > deadline:
                self.cancel(request_id)
                raise DrawingError(f"The picture was not done after {self._drawing_s:g} s.", code="TOO_SLOW")

        transport = self._transport
        with transport.request("POST", "/", tried=tried, timeout_s=silence_s, data=body) as response:
            if response.status_code != 200:
                raise transport.refusal(response, tried)
            for answer in transport.answers(response, tried, go_on):
                if answer.files or is_result(answer.content):
                    transport.drain(response)
                    result = read_result(self.link, answer.content, answer.files)
                    transport.acknowledge(response, request_id)
                    return result
                event = read_event(answer.content, request.num_inference_steps)
                if event is not None:
                    tell(event)
        raise transport.trouble.unreachable("closed", tried, "the answer broke off before the picture")
