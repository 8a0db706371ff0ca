"""What no longer fits the model is set to the nearest that does; and the receipt of a picture."""

import asyncio
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from drawing.models import Defaults, GenerationRequest, Limits, Range, Receipt
from drawing.status import BackendStatus
from page.fitting import fitting_number, fitting_size
from page.handlers import Handlers
from page.receipt import receipt
from tests.support.page_service import StandInService, picture

SIDE = Range(min=64, max=512, multiple=64)
KNOWN = BackendStatus(
    "workers",
    False,
    False,
    False,
    "sd",
    Limits(
        width=SIDE,
        height=SIDE,
        num_inference_steps=Range(min=1, max=50),
        schedulers=("DDIMScheduler", "EulerAncestralDiscreteScheduler", "Euler a"),
    ),
    Defaults(width=512, height=512, scheduler="DDIMScheduler"),
)


@pytest.mark.parametrize(
    ("value", "nearest"),
    [
        ("1024x768", ""),  # which is the model's own size
        ("1024x384", "512x384"),
        ("200x60", "192x64"),
        ("512x384", None),
        ("", None),
        (None, None),
        ("wide", None),
    ],
)
def test_a_size_that_does_not_fit(value: object, nearest: str | None) -> None:
    """A size beyond the model's limits becomes the nearest within, with a sentence; any other stays."""
    fitting = fitting_size(value, KNOWN)
    assert (fitting and fitting[0]) == nearest
    assert fitting is None or "cannot be drawn here" in fitting[1]


def test_a_number_that_does_not_fit() -> None:
    """A number beyond the limits becomes the nearest within; what is none stays for the refusal to name."""
    assert fitting_number("num_inference_steps", "100", KNOWN) == ("50", "100 cannot be drawn here: 50 is the nearest.")
    for value in ("50", "", "many", None, "nan"):
        assert fitting_number("num_inference_steps", value, KNOWN) is None


def test_nothing_is_moved_before_the_model_is_known() -> None:
    """While nobody knows what the model can do, everything stays as it was typed."""
    unknown = replace(KNOWN, model=None)
    assert fitting_size("1024x768", unknown) is None
    assert fitting_number("num_inference_steps", "100", unknown) is None


def test_the_receipt() -> None:
    """The receipt tells where the time went, and what drew the picture; what is not known has no line."""
    told = Receipt(
        "ada/draw-1", "DDIMScheduler", inference_s=2.0, queue_s=0.5, init_s=0.0, encode_s=0.025, worker="attic",
        line_s=1.0, ready_s=20.0, total_s=23.75,
    )  # fmt: skip
    generated = replace(picture(GenerationRequest("x"), 7), receipt=told)
    assert receipt(generated) == {
        "In line": "1.5 s",
        "Waking": "20.0 s",
        "Drawing": "2.0 s",
        "Writing the file": "25 ms",
        "On the way": "225 ms",
        "In all": "23.8 s",
        "Machine": "attic",
        "Model": "draw-1",
        "Scheduler": "DDIMScheduler",
        "Seed": "7",
    }
    assert receipt(replace(generated, receipt=Receipt(), seed=None)) == {}


def test_a_link_is_not_enough_to_cancel(tmp_path: Path) -> None:
    """Who knows a job's id alone cannot cancel it on the page either; the browser that asked for it can."""
    service = StandInService()
    service.hold("drawing")
    handlers = Handlers(service, str(tmp_path), ("prompt",))  # type: ignore[arg-type]  # a stand-in
    job = service.submit("a cat")
    for wrong in (job.id, f"{job.id}.", f"{job.id}.{job.id}", None, ""):
        asyncio.run(handlers.cancel(wrong))
    assert not job.finished
    asyncio.run(handlers.cancel(f"{job.id}.{job.cancel_token}"))
    assert job.finished


def test_the_fields_follow_the_model(tmp_path: Path) -> None:
    """Once the model is known its fields offer what it draws; one that does not fit is moved, and says so."""
    service = StandInService()
    fields = ("prompt", "num_inference_steps", "guidance_scale", "size")
    handlers = Handlers(service, str(tmp_path), fields)  # type: ignore[arg-type]  # a stand-in
    asked = ("1024x384", "Heun", "100", "7.5")
    _, *cold = asyncio.run(handlers.options(gr.Request(), *asked))
    assert not any("value" in field for field in cold)
    service.model, service.limits, service.defaults = KNOWN.model, KNOWN.limits, KNOWN.defaults
    _, _, _, _, size, scheduler, steps, guidance = asyncio.run(handlers.options(gr.Request(), *asked))
    assert (size["value"], steps["value"]) == ("512x384", "50")
    assert size["info"].startswith("1024 × 384 px cannot be drawn here")  # noqa: RUF001
    assert steps["info"] == "1 to 50. 100 cannot be drawn here: 50 is the nearest."
    assert "value" not in guidance
    assert (scheduler["value"], scheduler["info"]) == ("", "There is no Heun here: the model's own is taken.")
    names = ["", "Euler a", "DDIMScheduler", "EulerAncestralDiscreteScheduler"]
    assert [value for _, value in scheduler["choices"]] == names
    assert scheduler["choices"][0][0] == "The model's own (DDIMScheduler)"
    *_, known, _, _ = asyncio.run(handlers.options(gr.Request(), "", "euler A", "", ""))
    assert "value" not in known
    assert len(asyncio.run(handlers.options(gr.Request()))) == 8
