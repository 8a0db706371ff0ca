"""Answers of inference servers, good and bad, for the scripts of hostile_server."""

import base64
import io
import json
from typing import Any

from hostile_server import Line, Received
from PIL import Image

HEALTH = {
    "state": "healthy",
    "gpu": False,
    "engine": "ready",
    "limits": {"width": {"min": 64, "max": 256, "multiple": 64}},
}
START = {"type": "inference", "status": "start", "payload": {"startRequestId": "x"}}


def step(number: int) -> dict[str, Any]:
    return {"type": "progress", "step": number, "num_inference_steps": 20}


def result(size: tuple[int, int] = (8, 8), seed: int = 7) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"image_base64": encoded, "$meta": {"seeds": [seed]}, "$timings": {"inference": 20}}


def good(line: Line, request: Received) -> bool:
    """Answers as the inference server does."""
    if request.path == "/healthcheck":
        line.answer(200, json.dumps(HEALTH))
    elif request.method == "DELETE":
        line.answer(200, "{}")
    else:
        line.stream(START, step(1), step(20), result())
    return True
