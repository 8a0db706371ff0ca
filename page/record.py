"""What the browser keeps beside a picture: its settings, ready for the fields, and what the caption tells."""

from dataclasses import asdict
from typing import Any

from gradio.data_classes import FileData

from drawing.events import Picture, Step
from drawing.jobs import Job
from page.language import ENGLISH, Words
from page.receipt import receipt


def record(picture: Picture, job: Job, file: FileData, words: Words = ENGLISH) -> dict[str, Any]:
    """The record of a job's finished picture, as JSON.

    `file`: the picture's, for the browser to fetch; `size`: as the page's field has it, such as "512x384", "" for the
    model's own; `width`, `height`: the picture's, in pixels; `num_inference_steps`: as asked for, None for the model's
    own; `steps`: as drawn, None when it was not told; `receipt`: labels and values, see page/receipt.py.
    """
    request, generated = job.request, picture.generated
    steps = next((event.num_inference_steps for event in reversed(job.events) if isinstance(event, Step)), None)
    return {
        **asdict(request.without_images),
        "id": job.id,
        "file": file.model_dump(),
        "seed": generated.seed,
        "size": f"{request.width}x{request.height}" if request.width and request.height else "",
        "width": generated.image.width,
        "height": generated.image.height,
        "steps": steps,
        "model": (generated.receipt.model or "").rstrip("/").rpartition("/")[2] or None,  # no folder of the owner's
        "seconds": round(job.elapsed_s, 1),
        "machine": generated.receipt.worker,
        "receipt": receipt(generated, words),
    }
