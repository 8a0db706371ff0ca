"""`python app.py` as a program: how it starts, what it says about wrong settings, how it ends."""

import signal
import socket
import sys

import httpx
import pytest

from page import serve as page_server
from tests.support.processes import Processes, free_port
from tests.support.space import start_space

_LOCAL = {"TUNNEL": "none"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_quietly_while_visitors_are_there(processes: Processes, number: signal.Signals) -> None:
    """A signal ends the program with code 0, no traceback, although a page stays open and a drawing is under way."""
    space = start_space(processes, _LOCAL)
    with httpx.stream("GET", f"{space.url}/gradio_api/heartbeat/visitor", timeout=60):
        call = f"{space.url}/gradio_api/call/text_to_image"
        httpx.post(call, json={"data": ["a castle"]}, timeout=60).raise_for_status()
        space.program.wait_for_line("drawing begins")
        space.program.signal(number)
        assert space.program.wait_for_end() == 0
    assert "Traceback" not in space.program.output()


@pytest.mark.slow
def test_a_wrong_setting_is_one_clear_sentence(processes: Processes) -> None:
    """A setting that is wrong ends the program with code 2 and a sentence that names it, no traceback."""
    space = processes.start([sys.executable, "app.py"], {"FAIRCOMPUTE_EMAIL": "me@example.org"})
    assert space.wait_for_end() == 2
    assert "INFERENCE_NODE" in space.output()
    assert "Traceback" not in space.output()


@pytest.mark.slow
def test_the_address_is_the_last_line_of_a_start(processes: Processes) -> None:
    """The named port is used, and when the page can be opened its address has been printed, and nothing after it."""
    port = str(free_port())
    space = start_space(processes, {**_LOCAL, "GRADIO_SERVER_PORT": port})
    assert space.url == f"http://127.0.0.1:{port}"
    assert httpx.get(space.url, timeout=60).status_code == 200
    assert space.program.output().rstrip().splitlines()[-1].startswith("The page is at ")


@pytest.mark.slow
def test_a_taken_port_is_told(processes: Processes) -> None:
    """The page is not put on another port than the one that was named: the program ends with one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        space = processes.start([sys.executable, "app.py"], {**_LOCAL, "GRADIO_SERVER_PORT": port})
        assert space.wait_for_end() == 1
    assert f"could not be served, does another program listen there? Cannot find empty port in range: {port}" in (
        space.output()
    )
    assert "Traceback" not in space.output()


@pytest.mark.slow
def test_a_proxy_for_the_outside_is_not_asked_for_this_machine(processes: Processes, closed_port: int) -> None:
    """Where HTTP_PROXY is set, as in many offices, the page starts and draws all the same."""
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    proxies: dict[str, str | None] = dict.fromkeys(names, f"http://127.0.0.1:{closed_port}")
    space = start_space(processes, {**_LOCAL, **proxies, "NO_PROXY": None, "no_proxy": None})
    assert space.draw().size == (256, 256)


def test_room_for_five_hundred() -> None:
    """Gradio's queue and its places for running events leave room for five hundred visitors and more."""
    assert page_server.QUEUE_MAX >= 500
    assert page_server.PLACES >= 500
