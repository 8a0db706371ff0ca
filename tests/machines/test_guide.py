"""What docs/swarm.md and docs/security.md have the maintainer type, on whole machines that were set up as they say."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engines import missing
from tests.support.machines import ONE_EACH, Machines, running_machines
from tests.support.processes import REPOSITORY, wait_until
from tests.support.swarm_guide import BOX, documented

pytestmark = [pytest.mark.timeout(600)]

_NOTICED_S = 60


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, rathole: Path) -> Iterator[Machines]:
    """The machines, on which a picture was drawn."""
    if reason := missing():
        pytest.fail(reason)
    with running_machines(tmp_path_factory.mktemp("guide"), rathole) as machines:
        assert_draws(machines)
        yield machines


def assert_draws(machines: Machines, **changes: str) -> None:
    with machines.space(**changes) as space:
        drawn = space.draw()
    assert drawn.get("size") == [256, 256], f"{drawn}\n{machines.fair_log()[-3000:]}"


def typed_on_the_vm(machines: Machines, beginning: str) -> str:
    """Runs the documented command that begins so; returns what it prints."""
    return machines.vm.docker(*shlex.split(documented(beginning))[1:])


def test_listings(machines: Machines) -> None:
    """The listings show both machines and a job for each service."""
    assert BOX in typed_on_the_vm(machines, "docker node ls")
    assert typed_on_the_vm(machines, "docker service ls").count("replicated job") == 3


def test_pause(machines: Machines) -> None:
    """On a paused node what runs draws on, and nothing more is started; active again, it is started again."""
    before = machines.box.containers()
    typed_on_the_vm(machines, "docker node update --availability pause")
    wait_until("the node to be paused", lambda: machines.node_status(BOX) == "unreachable", _NOTICED_S)
    assert_draws(machines)
    assert machines.box.containers() == before
    machines.end_all()
    with machines.space() as space:
        assert "not ready" in str(space.draw().get("error"))
    typed_on_the_vm(machines, "docker node update --availability active")
    wait_until("the node to be ready", lambda: machines.node_status(BOX) == "ready", _NOTICED_S)
    assert_draws(machines)


def test_budget(machines: Machines) -> None:
    """With as many wake-ups in the nodes file as there were, the next is refused with the bound's name."""
    nodes = machines.guide.etc / "nodes.toml"
    text = nodes.read_text()
    nodes.write_text(text.replace("gpus = 1", "gpus = 1\nmax_wake_ups_per_day = 1"))
    typed_on_the_vm(machines, "docker restart fair")
    machines.wait_for_fair()
    assert_draws(machines)  # what runs was woken before
    machines.end_all()
    with machines.space() as space:
        told = str(space.draw().get("error"))
    assert "used its 1 wake-ups of today" in told
    assert "max_wake_ups_per_day" in told
    nodes.write_text(text)
    typed_on_the_vm(machines, "docker restart fair")
    machines.wait_for_fair()
    assert_draws(machines)


def test_new_password(machines: Machines) -> None:
    """The line that `hash` prints takes the place of the old one: the new password draws, the old one does not."""
    words = shlex.split(documented("python -m fair_server hash", "docs/security.md"))
    words = [{"python": sys.executable, "EMAIL": machines.guide.settings["FAIRCOMPUTE_EMAIL"]}.get(w, w) for w in words]
    accounts = machines.guide.etc / "accounts"
    old = accounts.read_text()
    accounts.write_text(machines.guide.here(words, stdin="another password\n"))
    machines.restart_fair()
    with machines.space() as space:
        assert "401" in str(space.draw().get("error"))
    assert_draws(machines, FAIRCOMPUTE_PASSWORD="another password")
    accounts.write_text(old)
    machines.restart_fair()
    machines.wait_for_fair()


def test_as_a_stack(machines: Machines, tmp_path: Path) -> None:
    """`docker stack deploy` runs the same server, which adopts what runs."""
    before = machines.ids()
    machines.vm.docker("rm", "--force", "fair")
    words = shlex.split(documented("docker stack deploy"))
    stack = tmp_path / "stack.yaml"
    stack.write_text(machines.guide.placed((REPOSITORY / words[4]).read_text()))
    machines.vm.docker(*(str(stack) if word == words[4] else word for word in words[1:]))
    machines.wait_for_fair()
    assert machines.ids() == before
    assert machines.alive() == ONE_EACH
    assert_draws(machines)
    machines.vm.docker("stack", "rm", "fair")
    wait_until("the stack to be gone", lambda: not [one for one in machines.vm.containers() if "fair_server" in one])
    machines.start_fair()


def test_machine_that_joined_twice(machines: Machines) -> None:
    """A GPU box that leaves and joins again is listed twice; `docker node rm` takes the old one out, and it draws."""
    machines.end_all()
    old = machines.vm.docker("node", "ls", "--filter", f"name={BOX}", "-q").strip()
    machines.box.docker("swarm", "leave")
    wait_until("the old one to be down", lambda: "Down" in machines.vm.docker("node", "ls"), _NOTICED_S)
    token = machines.vm.docker("swarm", "join-token", "-q", "worker").strip()
    machines.box.docker("swarm", "join", "--token", token, f"{machines.guide.vm_address}:2377")
    assert machines.vm.docker("node", "ls").count(BOX) == 2
    wait_until("the node to be ready", lambda: machines.node_status(BOX) == "ready", _NOTICED_S)
    assert_draws(machines)
    machines.vm.docker(*shlex.split(documented("docker node rm"))[1:], old)
    assert machines.vm.docker("node", "ls").count(BOX) == 1
    assert_draws(machines)
