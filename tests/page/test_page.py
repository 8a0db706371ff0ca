"""The page's public endpoint as programs call it, by gradio_client and plain HTTP, in front of a stand-in service."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client import Client  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from gradio_client.utils import Status  # type: ignore[import-untyped]

from errors import BusyError, DrawingError, StartError
from tests.support.page_service import StandInService, picture, serve
from tests.support.processes import wait_until

PARAMETERS = ["prompt", "negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "seed"]
PATIENT = httpx.Timeout(60)  # s; httpx gives up after 5 by itself, which are short on a busy machine


@dataclass(frozen=True)
class Served:
    service: StandInService
    url: str
    client: Client


@pytest.fixture(scope="module")
def _served() -> Iterator[Served]:
    service = StandInService()
    page, url = serve(service)
    yield Served(service, url, Client(url, verbose=False, httpx_kwargs={"timeout": PATIENT}))
    page.close(verbose=False)


@pytest.fixture
def served(_served: Served) -> Iterator[Served]:
    """A page for this module; whatever a test held or broke is mended after it."""
    yield _served
    _served.service.fail_with = None
    _served.service.refuse_with = None
    for gate in ("waking", "queued", "drawing", "done"):
        _served.service.let(gate)


def _call(url: str, data: dict[str, Any], version: str = "") -> tuple[str, Any]:
    """One call over plain HTTP: the name of its last event, and that event's data."""
    event_id = httpx.post(f"{url}gradio_api/call/{version}text_to_image", json=data, timeout=PATIENT).json()["event_id"]
    answer = httpx.get(f"{url}gradio_api/call/text_to_image/{event_id}", timeout=PATIENT).text
    name, _, payload = answer.strip().rpartition("event: ")[2].partition("\ndata: ")
    return name, json.loads(payload)


def test_public_endpoints(served: Served) -> None:
    """Public are `/text_to_image` and tickets; parameters come in the promised order, only the prompt required."""
    endpoints = served.client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/text_to_image", "/submit", "/result", "/cancel"]
    parameters = endpoints["/text_to_image"]["parameters"]
    assert [parameter["parameter_name"] for parameter in parameters] == PARAMETERS
    assert [parameter["parameter_has_default"] for parameter in parameters] == [False] + 6 * [True]
    assert [parameter["parameter_default"] for parameter in parameters] == [None, "", *5 * [None]]


def test_prompt_alone_is_enough(served: Served) -> None:
    """A prompt alone brings back the server's own PNG, byte for byte, and the seed that it was drawn with."""
    path, seed = served.client.predict("a red apple", api_name="/text_to_image")
    assert seed == 42
    assert Path(path).read_bytes() == picture(served.service.started[-1].request, 42).encoded


def test_numbers_may_be_floats_or_null(served: Served) -> None:
    """JSON's 512.0 counts as 512, and null as left out."""
    served.client.predict("a dog", width=512.0, height=None, seed=7.0, api_name="/text_to_image")
    request = served.service.started[-1].request
    assert (request.width, request.height, request.seed) == (512, None, 7)


@pytest.mark.parametrize(
    ("version", "data"),
    [
        ("", {"data": ["a castle"]}),
        ("", {"data": ["a castle", "", None, None, None, None, None]}),
        ("v2/", {"prompt": "a castle"}),
    ],
)
def test_plain_http(served: Served, version: str, data: dict[str, Any]) -> None:
    """Over plain HTTP, too, what is left out is the server's own choice, and the file is the PNG as it was made."""
    name, (file, seed) = _call(served.url, data, version)
    assert (name, seed, file["orig_name"]) == ("complete", 42, "a-castle-42.png")
    answer = httpx.get(file["url"], timeout=PATIENT)
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == picture(served.service.started[-1].request, 42).encoded


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "x" * 2001}, "2000 is the most"),
        ({"prompt": 7}, "must be text"),
        ({"prompt": "a cat", "width": 63}, "must be from 64 to 2048 px"),
        ({"prompt": "a cat", "num_inference_steps": 251}, "from 1 to 250"),
        ({"prompt": "a cat", "seed": 1.5}, "whole number"),
        ({"prompt": "a cat", "seed": 2**32}, "must be from 0 to"),
    ],
)
def test_bad_input_is_refused_with_its_reason(served: Served, arguments: dict[str, Any], reason: str) -> None:
    """What cannot be drawn is refused at once, and the error says why; nothing is started for it."""
    before = len(served.service.started)
    with pytest.raises(AppError, match=reason):
        served.client.predict(**arguments, api_name="/text_to_image")
    assert len(served.service.started) == before


def test_missing_prompt_over_plain_http(served: Served) -> None:
    """A call with no value at all is refused with a reason, too."""
    name, error = _call(served.url, {"data": []})
    assert name == "error"
    assert "prompt" in error["error"]


def test_refusal_for_load_begins_with_busy(served: Served) -> None:
    """Where too many are waiting, the error begins with `Busy:`."""
    served.service.refuse_with = BusyError("500 drawings are under way.")
    with pytest.raises(AppError, match=r"^Busy: 500 drawings"):
        served.client.predict("a cat", api_name="/text_to_image")


def test_a_failed_link_is_told_whole(served: Served) -> None:
    """When the chain fails, a visitor's sentence comes first, then which link it was, what came back, what to do."""
    served.service.fail_with = StartError(
        "Tunnel server", tried="start it", came_back="exit code 1", next_step="Read its log."
    )
    with pytest.raises(
        AppError, match=r"^The machine that draws could not be started\. Tunnel server: .*exit code 1.*log"
    ):
        served.client.predict("a cat", api_name="/text_to_image")


def test_what_the_model_refuses_is_told_as_it_is(served: Served) -> None:
    """The inference server's own refusal reaches the caller unchanged."""
    served.service.fail_with = DrawingError("The scheduler DEIS is not here; DDIM is.")
    with pytest.raises(AppError, match=r"^The scheduler DEIS is not here; DDIM is\.$"):
        served.client.predict("a cat", api_name="/text_to_image")


def test_cancel_over_the_api_ends_the_drawing(served: Served) -> None:
    """A client that cancels its call ends the drawing itself, so that the GPU is free."""
    served.service.hold("drawing")
    before = len(served.service.started)
    call = served.client.submit("a cat", api_name="/text_to_image")
    wait_until("the drawing to begin", lambda: len(served.service.started) > before)
    wait_until("the call to know its number", lambda: call.status().code is Status.PROCESSING)
    call.cancel()
    wait_until("it to end", lambda: served.service.started[-1].finished)


def test_nothing_about_the_page_is_public_beside_it(served: Served) -> None:
    """Who uses the page is nobody's business: no monitoring, no history of runs kept in the browser."""
    with httpx.Client(base_url=served.url, timeout=PATIENT) as client:
        assert client.get("monitoring/summary").status_code == 403
        assert client.get("monitoring").status_code in (403, 404)
        assert not client.get("config").json().get("run_history")


async def _visitor(
    client: httpx.AsyncClient, url: str, draw: int, name: str, sees_news: asyncio.Event | None = None
) -> str:
    """Presses Draw as the page does, and waits; the last message says how it went."""
    data = ["", "a red apple", "", 0, True, "", "", "", "1", "", None, None, 0.75]
    body = {"data": data, "fn_index": draw, "session_hash": name}
    (await client.post(f"{url}gradio_api/queue/join", json=body)).raise_for_status()
    async with client.stream("GET", f"{url}gradio_api/queue/data?session_hash={name}") as answer:
        async for line in answer.aiter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_generating" and sees_news is not None:
                sees_news.set()
            if message.get("msg") == "process_completed":
                return "done" if message["success"] else str(message["output"])
    return "cut off"


def test_the_end_repeats_nothing(served: Served) -> None:
    """That a drawing's event is over comes without its last look: the visitor may have asked for the next picture."""
    (*_, last), end = _looks(served.url, "ends")
    assert "Done in" in str(last)
    assert end == [gr.skip()] * len(last)


def test_every_look_is_told_whole(served: Served) -> None:
    """No look changes the values of the one before in place: a browser may have that one still to show."""
    (first, *others), _ = _looks(served.url, "whole")
    assert {"interactive": False, "value": "Drawing…", "__type__": "update"} in first
    assert others
    for value in (value for look in others for value in look):
        ((action, path, _),) = value
        assert (action, path) == ("replace", [])


def _looks(url: str, session: str) -> tuple[list[list[Any]], list[Any]]:
    """What a visitor's page is told while a picture is drawn: look after look, and what comes with the end."""
    body = {
        "data": ["", "a red apple", "", 0, True, "", "", "", "1", "", None, None, 0.75],
        "fn_index": _draw_event(url),
    }
    with httpx.Client(base_url=f"{url}gradio_api/queue/", timeout=PATIENT) as client:
        client.post("join", json={**body, "session_hash": session}).raise_for_status()
        lines = client.get("data", params={"session_hash": session}).text.splitlines()
    messages = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    looks = [message["output"]["data"] for message in messages if message["msg"] == "process_generating"]
    (end,) = [message["output"]["data"] for message in messages if message["msg"] == "process_completed"]
    return looks, end


def _draw_event(url: str) -> int:
    events = httpx.get(f"{url}config", timeout=PATIENT).json()["dependencies"]
    return int(next(event["id"] for event in events if event["api_name"] == "draw"))


@pytest.mark.slow
def test_fifty_waiting_visitors_leave_room_for_the_next(served: Served) -> None:
    """While fifty wait on a cold start, the page still loads and the fifty-first gets a picture."""
    service, url, before = served.service, served.url, len(served.service.started)

    async def scene() -> list[str]:
        async with httpx.AsyncClient(timeout=PATIENT, limits=httpx.Limits(max_connections=None)) as client:
            service.hold("waking")
            draw = _draw_event(url)
            waiting = [asyncio.create_task(_visitor(client, url, draw, f"waits-{n}")) for n in range(50)]
            await asyncio.to_thread(wait_until, "fifty to wait", lambda: len(service.started) == before + 50)
            assert (await client.get(url)).status_code == 200
            service.let_newcomers()
            assert await asyncio.wait_for(_visitor(client, url, draw, "comes-late"), timeout=60) == "done"
            assert not any(task.done() for task in waiting)
            service.let("waking")
            return list(await asyncio.gather(*waiting))

    assert asyncio.run(scene()) == ["done"] * 50


def test_a_closed_page_does_not_end_the_drawing(served: Served) -> None:
    """A visitor who goes away while drawing is noticed, and the drawing is finished all the same."""
    service, url = served.service, served.url
    service.hold("drawing")
    draw = _draw_event(url)

    async def scene() -> None:
        async with httpx.AsyncClient(timeout=PATIENT) as client:
            sees_news = asyncio.Event()
            visit = asyncio.create_task(_visitor(client, url, draw, "leaves", sees_news))
            await asyncio.wait_for(sees_news.wait(), timeout=60)  # before that the page cannot know that it is watched
            await asyncio.to_thread(wait_until, "the page to follow", lambda: service.started[-1].followed)
            visit.cancel()

    asyncio.run(scene())
    wait_until("the page to notice", lambda: not service.started[-1].followed)
    service.let("drawing")
    assert service.started[-1].result(timeout_s=60).seed == 42
