"""The places that draw: a Fair chain, a fixed endpoint.

Each takes its own part of the settings and holds its own state; nothing is global. Which one serves is decided in
choose.py.
"""

import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

from backends.reconcile import Reconciler, TellStage, Timing
from backends.single_flight import SingleFlight
from drawing.events import Tell
from drawing.models import Defaults, GeneratedImage, GenerationRequest, Limits
from drawing.status import BackendStatus, Kind
from endpoint.credentials import Credentials, new_secret
from endpoint.transport_errors import Advice
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import (
    EndpointError,
    EndpointUnreachableError,
    GpuBusyError,
    PortTakenError,
    ServiceError,
    SettingsError,
    StartError,
)
from fair_api.client import DeadlineFairClient
from fair_api.models import Node, Program
from fair_api.retry import RetryPolicy
from fair_services import ChainSettings, address_of, chain_services
from network.addresses import host_port, is_loopback
from settings import HOW_TO_MAKE_ONE

Cancelled = Callable[[], bool]
# What the deadline of a start does not cut short: this machine's own Fair server coming up, or a login, a healthcheck,
# and what is asked of Fair last, a second for each question.
_OVERRUN_S = 30.0 + 15.0 + 15.0


class Backend(Protocol):
    """One place that draws."""

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """Gets it ready, telling the stages; returns at once when it is believed to be. Raises: ServiceError."""

    def draw(self, request: GenerationRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> GeneratedImage:
        """Draws. Raises: EndpointUnreachableError when it turns out not to be ready: `ensure` again."""

    def status(self) -> BackendStatus:
        """What is known of it now; asks nobody."""

    def close(self) -> None:
        """Ends what this process started for it."""


class _OnePlace:
    """What both kinds have in common: one start for all who ask, and a readiness that ends with the first failure.

    `timeout_s`: how long a start may take. A subclass has `_get_ready`, which sets `_endpoint` and calls `_note`.
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
        )

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


class FairChain(_OnePlace):
    """Inference server and tunnel as containers that a Fair server runs; launched lazily, adopted where they run.

    `connect` gives a logged-in client (and starts the Fair server where that is ours, too). `secret`: ENDPOINT_SECRET;
    None makes one for this run, which serves as long as all is on this machine. Containers on a Fair server that is
    not ours run on after `close`: another process may adopt them.
    """

    def __init__(
        self,
        chain: ChainSettings,
        connect: Callable[[], DeadlineFairClient],
        *,
        secret: str | None,
        kind: Literal["local", "fair"],
        timing: Timing,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            kind=kind,
            demo=kind == "local" and chain.model_id is None,
            tunnel=chain.tunnel_node is not None,
            starting="getting ready",
            timeout_s=timing.timeout_s,
        )
        self._chain = chain
        self._placed: ChainSettings | None = None  # the chain with its ports
        self._launched: dict[str, Program] = {}  # by fingerprint: what no later start may double
        self._connect = connect
        self._close = close
        self._timing = timing
        self._secret_is_given = secret is not None
        self._credentials = Credentials.from_secret(secret or new_secret())

    def close(self) -> None:
        """See `Backend`."""
        super().close()
        self._close()

    def _get_ready(self, tell: TellStage) -> None:
        patience = RetryPolicy(tell, timeout_s=self._timing.timeout_s, tolerated_s=self._timing.fair_s)
        if self._is_up():
            return
        if self._kind == "fair":
            patience.tell("Signing in to the machine that draws")
            fair = patience.ask(self._connect)
        else:
            patience.tell("Getting this machine ready to draw")
            fair = self._connect()  # has a deadline of its own: a server of ours that does not come up is no hiccup
        fair.until = patience.deadline
        try:
            self._bring_up(fair, patience)
        except PortTakenError:
            self._placed = None  # where the ports are of our choosing, the next start takes others
            raise
        finally:
            fair.until = None

    def _bring_up(self, fair: DeadlineFairClient, patience: RetryPolicy) -> None:
        # Free ports are looked for once Fair listens: a server that began to listen after that might take one of them.
        chain = self._placed = self._placed or self._chain.with_ports()
        inference_node, tunnel_node = patience.ask(lambda: self._nodes(fair))
        address = address_of(chain, tunnel_node or inference_node)
        self._require_secret(address, inference_node.host_address)
        services = chain_services(chain, self._credentials, inference_node, tunnel_node, address)
        port = chain.tunnel_public_port if tunnel_node else chain.inference_host_port
        endpoint = self._new_endpoint(tunnel_node or inference_node, address, port)
        if self._endpoint is None or self._endpoint.url != endpoint.url:  # a node may come back with another address
            self._endpoint = endpoint
        tell, timing, launched = patience.tell, self._timing, self._launched
        bring_up = Reconciler(fair, services, self._endpoint, chain.deployment, tell, timing, launched, patience)
        self._note(bring_up.run())

    def _nodes(self, fair: DeadlineFairClient) -> tuple[Node, Node | None]:
        """The inference node and, if there is a tunnel, its other one."""
        chain = self._chain
        return fair.node(chain.inference_node), fair.node(chain.tunnel_node) if chain.tunnel_node else None

    def _is_up(self) -> bool:
        """Whether what took posts before does so again: then Fair need not be asked (it may be away)."""
        if self._endpoint is None or self._health is None:
            return False
        try:
            health = self._endpoint.health(timeout_s=self._timing.probe_s)
        except EndpointError:
            return False
        if not health.takes_posts or health.fingerprint != self._health.fingerprint:
            return False
        self._note(health)
        return True

    def _require_secret(self, *addresses: str | None) -> None:
        far = next((address for address in addresses if address and not is_loopback(address)), None)
        if far and not self._secret_is_given:
            raise SettingsError(
                f"The chain leads to another machine ({far}), so ENDPOINT_SECRET is required. "
                f"To make one: {HOW_TO_MAKE_ONE}"
            )

    def _new_endpoint(self, node: Node, address: str, port: int) -> EndpointClient:
        told_by_fair = f"the address that Fair tells of node {node.name} (TUNNEL_ADDRESS overrides it)"
        advice = Advice(
            runs="the inference server and the tunnel run" if self._tunnel else "the inference server runs",
            address="TUNNEL_ADDRESS" if self._chain.tunnel_address else told_by_fair,
        )
        silence_s = self._timing.silence_s
        if self._chain.tls == "none":
            url = f"http://{host_port(address, port)}"
            return EndpointClient(url, silence_s=silence_s, patience_s=self._timing.timeout_s, advice=advice)
        return EndpointClient(
            f"https://{host_port(address, port)}",
            bearer=self._credentials.bearer,
            certificate_sha256=self._credentials.certificate_sha256,
            silence_s=silence_s,
            advice=advice,
        )


class FixedEndpoint(_OnePlace):
    """An inference server that somebody else keeps running. Nothing is started or stopped.

    It may load its model for `timeout_s` seconds, and not answer at all for `refused_s`.
    """

    def __init__(self, endpoint: EndpointClient, *, timeout_s: float, refused_s: float = 10.0) -> None:
        super().__init__(
            kind="endpoint", demo=False, tunnel=False, starting="reaching the endpoint", timeout_s=timeout_s
        )
        self._endpoint = self._fixed = endpoint
        self._refused_s = refused_s

    def _get_ready(self, tell: TellStage) -> None:
        tell("Reaching the picture server")
        begin = time.monotonic()
        while True:
            try:
                health = self._fixed.health()
                if health.takes_posts:
                    self._note(health)
                    return
                if health.broken:
                    raise self._not_healthy("find it healthy", health.reason or "its model failed to load")
                tell("Loading the model")
            except EndpointUnreachableError:
                if time.monotonic() - begin > min(self._refused_s, self._timeout_s):
                    raise
            if time.monotonic() - begin > self._timeout_s:
                raise self._not_healthy(f"find it healthy within {self._timeout_s:g} s", "its model is still loading")
            time.sleep(0.25)

    def _not_healthy(self, tried: str, came_back: str) -> StartError:
        return StartError(
            self._fixed.link, tried=tried, came_back=came_back, next_step="See the inference server's log."
        )
