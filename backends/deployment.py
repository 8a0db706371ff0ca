"""A chain's services as programs on Fair: launched side by side, watched, and ended."""

import logging
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from backends.start import FaultWindow, Start
from errors import FairError, PortTakenError, StartError
from fair_api.client import DeadlineFairClient
from fair_api.models import Container, Program, ProgramEnd
from fair_services import Role, Service

log = logging.getLogger(__name__)

# Docker's words, those of `bind` in any language, and our own Fair server's.
_PORT_TAKEN = re.compile(
    r"port is already allocated|\baddress (is )?already in use|\bport\b.{0,40}\b(in use|taken)\b", re.IGNORECASE
)
WAKING = "Waking the machine that draws"
_STUMBLES_AT_MOST = 2  # over each service, in one start
_POLL_S = 0.1


class CannotListError(Exception):
    """This Fair server cannot list containers (the hosted one)."""


@dataclass(frozen=True)
class SharedTunnel:
    """The tunnel's server of a deployment with several boxes: one for all of their chains, as one of them sees it.

    `launched`: as in `FairDeployment`; `lock`: held by the chain that looks for the server and launches it; `in_use`:
    whether another box is reached through it.
    """

    launched: dict[str, Program]
    lock: threading.Lock
    in_use: Callable[[], bool]


class FairDeployment:
    """The services of one chain on Fair. `name`: the deployment's, on each container's label.

    `launched`: fingerprint -> program, all that this process has launched, earlier starts included; kept up here.
    `other_boxes`: the nodes of the deployment's other chains, `shared`: the tunnel's server that they have in common.
    """

    def __init__(
        self,
        fair: DeadlineFairClient,
        services: Mapping[Role, Service],
        name: str,
        launched: dict[str, Program],
        start: Start,
        *,
        other_boxes: Sequence[str] = (),
        shared: SharedTunnel | None = None,
    ) -> None:
        self.services = services
        self.name = name
        self.other_boxes = other_boxes
        self._shared = shared
        self._fair = fair
        self._launched = launched
        self._start = start
        self._stumbles: Counter[Role] = Counter()
        self._programs: dict[Role, Program] = {}

    @property
    def started(self) -> Collection[Role]:
        """What this start has launched and not forgotten."""
        return self._programs.keys()

    @property
    def generation(self) -> str:
        """This process's, by Fair's clock."""
        return self._fair.generation

    def containers(self) -> dict[str, list[Container]]:
        """The containers of the chain's nodes. Raises: CannotListError."""
        found = {}
        for node in sorted({service.node for service in self.services.values()}):
            rows = self._fair.containers(node)
            if rows is None:
                raise CannotListError(node)
            found[node] = rows
        return found

    def containers_everywhere(self) -> dict[str, list[Container]]:
        """The containers of all nodes of the account."""
        return {node.name: self._fair.containers(node.name) or [] for node in self._fair.nodes()}

    def start(self, roles: Sequence[Role], *, listed: bool) -> None:
        """Launches these side by side, each as one program, and waits until their nodes have accepted them.

        `listed`: Fair lists containers. Then it is sent labels, and a launch that it has stumbled over is left to the
        next look at what runs.
        """
        if not roles:
            return
        self._start.tell(WAKING if Role.INFERENCE in roles else "Opening the way to the machine that draws")
        log.info("starting %s", ", ".join(roles))
        with ThreadPoolExecutor(len(roles)) as pool:
            launches = [pool.submit(self._launch, role, listed) for role in roles]
        for launch in launches:
            launch.result()  # raises what it has raised
        self._start.end_silence()

    @property
    def tunnel_in_use(self) -> bool:
        """Whether another box is reached through the tunnel's server: then it is not to be ended."""
        return self._shared is not None and self._shared.in_use()

    def _launch(self, role: Role, listed: bool) -> None:
        """Launches one and waits until its node has it. A launch that Fair stumbles over is left to its list."""
        if self._shared is None or role is not Role.TUNNEL_SERVER:
            self._launch_one(role, listed)
            return
        # The starts of all boxes miss it at the same moment. Whoever comes too late takes it for launched.
        if not self._shared.lock.acquire(timeout=max(1.0, self._start.left_s)):
            return
        try:
            if self._start.ask(lambda: self.still_runs(role)):
                log.info("the start of another box has launched %s", role)
            else:
                self._launch_one(role, listed)
        finally:
            self._shared.lock.release()

    def _launch_one(self, role: Role, listed: bool) -> None:
        service = self.services[role]
        labels = {**service.spec.labels, "generation": self.generation} if listed else {}
        spec = replace(service.spec, labels=labels)
        try:
            program = self._start.ask(lambda: self._fair.launch(service.node, spec), only_unsent=True)
        except FairError as error:
            self._stumbles[role] += 1
            known_later = listed and error.may_pass and not error.unsent
            if not known_later or self._stumbles[role] > _STUMBLES_AT_MOST:
                raise
            log.warning("looking whether %s runs although its start failed: %s", role, error)
            return
        self._programs_of(role)[service.fingerprint] = (
            program  # now: where its node does not accept it yet, it waits there
        )
        self._wait_until_accepted(program)
        self._programs[role] = program

    def _wait_until_accepted(self, program: Program) -> None:
        """Returns once the program's node has it. Raises: FairError after `schedule_s`, if Fair says that it waits."""
        timeout_s = max(0.0, min(self._start.timing.schedule_s, self._start.left_s))
        deadline, faults = time.monotonic() + timeout_s, FaultWindow(math.inf)
        while (status := faults.ask(lambda: self._fair.status(program))) in (None, "Queued", "NotResponding"):
            if time.monotonic() > deadline:
                if faults.last:
                    return  # nobody can say: the endpoint will tell
                raise FairError(
                    f"Node {program.node}",
                    tried="start a container on it",
                    came_back=f"after {timeout_s:g} s its program is still {status}",
                    next_step="Check that the machine is on, and that its Fair agent is connected.",
                    lasting=True,
                )
            time.sleep(_POLL_S)

    def ended(self) -> dict[Role, ProgramEnd]:
        """How those ended that this start has launched and that run no more."""
        return {role: end for role, program in self._programs.items() if (end := self._fair.end_of(program))}

    def still_runs(self, role: Role) -> bool:
        """Whether one that this process has launched, in an earlier start perhaps, runs or waits for its node."""
        program = self._programs_of(role).get(self.services[role].fingerprint)
        try:
            return program is not None and self._fair.status(program) != "Completed"
        except FairError as error:
            if error.status == 404:  # a Fair server that was started anew
                return False
            raise

    def _programs_of(self, role: Role) -> dict[str, Program]:
        shared = self._shared if role is Role.TUNNEL_SERVER else None
        return shared.launched if shared else self._launched

    def forget(self, role: Role, end: ProgramEnd) -> None:
        """Takes note that one has ended because another process's own is in its place."""
        log.info("%s runs already: %s", role, end.last_words)
        del self._programs[role]

    def failure(self, role: Role, end: ProgramEnd) -> StartError:
        """The error for a container that ended instead of serving."""
        service = self.services[role]
        kind = PortTakenError if port_is_taken(end.last_words) else StartError
        return kind(
            f"{role} on node {service.node}",
            tried=f"start the image {service.spec.image}",
            came_back=str(end),
            next_step="Check the image's name, that the node can run it, and that its ports are free.",
        )

    def stop(self, node: str, container: Container) -> None:
        """Ends a container and waits until it is gone."""
        timeout_s = max(1.0, min(self._start.timing.stop_s, self._start.left_s))
        self._start.ask(lambda: self._fair.delete_container(node, container.id, timeout_s=timeout_s))


def port_is_taken(text: str) -> bool:
    """Whether a container says, in its words or its engine's, that another one holds its port."""
    return _PORT_TAKEN.search(text) is not None
