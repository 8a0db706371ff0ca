"""What programs and agents call beside `text_to_image`: tickets, their results, and what they are told."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from gradio_client import Client  # type: ignore[import-untyped]

from drawing.events import Queued, Step, Waking
from drawing.jobs import Job
from drawing.models import GenerationRequest
from errors import BusyError, DrawingError
from page.api import state
from page.visitor import caller_address
from tests.support.page_service import StandInService, serve
from tests.support.processes import wait_until

PATIENT = httpx.Timeout(60)
ENDPOINTS = ["/text_to_image", "/submit", "/result", "/cancel"]


@dataclass(frozen=True)
class Served:
    service: StandInService
    url: str


@pytest.fixture(scope="module")
def _served() -> Iterator[Served]:
    service = StandInService()
    page, url = serve(service)
    yield Served(service, url)
    page.close(verbose=False)


@pytest.fixture
def served(_served: Served) -> Iterator[Served]:
    yield _served
    _served.service.fail_with = _served.service.refuse_with = None
    for gate in ("waking", "queued", "drawing", "done"):
        _served.service.let(gate)


@contextmanager
def _holding(served: Served, gate: str) -> Iterator[None]:
    served.service.hold(gate)
    yield
    served.service.let(gate)


def _call(url: str, name: str, **body: Any) -> tuple[str, Any]:
    """One call as HF's agents.md tells it, with curl's means: the name of its last event, and that event's data."""
    sent, kind = json.dumps(body), {"content-type": "application/json"}  # in ASCII: httpx's own takes no lone surrogate
    posted = httpx.post(f"{url}gradio_api/call/v2/{name}", content=sent, headers=kind, timeout=PATIENT)
    if posted.status_code != 200:
        return str(posted.status_code), posted.json()
    answer = httpx.get(f"{url}gradio_api/call/{name}/{posted.json()['event_id']}", timeout=PATIENT).text
    event, _, payload = answer.strip().rpartition("event: ")[2].partition("\ndata: ")
    return event, json.loads(payload)


def test_parameters_are_told_with_names_descriptions_and_limits(served: Served) -> None:
    """Programs read of every parameter what it is called, what it means and what it may be."""
    endpoints = httpx.get(f"{served.url}gradio_api/info", timeout=PATIENT).json()["named_endpoints"]
    assert list(endpoints) == ENDPOINTS
    for endpoint in endpoints.values():
        assert len(endpoint["description"]) > 40
        for parameter in endpoint["parameters"]:
            assert parameter["label"] == parameter["parameter_name"]
            assert len(parameter["type"]["description"]) > 15
    width = next(one for one in endpoints["/submit"]["parameters"] if one["label"] == "width")["type"]
    assert (width["minimum"], width["maximum"], width["multipleOf"]) == (64, 2048, 8)


def test_a_ticket_leads_to_the_picture(served: Served) -> None:
    """`submit` answers while the GPU still wakes; `result` says what happens and when to ask again, then gives it."""
    with _holding(served, "waking"):
        event, (ticket,) = _call(served.url, "submit", prompt="a red apple")
        wait_until("the job to begin", lambda: served.service.started[-1].events)
        _, (picture, told) = _call(served.url, "result", id=ticket["id"])
    assert (event, picture, told["status"]) == ("complete", None, "waking")
    assert told["message"].startswith("Waking the machine that draws")
    assert 1 <= told["ask_again_s"] <= 20
    served.service.started[-1].result(60)
    _, (picture, told) = _call(served.url, "result", id=ticket["id"])
    assert (told["status"], told["seed"], told["ask_again_s"]) == ("done", 42, None)
    assert httpx.get(picture["url"], timeout=PATIENT).content.startswith(b"\x89PNG")


def test_an_id_is_not_enough_to_cancel(served: Served) -> None:
    """Who has the id alone sees the picture and cannot cancel it; the cancel token can."""
    with _holding(served, "drawing"):
        _, (ticket,) = _call(served.url, "submit", prompt="a dog")
        for wrong in ("", ticket["id"], "x" * 22, "\ud800"):
            event, error = _call(served.url, "cancel", id=ticket["id"], cancel_token=wrong)
            assert (event, error["error"]) == ("error", "This is not the cancel token of that drawing.")
        assert not served.service.started[-1].finished
        _, (told,) = _call(served.url, "cancel", id=ticket["id"], cancel_token=ticket["cancel_token"])
        assert told["status"] == "cancelled"
    _, (picture, told) = _call(served.url, "result", id=ticket["id"])
    assert (picture, told["status"]) == (None, "cancelled")


def test_a_failure_is_the_result(served: Served) -> None:
    """A drawing that failed says so in its result, in the error's own words; an unknown id is an error."""
    served.service.fail_with = DrawingError("The scheduler DEIS is not here; DDIM is.")
    _, (ticket,) = _call(served.url, "submit", prompt="a dog")
    wait_until("it to fail", lambda: served.service.started[-1].finished)
    _, (_, told) = _call(served.url, "result", id=ticket["id"])
    assert (told["status"], told["message"]) == ("failed", "The scheduler DEIS is not here; DDIM is.")
    event, error = _call(served.url, "result", id="nobody's")
    assert (event, error["title"]) == ("error", "Not known")
    assert "24 hours" in error["error"]


def test_a_refusal_of_submit(served: Served) -> None:
    """What cannot be drawn, and what is too much, is refused at once, with the reason."""
    event, error = _call(served.url, "submit", prompt="a cat", width=63)
    assert (event, "must be from 64" in error["error"]) == ("error", True)
    served.service.refuse_with = BusyError("500 drawings are under way.")
    event, error = _call(served.url, "submit", prompt="a cat")
    assert error["error"].startswith("Busy: 500 drawings")


def test_a_long_wait_tells_the_ticket(served: Served) -> None:
    """`text_to_image` tells in its progress what happens and the ticket: who gives up can ask for the result."""
    client = Client(served.url, verbose=False, httpx_kwargs={"timeout": PATIENT})
    before = len(served.service.started)
    with _holding(served, "waking"):
        call = client.submit("a cat", api_name="/text_to_image")
        wait_until("the job to begin", lambda: len(served.service.started) > before)
        served.service.started[-1]._started_at -= 10  # so long it waits already
        told: list[Any] = []

        def progress() -> bool:
            data = call.status().progress_data
            told.extend(data or [])
            return bool(told)

        wait_until("news of the wait", progress)
    job = served.service.started[-1]
    assert re.fullmatch(rf"Waking the machine that draws… · 1\d s Ticket: {job.id}", told[-1].desc)
    assert call.result(60)[1] == 42


def test_a_caller_who_hangs_up_is_noticed(served: Served) -> None:
    """Nobody follows the job of a caller who has hung up; it stays wanted for a while, for its result."""
    with _holding(served, "drawing"):
        url = f"{served.url}gradio_api/call/text_to_image"
        before = len(served.service.started)
        event = httpx.post(url, json={"data": ["a cat"]}, timeout=PATIENT).json()["event_id"]
        with httpx.stream("GET", f"{url}/{event}", timeout=PATIENT):
            wait_until("the job", lambda: len(served.service.started) > before and served.service.started[-1].followed)
        job = served.service.started[-1]
        wait_until("the page to notice", lambda: not job.followed)
        assert not job.finished
        assert job.wanted
        job._wanted_at -= 21
        assert not job.wanted


def test_callers_are_known_by_their_address(served: Served) -> None:
    """A program's turn goes by where it calls from, whatever sessions it makes; a page's by its session."""
    _call(served.url, "submit", prompt="a cat")
    _call(served.url, "submit", prompt="a cat")
    first, second = served.service.visitors[-2:]
    assert first == second == ("address 127.0.0.1", "127.0.0.1")


@pytest.mark.parametrize(
    ("forwarded", "peer", "address"),
    [
        (None, "198.41.0.4", "198.41.0.4"),
        ("198.41.0.4", "10.0.0.1", "198.41.0.4"),
        ("1.1.1.1, 198.41.0.4", "10.0.0.1", "198.41.0.4"),
        ("1.1.1.1, 198.41.0.4, 10.1.2.3", "10.0.0.1", "198.41.0.4"),
        ("1.1.1.1", "198.41.0.4", "198.41.0.4"),
        ("junk, 2001:4860:4860::8888", "::1", "2001:4860:4860::/64"),
        ("2001:4860:4860:0:1:2:3:4", "::1", "2001:4860:4860::/64"),
        ("::ffff:198.41.0.4", "10.0.0.1", "198.41.0.4"),
        ("1.1.1.1", "::ffff:198.41.0.4", "198.41.0.4"),
        ("junk", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_made_up_address_is_of_no_use(forwarded: str | None, peer: str, address: str) -> None:
    """What a caller writes into `x-forwarded-for` stands left of what the proxies write there, and is not believed.
    The addresses of an IPv6 household are one.
    """

    class Peer:
        host = peer

    class Asked:
        headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
        client = Peer

    assert caller_address(Asked) == address


@pytest.mark.parametrize(
    ("event", "status", "ask_again_s"),
    [
        (None, "waiting", 2),
        (Waking("Loading the model"), "waking", 5),
        (Queued(3, 30.0), "in line", 15),
        (Queued(9, 300.0), "in line", 20),
        (Step(3, 20), "drawing", 2),
    ],
)
def test_when_to_ask_again(event: Any, status: str, ask_again_s: float) -> None:
    """How soon it pays to ask again depends on what happens."""
    job = Job(GenerationRequest("x"))
    if event is not None:
        job.tell(event)
    told = state(job)
    assert (told["status"], told["ask_again_s"]) == (status, ask_again_s)


def test_a_step_that_stands_still_is_told() -> None:
    """After three seconds without a step the state says so."""
    job = Job(GenerationRequest("x"))
    job.tell(Step(45, 100))
    assert state(job)["message"] == "Drawing: step 45 of 100"
    job._told_at -= 4
    assert state(job)["message"] == "Drawing: step 45 of 100, no news for 4 s"
