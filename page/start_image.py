"""A picture that a visitor starts from: the chosen file, looked at without trust and made small for the way.

The size is read from the header before a pixel is decoded, and one file is decoded at a time: however many come, the
pixels of one are in memory. The inference server looks again.
"""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from errors import InvalidRequestError
from page.body_limit import FILE_BYTES_MAX

# For gr.Image. No webcam: on a phone the file chooser offers the camera by itself.
START_IMAGE: dict[str, Any] = {"sources": ["upload"], "type": "filepath", "height": 200, "buttons": []}
_FORMATS = ("PNG", "JPEG", "WEBP")
_MEGAPIXELS_MAX = 40
_SIDE_PX = 1536  # more would only take longer on the way
_DECODING = ThreadPoolExecutor(1, "start-image")


async def read(chosen: Any, name: str) -> bytes:
    """The file for the wire, of what Gradio's field holds: upright, in RGB, at most `_SIDE_PX` a side. JPEG for the
    `image`, PNG for a `mask_image`, whose edges are sharp.

    Raises: InvalidRequestError, about `name`.
    """
    path = chosen.get("path") if isinstance(chosen, dict) else None
    try:
        return await asyncio.get_running_loop().run_in_executor(_DECODING, _read, Path(str(path)), name)
    except InvalidRequestError as error:
        error.parameter = name
        raise


_GONE = "That picture is no longer here. Please choose it again."
_NO_PICTURE = "This file cannot be read as a picture. PNG, JPEG and WebP can."
_TOO_LARGE = f"This picture is too large: {_MEGAPIXELS_MAX} megapixels and {FILE_BYTES_MAX // 10**6} MB are the most."


def _read(path: Path, name: str) -> bytes:
    """Gradio has made sure that the path is one of an uploaded file."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise InvalidRequestError(_TOO_LARGE)
        encoded = path.read_bytes()
    except OSError:
        raise InvalidRequestError(_GONE) from None
    try:
        picture = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidRequestError(_TOO_LARGE) from None
    except Exception:  # Pillow's readers raise what they meet: SyntaxError, struct.error, ...
        raise InvalidRequestError(_NO_PICTURE) from None
    if picture.width * picture.height > _MEGAPIXELS_MAX * 10**6:
        raise InvalidRequestError(_TOO_LARGE)
    try:
        return _small(picture, name)
    except Exception:
        raise InvalidRequestError(_NO_PICTURE) from None


def _small(picture: Image.Image, name: str) -> bytes:
    is_mask = name == "mask_image"
    if picture.format == "JPEG":
        picture.draft("RGB", (_SIDE_PX, _SIDE_PX))  # of a photo only as many pixels as are wanted
    upright = ImageOps.exif_transpose(picture).convert("RGBA")
    upright.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    # What is transparent in a picture becomes white, in a mask black: it stays as it is.
    ground = Image.new("RGBA", upright.size, "black" if is_mask else "white")
    flat = Image.alpha_composite(ground, upright).convert("RGB")
    written = io.BytesIO()
    if is_mask:
        flat.convert("L").save(written, "PNG")
    else:
        flat.save(written, "JPEG", quality=95, subsampling=0)
    return written.getvalue()
