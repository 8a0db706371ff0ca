"""The road from a clone to a page that draws at home: deploy, the printed line, doctor, with nothing set by hand."""

import re
import sys
from pathlib import Path

import pytest

from tests.maintenance.conftest import Manage
from tests.support.fake_hub import FakeHub
from tests.support.processes import Processes
from tests.support.space import start_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_the_road(hub: FakeHub, manage: Manage, processes: Processes, tmp_path: Path) -> None:
    """What deploy uploaded, with the secret that it set, takes a worker with the key that it printed; doctor gets a
    picture of it.
    """
    printed = manage("deploy", "--space", "you/draw")
    assert printed.status == 0, printed.out
    uploaded = hub.spaces["you/draw"]
    for path, content in uploaded.files.items():
        place = tmp_path / "space" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    space = start_space(processes, dict(uploaded.secrets), folder=tmp_path / "space")
    hub.page_url = space.url

    line = re.search(r"-e SPACE=you/draw -e WORKER_KEY=(\w+) ", printed.out)
    assert line
    settings = {"WORKER_KEY": line[1], "WORKER_NAME": "home", "DATA_DIR": str(tmp_path / "data")}
    worker = processes.start([sys.executable, "-m", "inference_server", "--connect", space.url], settings)
    worker.wait_for_line("engine ready")

    seen = manage("doctor", "--space", "you/draw", "--draw")
    assert seen.status == 0, seen.out
    assert "Every link is ok." in seen.out
    assert re.search(r"request \S+: ok", worker.output())
