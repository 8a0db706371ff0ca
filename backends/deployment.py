"""A chain's services at Fair: what runs of them, starting and ending them.

Asks Fair, does not guess: two rathole clients of one service displace each other for ever. Where Fair cannot list
containers (the hosted one), the host ports of the inference server and the tunnel server are the locks: "port taken"
means that it runs already.
"""

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from errors import FairError, ServiceError
from fair_api.client import DeadlineFairClient
from fair_api.models import Container, ContainerSpec, Program, ProgramEnd
from fair_api.retry import RetryPolicy
from fair_services import Plan, Role, Service, plan, strays

log = logging.getLogger(__name__)

# Docker's words, those of `bind` in any language, and our own Fair server's.
_PORT_TAKEN = re.compile(
    r"port is already allocated|\baddress (is )?already in use|\bport\b.{0,40}\b(in use|taken)\b", re.IGNORECASE
)
_STUMBLES_AT_MOST = 2  # over each service, in one start


class FairDeployment:
    """The services of one chain. `stop_s`: how long a container may take to end; `patience`: this start's with Fair.

    `launched`: fingerprint -> program, what this process has launched so far, in earlier tries as well; it is kept up.
    """

    def __init__(
        self,
        fair: DeadlineFairClient,
        services: dict[Role, Service],
        deployment: str,
        *,
        stop_s: float,
        patience: RetryPolicy,
        launched: dict[str, Program],
    ) -> None:
        self._services = services
        self.lists = True  # until Fair says that it cannot list containers
        self._fair = fair
        self._deployment = deployment
        self._stop_s = stop_s
        self._patience = patience
        self._stumbles: Counter[Role] = Counter()
        self._launched = launched
        self._programs: dict[Role, Program] = {}

    @property
    def started(self) -> Collection[Role]:
        """What was started here and has not been forgotten."""
        return self._programs.keys()

    def survey(self) -> Plan | None:
        """What runs and what is missing; None if Fair cannot list containers."""
        containers: dict[str, Sequence[Container]] = {}
        for node in {service.node for service in self._services.values()} if self.lists else ():
            rows = self._fair.containers(node)
            self.lists = rows is not None
            if rows is None:
                break
            containers[node] = rows
        return plan(self._services, self._deployment, containers) if self.lists else None

    def start(self, roles: Sequence[Role], *, within_s: float) -> None:
        """Starts these side by side, each as one program of its own, and waits until their nodes have taken them.

        `within_s`: how long a node may take for that. Where Fair lists containers and has stumbled over one, that one
        is left to the next survey, which tells whether it runs all the same.
        """
        log.info("starting %s", ", ".join(roles))
        with ThreadPoolExecutor(len(roles)) as pool:
            launches = {role: pool.submit(self._launch, role, within_s) for role in roles}
        for role, launch in launches.items():
            if not launch.exception() and (program := launch.result()):
                self._programs[role] = program
        for launch in launches.values():
            launch.result()  # raises what it has raised

    def _launch(self, role: Role, within_s: float) -> Program | None:
        """The program, taken by its node; None if Fair has stumbled over it and can be asked what has become of it."""
        service = self._services[role]
        spec = service.spec if self.lists else _without_labels(service)
        try:
            program = self._patience.ask(lambda: self._fair.launch(service.node, spec), only_unsent=True)
        except FairError as error:
            self._stumbles[role] += 1
            known_later = self.lists and error.may_pass and not error.unsent
            if not known_later or self._stumbles[role] > _STUMBLES_AT_MOST:
                raise
            log.warning("looking whether %s runs although its start failed: %s", role, error)
            return None
        self._launched[service.fingerprint] = program  # now: where its node does not take it yet, it waits there
        try:
            self._fair.wait_until_scheduled(program, timeout_s=max(0.0, min(within_s, self._patience.left_s)))
        except FairError as error:
            if not error.may_pass:
                raise
            log.warning("waiting on, although nobody can say whether %s was taken by its node: %s", role, error)
        return program

    def ended(self) -> Mapping[Role, ProgramEnd]:
        """How those ended that were started here and run no more."""
        return {role: end for role, program in self._programs.items() if (end := self._fair.end_of(program))}

    def still_runs(self, role: Role) -> bool:
        """Whether one that was launched here, in an earlier try perhaps, has not ended, or waits for its node."""
        program = self._launched.get(self._services[role].fingerprint)
        try:
            return program is not None and self._fair.status(program) != "Completed"
        except FairError as error:
            if error.status == 404:  # a Fair server that was started anew
                return False
            raise

    def can_stop(self) -> bool:
        """Whether Fair lists containers, and so can stop them; asks it unless that is known."""
        if self.lists:
            with contextlib.suppress(FairError):
                node = self._services[Role.INFERENCE].node
                self.lists = self._fair.containers(node) is not None
        return self.lists

    def forget(self, role: Role) -> None:
        """What was started here has ended, and another one, started elsewhere, is in its place."""
        del self._programs[role]

    def stop(self, role: Role, container: Container) -> None:
        """Ends a container of a service."""
        self._end(self._services[role].node, container.id)

    def _end(self, node: str, container_id: str) -> None:
        timeout_s = max(1.0, min(self._stop_s, self._patience.left_s))
        self._patience.ask(lambda: self._fair.delete_container(node, container_id, timeout_s=timeout_s))

    def stop_adopted(self, found: Plan, role: Role) -> None:
        """Ends the service's container, if one runs."""
        for adopted, container in found.adopt:
            if adopted is role:
                self.stop(role, container)

    def stop_replaced(self, found: Plan) -> None:
        """Ends what runs with another configuration."""
        for role, container in found.replace:
            log.info("replacing %s, container %s: another configuration", role, container.id)
            self.stop(role, container)

    def stop_strays(self) -> None:
        """Ends what was left behind where the settings do not want it any more, on nodes no longer ours, too."""
        try:
            everywhere = self._patience.ask(self._everywhere)
            for node, row in strays(self._services, self._deployment, everywhere):
                log.info("ending %s on node %s, container %s: it belongs elsewhere now", row.role, node, row.id)
                self._end(node, row.id)
        except FairError as error:
            log.warning("what an earlier configuration left behind could not be ended: %s", error)

    def _everywhere(self) -> dict[str, list[Container]]:
        return {node.name: self._fair.containers(node.name) or [] for node in self._fair.nodes()}

    def stop_doubles(self) -> bool:
        """Whether something was ended: two processes that look and start at the same moment start everything twice.

        Both keep the container that Fair lists first.
        """
        try:
            found = self.survey() if self._programs else None
            doubles = found.replace if found else ()
            for role, container in doubles:
                log.info("ending %s, container %s: another process started one at the same moment", role, container.id)
                self.stop(role, container)
        except ServiceError as error:
            log.warning("could not look for services that were started twice: %s", error)  # it draws all the same
            return False
        return bool(doubles)


def port_is_taken(text: str) -> bool:
    """Whether a container says, in its words or its engine's, that another one holds its port."""
    return _PORT_TAKEN.search(text) is not None


def _without_labels(service: Service) -> ContainerSpec:
    """The service's container without labels, for a Fair server that does not know them."""
    spec = service.spec
    return ContainerSpec(spec.image, spec.command, spec.files, spec.ports, spec.runtime, spec.network)
