"""An owner who pauses a worker, bounds its minutes or uses the GPU: who draws instead, and what a visitor is told."""

import json
import re
import time
from typing import Any

import pytest
import requests

from backends.away import Awaited
from backends.fixed_endpoint import FixedEndpoint
from backends.workers import Workers
from drawing.events import Waking
from drawing.models import GeneratedImage, GenerationRequest
from endpoint_client import EndpointClient
from errors import Absence, AwayError, GpuBusyError
from maintenance.console import Console
from maintenance.doctor_places import look_at_endpoint
from page import text as page_text
from page.absence import away_html
from settings import Settings
from tests.backends.test_workers import SketchingBackend
from tests.support.endpoint_scripts import HEALTH
from tests.support.hostile_server import Line, Received, hostile_server
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, Drawing, RawWorker, SpaceSide, png, space_side

OWNERS = {"reason": "owner", "left_s": 2400}


def paused(space: SpaceSide, name: str = "raw", pause: dict[str, Any] = OWNERS) -> RawWorker:
    """A worker that is paused, and known to be."""
    raw = RawWorker(space.port, name, pause=pause)
    wait_until("the news", lambda: any(w.name == name and w.health for w in list(space.workers._clients)))
    return raw


def test_a_paused_worker_is_away_and_the_space_sketches() -> None:
    """At once, without a wait for it: before a prompt and on the picture it is told why, and until when."""
    with space_side(Workers(KEY, wait_s=DEADLINE_S, fallback=SketchingBackend())) as space:
        raw = paused(space)
        begun = time.monotonic()
        drawing = Drawing(space.workers, 3)
        image = drawing.result()
        assert time.monotonic() - begun < DEADLINE_S / 3
        assert isinstance(image, GeneratedImage), image
        assert image.receipt.substituted == (
            "A sketch: the machine that draws is paused, and a small model stood in for it",
        )
        assert drawing.events == [Waking("The machine that draws is paused: a small model sketches meanwhile")]
        status = space.workers.status()
        assert (status.away, status.stand_in) == (True, True)
        assert "paused by its owner" in page_text.idle(status)
        assert "for another 40 minutes" in page_text.idle(status)
        assert "a small model sketches for you" in page_text.idle(status)
        raw.beat()
        wait_until("the end of the pause", lambda: not space.workers.status().away)
        drawing = Drawing(space.workers, 4)
        raw.answer(raw.take()["id"], 4)
        assert drawing.result().encoded == png(4)
        raw.close()


def test_without_a_fallback_a_pause_is_told_plainly() -> None:
    """The error says so in a visitor's words, and to the maintainer what ends it."""
    with space_side(Workers(KEY, wait_s=DEADLINE_S)) as space:
        raw = paused(space, pause={"reason": "owner", "left_s": None})
        outcome = Drawing(space.workers, 1).result()
        assert isinstance(outcome, AwayError)
        assert page_text.error_text(outcome).startswith("The machine that draws is paused by its owner. Workers: ")
        assert "inference_server resume" in str(outcome)
        raw.beat(pause={"reason": "budget", "left_s": 4 * 3600})
        wait_until("the news", lambda: "minutes for today" in page_text.idle(space.workers.status()))
        outcome = Drawing(space.workers, 2).result()
        assert "minutes for today" in page_text.error_text(outcome)
        assert 'data-around="at {}">in 4 hours</time>: please come back then.' in page_text.error_html(outcome)
        raw.close()


def test_a_worker_that_was_paused_just_now_leaves_the_picture_to_another() -> None:
    """Its refusal comes before its next beat: it is asked no more, and the next worker, or the sketch, draws."""
    with space_side(Workers(KEY, wait_s=DEADLINE_S, fallback=SketchingBackend())) as space:
        free = RawWorker(space.port, "free")
        wait_until("the first", lambda: len(space.workers._clients) == 1)
        raw = RawWorker(space.port, "raw")
        wait_until("both", lambda: len(space.workers._clients) == 2)
        drawing = Drawing(space.workers, 1)
        raw.refuse(raw.take()["id"], "PAUSED")
        free.answer(free.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        assert not space.workers.status().away
        drawing = Drawing(space.workers, 2)
        free.refuse(free.take()["id"], "BUDGET_USED_UP")
        assert drawing.result().receipt.substituted
        assert space.workers.status().away
        for line in (free, raw):
            line.close()


def test_a_worker_that_is_lost_is_waited_for_beside_a_paused_one() -> None:
    """The pause of one says nothing of the other; once that one is back it draws."""
    with space_side(Workers(KEY, wait_s=DEADLINE_S, fallback=SketchingBackend())) as space:
        away = paused(space, "paused")
        lost = RawWorker(space.port, "lost")
        wait_until("both", lambda: len(space.workers._clients) == 2)
        lost.close()
        wait_until("it to be gone", lambda: len(space.workers._clients) == 1)
        drawing = Drawing(space.workers, 1)
        wait_until("the wait", lambda: bool(drawing.events))
        lost = RawWorker(space.port, "lost")
        lost.answer(lost.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        for line in (away, lost):
            line.close()


@pytest.mark.parametrize("fallback", [True, False])
def test_what_a_paused_worker_finishes_is_taken_up(fallback: bool) -> None:
    """Its line breaks while it draws, and it is paused meanwhile: its picture counts, and nobody draws another; what
    comes after that is the pause's.
    """
    stand_in = SketchingBackend() if fallback else None
    with space_side(Workers(KEY, wait_s=DEADLINE_S, fallback=stand_in)) as space:
        raw = RawWorker(space.port, "box", "one process")
        drawing = Drawing(space.workers, 1)
        raw.take()
        raw.beat(pause=OWNERS)
        wait_until("the news", lambda: space.workers.status().away)
        raw.close()
        wait_until("it to be gone", lambda: not space.workers._clients)
        raw = RawWorker(space.port, "box", "one process", pause=OWNERS)
        raw.answer(raw.take()["id"], 1)
        assert drawing.result().encoded == png(1)
        outcome = Drawing(space.workers, 2).result()
        assert isinstance(outcome, GeneratedImage if fallback else AwayError)
        assert stand_in is None or [request.seed for request in stand_in.drawn] == [2]
        raw.close()


def test_only_a_worker_that_was_not_paused_is_waited_for() -> None:
    """Nobody expects a paused one back in a moment, nor one that is back."""
    awaited = Awaited(DEADLINE_S)
    awaited.lost("paused", paused=True)
    assert awaited.until_s(at_start=False) < time.monotonic()
    awaited.lost("lost", paused=False)
    assert awaited.until_s(at_start=False) > time.monotonic()
    awaited.came("lost")
    assert awaited.until_s(at_start=False) < time.monotonic()


@pytest.mark.parametrize(("begins_alone", "waits_s"), [(False, 15), (True, 60)])
def test_after_its_start_a_space_waits_for_its_workers(begins_alone: bool, waits_s: float) -> None:
    """Shortly where another model draws meanwhile; for all of `WORKER_WAIT_S` where the alternative is no picture."""
    awaited = Awaited(60, begins_alone=begins_alone)
    assert awaited.until_s(at_start=True) == pytest.approx(time.monotonic() + waits_s, abs=1)
    assert awaited.until_s(at_start=False) < time.monotonic()


def test_the_page_says_since_when_nobody_is_there() -> None:
    """As long as this process remembers; a restarted one only knows that it is off."""
    with space_side(Workers(KEY, wait_s=0)) as space:
        assert page_text.idle(space.workers.status()) == away_html(Absence())
        paused(space).close()
        wait_until("it to be gone", lambda: not space.workers._clients)
        assert "has been off" in page_text.idle(space.workers.status())
        assert page_text.error_text(Drawing(space.workers, 1).result()).startswith(
            "The machine that draws has been off for a minute."
        )


def test_of_several_that_are_paused_the_first_to_come_back_is_told() -> None:
    """It is the one to wait for."""
    with space_side(Workers(KEY, wait_s=0)) as space:
        lines = [paused(space, f"box{left_s}", {"reason": "owner", "left_s": left_s}) for left_s in (7200, 1800, None)]
        assert "for another 30 minutes" in page_text.idle(space.workers.status())
        for line in lines:
            line.close()


@pytest.mark.parametrize(
    ("pause", "told"),
    [
        ({"reason": "of a newer version", "left_s": 60}, "paused by its owner for another minute"),
        ({"reason": "owner", "left_s": -1}, "paused by its owner."),
        ({"reason": "owner", "left_s": 1e300}, "paused by its owner."),
        ({}, "paused by its owner."),
        (True, ""),
    ],
)
def test_what_a_worker_tells_of_a_pause_is_read_with_care(pause: Any, told: str) -> None:
    """No answer of a worker breaks the page."""
    with space_side(Workers(KEY, wait_s=0)) as space:
        raw = paused(space, pause=pause)
        assert told in re.sub("<[^>]*>", "", page_text.idle(space.workers.status()))
        raw.close()


def test_a_sleeping_worker_says_how_long_it_wakes() -> None:
    """Before a prompt, and while a visitor waits for the engine."""
    with space_side(Workers(KEY, wait_s=0)) as space:
        raw = RawWorker(space.port, engine="asleep", wakes_in_s=[20, 35])
        wait_until("the worker", lambda: not space.workers.status().away)
        assert "asleep and wakes in 20 to 35 s" in page_text.idle(space.workers.status())
        drawing = Drawing(space.workers, 1)
        waking = {"type": "waking", "stage": "loading the model", "elapsed_s": 1, "wakes_in_s": [20, 35]}
        raw.answer(raw.take()["id"], 1, waking)
        assert drawing.result().encoded == png(1)
        (event,) = [event for event in drawing.events if isinstance(event, Waking)]
        assert page_text.event_html(event, 0.1) == "Loading the model (it wakes in 20 to 35 s)…"
        raw.close()


@pytest.mark.parametrize("wakes", [[35, 20], [20], "soon", [0, 1], [1, 10**9], [1.5, 2.5]])
def test_a_range_that_is_none_is_passed_over(wakes: Any) -> None:
    """Without it the page says only that the server is asleep."""
    with space_side(Workers(KEY, wait_s=0)) as space:
        raw = RawWorker(space.port, engine="asleep", wakes_in_s=wakes)
        wait_until("the worker", lambda: not space.workers.status().away)
        assert page_text.idle(space.workers.status()).endswith("draws is asleep.")
        raw.close()


def test_a_busy_gpu_is_told_over_the_line() -> None:
    """The only worker's GPU is in use: the visitor reads that, and it is no sketch's and no wait's time."""
    with space_side(Workers(KEY, wait_s=0, fallback=SketchingBackend())) as space:
        raw = RawWorker(space.port, state="failed", reason="gpu-busy: a game")
        wait_until("the worker", lambda: not space.workers.status().away)
        drawing = Drawing(space.workers, 1)
        raw.refuse(raw.take()["id"], "GPU_BUSY")
        outcome = drawing.result()
        assert isinstance(outcome, GpuBusyError)
        assert "The GPU is busy with something else" in page_text.error_html(outcome)
        raw.close()


def test_the_doctor_learns_of_a_pause() -> None:
    """`/worker-status` tells it with the worker."""
    with space_side(Workers(KEY, wait_s=0)) as space:
        raw = paused(space)
        url = f"http://127.0.0.1:{space.port}/worker-status"
        (told,) = requests.get(url, headers={"X-Worker-Key": KEY}, timeout=DEADLINE_S).json()["workers"]
        assert told["absence"]["reason"] == "paused"
        assert told["absence"]["until"] > time.time()
        raw.close()


def test_a_broken_model_is_sketched_for() -> None:
    """A worker that cannot load its model is no pause, and draws nothing either."""
    with space_side(Workers(KEY, wait_s=0, fallback=SketchingBackend())) as space:
        raw = RawWorker(space.port, state="failed", reason="no such model")
        wait_until("the worker", lambda: not space.workers.status().away)
        request = GenerationRequest("a red apple", seed=1)
        space.workers.ensure(lambda event: None, lambda: False)
        image = space.workers.draw(request, job_id="job", tell=lambda event: None, cancelled=lambda: False)
        assert "sketch" in image.receipt.substituted[0]
        raw.close()


def paused_endpoint(line: Line, request: Received) -> bool:
    """A server that its owner has paused for another 40 minutes."""
    if request.path == "/healthcheck":
        line.answer(200, json.dumps({**HEALTH, "pause": OWNERS}))
    else:
        line.answer(503, json.dumps({"$error": {"code": "PAUSED", "message": "Paused."}}))
    return True


def test_a_paused_endpoint_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A fixed endpoint is not waited for; who posts all the same reads why; the doctor has a warning."""
    with hostile_server(paused_endpoint) as server:
        url = f"http://127.0.0.1:{server.port}"
        client = EndpointClient(url)
        with pytest.raises(AwayError) as refused:
            FixedEndpoint(client, timeout_s=DEADLINE_S).ensure(lambda event: None, lambda: False)
        assert "for another 40 minutes" in page_text.error_text(refused.value)
        with pytest.raises(AwayError) as refused:
            client.infer(GenerationRequest("a"), request_id="a", tell=lambda event: None)
        assert refused.value.absence == Absence("paused")
        look_at_endpoint(Console(as_json=True), Settings(endpoint_url=url, endpoint_tls="none"), from_space=False)
    row = json.loads(capsys.readouterr().out)
    assert (row["status"], "is paused by its owner until" in row["detail"]) == ("warning", True)
