"""The Space as a whole in tests: `python app.py` as a program of its own, and a visitor of its API."""

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from tests.support import process_tree
from tests.support.processes import REPOSITORY, Processes, Program, free_port, is_running

READY_S = 120
DRAW_S = 150
ANSWER_S = 60


@dataclass(frozen=True)
class Space:
    """A page that is being served."""

    program: Program
    url: str

    def draw(self, prompt: str = "a red apple") -> Image.Image:
        """The picture of a prompt, asked for over plain HTTP as the API's documentation says."""
        call = f"{self.url}/gradio_api/call/text_to_image"
        event_id = requests.post(call, json={"data": [prompt]}, timeout=ANSWER_S).json()["event_id"]
        with requests.get(f"{call}/{event_id}", stream=True, timeout=DRAW_S) as answer:
            picture, _seed = _result(answer)
        picture_file = requests.get(picture["url"], timeout=ANSWER_S)
        picture_file.raise_for_status()
        return Image.open(io.BytesIO(picture_file.content))

    def text(self) -> str:
        """All that the page shows when it is opened."""
        return requests.get(f"{self.url}/config", timeout=ANSWER_S).text

    def living(self) -> dict[int, tuple[str, ...]]:
        """Command lines of the processes below it that have not ended, by process id."""
        pids = process_tree.descendants(self.program.pid)
        return {pid: process_tree.argv(pid) for pid in pids if is_running(pid)}


def start_space(
    processes: Processes,
    env: Mapping[str, str | None] | None = None,
    *,
    python: Path = Path(sys.executable),
    folder: Path = REPOSITORY,
    user: int | None = None,
) -> Space:
    """Starts `python app.py` in `folder` as `user` (None: as who runs the tests) and waits until it serves."""
    settings = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(free_port()), **(env or {})}
    program = processes.start([python, "app.py"], settings, cwd=folder, user=user)
    return Space(program, program.wait_for_line(r"The page is at (http://\S+)", READY_S)[1].rstrip("/"))


def _result(answer: requests.Response) -> list[Any]:
    event = ""
    for line in answer.iter_lines(decode_unicode=True):
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event == "complete":
            return list(json.loads(value))
        elif name == "data" and event == "error":
            raise AssertionError(f"the page refused: {value}")
    raise AssertionError("the answer ended without a picture")
