"""Gets a Fair chain ready: adopts what runs, starts what is missing, replaces what is frozen, waits until it draws."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chain_at_fair import ChainAtFair, port_is_taken
from endpoint_client import EndpointClient
from errors import EndpointError, EndpointUnreachableError, EndpointUntrustedError, StartError
from fair_client import DeadlineFairClient
from fair_services import Role, Service
from start_errors import cannot_stop, failed_to_load, no_tunnel, service_ended, too_late
from wire_format import Health

log = logging.getLogger(__name__)

TellStage = Callable[[str], None]
_TRIES_AT_TAKEN_PORT = 3


@dataclass(frozen=True)
class Timing:
    """The waits of a start, in seconds.

    `silence_s`: all runs but nothing answers for so long: frozen; `fetching_s`: the same where Fair cannot list what
    runs and the inference server is not there yet; `client_after_s`: without a list, the tunnel client is started once
    the public port was closed for so long, and what had found its port taken is tried again; `stop_s`: how long a
    container may take to end.
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


class BringUp:
    """One try to get the chain ready. `services`: the chain's; `timing`: its waits."""

    def __init__(
        self,
        fair: DeadlineFairClient,
        services: dict[Role, Service],
        endpoint: EndpointClient,
        deployment: str,
        tell: TellStage,
        timing: Timing,
    ) -> None:
        self._chain = ChainAtFair(fair, services, deployment, stop_s=timing.stop_s)
        self._services = services
        self._endpoint = endpoint
        self._tell = tell
        self._timing = timing
        self._deadline = time.monotonic() + timing.timeout_s
        self._quiet_since = time.monotonic()
        self._refused_since: float | None = None
        self._looked_at = 0.0
        self._taken_at: float | None = None  # when the inference server's port was taken by something
        self._tries_left = _TRIES_AT_TAKEN_PORT

    def run(self) -> Health:
        """Returns how the inference server is, once it is ours and takes posts: healthy, or told that its GPU is busy.

        Raises: ServiceError saying which link failed, within the deadline.
        """
        answer = self._probe()
        if not self._is_ours(answer) or (isinstance(answer, Health) and answer.broken):
            self._start_missing(answer)
        health = self._wait_until_healthy()
        return self._wait_until_healthy() if self._chain.stop_doubles() else health

    # What answers

    def _probe(self) -> Health | EndpointError:
        try:
            return self._endpoint.health(timeout_s=self._timing.probe_s)
        except EndpointError as error:
            return error

    def _is_ours(self, answer: Health | EndpointError) -> bool:
        """Whether our own inference server answered; upstream's cannot tell and is taken for it."""
        if not isinstance(answer, Health):
            return False
        return answer.fingerprint in (None, self._services[Role.INFERENCE].fingerprint)

    # What is started

    def _start_missing(self, answer: Health | EndpointError) -> None:
        self._tell("Looking at what is already running")
        found = self._chain.survey()
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
        self._chain.start(roles, within_s=min(self._timing.schedule_s, self._left_s()))
        self._quiet_since = time.monotonic()

    # How it is waited for

    def _wait_until_healthy(self) -> Health:
        while True:
            answer = self._probe()
            if isinstance(answer, Health) and self._is_ours(answer):
                self._quiet_since, self._refused_since = time.monotonic(), None
                if answer.takes_posts:
                    return answer
                if answer.broken:
                    raise failed_to_load(answer)
                self._tell("Loading the model")
            elif isinstance(answer, EndpointUnreachableError):
                self._wait_for_answer(answer)
            elif isinstance(answer, EndpointUntrustedError):
                raise answer
            else:
                self._wait_for_another(answer)
            if self._left_s() <= 0:
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
        if answer.how != "refused":
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        self._look_after_programs_now_and_then(now)
        if not self._chain.lists:
            self._start_client_if_closed(now)
            self._start_server_if_gone(answer, now)
        if now - self._quiet_since > self._patience_s(answer):
            self._suspect(answer)

    def _look_after_programs_now_and_then(self, now: float) -> None:
        if now - self._looked_at > self._timing.look_s:
            self._looked_at = now
            self._look_after_programs()

    def _look_after_programs(self) -> None:
        """Raises: StartError if something that we started has ended."""
        ended, found = self._chain.ended(), self._chain.survey()
        for role, end in ended.items():
            if role not in found.start if found else port_is_taken(end.last_words):
                log.info("%s runs already: %s", role, end.last_words)  # by another process, started just before
                self._chain.forget(role)
                if role is Role.INFERENCE:
                    self._taken_at = time.monotonic()
                continue
            raise service_ended(self._services[role], end)
        if found:
            if any(container.status == "starting" for _, container in found.adopt):
                self._quiet_since = time.monotonic()  # another process has just started it: not frozen
            ended_since_adopted = [role for role in found.start if role not in self._chain.started]
            self._start(ended_since_adopted)

    def _start_client_if_closed(self, now: float) -> None:
        closed = self._refused_since is not None and now - self._refused_since > self._timing.client_after_s
        if closed and Role.TUNNEL_CLIENT in self._services and Role.TUNNEL_CLIENT not in self._chain.started:
            self._start([Role.TUNNEL_CLIENT])

    def _start_server_if_gone(self, answer: EndpointUnreachableError, now: float) -> None:
        """Its port was taken, and yet the tunnel finds nobody there: what held the port was on its way out."""
        long_ago = self._taken_at is not None and now - self._taken_at > self._timing.client_after_s
        if long_ago and answer.how == "closed" and self._tries_left:
            self._taken_at, self._tries_left = None, self._tries_left - 1
            self._start([Role.INFERENCE])

    def _suspect(self, answer: EndpointUnreachableError) -> None:
        """All runs but nothing answers: starts the next suspect again, the inference server first."""
        found = self._chain.survey()
        suspects = [role for role in self._suspects(answer) if role not in self._chain.started]
        self._quiet_since = time.monotonic()
        if not suspects:
            return
        if found is None:
            raise cannot_stop(self._endpoint.link, self._services, answer.came_back)
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

    def _too_late(self, answer: Health | EndpointError) -> StartError:
        timeout_s = self._timing.timeout_s
        if isinstance(answer, EndpointUnreachableError) and answer.how == "refused" and len(self._services) > 1:
            return no_tunnel(self._endpoint.url, self._services, timeout_s)
        if isinstance(answer, Health):
            other = "" if self._is_ours(answer) else ", and has another configuration than ours"
            return too_late(self._endpoint.link, timeout_s, f"the inference server is {answer.state}{other}")
        return too_late(self._endpoint.link, timeout_s, answer.came_back)

    def _patience_s(self, answer: EndpointUnreachableError) -> float:
        """How long nothing may answer before something is suspected.

        Where Fair cannot list what runs, a closed connection may mean that the node still fetches the image.
        """
        fetching = not self._chain.lists and answer.how == "closed"
        return self._timing.fetching_s if fetching else self._timing.silence_s

    def _left_s(self) -> float:
        return self._deadline - time.monotonic()
