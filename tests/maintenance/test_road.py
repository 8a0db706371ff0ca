"""The road from a clone to a page that draws at home: the README's own lines, with nothing set by hand.

`docker build` and `docker run` of the same list are run in tests/inference_server/test_image_draws.py.
"""

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

import demo_model
from endpoint.credentials import Credentials
from tests.support.fake_hub import TOKEN, FakeHub
from tests.support.processes import REPOSITORY, Processes
from tests.support.readme import command
from tests.support.space import start_space
from tests.support.terminal import converse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROAD = "The GPU box dials the Space"
LOG_IN = (("Paste an access token", "\x1b[B\r"), ("Enter your token", f"{TOKEN}\r"))
BESIDE = Path(sys.executable).parent  # `hf` and `python`, as in .venv/bin


def test_the_road(hub: FakeHub, processes: Processes, tmp_path: Path) -> None:
    """Logged in, deployed, dialled by `make worker`, and looked at by the doctor, who gets a picture of it."""
    home = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(REPOSITORY)}
    home |= {"PATH": f"{BESIDE}{os.pathsep}{os.environ['PATH']}", "HF_TOKEN": ""}
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "manage.py").symlink_to(REPOSITORY / "manage.py")

    def type_in(*beginning: str, answers: tuple[tuple[str, str], ...] = ()) -> str:
        words = command(ROAD, *beginning)
        status, printed = converse(
            ["env", "-C", checkout, *words], answers, env={**home, "COLUMNS": "100"}, timeout_s=300
        )
        assert status == 0, printed
        return printed

    assert "Login successful" in type_in("hf", answers=LOG_IN)
    printed = type_in("python", "manage.py", "deploy")
    uploaded = hub.spaces["you/draw"]
    for path, content in uploaded.files.items():
        place = tmp_path / "space" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    space = start_space(processes, dict(uploaded.secrets), folder=tmp_path / "space")
    hub.page_url = space.url

    key = Credentials.from_secret(uploaded.secrets["ENDPOINT_SECRET"]).worker_key
    assert f"-e SPACE=you/draw -e WORKER_KEY={key} " in "".join(printed.splitlines())
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    (worker_line,) = re.findall(r"`(make worker [^`]+)`", text)
    filled = {"SPACE=you/draw": f"SPACE={space.url}", "MODEL_ID=OWNER/NAME": f"MODEL_ID={demo_model.folder()}"}
    filled["WORKER_KEY=..."] = f"WORKER_KEY={key}"
    words = [filled.get(word, word) for word in shlex.split(worker_line)]
    assert set(filled.values()) <= set(words)
    settings = {"WORKER_NAME": "home", "DATA_DIR": str(tmp_path / "data"), "INFERENCE_ENGINE": "openvino"}
    installed = ("--old-file", ".venv/installed-engine")  # what it installs is here already
    worker = processes.start([*words, *installed], settings, cwd=REPOSITORY)
    worker.wait_for_line("engine ready")

    seen = type_in("python", "manage.py", "doctor")
    assert "Every link is ok." in seen
    assert re.search(r"request \S+: ok", worker.output())
