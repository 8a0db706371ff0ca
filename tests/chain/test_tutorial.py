"""The tutorial that this product comes from: its own client code works against the Fair server and inference server."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.support.chain import (
    EMAIL,
    GPU_NODE,
    INFERENCE_ARGV,
    INFERENCE_IMAGE,
    PASSWORD,
    TUNNEL_IMAGE,
    TUNNEL_NODE,
    start_chain,
)
from tests.support.processes import Processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SCRIPT = Path(__file__).parent.parent / "support" / "tutorial_client.py"


def test_tutorial_draws(processes: Processes, tmp_path: Path, rathole: Path, faircompute_0_20: Path) -> None:
    """With the old `faircompute`, the tutorial's code starts its three services, polls, and gets a picture."""
    chain = start_chain(processes, tmp_path, rathole, inference_argv=[*INFERENCE_ARGV, "--open", "--lenient"])
    picture = tmp_path / "picture.png"
    settings = {
        "PYTHONPATH": str(faircompute_0_20),
        "SERVER_ADDRESS": chain.url,
        "FAIRCOMPUTE_EMAIL": EMAIL,
        "FAIRCOMPUTE_PASSWORD": PASSWORD,
        "NODE_OF_INFERENCE": GPU_NODE,
        "IMAGE_OF_INFERENCE": INFERENCE_IMAGE,
        "NODE_OF_TUNNEL": TUNNEL_NODE,
        "IMAGE_OF_TUNNEL": TUNNEL_IMAGE,
        "LISTEN_ADDRESS": "127.0.0.1",
        "PORT_OF_INFERENCE": str(chain.inference_port),
        "PORT_OF_CONTROL": str(chain.control_port),
        "PORT_OF_PUBLIC": str(chain.public_port),
    }
    client = processes.start([sys.executable, SCRIPT, "a red apple", picture], settings, cwd=tmp_path)
    assert client.wait_for_end(200) == 0, client.output()
    with Image.open(picture) as image:
        assert image.size == (256, 256)  # asked for 512 x 512: the nearest that the demo model draws
    assert Counter((row.image, row.node, row.status) for row in chain.containers()) == {
        (INFERENCE_IMAGE, GPU_NODE, "running"): 1,
        (TUNNEL_IMAGE, GPU_NODE, "running"): 1,
        (TUNNEL_IMAGE, TUNNEL_NODE, "running"): 1,
    }
