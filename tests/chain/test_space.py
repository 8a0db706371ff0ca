"""A Space as Hugging Face builds and runs it, just duplicated by somebody: no secret, no root, no tunnel."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gradio_client import Client  # type: ignore[import-untyped]
from PIL import Image

from tests.support import process_tree
from tests.support.processes import REPOSITORY, Processes, wait_until
from tests.support.space import start_space
from tools.space_check.card import Card, read_card
from tools.space_check.files import tracked_files
from tools.space_check.install import builder_requirements, explain, pinned_requirements

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_USER = 1000
_INSTALL_S = 600


@dataclass(frozen=True)
class Built:
    """What the builder has left: an environment with what the Space needs, and the Space's files."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def app(self) -> Path:
        return self.folder / "app"

    @property
    def home(self) -> Path:
        """The one folder where the Space's user can write."""
        return self.folder / "home"


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    """The Space as its builder makes it, below a folder that everybody may enter."""
    card, faults = read_card(REPOSITORY)
    assert card, faults
    built = Built(Path(tempfile.mkdtemp(prefix="space-")))
    built.folder.chmod(0o755)
    try:
        subprocess.run([_base_python(card), "-m", "venv", built.folder / "venv"], check=True, timeout=_INSTALL_S)
        for file in tracked_files(REPOSITORY):
            target = built.app / file.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
            target.chmod(0o644)
        _install(built, card)
        built.home.mkdir()
        if os.getuid() == 0:
            os.chown(built.home, _USER, _USER)
        yield built
    finally:
        shutil.rmtree(built.folder, ignore_errors=True)


def _base_python(card: Card) -> Path:
    """A Python of the card's version that a user without rights can run too: ours, or the system's."""
    name = f"python{card.python_version}"
    for python in (Path(sys.executable).resolve(), Path("/usr/bin", name), Path("/usr/local/bin", name)):
        closed = [folder for folder in python.parents if not folder.stat().st_mode & 0o001]
        if python.is_file() and python.name == name and not (closed and os.getuid() == 0):
            return python
    pytest.fail(f"no {name} that every user may run: install it (Debian: apt-get install {name} {name}-venv)")


def _install(built: Built, card: Card) -> None:
    pip = [
        str(built.python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--progress-bar",
        "off",
    ]
    command = [*pip, *builder_requirements(card.sdk_version)]
    done = subprocess.run(command, cwd=built.app, capture_output=True, text=True, timeout=_INSTALL_S)
    if done.returncode:
        pytest.fail(explain(done.stdout + done.stderr, pinned_requirements(built.app), card.python_version))


def _environment(built: Built) -> dict[str, str | None]:
    """What a Space sets. Neither rathole nor cargo is on its PATH."""
    return {
        "HOME": str(built.home),
        "PATH": str(built.python.parent),
        "PYTHONPATH": str(built.app),
        "XDG_CACHE_HOME": None,
        "SYSTEM": "spaces",
        "SPACE_ID": "somebody/stable-diffusion",
        "SPACE_HOST": "somebody-stable-diffusion.hf.space",
        "SPACE_AUTHOR_NAME": "somebody",
        "SPACE_REPO_NAME": "stable-diffusion",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_NUM_PORTS": "1",
        "GRADIO_ALLOW_FLAGGING": "never",
        "GRADIO_THEME": "huggingface",
    }


def test_duplicated_space_builds_and_draws(built: Built, processes: Processes, tmp_path: Path) -> None:
    """It draws on its own processor without a tunnel, says so on the page, and ends without leaving anything. Its log
    has no word of what is not configured.
    """
    user = _USER if os.getuid() == 0 else None
    space = start_space(processes, _environment(built), python=built.python, folder=built.app, user=user)
    assert (Path("/proc") / str(space.program.pid)).stat().st_uid == (user or os.getuid())
    page = space.text()
    for words in ("A demo", "draw with a larger model", "MODEL_ID", "ENDPOINT_SECRET"):
        assert words in page
    client = Client(space.url, download_files=tmp_path, verbose=False)
    picture, _seed = client.predict("a red apple", api_name="/text_to_image")
    assert Image.open(picture).size == (256, 256)
    running = "\n".join(" ".join(words) for words in space.living().values())
    assert "-m inference_server" in running
    assert "rathole" not in running
    assert "tunnel" not in space.program.output()
    space.program.stop()
    wait_until("every process to end", lambda: process_tree.mentioning(str(built.home)) == {})
