"""`manage.py worker-key` and `rotate`: the secret's line, and a new one."""

import stat

import pytest

from endpoint.credentials import Credentials
from tests.maintenance.conftest import Manage
from tests.support.fake_hub import FakeHub, KeptSpace

pytestmark = pytest.mark.slow
SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
ENV_FILE = f"# mine\nENDPOINT_SECRET={SECRET}\nMODEL_ID=owner/model\n"
KEY = Credentials.from_secret(SECRET).worker_key


def test_worker_key(hub: FakeHub, manage: Manage) -> None:
    """The line for home is alone on stdout, the same as at the deployment; nobody is asked for it."""
    ran = manage("worker-key", "--space", "you/draw", env_file=ENV_FILE)
    assert ran.status == 0
    assert ran.out == (
        "docker run -d --restart unless-stopped --stop-timeout 40 --gpus all --name draw -v draw:/data "
        f"-e SPACE=you/draw -e WORKER_KEY={KEY} -e MODEL_ID=owner/model draw\n"
    )
    assert SECRET not in ran.err
    assert hub.requests == []


def test_worker_key_by_half(manage: Manage) -> None:
    """What the line still lacks is said beside it, on stderr."""
    ran = manage("worker-key", env_file=f"ENDPOINT_SECRET={SECRET}\n")
    assert "-e SPACE=OWNER/NAME" in ran.out
    assert "OWNER/NAME" in ran.err
    assert "OWNER/MODEL" in ran.err


def test_rotate(hub: FakeHub, manage: Manage) -> None:
    """A new secret is in .env and on the Space, other lines stay, and the new line is printed."""
    space = hub.spaces["you/draw"] = KeptSpace(secrets={"ENDPOINT_SECRET": SECRET})
    ran = manage("rotate", "--space", "you/draw", env_file=ENV_FILE)
    assert ran.status == 0, ran.out
    new = space.secrets["ENDPOINT_SECRET"]
    env_file = ran.folder / ".env"
    assert new != SECRET
    assert env_file.read_text() == f"# mine\nENDPOINT_SECRET={new}\nMODEL_ID=owner/model\n"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert f"WORKER_KEY={Credentials.from_secret(new).worker_key} " in ran.out
    assert "docker rm -f draw" in ran.out
    assert new not in ran.out + ran.err


def test_rotate_without_the_hub(hub: FakeHub, manage: Manage) -> None:
    """Where the Space cannot be told, nothing changes: the old secret still fits."""
    hub.spaces["you/draw"] = KeptSpace(secrets={"ENDPOINT_SECRET": SECRET})
    hub.trouble.role = "read"
    ran = manage("rotate", "--space", "you/draw", "--json", env_file=ENV_FILE)
    assert (ran.status, ran.checks("failed")) == (1, {"space"})
    assert (ran.folder / ".env").read_text() == ENV_FILE


def test_rotate_here_alone(manage: Manage) -> None:
    """Without --space it warns that the Space still has the old secret."""
    ran = manage("rotate", "--json", env_file=ENV_FILE)
    assert (ran.status, ran.checks("warning")) == (0, {"space", "workers"})
