"""`manage.py fair init`: what it writes starts a fair_server that the Space's settings trust."""

import stat

import pytest

from fair_api.client import DeadlineFairClient
from settings import Settings
from tests.maintenance.conftest import Manage
from tests.support.fair_servers import SERVER
from tests.support.processes import Processes

pytestmark = [pytest.mark.slow]
INIT = ("fair", "init", "--vm", "203.0.113.7", "--box", "gpu-box", "--space", "you/draw")


def test_fair_init(manage: Manage, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files start a server, the settings log in there and know its certificate; no secret is printed."""
    ran = manage(*INIT)
    assert ran.status == 0, ran.out + ran.err
    etc = ran.folder / "etc-fair"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (*etc.iterdir(), ran.folder / ".env")}
    assert modes == dict.fromkeys(("nodes.toml", "accounts", "tls.crt", "tls.key", ".env"), 0o600)
    assert stat.S_IMODE(etc.stat().st_mode) == 0o700
    settings = Settings.load(_env_file=ran.folder / ".env")
    assert (settings.mode, settings.inference_node, settings.tunnel_node) == ("fair", ("gpu-box",), "vm")
    assert settings.fair_address == "https://203.0.113.7"
    assert settings.faircompute_password
    assert settings.endpoint_secret
    password = settings.faircompute_password.get_secret_value()
    for secret in (password, settings.endpoint_secret.get_secret_value(), (etc / "tls.key").read_text()):
        assert secret not in ran.out + ran.err
    files = ("--nodes", etc / "nodes.toml", "--accounts", etc / "accounts")
    tls = ("--tls-cert", etc / "tls.crt", "--tls-key", etc / "tls.key")
    program = processes.start([*SERVER, *files, *tls])
    url = program.wait_for_line(r"Fair server ready on (https://\S+)")[1]
    pin = settings.faircompute_cert_sha256
    fair = DeadlineFairClient(url, settings.faircompute_email or "", password, certificate_sha256=pin)
    assert [node.name for node in fair.nodes()] == ["vm", "gpu-box"]
    again = manage(*INIT)
    assert again.status == 2
    assert "is there already" in again.err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--vm": "http://x"}, "no host name"),
        ({"--box": "vm"}, "another host"),
        ({"--email": "nobody"}, "no email address"),
    ],
)
def test_wrong_use(manage: Manage, change: dict[str, str], named: str) -> None:
    """What is wrong is named, and nothing is written."""
    options = {"--vm": "203.0.113.7", "--box": "gpu-box", **change}
    ran = manage("fair", "init", *(part for option in options.items() for part in option))
    assert ran.status == 2
    assert named in ran.err
    assert list(ran.folder.iterdir()) == []
