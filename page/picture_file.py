"""A finished picture as the file that a browser gets, a PNG with its metadata; and the small previews before it."""

import asyncio
import base64
import io
import re

from gradio.data_classes import FileData
from gradio.processing_utils import save_bytes_to_cache
from PIL import PngImagePlugin

from drawing.events import Picture
from drawing.jobs import Job
from drawing.models import GeneratedImage, GenerationRequest
from page.faults import as_space_error
from page.language import ENGLISH, Words

# A file's first bytes tell what it is; a browser takes these three.
_PREVIEW_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
_PREVIEW_BYTES_MAX = 200_000


def save_picture(generated: GeneratedImage, request: GenerationRequest, folder: str) -> FileData:
    """The picture as a PNG file below `folder`, named after its prompt and seed; its text metadata is kept."""
    name = file_name(request.prompt, generated.seed)
    path = save_bytes_to_cache(png_bytes(generated, request), name, folder)
    return FileData(path=path, orig_name=name, mime_type="image/png")


async def saved(picture: Picture, job: Job, folder: str) -> FileData:
    """The picture that a job ended with, as a file that the browser may fetch.

    Raises: ServiceError when it cannot be written, on a full disk for instance.
    """
    try:
        return await asyncio.to_thread(save_picture, picture.generated, job.request, folder)
    except Exception as error:
        raise as_space_error(error, "keep the picture as a file") from error


def file_name(prompt: str, seed: int | None) -> str:
    """A name to find the picture by: `a-red-apple-42.png`."""
    words = re.sub(r"[\W_]+", "-", prompt).strip("-")[:40].strip("-").lower()
    return "-".join([words or "picture"] + ([] if seed is None else [str(seed)])) + ".png"


def png_bytes(generated: GeneratedImage, request: GenerationRequest) -> bytes:
    """The PNG as it came, byte for byte; from any other format a PNG that says how it was made."""
    if generated.image_format == "PNG":
        return generated.encoded
    text = PngImagePlugin.PngInfo()
    text.add_itxt("prompt", request.prompt)
    if generated.seed is not None:
        text.add_text("seed", str(generated.seed))
    buffer = io.BytesIO()
    generated.image.save(buffer, "PNG", pnginfo=text, compress_level=1)
    return buffer.getvalue()


def preview_html(preview: bytes, words: Words = ENGLISH) -> str:
    """An emerging picture, inside the page itself: no file, no further request. Empty when it is no small picture."""
    mime_type = next((mime for magic, mime in _PREVIEW_TYPES.items() if preview.startswith(magic)), None)
    if mime_type is None or len(preview) > _PREVIEW_BYTES_MAX:
        return ""
    data = base64.b64encode(preview).decode("ascii")
    return f'<img src="data:{mime_type};base64,{data}" alt="{words["emerging"]}">'
