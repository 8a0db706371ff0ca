"""A picture that a visitor starts from: what of it goes to the machine that draws, and what is refused at once."""

import asyncio
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from PIL import Image

from drawing.models import Limits
from errors import InvalidRequestError
from page import start_image
from page.body_limit import FILE_BYTES_MAX
from tests.support.images import coloured, encoded_bytes, right_half
from tests.support.page_service import StandInService, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATIENT = httpx.Timeout(60)
TAKES_IMAGES = Limits(features=("text2image", "img2img", "inpaint"))


def read(folder: Path, file: bytes, name: str = "image") -> Image.Image:
    """What goes over the wire, decoded."""
    (folder / "chosen").write_bytes(file)
    return Image.open(io.BytesIO(asyncio.run(start_image.read({"path": str(folder / "chosen")}, name))))


def huge_png() -> bytes:
    """A few bytes that say they are 50,000 x 50,000 px."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = (struct.pack(">I", 13) + header, struct.pack(">I", 4) + b"IDAT1234")
    return b"\x89PNG\r\n\x1a\n" + b"".join(one + struct.pack(">I", zlib.crc32(one[4:])) for one in chunks)


def test_a_photo_is_made_upright_and_small(tmp_path: Path) -> None:
    """A phone's photo lies on its side and is large: what goes out is neither, and holds no place or camera."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "Camera"
    read_image = read(tmp_path, encoded_bytes(coloured(4000, 3000), "JPEG", exif=exif))
    assert (read_image.format, read_image.size) == ("JPEG", (1152, 1536))
    assert not read_image.getexif()


def test_what_is_transparent(tmp_path: Path) -> None:
    """It is white in a picture; in a mask it is black, which stays as it is."""
    clear = encoded_bytes(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert read(tmp_path, clear).convert("RGB").getpixel((4, 4)) == (255, 255, 255)
    assert read(tmp_path, clear, "mask_image").convert("L").getpixel((4, 4)) == 0


def test_a_mask_keeps_its_edge(tmp_path: Path) -> None:
    """Black stays black beside white."""
    mask = read(tmp_path, encoded_bytes(right_half()), "mask_image").convert("L")
    assert [mask.getpixel((column, 0)) for column in (31, 32)] == [0, 255]


@pytest.mark.parametrize(("file", "told"), [
    (b"no picture", "PNG, JPEG and WebP can"),
    (b"", "PNG, JPEG and WebP can"),
    (encoded_bytes(coloured(), "BMP"), "PNG, JPEG and WebP can"),
    (encoded_bytes(coloured())[:-100], "PNG, JPEG and WebP can"),
    (huge_png(), "40 megapixels and 12 MB are the most"),
    (b"x" * (FILE_BYTES_MAX + 1), "40 megapixels and 12 MB are the most"),
])  # fmt: skip
def test_what_cannot_be_read(tmp_path: Path, file: bytes, told: str) -> None:
    """It is refused with what would be right, by its header where it would fill the memory."""
    with pytest.raises(InvalidRequestError, match=told) as refused:
        read(tmp_path, file)
    assert refused.value.parameter == "image"


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    """Files are deleted after a while."""
    with pytest.raises(InvalidRequestError, match="choose it again"):
        asyncio.run(start_image.read({"path": str(tmp_path / "none")}, "image"))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[StandInService, str]]:
    service = StandInService(tunnel=False)
    page, url = serve(service)
    yield service, url
    page.close(verbose=False)


def test_files_are_taken_only_where_the_model_takes_pictures(served: tuple[StandInService, str]) -> None:
    """Nobody can leave a file on the page's disk unless a field takes one, and then none above the limit."""
    service, url = served

    def upload(file: bytes) -> int:
        return httpx.post(f"{url}gradio_api/upload", files={"files": file}, timeout=PATIENT).status_code

    service.limits = Limits()
    assert upload(b"x") == 403
    service.limits = TAKES_IMAGES
    assert upload(b"x") == 200
    assert upload(b"x" * (FILE_BYTES_MAX + 20_000)) == 413


@pytest.mark.slow
def test_a_visitor_starts_from_a_picture(browser: "Browser", served: tuple[StandInService, str]) -> None:
    """On a phone: the field is there where the model takes pictures. What is no picture is refused at once; picture,
    mask and strength go with the next Draw, and again with the one after.
    """
    from playwright.sync_api import expect

    from tests.support.visits import PHONE, TOUCH, Visit, wait_until_ready

    service, url = served
    service.limits = Limits()
    context = browser.new_context(viewport=PHONE, **TOUCH)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    wait_until_ready(page)
    page.click("#more > button")
    expect(page.locator("#scheduler")).to_be_visible()
    expect(page.locator("#start")).to_be_hidden()

    service.limits, service.model = TAKES_IMAGES, "tiny"
    page.reload()
    wait_until_ready(page)
    page.click("#more > button")
    page.click("#start > button")
    chooser = page.locator("#start-image input[type=file]")
    chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.locator("#status")).to_contain_text("This file cannot be read as a picture")
    expect(page.locator("#start-image img")).to_have_count(0)
    chooser.set_input_files({"name": "b.png", "mimeType": "image/png", "buffer": encoded_bytes(coloured(96, 64))})
    expect(page.locator("#start-image img")).to_be_visible()
    page.click("#about summary")
    expect(page.locator("#about")).to_contain_text("A picture that you start from goes there too")
    mask = page.locator("#mask-image input[type=file]")
    mask.set_input_files({"name": "m.png", "mimeType": "image/png", "buffer": encoded_bytes(right_half(96, 64))})
    expect(page.locator("#mask-image img")).to_be_visible()
    page.fill("#strength input[type=number]", "0.5")
    page.press("#strength input[type=number]", "Tab")

    visit, before = Visit(page, service), len(service.started)
    asked: list[object] = []
    for prompt in ("a castle", "a boat"):
        service.hold("done")
        visit.ask(prompt)
        expect(page.locator("#cancel")).to_be_visible()
        request = service.started[-1].request
        image, mask_image = (Image.open(io.BytesIO(file or b"")) for file in (request.image, request.mask_image))
        asked.append((image.size, mask_image.size, request.strength))
        service.let("done")
        expect(page.locator("#cancel")).to_be_hidden()
        assert service.started[-1].request.image is None  # a kept job does not keep it
    assert len(service.started) == before + 2
    assert asked == [((96, 64), (96, 64), 0.5)] * 2
    context.close()
