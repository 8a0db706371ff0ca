"""A cancelled drawing starts nothing more and posts nothing more, wherever it was when it was cancelled."""

import logging
import threading

import pytest

from backends.fixed_endpoint import FixedEndpoint
from backends.single_flight import SingleFlight
from drawing.events import Event, Step
from drawing.jobs import Job
from drawing.models import GenerationRequest
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import JobCancelledError
from tests.support.endpoint_scripts import PATIENCE_S, good, step
from tests.support.hostile_server import Line, Received, hostile_server
from tests.support.processes import wait_until
from text_to_image import TextToImage


class CountingClient(EndpointClient):
    """Counts the looks at its health; none of them is late."""

    looks = 0

    def health(self, *, timeout_s: float = 3.0) -> Health:
        self.looks += 1
        return super().health(timeout_s=PATIENCE_S)


def ignore(event: Event) -> None:
    """Tells nobody."""


@pytest.mark.parametrize("began", [False, True])
def test_a_drawing_that_is_lost_after_its_cancel(began: bool, caplog: pytest.LogCaptureFixture) -> None:
    """When the connection breaks on a cancelled drawing, nothing is posted again and nothing is got ready: the log
    calls it cancelled, not failed."""
    jobs: list[Job] = []
    submitted = threading.Event()

    def script(line: Line, request: Received) -> bool:
        if request.method != "POST":
            return good(line, request)
        assert submitted.wait(PATIENCE_S)
        if began:  # a stream that breaks off; else there is no answer at all
            line.start_stream()
            line.event(step(3))
            wait_until("the step", lambda: any(isinstance(event, Step) for event in jobs[0].events))
        jobs[0].cancel()
        return False

    with hostile_server(script) as server, caplog.at_level(logging.INFO):
        client = CountingClient(server.url, silence_s=PATIENCE_S)
        jobs.append(TextToImage(FixedEndpoint(client, timeout_s=PATIENCE_S)).submit("x"))
        submitted.set()
        wait_until("the drawing to end", lambda: " after " in caplog.text)
    assert "failed after" not in caplog.text
    assert len(server.posts()) == 1
    assert client.looks == 1


def test_a_cancel_before_anything_began() -> None:
    """A call that is cancelled already starts no run; a run in progress goes on for the others."""
    runs: list[str] = []
    flight = SingleFlight(lambda tell: runs.append("x"), name="test")
    with pytest.raises(JobCancelledError):
        flight.join(ignore, lambda: True, timeout_s=PATIENCE_S)
    assert runs == []


def test_a_cancel_before_the_post() -> None:
    """A drawing that was cancelled before it could be posted is not: the server never hears of it."""
    with hostile_server(good) as server:
        with pytest.raises(JobCancelledError):
            EndpointClient(server.url).infer(
                GenerationRequest("x"), request_id="1", tell=ignore, cancelled=lambda: True
            )
        assert server.requests == []
