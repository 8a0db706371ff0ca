"""Requests with images, by upstream's names: which task they ask for, at which size, and what is refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference_server.messages import ModelInfo
from inference_server.tasks import EDIT, IMG2IMG, INPAINT, LANCZOS, Task
from tests.inference_server.test_input_images import png_header
from tests.support.images import coloured, encoded, raw, right_half
from tests.support.inference_front_door import MODEL, FrontDoor, serve

IMAGE, MASK = encoded(coloured(128, 64)), encoded(right_half(128, 64))
SD = dataclasses.replace(
    MODEL,
    features=("text2image", "img2img", "inpaint", "negative_prompt", "guidance"),
    image_tasks=(
        Task(IMG2IMG, "StableDiffusionImg2ImgPipeline", strength=0.8),
        Task(INPAINT, "StableDiffusionInpaintPipeline", ("StableDiffusionInpaintPipelineLegacy",), strength=1.0),
        LANCZOS,
    ),
)
EDITOR = dataclasses.replace(
    MODEL, pipeline="Flux2Pipeline", features=("text2image", "edit"), image_tasks=(Task(EDIT, "Flux2Pipeline"),)
)


def ask(door: FrontDoor, pipeline: str | None, **inputs: Any) -> Any:
    call = {} if pipeline is None else {"PIPELINE": pipeline}
    body = {"modelInputs": {"prompt": "a cat", "num_inference_steps": 4, **inputs}, "callInputs": call}
    return door.ask("POST", "/", json=body)


def visiting(tmp_path: Path, visit: Callable[[FrontDoor], None], model: ModelInfo = SD) -> None:
    serve(tmp_path, {}, visit, model=model)


def test_upstreams_requests_ask_for_what_they_mean(tmp_path: Path) -> None:
    """By a class's name or by the images alone, under the older names too; `$meta` tells class and strength."""

    def visit(door: FrontDoor) -> None:
        for pipeline, inputs, task, drawn_by, strength in (
            ("StableDiffusionImg2ImgPipeline", {"init_image": IMAGE}, "img2img", "StableDiffusionImg2ImgPipeline", 0.8),
            ("AutoPipelineForImage2Image", {"image": IMAGE}, "img2img", "StableDiffusionImg2ImgPipeline", 0.8),
            (None, {"image": IMAGE, "strength": 0.5}, "img2img", "StableDiffusionImg2ImgPipeline", 0.5),
            (
                "StableDiffusionInpaintPipelineLegacy",
                {"init_image": IMAGE, "mask_image": MASK},
                *("inpaint", "StableDiffusionInpaintPipeline", 1.0),
            ),
            (None, {"image": IMAGE, "mask_image": MASK}, "inpaint", "StableDiffusionInpaintPipeline", 1.0),
            ("AutoPipelineForText2Image", {}, "text2image", "StableDiffusionPipeline", None),
            ("Upscale", {"input_image": IMAGE, "prompt": ""}, "upscale", "Lanczos", None),
        ):
            answer = ask(door, pipeline, **inputs)
            assert answer.status_code == 200, answer.text
            meta, params = answer.json()["$meta"], door.child.drawings[-1]
            assert (params.task, meta["PIPELINE"], meta.get("strength")) == (task, drawn_by, strength)
            assert (params.image == raw(coloured(128, 64))) is bool(inputs)
            assert (params.mask_image is not None) is ("mask_image" in inputs)
            assert "image" not in meta
            assert "ignored" not in meta

    visiting(tmp_path, visit)


def test_the_picture_has_the_images_size_where_none_is_asked_for(tmp_path: Path) -> None:
    """Rounded down to the model's multiples and within its bounds; one side that is asked for decides the other."""

    def visit(door: FrontDoor) -> None:
        for size, asked, expected in (
            ((128, 64), {}, (128, 64)),
            ((150, 100), {}, (128, 64)),
            ((1000, 500), {}, (256, 128)),
            ((20, 20), {}, (64, 64)),
            ((128, 64), {"width": 256}, (256, 128)),
            ((128, 64), {"height": 128}, (256, 128)),
            ((128, 64), {"width": 64, "height": 192}, (64, 192)),
        ):
            answer = ask(door, None, image=encoded(coloured(*size)), **asked)
            meta = answer.json()["$meta"]
            assert (meta["width"], meta["height"]) == expected

        meta = ask(door, "Upscale", image=encoded(coloured(100, 64))).json()["$meta"]
        assert (meta["width"], meta["height"]) == (192, 128)

    visiting(tmp_path, visit)


def test_an_edited_picture_has_the_models_area_and_the_images_shape(tmp_path: Path) -> None:
    """Those models scale what they read to the area that they were trained with; a text still draws too."""

    def visit(door: FrontDoor) -> None:
        answer = ask(door, "Flux2Pipeline", image=encoded(coloured(400, 100))).json()
        assert (answer["$meta"]["width"], answer["$meta"]["height"]) == (256, 64)
        assert door.child.drawings[-1].task == "edit"
        assert ask(door, "Flux2Pipeline").json()["$meta"]["PIPELINE"] == "Flux2Pipeline"
        assert door.child.drawings[-1].task == "text2image"

    visiting(tmp_path, visit, dataclasses.replace(EDITOR, width_px=128, height_px=128))


def test_progress_counts_the_steps_that_the_strength_leaves(tmp_path: Path) -> None:
    """Half of four: the visitor's bar does not end at half its length."""

    def visit(door: FrontDoor) -> None:
        lines = list(door.lines(image=IMAGE, strength=0.5, num_inference_steps=4))
        told = {(line["total_steps"], line["num_inference_steps"]) for line in lines if "total_steps" in line}
        assert told == {(2, 2)}

    visiting(tmp_path, visit)


@pytest.mark.parametrize(
    ("pipeline", "inputs", "code", "named"),
    [
        ("StableDiffusionXLImg2ImgPipeline", {"image": "no base64 at all!"}, "NO_SUCH_PIPELINE", "Img2ImgPipeline"),
        ("StableDiffusionImg2ImgPipeline", {}, "INVALID_INPUTS", "image: is missing"),
        ("StableDiffusionInpaintPipeline", {"image": IMAGE}, "INVALID_INPUTS", "mask_image: is missing"),
        ("StableDiffusionImg2ImgPipeline", {"image": IMAGE, "mask_image": MASK}, "INVALID_INPUTS", "Inpaint"),
        ("AutoPipelineForText2Image", {"image": IMAGE}, "INVALID_INPUTS", "Img2Img"),
        (None, {"mask_image": MASK}, "INVALID_INPUTS", "image: is missing"),
        (None, {"control_image": IMAGE}, "INVALID_INPUTS", "control_image"),
        (None, {"image": "https://example.com/a.png"}, "INVALID_INPUTS", "fetched"),
        (None, {"image": IMAGE, "mask_image": "x"}, "INVALID_INPUTS", "mask_image"),
        (None, {"image": png_header(50_000, 50_000)}, "INVALID_INPUTS", "megapixels"),
        (None, {"image": IMAGE, "strength": 1.5}, "INVALID_INPUTS", "strength"),
        (None, {"image": IMAGE, "strength": 0.2}, "INVALID_INPUTS", "0.25"),
        (None, {"image": IMAGE, "strength": "half"}, "INVALID_INPUTS", "strength"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_what_can(
    tmp_path: Path, pipeline: str | None, inputs: dict[str, Any], code: str, named: str
) -> None:
    """The pipeline before any image is looked at; nothing reaches the engine, and the server draws on."""

    def visit(door: FrontDoor) -> None:
        answer = ask(door, pipeline, **inputs)
        error = answer.json()["$error"]
        assert (answer.status_code, error["code"]) == (400, code)
        assert named in error["message"]
        assert not door.child.drawings
        assert ask(door, None).status_code == 200

    visiting(tmp_path, visit)


def test_features_are_told(tmp_path: Path) -> None:
    """In the healthcheck's limits, as the model has them."""

    def visit(door: FrontDoor) -> None:
        assert door.ask("GET", "/healthcheck").json()["limits"]["features"][:3] == ["text2image", "img2img", "inpaint"]

    visiting(tmp_path, visit)
