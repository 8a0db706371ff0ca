"""Secrets: where none of them may be found while a Space draws, errs and recovers."""

import contextlib
import os
import stat
from pathlib import Path

import pytest

from endpoint.credentials import Credentials
from tests.support import process_tree
from tests.support.chain import EMAIL, ONE_EACH, PASSWORD, SECRET, start_chain
from tests.support.processes import Processes, wait_until
from tests.support.space import start_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def secrets() -> dict[str, str]:
    """Every value that nobody may read, by what it is."""
    derived = Credentials.from_secret(SECRET)
    key = "".join(line for line in derived.tls_key.splitlines() if "-----" not in line)
    return {
        "ENDPOINT_SECRET": SECRET,
        "FAIRCOMPUTE_PASSWORD": PASSWORD,
        "bearer": derived.bearer,
        "tunnel token": derived.tunnel_token,
        "TLS key": key,
    }


def found_in(text: str) -> list[str]:
    """The kinds of secrets that a text holds."""
    return [kind for kind, secret in secrets().items() if secret in text]


def readable_by_others(path: Path, below: Path) -> bool:
    """Whether another user of this machine could open the file, the way down from `below` being open."""
    folders = [folder for folder in path.parents if folder.is_relative_to(below) and folder != below]
    way = all(folder.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH) for folder in folders)
    return way and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def files_with_secrets(folder: Path) -> dict[Path, list[str]]:
    """The files below a folder that hold a secret; some may be going just now."""
    found = {}
    for path in (Path(place, name) for place, _, names in os.walk(folder) for name in names):
        with contextlib.suppress(OSError):
            if path.is_file() and (kinds := found_in(path.read_text(errors="replace"))):
                found[path] = kinds
    return found


def test_no_secret_in_sight(processes: Processes, tmp_path: Path, rathole: Path) -> None:
    """While a Space draws and recovers, no secret is in a log, a command line, a program's environment or an open file.

    An environment is its owner's alone: the Space's own holds the secrets, those of the services must not.
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    chain = start_chain(processes, tmp_path, rathole, env={"TMPDIR": str(temporary)})
    space = start_space(processes, {**chain.environment(), "TMPDIR": str(temporary)})
    assert chain.fair is not None
    space.draw()
    chain.kill("inference")
    space.draw()
    chain.kill("tunnel-client")
    space.draw()

    services = process_tree.descendants(chain.fair.pid)
    assert chain.running() == ONE_EACH
    for pid in [chain.fair.pid, space.program.pid, *services]:
        assert found_in(" ".join(process_tree.argv(pid))) == []
    for pid in services:
        assert found_in(Path(f"/proc/{pid}/environ").read_text(errors="replace")) == []
        assert EMAIL not in Path(f"/proc/{pid}/environ").read_text(errors="replace")
    holding = files_with_secrets(temporary)
    assert {kind for kinds in holding.values() for kind in kinds} == {"bearer", "tunnel token", "TLS key"}
    assert [path for path in holding if readable_by_others(path, temporary)] == []

    outputs = chain.outputs()
    assert "accepted" in outputs  # they are the logs of the services indeed
    assert found_in(outputs) == []
    wait_until("their files to go with the containers", lambda: files_with_secrets(temporary) == {})
    space.program.stop()
    chain.fair.stop()
    for program in (space.program, chain.fair):
        assert found_in(program.output()) == []
    assert files_with_secrets(temporary) == {}
