"""What a failed start is called: the link of the chain, what came back, and what to do about it."""

from collections.abc import Iterable, Mapping

from endpoint.wire_format import Health
from errors import EndpointUnreachableError, PortTakenError, StartError
from fair_api.models import ProgramEnd
from fair_services import Role, Service


def service_ended(service: Service, end: ProgramEnd, *, port_taken: bool) -> StartError:
    """A container ended instead of serving. `port_taken`: since something else holds its port."""
    kind = PortTakenError if port_taken else StartError
    return kind(
        f"{service.role} on node {service.node}",
        tried=f"start the image {service.spec.image}",
        came_back=str(end),
        next_step="Check the image's name, that the node can run it, and that its ports are free.",
    )


def failed_to_load(health: Health, stop_by_hand: str = "") -> StartError:
    """The inference server is there, its model is not. `stop_by_hand`: what to type where Fair cannot stop it."""
    return StartError(
        "Inference server",
        tried=f"load the model {health.model or ''}".rstrip(),
        came_back=health.reason or "it failed without a reason",
        next_step=f"It tries again by itself; check MODEL_ID and the inference server's log. {stop_by_hand}".rstrip(),
    )


def too_late(link: str, timeout_s: float, came_back: str) -> StartError:
    """The deadline of the whole start has passed."""
    return StartError(
        link,
        tried=f"get a healthy answer within {timeout_s:g} s",
        came_back=came_back,
        next_step="Look at the log of the inference server and of the tunnel on their nodes, and whether another "
        "program holds a port of theirs; START_TIMEOUT_S sets this deadline.",
    )


def no_way_there(answer: EndpointUnreachableError) -> StartError:
    """Not the services are to blame, but the way to them: an unknown name, a firewall. Only the maintainer mends it."""
    return StartError(answer.link, tried=answer.tried, came_back=answer.came_back, next_step=answer.next_step)


def no_tunnel(url: str, services: Mapping[Role, Service], timeout_s: float) -> StartError:
    """The public port of a tunnel opens only while its client holds on to its server."""
    client, server = services[Role.TUNNEL_CLIENT].node, services[Role.TUNNEL_SERVER].node
    return StartError(
        f"Tunnel from node {client} to node {server}",
        tried=f"see its public end {url} open within {timeout_s:g} s",
        came_back="nobody listens there: its client has not reached its server",
        next_step=f"Check that node {client} can reach the TUNNEL_CONTROL_PORT of node {server} at its address "
        "(host_address, or TUNNEL_ADDRESS), and look at the log of rathole on both.",
    )


def cannot_stop(link: str, services: Mapping[Role, Service], came_back: str) -> StartError:
    """What runs is of no use, and only the maintainer can stop it."""
    return StartError(
        link,
        tried="get an answer from what runs already",
        came_back=f"{came_back}, and this Fair server cannot stop containers",
        next_step=how_to_stop(services.values()),
    )


def how_to_stop(services: Iterable[Service]) -> str:
    """What the maintainer types where Fair cannot stop containers."""
    nodes = sorted({service.node_id for service in services})
    commands = "; ".join(f"fair node {node_id} list, then fair node {node_id} kill CONTAINER" for node_id in nodes)
    return f"Stop what runs by hand: {commands}. The next prompt starts it again."
