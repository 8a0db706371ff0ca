"""A chain's services as programs on Fair: how a launch is waited for, and when a port counts as taken."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from backends.deployment import FairDeployment, SharedTunnel, port_is_taken
from backends.start import Start, Timing
from endpoint.credentials import Credentials
from errors import FairError
from fair_api.models import Node, Program
from fair_services import ChainSettings, Role, chain_services
from tests.support.fair_fronts import client_of, logs_in
from tests.support.hostile_server import Line, Received, hostile_server
from tests.support.reconcile_bench import SECRET


@contextmanager
def deployment_with(*statuses: str, timing: Timing) -> Iterator[tuple[FairDeployment, dict[str, Program]]]:
    """An inference server's deployment, whose program Fair says to be in each of these states, the last for ever.

    `503`: Fair fails; `cut`: it hangs up; `garbage`: it answers something else.
    """
    left = list(statuses)

    def script(line: Line, request: Received) -> None:
        if not request.path.endswith("/info"):
            line.answer(200, json.dumps({"program_id": 1, "bucket_id": 2}))
            return
        told = left.pop(0) if len(left) > 1 else left[0]
        if told != "cut":
            line.answer(503 if told == "503" else 200, json.dumps({"status": told}) if told[:1].isupper() else "<html>")

    chain = ChainSettings("home", "image", "me/space")
    services = chain_services(chain, Credentials.from_secret(SECRET), Node("home", "n1", None), None, "127.0.0.1")
    launched: dict[str, Program] = {}
    with hostile_server(logs_in(script)) as server:
        start = Start(lambda stage: None, timing)
        yield FairDeployment(client_of(server.url), services, chain.deployment, launched, start), launched
        assert len(left) == 1


@pytest.mark.parametrize("status", ["Queued", "NotResponding"])
def test_a_node_that_does_not_accept(status: str) -> None:
    """A program that stays queued is given up after `schedule_s`: the error names node and status."""
    with deployment_with(status, timing=Timing(schedule_s=0.2)) as (deployment, launched):
        with pytest.raises(FairError, match=rf"Node home.*after 0\.2 s.*still {status}.*machine is on"):
            deployment.start([Role.INFERENCE], listed=True)
        assert len(launched) == 1  # it may run yet


@pytest.mark.parametrize("fault", ["503", "cut", "garbage"])
def test_faults_while_a_program_is_queued(fault: str) -> None:
    """Fair may fail a few times while a program waits for its node: the wait goes on."""
    statuses = ["Queued", fault, fault, "Queued", fault, "Processing"]
    with deployment_with(*statuses, timing=Timing(schedule_s=60)) as (deployment, _):
        deployment.start([Role.INFERENCE], listed=True)
        assert deployment.started == {Role.INFERENCE}


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_fault_when_the_time_of_a_node_is_over(fault: str) -> None:
    """Where Fair cannot say whether the node has the program, the start goes on: the endpoint will tell."""
    with deployment_with(fault, timing=Timing(schedule_s=0.2)) as (deployment, _):
        deployment.start([Role.INFERENCE], listed=True)
        assert deployment.started == {Role.INFERENCE}


@pytest.mark.parametrize(
    "words",
    [
        "driver failed programming external connectivity: Bind for 0.0.0.0:5001 failed: port is already allocated",
        "listen tcp4 0.0.0.0:5001: bind: address already in use",
        "Error: Address already in use (os error 98)",
        "OSError: [Errno 48] error while attempting to bind on address ('127.0.0.1', 5001): address already in use",
        "no suitable node (host-mode port already in use on 1 node)",
        "Host port 5001 is taken: another program of this server holds it. End that one, or ask for another port.",
        "Container port 8000 is taken: something on this machine uses it.",
        "Cannot listen on 0.0.0.0 port 8000: Address already in use.",
    ],
)
def test_a_taken_port(words: str) -> None:
    """The words of Docker, of the systems and of our own Fair server are understood."""
    assert port_is_taken(words)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: all CUDA-capable devices are busy or unavailable: the device is in use",
        "device already in use",
        "the model is already in use by another process",
        "Cannot export: a name is taken",
        "",
    ],
)
def test_something_else_in_use(words: str) -> None:
    """A GPU that is in use is no port that is taken: other ports would not help."""
    assert not port_is_taken(words)


def test_a_tunnel_that_boxes_share_is_launched_once() -> None:
    """The starts of two boxes that miss the tunnel's server at the same moment launch one; each its own other end."""
    put: list[str] = []

    def script(line: Line, request: Received) -> None:
        if request.path.endswith("/info"):
            line.answer(200, json.dumps({"status": "Processing"}))
            return
        if request.path.endswith("/programs"):
            put.append(json.loads(request.body)["commands"][0]["container_desc"]["command"][0])
        line.answer(200, json.dumps({"program_id": len(put), "bucket_id": 2}))

    boxes, vm, lock = {"home": 8080, "attic": 80}, Node("vm", "v", "127.0.0.1"), threading.Lock()
    shared = SharedTunnel({}, lock, lambda: False)
    roles = [Role.TUNNEL_SERVER, Role.TUNNEL_CLIENT]
    with hostile_server(logs_in(script)) as server, ThreadPoolExecutor() as pool:
        starts = []
        for box, port in boxes.items():
            others = {name: boxes[name] for name in boxes.keys() - {box}}
            chain = ChainSettings(
                box, "image", "me/space", tunnel_node="vm", tunnel_public_port=port, other_boxes=others
            )
            services = chain_services(chain, Credentials.from_secret(SECRET), Node(box, box, None), vm, "127.0.0.1")
            start = Start(lambda stage: None, Timing())
            made = FairDeployment(client_of(server.url), services, chain.deployment, {}, start, shared=shared)
            starts.append(pool.submit(made.start, roles, listed=True))
        for start_of_one in starts:
            start_of_one.result(60)
    assert sorted(put) == ["--client", "--client", "--server"]
