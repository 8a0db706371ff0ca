"""A real Fair server with stand-ins on two nodes, and chains on it to get ready."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from backends.deployment import FairDeployment
from backends.reconcile import Reconciler
from backends.start import Start, TellStage, Timing
from endpoint.credentials import Credentials
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from fair_api.client import DeadlineFairClient
from fair_api.models import Container
from fair_api.models import Program as Launched
from fair_services import ChainSettings, Role, Service, chain_services
from tests.support.fair_servers import ACCOUNT, DEADLINE_S, EMAIL, PASSWORD, SERVER
from tests.support.processes import Processes, Program, free_port, is_open, wait_until
from tests.support.stand_ins import StartLog, images

NODES = ("home", "vm")
SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
# All that a Fair elsewhere needs to be told, but for ENDPOINT_SECRET.
FAIR_SETTINGS = {
    "FAIRCOMPUTE_EMAIL": "me@example.org",
    "FAIRCOMPUTE_PASSWORD": "x",
    "INFERENCE_NODE": "home",
    "TUNNEL_NODE": "vm",
    "INFERENCE_IMAGE": "me/inference:1",
}
# Quick to ask, but whoever is slow is waited for: what is not up in time would be taken for frozen.
QUICK = Timing(
    timeout_s=120,
    silence_s=30,
    fetching_s=30,
    client_after_s=1.5,
    schedule_s=30,
    stop_s=30,
    probe_s=10,
    poll_s=0.02,
    look_s=0.1,
)
IMPATIENT = replace(QUICK, silence_s=2, fetching_s=2, probe_s=1)  # for what is frozen indeed


def chain_settings(**changes: object) -> ChainSettings:
    """A chain with ports of its own."""
    settings = {
        "inference_node": "home",
        "inference_image": "inference",
        "deployment": "me/space",
        "tunnel_node": "vm",
        "tunnel_image": "rathole",
        "inference_host_port": free_port(),
        "tunnel_control_port": free_port(),
        "tunnel_public_port": free_port(),
        **changes,
    }
    return ChainSettings(**settings)  # type: ignore[arg-type]


@dataclass
class Bench:
    """The Fair server at `url`; `log`: what came up on it."""

    url: str
    log: StartLog
    program: Program
    told: list[str] = field(default_factory=list)

    def client(self, url: str | None = None) -> DeadlineFairClient:
        return DeadlineFairClient(url or self.url, EMAIL, PASSWORD, timeout_s=DEADLINE_S)

    def services(self, chain: ChainSettings, secret: str = SECRET, url: str | None = None) -> dict[Role, Service]:
        fair = self.client(url)
        tunnel_node = fair.node(chain.tunnel_node) if chain.tunnel_node else None
        credentials = Credentials.from_secret(secret)
        return chain_services(chain, credentials, fair.node(chain.inference_node), tunnel_node, "127.0.0.1")

    def reconcile(
        self,
        chain: ChainSettings,
        *,
        timing: Timing = QUICK,
        secret: str = SECRET,
        url: str | None = None,
        launched: dict[str, Launched] | None = None,
        tell: TellStage | None = None,
    ) -> Health:
        """One try to get the chain ready, as a Space makes it that was just started, or has `launched` these before."""
        credentials = Credentials.from_secret(secret)
        port = chain.tunnel_public_port if chain.tunnel_node else chain.inference_host_port
        pinned = chain.tls == "pinned"
        endpoint = EndpointClient(
            f"{'https' if pinned else 'http'}://127.0.0.1:{port}",
            bearer=credentials.bearer if pinned else None,
            certificate_sha256=credentials.certificate_sha256 if pinned else None,
            silence_s=timing.silence_s,
        )
        services = self.services(chain, secret, url)
        launched = {} if launched is None else launched
        start = Start(tell or self.told.append, timing)
        deployment = FairDeployment(self.client(url), services, chain.deployment, launched, start)
        return Reconciler(deployment, endpoint, start).run()

    def alive(self) -> dict[str, Container]:
        """Role -> container of what runs now."""
        fair = self.client()
        return {str(row.role): row for node in NODES for row in fair.containers(node) or [] if row.alive}

    def end(self, *roles: Role) -> None:
        """Ends the containers of these roles."""
        fair, alive = self.client(), self.alive()
        for role in roles:
            node = "vm" if role is Role.TUNNEL_SERVER else "home"
            fair.delete_container(node, alive[role].id, timeout_s=DEADLINE_S)

    def wait_until_gone(self, role: Role | str, chain: ChainSettings) -> None:
        """Waits until nobody can take a service that has just ended for one that serves."""
        ports = {
            Role.INFERENCE: chain.inference_host_port,
            Role.TUNNEL_SERVER: chain.tunnel_control_port,
            Role.TUNNEL_CLIENT: chain.tunnel_public_port,  # its server closes it, as soon as it sees the client's end
        }
        wait_until(f"the port of {role} to be closed", lambda: not is_open(ports[Role(role)]))

    def end_all(self) -> None:
        """Ends everything, and forgets what came up."""
        fair = self.client()
        rows = [(node, row.id) for node in NODES for row in fair.containers(node) or [] if row.alive]
        deadline = {"timeout_s": DEADLINE_S}
        threads = [threading.Thread(target=fair.delete_container, args=row, kwargs=deadline) for row in rows]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        self.log.clear()
        self.told.clear()

    def wait_for_starts(self, **starts: int) -> None:
        """Waits until the roles came up as often as given (`tunnel_client=1`), and no other did."""
        wanted = {name.replace("_", "-"): number for name, number in starts.items()}
        wait_until(f"the starts {wanted}", lambda: self.log.starts() == wanted)


@contextmanager
def running_bench(folder: Path, *options: str) -> Iterator[Bench]:
    """Starts the Fair server with these options; ends it and all that it runs."""
    log = StartLog(folder / "starts.txt")
    log.clear()
    lines: list[str] = []
    for node in NODES:
        lines += ["[[node]]", f'name = "{node}"', 'host_address = "127.0.0.1"', "[node.images]"]
        lines += [f"{json.dumps(name)} = {json.dumps(argv)}" for name, argv in images().items()]
    nodes = folder / "nodes.toml"
    nodes.write_text("\n".join(lines))
    processes = Processes(folder)
    try:
        program = processes.start([*SERVER, "--nodes", nodes, *options], env={**ACCOUNT, **log.environment()})
        yield Bench(program.wait_for_line(r"Fair server ready on (\S+)")[1], log, program)
    finally:
        processes.stop_all()
