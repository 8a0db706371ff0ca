"""Workers that dial in: one picture for each request, whatever happens to the line."""

import functools
import json
import threading
import time
from typing import Any

import pytest
import requests
from PIL import Image
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from backends import lost_drawings
from backends.base import EndpointBackend
from backends.workers import Workers
from drawing.events import Waking
from drawing.models import GeneratedImage, GenerationRequest, Limits, Range, Receipt
from endpoint.exchange import End, Head
from endpoint.wire_format import Health
from errors import AwayError, EndpointUnreachableError, JobCancelledError
from inference_server import space_connection
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, Drawing, DrawingApp, RawWorker, png, relay, space_side, worker


def new_workers(wait_s: float = DEADLINE_S) -> Workers:
    return Workers(KEY, wait_s=wait_s)


def test_a_worker_that_dials_in_draws() -> None:
    """A picture comes back byte for byte, with the steps on the way; status tells the worker's model."""
    with space_side(new_workers()) as space, worker(space.port) as box:
        box.app.may_finish.clear()
        drawing = Drawing(space.workers, 7)
        wait_until("steps", lambda: any(type(event).__name__ == "Step" for event in drawing.events))
        box.app.may_finish.set()
        image = drawing.result()
        assert isinstance(image, GeneratedImage), image
        assert (image.encoded, image.seed) == (png(7), 7)
        status = space.workers.status()
        assert (status.kind, status.model, status.ready) == ("workers", "a-model", True)
        assert status.limits.width.max == 256


def test_a_wrong_key_is_refused_before_the_handshake(caplog: pytest.LogCaptureFixture) -> None:
    """403 and no WebSocket; the key stands in no log."""
    with space_side(new_workers()) as space:
        for key in ("", "wrong", KEY[:-1]):
            with pytest.raises(InvalidStatus) as refused:
                connect(f"ws://127.0.0.1:{space.port}/worker", additional_headers={"X-Worker-Key": key})
            assert refused.value.response.status_code == 403
    assert "wrong worker's key" in caplog.text
    assert KEY not in caplog.text


def test_another_protocol_is_told_which_side_to_update(caplog: pytest.LogCaptureFixture) -> None:
    """A worker of another version is sent away with one sentence that says what to update."""
    with space_side(new_workers()) as space:
        url = f"ws://127.0.0.1:{space.port}/worker"
        with connect(url, additional_headers={"X-Worker-Key": KEY}) as line:
            assert json.loads(line.recv(DEADLINE_S))["type"] == "hello"
            line.send(json.dumps({"type": "hello", "protocol": 99, "version": "9", "name": "new"}))
            wait_until("the refusal", lambda: "update the Space" in caplog.text)


def test_a_line_that_breaks_in_mid_picture_loses_and_doubles_nothing() -> None:
    """The worker comes back, the same request is posted again under its id, and its picture is drawn once."""
    with space_side(new_workers()) as space, relay(space.port) as line, worker(line.port) as box:
        box.app.may_finish.clear()
        drawing = Drawing(space.workers, 3)
        assert box.app.posts.acquire(timeout=DEADLINE_S)
        line.cut()
        assert box.app.posts.acquire(timeout=DEADLINE_S)  # it came again
        box.app.may_finish.set()
        assert drawing.result().encoded == png(3)
        assert box.app.posted == ["job-3", "job-3"]
        assert box.app.drawn == {"job-3": 1}
        assert any(isinstance(event, Waking) and "away" in event.stage for event in drawing.events)


def test_a_result_that_was_made_while_the_line_was_down_is_not_drawn_again() -> None:
    """The picture stays at home until the Space has it."""
    with space_side(new_workers()) as space, relay(space.port) as line, worker(line.port) as box:
        assert Drawing(space.workers, 5).result().encoded == png(5)
        line.cut()
        wait_until("the worker to be gone", lambda: space.workers._best() is None)
        assert Drawing(space.workers, 5).result().encoded == png(5)
        assert box.app.drawn == {"job-5": 1}


def test_another_worker_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two, the one with the most room draws; when it is lost in mid-picture, the other one draws instead, once the
    lost one has surely stopped.
    """
    monkeypatch.setattr(lost_drawings, "LEASE_S", 1.0)
    apps = {name: DrawingApp() for name in ("box1", "box2")}
    with space_side(new_workers()) as space, relay(space.port) as line1, relay(space.port) as line2:
        lines = {"box1": line1, "box2": line2}
        with (
            worker(line1.port, name="box1", app=apps["box1"]),
            worker(line2.port, name="box2", app=apps["box2"]),
        ):
            wait_until("both", lambda: len(space.workers._clients) == 2)
            for app in apps.values():
                app.may_finish.clear()
            first, second = Drawing(space.workers, 1), None
            wait_until("the first", lambda: any(app.posted for app in apps.values()))
            second = Drawing(space.workers, 2)
            wait_until("the second on the other one", lambda: all(app.posted for app in apps.values()))
            lost = next(name for name, app in apps.items() if app.posted == ["job-1"])
            other = next(name for name in apps if name != lost)
            broken = time.monotonic()
            lines[lost].close()
            wait_until("the other one to have both", lambda: sorted(apps[other].posted) == ["job-1", "job-2"])
            assert time.monotonic() - broken > 0.9
            apps[other].may_finish.set()
            assert first.result().encoded == png(1)
            assert second.result().encoded == png(2)
            wait_until("the lost one to stop", lambda: apps[lost].hung_up == ["job-1"])
            assert not apps[lost].drawn


def test_a_request_of_ten_megabytes_arrives() -> None:
    """The largest body that a Space's host lets in, a picture to begin from perhaps, goes on to the worker whole."""
    with space_side(new_workers()) as space, worker(space.port) as box:
        wait_until("the worker", lambda: not space.workers.status().away)
        (line,) = space.workers._clients
        body = {"modelInputs": {"seed": 1, "image": "x" * 10_000_000}, "callInputs": {"startRequestId": "large"}}
        with line.request("POST", "/", json.dumps(body).encode()) as exchange:
            assert isinstance(exchange.next(DEADLINE_S), Head)
            while not isinstance(exchange.next(DEADLINE_S), End):
                pass
            line.acknowledge(exchange, "large")
        assert box.app.drawn == {"large": 1}


def test_the_end_of_a_worker_lets_its_picture_be_finished() -> None:
    """SIGTERM: nothing new is given to it, what it draws arrives."""
    with space_side(new_workers()) as space, worker(space.port) as box:
        box.app.may_finish.clear()
        drawing = Drawing(space.workers, 6)
        assert box.app.posts.acquire(timeout=DEADLINE_S)
        box.end()
        wait_until("it to leave", lambda: space.workers._best() is None)
        box.app.may_finish.set()
        assert drawing.result().encoded == png(6)


def test_cancel_reaches_the_worker() -> None:
    """A cancelled drawing ends at the worker too."""
    with space_side(new_workers()) as space, worker(space.port) as box:
        box.app.may_finish.clear()
        drawing = Drawing(space.workers, 8)
        assert box.app.posts.acquire(timeout=DEADLINE_S)
        drawing.cancelled.set()
        assert isinstance(drawing.result(), JobCancelledError)
        wait_until("the worker to know", lambda: box.app.hung_up == ["job-8"] == box.app.cancelled)


def test_the_owner_learns_who_is_connected() -> None:
    """With the workers' key `/worker-status` names them; without it there is no such page."""
    with space_side(new_workers()) as space, worker(space.port, name="box7"):
        wait_until("the worker", lambda: not space.workers.status().away)
        url = f"http://127.0.0.1:{space.port}/worker-status"
        told = requests.get(url, headers={"X-Worker-Key": KEY}, timeout=DEADLINE_S).json()
        (row,) = told["workers"]
        assert (row["name"], row["version"], row["model"]) == ("box7", told["version"], "a-model")
        assert told["turned_away"] == []
        assert requests.get(url, timeout=DEADLINE_S).status_code == 404


def test_a_request_that_lost_its_upgrade_is_told_so() -> None:
    """A proxy that takes "Upgrade" out of it leaves a plain request: 426, where a wrong address would be 404."""
    with space_side(new_workers()) as space:
        answer = requests.get(f"http://127.0.0.1:{space.port}/worker", timeout=DEADLINE_S)
    assert (answer.status_code, answer.headers["Upgrade"]) == (426, "websocket")


def test_nobody_there() -> None:
    """Without a worker and without a fallback the error says whose machine is off."""
    with space_side(new_workers(wait_s=0)) as space:
        outcome = Drawing(space.workers, 9).result()
        assert isinstance(outcome, AwayError)
        assert "owner's machine is off" in str(outcome)


def test_a_restarted_space_gets_its_worker_back() -> None:
    """The Space's process is new and remembers nothing; the worker dials again, and draws."""
    with space_side(new_workers()) as first:
        port = first.port
        box_context = worker(port)
        box = box_context.__enter__()
        try:
            assert Drawing(first.workers, 1).result().encoded == png(1)
            first.stop()
            with space_side(new_workers(), port) as second:
                assert Drawing(second.workers, 2).result().encoded == png(2)
        finally:
            box_context.__exit__(None, None, None)
        assert box.app.posted == ["job-1", "job-2"]


def test_a_request_is_leased_once_it_was_accepted() -> None:
    """No lease names a request that the worker has not accepted; the first one comes at once after that."""
    with space_side(new_workers()) as space:
        raw = RawWorker(space.port)
        drawing = Drawing(space.workers, 1)
        request = raw.hear("request")
        assert raw.hear("lease")["ids"] == []
        raw.say(type="accepted", id=request["id"])
        while not (lease := raw.hear("lease"))["ids"]:
            pass
        assert lease == {"type": "lease", "beat": 0, "ids": [request["id"]], "keep_s": DEADLINE_S + 15}
        raw.answer(request["id"], 1)
        assert drawing.result().encoded == png(1)
        raw.close()


def test_a_worker_begins_nothing_without_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose lease never comes is not drawn."""
    monkeypatch.setattr(space_connection, "LEASE_S", 0.3)
    app = DrawingApp()
    accepted: list[dict[str, Any]] = []

    def space(line: ServerConnection) -> None:
        line.send(json.dumps({"type": "hello", "protocol": space_connection.PROTOCOL, "version": "0.1.0"}))
        line.send(json.dumps({"type": "request", "id": 1, "method": "POST", "path": "/", "body": "{}"}))
        for message in line:
            accepted.extend(m for m in [json.loads(message)] if m["type"] == "accepted")

    with serve(space, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with worker(server.socket.getsockname()[1], app=app):
            wait_until("the offer to be accepted", lambda: bool(accepted))
            time.sleep(0.6)  # twice the time that a lease may take
        server.shutdown()
    assert app.posted == []


def test_a_worker_stops_in_time_on_a_line_that_only_its_space_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the lease's beginning the Space counts until another worker may draw, and so does this one."""
    monkeypatch.setattr(space_connection, "LEASE_S", 0.4)
    monkeypatch.setattr(space_connection, "BEAT_S", 0.1)
    app = DrawingApp()
    app.may_finish.clear()
    body = json.dumps({"modelInputs": {"seed": 1}, "callInputs": {"startRequestId": "job"}})

    def space(line: ServerConnection) -> None:
        line.send(json.dumps({"type": "hello", "protocol": space_connection.PROTOCOL, "version": "0.1.0"}))
        line.send(json.dumps({"type": "request", "id": 1, "method": "POST", "path": "/", "body": body}))
        for message in map(json.loads, line):
            if message["type"] == "beat" and not app.kept_s:
                line.send(json.dumps({"type": "lease", "beat": message["beat"], "ids": [1], "keep_s": 0.5}))

    with serve(space, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with worker(server.socket.getsockname()[1], app=app):
            wait_until("the lease to end", lambda: "job" in app.hung_up)
        server.shutdown()
    assert app.kept_s[0] == 0.5
    assert app.kept_s[-1] == pytest.approx(0.1)


def test_a_late_result_of_a_lost_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was given up answers under its old number on a new line: the picture of the other one counts."""
    monkeypatch.setattr(lost_drawings, "LEASE_S", 0.2)
    with space_side(new_workers()) as space:
        lost = RawWorker(space.port, "lost")
        drawing = Drawing(space.workers, 1)
        old = lost.hear("request")["id"]
        lost.close()
        other = RawWorker(space.port, "other")
        new = other.hear("request")["id"]
        assert new != old
        other.say(type="accepted", id=new)
        late = RawWorker(space.port, "lost")
        late.answer(old, 99)
        other.answer(old, 99)
        other.answer(new, 1)
        assert drawing.result().encoded == png(1)
        for raw in (late, other):
            raw.close()


def test_a_sketch_while_nobody_is_there() -> None:
    """The fallback draws what the numbers allow it to, and the receipt says that it is a sketch; a worker ends that."""
    fallback = SketchingBackend()
    with space_side(Workers(KEY, wait_s=0, fallback=fallback)) as space:
        status = space.workers.status()
        assert (status.away, status.demo, status.stand_in) == (True, True, True)
        request = GenerationRequest("a red apple", seed=3, width=1024, height=1024, num_inference_steps=4)
        space.workers.ensure(lambda event: None, lambda: False)
        image = space.workers.draw(request, job_id="job", tell=lambda event: None, cancelled=lambda: False)
        assert "sketch" in image.receipt.substituted[0]
        assert fallback.drawn == [GenerationRequest("a red apple", seed=3, num_inference_steps=4)]
        with worker(space.port):
            wait_until("the worker", lambda: not space.workers.status().away)
            assert Drawing(space.workers, 5).result().encoded == png(5)


class SketchingBackend(EndpointBackend):
    """A backend that draws small pictures at once, and keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__(kind="local", demo=True, tunnel=False, starting="sketching", timeout_s=1)
        self.drawn: list[GenerationRequest] = []

    def _get_ready(self, tell: object) -> None:
        self._note(Health(state="healthy", limits=Limits(width=Range(min=64, max=256), height=Range(min=64, max=256))))

    def draw(self, request: GenerationRequest, **how: object) -> GeneratedImage:
        self.drawn.append(request)
        return GeneratedImage(Image.new("RGB", (8, 8)), png(0), "PNG", request.seed, Receipt())


def test_a_worker_that_is_lost_before_it_was_asked_is_waited_for() -> None:
    """Between `ensure` and `draw`: no sketch, as it may be back in a moment; with nobody to wait for, a sketch."""
    request = GenerationRequest("a red apple", seed=3)
    for wait_s in (DEADLINE_S, 0.0):
        fallback = SketchingBackend()
        with space_side(Workers(KEY, wait_s=wait_s, fallback=fallback)) as space:
            raw = RawWorker(space.port)
            wait_until("the worker", lambda: not space.workers.status().away)
            space.workers.ensure(lambda event: None, lambda: False)
            raw.close()
            wait_until("it to be gone", lambda: space.workers.status().away)
            draw = functools.partial(
                space.workers.draw, request, job_id="job", tell=lambda event: None, cancelled=lambda: False
            )
            if wait_s:
                with pytest.raises(EndpointUnreachableError):
                    draw()
                assert fallback.drawn == []
            else:
                assert draw().receipt.substituted
                assert fallback.status().ready
