"""The JSON of a result: pictures in base64, `$meta` with everything as used, `$timings` in ms."""

import json
import time
from typing import Any

from inference_server import pictures
from inference_server.encoding import Finished
from inference_server.resolve import Resolved
from inference_server.wire import PictureRequest


def result_json(finished: Finished) -> bytes:
    """Encodes the pictures and writes the answer, ASCII throughout. Takes some ms: call it on a worker thread."""
    started_s = time.monotonic()
    encoded = [
        pictures.encode(raw, finished.resolved, image, finished.request.png_compress_level)
        for image, raw in enumerate(finished.images)
    ]
    content: dict[str, Any] = {"image_base64": encoded[0]} if len(encoded) == 1 else {"images_base64": encoded}
    if finished.nsfw is not None:
        content["nsfw_content_detected"] = list(finished.nsfw)
    content["$meta"] = meta(finished.request, finished.resolved)
    content["$timings"] = {
        "init": round(finished.init_ms, 1),
        "queue": round(finished.queue_ms, 1),
        "inference": round(finished.inference_ms, 1),
        "encode": round((time.monotonic() - started_s) * 1000, 1),
    }
    return json.dumps(content).encode("ascii")


def meta(request: PictureRequest, resolved: Resolved) -> dict[str, Any]:
    """What was served, by upstream's names; `served_instead` and `ignored` only where there is something to tell."""
    drawing = resolved.drawing
    told: dict[str, Any] = {
        "MODEL_ID": resolved.facts.name,
        "PIPELINE": resolved.facts.pipeline,
        "SCHEDULER": drawing.scheduler,
        "seeds": list(drawing.seeds),
        "width": drawing.width_px,
        "height": drawing.height_px,
        "num_inference_steps": drawing.num_inference_steps,
        "guidance_scale": drawing.guidance_scale,
        "num_images_per_prompt": len(drawing.seeds),
        "image_format": resolved.image_format,
        "startRequestId": request.request_id,
    }
    if resolved.served_instead:
        told["served_instead"] = resolved.served_instead
    if request.ignored:
        told["ignored"] = list(request.ignored)
    return told
