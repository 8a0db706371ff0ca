"""What becomes of a test that fails: a slow one runs a second time, a quick one never does."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY

MODULE = """
import threading
import pytest

runs = []

@pytest.mark.slow
def test_fails_once():
    runs.append(1)
    assert len(runs) == 2

@pytest.mark.slow
@pytest.mark.timeout(1)
def test_hangs():
    threading.Event().wait()

def test_quick():
    assert False
"""


@pytest.mark.slow
def test_slow_ones_run_a_second_time(tmp_path: Path) -> None:
    """A slow test that failed or hung runs again with its whole timeout, and is listed; a quick one does not."""
    (tmp_path / "test_module.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    options = ["-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert "2 failed, 1 passed, 2 rerun" in done.stdout, done.stdout + done.stderr
    listed = {line.partition("::")[2] for line in done.stdout.splitlines() if line.startswith("RERUN ")}
    assert listed == {"test_fails_once", "test_hangs"}
