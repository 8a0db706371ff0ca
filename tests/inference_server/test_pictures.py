"""From pixels to files: nothing is lost, the text goes along, the formats are those asked for."""

import base64
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from inference_server import fast_png, pictures
from inference_server.messages import GenerationParams, ModelInfo, RawImage
from inference_server.resolve import Resolved

MODEL_INFO = ModelInfo(
    name="/models/a-model",
    pipeline="StableDiffusionPipeline",
    width_px=512,
    height_px=512,
    num_inference_steps=25,
    guidance_scale=7.5,
    scheduler="EulerDiscreteScheduler",
    schedulers=("EulerDiscreteScheduler",),
    max_side_px=512,
    side_multiple_px=8,
)


def resolved(image_format: str = "PNG", scheduler: str = "EulerDiscreteScheduler") -> Resolved:
    params = GenerationParams(
        prompt="a café, 猫",
        negative_prompt="blurred",
        width_px=64,
        height_px=32,
        num_inference_steps=25,
        guidance_scale=7.5,
        scheduler=scheduler,
        seeds=(7, 8),
    )
    return Resolved(params, MODEL_INFO, MODEL_INFO.pipeline, image_format)


def raw_image(pixels: NDArray[np.uint8]) -> RawImage:
    height_px, width_px, _ = pixels.shape
    return RawImage(width_px, height_px, pixels.tobytes())


def photograph(side_px: int) -> NDArray[np.uint8]:
    """Shapes of all sizes, as in nature, with a little noise: (side, side, 3)."""
    random = np.random.default_rng(3)
    total = random.normal(0, 2, (side_px, side_px, 3))
    for cells in (2, 4, 8, 16, 32, 64):
        coarse = random.normal(128, 300 / cells, (cells, cells, 3)).clip(0, 255).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC)
        total += np.asarray(smooth, np.float64) - 128
    return (total + 128).clip(0, 255).astype(np.uint8)


def chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(file):
        [length] = struct.unpack_from(">I", file, place)
        kind, content = file[place + 4 : place + 8], file[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", file, place + 8 + length)[0] == zlib.crc32(kind + content)
        yield kind, content
        place += 12 + length


@pytest.mark.parametrize("size", [(1, 1), (64, 1), (1, 64), (5, 7), (257, 191), (30_000, 3)])
@pytest.mark.parametrize("values", [[0, 1, 128, 255], range(256)], ids=["extremes", "all"])
def test_the_fast_png_holds_every_pixel_and_the_text(size: tuple[int, int], values: list[int]) -> None:
    """The fast encoder loses nothing: Pillow reads back the same pixels, and prompt and seed, whatever the script."""
    pixels = np.random.default_rng(1).choice(np.array(values, np.uint8), (size[1], size[0], 3))
    file = base64.b64decode(pictures.encode(raw_image(pixels), resolved(), 0, None))
    with Image.open(io.BytesIO(file)) as picture:
        assert np.array_equal(np.asarray(picture), pixels)
        assert picture.info["prompt"] == "a café, 猫"
        assert picture.info["seed"] == "7"
        assert picture.info["model"] == "a-model"


def test_the_fast_png_is_a_valid_file() -> None:
    """Its chunks are those of the standard with right checksums, and it needs no larger window than it declares."""
    info = PngImagePlugin.PngInfo()
    info.add_text("key", "value")
    found = list(chunks(fast_png.encode_png(raw_image(photograph(200)), info)))
    assert [kind for kind, _ in found] == [b"IHDR", b"tEXt", b"IDAT", b"IEND"]
    compressed = found[2][1]
    decoder, size = zlib.decompressobj(8 + (compressed[0] >> 4)), 0
    while compressed:  # in little pieces, so that the decoder has no more than its window at hand
        size += len(decoder.decompress(compressed, 16))
        compressed = decoder.unconsumed_tail
    assert decoder.eof
    assert size == 200 * (1 + 200 * 3)


def test_the_fast_png_is_the_same_every_time() -> None:
    """Encoding is deterministic."""
    raw, info = raw_image(photograph(64)), PngImagePlugin.PngInfo()
    assert len({fast_png.encode_png(raw, info) for _ in range(3)}) == 1


def test_the_fast_png_is_about_as_small_as_pillows() -> None:
    """What looks like a photograph is at most a tenth larger than with Pillow's default."""
    pixels = photograph(512)
    usual = io.BytesIO()
    Image.fromarray(pixels).save(usual, "PNG")
    assert len(fast_png.encode_png(raw_image(pixels), PngImagePlugin.PngInfo())) <= 1.1 * len(usual.getvalue())


@pytest.mark.parametrize(
    ("image_format", "magic"),
    [("PNG", b"\x89PNG"), ("JPEG", b"\xff\xd8"), ("WEBP", b"RIFF"), ("WEBP_LOSSLESS", b"RIFF")],
)
def test_pictures_are_encoded_as_asked(image_format: str, magic: bytes) -> None:
    """The bytes are of the format that was asked for."""
    raw = RawImage(64, 32, bytes(64 * 32 * 3))
    file = base64.b64decode(pictures.encode(raw, resolved(image_format), 0, 1))
    assert file.startswith(magic)
    assert Image.open(io.BytesIO(file)).size == (64, 32)


@pytest.mark.parametrize("compress_level", [0, 9])
def test_lossless_is_lossless(compress_level: int) -> None:
    """Pillow's PNG of any level and lossless WebP hold every pixel too."""
    pixels = photograph(64)
    for image_format in ("PNG", "WEBP_LOSSLESS"):
        file = base64.b64decode(pictures.encode(raw_image(pixels), resolved(image_format), 0, compress_level))
        with Image.open(io.BytesIO(file)) as picture:
            assert np.array_equal(np.asarray(picture), pixels), image_format


def test_parameters_are_in_the_widespread_layout() -> None:
    """Programs that read "parameters" find prompt, negative prompt and settings, each picture with its own seed."""
    raw = RawImage(64, 32, bytes(64 * 32 * 3))
    file = base64.b64decode(pictures.encode(raw, resolved(), 1, None))
    with Image.open(io.BytesIO(file)) as picture:
        assert picture.info["parameters"] == (
            "a café, 猫\nNegative prompt: blurred\n"
            "Steps: 25, Sampler: Euler, CFG scale: 7.5, Seed: 8, Size: 64x32, Model: a-model"
        )


@pytest.mark.slow
def test_every_scheduler_of_stable_diffusion_has_a_widespread_name() -> None:
    """No sampler of "parameters" is a class name, but of one that has no other name."""
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers  # seconds to import

    unnamed = {member.name for member in KarrasDiffusionSchedulers} - set(pictures.SAMPLER_NAMES)
    assert unnamed == {"EDMEulerScheduler"}


def test_a_preview_is_small() -> None:
    """Its longer side is 128 px, its JPEG some kB."""
    small = base64.b64decode(pictures.preview(RawImage(16, 8, bytes(range(128)) * 3)))
    assert Image.open(io.BytesIO(small)).size == (128, 64)
    assert len(small) < 8000
