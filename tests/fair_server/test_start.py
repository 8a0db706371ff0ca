"""Starting the Fair server: a wrong option or file is refused in one line; a byte order mark is allowed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fair_server.authentication import hash_line, load_accounts
from fair_server.errors import ConfigError
from fair_server.nodes import load_nodes
from tests.support.fair_servers import ACCOUNT, DEADLINE_S, EMAIL, PASSWORD, SERVER, start_server
from tests.support.processes import REPOSITORY, Processes

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def print_hash(password: bytes) -> subprocess.CompletedProcess[bytes]:
    """Gives `python -m fair_server hash` a password on standard input."""
    command = [sys.executable, "-m", "fair_server", "hash", EMAIL]
    return subprocess.run(command, input=password, capture_output=True, cwd=REPOSITORY, timeout=DEADLINE_S, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "env", "named"),
    [
        ([], {}, "FAIRCOMPUTE_EMAIL"),
        (["--executor", "swarm"], ACCOUNT, "swarm"),
        (["--accounts", "no-such-file"], {}, "no-such-file"),
        (["--nodes", "no-such-file"], ACCOUNT, "no-such-file"),
        *[(["--token-ttl-s", ttl], ACCOUNT, f"'{ttl}' is no number of seconds") for ttl in ("0", "-1", "nan", "inf")],
        *[(["--port", port], ACCOUNT, f"'{port}' is no port") for port in ("70000", "-1", "http")],
        (["hash", "nobody"], {}, "nobody"),
    ],
)
def test_wrong_start(processes: Processes, options: list[str], env: dict[str, str], named: str) -> None:
    """A wrong start ends with status 2 and one line that names what is wrong."""
    program = processes.start([*SERVER, *options], env=env)
    assert program.wait_for_end() == 2
    line = program.output()
    assert (line.count("\n"), len(line) < 300) == (1, True)
    assert named in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "node"),
        ('[[node]]\nname = "a b"', "node.0.name"),
        ('[[node]]\nname = "a"\ncolour = "red"', "node.0.colour"),
        ('[[node]]\nname = "a"\n[[node]]\nname = "b"\nid = "a"', "share the name or id a"),
        ('[[node]]\nname = "a"\nimages = {x = ["y", "{port:z}"]}', "{port:z}"),
        ('[[node]]\nname = "a"\nimages = {x = "y"}', "node.0.images.x"),
        ("nonsense", "no TOML"),
    ],
)
def test_wrong_nodes_file(tmp_path: Path, text: str, named: str) -> None:
    """A wrong nodes file is refused, the bad key named, and no further fault is told of where there is none."""
    (tmp_path / "nodes.toml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(named)) as refusal:
        load_nodes(tmp_path / "nodes.toml")
    assert "more" not in str(refusal.value)


@pytest.mark.slow
def test_byte_order_mark(processes: Processes, tmp_path: Path) -> None:
    """Files and a password that begin with a byte order mark, as some editors and shells write it, are taken."""
    (tmp_path / "accounts").write_bytes(BYTE_ORDER_MARK + print_hash(BYTE_ORDER_MARK + PASSWORD.encode()).stdout)
    assert start_server(processes, tmp_path, "--accounts", tmp_path / "accounts").log_in().token
    (tmp_path / "nodes.toml").write_bytes(BYTE_ORDER_MARK + b'[[node]]\nname = "a"')
    assert [node.name for node in load_nodes(tmp_path / "nodes.toml")] == ["a"]


WHOLE = hash_line(EMAIL, PASSWORD)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (f"{EMAIL}:$argon2id$zzz", "Decoding failed"),
        (WHOLE[:-6], "Decoding failed"),  # 37 characters of base64: no number of bytes has them
        (WHOLE.replace("m=19456", "m=4"), "Memory cost is too small"),
        (f"{WHOLE}é", "email:argon2-hash"),
        (f"{EMAIL}:{PASSWORD}", "email:argon2-hash"),
        (f"\ufeff{WHOLE}", "email:argon2-hash"),  # two files put together
    ],
)
def test_wrong_accounts_file(tmp_path: Path, line: str, named: str) -> None:
    """An account that no login could match is refused at the start: its line is named, its hash never shown."""
    (tmp_path / "accounts").write_text(f"# accounts\n{WHOLE.replace(EMAIL, 'other@example.com')}\n{line}\n")
    with pytest.raises(ConfigError, match="is wrong in line 3: ") as refusal:
        load_accounts(tmp_path / "accounts", {})
    told = str(refusal.value)
    assert named in told
    assert not [secret for secret in ("$", PASSWORD) if secret in told]


@pytest.mark.slow
def test_password_in_another_encoding(processes: Processes) -> None:
    """A password that is not in UTF-8, on stdin or in the environment, is refused in one line that does not show it."""
    refused = print_hash("wälrus tusk\n".encode("latin-1"))
    assert refused.returncode == 2
    server = processes.start(SERVER, env={**ACCOUNT, "FAIRCOMPUTE_PASSWORD": "w\udce4lrus tusk"})
    assert server.wait_for_end() == 2
    for told in (refused.stderr.decode(), server.output()):
        assert told.count("\n") == 1
        assert "UTF-8" in told
        assert "tusk" not in told
    assert print_hash("wälrus tusk\n".encode()).returncode == 0
