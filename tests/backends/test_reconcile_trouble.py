"""A start while something on the way is in trouble: Fair itself, a node, a firewall, a tunnel that does not meet."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import requests

from errors import FairError, StartError
from fair_api.models import Program
from tests.support.hostile_server import HostileServer, Line, Received, dropping_server, hostile_server
from tests.support.processes import wait_until
from tests.support.reconcile_bench import IMPATIENT, QUICK, SECRET, Bench, chain_settings

pytestmark = pytest.mark.slow

drops = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse where Linux drops")


@contextmanager
def front(bench: Bench, changed: Callable[[Received, str], str | None]) -> Iterator[HostileServer]:
    """The Fair server with answers as `changed` makes them of its own; None: no answer, the connection is cut."""

    def script(line: Line, request: Received) -> bool:
        headers = {"authorization": request.headers.get("authorization", ""), "content-type": "application/json"}
        answer = requests.request(
            request.method, bench.url + request.path, headers=headers, data=request.body, timeout=30
        )
        text = changed(request, answer.text)
        if text is not None:
            line.answer(answer.status_code, text)
        return text is not None

    with hostile_server(script) as server:
        yield server


def launches(front: HostileServer, mode: str = "") -> int:
    """How many programs were sent; `mode`: those with this option alone."""
    return sum(request.path.endswith("/programs") and mode.encode() in request.body for request in front.requests)


def test_a_fault_of_fair_ends_no_start(bench: Bench) -> None:
    """Fair may fail to answer for a while when all is started and waited for: the start goes on, and draws."""
    away_until: list[float] = []

    def changed(request: Received, text: str) -> str | None:
        if "/containers" in request.path and launches(server) == 3 and not away_until:
            away_until.append(time.monotonic() + 1.5)
        asks = "/containers" in request.path or request.path.endswith("/info")
        return None if asks and away_until and time.monotonic() < away_until[0] else text

    with front(bench, changed) as server:
        assert bench.reconcile(chain_settings(), url=server.url).state == "healthy"
    assert away_until
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)


def test_a_fair_that_stays_away(bench: Bench) -> None:
    """A Fair that does not come back is told as such after `fair_s`, long before the deadline."""
    chain = chain_settings(tunnel_node=None, inference_image="dies")

    def changed(request: Received, text: str) -> str | None:
        return None if launches(server) and "/containers" in request.path else text

    with front(bench, changed) as server, pytest.raises(FairError, match=r"containers.*connection failed"):
        bench.reconcile(chain, url=server.url, timing=replace(QUICK, fair_s=0.5))


def test_a_node_that_fair_does_not_reach(bench: Bench) -> None:
    """A node that Fair calls unreachable is told by name at once, and no program is sent to queue up there."""

    def changed(request: Received, text: str) -> str:
        if not request.path.endswith("/nodes/list"):
            return text
        rows = json.loads(text)["nodes"]
        return json.dumps(
            {"nodes": [{**row, "status": "unreachable" if row["name"] == "home" else "ready"} for row in rows]}
        )

    with front(bench, changed) as server:
        with pytest.raises(StartError, match=r"Node home.*not ready.*nothing was started"):
            bench.reconcile(chain_settings(), url=server.url)
        assert launches(server) == 0


@drops
def test_a_firewall_on_the_tunnels_node(bench: Bench) -> None:
    """When nothing comes from the public port, not even a refusal, that is told with the port; nothing is restarted."""
    with dropping_server() as port:
        chain = chain_settings(tunnel_public_port=port)
        with front(bench, lambda request, text: text) as server:
            with pytest.raises(StartError, match=rf"not even a refusal.*open TCP port {port}"):
                bench.reconcile(chain, url=server.url, timing=IMPATIENT)
            assert launches(server) == 3
    assert len(bench.alive()) == 3


@drops
def test_a_firewall_and_no_list(bench: Bench, unlisted: HostileServer) -> None:
    """There the tunnel's client is started, too, as nobody can tell that it runs, and no more than once."""
    launched: dict[str, Program] = {}
    with dropping_server() as port:
        chain = chain_settings(tunnel_public_port=port)
        for _ in range(2):
            with pytest.raises(StartError, match=rf"open TCP port {port}"):
                bench.reconcile(chain, url=unlisted.url, timing=replace(IMPATIENT, fetching_s=5), launched=launched)
    assert launches(unlisted, "--client") == 1


def test_a_failed_start_doubles_no_client(bench: Bench, unlisted: HostileServer) -> None:
    """A client that has not reached its server is launched once, however many starts fail; it serves when it has."""
    chain, launched = chain_settings(), dict[str, Program]()
    passed_on = unlisted.script

    def reconcile(**waits: float) -> str:
        timing = replace(QUICK, client_after_s=0, **waits)
        return bench.reconcile(chain, url=unlisted.url, timing=timing, launched=launched).state

    def freeze_its_server_first(line: Line, request: Received) -> bool | None:
        if launches(unlisted, "--client") == 1 and not frozen:
            wait_until("the tunnel's server", lambda: bench.log.starts().get("tunnel-server"))
            frozen.append(bench.log.pid("tunnel-server"))
            os.kill(frozen[0], signal.SIGSTOP)  # its port takes connections, and no client gets in
        return passed_on(line, request)

    frozen: list[int] = []
    unlisted.script = freeze_its_server_first
    with pytest.raises(StartError, match="its client has not reached its server"):
        reconcile(timeout_s=10)
    with pytest.raises(StartError, match=r"has not reached its server, and this Fair server cannot stop containers"):
        reconcile(silence_s=2)
    assert launches(unlisted, "--client") == 1
    os.kill(frozen[0], signal.SIGCONT)
    assert reconcile() == "healthy"
    assert launches(unlisted, "--client") == 1


def test_a_client_that_ended_is_launched_again(bench: Bench, unlisted: HostileServer) -> None:
    """What this process has launched before and has ended since does not count."""
    chain, launched = chain_settings(), dict[str, Program]()
    bench.reconcile(chain, url=unlisted.url, launched=launched)
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    os.kill(bench.log.pid("tunnel-client"), signal.SIGKILL)
    bench.wait_until_gone("tunnel-client", chain)
    assert bench.reconcile(chain, url=unlisted.url, launched=launched).state == "healthy"
    assert launches(unlisted, "--client") == 2


def test_another_secret_where_nothing_can_be_stopped(bench: Bench, unlisted: HostileServer) -> None:
    """Services of a secret that was changed since are told as commands to type."""
    chain = chain_settings()
    bench.reconcile(chain, url=unlisted.url)
    with pytest.raises(StartError, match=r"certificate.*cannot stop containers.*fair node home kill.*fair node vm"):
        bench.reconcile(chain, url=unlisted.url, secret=SECRET + "another")


def test_a_model_that_failed_where_nothing_can_be_stopped(bench: Bench, unlisted: HostileServer) -> None:
    """A server whose model failed holds its port for ever there: the error tells how to end it, here as well."""
    chain = chain_settings(tunnel_node=None, inference_image="failed")
    for _ in range(2):
        with pytest.raises(StartError, match=r"no such file: unet.*MODEL_ID.*fair node home kill"):
            bench.reconcile(chain, url=unlisted.url)
