"""Gets a Fair chain ready: adopts what runs, starts what is missing, replaces what is frozen, waits until it draws."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.deployment import FairDeployment, port_is_taken
from backends.health_probe import HealthProbe
from backends.start_errors import (
    cannot_stop,
    failed_to_load,
    how_to_stop,
    no_tunnel,
    no_way_there,
    service_ended,
    too_late,
)
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import (
    EndpointError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    ServiceError,
    StartError,
)
from fair_api.client import DeadlineFairClient
from fair_api.models import Program
from fair_api.retry import HICCUPS_S, FaultWindow, RetryPolicy
from fair_services import Role, Service, refuse_away

log = logging.getLogger(__name__)

TellStage = Callable[[str], None]
_TRIES_AT_TAKEN_PORT = 3


@dataclass(frozen=True)
class Timing:
    """The waits of a start, in seconds.

    `silence_s`: all runs but nothing answers for so long: frozen; `fetching_s`: the same where Fair cannot list what
    runs and the inference server is not there yet; `client_after_s`: without a list, the tunnel client is started once
    the public port was closed for so long, and what had found its port taken is tried again; `stop_s`: how long a
    container may take to end; `name_s`: how long the name of the endpoint's host may be unknown; `fair_s`: how long
    Fair may fail to answer.
    """

    timeout_s: float = 300.0
    silence_s: float = 10.0
    fetching_s: float = 120.0
    client_after_s: float = 4.0
    schedule_s: float = 30.0
    stop_s: float = 30.0
    probe_s: float = 3.0
    poll_s: float = 0.05
    look_s: float = 0.5
    name_s: float = 5.0
    fair_s: float = HICCUPS_S


class Reconciler:
    """One try to get the chain ready. `services`: the chain's; `timing`: its waits.

    `launched`: what this process has launched for the chain so far, see `FairDeployment`; `patience`: with Fair, and
    the start's deadline, where the start has begun before.
    """

    def __init__(
        self,
        fair: DeadlineFairClient,
        services: dict[Role, Service],
        endpoint: EndpointClient,
        deployment: str,
        tell: TellStage,
        timing: Timing,
        launched: dict[str, Program],
        patience: RetryPolicy | None = None,
    ) -> None:
        patience = patience or RetryPolicy(tell, timeout_s=timing.timeout_s, tolerated_s=timing.fair_s)
        self._chain = FairDeployment(
            fair, services, deployment, stop_s=timing.stop_s, patience=patience, launched=launched
        )
        self._services = services
        self._endpoint = endpoint
        self._watch = HealthProbe(endpoint, probe_s=timing.probe_s, poll_s=timing.poll_s, name_s=timing.name_s)
        self._patience = patience
        self._tell = patience.tell
        self._timing = timing
        self._quiet_since = time.monotonic()
        self._hiccups = FaultWindow(timing.fair_s)
        self._looked_at = 0.0
        self._taken_at: float | None = None  # when the inference server's port was taken by something
        self._tries_left = _TRIES_AT_TAKEN_PORT

    def run(self) -> Health:
        """Returns how the inference server is, once it is ours and takes posts: healthy, or told that its GPU is busy.

        Raises: ServiceError saying which link failed, within the deadline.
        """
        answer = self._watch.ask(left_s=self._patience.left_s)
        if not self._is_ours(answer) or (isinstance(answer, Health) and answer.broken):
            self._start_missing(answer)
        health = self._wait_until_healthy()
        return self._wait_until_healthy() if self._chain.stop_doubles() else health

    # What answers

    def _is_ours(self, answer: Health | EndpointError) -> bool:
        """Whether our own inference server answered; upstream's cannot tell and is taken for it."""
        if not isinstance(answer, Health):
            return False
        return answer.fingerprint in (None, self._services[Role.INFERENCE].fingerprint)

    # What is started

    def _start_missing(self, answer: Health | EndpointError) -> None:
        self._tell("Looking at what is already running")
        refuse_away(self._services.values())
        found = self._patience.ask(self._chain.survey)
        if found is None:
            self._start([role for role in self._services if role is not Role.TUNNEL_CLIENT])
            return
        self._chain.stop_strays()
        self._chain.stop_replaced(found)
        start = list(found.start)
        broken = isinstance(answer, Health) and answer.broken
        if broken and Role.INFERENCE not in start:
            self._chain.stop_adopted(found, Role.INFERENCE)
            start.append(Role.INFERENCE)
        if not start and isinstance(answer, EndpointUntrustedError):
            raise answer
        if not start and isinstance(answer, Health) and not self._is_ours(answer):
            raise StartError(
                self._endpoint.link,
                tried="reach our inference server",
                came_back=f"the one of deployment {answer.deployment!r} answers, with another configuration",
                next_step="Stop that one, or give this Space another node or other ports.",
            )
        self._start(start)

    def _start(self, roles: Sequence[Role]) -> None:
        if not roles:
            return
        self._tell("Starting " + " and ".join(sorted({role.words for role in roles}, reverse=True)))
        self._chain.start(roles, within_s=self._timing.schedule_s)
        self._quiet_since = time.monotonic()

    # How it is waited for

    def _wait_until_healthy(self) -> Health:
        while True:
            answer = self._watch.ask(left_s=self._patience.left_s)
            if isinstance(answer, Health) and self._is_ours(answer):
                self._quiet_since = time.monotonic()
                if answer.takes_posts:
                    return answer
                if answer.broken:
                    by_hand = "" if self._chain.can_stop() else how_to_stop([self._services[Role.INFERENCE]])
                    raise failed_to_load(answer, by_hand)
                self._tell("Loading the model")
            elif isinstance(answer, EndpointUnreachableError):
                self._wait_for_answer(answer)
            elif isinstance(answer, EndpointUntrustedError):
                if self._chain.lists:
                    raise answer
                raise cannot_stop(self._endpoint.link, self._services, answer.came_back)
            else:
                self._wait_for_another(answer)
            if self._patience.left_s <= 0:
                raise self._too_late(answer)
            time.sleep(self._timing.poll_s)

    def _wait_for_another(self, answer: Health | EndpointError) -> None:
        """Somebody else answers in the place of ours. Where Fair cannot stop that one the maintainer has to."""
        now = time.monotonic()
        self._look_after_programs_now_and_then(now)
        if not self._chain.lists and now - self._quiet_since > self._timing.silence_s:
            came_back = "one with another configuration answers" if isinstance(answer, Health) else answer.came_back
            raise cannot_stop(self._endpoint.link, self._services, came_back)

    def _wait_for_answer(self, answer: EndpointUnreachableError) -> None:
        now = time.monotonic()
        self._look_after_programs_now_and_then(now)
        if not self._chain.lists:
            self._start_client_if_shut(answer)
            self._start_server_if_gone(answer, now)
        quiet_s = now - self._quiet_since
        if answer.how == "unheard":  # tells nothing of the services, so a short one counts for nothing
            quiet_s = min(quiet_s, self._watch.unheard.seconds)
        if quiet_s > self._patience_s(answer):
            self._suspect(answer)

    def _look_after_programs_now_and_then(self, now: float) -> None:
        if now - self._looked_at > self._timing.look_s:
            self._looked_at = now
            self._look_after_programs()

    def _look_after_programs(self) -> None:
        """Raises: StartError if something that we started has ended."""
        seen = self._hiccups.ask(lambda: (self._chain.ended(), self._chain.survey()))
        if seen is None:
            return
        ended, found = seen
        for role, end in ended.items():
            port_taken = port_is_taken(end.last_words)
            if role not in found.start if found else port_taken:
                log.info("%s runs already: %s", role, end.last_words)  # by another process, started just before
                self._chain.forget(role)
                if role is Role.INFERENCE:
                    self._taken_at = time.monotonic()
                continue
            raise service_ended(self._services[role], end, port_taken=port_taken)
        if found:
            if any(container.status == "starting" for _, container in found.adopt):
                self._quiet_since = time.monotonic()  # another process has just started it: not frozen
            ended_since_adopted = [role for role in found.start if role not in self._chain.started]
            self._start(ended_since_adopted)

    def _start_client_if_shut(self, answer: EndpointUnreachableError) -> None:
        """Starts the tunnel's client, unless one of ours runs: a second one would displace the first for ever.

        A refusal is sure to mean that none does; no answer at all may be the network's, and is waited for longer.
        """
        if Role.TUNNEL_CLIENT not in self._services or Role.TUNNEL_CLIENT in self._chain.started:
            return
        timing = self._timing
        after_s = timing.client_after_s if answer.how == "refused" else max(timing.client_after_s, timing.silence_s)
        if self._watch.shut.seconds <= after_s:
            return
        runs = self._hiccups.ask(lambda: self._chain.still_runs(Role.TUNNEL_CLIENT))
        self._watch.shut.observe(False)  # the next look is as long away
        if runs is False:
            self._start([Role.TUNNEL_CLIENT])

    def _start_server_if_gone(self, answer: EndpointUnreachableError, now: float) -> None:
        """Its port was taken, and yet the tunnel finds nobody there: what held the port was on its way out."""
        long_ago = self._taken_at is not None and now - self._taken_at > self._timing.client_after_s
        if long_ago and answer.how == "closed" and self._tries_left:
            self._taken_at, self._tries_left = None, self._tries_left - 1
            self._start([Role.INFERENCE])

    def _suspect(self, answer: EndpointUnreachableError) -> None:
        """All runs but nothing answers: starts the next suspect again, the inference server first.

        Raises: StartError where the way there is to blame and no service, or where Fair cannot stop any.
        """
        self._quiet_since = time.monotonic()
        if answer.how == "unheard":
            raise no_way_there(answer)
        seen = self._hiccups.ask(lambda: (self._chain.survey(),))
        suspects = [role for role in self._suspects(answer) if role not in self._chain.started]
        if seen is None or not suspects:
            return
        (found,) = seen
        if found is None:
            lost = ": the tunnel's client has not reached its server" if suspects[0] is Role.TUNNEL_CLIENT else ""
            raise cannot_stop(self._endpoint.link, self._services, answer.came_back + lost)
        role = suspects[0]
        self._tell(f"No answer from {role.words}: starting it again")
        self._chain.stop_adopted(found, role)
        self._start([role])

    def _suspects(self, answer: EndpointUnreachableError) -> list[Role]:
        """Whom to suspect, in order. A refused public port means that the tunnel's own ends have lost each other."""
        tunnel: list[Role] = [role for role in (Role.TUNNEL_CLIENT, Role.TUNNEL_SERVER) if role in self._services]
        if answer.how == "refused" and tunnel:
            return tunnel
        return [Role.INFERENCE] if answer.how == "closed" else [Role.INFERENCE, *tunnel]

    def _too_late(self, answer: Health | EndpointError) -> ServiceError:
        timeout_s = self._timing.timeout_s
        if self._hiccups.last:
            return self._hiccups.last
        if isinstance(answer, EndpointUnreachableError) and answer.how == "unheard":
            return no_way_there(answer)
        if isinstance(answer, EndpointUnreachableError) and answer.how == "refused" and len(self._services) > 1:
            return no_tunnel(self._endpoint.url, self._services, timeout_s)
        if isinstance(answer, Health):
            other = "" if self._is_ours(answer) else ", and has another configuration than ours"
            return too_late(self._endpoint.link, timeout_s, f"the inference server is {answer.state}{other}")
        return too_late(self._endpoint.link, timeout_s, answer.came_back)

    def _patience_s(self, answer: EndpointUnreachableError) -> float:
        """How long nothing may answer before something is suspected.

        Where Fair cannot list what runs, a closed connection, or none, may mean that a node still fetches an image.
        """
        fetching = not self._chain.lists and answer.how in ("closed", "unheard")
        return self._timing.fetching_s if fetching else self._timing.silence_s
