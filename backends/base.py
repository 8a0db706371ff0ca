"""One place that draws: the protocol that all follow, and what those with an inference endpoint share."""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.routing import BaseRoute

from backends.single_flight import SingleFlight
from backends.start import TellStage
from drawing.events import Tell
from drawing.models import Defaults, GeneratedImage, GenerationRequest, Limits
from drawing.status import BackendStatus, Kind
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import EndpointError, GpuBusyError, ServiceError, StartError

Cancelled = Callable[[], bool]
# What the deadline of a start does not cut short: this machine's own Fair server coming up, or a login, a healthcheck,
# and the last questions to Fair, a second each.
_OVERRUN_S = 30.0 + 15.0 + 15.0


class Backend(Protocol):
    """One place that draws."""

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """Gets it ready, telling the stages; returns at once when it is believed to be. Raises: ServiceError."""

    def draw(self, request: GenerationRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> GeneratedImage:
        """Draws. Raises: EndpointUnreachableError when it turns out not to be ready: `ensure` again."""

    def status(self) -> BackendStatus:
        """What is known of it now; asks nobody."""

    def routes(self) -> Sequence[BaseRoute]:
        """What the page's server answers for it."""

    def close(self) -> None:
        """Ends what this process started for it."""


class EndpointBackend:
    """A backend with one inference endpoint: one start for all who ask; the first failure ends its readiness.

    `starting`: what a start is called in the log; `timeout_s`: how long one may take. A subclass has `_get_ready`,
    which sets `_endpoint` and calls `_note`.
    """

    def __init__(self, *, kind: Kind, demo: bool, tunnel: bool, starting: str, timeout_s: float) -> None:
        self._kind, self._demo, self._tunnel = kind, demo, tunnel
        self._endpoint: EndpointClient | None = None
        self._health: Health | None = None
        self._ready = threading.Event()
        self._timeout_s = timeout_s
        self._flight = SingleFlight(self._get_ready, name=starting, overrun_s=_OVERRUN_S)

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """See `Backend`. However many ask at once: one start for all of them."""
        if not self._ready.is_set():
            self._flight.join(tell, cancelled, timeout_s=self._timeout_s)

    def draw(self, request: GenerationRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> GeneratedImage:
        """See `Backend`."""
        endpoint = self._endpoint
        if endpoint is None:
            raise StartError("Chain", tried="draw", came_back="it was never made ready", next_step="Call ensure().")
        try:
            return endpoint.infer(request, request_id=job_id, tell=tell, cancelled=cancelled)
        except (ServiceError, GpuBusyError):
            self._ready.clear()
            raise

    @property
    def ready(self) -> bool:
        """Whether it is believed to draw at once."""
        return self._ready.is_set()

    @property
    def health(self) -> Health | None:
        """How it was when it was last seen; None while nothing is known, or it has failed since."""
        seen = self._health
        return seen if seen is None or self._ready.is_set() or seen.gpu_busy else None

    def status(self) -> BackendStatus:
        """See `Backend`."""
        health = self._health
        return BackendStatus(
            kind=self._kind,
            demo=self._demo,
            tunnel=self._tunnel,
            ready=self._ready.is_set(),
            model=health.model if health else None,
            limits=(health.limits if health else None) or Limits(),
            defaults=health.defaults if health else Defaults(),
            licence=health.licence if health else "",
        )

    def answers(self) -> bool:
        """Whether its inference server can be reached now."""
        try:
            return self._endpoint is not None and bool(self._endpoint.health())
        except EndpointError:
            return False

    def cancel(self, job_id: str) -> None:
        """Tells the server, if it can be told, that nobody wants this drawing any more."""
        if self._endpoint:
            self._endpoint.cancel(job_id)

    def routes(self) -> Sequence[BaseRoute]:
        """See `Backend`. Nobody connects to this page for an endpoint elsewhere."""
        return ()

    def close(self) -> None:
        """See `Backend`."""
        if self._endpoint:
            self._endpoint.close()

    def _get_ready(self, tell: TellStage) -> None:
        raise NotImplementedError

    def _note(self, health: Health) -> None:
        """Keeps what is known now. One whose GPU is busy takes posts, but is asked again before the next one."""
        self._health = health
        if not health.gpu_busy:
            self._ready.set()
