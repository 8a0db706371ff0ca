"""Fair as others run it: one that cannot list containers, as the hosted one, and one with a node that is away."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.start import Timing
from errors import FairError, StartError
from tests.support.chain import (
    GPU_NODE,
    INFERENCE_IMAGE,
    ONE_EACH,
    ROLES,
    TUNNEL_IMAGE,
    TUNNEL_NODE,
    Chain,
    draw,
    running_chain,
    start_chain,
)
from tests.support.hosted_fair import HostedFair, hosted_fair
from tests.support.processes import Processes, wait_until
from text_to_image import TextToImage

pytestmark = pytest.mark.slow

ROLE_OF = {  # such a Fair is told no labels
    (INFERENCE_IMAGE, GPU_NODE): "inference",
    (TUNNEL_IMAGE, TUNNEL_NODE): "tunnel-server",
    (TUNNEL_IMAGE, GPU_NODE): "tunnel-client",
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, rathole: Path) -> Iterator[Chain]:
    """The Fair server behind the one that cannot list."""
    with running_chain(tmp_path_factory.mktemp("chain"), rathole) as chain:
        yield chain


@pytest.fixture(scope="module")
def fair(chain: Chain) -> Iterator[HostedFair]:
    """The Fair that cannot list."""
    with hosted_fair(chain.url) as fair:
        yield fair


@pytest.fixture(scope="module")
def service(chain: Chain, fair: HostedFair) -> Iterator[TextToImage]:
    """A Space on it."""
    with chain.service(FAIRCOMPUTE_SERVER_ADDRESS=fair.url) as service:
        yield service


def tried(chain: Chain) -> Counter[str]:
    """How often each role was started, those that ended at once included."""
    return Counter(ROLE_OF[row.image, row.node] for row in chain.containers())


def expect_one_each(chain: Chain) -> None:
    """One of each role runs, once those have ended that found their port taken."""

    def running() -> Counter[str]:
        return Counter(ROLE_OF[row.image, row.node] for row in chain.containers() if row.status == "running")

    wait_until("one of each role to run", lambda: running() == ONE_EACH)


def test_cold_start(chain: Chain, service: TextToImage) -> None:
    """Each service is started once, none of them with labels."""
    draw(service)
    expect_one_each(chain)
    assert tried(chain) == ONE_EACH
    assert {(row.role, row.deployment, row.fingerprint) for row in chain.containers()} == {(None, None, None)}


def test_restarted_space(chain: Chain, service: TextToImage, fair: HostedFair) -> None:
    """Another Space with the same settings draws with what runs, and starts nothing."""
    draw(service)
    before = chain.containers()
    with chain.service(FAIRCOMPUTE_SERVER_ADDRESS=fair.url) as again:
        draw(again)
    assert chain.containers() == before


@pytest.mark.parametrize("role", ROLES)
def test_killed_service(chain: Chain, service: TextToImage, role: str) -> None:
    """A killed service is brought back; of the others no second one stays, and the tunnel's client is not doubled."""
    draw(service)
    before, pids = tried(chain), {role: chain.pid(role) for role in ROLES}
    os.kill(pids[role], signal.SIGKILL)
    draw(service)
    expect_one_each(chain)
    assert {other for other in ROLES if chain.pid(other) != pids[other]} == {role}
    assert (tried(chain) - before)["tunnel-client"] == (role == "tunnel-client")


def test_frozen_server(chain: Chain, service: TextToImage, fair: HostedFair) -> None:
    """What is frozen cannot be stopped there: the error says which commands do; after them, the next prompt draws."""
    draw(service)
    pid = chain.pid("inference")
    with chain.service(Timing(silence_s=3), FAIRCOMPUTE_SERVER_ADDRESS=fair.url) as impatient:
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(StartError) as told:
            draw(impatient)
    assert f"fair node {GPU_NODE} kill" in str(told.value)
    os.kill(pid, signal.SIGKILL)
    draw(service)
    expect_one_each(chain)


@pytest.mark.alone
@pytest.mark.parametrize("node", [GPU_NODE, TUNNEL_NODE])
def test_node_down(processes: Processes, tmp_path: Path, rathole: Path, node: str) -> None:
    """A node that is off is named in time, and nothing is put there twice; when it is on, the next prompt draws."""
    chain = start_chain(processes, tmp_path, rathole)
    with (
        hosted_fair(chain.url, lists=True, away=node) as fair,
        chain.service(FAIRCOMPUTE_SERVER_ADDRESS=fair.url) as service,
        # Long enough to start what the other node runs: else it would not be the node that is off that is named.
        chain.service(FAIRCOMPUTE_SERVER_ADDRESS=fair.url, START_TIMEOUT_S="10") as impatient,
    ):
        with pytest.raises(FairError) as told:
            draw(impatient)
        assert told.value.link == f"Node {node}"
        assert "NotResponding" in told.value.came_back
        before = chain.starts()
        with pytest.raises(StartError) as again:  # now Fair has a container there, and says itself that it is away
            draw(service)
        assert again.value.link == f"Node {node}"
        assert "nothing was started" in again.value.next_step
        assert chain.starts() == before == ONE_EACH
        fair.come_back()
        draw(service)
    assert chain.starts() == ONE_EACH
