"""Pictures drawn from images: the same as diffusers' own pipelines draw, in any company."""

import functools
import inspect
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines.diffusers import image_tasks
from inference_server.engines.diffusers.engine import DiffusersEngine, shares_steps
from inference_server.engines.diffusers.loading import load
from inference_server.engines.diffusers.pipeline_calls import PipelineCalls
from inference_server.messages import Draw, GenerationParams, ModelInfo
from tests.support import tiny_families, tiny_pipelines
from tests.support.diffusers_channel import (
    Rig,
    ScriptedChannel,
    difference,
    loaded,
    model_info,
    order,
    own_picture,
    with_nothing_learnt,
)
from tests.support.images import coloured, raw, right_half

pytestmark = [pytest.mark.slow]

IMAGE, MASK = coloured(), right_half()


def one(number: int, task: str, kind: str = "sd", **changes: Any) -> Draw:
    """Half of the image drawn anew."""
    mask = {"mask_image": raw(MASK)} if task == "inpaint" else {}
    return order(number, **{"task": task, "strength": 0.5, "image": raw(IMAGE), **mask} | changes)


def own(kind: str, params: GenerationParams) -> Any:
    """What diffusers' own pipeline for the task makes of the same images."""
    text = loaded(kind).pipeline
    pipeline = image_tasks.pipeline_for(text, params.task)
    pipeline.scheduler = getattr(diffusers, params.scheduler).from_config(text.scheduler.config)
    mask = {"mask_image": MASK, "height": 64, "width": 64} if params.task == "inpaint" else {}
    negative = {} if kind == "lcm" else {"negative_prompt": params.negative_prompt or None}
    result = pipeline(
        params.prompt,
        image=IMAGE,
        strength=params.strength,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(params.seeds[0]),
        **mask,
        **negative,
    )
    return np.asarray(result.images[0])


ALONE = [
    ("sd", "img2img", "DDIMScheduler", 0.5),
    ("sd", "img2img", "EulerAncestralDiscreteScheduler", 0.5),
    ("sd", "img2img", "HeunDiscreteScheduler", 1.0),
    ("sd", "img2img", "PNDMScheduler", 0.8),
    ("sd", "inpaint", "DDIMScheduler", 1.0),
    ("sd", "inpaint", "EulerAncestralDiscreteScheduler", 0.5),
    ("sd", "inpaint", "UniPCMultistepScheduler", 0.75),
    ("sd_fill", "inpaint", "EulerAncestralDiscreteScheduler", 1.0),
    ("sd_fill", "inpaint", "DDIMScheduler", 0.5),
    ("sdxl", "img2img", "DDIMScheduler", 0.5),
    ("sdxl", "inpaint", "EulerDiscreteScheduler", 0.9999),
    ("lcm", "img2img", "LCMScheduler", 0.5),
]


@pytest.mark.parametrize(("kind", "task", "scheduler", "strength"), ALONE)
def test_alone_it_is_the_picture_of_diffusers_own_pipeline(
    kind: str, task: str, scheduler: str, strength: float
) -> None:
    """Bit for bit, in fp32, from the same image, mask and seed, whatever the scheduler adds at each step."""
    drawn = one(1, task, scheduler=scheduler, strength=strength, spreads_steps=kind == "lcm")
    assert difference(Rig(kind).draw(drawn).picture_of(1), own(kind, drawn.params)) == 0


@pytest.mark.parametrize("task", ["img2img", "inpaint"])
def test_steps_are_shared_with_pictures_of_texts(task: str) -> None:
    """In one slot and bucket company changes no bit, and nothing in those pictures; across buckets at most 2 of 255."""
    rig = Rig(buckets=(4,))
    alone = rig.draw(one(1, task, num_inference_steps=8)).picture_of(1)
    channel = rig.draw(one(1, task, num_inference_steps=8), order(2), one(3, "img2img"), one(4, "inpaint"))
    assert channel.batches()[:2] == [1, 4]
    assert (channel.picture_of(1) == alone).all()
    assert difference(channel.picture_of(2), own_picture("sd", order(2).params)) <= 2
    assert difference(alone, own("sd", one(1, task, num_inference_steps=8).params)) <= 2


def test_only_the_steps_that_are_drawn_are_told() -> None:
    """Of eight steps at a strength of 0.3 two are left; the last one told is the last of these."""
    steps = Rig().draw(one(1, "img2img", num_inference_steps=8, strength=0.3)).steps_of(1)
    assert [(step.step, step.num_steps) for step in steps] == [(1, 2), (2, 2)]


def test_other_models_draw_by_their_own_pipelines() -> None:
    """Of the same weights; each of several seeds gives the picture that it gives alone."""
    flow: dict[str, Any] = {"scheduler": "FlowMatchEulerDiscreteScheduler", "strength": 0.6, "prompt": "a pear"}
    channel = ScriptedChannel(one(1, "img2img", seeds=(1, 2), **flow))
    channel.close()
    PipelineCalls(with_nothing_learnt(loaded("sd3")), 4).work(channel)
    for image, seed in enumerate((1, 2)):
        assert difference(channel.picture_of(1, image), own("sd3", one(seed, "img2img", **flow).params)) == 0
    assert {step.num_steps for step in channel.steps_of(1)} == {4}


def test_other_models_fill_by_their_own_pipelines() -> None:
    """Flux, whose pipeline for that takes image, mask and strength as they came."""
    folder = str(tiny_families.folder("flux", "FLUX.1-dev"))
    config = EngineConfig(engine="diffusers", model_id=folder, model_precision="fp32", device="cpu")
    model = load(config, lambda stage: None)
    flow: dict[str, Any] = {
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
    }
    drawn = one(1, "inpaint", strength=1.0, **flow)
    channel = ScriptedChannel(drawn)
    channel.close()
    PipelineCalls(model, 4).work(channel)
    own_pipeline = image_tasks.pipeline_for(model.pipeline, "inpaint")
    assert type(own_pipeline) is diffusers.FluxInpaintPipeline
    result = own_pipeline(
        [drawn.params.prompt],
        image=IMAGE,
        mask_image=MASK,
        strength=1.0,
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.5,
        generator=torch.Generator("cpu").manual_seed(1),
    )
    assert difference(channel.picture_of(1), np.asarray(result.images[0])) == 0


@pytest.mark.parametrize("name", list(image_tasks.SHARED))
def test_the_table_says_what_diffusers_says(name: str) -> None:
    """The classes for each task and their default strengths are those of diffusers' own mapping and signatures."""
    told = {task.name: (task.pipeline, task.strength) for task in image_tasks.SHARED[name]}
    from diffusers.pipelines import auto_pipeline

    right = {}
    for task, mapping in (
        ("img2img", auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING),
        ("inpaint", auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING),
    ):
        if kind := auto_pipeline._get_task_class(mapping, name, throw_error_if_not_exist=False):
            right[task] = (kind.__name__, inspect.signature(kind.__call__).parameters["strength"].default)
    assert told == right


@functools.cache
def engine(folder: str) -> DiffusersEngine:
    """Loaded and warmed up as a server does it."""
    config = EngineConfig(engine="diffusers", model_id=folder, device="cpu", compile_sizes=())
    made = DiffusersEngine(config, lambda stage: None)
    made.warm_up()
    return made


def info(kind: str) -> ModelInfo:
    if kind in tiny_families.KINDS:
        return engine(str(tiny_families.folder(kind, kind))).model_info
    return engine(str(tiny_pipelines.folder(kind))).model_info


def test_a_model_that_fills_does_nothing_else() -> None:
    """It shares steps, and its features, pipeline and warm-up are those of filling."""
    told = info("sd_fill")
    assert told.features == ("inpaint", "negative_prompt", "guidance", "long_prompts", "prompt_weighting")
    assert told.pipeline == "StableDiffusionInpaintPipeline"
    assert shares_steps(loaded("sd_fill").pipeline)


def test_an_upscaler_enlarges_and_does_nothing_else() -> None:
    """Four times the sides of the image, with the prompt; the picture is the one of its own call."""
    assert info("upscaler").features == ("upscale", "negative_prompt", "guidance")
    small = coloured(32, 16)
    drawn = order(1, task="upscale", image=raw(small), width_px=128, height_px=64, num_inference_steps=2)
    channel = ScriptedChannel(drawn)
    channel.close()
    engine(str(tiny_pipelines.folder("upscaler"))).work(channel)
    pipeline = loaded("upscaler").pipeline
    generator = torch.Generator("cpu").manual_seed(1)
    result = pipeline(
        [drawn.params.prompt], image=small, num_inference_steps=2, guidance_scale=7.5, generator=generator
    )
    assert difference(channel.picture_of(1), np.asarray(result.images[0])) == 0


def test_where_there_is_no_upscaler_lanczos_enlarges() -> None:
    """It is no feature of the model, and needs none of its steps."""
    assert "upscale" not in info("sd").features
    channel = ScriptedChannel(order(1, task="upscale", image=raw(IMAGE), width_px=128, height_px=96, seeds=(1, 2)))
    channel.close()
    engine(str(tiny_pipelines.folder("sd"))).work(channel)
    expected = np.asarray(IMAGE.resize((128, 96), diffusers.utils.PIL_INTERPOLATION["lanczos"]))
    assert difference(channel.picture_of(1, 1), expected) == 0
    assert not channel.steps_of(1)


def test_a_model_that_edits_draws_of_a_text_and_of_an_image() -> None:
    """Its own call gets the image as it came, beside the prompt."""
    told = info("flux_kontext")
    assert told.features[:2] == ("text2image", "edit")
    channel = ScriptedChannel(
        order(1, task="edit", image=raw(coloured(96, 64)), scheduler=told.scheduler, num_inference_steps=1)
    )
    channel.close()
    work = engine(str(tiny_families.folder("flux_kontext", "flux_kontext"))).work
    work(channel)
    assert channel.picture_of(1).shape[2] == 3


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_features_tell_what_can_be_done(kind: str) -> None:
    """Of a model that draws from texts: also from images, wholly or in part."""
    assert model_info(kind).features[:3] == ("text2image", "img2img", "inpaint")
