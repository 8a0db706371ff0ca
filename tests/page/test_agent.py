"""An agent draws over MCP, with a real client, from a page that is served as on a Space."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def visit(mcp_folder: Path) -> dict[str, Any]:
    """What an agent has seen."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(mcp_folder),
        "SYSTEM": "spaces",
        "SPACE_ID": "ada/draw",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    command = [sys.executable, "-m", "tests.support.agent"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def test_the_tools_are_described(visit: dict[str, Any]) -> None:
    """An agent finds the four tools under their plain names, each with a description of itself and its parameters."""
    assert list(visit["tools"]) == ["text_to_image", "submit", "result", "cancel"]
    for tool in visit["tools"].values():
        assert len(tool["description"]) > 60
        assert all(len(one["description"]) > 15 for one in tool["inputSchema"]["properties"].values())
    assert visit["tools"]["text_to_image"]["inputSchema"]["required"] == ["prompt"]


@pytest.mark.parametrize("call", ["drawn", "watched", "result"])
def test_an_agent_gets_the_picture(visit: dict[str, Any], call: str) -> None:
    """Whether it waits, watches the progress or comes back with a ticket, an agent gets the picture itself."""
    picture, address, *_ = visit[call]["content"]
    assert not visit[call]["isError"]
    assert (picture["type"], picture["mimeType"]) == ("image", "image/png")
    assert base64.b64decode(picture["data"]).startswith(b"\x89PNG")
    assert address["text"].startswith("Image URL: http://127.0.0.1:")


def test_a_long_wait_tells_an_agent_the_ticket(visit: dict[str, Any]) -> None:
    """While the GPU wakes an agent that watches the progress reads what happens, and the ticket for its result."""
    told = [message for message in visit["progress"] if "Ticket: " in message]
    assert told
    assert "Waking the machine that draws" in told[0]


def test_an_agent_reads_why_not(visit: dict[str, Any]) -> None:
    """What is refused is an error with its reason; another's drawing cannot be cancelled."""
    for call, reason in {"stranger": "not the cancel token", "empty": "the prompt is empty"}.items():
        assert visit[call]["isError"]
        assert reason in visit[call]["content"][0]["text"]
