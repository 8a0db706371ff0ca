"""A picture across three machines: a Space, a VM, a GPU box behind NAT; and what happens when one of them fails.

The tests go on from where the one before has left the machines, in the order of this file.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engines import missing, settle_down
from tests.support.machine_images import INFERENCE_IMAGE
from tests.support.machines import ONE_EACH, VM, Machines, running_machines
from tests.support.processes import wait_until

pytestmark = [pytest.mark.timeout(600)]

_NOTICED_S = 90  # until the manager takes a node for down, or for ready again


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, rathole: Path) -> Iterator[Machines]:
    """The machines, on which nothing runs yet but fair_server."""
    if reason := missing():
        pytest.fail(reason)
    with running_machines(tmp_path_factory.mktemp("machines"), rathole) as machines:
        yield machines


def assert_draws(machines: Machines, **changes: str) -> float:
    """A new process of the Space draws; returns the seconds that it took."""
    with machines.space(**changes) as space:
        drawn = space.draw()
    assert drawn.get("size") == [256, 256], f"{drawn}\n{machines.fair_log()[-3000:]}"
    assert machines.alive() == ONE_EACH
    return float(drawn["seconds"])


def refusal(machines: Machines, **changes: str) -> str:
    """Why a new process of the Space cannot draw."""
    with machines.space(**changes) as space:
        drawn = space.draw()
    assert "error" in drawn, drawn
    return str(drawn["error"])


def test_the_networks(machines: Machines) -> None:
    """The Space reaches three ports alone, and nothing gets into the home."""
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
    machines.space_network.run("python3", "-c", connect, VM, "443")
    for address, port in ((VM, "2377"), (VM, "2333"), ("198.51.100.2", "8080"), ("192.168.77.2", "5001")):
        with pytest.raises(AssertionError, match=r"timed out|unreachable|refused"):
            machines.space_network.run("python3", "-c", connect, address, port)
    for network in (machines.vm.namespace, machines.internet):
        with pytest.raises(AssertionError, match=r"timed out|unreachable"):
            network.run("python3", "-c", connect, "198.51.100.2", "5001")


def test_cold_start(machines: Machines) -> None:
    """The first prompt starts inference server and tunnel, one of each, and becomes a picture."""
    assert machines.containers() == []
    assert_draws(machines)
    assert len(machines.box.containers()) == 2


def test_another_process_of_the_space(machines: Machines) -> None:
    """What runs is adopted by the Space's next process, and by a fair_server that was started anew."""
    before = machines.ids()
    assert_draws(machines)
    assert machines.ids() == before
    machines.restart_fair()
    machines.wait_for_fair()
    assert machines.ids() == before
    assert_draws(machines)
    assert machines.ids() == before


def test_fair_restarted_in_mid_start(machines: Machines) -> None:
    """A fair_server that is restarted while containers start: the picture comes, with the next prompt at the latest
    where fair_server was away for longer than half a minute; nothing is started twice.
    """
    machines.end_all()
    with machines.space() as space:
        space.ask()
        wait_until("the first container", lambda: machines.alive(), 120)
        machines.restart_fair()
        drawn = space.answer()
        machines.wait_for_fair()
        if "error" in drawn:
            drawn = space.draw()
    assert drawn.get("size") == [256, 256], drawn
    assert machines.alive() == ONE_EACH
    assert len(machines.box.containers()) == 2


def test_line_cut_for_20_seconds(machines: Machines) -> None:
    """The home's line is gone for 20 s: the same containers run on, and the next prompt draws."""
    before = machines.ids()
    machines.cut_home()
    settle_down(20)
    machines.mend_home()
    wait_until("the node to be ready", lambda: machines.node_status("box") == "ready", _NOTICED_S)
    assert_draws(machines)
    assert machines.ids() == before


def test_drained_node(machines: Machines) -> None:
    """On a drained node nothing is started, and the visitor is told that it is away; active again, it draws."""
    machines.end_all()
    machines.vm.docker("node", "update", "--availability", "drain", "gpu-box")
    wait_until("the node to be away", lambda: machines.node_status("box") == "unreachable", _NOTICED_S)
    assert "not ready" in refusal(machines)
    assert machines.alive() == {}
    machines.vm.docker("node", "update", "--availability", "active", "gpu-box")
    wait_until("the node to be ready", lambda: machines.node_status("box") == "ready", _NOTICED_S)
    assert_draws(machines)


def test_box_that_loses_power(machines: Machines) -> None:
    """A GPU box without power is said to be away within seconds; switched on again, it draws with one of each."""
    machines.box.kill()
    wait_until("the node to be away", lambda: machines.node_status("box") == "unreachable", _NOTICED_S)
    began = time.monotonic()
    assert "not ready" in refusal(machines)
    assert time.monotonic() - began < 60
    machines.box.start()
    wait_until("the node to be ready", lambda: machines.node_status("box") == "ready", _NOTICED_S)
    assert_draws(machines)
    assert len(machines.box.containers()) == 2


def test_port_taken_on_the_box(machines: Machines) -> None:
    """A port that something on the GPU box holds ends in a message that names port and node, not in silence."""
    machines.end_all()
    listen = "import socket, time; s = socket.create_server(('', 5001)); time.sleep(300)"
    with machines.box_program("python3", "-c", listen):
        assert "5001 is taken on node box" in refusal(machines, START_TIMEOUT_S="60")
    assert_draws(machines)


def test_missing_image(machines: Machines) -> None:
    """An image that is on the list and nowhere else ends in a message that names it and what to do."""
    machines.end_all()
    assert "not/there:1 is not on node box" in refusal(machines, INFERENCE_IMAGE="not/there:1", DEPLOYMENT="other")
    machines.end_all()


def test_image_off_the_list(machines: Machines) -> None:
    """An image that the nodes file does not name does not run."""
    assert "does not run the image you/other" in refusal(machines, INFERENCE_IMAGE="you/other", DEPLOYMENT="other")
    machines.end_all()


def test_what_can_be_read_on_the_way(machines: Machines) -> None:
    """On the line to the Space and on the home's line there is no prompt, no key and no password."""
    with machines.captured() as capture, machines.space() as space:
        drawn = space.draw("a very particular red apple")
    assert drawn.get("size") == [256, 256], drawn
    assert len(capture.read_bytes()) > 100_000
    for secret in (b"particular red apple", b"bearer", b"a password that only tests know", b"BEGIN PRIVATE"):
        assert secret not in capture.read_bytes()


def test_nothing_is_left(machines: Machines) -> None:
    """After all was deleted no container runs, no service and no secret is left; the rows tell what there was."""
    machines.end_all()
    assert machines.alive() == {}
    assert (machines.box.containers(), machines.vm.containers()) == ([], ["fair"])
    assert machines.vm.docker("service", "ls", "-q").split() == []
    assert machines.vm.docker("secret", "ls", "-q").split() == []
    volumes = machines.box.docker("volume", "ls", "-q").split()
    assert volumes == ["fair-you-draw-1-data"], f"the volume of {INFERENCE_IMAGE} stays, and no other"
