"""Several boxes together, each a server that answers as told: which one draws, what comes of one that fails."""

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.boxes import ANOTHER, Boxes
from backends.choose import choose_backend
from backends.fixed_endpoint import FixedEndpoint
from drawing.events import Event, Waking
from drawing.models import GeneratedImage, GenerationRequest
from drawing.status import BoxStatus
from endpoint_client import EndpointClient
from errors import DrawingError, EndpointUnreachableError, GpuBusyError, JobCancelledError, StartError
from page.chain import links
from settings import Settings
from tests.support.endpoint_scripts import HEALTH, PATIENCE_S, START, good, step
from tests.support.hostile_server import HostileServer, Line, Received, Script, hostile_server
from tests.support.processes import wait_until
from tests.support.reconcile_bench import FAIR_SETTINGS

SECRET = "Vb3-uTq0xJ8s_kLmZ7yRnP5wHcE2aQdG9fXo1iUeYt4"
SETTINGS = {**FAIR_SETTINGS, "ENDPOINT_SECRET": SECRET, "INFERENCE_NODE": "box1,box2", "TUNNEL_PUBLIC_PORT": "8080,80"}


@contextlib.contextmanager
def boxes(**scripts: Script) -> Iterator[tuple[Boxes, dict[str, HostileServer]]]:
    """Boxes by these names, each answering by its script."""
    with contextlib.ExitStack() as running:
        servers = {name: running.enter_context(hostile_server(script)) for name, script in scripts.items()}
        made = Boxes(
            list(scripts),
            lambda name, shared: FixedEndpoint(EndpointClient(servers[name].url), timeout_s=0.5),
            timeout_s=PATIENCE_S,
        )
        yield made, servers
        made.close()


def draw(
    made: Boxes, told: list[Event] | None = None, job_id: str = "1", request: GenerationRequest | None = None
) -> GeneratedImage:
    heard = [] if told is None else told
    made.ensure(heard.append, never)
    return made.draw(request or GenerationRequest("x"), job_id=job_id, tell=heard.append, cancelled=never)


def never() -> bool:
    return False


def posts(server: HostileServer) -> int:
    return sum(request.method == "POST" for request in server.requests)


def all_awake(made: Boxes) -> bool:
    return all(box.ready for box in made.status().boxes)


def broken(line: Line, request: Received) -> bool:
    """Its model cannot be loaded."""
    line.answer(200, json.dumps({**HEALTH, "state": "failed", "reason": "no such file: unet"}))
    return True


def breaks_off(line: Line, request: Received) -> bool:
    """Ends in mid-picture."""
    if request.method == "GET":
        return good(line, request)
    if request.method == "POST":
        line.start_stream()
        line.event(START)
        line.event(step(1))
        return False
    return good(line, request)


def test_many_at_once_are_shared() -> None:
    """Of drawings that begin at the same moment each box gets its part, and each names the box that drew it."""
    all_have_begun = threading.Barrier(4)  # else one may be over before another one chooses its box

    def meets(line: Line, request: Received) -> bool:
        if request.method == "POST":
            all_have_begun.wait(PATIENCE_S)
        return good(line, request)

    with boxes(box1=meets, box2=meets) as (made, _):
        made.ensure(lambda event: None, never)
        wait_until("both boxes", lambda: all_awake(made))
        with ThreadPoolExecutor(4) as pool:
            drawn = list(pool.map(lambda number: draw(made, job_id=str(number)), range(4)))
    assert sorted(str(one.receipt.worker) for one in drawn) == ["box1", "box1", "box2", "box2"]


def test_the_first_that_is_there_draws() -> None:
    """A prompt does not wait for a box that takes long to wake while another one is ready."""
    may_wake = threading.Event()

    def sleeps(line: Line, request: Received) -> bool:
        may_wake.wait(PATIENCE_S)
        return good(line, request)

    with boxes(box1=sleeps, box2=good) as (made, _):
        assert draw(made).receipt.worker == "box2"
        assert [box.ready for box in made.status().boxes] == [False, True]
        may_wake.set()
        wait_until("the other box", lambda: all_awake(made))
        assert draw(made).receipt.worker == "box1"


def test_one_that_fails_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """A box whose start fails is skipped; status, panel and log say which and why."""
    with boxes(box1=broken, box2=good) as (made, servers):
        assert draw(made).receipt.worker == "box2"
        trouble = wait_until("the trouble", lambda: made.status().boxes[0].trouble)
        assert made.status().boxes == (BoxStatus("box1", False, trouble), BoxStatus("box2", True))
        assert "no such file: unet" in str(trouble)
        assert posts(servers["box1"]) == 0
        panel = {link.name: link for link in links(made.status())}
    assert "no such file: unet" in panel["The machine box1"].state
    assert not panel["The machine box1"].well
    assert panel["The machine box2"].state == "ready"
    assert "box1 is left out" in caplog.text


def test_all_fail() -> None:
    """Where no box can be woken the error names each and what each said."""
    with (
        boxes(box1=broken, box2=broken) as (made, _),
        pytest.raises(StartError, match=r"box1, box2.*box1: .*no such file: unet.*box2: .*no such file: unet"),
    ):
        draw(made)


def test_one_that_dies_in_mid_picture() -> None:
    """The picture is drawn by the other box, once; the visitor hears of it, and the lost one is told to stop."""
    told: list[Event] = []
    with boxes(box1=breaks_off, box2=good) as (made, servers):
        made.ensure(told.append, never)
        wait_until("both boxes", lambda: all_awake(made))
        assert draw(made, told, job_id="42").receipt.worker == "box2"
        assert posts(servers["box2"]) == 1
        assert Waking(ANOTHER) in told
        cancelled = [("DELETE", "/requests/42")]
        wait_until("the cancel", lambda: cancelled[0] in [(one.method, one.path) for one in servers["box1"].requests])


def test_all_die_in_mid_picture() -> None:
    """Each box is asked once, and the error is one after which they are looked for again."""
    with boxes(box1=breaks_off, box2=breaks_off) as (made, servers):
        made.ensure(lambda event: None, never)
        wait_until("both boxes", lambda: all_awake(made))
        with pytest.raises(EndpointUnreachableError):
            made.draw(GenerationRequest("x"), job_id="1", tell=lambda event: None, cancelled=never)
        assert [posts(server) for server in servers.values()] == [2, 2]  # each once more on a fresh connection
        assert made.status().ready is False


def test_a_busy_gpu_is_passed_by() -> None:
    """A box whose GPU its owner uses gets a drawing only where no other box takes it."""

    def busy(line: Line, request: Received) -> bool:
        if request.method == "GET":
            line.answer(200, json.dumps({**HEALTH, "state": "failed", "reason": "gpu-busy: 1 GiB is free"}))
        else:
            line.answer(503, json.dumps({"$error": {"code": "GPU_BUSY", "name": "x", "message": "busy"}}))
        return True

    with boxes(box1=busy, box2=good) as (made, servers):
        assert draw(made).receipt.worker == "box2"
        assert posts(servers["box1"]) == 0
    with boxes(box1=busy, box2=busy) as (made, servers), pytest.raises(GpuBusyError):
        draw(made)


def test_what_one_box_cannot_draw_the_other_one_does() -> None:
    """A size beyond one box's limits goes to the box that draws it; visitors may ask for what one of them can."""

    def larger(line: Line, request: Received) -> bool:
        if request.method == "GET":
            limits = {"width": {"min": 64, "max": 1024, "multiple": 64}, "images_at_once": {"max": 4}}
            line.answer(200, json.dumps({**HEALTH, "limits": limits}))
            return True
        return good(line, request)

    with boxes(box1=good, box2=larger) as (made, _):
        made.ensure(lambda event: None, never)
        wait_until("both boxes", lambda: all_awake(made))
        assert (made.status().limits.width.max, made.status().limits.images_at_once) == (1024, 5)
        assert draw(made, request=GenerationRequest("x", width=1024)).receipt.worker == "box2"


def test_the_model_said_no() -> None:
    """What a box cannot draw is told, and not asked of the next box."""

    def refuses(line: Line, request: Received) -> bool:
        if request.method == "GET":
            return good(line, request)
        line.answer(500, json.dumps({"$error": {"code": "PIPELINE_ERROR", "name": "x", "message": "not this"}}))
        return True

    with boxes(box1=refuses, box2=refuses) as (made, servers):
        made.ensure(lambda event: None, never)
        wait_until("both boxes", lambda: all_awake(made))
        with pytest.raises(DrawingError, match="not this"):
            draw(made)
        assert sum(posts(server) for server in servers.values()) == 1


def test_cancelled() -> None:
    """A drawing that is cancelled in line wakes nobody; one that is lost after its cancel is no failure."""
    with boxes(box1=breaks_off, box2=good) as (made, servers):
        with pytest.raises(JobCancelledError):
            made.ensure(lambda event: None, lambda: True)
        assert [server.requests for server in servers.values()] == [[], []]
        made.ensure(lambda event: None, never)
        wait_until("both boxes", lambda: all_awake(made))
        gone = threading.Event()
        with pytest.raises(JobCancelledError):
            made.draw(GenerationRequest("x"), job_id="1", tell=lambda event: gone.set(), cancelled=gone.is_set)
        assert posts(servers["box2"]) == 0


def test_the_settings_choose_boxes() -> None:
    """Two nodes in INFERENCE_NODE make two boxes behind a tunnel; nothing is started before the first prompt."""
    made = choose_backend(Settings.load(_env_file=None, **SETTINGS))
    assert isinstance(made, Boxes)
    status = made.status()
    assert status.boxes == (BoxStatus("box1", False), BoxStatus("box2", False))
    assert (status.kind, status.tunnel, status.ready) == ("fair", True, False)
    assert [link.state for link in links(status) if "machine box" in link.name] == ["asleep; a drawing wakes it"] * 2
