"""What the page leaves behind however it ends, and where secrets can be found while it runs."""

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
import requests

from tests.support import process_tree
from tests.support.processes import Processes, is_running, wait_until
from tests.support.space import Space, start_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

GONE_S = 60  # "within a few seconds", on a busy machine
CTRL_C = pytest.param(signal.SIGINT, True, id="Ctrl-C")
TERM = pytest.param(signal.SIGTERM, False, id="SIGTERM")
KILL = pytest.param(signal.SIGKILL, False, id="SIGKILL")
OWN_FOLDERS = ("fair-server-", "local-fair-", "text-to-image-")


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The page's own folder for temporary files: its name marks every process below the page."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def space(processes: Processes, temporary: Path, rathole: Path) -> Space:
    """A page that has not drawn yet."""
    return start_space(processes, {"TMPDIR": str(temporary)})


def expect_nothing(temporary: Path) -> None:
    """Fails the test unless every process of the page ends soon."""
    wait_until("every process to end", lambda: process_tree.mentioning(str(temporary)) == {}, GONE_S)


def programs_of(temporary: Path) -> str:
    """Command lines of all processes of the page."""
    return "\n".join(" ".join(words) for words in process_tree.mentioning(str(temporary)).values())


def end_after_a_drawing(space: Space, temporary: Path, number: signal.Signals, *, to_group: bool) -> None:
    """Ends the page, and fails the test unless all that it had started ends too and no secret stays on the disk."""
    running = programs_of(temporary)
    for program in ("fair_server", "--server", "--client", "-m inference_server", "inference_server.engine_process"):
        assert program in running
    space.program.signal(number, group=to_group)
    code = space.program.wait_for_end(GONE_S)
    expect_nothing(temporary)
    left = [path.name for path in temporary.iterdir() if path.name.startswith(OWN_FOLDERS)]
    if number == signal.SIGKILL:
        assert not [name for name in left if name.startswith("fair-server-")]
    else:
        assert code == 0
        assert left == []


@pytest.mark.parametrize(("number", "to_group"), [CTRL_C, KILL])
def test_nothing_outlives_the_page(space: Space, temporary: Path, number: signal.Signals, to_group: bool) -> None:
    """After a drawing the page ends on a signal, and with it all that it had started; no secret stays on the disk."""
    space.draw()
    end_after_a_drawing(space, temporary, number, to_group=to_group)


def test_killed_fair_server(space: Space, temporary: Path) -> None:
    """When its Fair server is killed, nothing of that stays, and the next prompt draws again; SIGTERM then ends all."""
    space.draw()
    [fair] = [pid for pid, words in space.living().items() if "fair_server" in words]
    below = process_tree.descendants(fair)
    assert len(below) >= 4
    [folder] = temporary.glob("fair-server-*")
    os.kill(fair, signal.SIGKILL)
    wait_until("all below it to end", lambda: not any(map(is_running, below)), GONE_S)
    wait_until("its folder to be removed", lambda: not folder.exists(), GONE_S)
    assert space.draw().size == (256, 256)
    end_after_a_drawing(space, temporary, signal.SIGTERM, to_group=False)


@pytest.mark.parametrize(("number", "to_group"), [CTRL_C, TERM, KILL])
def test_nothing_outlives_a_cold_start(space: Space, temporary: Path, number: signal.Signals, to_group: bool) -> None:
    """A signal in the middle of the first start leaves nothing behind either.

    It does not wait for visitors: one who is still being served is cut off.
    """

    def visit() -> None:
        with contextlib.suppress(requests.RequestException, AssertionError):
            space.draw()

    visitor = threading.Thread(target=visit, daemon=True)
    visitor.start()
    wait_until("the inference server to be started", lambda: "-m inference_server" in programs_of(temporary))
    space.program.signal(number, group=to_group)
    space.program.wait_for_end(GONE_S)
    expect_nothing(temporary)
    visitor.join(GONE_S)
    assert not visitor.is_alive()
