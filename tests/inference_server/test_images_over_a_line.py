"""A request with images over a worker's line to its Space: the same as over HTTP, as a part of its JSON."""

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

from inference_server import server
from inference_server.config import InferenceConfig
from inference_server.space import Space
from tests.inference_server.test_images_asked import SD
from tests.support.images import coloured, encoded, raw, right_half
from tests.support.inference_front_door import ReadyChild
from tests.support.inference_process import DEADLINE_S


def test_a_worker_draws_from_the_images_of_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of a megabyte and its mask reach the engine pixel by pixel, and a picture comes back."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    image = coloured(1024, 1024)
    inputs = {"prompt": "a cat", "image": encoded(image, compress_level=0), "mask_image": encoded(right_half())}
    body = json.dumps({"modelInputs": inputs, "callInputs": {"PIPELINE": "StableDiffusionInpaintPipeline"}})
    assert len(body) > 4_000_000
    heads: list[int] = []
    lines: list[dict[str, Any]] = []

    def space(line: ServerConnection) -> None:
        line.send(json.dumps({"type": "hello", "protocol": 1}))
        line.send(json.dumps({"type": "request", "id": 7, "method": "POST", "path": "/", "body": body}))
        for message in line:
            told = json.loads(message) if isinstance(message, str) else {}
            match told.get("type"):
                case "beat":
                    line.send(json.dumps({"type": "lease", "beat": told["beat"], "ids": [7], "keep_s": 10}))
                case "head":
                    heads.append(told["status"])
                case "line":
                    lines.append(told)
                case "end":
                    signal.raise_signal(signal.SIGTERM)

    child = ReadyChild(SD)
    with serve(space, "127.0.0.1", 0, max_size=None) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listening.socket.getsockname()[1]}"
        late = threading.Timer(DEADLINE_S, signal.raise_signal, [signal.SIGTERM])
        late.start()
        server.run(InferenceConfig(), Space(url, "home", "k" * 64), ReadyChild, child)
        late.cancel()
        listening.shutdown()
    assert heads == [200], lines
    assert lines[-1]["pictures"] == 1
    assert lines[-1]["line"]["$meta"]["PIPELINE"] == "StableDiffusionInpaintPipeline"
    assert child.drawings[0].image == raw(image)
    assert child.drawings[0].mask_image == raw(right_half())
