"""A picture across three machines: a Space, a VM, a GPU box behind NAT; and what happens when one of them fails.

The tests go on from where the one before has left the machines, in the order of this file.
"""

import functools
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint.credentials import Credentials
from tests.support.docker_engines import missing, settle_down
from tests.support.machine_images import INFERENCE_IMAGE
from tests.support.machine_networks import REFUSING, SILENT, VM
from tests.support.machines import ONE_EACH, Machines, running_machines
from tests.support.processes import wait_until
from tests.support.swarm_guide import BOX, documented

pytestmark = [pytest.mark.timeout(600)]

_PNG = "iVBORw0KGgo"  # the beginning of a picture, in base64
_TOKEN_S = 6  # at least the time from a login to the request that it is for, on a busy machine
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


def test_token_that_expires_in_mid_start(machines: Machines) -> None:
    """A token that expired since the last drawing, and does so again within a start: it goes on with new logins."""
    machines.end_all()
    machines.start_fair("--token-ttl-s", str(_TOKEN_S))
    with machines.space() as space:
        for _ in range(2):
            drawn = space.draw()
            assert drawn.get("size") == [256, 256], drawn
            machines.end_all()
            settle_down(_TOKEN_S)
    machines.start_fair()
    assert_draws(machines)


def test_two_processes_at_once(machines: Machines) -> None:
    """Two processes of the Space that start everything at the same moment both draw, and one of each is left."""
    machines.end_all()
    with machines.space() as one, machines.space() as other:
        for space in (one, other):
            space.ask()
        drawn = [space.answer() for space in (one, other)]
    assert [picture.get("size") for picture in drawn] == [[256, 256]] * 2, drawn
    wait_until("one of each", lambda: machines.alive() == ONE_EACH, 60)


def test_line_cut_for_20_seconds(machines: Machines) -> None:
    """The home's line is gone for 20 s: the same containers run on, and the next prompt draws."""
    cut_for(machines, 20)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_line_cut_for_5_minutes(machines: Machines) -> None:
    """The home's line is gone for five minutes: visitors are told, its containers run on, and the next prompt draws."""
    cut_for(machines, 300)


def cut_for(machines: Machines, seconds: float) -> None:
    """Cuts the home's line; what runs there has to survive it, and nothing is started meanwhile."""
    before, box_before = machines.ids(), machines.box.containers()
    machines.cut_home()
    try:
        began = time.monotonic()
        wait_until("the node to be away", lambda: machines.node_status(BOX) == "unreachable", _NOTICED_S)
        if seconds > 100:
            assert "not ready" in refusal(machines)
        settle_down(max(0.0, seconds - (time.monotonic() - began)))
    finally:
        machines.mend_home()
    began = time.monotonic()
    wait_until("the node to be ready", lambda: machines.node_status(BOX) == "ready", _NOTICED_S)
    ready_s = time.monotonic() - began
    assert_draws(machines)
    print(
        f"after {seconds:.0f} s: the node is ready again in {ready_s:.0f} s, drawn {time.monotonic() - began:.0f} s on"
    )
    assert machines.ids() == before
    assert machines.box.containers() == box_before


def test_drained_node(machines: Machines) -> None:
    """What runs on a node that is drained is ended, and the visitor is told that it is away; active again, it draws."""
    machines.vm.docker(*shlex.split(documented("docker node update --availability drain"))[1:])
    wait_until("the node to be empty", lambda: machines.box.containers() == [], _NOTICED_S)
    assert machines.alive() == {"tunnel-server": 1}
    assert "not ready" in refusal(machines)
    machines.vm.docker(*shlex.split(documented("docker node update --availability active"))[1:])
    wait_until("the node to be ready", lambda: machines.node_status(BOX) == "ready", _NOTICED_S)
    assert_draws(machines)


def test_box_that_loses_power(machines: Machines) -> None:
    """A GPU box without power is said to be away within seconds; switched on again, it draws with one of each."""
    machines.box.kill()
    wait_until("the node to be away", lambda: machines.node_status(BOX) == "unreachable", _NOTICED_S)
    began = time.monotonic()
    assert "not ready" in refusal(machines)
    assert time.monotonic() - began < 60
    machines.box.start()
    wait_until("the node to be ready", lambda: machines.node_status(BOX) == "ready", _NOTICED_S)
    assert_draws(machines)
    assert len(machines.box.containers()) == 2


def test_vm_that_is_rebooted(machines: Machines) -> None:
    """The VM's engine ends with all its containers and comes back: fair_server is there by itself, the GPU box's
    containers run on, and the next prompt starts what was on the VM.
    """
    box_before = set(machines.box.containers())
    machines.vm.kill()
    began = time.monotonic()
    machines.vm.start()
    machines.wait_for_fair()
    wait_until("the node to be ready", lambda: machines.node_status(BOX) == "ready", _NOTICED_S)
    print(f"{time.monotonic() - began:.0f} s until fair_server has both nodes again")
    assert_draws(machines)
    assert set(machines.box.containers()) == box_before


def test_port_taken_on_the_box(machines: Machines) -> None:
    """A port that something on the GPU box holds ends in a message that names port and node, not in silence."""
    machines.end_all()
    with machines.listener_on_box(5001):
        assert "5001 is taken on node gpu-box" in refusal(machines, START_TIMEOUT_S="60")
    assert_draws(machines)


def test_full_disk(machines: Machines) -> None:
    """A full disk of the GPU box ends in a message that says so; with room again it draws."""
    machines.end_all()
    with machines.full_disk_on_box():
        told = refusal(machines)
    # Docker says so, or only that its runtime failed, as it hits a full disk at another moment each time.
    assert re.search("disk of node gpu-box is full|node gpu-box failed. Its disk may be full", told), told
    machines.box.docker(*shlex.split(documented("docker system prune"))[1:], stdin=b"y\n")
    assert_draws(machines)


def test_missing_image(machines: Machines) -> None:
    """An image that is on the list and nowhere else ends in a message that names it and what to do."""
    machines.end_all()
    assert "not/there:1 is not on node gpu-box" in refusal(machines, INFERENCE_IMAGE="not/there:1", DEPLOYMENT="other")
    machines.end_all()


def test_registry_that_refuses(machines: Machines) -> None:
    """The same where a registry is there and lets the machine not in."""
    image = f"{REFUSING}/{INFERENCE_IMAGE}"
    with machines.refusing_registry():
        told = refusal(machines, INFERENCE_IMAGE=image, DEPLOYMENT="other")
    assert f"{image} is not on node gpu-box, and could not be fetched there" in told
    machines.end_all()


def test_registry_that_is_silent(machines: Machines) -> None:
    """A registry that never answers costs a first picture some 25 s; then the machine takes its own image."""
    image = f"{SILENT}/{INFERENCE_IMAGE}"
    took_s = assert_draws(machines, INFERENCE_IMAGE=image, DEPLOYMENT="other")
    print(f"with a silent registry the first picture takes {took_s:.0f} s")
    assert took_s > 10
    machines.end_all()


def test_image_without_its_user(machines: Machines) -> None:
    """An image that names a user whom it does not have ends in a message that says so."""
    told = refusal(machines, INFERENCE_IMAGE="without/its-user:1", DEPLOYMENT="other")
    assert "names a user that it does not have" in told
    machines.end_all()


def test_node_without_a_gpu(machines: Machines) -> None:
    """The VM offers no GPU: the inference server does not start there on its CPU instead."""
    assert "offers no NVIDIA-GPU" in refusal(machines, INFERENCE_NODE="vm", DEPLOYMENT="other")
    machines.end_all()


def test_image_off_the_list(machines: Machines) -> None:
    """An image that the nodes file does not name does not run."""
    assert "does not run the image you/other" in refusal(machines, INFERENCE_IMAGE="you/other", DEPLOYMENT="other")
    machines.end_all()


def test_what_can_be_read_on_the_way(machines: Machines) -> None:
    """On no machine's network is there a prompt, a key or a password to read; what is said in plain text is seen."""
    assert_draws(machines)
    settings = machines.guide.settings
    keys, password = Credentials.from_secret(settings["ENDPOINT_SECRET"]), settings["FAIRCOMPUTE_PASSWORD"]
    with machines.captured() as captures:
        with machines.space() as space:
            drawn = space.draw("a very particular red apple")
        machines.say_in_plain_text(b"GET /words-in-plain-text HTTP/1.1\r\n\r\n")
        for capture in captures:  # what came before them is in the file then, too
            wait_until(f"{capture} to have them", functools.partial(_has, capture, b"words-in-plain-text"), 60)
    assert drawn.get("size") == [256, 256], drawn
    for capture in captures:
        content = capture.read_bytes()
        for secret in ("particular red apple", keys.bearer, keys.tunnel_token, password, "BEGIN PRIVATE", _PNG):
            assert secret.encode() not in content, (capture, secret)


def _has(file: Path, words: bytes) -> bool:
    return words in file.read_bytes()


def test_nothing_is_left(machines: Machines) -> None:
    """After all was deleted no container runs, no service and no secret is left; the rows tell what there was."""
    machines.end_all()
    assert machines.alive() == {}
    assert (machines.box.containers(), machines.vm.containers()) == ([], ["fair"])
    assert machines.vm.docker("service", "ls", "-q").split() == []
    assert machines.vm.docker("secret", "ls", "-q").split() == []
    volumes = machines.box.docker("volume", "ls", "-q").split()
    kept = ["fair-198.51.100.1-5001-draw-data", "fair-draw-data"]
    assert volumes == kept, f"the volumes of {INFERENCE_IMAGE} stay, and no others"
