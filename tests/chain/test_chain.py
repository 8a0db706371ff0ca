"""The whole chain: what a prompt starts, what it finds again, and what it brings back after something has died."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drawing.events import Picture, Step, Waking
from errors import StartError
from tests.support.chain import DEPLOYMENT, DRAW_S, ONE_EACH, ROLES, Chain, draw, running_chain, start_chain
from tests.support.processes import Processes, is_running, wait_until
from text_to_image import TextToImage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LONG: dict[str, Any] = {
    "num_inference_steps": 250,
    "width": 128,
    "height": 128,
}  # seconds, and twice where it is drawn again


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, rathole: Path) -> Iterator[Chain]:
    """One chain for all tests that leave it whole."""
    with running_chain(tmp_path_factory.mktemp("chain"), rathole) as chain:
        yield chain


@pytest.fixture(scope="module")
def service(chain: Chain) -> Iterator[TextToImage]:
    """A Space on that chain."""
    with chain.service() as service:
        yield service


@pytest.fixture
def warm(service: TextToImage) -> TextToImage:
    """That Space, a moment after a picture."""
    draw(service)
    return service


@pytest.fixture
def cold(processes: Processes, tmp_path: Path, rathole: Path) -> Chain:
    """A chain of the test's own on which nothing runs."""
    return start_chain(processes, tmp_path, rathole)


def test_first_and_second_prompt(cold: Chain) -> None:
    """The first prompt starts each service once, on its node and with its labels, the second one none."""
    with cold.service() as service:
        assert cold.containers() == []
        first = service.submit("a red apple", num_inference_steps=50)  # enough for one to be told, however busy all are
        assert first.result(DRAW_S).image.size == (256, 256)
        rows = cold.containers()
        draw(service, "a blue fish")
        assert cold.containers() == rows
        assert service.status().ready
    assert {(row.role, row.node) for row in rows} == {
        ("inference", "gpu"),
        ("tunnel-server", "tunnel"),
        ("tunnel-client", "gpu"),
    }
    assert len(rows) == 3
    assert {(row.deployment, row.status, row.exit_code) for row in rows} == {(DEPLOYMENT, "running", None)}
    assert len({row.fingerprint for row in rows if row.fingerprint}) == 3
    kinds = [type(event) for event in first.events]
    assert (kinds[0], kinds[-1]) == (Waking, Picture)
    assert Step in kinds
    assert f"request {first.id}: accepted" in cold.outputs()  # one id from the page to the inference server's log


@pytest.mark.parametrize("role", ROLES)
def test_killed_service(chain: Chain, warm: TextToImage, role: str) -> None:
    """A service that was killed is brought back by the next prompt: that one and only that one."""
    before, pids = chain.starts(), {role: chain.pid(role) for role in ROLES}
    chain.kill(role)
    draw(warm)
    assert chain.started_since(before) == {role: 1}
    assert chain.running() == ONE_EACH
    assert {other for other in ROLES if chain.pid(other) != pids[other]} == {role}


def test_killed_engine(chain: Chain, warm: TextToImage) -> None:
    """A killed engine process is started again by its inference server: no container is."""
    before, pid = chain.starts(), chain.engine_pid()
    os.kill(pid, signal.SIGKILL)
    draw(warm)
    assert chain.started_since(before) == {}
    assert chain.engine_pid() != pid


def test_engine_killed_while_drawing(chain: Chain, warm: TextToImage) -> None:
    """A drawing whose engine process is killed at work still ends in its picture, and no container is started."""
    before, pid = chain.starts(), chain.engine_pid()
    job = warm.submit("a red apple", **LONG)
    wait_until("a step", lambda: any(isinstance(event, Step) and event.step > 2 for event in job.events))
    assert not job.finished
    os.kill(pid, signal.SIGKILL)
    assert job.result(DRAW_S).image.size == (128, 128)
    assert chain.started_since(before) == {}


def test_server_killed_while_drawing(chain: Chain, warm: TextToImage) -> None:
    """A drawing whose inference server is killed at work still ends in its picture, and only that one is started."""
    before = chain.starts()
    job = warm.submit("a red apple", **LONG)
    wait_until("a step", lambda: any(isinstance(event, Step) and event.step > 2 for event in job.events))
    assert not job.finished
    os.kill(chain.pid("inference"), signal.SIGKILL)
    assert job.result(DRAW_S).image.size == (128, 128)
    assert chain.started_since(before) == {"inference": 1}


def test_frozen_server(chain: Chain, warm: TextToImage) -> None:
    """A frozen inference server (SIGSTOP) is replaced by the next prompt, and nothing else is."""
    before, pid = chain.starts(), chain.pid("inference")
    os.kill(pid, signal.SIGSTOP)
    draw(warm)
    assert chain.started_since(before) == {"inference": 1}
    assert chain.running() == ONE_EACH
    assert not is_running(pid)


def test_restarted_space_adopts(chain: Chain, warm: TextToImage) -> None:
    """Another Space with the same settings draws with what runs, and starts nothing."""
    before = chain.containers()
    with chain.service() as again:
        draw(again)
    assert chain.containers() == before


def test_another_deployment_is_refused(chain: Chain, warm: TextToImage) -> None:
    """A Space of another deployment on the same node is told whose services run there, and touches nothing."""
    before = chain.containers()
    with (
        chain.service(DEPLOYMENT="someone/else", ENDPOINT_SECRET="another secret of tests: 0123456789 abcdef") as other,
        pytest.raises(StartError) as told,
    ):
        draw(other)
    assert repr(DEPLOYMENT) in str(told.value)
    assert "Node gpu" in str(told.value)
    assert chain.containers() == before
    draw(warm)


def test_another_secret_replaces(cold: Chain) -> None:
    """With another secret, the deployment's old services are ended and each is started once more."""
    with cold.service() as old:
        draw(old)
    with cold.service(ENDPOINT_SECRET="another secret of tests: 0123456789 abcdef") as new:
        draw(new)
    assert cold.starts() == dict.fromkeys(ROLES, 2)
    assert cold.running() == ONE_EACH
    fingerprints = [row.fingerprint for row in cold.containers()]
    assert len(set(fingerprints)) == len(fingerprints) == 6


def test_two_spaces_at_the_same_moment(cold: Chain) -> None:
    """Two Spaces of one deployment that start at the same moment both draw, and one service of each role stays."""
    with cold.service() as one, cold.service() as other:
        jobs = [one.submit("a red apple"), other.submit("a blue fish")]
        for job in jobs:
            assert job.result(DRAW_S).image.size == (256, 256)
        wait_until("the doubles to be ended", lambda: cold.running() == ONE_EACH)
        draw(one)
        draw(other)
        assert cold.running() == ONE_EACH


def test_without_a_tunnel(cold: Chain) -> None:
    """TUNNEL=none draws with the inference server alone."""
    with cold.service(TUNNEL="none", TUNNEL_NODE=None) as service:
        draw(service)
        assert not service.status().tunnel
    assert cold.starts() == {"inference": 1}


@pytest.mark.alone
def test_idle_container_ends_and_comes_back(cold: Chain) -> None:
    """After IDLE_EXIT_S without a prompt the inference server ends by itself; the next prompt starts only it again."""
    with cold.service(IDLE_EXIT_S="8") as service:
        draw(service)
        ended = wait_until(
            "the inference server to end itself", lambda: [row for row in cold.containers() if row.status == "ended"]
        )
        assert [(row.role, row.exit_code) for row in ended] == [("inference", 0)]
        draw(service)
    assert cold.starts() == {**ONE_EACH, "inference": 2}
