"""What runs on Fair: the inference server, the tunnel's server and its client; and what of it is missing.

Settings and secrets reach a container by file (Fair passes no environment): `/app/endpoint.json` for the inference
server, `/app/config.toml` for the tunnel's ends. A container carries its role, deployment and fingerprint as labels, so
that a restarted Space knows its own again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from endpoint.credentials import Credentials
from errors import FairError, StartError, SupersededError
from fair_api.models import Container, ContainerSpec, Node
from network import tunnel
from network.addresses import free_ports, is_host
from settings import DEFAULT_PORTS, InferenceConfig, Tls

CONFIG_OF_INFERENCE = "/app/endpoint.json"
CONTAINER_PORT = 8000


class Role(StrEnum):
    """What a container is for."""

    INFERENCE = "inference"
    TUNNEL_SERVER = "tunnel-server"
    TUNNEL_CLIENT = "tunnel-client"

    @property
    def words(self) -> str:
        """The role as a visitor may read it."""
        return {"inference": "the picture server", "tunnel-server": "the tunnel", "tunnel-client": "the tunnel"}[self]


@dataclass(frozen=True)
class ChainSettings:
    """A Fair chain's own part of the settings. `tunnel_node` None: no tunnel.

    A port of 0 stands for a free one (where all nodes are this machine). `inference`: what the inference server is
    told, unless its image is not `configurable`: upstream's takes no endpoint.json. `other_boxes`: the nodes of the
    deployment's other chains, with the public port of each; the tunnel's server is one for all of them. `tls`:
    `public` leaves TLS to what stands in front of the inference server, at `tls_port` of its node.
    """

    inference_node: str
    inference_image: str
    deployment: str
    tunnel_node: str | None = None
    tunnel_address: str | None = None
    tunnel_image: str = tunnel.IMAGE
    inference_host_port: int = DEFAULT_PORTS["inference_host_port"]
    tunnel_control_port: int = DEFAULT_PORTS["tunnel_control_port"]
    tunnel_public_port: int = DEFAULT_PORTS["tunnel_public_port"]
    tls: Tls = "pinned"
    tls_port: int | None = None
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    configurable: bool = True
    other_boxes: Mapping[str, int] = field(default_factory=dict)

    @property
    def box_port(self) -> int:
        """The inference node's port that drawings are sent to."""
        return self.tls_port or self.inference_host_port

    @property
    def tunnel_service(self) -> str:
        """What the tunnel calls the way to this chain's inference server."""
        return self.inference_node if self.other_boxes else tunnel.SERVICE

    @property
    def public_ports(self) -> dict[str, int]:
        """The tunnel's public port of each service, in an order that is the same for every box."""
        return dict(sorted({**self.other_boxes, self.tunnel_service: self.tunnel_public_port}.items()))

    def with_ports(self) -> "ChainSettings":
        """The same with a free port in each place of a 0."""
        inference, control, public = free_ports(3)
        return replace(
            self,
            inference_host_port=self.inference_host_port or inference,
            tunnel_control_port=self.tunnel_control_port or control,
            tunnel_public_port=self.tunnel_public_port or public,
        )


@dataclass(frozen=True)
class Service:
    """One container that the chain needs, and its node.

    `node`: the node's name; `node_id`: what the command `fair node` takes; `node_away`: Fair does not reach it.
    """

    role: Role
    node: str
    node_id: str
    spec: ContainerSpec
    fingerprint: str
    node_away: bool = False


@dataclass(frozen=True)
class Plan:
    """What to do: delete `replace`, start `start`; `adopt` runs already as it should."""

    start: tuple[Role, ...]
    replace: tuple[tuple[Role, Container], ...]
    adopt: tuple[tuple[Role, Container], ...]


def address_of(chain: ChainSettings, node: Node) -> str:
    """Where the chain's endpoint, on this node, is reached from outside.

    Raises: FairError when no setting says so and Fair tells no address, or one that is none.
    """
    address = chain.tunnel_address or node.host_address
    if address and (chain.tunnel_address or is_host(address)):
        return address
    raise FairError(
        tried=f"learn the address of the node {node.name}",
        came_back=f"Fair tells {address!r}, which is no host name and no IP address"
        if address
        else "Fair does not tell it",
        next_step="Set TUNNEL_ADDRESS to the address under which that machine is reached from outside.",
        lasting=True,
    )


def chain_services(
    chain: ChainSettings, credentials: Credentials, inference_node: Node, tunnel_node: Node | None, address: str
) -> dict[Role, Service]:
    """The services of a chain. `address`: where the tunnel's server is reached from outside."""
    services = [_inference_server(chain, credentials, inference_node)]
    if tunnel_node is not None:
        services.append(_tunnel_server(chain, credentials, tunnel_node, address))
        services.append(_tunnel_client(chain, credentials, inference_node, address))
    return {service.role: service for service in services}


def plan(
    services: Mapping[Role, Service],
    deployment: str,
    containers: Mapping[str, Sequence[Container]],
    generation: str = "",
) -> Plan:
    """What is missing, given the `containers` of each node.

    What runs with our fingerprint is adopted; another fingerprint of our deployment is replaced. `generation`: this
    process's; empty: every other one counts as older.
    Raises: StartError when a node is away, or when another deployment's container is in the place of a missing one;
    SupersededError when a process of our deployment that is newer than this one has started other services.
    """
    start: list[Role] = []
    replaced: list[tuple[Role, Container]] = []
    adopted: list[tuple[Role, Container]] = []
    for role, service in services.items():
        rows = [row for row in containers[service.node] if row.role == role and row.status != "ended"]
        own = [row for row in rows if row.deployment == deployment]
        _refuse_unreachable(service, own)
        fitting = [row for row in own if row.fingerprint == service.fingerprint]
        refuse_newer([row for row in own if row not in fitting], service.node, deployment, generation)
        replaced.extend((role, row) for row in own if row not in fitting[:1])
        adopted.extend((role, row) for row in fitting[:1])
        if not fitting:
            _refuse_foreign(service, [row for row in rows if row.deployment != deployment])
            start.append(role)
    return Plan(tuple(start), tuple(replaced), tuple(adopted))


def strays(
    services: Mapping[Role, Service],
    deployment: str,
    containers: Mapping[str, Sequence[Container]],
    other_boxes: Iterable[str] = (),
) -> list[tuple[str, Container]]:
    """Node and container of what runs of our deployment where the settings, changed since, do not want it any more.

    A tunnel client that was left behind on another node would displace the new one for ever. `other_boxes`: the nodes
    of the deployment's other chains, which have what this chain has on its own.
    """
    wanted = {(service.node, str(role)) for role, service in services.items()}
    wanted |= {(box, str(role)) for box in other_boxes for role in services if role is not Role.TUNNEL_SERVER}
    return [
        (node, row)
        for node, rows in containers.items()
        for row in rows
        if row.deployment == deployment and row.alive and row.role in list(Role) and (node, row.role) not in wanted
    ]


def refuse_newer(rows: Iterable[Container], node: str, deployment: str, generation: str) -> None:
    """Raises: SupersededError when one of our deployment's containers is of a newer process than this one."""
    for row in rows:
        if generation and row.is_newer_than(generation):
            raise SupersededError(
                f"Deployment {deployment}",
                tried=f"look at {row.role} on node {node}",
                came_back=f"a newer process of this deployment has started it (container {row.id})",
                next_step="Nothing has to be done where this Space was just started anew: load the page again. Else "
                "give this process another DEPLOYMENT, or restart it.",
            )


def refuse_away(services: Iterable[Service]) -> None:
    """Raises: StartError naming the first node that Fair does not reach: programs for it would only queue up."""
    for service in services:
        _refuse_unreachable(service, ())


def _refuse_unreachable(service: Service, rows: Sequence[Container]) -> None:
    if service.node_away or any(row.status == "unreachable" for row in rows):
        raise StartError(
            f"Node {service.node}",
            tried=f"reach {service.role.words} on it",
            came_back="Fair says that the node is not ready",
            next_step="Switch the machine on, or check its network and its Fair agent; nothing was started.",
        )


def _refuse_foreign(service: Service, rows: Sequence[Container]) -> None:
    if rows:
        raise StartError(
            f"Node {service.node}",
            tried=f"start {service.role.words} on it",
            came_back=f"the deployment {rows[0].deployment!r} runs its own {service.role} there "
            f"(container {rows[0].id}, image {rows[0].image})",
            next_step="Stop that container, or give this Space another node.",
        )


def _labelled(role: Role, node: Node, deployment: str, spec: ContainerSpec) -> Service:
    parts = json.dumps([role, node.id, dataclasses.asdict(spec)], sort_keys=True)
    fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:16]
    labels = {"role": str(role), "deployment": deployment, "fingerprint": fingerprint}
    return Service(role, node.name, node.id, replace(spec, labels=labels), fingerprint, node.away)


def _inference_server(chain: ChainSettings, credentials: Credentials, node: Node) -> Service:
    spec = ContainerSpec(
        image=chain.inference_image,
        runtime="nvidia",
        ports=[(chain.inference_host_port, CONTAINER_PORT)],
    )
    if not chain.configurable:
        return _labelled(Role.INFERENCE, node, chain.deployment, spec)
    config = chain.inference.model_dump(exclude_none=True) | {"deployment": chain.deployment}
    if chain.tls != "none":
        config["bearer"] = credentials.bearer
    if chain.tls == "pinned":
        config |= {name: getattr(credentials, name) for name in ("tls_key", "tls_certificate")}
    spec = replace(spec, command=["--config", CONFIG_OF_INFERENCE], files=_endpoint_json(config))
    service = _labelled(Role.INFERENCE, node, chain.deployment, spec)
    files = _endpoint_json(config | {"fingerprint": service.fingerprint})
    return replace(service, spec=replace(service.spec, files=files))


def _endpoint_json(config: Mapping[str, Any]) -> dict[str, str]:
    return {CONFIG_OF_INFERENCE: json.dumps(config, sort_keys=True)}


def _tunnel_server(chain: ChainSettings, credentials: Credentials, node: Node, address: str) -> Service:
    config = tunnel.server_config(
        address,
        control_port=chain.tunnel_control_port,
        public_ports=chain.public_ports,
        token=credentials.tunnel_token,
    )
    return _labelled(Role.TUNNEL_SERVER, node, chain.deployment, _tunnel_end(chain.tunnel_image, "--server", config))


def _tunnel_client(chain: ChainSettings, credentials: Credentials, node: Node, address: str) -> Service:
    ports = {"control_port": chain.tunnel_control_port, "local_port": chain.box_port}
    config = tunnel.client_config(address, **ports, token=credentials.tunnel_token, service=chain.tunnel_service)
    return _labelled(Role.TUNNEL_CLIENT, node, chain.deployment, _tunnel_end(chain.tunnel_image, "--client", config))


def _tunnel_end(image: str, mode: str, config: str) -> ContainerSpec:
    files = {tunnel.CONFIG_FILE: config}
    return ContainerSpec(image=image, command=[mode, tunnel.CONFIG_FILE], files=files, network="host")
