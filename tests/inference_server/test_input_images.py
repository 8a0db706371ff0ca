"""Images that come with a request are read without trust: what they are, how large, which way up."""

import base64
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference_server.errors import Refusal
from inference_server.input_images import KEPT_SIDE_PX, read_image, read_images
from tests.support.images import coloured, encoded


def refused(value: Any) -> str:
    with pytest.raises(Refusal) as caught:
        read_image(value, "image")
    assert (caught.value.status, caught.value.code) == (400, "INVALID_INPUTS")
    assert caught.value.message.startswith("modelInputs.image: ")
    return caught.value.message


def png_header(width_px: int, height_px: int) -> str:
    """The first bytes of a PNG of any size; there are no pixels behind them."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100)))).decode()


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_the_pixels_are_those_of_the_file(image_format: str) -> None:
    """With line breaks in the base64, as upstream's decoder allows them, and as a data URL."""
    picture = coloured(48, 32)
    text = encoded(picture, image_format, lossless=True)
    for spelt in (text, text[:50] + "\n" + text[50:] + "\r\n", f"data:image/{image_format.lower()};base64,{text}"):
        read = read_image(spelt, "image")
        assert (read.width_px, read.height_px, read.rgb) == (48, 32, picture.tobytes())


@pytest.mark.parametrize(("mode", "colour", "expected"), [("L", 90, 90), ("I;16", 90 * 256, 90), ("1", 1, 255)])
def test_pictures_without_colours_are_grey(mode: str, colour: int, expected: int) -> None:
    """Also those of 16 bits, whose upper byte counts."""
    read = read_image(encoded(Image.new(mode, (8, 8), colour)), "image")
    assert set(read.rgb) == {expected}


def test_transparency_and_palettes_are_left_out() -> None:
    """What is behind them counts, as in diffusers' own loading."""
    picture = coloured(16, 16)
    picture.putalpha(0)
    assert read_image(encoded(picture), "image").rgb == coloured(16, 16).tobytes()
    assert len(read_image(encoded(coloured(16, 16).convert("P")), "image").rgb) == 16 * 16 * 3


def test_a_photo_is_turned_as_exif_says() -> None:
    """Orientation 6: the camera was held on its side."""
    picture, exif = coloured(32, 16), Image.Exif()
    exif[0x0112] = 6
    read = read_image(encoded(picture, "JPEG", exif=exif, quality=100), "image")
    assert (read.width_px, read.height_px) == (16, 32)
    turned = np.asarray(picture.rotate(-90, expand=True)).astype(int)
    assert np.abs(np.frombuffer(read.rgb, np.uint8).reshape(32, 16, 3) - turned).mean() < 8


def test_a_large_picture_is_made_smaller() -> None:
    """So many requests may wait with theirs; its proportions stay."""
    read = read_image(encoded(Image.new("RGB", (4096, 1024)), "JPEG"), "image")
    assert (read.width_px, read.height_px) == (KEPT_SIDE_PX, 512)


@pytest.mark.parametrize(("width_px", "height_px"), [(50_000, 50_000), (9000, 9000), (2**31 - 1, 1), (10_000, 12_000)])
def test_a_bomb_is_refused_by_its_header(width_px: int, height_px: int) -> None:
    """At once: nothing of its size is ever in memory, and there are no pixels to decode."""
    assert "megapixels" in refused(png_header(width_px, height_px))


@pytest.mark.parametrize(
    "address",
    ["http://example.com/a.png", "https://example.com/a.png", "file:///etc/passwd", "s3://bucket/a", " ftp://a/b.png"],
)
def test_an_address_is_refused_by_name(address: str) -> None:
    """Nothing that a request names is fetched; the refusal says what to send instead."""
    told = refused(address)
    assert "fetched" in told
    assert "base64" in told


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("no base64 at all!", "base64"),
        ("/etc/passwd", "no"),
        (5, "text"),
        (["aGVsbG8="], "text"),
        ("aGVsbG8=", "PNG, JPEG and WEBP"),
        (encoded(coloured(), "GIF"), "PNG, JPEG and WEBP"),
        (encoded(coloured(), "TIFF"), "PNG, JPEG and WEBP"),
        (encoded(coloured(), "BMP"), "PNG, JPEG and WEBP"),
        (encoded(coloured(), "PNG")[:400], "broken"),
        (png_header(64, 64), "broken"),
    ],
)
def test_what_is_no_image_is_refused(value: Any, named: str) -> None:
    """Other kinds of files, halves of files, files that lie; each in a sentence that says what is read."""
    assert named in refused(value)


def test_one_bad_image_is_told_as_the_request_s() -> None:
    """Of an image and its mask the one that cannot be read is named; neither is kept."""
    read = read_images({"image": encoded(coloured()), "mask_image": "x"})
    assert read.image is None
    assert read.refusal is not None
    assert "mask_image" in read.refusal.message
