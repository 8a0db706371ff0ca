"""The places that draw: a Fair chain, a fixed endpoint.

Each takes its own part of the settings and holds its own state; nothing is global. Which one serves is decided in
backend_choice.py.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from addresses import host_port, is_loopback
from bring_up import BringUp, TellStage, Timing
from chain_at_fair import port_is_taken
from containers import Node
from credentials import Credentials, new_secret
from drawing import Defaults, Drawing, DrawRequest, Limits
from endpoint_client import EndpointClient
from errors import (
    EndpointError,
    EndpointUnreachableError,
    FairError,
    GpuBusyError,
    ServiceError,
    SettingsError,
    StartError,
)
from events import Tell
from fair_client import DeadlineFairClient
from fair_services import ChainSettings, chain_services
from single_flight import SingleFlight
from wire_format import Health

Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class BackendStatus:
    """What is known of a backend without asking anybody.

    `demo`: the built-in model on this machine's own CPU; `tunnel`: a tunnel is in the chain; `ready`: a prompt is no
    cold start; `model`: as the server names it, None until seen.
    """

    kind: Literal["local", "fair", "endpoint"]
    demo: bool
    tunnel: bool
    ready: bool
    model: str | None
    limits: Limits
    defaults: Defaults


class Backend(Protocol):
    """One place that draws."""

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """Gets it ready, telling the stages; returns at once when it is believed to be. Raises: ServiceError."""

    def draw(self, request: DrawRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> Drawing:
        """Draws. Raises: EndpointUnreachableError when it turns out not to be ready: `ensure` again."""

    def status(self) -> BackendStatus:
        """What is known of it now; asks nobody."""

    def close(self) -> None:
        """Ends what this process started for it."""


class FairChain:
    """Inference server and tunnel as containers that a Fair server runs; launched lazily, adopted where they run.

    `connect` gives a logged-in client (and starts the Fair server where that is ours, too).
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
        self._chain = chain
        self._placed: ChainSettings | None = None  # the chain with its ports
        self._connect = connect
        self._close = close
        self._kind = kind
        self._timing = timing
        self._secret_is_given = secret is not None
        self._credentials = Credentials.from_secret(secret or new_secret())
        self._endpoint: EndpointClient | None = None
        self._health: Health | None = None
        self._ready = threading.Event()
        self._flight = SingleFlight(self._bring_up, name="getting ready")

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """See `Backend`. However many ask at once: one start for all of them."""
        if not self._ready.is_set():
            self._flight.join(tell, cancelled, timeout_s=self._timing.timeout_s + 90)

    def draw(self, request: DrawRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> Drawing:
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
        demo = self._kind == "local" and self._chain.model_id is None
        return _status(
            self._kind, demo, self._chain.tunnel_node is not None, ready=self._ready.is_set(), health=self._health
        )

    def close(self) -> None:
        """See `Backend`. Containers on a Fair server that is not ours run on: another process may adopt them."""
        if self._endpoint:
            self._endpoint.close()
        self._close()

    def _bring_up(self, tell: TellStage) -> None:
        if self._is_up():
            return
        tell("Signing in to the machine that draws" if self._kind == "fair" else "Getting this machine ready to draw")
        fair = self._connect()
        # Free ports are looked for after that: a Fair server that begins to listen now may take one of them.
        chain = self._placed = self._placed or self._chain.with_ports()
        inference_node = fair.node(chain.inference_node)
        tunnel_node = fair.node(chain.tunnel_node) if chain.tunnel_node else None
        address = self._address(tunnel_node or inference_node)
        self._require_secret(address, inference_node.host_address)
        services = chain_services(chain, self._credentials, inference_node, tunnel_node, address)
        port = chain.tunnel_public_port if tunnel_node else chain.inference_host_port
        endpoint = self._new_endpoint(address, port)
        if self._endpoint is None or self._endpoint.url != endpoint.url:  # a node may come back with another address
            self._endpoint = endpoint
        bring_up = BringUp(fair, services, self._endpoint, chain.deployment, tell, self._timing)
        try:
            health = bring_up.run()
        except StartError as error:
            if port_is_taken(str(error)):
                self._placed = None  # where the ports are of our choosing, the next start takes others
            raise
        self._note(health)

    def _note(self, health: Health) -> None:
        """Keeps what is known now. One whose GPU is busy takes posts, but is asked again before the next one."""
        self._health = health
        if not health.gpu_busy:
            self._ready.set()

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

    def _address(self, node: Node) -> str:
        """Where the endpoint is reached from outside."""
        address = self._chain.tunnel_address or node.host_address
        if not address:
            raise FairError(
                tried=f"learn the address of the node {node.name}",
                came_back="Fair does not tell it",
                next_step="Set TUNNEL_ADDRESS to the address under which that machine is reached from outside.",
            )
        return address

    def _require_secret(self, *addresses: str | None) -> None:
        far = next((address for address in addresses if address and not is_loopback(address)), None)
        if far and not self._secret_is_given:
            raise SettingsError(
                f"The chain leads to another machine ({far}), so ENDPOINT_SECRET is required. "
                "Set it to at least 32 random bytes as text."
            )

    def _new_endpoint(self, address: str, port: int) -> EndpointClient:
        if self._chain.tls == "none":
            url = f"http://{host_port(address, port)}"
            return EndpointClient(url, silence_s=self._timing.silence_s, patience_s=self._timing.timeout_s)
        return EndpointClient(
            f"https://{host_port(address, port)}",
            bearer=self._credentials.bearer,
            certificate_sha256=self._credentials.certificate_sha256,
            silence_s=self._timing.silence_s,
        )


class FixedEndpoint:
    """An inference server that somebody else keeps running. Nothing is started or stopped."""

    def __init__(self, endpoint: EndpointClient, *, timeout_s: float, refused_s: float = 10.0) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._refused_s = refused_s
        self._health: Health | None = None
        self._ready = threading.Event()
        self._flight = SingleFlight(self._wait_until_healthy, name="reaching the endpoint")

    def ensure(self, tell: Tell, cancelled: Cancelled) -> None:
        """See `Backend`: waits while the model loads; `refused_s` seconds while nobody answers."""
        if not self._ready.is_set():
            self._flight.join(tell, cancelled, timeout_s=self._timeout_s + 90)

    def draw(self, request: DrawRequest, *, job_id: str, tell: Tell, cancelled: Cancelled) -> Drawing:
        """See `Backend`."""
        try:
            return self._endpoint.infer(request, request_id=job_id, tell=tell, cancelled=cancelled)
        except (ServiceError, GpuBusyError):
            self._ready.clear()
            raise

    def status(self) -> BackendStatus:
        """See `Backend`."""
        return _status("endpoint", False, False, ready=self._ready.is_set(), health=self._health)

    def close(self) -> None:
        """See `Backend`."""
        self._endpoint.close()

    def _wait_until_healthy(self, tell: TellStage) -> None:
        tell("Reaching the picture server")
        begin = time.monotonic()
        while True:
            came_back = "its model is still loading"
            try:
                health = self._endpoint.health()
                if health.takes_posts:
                    self._health = health
                    if not health.gpu_busy:  # else it is asked again before the next drawing
                        self._ready.set()
                    return
                if health.state == "failed":
                    came_back = health.reason or "its model failed to load"
                    break
                tell("Loading the model")
            except EndpointUnreachableError:
                if time.monotonic() - begin > min(self._refused_s, self._timeout_s):
                    raise
            if time.monotonic() - begin > self._timeout_s:
                break
            time.sleep(0.25)
        raise StartError(
            self._endpoint.link,
            tried=f"find it healthy within {self._timeout_s:g} s",
            came_back=came_back,
            next_step="See the inference server's log.",
        )


def _status(
    kind: Literal["local", "fair", "endpoint"], demo: bool, tunnel: bool, *, ready: bool, health: Health | None
) -> BackendStatus:
    return BackendStatus(
        kind=kind,
        demo=demo,
        tunnel=tunnel,
        ready=ready,
        model=health.model if health else None,
        limits=(health.limits if health else None) or Limits(),
        defaults=health.defaults if health else Defaults(),
    )
