"""What comes in over the wire is looked at defensively: anything else than an answer is a typed error."""

import base64
import io
import json
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from drawing.events import Queued, Step, Waking
from drawing.models import GenerationRequest, Limits
from endpoint import wire_format
from endpoint.transport_errors import read_error
from errors import (
    BusyError,
    DrawingError,
    EndpointAnswerError,
    EndpointUnreachableError,
    EndpointUntrustedError,
    GpuBusyError,
    InvalidRequestError,
    JobCancelledError,
    SpaceError,
    StartError,
)

LINK = "Inference endpoint"


def encoded(image_format: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: Any) -> str:
    buffer = io.BytesIO()
    Image.new(mode, size, 1 if mode == "1" else 90).convert(mode).save(buffer, image_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes = b"", header: bytes | None = None, *chunks: bytes) -> str:
    """A PNG that claims `width` x `height`, whatever its rows hold."""
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0) if header is None else header
    parts = [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", ihdr), *chunks, png_chunk(b"IDAT", zlib.compress(rows))]
    return base64.b64encode(b"".join([*parts, png_chunk(b"IEND", b"")])).decode()


@pytest.mark.parametrize("key", ["image_base64", "images_base64"])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_pictures(key: str, image_format: str) -> None:
    """One picture or several, in each format: the first one is decoded to RGB, and its file kept as it came."""
    text = encoded(image_format)
    drawing = wire_format.read_result(LINK, {key: text if key == "image_base64" else [text, encoded(size=(2, 2))]})
    assert (drawing.image.mode, drawing.image.size, drawing.image_format) == ("RGB", (8, 6), image_format)
    assert base64.b64encode(drawing.encoded).decode() == text
    assert drawing.seed is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_other_modes_become_rgb(mode: str) -> None:
    """A picture in grey, with a palette or with alpha is one too."""
    assert wire_format.read_result(LINK, {"image_base64": encoded(mode=mode)}).image.mode == "RGB"


def test_text_of_a_png_is_kept() -> None:
    """The text metadata of a PNG is still in the file that is handed on."""
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "a red apple")
    drawing = wire_format.read_result(LINK, {"image_base64": encoded(pnginfo=text)})
    with Image.open(io.BytesIO(drawing.encoded)) as image:
        assert image.info["prompt"] == "a red apple"


def test_receipt() -> None:
    """Seed, model, scheduler, times and what a lenient server changed are told."""
    drawing = wire_format.read_result(
        LINK,
        {
            "image_base64": encoded(),
            "$meta": {
                "MODEL_ID": "demo",
                "SCHEDULER": "DDIMScheduler",
                "seeds": [7, 8],
                "served_instead": {"width": {"asked": 100, "served": 128}},
                "unused_prompt_words": ["far", "away"],
            },
            "$timings": {"init": 0, "inference": 420.5, "queue": 12},
        },
    )
    assert drawing.seed == 7
    assert (drawing.receipt.model, drawing.receipt.scheduler) == ("demo", "DDIMScheduler")
    assert (drawing.receipt.inference_s, drawing.receipt.queue_s) == (0.4205, 0.012)
    assert drawing.receipt.substituted == ("width: 128 instead of 100",)
    assert drawing.receipt.unused_words == ("far", "away")


def test_unused_words_are_bounded() -> None:
    """A server that names words without end, or no words at all, fills no memory and no page."""
    told = [7, None, "x" * 10_000, *["word"] * 10_000]
    receipt = wire_format.read_result(LINK, {"image_base64": encoded(), "$meta": {"unused_prompt_words": told}}).receipt
    assert receipt.unused_words[:2] == ("x" * 80, "word")
    assert len(receipt.unused_words) <= 200


ODD: list[Any] = [None, True, 0, -1, 1.5, "", "x", [], {}, [[]], [None], {"a": 1}, 10**400, float("inf"), float("nan")]


@pytest.mark.parametrize("odd", ODD, ids=lambda value: repr(value)[:20])
def test_odd_meta_loses_no_picture(odd: Any) -> None:
    """Whatever stands beside the picture, it is still there."""
    meta = {"seeds": odd, "MODEL_ID": odd, "SCHEDULER": odd, "served_instead": odd, "unused_prompt_words": odd}
    for answer in (
        {"$meta": odd, "$timings": odd},
        {"$meta": meta, "$timings": {"inference": odd, "queue": odd}},
        {"$meta": {"seeds": [odd], "served_instead": {"a": odd}, "unused_prompt_words": [odd]}},
    ):
        assert wire_format.read_result(LINK, {"image_base64": encoded(), **answer}).image.size == (8, 6)


HOSTILE_IMAGES: list[Any] = [
    *[odd for odd in ODD if odd != ""],
    "!!!!",
    "QUJD=QUJD",
    "bildchen ä",
    base64.b64encode(b"no image at all").decode(),
    base64.b64encode(b"GIF89a" + bytes(50)).decode(),
    base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>').decode(),
    encoded("GIF"),
    encoded("BMP"),
    encoded("TIFF"),
    encoded("PNG")[:40],
    encoded("JPEG", size=(64, 64))[:400],
    encoded("WEBP", size=(64, 64))[:40],
    png(60000, 60000),
    png(2**31 - 1, 2**31 - 1),
    png(4097, 4096),
    png(4096, 4096, bytes(10)),  # claims more than it holds
    png(0, 0),
    png(0, 10),
    png(8, 8, b"", b""),
    png(8, 8, b"", b"\0\0"),
    png(8, 8, bytes(8 * 25), struct.pack(">IIBBBBB", 8, 8, 7, 9, 9, 9, 9)),
    png(8, 8, b"\xff" * 200, None, png_chunk(b"PLTE", b"\0")),
    png(8, 8, b"", None, png_chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(50_000_000)))),
    png(8, 8, bytes(100_000_000), struct.pack(">IIBBBBB", 4096, 4097, 8, 2, 0, 0, 0)),
]


@pytest.mark.parametrize("image", HOSTILE_IMAGES, ids=lambda value: repr(value)[:24])
def test_pictures_that_are_none(image: Any) -> None:
    """No base64, no picture, another format, a broken one and one of absurd size are typed errors, soon told."""
    for answer in ({"image_base64": image}, {"images_base64": [image]}, {"images_base64": image}):
        with pytest.raises(EndpointAnswerError):
            wire_format.read_result(LINK, answer)


def test_a_bomb_takes_no_memory() -> None:
    """A small PNG whose rows unpack to 100 MB more than it claims is not unpacked further than its size."""
    drawing = wire_format.read_result(LINK, {"image_base64": png(8, 8, bytes(100_000_000))})
    assert drawing.image.size == (8, 8)


@pytest.mark.parametrize("answer", [{}, {"images_base64": []}, {"image_base64": ""}, {"image_base64": None}])
def test_no_picture_at_all(answer: dict[str, Any]) -> None:
    """A result without a picture is an error that says so."""
    with pytest.raises(EndpointAnswerError, match="no image"):
        wire_format.read_result(LINK, answer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"image_base64": "iVBOR',
        "[]",
        "null",
        "7",
        '"x"',
        "<html>",
        "NaN",
        b"\xff\xfe\x00",
        b"\x80",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1} {"b": 2}',
    ],
    ids=lambda value: repr(value)[:20],
)
def test_json_that_is_none(text: str | bytes) -> None:
    """Cut, nested without end, of another kind: what is no JSON object is a typed error with a short message."""
    with pytest.raises(EndpointAnswerError) as caught:
        wire_format.read_object(LINK, text)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"type": "waking", "stage": "loading the model"}, Waking("Loading the model")),
        ({"type": "waking"}, Waking("Waking the machine that draws")),
        ({"type": "queued", "place": 3}, Queued(3)),
        ({"type": "progress", "step": 3, "num_inference_steps": 20}, Step(3, 20)),
        ({"type": "progress", "step": 45, "num_inference_steps": 30, "total_steps": 120}, Step(45, 120)),
        ({"type": "progress", "progress": 0.5}, Step(10, 20)),  # upstream's
        ({"type": "progress", "step": 99, "num_inference_steps": 20}, Step(20, 20)),
        ({"type": "progress", "step": -5, "num_inference_steps": -3}, Step(0, 1)),
        ({"type": "progress", "step": 1, "preview": base64.b64encode(b"x").decode()}, Step(1, 20, b"x")),
        ({"type": "progress", "step": 1, "preview": "x" * 200_000}, Step(1, 20)),
        ({"type": "inference", "status": "start", "payload": {"startRequestId": "1"}}, None),
        ({"type": "progress"}, None),
        ({"type": "queued"}, None),
        ({}, None),
    ],
)
def test_events(answer: dict[str, Any], expected: Any) -> None:
    """Our server's events and upstream's are understood, bounds included; what tells nothing is passed over."""
    assert wire_format.read_event(answer, 20) == expected


@pytest.mark.parametrize("odd", ODD, ids=lambda value: repr(value)[:20])
def test_odd_events(odd: Any) -> None:
    """No event raises, whatever stands in it."""
    for kind in ("waking", "queued", "progress", odd):
        event = {"type": kind, **dict.fromkeys(["stage", "place", "step", "progress", "total_steps", "preview"], odd)}
        wire_format.read_event(event, 20)
        wire_format.read_event({**event, "num_inference_steps": odd}, None)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("INVALID_INPUTS", 200, InvalidRequestError),
        ("INVALID_SCHEDULER", 400, InvalidRequestError),
        ("BODY_TOO_LARGE", 413, InvalidRequestError),
        ("PIPELINE_ERROR", 200, DrawingError),
        ("PIPELINE_ERROR", 500, DrawingError),
        ("UNHEARD_OF", 200, DrawingError),
        ("BUSY", 503, BusyError),
        ("BUSY", 200, BusyError),
        ("GPU_BUSY", 503, GpuBusyError),
        ("GPU_BUSY", 200, GpuBusyError),
        ("", 429, BusyError),
        ("UNAUTHORIZED", 401, EndpointUntrustedError),
        ("REQUEST_CANCELLED", 410, JobCancelledError),
        ("SHUTTING_DOWN", 503, EndpointUnreachableError),
        ("MODEL_NOT_LOADED", 503, StartError),
    ],
)
def test_errors(code: str, status: int, kind: type[SpaceError]) -> None:
    """Each code and status becomes the error that its caller can do something about, `$error` in HTTP 200 included."""
    error = read_error(LINK, {"code": code, "message": "because"}, status=status)
    assert type(error) is kind
    if isinstance(error, BusyError):
        assert str(error).startswith("Busy: ")
        assert str(error).count("Busy") == 1


@pytest.mark.parametrize("odd", ODD, ids=lambda value: repr(value)[:20])
def test_odd_errors(odd: Any) -> None:
    """An `$error` of any shape is still an error of the tree, with a message."""
    for error in (odd, {"code": odd, "message": odd}):
        with pytest.raises(SpaceError, match=r"\w"):
            wire_format.read_result(LINK, {"$error": error})


@pytest.mark.parametrize("nsfw", [[True], [True, False], True])
def test_a_picture_that_the_safety_checker_hid_is_an_error_in_words(nsfw: Any) -> None:
    """Nobody is shown a black picture without a word."""
    with pytest.raises(DrawingError, match="safety checker hid this picture") as hidden:
        wire_format.read_result(LINK, {"image_base64": encoded(), "nsfw_content_detected": nsfw})
    assert hidden.value.code == "NSFW_CONTENT_DETECTED"


@pytest.mark.parametrize("nsfw", [None, [], [False], [False, True], False, "yes", {}, ["yes"]])
def test_a_picture_that_was_not_hidden_is_shown(nsfw: Any) -> None:
    """The first picture counts, and nothing but a plain yes hides it."""
    wire_format.read_result(LINK, {"image_base64": encoded(), "nsfw_content_detected": nsfw})


def test_health() -> None:
    """Upstream's healthcheck is enough; ours tells more, and null counts as not told."""
    assert wire_format.read_health(LINK, '{"state": "healthy", "gpu": true}').limits is None
    told = {"state": "loading", "limits": {"width": {"min": 64, "max": 256, "multiple": 64}}, "defaults": None}
    health = wire_format.read_health(LINK, json.dumps({**told, "fingerprint": "ab", "engine": None}))
    assert health.limits is not None
    assert (health.state, health.limits.width.max, health.fingerprint) == ("loading", 256, "ab")


@pytest.mark.parametrize(
    ("state", "reason", "takes_posts", "broken"),
    [
        ("healthy", None, True, False),
        ("loading", None, False, False),
        ("failed", "no unet", False, True),
        ("failed", None, False, True),
        ("failed", "gpu-busy: 1 of 24 GiB are free", True, False),
        ("loading", "gpu-busy", False, False),
    ],
)
def test_a_busy_gpu_is_no_broken_server(state: str, reason: str | None, takes_posts: bool, broken: bool) -> None:
    """A server whose GPU is used by its owner is posted to all the same: that is what tries again."""
    health = wire_format.read_health(LINK, json.dumps({"state": state, "reason": reason}))
    assert (health.takes_posts, health.broken) == (takes_posts, broken)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"state": 7}', '{"state": "healthy", "limits": {"width": 7}}', '{"state": "x", "defaults": 1}'],
)
def test_healths_that_are_none(text: str) -> None:
    """What is no healthcheck's answer is a typed error."""
    with pytest.raises(EndpointAnswerError):
        wire_format.read_health(LINK, text)


def test_request() -> None:
    """A request holds what was asked for and nothing else, its id, and the wish for events."""
    body = wire_format.write_request(GenerationRequest("x", seed=0, guidance_scale=0.0), "id-1")
    assert body["modelInputs"] == {"prompt": "x", "seed": 0, "guidance_scale": 0.0}
    assert body["callInputs"]["startRequestId"] == "id-1"
    assert body["callInputs"]["streamEvents"] == 1
    assert "SCHEDULER" not in body["callInputs"]
    assert GenerationRequest.checked(Limits(), **body["modelInputs"]).seed == 0
    body = wire_format.write_request(GenerationRequest("x", scheduler="Euler a"), "id-1")
    assert (body["modelInputs"], body["callInputs"]["SCHEDULER"]) == ({"prompt": "x"}, "Euler a")


def test_what_a_server_tells_of_its_model() -> None:
    """A server's schedulers, its default one and the model's licence are known by its healthcheck; what is no name is
    passed over.
    """
    limits = {"schedulers": ["DDIMScheduler", 7, None, "x" * 1000, "Euler a", *["y"] * 500]}
    notices = ["It draws in bf16.", "Licence: Apache-2.0."]
    defaults = {"scheduler": "DDIMScheduler"}
    answer = {"state": "healthy", "limits": limits, "defaults": defaults, "notices": notices}
    health = wire_format.read_health(LINK, json.dumps(answer))
    assert health.limits
    assert health.limits.schedulers[:2] == ("DDIMScheduler", "Euler a")
    assert len(health.limits.schedulers) < 100
    assert (health.defaults.scheduler, health.licence) == ("DDIMScheduler", "Licence: Apache-2.0.")
    other = Limits(schedulers=("UniPC", "Euler a"))
    assert Limits(schedulers=("DDIMScheduler", "Euler a")).wider(other).schedulers == (
        "DDIMScheduler",
        "Euler a",
        "UniPC",
    )
    assert GenerationRequest("x", scheduler="UniPC").within(health.limits).scheduler is None
    assert GenerationRequest("x", scheduler="UniPC").within(Limits()).scheduler == "UniPC"


def test_images_decide_what_is_drawn() -> None:
    """Image and mask go in base64, without the name of a pipeline that draws from text alone."""
    request = GenerationRequest("a castle", image=b"photo", mask_image=b"mask", strength=0.5)
    written = wire_format.write_request(request, "1")
    assert written["modelInputs"] == {
        "prompt": "a castle",
        "image": base64.b64encode(b"photo").decode(),
        "mask_image": base64.b64encode(b"mask").decode(),
        "strength": 0.5,
    }
    assert "PIPELINE" not in written["callInputs"]
