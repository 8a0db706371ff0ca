"""Images that requests bring along."""

import base64
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from inference_server.raw_image import RawImage


def coloured(width_px: int = 64, height_px: int = 64) -> Image.Image:
    """No two of its areas are alike."""
    rows, columns = np.mgrid[0:height_px, 0:width_px]
    colours = np.stack([columns * 255 / width_px, rows * 255 / height_px, (rows * columns) % 256], axis=-1)
    return Image.fromarray(colours.astype(np.uint8))


def right_half(width_px: int = 64, height_px: int = 64) -> Image.Image:
    """A mask: the right half is to be drawn."""
    mask = Image.new("RGB", (width_px, height_px))
    mask.paste((255, 255, 255), (width_px // 2, 0, width_px, height_px))
    return mask


def raw(image: Image.Image) -> RawImage:
    return RawImage(image.width, image.height, image.convert("RGB").tobytes())


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> str:
    """Its file in base64, as upstream's clients send it."""
    return base64.b64encode(encoded_bytes(image, image_format, **options)).decode("ascii")


def encoded_bytes(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()
