"""What runs on a Fair that cannot list containers: ports are the locks; a node that is away is named."""

import contextlib
import json
import os
import signal
import socket
import threading
from dataclasses import replace

import pytest
import requests

from errors import FairError, StartError
from fair_services import Role
from settings import InferenceConfig
from tests.support.hostile_server import HostileServer, Line, Received, hostile_server
from tests.support.processes import wait_until
from tests.support.reconcile_bench import IMPATIENT, QUICK, Bench, chain_settings

pytestmark = pytest.mark.slow


def test_cold_then_warm(bench: Bench, unlisted: HostileServer) -> None:
    """All three are started, the client when the public port stayed closed; a second Space starts nothing."""
    chain = chain_settings()
    assert bench.reconcile(chain, url=unlisted.url).state == "healthy"
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    programs = [json.loads(request.body) for request in unlisted.requests if request.path.endswith("/programs")]
    assert len(programs) == 3
    assert not any("labels" in program["commands"][0]["container_desc"] for program in programs)
    assert bench.reconcile(chain, url=unlisted.url).state == "healthy"
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)


@pytest.mark.parametrize("role", ["inference", "tunnel-server", "tunnel-client"])
def test_what_ended_is_started_again(bench: Bench, unlisted: HostileServer, role: str) -> None:
    """The one that has ended comes back; a port that is taken by what runs already is no error."""
    chain = chain_settings()
    bench.reconcile(chain, url=unlisted.url)
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    os.kill(bench.log.pid(role), signal.SIGKILL)
    bench.wait_until_gone(role, chain)
    # A client that runs finds its server again, and must be given the time for that: this Space cannot know of it.
    timing = QUICK if role == "tunnel-client" else replace(QUICK, client_after_s=60)
    assert bench.reconcile(chain, url=unlisted.url, timing=timing).state == "healthy"
    bench.wait_for_starts(**{name.replace("-", "_"): 1 + (name == role) for name in Role})


def test_a_port_that_is_not_free_yet(bench: Bench, unlisted: HostileServer) -> None:
    """What still holds the inference server's port when it is to come back does not pass for it for long."""
    chain = chain_settings()
    bench.reconcile(chain, url=unlisted.url)
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    launches, passed_on = len(_launches(unlisted)), unlisted.script
    os.kill(bench.log.pid("inference"), signal.SIGKILL)
    holder = wait_until("the port to be free", lambda: _listen(chain.inference_host_port))
    assert holder is not None

    def script(line: Line, request: Received) -> bool | None:
        if len(_launches(unlisted)) == launches + 3:  # after the two starts another one of the inference server
            let_go()
        return passed_on(line, request)

    def let_go() -> None:
        with contextlib.suppress(OSError):  # it was done already
            holder.shutdown(socket.SHUT_RDWR)

    unlisted.script = script
    turning_away = threading.Thread(target=_turn_away, args=(holder,))
    turning_away.start()
    try:
        assert bench.reconcile(chain, url=unlisted.url).state == "healthy"
    finally:
        let_go()
        turning_away.join()
    assert len(_launches(unlisted)) >= launches + 3
    bench.wait_for_starts(inference=2, tunnel_server=1, tunnel_client=1)


def _launches(unlisted: HostileServer) -> list[Received]:
    return [request for request in unlisted.requests if request.path.endswith("/programs")]


def _listen(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", port))
    return None


def _turn_away(listener: socket.socket) -> None:
    """Closes every connection at once, until the listener is shut down."""
    with contextlib.suppress(OSError), listener:
        while True:
            listener.accept()[0].close()


def test_frozen(bench: Bench, unlisted: HostileServer) -> None:
    """What cannot be stopped is told as commands to type, well before the deadline."""
    chain = chain_settings()
    bench.reconcile(chain, url=unlisted.url)
    os.kill(bench.log.pid("inference"), signal.SIGSTOP)
    with pytest.raises(StartError, match=r"cannot stop containers.*fair node home list.*fair node home kill"):
        bench.reconcile(chain, url=unlisted.url, timing=IMPATIENT)
    os.kill(bench.log.pid("inference"), signal.SIGCONT)


def test_another_configuration(bench: Bench, unlisted: HostileServer) -> None:
    """An inference server of another configuration, which cannot be replaced, is told as commands to type."""
    chain = chain_settings()
    bench.reconcile(chain, url=unlisted.url)
    other = replace(chain, inference=InferenceConfig(model_id="another/model"))
    timing = replace(QUICK, silence_s=2)  # but patient with its answer, which is not to pass for silence
    with pytest.raises(StartError, match=r"another configuration.*cannot stop.*fair node home kill"):
        bench.reconcile(other, url=unlisted.url, timing=timing)


def test_image_that_dies(bench: Bench, unlisted: HostileServer) -> None:
    """A container that ends by itself is told with its last words, here as well."""
    with pytest.raises(StartError, match="CUDA is not available"):
        bench.reconcile(chain_settings(inference_image="dies"), url=unlisted.url)


def test_node_away(bench: Bench) -> None:
    """A node that Fair calls unreachable starts nothing, and is told at once."""
    chain = chain_settings()
    bench.reconcile(chain)
    before = bench.alive()

    def script(line: Line, request: Received) -> bool:
        headers = {"authorization": request.headers.get("authorization", ""), "content-type": "application/json"}
        answer = requests.request(
            request.method, bench.url + request.path, headers=headers, data=request.body, timeout=30
        )
        text = answer.text.replace('"running"', '"unreachable"') if "/containers" in request.path else answer.text
        line.answer(answer.status_code, text)
        return True

    os.kill(bench.log.pid("inference"), signal.SIGSTOP)
    with hostile_server(script) as server:
        with pytest.raises(StartError, match=r"Node (home|vm).*not ready.*nothing was started"):
            bench.reconcile(chain, url=server.url, timing=IMPATIENT)
        assert not any(request.path.endswith("/programs") for request in server.requests)
    os.kill(bench.log.pid("inference"), signal.SIGCONT)
    assert {role: row.id for role, row in bench.alive().items()} == {role: row.id for role, row in before.items()}


def test_node_that_never_takes_the_program(bench: Bench) -> None:
    """A program that stays queued is given up after `schedule_s`: the error names the node and what to look at."""

    def script(line: Line, request: Received) -> bool:
        if request.path.endswith("/info"):
            line.answer(200, json.dumps({"status": "Queued"}))
        elif "/containers" in request.path:
            line.answer(200, json.dumps({"containers": []}))
        elif request.path.endswith("/login"):
            line.answer(200, json.dumps({"token": "t"}))
        elif request.path.endswith("/nodes/list"):
            line.answer(200, json.dumps({"nodes": [{"name": "home", "id": "home", "host_address": "127.0.0.1"}]}))
        else:
            line.answer(200, json.dumps({"program_id": 1, "bucket_id": 2}))
        return True

    with hostile_server(script) as server, pytest.raises(FairError, match=r"Node home.*still Queued.*machine is on"):
        bench.reconcile(chain_settings(tunnel_node=None), url=server.url, timing=replace(QUICK, schedule_s=0.3))


def test_roles_are_told_apart(bench: Bench, unlisted: HostileServer) -> None:
    """Without a list and without a tunnel the inference server alone is started."""
    assert bench.reconcile(chain_settings(tunnel_node=None), url=unlisted.url).state == "healthy"
    assert bench.log.starts() == {Role.INFERENCE: 1}
