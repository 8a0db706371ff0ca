"""`python manage.py` as a real process in a folder of its own, and a Hub for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hub import FakeHub, running_fake_hub
from tests.support.processes import REPOSITORY

_DEADLINE_S = 150


@dataclass(frozen=True)
class Ran:
    """A command that has ended. `folder`: where it ran, with its `.env`."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        """What `--json` printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    def checks(self, status: str) -> set[str]:
        """The names of the rows with this status."""
        return {row["check"] for row in self.rows if row["status"] == status}

    def row(self, check: str) -> dict[str, str]:
        (found,) = [row for row in self.rows if row["check"] == check]
        return found


Manage = Callable[..., Ran]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A Hub without Spaces."""
    with running_fake_hub() as running:
        yield running


@pytest.fixture
def manage(hub: FakeHub, tmp_path: Path) -> Manage:
    """Runs `python manage.py ARGUMENTS` against the Hub; `env_file`: what is written to `.env` before."""
    folder = tmp_path / "checkout"
    folder.mkdir()

    def run(*arguments: str, env_file: str | None = None, **environment: Any) -> Ran:
        if env_file is not None:
            (folder / ".env").write_text(env_file)
        ended = subprocess.run(
            [sys.executable, str(REPOSITORY / "manage.py"), *arguments],
            cwd=folder,
            env={**os.environ, **hub.environment(str(tmp_path / "hf")), "COLUMNS": "80", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
        )
        assert "Traceback" not in ended.stdout + ended.stderr, ended.stdout + ended.stderr
        return Ran(ended.returncode, ended.stdout, ended.stderr, folder)

    return run
