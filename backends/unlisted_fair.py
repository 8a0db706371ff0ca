"""How to start a chain where Fair cannot list containers (the hosted one): the services' ports tell what runs.

The host ports of the inference server and of the tunnel server are the locks: "port taken" means that it runs already.
The tunnel client has no port: it is started only while the public port stays closed, since two clients of one service
displace each other for ever. Where something has to be stopped, the error holds the commands to type.
"""

import time
from collections.abc import Iterable

from backends.deployment import FairDeployment, port_is_taken
from backends.health_probe import HealthProbe
from backends.start import Start
from endpoint.wire_format import Health
from errors import EndpointError, EndpointUnreachableError, EndpointUntrustedError, StartError
from fair_services import Role, Service

_TRIES_AT_TAKEN_PORT = 3


class UnlistedFair:
    """A start's moves on a Fair that cannot list; the same methods as `ListedFair`."""

    def __init__(self, deployment: FairDeployment, probe: HealthProbe, start: Start) -> None:
        self._deployment = deployment
        self._probe = probe
        self._start = start
        self._port_taken_at: float | None = None  # when something held the inference server's port
        self._tries_left = _TRIES_AT_TAKEN_PORT

    def start_missing(self, answer: Health | EndpointError) -> None:
        """Starts all but the tunnel client: what runs already holds its port."""
        self._launch(*(role for role in self._deployment.services if role is not Role.TUNNEL_CLIENT))

    def look_after(self) -> None:
        """Forgets what found its port taken. Raises: StartError for any other end."""
        for role, end in (self._start.ask_once(self._deployment.ended) or {}).items():
            if not port_is_taken(end.last_words):
                raise self._deployment.failure(role, end)
            self._deployment.forget(role, end)
            if role is Role.INFERENCE:
                self._port_taken_at = time.monotonic()

    def without_answer(self, answer: EndpointUnreachableError) -> None:
        """Starts the tunnel client or the inference server where the kind of silence tells that it does not run."""
        self._start_client_if_shut(answer)
        self._start_server_if_gone(answer)

    def wait_for_other(self, answer: Health | EndpointError) -> None:
        """Somebody else answers. Raises: StartError after `silence_s`, with the commands that stop that one."""
        if self._start.silent_s > self._start.timing.silence_s:
            came_back = "one with another configuration answers" if isinstance(answer, Health) else answer.came_back
            raise self._cannot_stop(came_back)

    def untrusted(self, answer: EndpointUntrustedError) -> StartError:
        """The error for an endpoint that is not ours: services of an older secret, perhaps."""
        return self._cannot_stop(answer.came_back)

    def tolerated_silence_s(self, answer: EndpointUnreachableError) -> float:
        """How long nothing may answer: a closed connection, or none, may mean that a node still fetches an image."""
        timing = self._start.timing
        return timing.fetching_s if answer.how in ("closed", "unheard") else timing.silence_s

    def may_be_frozen(self, role: Role) -> bool:
        """Not what this start has launched: it may take long until it answers."""
        return role not in self._deployment.started

    def replace(self, role: Role, answer: EndpointUnreachableError) -> None:
        """Raises: StartError: what seems frozen has to be stopped by hand."""
        lost = ": the tunnel's client has not reached its server" if role is Role.TUNNEL_CLIENT else ""
        raise self._cannot_stop(answer.came_back + lost)

    def how_to_stop(self) -> str:
        """What the maintainer has to type to stop the inference server."""
        return how_to_stop([self._deployment.services[Role.INFERENCE]])

    def stop_doubles(self) -> bool:
        """Nothing can be started twice: the ports are the locks."""
        return False

    def _launch(self, *roles: Role) -> None:
        self._deployment.start(roles, listed=False)

    def _start_client_if_shut(self, answer: EndpointUnreachableError) -> None:
        """Starts the tunnel's client, unless one of ours runs.

        A refusal is sure to mean that none does; no answer at all may be the network's, and is waited for longer.
        """
        if Role.TUNNEL_CLIENT not in self._deployment.services or Role.TUNNEL_CLIENT in self._deployment.started:
            return
        timing = self._start.timing
        after_s = timing.client_after_s if answer.how == "refused" else max(timing.client_after_s, timing.silence_s)
        if self._probe.shut.seconds <= after_s:
            return
        runs = self._start.ask_once(lambda: self._deployment.still_runs(Role.TUNNEL_CLIENT))
        self._probe.shut.observe(False)  # the next look is as long away
        if runs is False:
            self._launch(Role.TUNNEL_CLIENT)

    def _start_server_if_gone(self, answer: EndpointUnreachableError) -> None:
        """Starts the inference server again where its port was taken, and yet the tunnel finds no server there."""
        taken_at = self._port_taken_at
        if taken_at is None or time.monotonic() - taken_at <= self._start.timing.client_after_s:
            return
        if answer.how == "closed" and self._tries_left:
            self._port_taken_at, self._tries_left = None, self._tries_left - 1
            self._launch(Role.INFERENCE)

    def _cannot_stop(self, came_back: str) -> StartError:
        return StartError(
            self._probe.endpoint.link,
            tried="get an answer from what runs already",
            came_back=f"{came_back}, and this Fair server cannot stop containers",
            next_step=how_to_stop(self._deployment.services.values()),
        )


def how_to_stop(services: Iterable[Service]) -> str:
    """The commands that stop these by hand."""
    nodes = sorted({service.node_id for service in services})
    commands = "; ".join(f"fair node {node_id} list, then fair node {node_id} kill CONTAINER" for node_id in nodes)
    return f"Stop what runs by hand: {commands}. The next prompt starts it again."
