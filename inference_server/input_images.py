"""Images that come with a request: base64 -> pixels, without trust.

The size is read from the header before a pixel is decoded. PNG, JPEG and WebP are read and nothing else; what EXIF
says of a photo's orientation is done. No file is opened and no address fetched, whatever a request names.
"""

import base64
import binascii
import contextlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps

from inference_server.errors import Refusal, invalid_inputs
from inference_server.raw_image import RawImage

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PX = 40_000_000  # width x height: a photo of 40 megapixels takes 120 MB for a moment
KEPT_SIDE_PX = 2048  # larger ones are made smaller at once: so many requests may wait with theirs
# One at a time: however many come, one image's pixels are in memory beside those that wait.
DECODING = ThreadPoolExecutor(1, "images")
_DATA_URL = re.compile(r"data:image/[a-z.+-]{1,40};base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]{1,20}:/", re.IGNORECASE)


@dataclass(frozen=True)
class InputImages:
    """Those of one request. `refusal`: why they cannot be read, for when it is known that they would be."""

    image: RawImage | None = None
    mask_image: RawImage | None = None
    refusal: Refusal | None = None


NO_IMAGES = InputImages()


def read_images(encoded: Mapping[str, Any]) -> InputImages:
    """Of `image` and `mask_image` in base64; takes up to a second: call it on `DECODING`."""
    try:
        read = {name: read_image(value, name) for name, value in encoded.items()}
    except Refusal as refusal:
        return InputImages(refusal=refusal)
    return InputImages(read.get("image"), read.get("mask_image"))


def read_image(encoded: Any, name: str) -> RawImage:
    """RGB, upright, at most `KEPT_SIDE_PX` a side; without what was transparent. Raises: Refusal (INVALID_INPUTS)."""
    picture = _upright(_decoded(_file(encoded, name), name))
    if max(picture.size) > KEPT_SIDE_PX:
        picture.thumbnail((KEPT_SIDE_PX, KEPT_SIDE_PX), Image.Resampling.LANCZOS)
    return RawImage(picture.width, picture.height, picture.tobytes())


def _file(encoded: Any, name: str) -> bytes:
    if not isinstance(encoded, str):
        raise invalid_inputs(f"modelInputs.{name}: must be a text, the image's file in base64.")
    text = encoded[found.end() :] if (found := _DATA_URL.match(encoded)) else encoded
    if _ADDRESS.match(text[:40]):
        raise invalid_inputs(f"modelInputs.{name}: is an address. Nothing is fetched here: send the file in base64.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_inputs(f"modelInputs.{name}: is no base64. Send the image's file in base64.") from None


def _decoded(file: bytes, name: str) -> Image.Image:
    """The first frame. Raises: Refusal, with the size before anything of that size is in memory."""
    formats = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
    try:
        picture = Image.open(BytesIO(file), formats=FORMATS)
        size = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "too many pixels") from None
    except Exception:  # Pillow's readers raise what they meet: SyntaxError, struct.error, ...
        raise invalid_inputs(f"modelInputs.{name}: is no image that is read here. Read are {formats}.") from None
    if size[0] * size[1] > MAX_PX:
        raise _too_large(name, f"{size[0]} x {size[1]} px")
    try:
        picture.load()
    except (Exception, Image.DecompressionBombWarning):
        raise invalid_inputs(f"modelInputs.{name}: the {picture.format} file is broken or not complete.") from None
    return picture


def _too_large(name: str, size: str) -> Refusal:
    return invalid_inputs(f"modelInputs.{name}: has {size}; at most {MAX_PX // 10**6} megapixels are read.")


def _upright(picture: Image.Image) -> Image.Image:
    """As diffusers' own `load_image` does it; 16 bits of grey are made 8, which `convert` would cut off."""
    with contextlib.suppress(Exception):  # EXIF that cannot be read turns nothing
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda grey: grey * (1 / 256)).convert("L")
    return picture.convert("RGB")
