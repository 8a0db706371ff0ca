"""A Space behind its TLS edge and a worker behind a home's router: real programs, and a line on which all goes wrong.

Every visitor gets a picture or a sentence, nothing is drawn twice. The tests follow one another on the same machines.
"""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from PIL import Image

from benchmarks._lines_engine import noise
from benchmarks._link import Quality
from tests.support.home_network import SPACE_IDLE_S, TUNNEL_IDLE_S, HomeNetwork, Visitors, cannot_be_had, reaches
from tests.support.processes import Processes, Program, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.networks, pytest.mark.timeout(600)]
LINE = Quality(25, 40, 2)
MID_PICTURE_STEPS = 80  # 4 s


class House:
    """The networks and the worker that is there."""

    def __init__(self, network: HomeNetwork) -> None:
        self.network = network
        self.worker = network.start_worker("box")

    def begin(self, prompt: str) -> Visitors:
        """A picture that a worker has begun."""
        before = self._accepted(self.worker)
        visitors = self.network.visit(prompt, steps=MID_PICTURE_STEPS)
        wait_until("the worker to have it", lambda: self._accepted(self.worker) > before)
        return visitors

    @staticmethod
    def _accepted(worker: Program) -> int:
        return len(re.findall("request .*: accepted", worker.output()))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    if reason := cannot_be_had():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("home")
    network = HomeNetwork(folder, Processes(tmp_path_factory.mktemp("programs")), LINE)
    try:
        network.start()
        yield House(network)
    finally:
        network.close()


@pytest.fixture(autouse=True)
def _nothing_is_drawn_twice(house: House) -> Iterator[None]:
    if house.worker.process.poll() is not None:  # a test before this one has failed
        house.worker = house.network.start_worker("box")
    yield
    twice = [prompt for prompt, times in Counter(house.network.drawn()).items() if times > 1]
    assert twice == []


def outcomes(visitors: Visitors) -> list[str]:
    """Of each visitor, a wrong or a missing one told with its words."""
    return [
        told["outcome"] if told["outcome"] in ("picture", "sentence") else str(told) for told in visitors.outcomes()
    ]


def test_a_first_picture(house: House) -> None:
    """The page is reached on its port alone, the worker on none, and the worker draws."""
    network = house.network
    assert reaches(network.edge, "10.78.0.2", 7860)
    assert not reaches(network.edge, "10.78.0.2", 7861)
    assert outcomes(network.visit("first")) == ["picture"]
    assert network.home.run("ss", "-tlnH") == ""


def test_a_photo_of_ten_megabytes_starts_a_picture(house: House) -> None:
    """As large a file as the edge lets through comes from a browser to the worker; the picture has its shape."""
    photo = house.network.folder / "photo.png"
    Image.frombytes("RGB", (2576, 1288), noise(1, 2576, 1288)).save(photo, compress_level=0)
    assert 9.9e6 < photo.stat().st_size < 10 * 2**20
    width, height = house.network.draw_from(photo, "from a photo")
    assert width == 2 * height


def test_an_idle_line_is_kept_while_the_engine_sleeps(house: House) -> None:
    """The edge cuts what is idle; the worker's line lives on, its engine sleeps and wakes for the next picture.

    The edge hears of it every few seconds, far more often than a Space's host asks for.
    """
    begun, ports = time.monotonic(), house.network.ports()
    house.worker.wait_for_line("asleep", 30)
    silent_ms = [house.network.silence_ms()]
    while time.monotonic() < begun + TUNNEL_IDLE_S + 1.0:
        time.sleep(0.5)
        silent_ms.append(house.network.silence_ms())
    assert house.network.ports() == ports
    assert 0 < max(silent_ms) < SPACE_IDLE_S * 1000 / 10
    assert outcomes(house.network.visit("awake")) == ["picture"]


def test_a_line_cut_for_five_seconds(house: House) -> None:
    """In mid-picture."""
    visitors = house.begin("cut")
    house.network.line.cut(True)
    time.sleep(5)
    house.network.line.cut(False)
    assert outcomes(visitors) == ["picture"]


def test_a_half_open_line(house: House) -> None:
    """The router forgets the connection; both ends believe in it, until the worker dials again."""
    visitors = house.begin("half open")
    (port,) = house.network.ports()
    house.network.drop(port)
    assert outcomes(visitors) == ["picture"]
    assert "it has dialled again" in house.network.page.output()


def test_a_worker_that_is_killed_in_mid_picture(house: House) -> None:
    """Started again, it draws what it had not finished."""
    visitors = house.begin("worker killed")
    house.worker.signal(signal.SIGKILL, group=True)
    house.worker = house.network.start_worker("box")
    assert outcomes(visitors) == ["picture"]


def test_a_page_that_is_killed_in_mid_picture(house: House) -> None:
    """Its visitor reads that it is gone; the worker dials the next one, which draws."""
    visitors = house.begin("page killed")
    house.network.page.signal(signal.SIGKILL, group=True)
    assert outcomes(visitors) == ["sentence"]
    house.network.start_page()
    wait_until("the worker to come back", lambda: "is there and draws" in house.network.page.output())
    assert outcomes(house.network.visit("next page")) == ["picture"]


def test_two_workers_of_which_one_dies(house: House) -> None:
    """In mid-picture, for good: the other one draws it."""
    visitors = house.begin("one dies")
    other = house.network.start_worker("other")
    house.worker.signal(signal.SIGKILL, group=True)
    assert outcomes(visitors) == ["picture"]
    house.worker = other


def test_a_hundred_visitors_at_once(house: House) -> None:
    """Each gets the picture of its seed, or reads why not; nobody is forgotten."""
    told = house.network.visit("crowd", visitors=100, steps=2).outcomes()
    assert len(told) == 100
    assert [one for one in told if one["outcome"] != "picture"] == []
    assert len([prompt for prompt in house.network.drawn() if prompt.startswith("crowd")]) == 100
