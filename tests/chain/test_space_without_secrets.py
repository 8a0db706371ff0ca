"""A Space that somebody has just duplicated: no secret, no root, no rathole, no cargo. It draws all the same."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import process_tree
from tests.support.processes import REPOSITORY, Processes, wait_until
from tests.support.space import start_space
from tests.test_repository import tracked_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

NOBODY = 65534
PATH = "/usr/bin:/bin"


@pytest.fixture
def home() -> Iterator[Path]:
    """A fresh folder that an unprivileged user owns, below one that everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix="space-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def clone(folder: Path) -> Path:
    """Copies the tracked files into the folder: readable for all, writable for nobody but root."""
    copy = folder / "app"
    for file in tracked_files():
        target = copy / file.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        target.chmod(0o644)
    return copy


def unprivileged(home: Path) -> list[str]:
    """Words that start what follows as a user without any right; none are needed where the tests have none."""
    if os.getuid() != 0:
        return []
    os.chown(home, NOBODY, NOBODY)
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if behind_closed_doors(Path(sys.executable)):  # the right to reach the interpreter, no more
        return [*words, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return words


def behind_closed_doors(interpreter: Path) -> bool:
    """Whether the interpreter or what it links to lies below a folder that is its owner's alone."""
    ways = [*interpreter.absolute().parents, *interpreter.resolve().parents]
    return any(not folder.stat().st_mode & 0o001 for folder in ways)


def test_duplicated_space_draws(processes: Processes, home: Path) -> None:
    """It draws on its own processor without a tunnel, says so on the page, and ends without leaving anything."""
    assert shutil.which("rathole", path=PATH) is None
    assert shutil.which("cargo", path=PATH) is None
    folder = clone(home)
    settings = {
        "HOME": str(home),
        "PATH": PATH,
        "PYTHONPATH": None,
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": None,
        "SPACE_ID": "somebody/stable-diffusion",
    }
    space = start_space(processes, settings, before=unprivileged(home), folder=folder)
    if os.getuid() == 0:
        assert (Path("/proc") / str(space.program.pid)).stat().st_uid == NOBODY
    page = space.text()
    for words in ("A demo", "No tunnel", "Draw with a real model", "MODEL_ID", "ENDPOINT_SECRET"):
        assert words in page
    assert space.draw().size == (256, 256)
    running = "\n".join(" ".join(words) for words in space.living().values())
    assert "-m inference_server" in running
    assert "rathole" not in running
    assert space.program.output().count("without the tunnel") == 1
    space.program.stop()
    wait_until("every process to end", lambda: process_tree.mentioning(str(home)) == {})
