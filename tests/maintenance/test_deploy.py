"""`manage.py deploy` as a real process against a Hub on loopback."""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from endpoint.credentials import Credentials
from tests.maintenance.conftest import Manage
from tests.support.fake_hub import FakeHub, KeptSpace, Trouble
from tests.support.processes import REPOSITORY, Processes, wait_until
from tools.space_files import space_files

pytestmark = pytest.mark.slow
SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
DEPLOY = ("deploy", "--space", "you/draw")
ENV_FILE = f"ENDPOINT_SECRET={SECRET}\n"


def deployed(hub: FakeHub) -> KeptSpace:
    """Puts the Space of an earlier deployment there, as it was then."""
    space = hub.spaces["you/draw"] = KeptSpace(secrets={"ENDPOINT_SECRET": SECRET})
    space.commit({".gitattributes": b"", **{path: file.read_bytes() for path, file in space_files().items()}}, [])
    space.stage, space.running = "RUNNING", space.commits[-1]
    return space


def test_dry_run(hub: FakeHub, manage: Manage) -> None:
    """A dry run says what would be done, asks nobody, needs no account and leaves nothing behind."""
    ran = manage(*DEPLOY, "--dry-run", HF_TOKEN="")
    assert ran.status == 0
    assert f"{len(space_files())} that a Space runs" in ran.out
    assert "ENDPOINT_SECRET is made now and kept in .env" in ran.out
    assert (hub.requests, list(ran.folder.iterdir())) == ([], [])


def test_first_deployment(hub: FakeHub, manage: Manage) -> None:
    """Nothing is there: the Space is created with a new secret, filled, followed, and the line for home is printed."""
    ran = manage(*DEPLOY, env_file="TUNNEL=none\n")
    assert ran.status == 0, ran.out
    space = hub.spaces["you/draw"]
    assert set(space.files) == {*space_files(), ".gitattributes"}
    assert space.files["README.md"] == (REPOSITORY / "README.md").read_bytes()
    assert space.variables == {"TUNNEL": "none"}
    (secret,) = space.secrets.values()
    env_file = ran.folder / ".env"
    assert env_file.read_text() == f"TUNNEL=none\nENDPOINT_SECRET={secret}\nSPACE=you/draw\n"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert "| --> RUN pip install -r requirements.txt" in ran.out
    key = Credentials.from_secret(secret).worker_key
    assert re.search(rf"(?m)^docker run -d .*-e SPACE=you/draw -e WORKER_KEY={key} -e MODEL_ID=\S+ draw$", ran.out)
    assert secret not in ran.out + ran.err


def test_the_next_deployment(hub: FakeHub, manage: Manage) -> None:
    """What changed is replaced and what is no longer run is removed, in one commit; .gitattributes stays."""
    space = deployed(hub)
    space.files |= {"app.py": b"old", "get_rathole.py": b"old"}
    ran = manage(*DEPLOY, "--yes", env_file=ENV_FILE)
    assert ran.status == 0, ran.out
    assert set(space.files) == {*space_files(), ".gitattributes"}
    assert space.files["app.py"] == (REPOSITORY / "app.py").read_bytes()
    assert len(space.commits) == 2
    assert "1 changed" in ran.out
    assert re.search(r"removed +get_rathole.py", ran.out)


def test_nothing_has_changed(hub: FakeHub, manage: Manage) -> None:
    """A deployment of the same files makes no commit, and the page answers at once."""
    space = deployed(hub)
    assert manage(*DEPLOY, "--yes", env_file=ENV_FILE).status == 0
    assert len(space.commits) == 1


def test_nobody_can_be_asked(hub: FakeHub, manage: Manage) -> None:
    """Without a terminal and without --yes nothing is overwritten: exit status 2, and the Space is as it was."""
    space = deployed(hub)
    space.files["app.py"] = b"old"
    ran = manage(*DEPLOY, env_file=ENV_FILE)
    assert (ran.status, space.files["app.py"], len(space.commits)) == (2, b"old", 1)
    assert "--yes" in ran.err
    assert not [request for request in hub.requests if request.startswith("POST")]


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 2)])
def test_somebody_is_asked(hub: FakeHub, tmp_path: Path, answer: str, status: int) -> None:
    """In a terminal it asks before it overwrites, and only a yes counts."""
    space = deployed(hub)
    space.files["app.py"] = b"old"
    (tmp_path / ".env").write_text(ENV_FILE)
    ours, theirs = os.openpty()
    command = [sys.executable, str(REPOSITORY / "manage.py"), *DEPLOY]
    environment = {**os.environ, **hub.environment(str(tmp_path / "hf"))}
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, env=environment, cwd=tmp_path) as program:
        os.write(ours, f"{answer}\n".encode())
        out, _ = program.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert program.returncode == status, out
    assert b"Overwrite it? [y/N]" in out
    assert (space.files["app.py"] == b"old") == (answer == "n")


def test_a_second_space_of_the_same_secret(hub: FakeHub, manage: Manage) -> None:
    """Both will take the same worker's key: the plan says what that means, before anything is done."""
    ran = manage("deploy", "--space", "you/second", "--dry-run", env_file=f"{ENV_FILE}SPACE=you/draw\n")
    told = " ".join(ran.out.split())
    assert "ENDPOINT_SECRET in .env is you/draw's: this Space will take the same worker's key" in told


def test_rows(hub: FakeHub, manage: Manage) -> None:
    """--json prints nothing but rows of check, status, detail and fix; the worker's line is one of them."""
    ran = manage(*DEPLOY, "--json", env_file=ENV_FILE)
    assert ran.status == 0
    assert all(set(row) == {"check", "status", "detail", "fix"} for row in ran.rows)
    assert ran.row("worker")["detail"].startswith("docker run ")
    assert ran.row("page")["status"] == "ok"


def test_a_paused_space_is_started(hub: FakeHub, manage: Manage) -> None:
    """A Space that its owner has paused is started again by a deployment, which says so before."""
    space = deployed(hub)
    space.stage = "PAUSED"
    ran = manage(*DEPLOY, "--yes", env_file=ENV_FILE)
    assert (ran.status, space.stage) == (0, "RUNNING"), ran.out
    assert "it exists (PAUSED) and is started again" in ran.out


def test_what_only_the_space_has(hub: FakeHub, manage: Manage) -> None:
    """A setting that only the Space has stays, and is told."""
    space = deployed(hub)
    space.variables["INFERENCE_NODE"] = "gpu"
    ran = manage(*DEPLOY, "--yes", env_file=ENV_FILE)
    assert re.search(r"kept +only the Space has INFERENCE_NODE", ran.out)
    assert space.variables == {"INFERENCE_NODE": "gpu"}


TROUBLE = {
    "no-token": (Trouble(), {"HF_TOKEN": ""}, "token", "hf auth login"),
    "wrong-token": (Trouble(), {"HF_TOKEN": "hf_wrong"}, "token", "hf auth login"),
    "token-may-read": (Trouble(role="read"), {}, "token", "write access"),
    "no-pro": (Trouble(wants_pro=True), {}, "space", "PRO account"),
    "taken": (Trouble(taken={"you/draw"}), {}, "space", "name is taken"),
    "hub-fails": (Trouble(statuses={"GET /api/whoami-v2": 503}), {}, "token", "at Hugging Face"),
    "hub-away": (Trouble(), {"HF_ENDPOINT": "http://127.0.0.1:9"}, "token", "network"),
    "file-refused": (
        Trouble(statuses={"/commit/main": 400}),
        {},
        "files",
        "Mend what it names",
    ),
    "changed-meanwhile": (Trouble(statuses={"/commit/main": 412}), {}, "files", "Somebody else"),
    "build-fails": (Trouble(build_error=["ERROR: ResolutionImpossible"]), {}, "build", "Mend what the last lines"),
    "program-ends": (Trouble(after_build="RUNTIME_ERROR", message="Exit code: 1"), {}, "build", "deploy again"),
    "card-wrong": (Trouble(after_build="CONFIG_ERROR"), {}, "build", "head of README.md"),
    "flagged": (Trouble(after_build="PAUSED", message="Flagged as abusive"), {}, "build", "support"),
    "page-fails": (Trouble(page_status=500), {}, "page", "Look at the Space's log"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble(hub: FakeHub, manage: Manage, trouble: str) -> None:
    """Whatever goes wrong is one failed row, the last, with what came back and what to do; exit status 1."""
    hub.trouble, environment, check, fix = TROUBLE[trouble]
    ran = manage(*DEPLOY, "--json", "--timeout", "6", env_file=ENV_FILE, **environment)
    assert ran.status == 1, ran.out
    assert ran.checks("failed") == {check}
    assert ran.rows[-1]["check"] == check
    assert fix in ran.rows[-1]["fix"]
    assert SECRET not in ran.out + ran.err


def test_the_builds_last_lines(hub: FakeHub, manage: Manage) -> None:
    """A build that failed is told with the last lines of its log."""
    hub.trouble.build_error = ["ERROR: ResolutionImpossible: gradio wants pydantic<=2.12.5"]
    ran = manage(*DEPLOY, "--json", env_file=ENV_FILE)
    assert ran.row("build")["detail"].endswith("| ERROR: ResolutionImpossible: gradio wants pydantic<=2.12.5")


def test_somebody_elses_name(manage: Manage) -> None:
    """A Space of an owner whom the token does not belong to is not tried; the right name is told."""
    ran = manage("deploy", "--space", "other/draw", "--json")
    assert ran.status == 1
    assert "--space you/draw" in ran.row("space")["fix"]


def test_a_token_that_was_pasted(hub: FakeHub, manage: Manage) -> None:
    """A token with a zero-width space in it is used without it, and that is told."""
    ran = manage(*DEPLOY, "--json", env_file=ENV_FILE, HF_TOKEN=f"{hub.environment('')['HF_TOKEN']}\u200b")
    assert ran.status == 0, ran.out
    assert "without the invisible characters" in ran.row("token")["detail"]


@pytest.mark.parametrize("arguments", [(), ("deploy",), ("deploy", "--space", "draw"), ("worker-key",)])
def test_wrong_use(manage: Manage, arguments: tuple[str, ...]) -> None:
    """A command without what it needs ends with status 2 and says on stderr what is missing."""
    ran = manage(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err


def test_a_wrong_setting(hub: FakeHub, manage: Manage) -> None:
    """A Fair that is configured by half is refused before anybody is asked."""
    ran = manage(*DEPLOY, env_file="FAIRCOMPUTE_EMAIL=a@b.c\n")
    assert (ran.status, hub.requests) == (2, [])
    assert "FAIRCOMPUTE_PASSWORD" in ran.err


def test_stopped_while_it_builds(hub: FakeHub, processes: Processes, tmp_path: Path) -> None:
    """Ctrl-C during the build says that the upload is done and where the Space goes on; no traceback."""
    hub.trouble.builds_for = 10_000
    (tmp_path / ".env").write_text(ENV_FILE)
    command = [sys.executable, str(REPOSITORY / "manage.py"), *DEPLOY]
    program = processes.start(command, hub.environment(str(tmp_path / "hf")), cwd=tmp_path)
    wait_until("the build", lambda: "RUN pip install" in program.output())
    program.signal(signal.SIGINT, group=True)
    assert program.wait_for_end() == 1
    told = " ".join(program.output().split())
    assert "stopped by you -> The upload is done. The Space goes on by itself" in told
    assert "Traceback" not in told
