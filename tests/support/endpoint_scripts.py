"""Answers of inference servers, good and bad, for the scripts of hostile_server."""

import base64
import io
import json
from typing import Any

from PIL import Image

from tests.support.hostile_server import Line, Received

PATIENCE_S = 60.0  # for what comes at once, on a machine that is busy with other tests
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
        stream_at_once(line, START, step(1), step(20), result())
    return True


def stream_at_once(line: Line, *events: dict[str, Any]) -> None:
    """A whole ndjson answer in one piece: its end does not lag behind its result, however slow the machine."""
    pieces = [json.dumps(event).encode() + b"\n" for event in events] + [b""]
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    line.send(head + chunks)
