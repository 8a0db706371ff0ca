"""`manage.py doctor` as a real process: a sound set-up is ok, and each broken one is named by one row."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint.credentials import Credentials
from maintenance.env_file import INVISIBLE
from tests.maintenance.conftest import Manage, Ran
from tests.support.endpoint_scripts import HEALTH, good
from tests.support.fair_servers import EMAIL, PASSWORD, RunningServer, running_server
from tests.support.fake_hub import FakeHub, KeptSpace
from tests.support.hostile_server import HostileServer, Line, Received, hostile_server
from tests.support.processes import Processes
from tests.support.space import start_space

pytestmark = pytest.mark.slow
SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
ENV_FILE = f"ENDPOINT_SECRET={SECRET}\n"
DOCTOR = ("doctor", "--space", "you/draw", "--json")


@pytest.fixture
def space(hub: FakeHub) -> KeptSpace:
    """A Space that runs as it should, and a machine that is connected to it."""
    hub.workers = ["home"]
    hub.spaces["you/draw"] = KeptSpace(secrets={"ENDPOINT_SECRET": SECRET})
    return hub.spaces["you/draw"]


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("fair")) as running:
        yield running


@pytest.fixture
def endpoint() -> Iterator[HostileServer]:
    """An inference server whose keys are made from the secret."""
    with hostile_server(good, Credentials.from_secret(SECRET)) as server:
        yield server


def fair_settings(address: str, **others: str) -> str:
    settings = {
        "ENDPOINT_SECRET": SECRET,
        "FAIRCOMPUTE_EMAIL": EMAIL,
        "FAIRCOMPUTE_PASSWORD": PASSWORD,
        "FAIRCOMPUTE_SERVER_ADDRESS": address,
        "INFERENCE_NODE": "gpu",
        "INFERENCE_IMAGE": "answer",
        "TUNNEL_NODE": "tunnel",
        **others,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def only_failure(ran: Ran) -> dict[str, str]:
    """The one row that failed; it says what to do."""
    assert ran.status == 1, ran.out
    (failed,) = [row for row in ran.rows if row["status"] == "failed"]
    assert failed["fix"]
    assert SECRET not in ran.out + ran.err
    return failed


def test_nothing_is_configured(hub: FakeHub, manage: Manage) -> None:
    """Without settings it looks at what `make run` uses, asks nobody, and all is ok."""
    ran = manage("doctor", "--json", HF_TOKEN="")
    assert ran.status == 0, ran.out
    assert {row["status"] for row in ran.rows} == {"ok"}
    assert {"settings", "card", "engine", "model"} <= ran.checks("ok")
    assert hub.requests == []


@pytest.mark.usefixtures("space")
def test_all_is_well(hub: FakeHub, manage: Manage) -> None:
    """A Space that runs, with its worker: every link is ok, and nothing was asked for but to be read."""
    ran = manage(*DOCTOR, env_file=ENV_FILE)
    assert ran.status == 0, ran.out
    assert {row["status"] for row in ran.rows} == {"ok"}
    assert {"token", "space", "secrets", "log", "page", "workers", "clock"} <= ran.checks("ok")
    assert {request.split()[0] for request in hub.requests} == {"GET"}


@pytest.mark.usefixtures("space")
def test_workers_that_their_owner_lets_draw_nothing(hub: FakeHub, manage: Manage) -> None:
    """A pause and a used-up budget are warnings that say until when, and no fault."""
    hub.workers = ["home", "attic"]
    reasons = {"home": "paused", "attic": "budget"}
    hub.absences = {
        name: {"reason": reason, "since": None, "until": time.time() + 3600} for name, reason in reasons.items()
    }
    ran = manage(*DOCTOR, env_file=ENV_FILE)
    assert ran.status == 0, ran.out
    paused, used_up = [row["detail"] for row in ran.rows if row["status"] == "warning"]
    assert paused.startswith("home is paused by its owner until ")
    assert used_up.startswith("attic has drawn its minutes for today: it draws nothing until ")


def test_in_a_terminal(space: KeptSpace, manage: Manage) -> None:
    """No line is wider than the terminal's 80 columns, but for what must stay whole, and the last one sums up."""
    space.stage, space.build_log = "BUILD_ERROR", ["ERROR: something long " + "of many words " * 20]
    ran = manage("doctor", "--space", "you/draw", env_file=ENV_FILE)
    assert ran.status == 1
    assert [line for line in ran.out.splitlines() if len(line) > 80 and len(line.split()) > 2] == []
    assert "Mend what failed" in ran.out.splitlines()[-1] + ran.out.splitlines()[-2]


BROKEN_SPACES: dict[str, tuple[dict[str, Any], str, str]] = {
    "build": ({"stage": "BUILD_ERROR", "build_log": ["ERROR: no such package"]}, "space", "ERROR: no such package"),
    "program": ({"stage": "RUNTIME_ERROR", "run_log": ["KeyError: 'x'"]}, "space", "KeyError: 'x'"),
    "card": ({"stage": "CONFIG_ERROR"}, "space", "set up wrongly"),
    "paused": ({"stage": "PAUSED"}, "space", "paused"),
    "no-secret": ({"secrets": {}}, "secrets", "lacks ENDPOINT_SECRET"),
    "open-secret": ({"secrets": {}, "variables": {"ENDPOINT_SECRET": SECRET}}, "secrets", "everybody can read it"),
}


@pytest.mark.parametrize("broken", BROKEN_SPACES)
def test_a_broken_space(space: KeptSpace, manage: Manage, broken: str) -> None:
    """What is wrong with a Space is named by its own row and by no other."""
    changes, check, detail = BROKEN_SPACES[broken]
    for name, value in changes.items():
        setattr(space, name, value)
    failed = only_failure(manage(*DOCTOR, env_file=ENV_FILE))
    assert failed["check"] == check
    assert detail in failed["detail"]


BROKEN_SETTINGS = {
    "fair-by-half": ({}, "FAIRCOMPUTE_EMAIL=a@b.c\n", "settings"),
    "short-secret": ({}, "ENDPOINT_SECRET=short\n", "settings"),
    "wrong-token": ({"HF_TOKEN": "hf_wrong"}, ENV_FILE, "token"),
    "hub-away": ({"HF_ENDPOINT": "http://127.0.0.1:9"}, ENV_FILE, "hub"),
    "space-not-told": ({}, fair_settings("https://faircompute.com:8000"), "secrets"),
}


@pytest.mark.usefixtures("space")
@pytest.mark.parametrize("broken", BROKEN_SETTINGS)
def test_broken_settings(manage: Manage, broken: str) -> None:
    """What is wrong on this side is named before anything that follows from it."""
    environment, env_file, check = BROKEN_SETTINGS[broken]
    assert only_failure(manage(*DOCTOR, env_file=env_file, **environment))["check"] == check


def test_a_port_that_no_space_reaches(space: KeptSpace, manage: Manage) -> None:
    """Fair on port 8000 is no place for a Space to ask."""
    env_file = fair_settings("https://faircompute.com:8000")
    settings = dict(line.split("=", 1) for line in env_file.splitlines())
    space.secrets = settings
    failed = only_failure(manage(*DOCTOR, env_file=env_file))
    assert failed["check"] == "port"
    assert "port 8000" in failed["detail"]


def test_no_such_space(manage: Manage) -> None:
    """A Space that is not there: the row says how to make it."""
    failed = only_failure(manage(*DOCTOR, env_file=ENV_FILE))
    assert (failed["check"], failed["fix"]) == ("space", "python manage.py deploy --space you/draw")


@pytest.mark.usefixtures("space")
def test_a_page_that_fails(hub: FakeHub, manage: Manage) -> None:
    """The Space runs, its page answers with an error."""
    hub.trouble.page_status = 500
    assert only_failure(manage(*DOCTOR, env_file=ENV_FILE))["check"] == "page"


def test_stopped_by_hugging_face(hub: FakeHub, space: KeptSpace, manage: Manage) -> None:
    """A flagged Space is no paused one: no restart helps, and the row says so."""
    space.stage, hub.trouble.message = "PAUSED", "Flagged as abusive"
    failed = only_failure(manage(*DOCTOR, env_file=ENV_FILE))
    assert failed["check"] == "space"
    assert "Hugging Face has stopped it" in failed["detail"]
    assert "No restart helps" in failed["fix"]


def test_what_is_only_a_warning(hub: FakeHub, space: KeptSpace, manage: Manage) -> None:
    """An error in the log, no worker, a clock an hour off, a pasted space: each its own warning, exit status 0."""
    space.run_log = ["The page is at ...", "ValueError: no picture", "a visitor came"]
    hub.workers, hub.trouble.clock_s = [], 3600
    ran = manage(*DOCTOR, env_file=f"ENDPOINT_SECRET={SECRET}{chr(next(iter(INVISIBLE)))}\n")
    assert (ran.status, ran.checks("failed")) == (0, set())
    assert ran.checks("warning") == {"settings", "log", "workers", "clock"}
    assert ran.row("log")["detail"] == "its last error: ValueError: no picture"
    assert "behind the Space's" in ran.row("clock")["detail"]


def test_asleep(space: KeptSpace, manage: Manage) -> None:
    """A Space that sleeps is not woken by looking."""
    space.stage = "SLEEPING"
    ran = manage(*DOCTOR, env_file=ENV_FILE)
    assert (ran.status, ran.checks("warning")) == (0, {"space"})
    assert "page" not in ran.checks("ok")


@pytest.mark.usefixtures("space")
def test_nobody_is_logged_in(manage: Manage) -> None:
    """Without a token a public Space's stage and page are looked at all the same."""
    ran = manage(*DOCTOR, env_file=ENV_FILE, HF_TOKEN="")
    assert (ran.status, ran.checks("warning")) == (0, {"token"})
    assert {"space", "page"} <= ran.checks("ok")


def test_fair(fair: RunningServer, manage: Manage, closed_port: int) -> None:
    """A Fair that takes the login and has the nodes; nothing runs yet, which is no fault."""
    env_file = fair_settings(fair.url, TUNNEL_ADDRESS="127.0.0.1", TUNNEL_PUBLIC_PORT=str(closed_port))
    ran = manage("doctor", "--json", env_file=env_file)
    assert ran.status == 0, ran.out
    assert {"fair", "nodes", "endpoint"} <= ran.checks("ok")
    assert "the first drawing starts it" in ran.row("endpoint")["detail"]


def test_broken_fair(fair: RunningServer, manage: Manage, closed_port: int) -> None:
    """Fair away, a wrong password, a node that is not there: each the row of its own link."""
    for env_file, check in (
        (fair_settings(f"http://127.0.0.1:{closed_port}"), "fair"),
        (fair_settings(fair.url, FAIRCOMPUTE_PASSWORD="another"), "fair"),
        (fair_settings(fair.url, INFERENCE_NODE="nowhere"), "nodes"),
    ):
        assert only_failure(manage("doctor", "--json", env_file=env_file))["check"] == check


def test_fixed_endpoint(endpoint: HostileServer, manage: Manage) -> None:
    """A fixed endpoint that answers with the certificate made from the secret."""
    ran = manage("doctor", "--json", env_file=f"{ENV_FILE}ENDPOINT_URL={endpoint.url}\n")
    assert ran.status == 0, ran.out
    assert {"pin", "endpoint"} <= ran.checks("ok")


def test_the_model_of_an_endpoint_is_told(manage: Manage) -> None:
    """How it lies in the GPU's memory, and what its licence asks."""
    told = {"memory_plan": "Memory plan full: everything is on the card.", "notices": ["Licence: Apache-2.0."]}

    def answer(line: Line, request: Received) -> bool:
        line.answer(200, json.dumps(HEALTH | told))
        return True

    with hostile_server(answer, Credentials.from_secret(SECRET)) as server:
        ran = manage("doctor", "--json", env_file=f"{ENV_FILE}ENDPOINT_URL={server.url}\n")
    assert ran.status == 0, ran.out
    assert ran.row("memory")["detail"] == told["memory_plan"]
    assert ran.row("licence")["detail"] == "Licence: Apache-2.0."


def test_broken_endpoint(endpoint: HostileServer, manage: Manage, closed_port: int) -> None:
    """Nobody there, and somebody else there, are two links."""
    nobody = f"{ENV_FILE}ENDPOINT_URL=https://127.0.0.1:{closed_port}\n"
    assert only_failure(manage("doctor", "--json", env_file=nobody))["check"] == "endpoint"
    another = f"ENDPOINT_SECRET=another-{SECRET}\nENDPOINT_URL={endpoint.url}\n"
    assert only_failure(manage("doctor", "--json", env_file=another))["check"] == "pin"


@pytest.mark.usefixtures("space")
def test_one_picture_of_the_page(hub: FakeHub, manage: Manage, processes: Processes) -> None:
    """--draw with a Space asks its page for a picture, as a visitor would, and says where it lies."""
    hub.page_url = start_space(processes, {"ENDPOINT_SECRET": SECRET}).url
    ran = manage(*DOCTOR, "--draw", env_file=ENV_FILE)
    assert ran.status == 0, ran.out
    assert Path(ran.row("drawing")["detail"].rpartition(": ")[2]).stat().st_size > 1000


def test_one_picture_here(manage: Manage) -> None:
    """--draw without a Space draws through the whole local chain, and ends what it started."""
    ran = manage("doctor", "--draw", "--json", env_file="TUNNEL=none\n")
    assert ran.status == 0, ran.out
    assert Path(ran.row("drawing")["detail"].rpartition(": ")[2]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("space")
def test_the_page_does_not_draw(manage: Manage) -> None:
    """A page that answers but is none of ours is a failed drawing, told in one row."""
    failed = only_failure(manage(*DOCTOR, "--draw", env_file=ENV_FILE))
    assert failed["check"] == "drawing"
