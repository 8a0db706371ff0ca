"""Gets a Fair chain ready: adopts what runs, starts what is missing, replaces what is frozen, waits until it draws."""

import contextlib
import time
from typing import TypeGuard

from backends.away import away_error
from backends.deployment import CannotListError, FairDeployment
from backends.health_probe import HealthProbe, no_way_there
from backends.listed_fair import ListedFair
from backends.start import Start
from backends.unlisted_fair import UnlistedFair
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import EndpointError, EndpointUnreachableError, EndpointUntrustedError, ServiceError, StartError
from fair_services import Role, refuse_away


class Reconciler:
    """One try to get a chain ready. Its moves are `ListedFair`'s, or `UnlistedFair`'s where Fair cannot list."""

    def __init__(self, deployment: FairDeployment, endpoint: EndpointClient, start: Start) -> None:
        self._deployment = deployment
        self._endpoint = endpoint
        self._start = start
        self._probe = HealthProbe(endpoint, start)
        self._looked_at = 0.0

    def run(self) -> Health:
        """Returns how the inference server is, once it is ours and takes posts: healthy, or its GPU is busy.

        Raises: ServiceError saying which link failed, within the deadline.
        """
        with contextlib.suppress(CannotListError):  # raised before anything is started
            return self._run(ListedFair(self._deployment, self._probe, self._start))
        return self._run(UnlistedFair(self._deployment, self._probe, self._start))

    def _run(self, fair: ListedFair | UnlistedFair) -> Health:
        answer = self._probe.ask()
        if not self._is_ours(answer) or answer.broken:
            self._start.tell("Looking for the machine that draws")
            refuse_away(self._deployment.services.values())
            fair.start_missing(answer)
        health = self._wait_until_healthy(fair)
        return self._wait_until_healthy(fair) if fair.stop_doubles() else health

    def _is_ours(self, answer: Health | EndpointError) -> TypeGuard[Health]:
        """Whether our own inference server answered; upstream's cannot tell and is taken for it."""
        ours = self._deployment.services[Role.INFERENCE].fingerprint
        return isinstance(answer, Health) and answer.fingerprint in (None, ours)

    def _wait_until_healthy(self, fair: ListedFair | UnlistedFair) -> Health:
        while True:
            answer = self._probe.ask()
            if self._is_ours(answer):
                self._start.end_silence()
                if answer.takes_posts:
                    return answer
                if answer.absence:
                    raise away_error("Inference server", "find it healthy", answer.absence)
                if answer.broken:
                    raise _failed_to_load(answer, fair.how_to_stop())
                self._start.tell(answer.loading_sentence)
                if answer.is_downloading:
                    self._start.begin_anew()
            elif isinstance(answer, EndpointUntrustedError):
                raise fair.untrusted(answer)
            else:
                if time.monotonic() - self._looked_at > self._start.timing.look_s:
                    self._looked_at = time.monotonic()
                    fair.look_after()
                if isinstance(answer, EndpointUnreachableError):
                    self._wait_for_answer(fair, answer)
                else:
                    fair.wait_for_other(answer)
            if self._start.left_s <= 0:
                raise self._too_late(answer)
            time.sleep(self._start.timing.poll_s)

    def _wait_for_answer(self, fair: ListedFair | UnlistedFair, answer: EndpointUnreachableError) -> None:
        """Nobody answers. After long silence the next suspect is replaced, the inference server first.

        Raises: StartError where the way to the services fails, not a service.
        """
        fair.without_answer(answer)
        silent_s = self._start.silent_s
        if answer.how == "unheard":  # tells nothing of the services, so a short one counts for nothing
            silent_s = min(silent_s, self._probe.unheard.seconds)
        if silent_s <= fair.tolerated_silence_s(answer):
            return
        self._start.end_silence()
        if answer.how == "unheard":
            raise no_way_there(answer)
        suspects = [role for role in self._suspects(answer) if fair.may_be_frozen(role)]
        if suspects:
            fair.replace(suspects[0], answer)

    def _suspects(self, answer: EndpointUnreachableError) -> list[Role]:
        """Whom to suspect, in order. A refused public port means that the tunnel's own ends have lost each other."""
        tunnel = [role for role in (Role.TUNNEL_CLIENT, Role.TUNNEL_SERVER) if role in self._deployment.services]
        if self._deployment.tunnel_in_use:
            tunnel.remove(Role.TUNNEL_SERVER)
        if answer.how == "refused" and tunnel:
            return tunnel
        return [Role.INFERENCE] if answer.how == "closed" else [Role.INFERENCE, *tunnel]

    def _too_late(self, answer: Health | EndpointError) -> ServiceError:
        timeout_s = self._start.timing.timeout_s
        if self._start.last_fault:
            return self._start.last_fault
        if isinstance(answer, EndpointUnreachableError):
            if answer.how == "unheard":
                return no_way_there(answer)
            if answer.how == "refused" and Role.TUNNEL_CLIENT in self._deployment.services:
                return self._no_tunnel()
        came_back = answer.came_back if isinstance(answer, EndpointError) else f"the inference server is {answer.state}"
        if isinstance(answer, Health) and not self._is_ours(answer):
            came_back += ", and has another configuration than ours"
        return StartError(
            self._endpoint.link,
            tried=f"get a healthy answer within {timeout_s:g} s",
            came_back=came_back,
            next_step="Look at the log of the inference server and of the tunnel on their nodes, and whether another "
            "program holds a port of theirs; START_TIMEOUT_S sets this deadline.",
        )

    def _no_tunnel(self) -> StartError:
        """The public port of a tunnel opens only while its client holds on to its server."""
        services = self._deployment.services
        client, server = services[Role.TUNNEL_CLIENT].node, services[Role.TUNNEL_SERVER].node
        return StartError(
            f"Tunnel from node {client} to node {server}",
            tried=f"see its public end {self._endpoint.url} open within {self._start.timing.timeout_s:g} s",
            came_back="nobody listens there: its client has not reached its server",
            next_step=f"Check that node {client} can reach the TUNNEL_CONTROL_PORT of node {server} at its address "
            "(host_address, or TUNNEL_ADDRESS), and look at the tunnel's log on both.",
        )


def _failed_to_load(health: Health, stop_by_hand: str) -> StartError:
    """The inference server is there, its model is not. `stop_by_hand`: what to type where Fair cannot stop it."""
    return StartError(
        "Inference server",
        tried=f"load the model {health.model or ''}".rstrip(),
        came_back=health.reason or "it failed without a reason",
        next_step=f"It tries again by itself; check MODEL_ID and the inference server's log. {stop_by_hand}".rstrip(),
    )
