"""How to start a chain where Fair lists containers: ask what runs, start what is missing, end what is in the way."""

import contextlib
import logging

from backends.deployment import CannotListError, FairDeployment
from backends.health_probe import HealthProbe
from backends.start import Start
from endpoint.wire_format import Health
from errors import EndpointError, EndpointUnreachableError, EndpointUntrustedError, FairError, ServiceError, StartError
from fair_services import Plan, Role, plan, refuse_newer, strays

log = logging.getLogger(__name__)


class ListedFair:
    """A start's moves on a Fair that lists. Each that asks Fair raises CannotListError where it turns out not to."""

    def __init__(self, deployment: FairDeployment, probe: HealthProbe, start: Start) -> None:
        self._deployment = deployment
        self._probe = probe
        self._start = start
        self._there_at_first: frozenset[str] | None = None  # containers, at this start's first look
        self._newcomers: frozenset[Role] = frozenset()  # what another process has started since

    def start_missing(self, answer: Health | EndpointError) -> None:
        """Adopts what runs, replaces what is outdated or broken, starts the rest. `answer`: the endpoint's, now.

        Raises: StartError or EndpointUntrustedError when all runs and yet somebody else answers.
        """
        found = self._start.ask(self._survey)
        self._stop_strays()
        for role, container in found.replace:
            log.info("replacing %s, container %s: another configuration", role, container.id)
            self._deployment.stop(self._deployment.services[role].node, container)
        roles = list(found.start)
        if isinstance(answer, Health) and answer.broken and Role.INFERENCE not in roles:
            self._stop_adopted(found, Role.INFERENCE)
            roles.append(Role.INFERENCE)
        if not roles and isinstance(answer, EndpointUntrustedError):
            raise answer
        if not roles and isinstance(answer, Health):
            raise StartError(
                self._probe.endpoint.link,
                tried="reach our inference server",
                came_back=f"the one of deployment {answer.deployment!r} answers, with another configuration",
                next_step="Stop that one, or give this Space another node or other ports.",
            )
        self._deployment.start(roles, listed=True)

    def look_after(self) -> None:
        """Starts what has ended since it was adopted. Raises: StartError if something that we started has ended."""
        seen = self._start.ask_once(lambda: (self._deployment.ended(), self._survey()))
        if seen is None:
            return
        ended, found = seen
        older = [(role, container) for role, container in found.replace if role in ended]
        for role, container in older:  # of the process before this one, which started it while we did
            log.info("ending %s, container %s: an older process of this deployment started it", role, container.id)
            self._deployment.stop(self._deployment.services[role].node, container)
        for role, end in ended.items():
            if role in found.start and role not in dict(older):
                raise self._deployment.failure(role, end)
            self._deployment.forget(role, end)
        if any(container.status == "starting" for _, container in found.adopt):
            self._start.end_silence()  # another process has just started it: it is not frozen
        self._deployment.start([role for role in found.start if role not in self._deployment.started], listed=True)

    def without_answer(self, answer: EndpointUnreachableError) -> None:
        """Nothing to guess here: `look_after` sees what runs."""

    def wait_for_other(self, answer: Health | EndpointError) -> None:
        """Somebody else answers: what was replaced may do so for a moment."""

    def untrusted(self, answer: EndpointUntrustedError) -> ServiceError:
        """The error for an endpoint that is not ours."""
        return answer

    def tolerated_silence_s(self, answer: EndpointUnreachableError) -> float:
        """How long nothing may answer before something is suspected to be frozen."""
        return self._start.timing.silence_s

    def may_be_frozen(self, role: Role) -> bool:
        """Not what was started during this start, by whichever process: it may take long until it answers.

        Two processes that replace each other's newcomers would never come to an end.
        """
        return role not in self._deployment.started and role not in self._newcomers

    def replace(self, role: Role, answer: EndpointUnreachableError) -> None:
        """Ends a service that seems frozen, and starts it again."""
        found = self._start.ask_once(self._survey)
        if found and self.may_be_frozen(role):
            self._start.tell("No answer from the machine that draws: waking it again")
            self._stop_adopted(found, role)
            self._deployment.start([role], listed=True)

    def how_to_stop(self) -> str:
        """What the maintainer has to type to stop the inference server: nothing, as the next start can."""
        with contextlib.suppress(FairError):
            self._deployment.containers()  # tells whether that is so
        return ""

    def stop_doubles(self) -> bool:
        """Whether something was ended: two processes that look and start at the same moment start everything twice.

        Both keep the container that Fair lists first.
        """
        try:
            doubles = self._survey().replace if self._deployment.started else ()
            for role, container in doubles:
                log.info("ending %s, container %s: another process started one at the same moment", role, container.id)
                self._deployment.stop(self._deployment.services[role].node, container)
        except (ServiceError, CannotListError) as error:
            log.warning("could not look for services that were started twice: %s", error)  # it draws all the same
            return False
        return bool(doubles)

    def _survey(self) -> Plan:
        deployment = self._deployment
        found = plan(deployment.services, deployment.name, deployment.containers(), deployment.generation)
        if self._there_at_first is None:
            self._there_at_first = frozenset(container.id for _, container in found.adopt)
        self._newcomers = frozenset(role for role, one in found.adopt if one.id not in self._there_at_first)
        return found

    def _stop_adopted(self, found: Plan, role: Role) -> None:
        for adopted, container in found.adopt:
            if adopted is role:
                self._deployment.stop(self._deployment.services[role].node, container)

    def _stop_strays(self) -> None:
        """Ends what an earlier configuration left on nodes where it belongs no more."""
        try:
            everywhere = self._start.ask(self._deployment.containers_everywhere)
            deployment = self._deployment
            for node, row in strays(deployment.services, deployment.name, everywhere, deployment.other_boxes):
                refuse_newer([row], node, deployment.name, deployment.generation)
                log.info("ending %s on node %s, container %s: it belongs elsewhere now", row.role, node, row.id)
                self._deployment.stop(node, row)
        except FairError as error:
            log.warning("what an earlier configuration left behind could not be ended: %s", error)
