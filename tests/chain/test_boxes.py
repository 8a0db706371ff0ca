"""Several GPU boxes: each with a chain of its own, on one Fair server with real programs and an engine that sleeps."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.boxes import ANOTHER
from benchmarks._boxes import BOXES, TUNNEL_NODE, BoxesFair, boxes_fair
from drawing.events import Step, Waking
from drawing.jobs import Job
from tests.support import process_tree
from tests.support.certificates import Authority
from tests.support.chain import DRAW_S, service_of
from tests.support.fair_fronts import fair_that_reaches_not_all
from tests.support.processes import free_port, wait_until
from tests.support.tls_front import tls_front
from text_to_image import TextToImage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ALL_ONCE = {
    ("box1", "inference"): 1,
    ("box1", "tunnel-client"): 1,
    ("box2", "inference"): 1,
    ("box2", "tunnel-client"): 1,
    (TUNNEL_NODE, "tunnel-server"): 1,
}


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory, rathole: Path) -> Iterator[BoxesFair]:
    with boxes_fair(tmp_path_factory.mktemp("boxes"), str(rathole)) as fair:
        yield fair


def draw_all(service: TextToImage, prompts: list[str], steps: int = 10) -> Counter[str]:
    """How many of these, asked for at once, each box has drawn."""
    jobs = [service.submit(prompt, num_inference_steps=steps, visitor=prompt) for prompt in prompts]
    with ThreadPoolExecutor(len(jobs)) as pool:
        return Counter(str(drawn.receipt.worker) for drawn in pool.map(lambda job: job.result(DRAW_S), jobs))


def both_ready(service: TextToImage) -> bool:
    return [box.ready for box in service.status().boxes] == [True, True]


def wait_for_both(service: TextToImage) -> None:
    wait_until("both boxes to be ready", lambda: both_ready(service), DRAW_S)


def begun(job: Job) -> None:
    """Returns once the drawing has made a step."""
    wait_until("the first step", lambda: any(isinstance(event, Step) for event in job.events))


def test_both_draw(fair: BoxesFair) -> None:
    """Both boxes are started by many prompts at once, each service once, the tunnel's server once for both; both draw,
    each picture once, and each names the box that drew it.
    """
    with service_of(fair.environment(*BOXES)) as service:
        first = draw_all(service, ["wake up"])
        assert set(first) <= set(BOXES)
        wait_for_both(service)
        assert service.status().limits.images_at_once == 8
        assert fair.starts() == ALL_ONCE
        drawn = draw_all(service, [f"many {number}" for number in range(16)])
        assert set(drawn) == set(BOXES)
        assert min(drawn.values()) >= 6
    told = Counter(line.partition(" ")[2] for line in fair.drawn_file.read_text().splitlines())
    assert set(told.values()) == {1}


def test_one_that_is_off_is_left_out(fair: BoxesFair) -> None:
    """While a box is off the other one draws and nothing is started there; the status tells why, and once it is back
    the next prompts wake it.
    """
    for role in ("inference", "tunnel-client"):
        fair.end("box2", role)
    before, away = fair.starts(), {"box2"}
    with (
        fair_that_reaches_not_all(fair.url, away) as front,
        service_of(fair.environment(*BOXES, FAIRCOMPUTE_SERVER_ADDRESS=front.url)) as service,
    ):
        assert draw_all(service, ["a", "b", "c"], steps=2) == {"box1": 3}
        wait_until("the trouble to be told", lambda: service.status().boxes[1].trouble)
        assert "not ready" in str(service.status().boxes[1].trouble)
        assert fair.starts() == before
        away.clear()
        wait_until("both", lambda: draw_all(service, ["again"], steps=1) and both_ready(service), DRAW_S)
        assert service.status().boxes[1].trouble is None
    assert fair.starts() - before == Counter({("box2", "inference"): 1, ("box2", "tunnel-client"): 1})


def test_a_box_dies_in_mid_picture(fair: BoxesFair) -> None:
    """A picture whose box is killed while it draws is drawn by the other one, once; the dead one is woken again."""
    with service_of(fair.environment(*BOXES)) as service:
        draw_all(service, ["are you there"], steps=1)
        wait_for_both(service)
        before = fair.starts()
        job = service.submit("survives", num_inference_steps=60)
        begun(job)
        os.kill(inference_pid(fair, "box1"), signal.SIGKILL)
        assert job.result(DRAW_S).receipt.worker == "box2"
        assert Waking(ANOTHER) in job.events
        assert fair.drawn_file.read_text().count("survives") == 1
        wait_until("both", lambda: draw_all(service, ["again"], steps=1) and both_ready(service), DRAW_S)
    assert fair.starts() - before == Counter({("box1", "inference"): 1})


def test_the_tunnel_s_server_dies(fair: BoxesFair) -> None:
    """What both boxes lose at once is started once, and all that was asked for is drawn."""
    with service_of(fair.environment(*BOXES)) as service:
        draw_all(service, ["are you there"], steps=1)
        wait_for_both(service)
        before = fair.starts()
        fair.end(TUNNEL_NODE, "tunnel-server")
        assert draw_all(service, [f"after {number}" for number in range(8)]).total() == 8
        wait_until("both", lambda: both_ready(service), DRAW_S)
    assert fair.starts() - before == Counter({(TUNNEL_NODE, "tunnel-server"): 1})


def test_each_goes_to_sleep_by_itself(fair: BoxesFair) -> None:
    """A box without drawings ends while the other one draws; later prompts find it gone, wake it, and none fails."""
    with service_of(fair.environment(*BOXES, IDLE_EXIT_S="3")) as service:
        draw_all(service, ["wake up"], steps=1)
        wait_for_both(service)
        assert fair.running() == ALL_ONCE  # those with other settings are replaced
        alone = threading.Event()

        def draw_on() -> None:
            while not alone.is_set():
                draw_all(service, ["one at a time"], steps=4)

        drawing = threading.Thread(target=draw_on)
        drawing.start()
        try:
            wait_until("box2 to end while box1 runs", lambda: boxes_up(fair) == ["box1"])
        finally:
            alone.set()
            drawing.join(DRAW_S)
        assert draw_all(service, [f"many {number}" for number in range(12)]).total() == 12
        wait_until("both", lambda: draw_all(service, ["x", "y"], steps=1) and both_ready(service), DRAW_S)


def boxes_up(fair: BoxesFair) -> list[str]:
    """The boxes whose inference server runs, as of one moment."""
    running = fair.running()
    return [box for box in BOXES if (box, "inference") in running]


def inference_pid(fair: BoxesFair, box: str) -> int:
    """The inference server of that box: its host port stands in its command line."""
    port = str(fair.ports[BOXES.index(box)])
    (pid,) = [pid for pid in process_tree.children(fair.program.pid) if port in process_tree.argv(pid)]
    return pid


def test_a_certificate_that_the_world_trusts(fair: BoxesFair, tmp_path: Path) -> None:
    """A chain whose TUNNEL_ADDRESS is a host name draws by that name's certificate, which something on the box holds in
    front of the inference server.
    """
    authority, port = Authority(tmp_path), free_port()
    changes = {
        "ENDPOINT_TLS": "public",
        "ENDPOINT_TLS_PORT": str(port),
        "TUNNEL_ADDRESS": "localhost",
        "REQUESTS_CA_BUNDLE": str(authority.file),
    }
    settings = fair.environment("box1", **changes)
    with tls_front(port, fair.ports[0], *authority.certify("localhost")), service_of(settings) as service:
        assert service.submit("trusted", num_inference_steps=1).result(DRAW_S).seed is not None
    assert fair.drawn_file.read_text().count("trusted") == 1
    assert ("box2", "inference") not in fair.running()  # it belongs to the deployment no more
