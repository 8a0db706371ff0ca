"""Client of the inference endpoint: healthcheck, drawing with progress, cancel.

One `requests` session, kept alive. Over https the server's certificate is pinned by its SHA-256; nothing else is
trusted, no certificate authority and no environment (a `REQUESTS_CA_BUNDLE` would switch the pin off).

Source of the pinning: urllib3's `assert_fingerprint`, which works only with verification off.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from drawing import Drawing, DrawRequest
from errors import EndpointAnswerError, EndpointUnreachableError, EndpointUntrustedError, JobCancelledError, Silence
from events import Tell
from wire_format import Health, is_result, read_error, read_event, read_health, read_object, read_result, write_request

log = logging.getLogger(__name__)

ANSWER_BYTES_MAX = 64 * 1024 * 1024


class _PinnedAdapter(HTTPAdapter):
    def __init__(self, certificate_sha256: str | None) -> None:
        self._pin = certificate_sha256
        super().__init__(pool_connections=1, pool_maxsize=64)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._pin:
            kwargs["assert_fingerprint"] = self._pin
        super().init_poolmanager(*args, **kwargs)


class EndpointClient:
    """A client of one endpoint; safe to use from many threads at once.

    `url`: `http://` or `https://`, host and port. `certificate_sha256`: the only certificate to trust, hexadecimal;
    None over https means the system's authorities. `silence_s`: how long a connection may bring nothing before it
    counts as dead; a server that tells no limits (upstream's) sends no signs of life and gets `patience_s` instead.
    """

    def __init__(
        self,
        url: str,
        *,
        bearer: str | None = None,
        certificate_sha256: str | None = None,
        silence_s: float = 10.0,
        patience_s: float = 300.0,
    ) -> None:
        self.url = url.rstrip("/")
        self.link = f"Inference endpoint {self.url}"
        self._bearer = bearer
        self._pin = certificate_sha256
        self._silence_s = silence_s
        self._patience_s = patience_s
        self._signs_of_life = True  # until a healthcheck shows otherwise
        self._lock = threading.Lock()
        self._session = self._new_session()

    def __repr__(self) -> str:
        return f"<EndpointClient {self.url}>"

    def health(self, *, timeout_s: float = 3.0) -> Health:
        """How the server is.

        Raises: EndpointUnreachableError, EndpointUntrustedError, EndpointAnswerError.
        """
        tried = "ask for its health"
        with self._request("GET", "/healthcheck", tried=tried, timeout_s=timeout_s) as response:
            text = b"".join(self._lines(response, tried)).decode(errors="replace")
            if response.status_code == 401:
                raise read_error(self.link, _error_of(text), status=401)
            if not response.ok:
                raise EndpointAnswerError(
                    self.link,
                    tried=tried,
                    came_back=f"it answered {response.status_code} {text[:200]}",
                    next_step="Check that it is the inference server's address.",
                )
        health = read_health(self.link, text)
        self._signs_of_life = health.limits is not None
        return health

    def infer(
        self,
        request: DrawRequest,
        *,
        request_id: str,
        tell: Tell,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Drawing:
        """Draws, telling every event. A lost connection is repeated once, on a fresh one, under the same id.

        Raises: JobCancelledError once `cancelled()` says so (the server is told), EndpointUnreachableError,
        EndpointUntrustedError, EndpointAnswerError, InvalidRequestError, BusyError, DrawingError.
        """
        body = json.dumps(write_request(request, request_id)).encode()
        try:
            return self._infer_once(body, request, request_id, tell, cancelled)
        except EndpointUnreachableError as error:
            log.warning("connection lost, trying once more on a fresh one: %s", error.came_back)
            self._renew()
            if error.how == "silent":
                self.health()  # a frozen server need not be waited for twice
        return self._infer_once(body, request, request_id, tell, cancelled)

    def cancel(self, request_id: str) -> None:
        """Asks the server to drop a request; best effort (upstream's server cannot)."""
        try:
            path = f"/requests/{quote(request_id, safe='')}"
            with self._request("DELETE", path, tried="cancel the drawing", timeout_s=3.0):
                pass
        except (EndpointUnreachableError, EndpointUntrustedError) as error:
            log.warning("the server could not be told of the cancel: %s", error)

    def close(self) -> None:
        """Closes the idle connections."""
        self._session.close()

    def _infer_once(
        self,
        body: bytes,
        request: DrawRequest,
        request_id: str,
        tell: Tell,
        cancelled: Callable[[], bool],
    ) -> Drawing:
        tried = "draw"
        patience_s = self._silence_s if self._signs_of_life else self._patience_s
        with self._request("POST", "/", tried=tried, timeout_s=patience_s, data=body) as response:
            for line in self._lines(response, tried):
                if cancelled():
                    self.cancel(request_id)
                    raise JobCancelledError("The drawing was cancelled.")
                answer = read_object(self.link, line)
                if not response.ok:
                    raise read_error(
                        self.link,
                        answer.get("$error"),
                        status=response.status_code,
                        retry_after_s=_retry_after_s(response),
                    )
                if is_result(answer):
                    return read_result(self.link, answer)
                event = read_event(answer, request.num_inference_steps)
                if event is not None:
                    tell(event)
        raise self._unreachable("closed", tried, "the answer broke off before the picture")

    @contextlib.contextmanager
    def _request(
        self, method: str, path: str, *, tried: str, timeout_s: float, data: bytes | None = None
    ) -> Iterator[requests.Response]:
        """A streamed response, closed afterwards; every transport error typed."""
        headers = {"Content-Type": "application/json"} if data else {}
        try:
            response = self._session.request(
                method,
                self.url + path,
                data=data,
                headers=headers,
                timeout=(min(5.0, timeout_s), timeout_s),
                stream=True,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._transport_error(tried, error) from error
        try:
            yield response
        finally:
            response.close()

    def _lines(self, response: requests.Response, tried: str) -> Iterator[bytes]:
        """The lines of a body as they come, without the empty ones; bounded in bytes."""
        parts: list[bytes] = []
        total = 0
        try:
            for chunk in response.iter_content(65536):
                total += len(chunk)
                if total > ANSWER_BYTES_MAX:
                    raise EndpointAnswerError(
                        self.link,
                        tried=tried,
                        came_back=f"more than {ANSWER_BYTES_MAX // 2**20} MB came back",
                        next_step="Check that it is an inference server.",
                    )
                *ends, rest = chunk.split(b"\n")
                for end in ends:
                    line = b"".join([*parts, end])
                    parts.clear()
                    if line.strip():
                        yield line
                parts.append(rest)
        except requests.RequestException as error:
            raise self._transport_error(tried, error) from error
        if b"".join(parts).strip():
            yield b"".join(parts)

    def _transport_error(
        self, tried: str, error: requests.RequestException
    ) -> EndpointUnreachableError | EndpointUntrustedError:
        text = _chain(error)
        if "Fingerprints did not match" in text or "WRONG_VERSION_NUMBER" in text or "CERTIFICATE_VERIFY" in text:
            return EndpointUntrustedError(
                self.link,
                tried=tried,
                came_back="what answers there does not hold the certificate that belongs to our ENDPOINT_SECRET",
                next_step="If the secret was changed, let the services of the old one be replaced; otherwise somebody "
                "else's service listens there.",
            )
        if isinstance(error, requests.Timeout) or "timed out" in text:
            return self._unreachable("silent", tried, "nothing came for as long as we wait")
        if "refused" in text or "unreachable" in text or "resolve" in text or "Name or service" in text:
            return self._unreachable("refused", tried, "nobody listens there")
        return self._unreachable("closed", tried, "the connection was closed")

    def _unreachable(self, how: Silence, tried: str, came_back: str) -> EndpointUnreachableError:
        return EndpointUnreachableError(
            self.link,
            how=how,
            tried=tried,
            came_back=came_back,
            next_step="Check that the inference server and the tunnel run.",
        )

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.headers["Accept-Encoding"] = "identity"
        if self._bearer:
            session.headers["Authorization"] = f"Bearer {self._bearer}"
        if self._pin:
            session.verify = False
        adapter = _PinnedAdapter(self._pin)
        session.mount("https://", adapter)
        session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=64))
        return session

    def _renew(self) -> None:
        """Leaves the old connections to those who still use them."""
        with self._lock:
            self._session = self._new_session()


def _chain(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)


def _error_of(text: str) -> Any:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer.get("$error") if isinstance(answer, dict) else None


def _retry_after_s(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 3600.0) if value.isdigit() else 5.0
