"""Each broken set-up is named by the right line of the doctor and only by that one, against real lines of workers."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

import manage
from backends.workers import Workers
from endpoint.credentials import Credentials
from tests.support.fake_hub import TOKEN, FakeHub, KeptSpace, Trouble
from tests.support.hostile_server import Line, Received, hostile_server
from tests.support.processes import wait_until
from tests.support.worker_line import DrawingApp, RawWorker, space_side, worker

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
KEY = Credentials.from_secret(SECRET).worker_key
ENV_FILE = f"ENDPOINT_SECRET={SECRET}\nSPACE=you/draw\n"
ROAD = 'README.md, "Through Fair and a tunnel"'

Rows = list[dict[str, str]]
Doctor = Callable[..., Rows]


class Page(Workers):
    """The Space's page as far as the doctor looks at it, with the product's own routes for workers."""

    def routes(self) -> list[BaseRoute]:
        return [Route("/", self.page), *super().routes()]

    async def page(self, request: Request) -> Response:
        return PlainTextResponse("the page")


class Home(DrawingApp):
    """A worker whose healthcheck says what the test wants besides."""

    def __init__(self, **told: Any) -> None:
        super().__init__()
        self._told = told

    def health(self) -> dict[str, Any]:
        return {**super().health(), **self._told}


@pytest.fixture
def doctor(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs `manage.py doctor` in this process, against the Hub; returns its rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))

    def run(space: str = "you/draw", env_file: str = ENV_FILE, token: str = TOKEN, hub_url: str = hub.url) -> Rows:
        for module in ("huggingface_hub.constants", "huggingface_hub.hf_api"):
            monkeypatch.setattr(f"{module}.ENDPOINT", hub_url, raising=False)
        monkeypatch.setenv("HF_TOKEN", token)
        (tmp_path / ".env").write_text(env_file)
        status = manage.main(["doctor", "--space", space, "--json"])
        told = capsys.readouterr()
        assert SECRET not in told.out + told.err
        assert KEY not in told.out + told.err
        rows: Rows = [json.loads(line) for line in told.out.splitlines()]
        assert status == (1 if any(row["status"] == "failed" for row in rows) else 0)
        assert all(row["fix"] for row in rows if row["status"] != "ok"), "each says what to do"
        return rows

    return run


@contextlib.contextmanager
def living_space(hub: FakeHub, **kept: Any) -> Iterator[Any]:
    """A Space that runs, whose page takes real workers; yields what `space_side` does."""
    hub.spaces["you/draw"] = KeptSpace(**{"secrets": {"ENDPOINT_SECRET": SECRET}, **kept})
    with space_side(Page(KEY)) as side:
        hub.page_url = f"http://127.0.0.1:{side.port}"
        yield side


@contextlib.contextmanager
def connected(side: Any, app: DrawingApp | None = None) -> Iterator[None]:
    with worker(side.port, name="home", key=KEY, app=app or DrawingApp()):
        wait_until("the worker", lambda: bool(side.workers._clients))
        yield


def the_one(rows: Rows, status: str = "failed") -> dict[str, str]:
    """The only row that is not ok."""
    bad = [row for row in rows if row["status"] != "ok"]
    assert [row["status"] for row in bad] == [status], bad
    return bad[0]


def test_all_is_well(hub: FakeHub, doctor: Doctor) -> None:
    """A worker that draws: the rows tell its model and machine, and every link is ok."""
    machine = {
        "gpu": "NVIDIA H200",
        "driver": "580.1",
        "cuda": "13.0",
        "memory_bytes": 10**11,
        "free_bytes": 9 * 10**10,
    }
    with living_space(hub) as side, connected(side, Home(hardware={**machine, "disk_free_bytes": 5 * 10**10})):
        rows = doctor()
    assert {row["status"] for row in rows} == {"ok"}
    (told,) = [row["detail"] for row in rows if row["check"] == "worker"]
    assert told == (
        "home: healthy, a-model, NVIDIA H200, driver 580.1 for CUDA 13.0, 90.0 of 100.0 GB were free before it, "
        "50 GB of disk free"
    )


# What the worker's own modules say of these (tests of theirs hold the words).
NO_MODEL = {
    "no-runtime": (
        "PyTorch reaches no GPU (it sees no device). Give the container the GPU (docker run --gpus all)",
        "docker run --gpus all",
    ),
    "old-driver": (
        "NVIDIA's driver here is 470.57, and this PyTorch (CUDA 13.2) needs 580 or newer. Update the driver",
        "needs 580 or newer",
    ),
    "small-card": (
        "the model needs about 13.5 GB and the whole GPU has 4.0 GB. Take a smaller model, or a lower MODEL_PRECISION",
        "Take a smaller model",
    ),
    "disk-full": ("Fetching a/b from the hub: the disk at /data is full after 1.2 of 5.1 GB", "the disk at /data"),
    "gated": ("Fetching a/b from the hub: it answered 403, the model is gated. Accept its terms", "Accept its terms"),
    "misspelt": ("Fetching a/b from the hub: it answered 404, there is no such model", "no such model"),
}


@pytest.mark.parametrize("reason", NO_MODEL)
def test_a_worker_without_its_model(hub: FakeHub, doctor: Doctor, reason: str) -> None:
    """What the worker says of its GPU, disk or hub stands in its own row, whole."""
    said, words = NO_MODEL[reason]
    with living_space(hub) as side, connected(side, Home(state="failed", reason=said)):
        row = the_one(doctor())
    assert row["check"] == "worker"
    assert row["detail"] == f"home cannot load its model: {said}"
    assert words in row["detail"]


def test_a_worker_that_still_loads(hub: FakeHub, doctor: Doctor) -> None:
    """A download is no fault: how far it is, and to wait."""
    app = Home(state="loading", stage="Downloading the model: 1.2 of 5.1 GB")
    with living_space(hub) as side, connected(side, app):
        row = the_one(doctor(), "warning")
    assert (row["check"], "1.2 of 5.1 GB" in row["detail"]) == ("worker", True)


def test_a_worker_that_is_paused(hub: FakeHub, doctor: Doctor) -> None:
    """Its owner's wish is no fault: until when, and what ends it."""
    with living_space(hub) as side, connected(side, Home(pause={"reason": "paused", "left_s": 3600})):
        row = the_one(doctor(), "warning")
    assert row["check"] == "worker"
    assert "home is paused by its owner until " in row["detail"]
    assert "resume" in row["fix"]


def test_a_worker_with_a_wrong_key(hub: FakeHub, doctor: Doctor) -> None:
    """The Space knows that somebody tries: the row says so, in place of "no machine is connected"."""
    with living_space(hub) as side, worker(side.port, key="x" * 64):
        wait_until("the try", lambda: bool(side.workers._door.turned_away.rows()))
        row = the_one(doctor())
    assert row["check"] == "key"
    assert "showed a wrong worker's key" in row["detail"]
    assert row["fix"].endswith("python manage.py worker-key --space you/draw")


def test_a_space_with_another_secret(hub: FakeHub, doctor: Doctor) -> None:
    """The Space's secret is not the one in .env: the key made from it opens nothing there."""
    with living_space(hub):
        row = the_one(doctor(env_file="ENDPOINT_SECRET=another-secret-another-secret-another-secret\n"))
    assert row["check"] == "key"
    assert "deploy --space you/draw" in row["fix"]


def test_a_worker_of_another_version(hub: FakeHub, doctor: Doctor) -> None:
    """Which side to update, and how."""
    with living_space(hub) as side:
        raw = _raw(side.port, protocol=0)
        wait_until("its refusal", lambda: bool(side.workers._door.turned_away.rows()))
        row = the_one(doctor())
        raw.close()
    assert row["check"] == "versions"
    assert "raw: it speaks version 0 of the workers' protocol, this Space version 1: update the worker" in row["detail"]
    assert "docker build" in row["fix"]


def test_a_worker_of_an_older_release(hub: FakeHub, doctor: Doctor) -> None:
    """What still fits is a warning."""
    with living_space(hub) as side:
        raw = _raw(side.port, version="0.0.9")
        raw.beat()
        wait_until("the worker", lambda: bool(side.workers._clients))
        row = the_one(doctor(), "warning")
        raw.close()
    assert (row["check"], "raw is of version 0.0.9" in row["detail"]) == ("versions", True)


def _raw(port: int, **hello: Any) -> RawWorker:
    raw = RawWorker.__new__(RawWorker)
    raw._stack = contextlib.ExitStack()
    from websockets.sync.client import connect

    raw.line = raw._stack.enter_context(
        connect(f"ws://127.0.0.1:{port}/worker", additional_headers={"X-Worker-Key": KEY})
    )
    raw.say(**{"type": "hello", "protocol": 1, "version": "0.1.0", "name": "raw", **hello})
    return raw


def test_two_spaces_with_one_key(hub: FakeHub, doctor: Doctor) -> None:
    """The second Space of one secret has no worker: each draws for the one that its SPACE names."""
    with living_space(hub):
        hub.spaces["you/second"] = hub.spaces["you/draw"]
        row = the_one(doctor(space="you/second"))
    assert row["check"] == "workers"
    assert "ENDPOINT_SECRET in .env is you/draw's too" in row["detail"]
    assert "worker-key --space you/second" in row["fix"]


def test_no_machine_is_connected(hub: FakeHub, doctor: Doctor) -> None:
    """A warning: the Space sketches meanwhile."""
    with living_space(hub):
        assert the_one(doctor(), "warning")["check"] == "workers"


@pytest.mark.parametrize("status", [426, 400, 502])
def test_a_proxy_that_lets_no_websocket_through(hub: FakeHub, doctor: Doctor, status: int) -> None:
    """A front that refuses Upgrade and passes all else on: the row names the tutorial's road as the answer."""
    with living_space(hub) as side, connected(side):

        def front(line: Line, request: Received) -> bool:
            if "upgrade" in {name.lower() for name in request.headers}:
                line.answer(status, "no")
            elif request.path == "/worker-status":
                line.answer(200, json.dumps({"version": "0.1.0", "workers": [], "turned_away": []}))
            else:
                line.answer(200, "the page")
            return False

        with hostile_server(front) as proxy:
            hub.page_url = proxy.url
            row = the_one(doctor())
    assert row["check"] == "line"
    assert f"was answered with {status}: a proxy of this network lets none through" in row["detail"]
    assert ROAD in row["fix"]


STAGES: dict[str, tuple[dict[str, Any], str, str]] = {
    "build-failed": ({"stage": "BUILD_ERROR", "build_log": ["ERROR: no such pin"]}, "failed", "| ERROR: no such pin"),
    "asleep": ({"stage": "SLEEPING"}, "warning", "it sleeps, as nobody came for 48 hours"),
    "paused": ({"stage": "PAUSED"}, "failed", "its owner has paused it"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_space_that_does_not_run(hub: FakeHub, doctor: Doctor, stage: str) -> None:
    """Its own row, and nothing of what lies behind it."""
    kept, status, words = STAGES[stage]
    with living_space(hub, **kept):
        row = the_one(doctor(), status)
    assert (row["check"], words in row["detail"]) == ("space", True)


def test_stopped_by_hugging_face(hub: FakeHub, doctor: Doctor) -> None:
    """A flagged Space is no paused one."""
    hub.trouble = Trouble(message="Flagged as abusive")
    with living_space(hub, stage="PAUSED"):
        row = the_one(doctor())
    assert row["check"] == "space"
    assert "Hugging Face has stopped it" in row["detail"]


def test_a_secret_that_was_pasted(hub: FakeHub, doctor: Doctor) -> None:
    """With a zero-width space and a line's end in it: told, and left out of what is sent."""
    with living_space(hub) as side, connected(side):
        row = the_one(doctor(env_file=f'ENDPOINT_SECRET="{SECRET}\u200b\r\n"\n'), "warning")
    assert (row["check"], "invisible characters or line ends" in row["detail"]) == ("settings", True)


def test_a_clock_that_is_wrong(hub: FakeHub, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour off: which way, and what sets it right."""
    from maintenance import doctor_space

    real = time.time
    monkeypatch.setattr(doctor_space, "time", SimpleNamespace(time=lambda: real() + 3600))
    with living_space(hub) as side, connected(side):
        row = the_one(doctor(), "warning")
    assert (row["check"], "s ahead of the Space's" in row["detail"]) == ("clock", True)


def test_the_hub_and_its_token(hub: FakeHub, doctor: Doctor, closed_port: int) -> None:
    """The Hub away, a token that is none, and one that may only read are three rows of their own."""
    with living_space(hub) as side, connected(side):
        assert the_one(doctor(hub_url=f"http://127.0.0.1:{closed_port}"))["check"] == "hub"
        assert the_one(doctor(token="hf_wrong"))["check"] == "token"
        hub.trouble.role = "read"
        row = the_one(doctor(), "warning")
        assert (row["check"], "may only read" in row["detail"]) == ("token", True)
