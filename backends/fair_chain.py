"""A chain that Fair runs: inference server and tunnel as containers, launched when they are first needed."""

from collections.abc import Callable
from typing import Literal

from backends.base import EndpointBackend
from backends.deployment import FairDeployment, SharedTunnel
from backends.reconcile import Reconciler
from backends.start import Start, TellStage, Timing
from endpoint.credentials import Credentials, new_secret
from endpoint.transport_errors import Advice
from endpoint_client import EndpointClient
from errors import EndpointError, PortTakenError, SettingsError, SupersededError
from fair_api.client import DeadlineFairClient
from fair_api.models import Node, Program
from fair_services import ChainSettings, address_of, chain_services
from network.addresses import host_port, is_loopback
from settings import HOW_TO_MAKE_ONE


class FairChain(EndpointBackend):
    """Inference server and tunnel as containers that a Fair server runs; launched lazily, adopted where they run.

    `connect` gives a logged-in client (and starts the Fair server where that is ours, too). `secret`: ENDPOINT_SECRET;
    None makes one for this run, which serves as long as all is on this machine. Containers on a Fair server that is
    not ours run on after `close`: another process may adopt them. `shared`: what it has in common with the chains of
    the deployment's other boxes; `authorities`: see `EndpointClient`.
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
        shared: SharedTunnel | None = None,
        authorities: str | None = None,
    ) -> None:
        super().__init__(
            kind=kind,
            demo=kind == "local" and chain.inference.model_id is None and chain.inference.model_file is None,
            tunnel=chain.tunnel_node is not None,
            starting=f"getting {chain.inference_node} ready" if chain.other_boxes else "getting ready",
            timeout_s=timing.timeout_s,
        )
        self._chain = chain
        self._placed: ChainSettings | None = None  # the chain with its ports
        self._launched: dict[str, Program] = {}  # by fingerprint: what no later start may double
        self._superseded: SupersededError | None = None
        self._connect = connect
        self._close = close
        self._shared = shared
        self._authorities = authorities
        self._timing = timing
        self._secret_is_given = secret is not None
        self._credentials = Credentials.from_secret(secret or new_secret())

    def close(self) -> None:
        """See `Backend`."""
        super().close()
        self._close()

    def _get_ready(self, tell: TellStage) -> None:
        start = Start(tell, self._timing)
        if self._is_up():
            return
        if self._superseded:
            raise self._superseded.with_traceback(None)
        if self._kind == "fair":
            start.tell("Signing in to the machine that draws")
            fair = start.ask(self._connect)
        else:
            start.tell("Getting this machine ready to draw")
            fair = self._connect()  # has a deadline of its own: a server of ours that does not come up stays down
        fair.until = start.deadline
        try:
            self._reconcile(fair, start)
        except SupersededError as error:
            self._superseded = error  # for good: there is no way back to before the newer one
            raise
        except PortTakenError:
            self._placed = None  # where the ports are of our choosing, the next start takes others
            raise
        finally:
            fair.until = None

    def _reconcile(self, fair: DeadlineFairClient, start: Start) -> None:
        # Free ports are looked for once Fair listens: a server that began to listen after that might take one of them.
        chain = self._placed = self._placed or self._chain.with_ports()
        inference_node, tunnel_node = start.ask(lambda: self._nodes(fair))
        address = address_of(chain, tunnel_node or inference_node)
        self._require_secret(address, inference_node.host_address)
        port = chain.tunnel_public_port if tunnel_node else chain.box_port
        endpoint = self._new_endpoint(tunnel_node or inference_node, address, port)
        if self._endpoint is None or self._endpoint.url != endpoint.url:  # a node may come back with another address
            self._endpoint = endpoint
        services = chain_services(chain, self._credentials, inference_node, tunnel_node, address)
        others = start.ask(lambda: self._names_of_others(fair))
        deployment = FairDeployment(
            fair,
            services,
            chain.deployment,
            self._launched,
            start,
            other_boxes=others,
            shared=self._shared if tunnel_node else None,
        )
        self._note(Reconciler(deployment, self._endpoint, start).run())

    def _nodes(self, fair: DeadlineFairClient) -> tuple[Node, Node | None]:
        """The inference node and, if there is a tunnel, its other one."""
        chain = self._chain
        return fair.node(chain.inference_node), fair.node(chain.tunnel_node) if chain.tunnel_node else None

    def _names_of_others(self, fair: DeadlineFairClient) -> list[str]:
        """The other boxes' nodes by the names that Fair tells; without those that it does not know."""
        wanted = self._chain.other_boxes
        return [node.name for node in (fair.nodes() if wanted else ()) if {node.name, node.id} & wanted.keys()]

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
        tls = self._chain.tls
        return EndpointClient(
            f"{'http' if tls == 'none' else 'https'}://{host_port(address, port)}",
            bearer=None if tls == "none" else self._credentials.bearer,
            certificate_sha256=self._credentials.certificate_sha256 if tls == "pinned" else None,
            authorities=self._authorities,
            silence_s=self._timing.silence_s,
            upstream_silence_s=self._timing.timeout_s,
            advice=advice,
        )
