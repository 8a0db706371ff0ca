"""Each family is drawn with as its card says, with nothing but the model named: what arrives at the pipeline's call."""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines.diffusers.engine import DiffusersEngine
from inference_server.engines.diffusers.loading import LoadedPipeline, load
from inference_server.engines.diffusers.model_info import of_pipeline
from inference_server.engines.diffusers.pipeline_calls import PipelineCalls
from inference_server.messages import Drawn, ModelInfo
from tests.support import tiny_families, tiny_pipelines
from tests.support.diffusers_channel import ScriptedChannel, order

pytestmark = [pytest.mark.slow]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Such small tensors are not worth a second one."""
    torch.set_num_threads(1)


@functools.cache
def _loaded(kind: str, name: str) -> LoadedPipeline:
    folder = str(tiny_families.folder(kind, name))
    return load(EngineConfig(engine="diffusers", model_id=folder, device="cpu"), lambda stage: None)


def _draw(loaded: LoadedPipeline, **changes: Any) -> dict[str, Any]:
    """Draws with the model's defaults but for `changes`; returns what its pipeline's call was given."""
    info = of_pipeline(loaded, images_at_once=1)
    given: dict[str, Any] = {}
    kind = type(loaded.pipeline)
    own = kind.__call__

    @functools.wraps(own)
    def call(self: Any, **arguments: Any) -> Any:
        given.update(arguments)
        return SimpleNamespace(images=np.random.default_rng(0).random((len(arguments["prompt"]), 16, 16, 3)))

    kind.__call__ = call
    try:
        channel = ScriptedChannel(order(1, **(_defaults(info) | changes)))
        channel.close()
        PipelineCalls(loaded, 1).work(channel)
    finally:
        kind.__call__ = own
    assert isinstance(channel.end_of(1), Drawn), channel.end_of(1)
    return given


def _defaults(info: ModelInfo) -> dict[str, Any]:
    names = ("width_px", "height_px", "num_inference_steps", "guidance_scale", "scheduler")
    return {name: getattr(info, name) for name in names}


@pytest.mark.parametrize(
    ("kind", "name", "steps", "argument", "guidance", "side_px"),
    [
        ("z_image", "Z-Image-Turbo", 8, "guidance_scale", 0.0, 1024),
        ("z_image", "Z-Image", 50, "guidance_scale", 4.0, 1024),
        ("flux", "FLUX.1-dev", 28, "guidance_scale", 3.5, 1024),
        ("flux", "FLUX.1-schnell", 4, "guidance_scale", 0.0, 1024),
        ("flux2_klein", "FLUX.2-klein-4B", 4, "guidance_scale", 1.0, 1024),
        ("flux2_klein", "FLUX.2-klein-9B", 4, "guidance_scale", 1.0, 1024),
        ("flux2_klein_base", "FLUX.2-klein-base-4B", 50, "guidance_scale", 4.0, 1024),
        ("flux2", "FLUX.2-dev", 50, "guidance_scale", 4.0, 1024),
        ("krea2_turbo", "Krea-2-Turbo", 8, "guidance_scale", 0.0, 1024),
        ("krea2", "Krea-2-Raw", 28, "guidance_scale", 4.5, 1024),
        ("qwen_image", "Qwen-Image", 50, "true_cfg_scale", 4.0, 1328),
    ],
)
def test_a_model_is_drawn_with_as_its_card_says(
    kind: str, name: str, steps: int, argument: str, guidance: float, side_px: int
) -> None:
    """Steps, guidance by the argument that counts, and size; no negative prompt where none has an effect."""
    given = _draw(_loaded(kind, name))
    assert (given["num_inference_steps"], given[argument]) == (steps, guidance)
    assert (given["width"], given["height"]) == (side_px, side_px)
    assert ("guidance_scale" in given) is (argument == "guidance_scale")
    assert given.get("negative_prompt") == ([" "] if name == "Qwen-Image" else None)
    assert given.get("max_sequence_length") == (256 if name == "FLUX.1-schnell" else None)


def test_a_negative_prompt_goes_where_it_has_an_effect() -> None:
    """Qwen-Image and Z-Image get it; FLUX.1, which would ignore it, does not, and the features say so."""
    assert _draw(_loaded("qwen_image", "Qwen-Image"), negative_prompt="fog")["negative_prompt"] == ["fog"]
    assert _draw(_loaded("z_image", "Z-Image"), negative_prompt="fog")["negative_prompt"] == ["fog"]
    flux = _loaded("flux", "FLUX.1-dev")
    assert "negative_prompt" not in _draw(flux, negative_prompt="fog")
    assert of_pipeline(flux, 1).features == ("text2image", "img2img", "inpaint", "guidance")
    from_images = ("text2image", "img2img", "inpaint")
    assert of_pipeline(_loaded("z_image", "Z-Image"), 1).features == (*from_images, "negative_prompt", "guidance")
    assert of_pipeline(_loaded("z_image", "Z-Image-Turbo"), 1).features == from_images


def test_the_licence_and_what_it_asks_is_told() -> None:
    """In the model's notices, which the log and the healthcheck show."""
    notices = of_pipeline(_loaded("krea2_turbo", "Krea-2-Turbo"), 1).notices
    assert notices == ("Licence: Krea 2 Community. It asks a host to filter or review what is drawn.",)


@pytest.mark.parametrize(
    ("name", "steps", "guidance"),
    [
        ("stable-diffusion-3.5-medium", 40, 4.5),
        ("stable-diffusion-3.5-large", 28, 3.5),
        ("stable-diffusion-3.5-large-turbo", 4, 0.0),
    ],
)
def test_stable_diffusion_3_goes_by_its_name(tmp_path: Any, name: str, steps: int, guidance: float) -> None:
    """The files of its sizes differ in numbers alone."""
    folder = str(tiny_pipelines.save_sd3(tmp_path / name))
    loaded = load(EngineConfig(engine="diffusers", model_id=folder, device="cpu"), lambda stage: None)
    given = _draw(loaded)
    assert (given["num_inference_steps"], given["guidance_scale"], given["width"]) == (steps, guidance, 1024)


@pytest.mark.parametrize(
    ("kind", "name", "steps", "guidance", "side_px"),
    [
        ("sd", "dreamshaper-8", 25, 7.5, 64),
        ("sdxl", "stable-diffusion-xl-base-1.0", 25, 7.5, 64),
        ("sdxl", "sdxl-turbo", 1, 0.0, 512),
        ("sdxl", "SDXL-Lightning", 4, 0.0, 64),
    ],
)
def test_the_shared_steps_of_unets_are_as_many_as_the_card_says(
    tmp_path: Any, kind: str, name: str, steps: int, guidance: float, side_px: int
) -> None:
    """Drawn whole: so many steps are told, and the UNet reads two rows an image where there is guidance."""
    folder = tmp_path / name
    (tiny_pipelines.save_sd if kind == "sd" else tiny_pipelines.save_sdxl)(folder)
    engine = DiffusersEngine(EngineConfig(engine="diffusers", model_id=str(folder), device="cpu"), lambda stage: None)
    info = engine.model_info
    rows: list[int] = []
    unet = engine._drawer._encoder._pipeline.unet  # type: ignore[union-attr]
    handle = unet.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    try:
        channel = ScriptedChannel(order(1, **_defaults(info)))
        channel.close()
        engine.work(channel)
    finally:
        handle.remove()
    assert (info.num_inference_steps, info.guidance_scale, info.width_px) == (steps, guidance, side_px)
    assert rows == [2 if guidance > 1 else 1] * steps
    assert channel.picture_of(1).shape == (side_px, side_px, 3)


def test_flux_draws_with_its_own_text_encoders() -> None:
    """The whole way, in two steps of a small picture."""
    loaded = _loaded("flux", "FLUX.1-dev")
    channel = ScriptedChannel(
        order(1, width_px=64, height_px=64, num_inference_steps=2, scheduler="FlowMatchEulerDiscreteScheduler")
    )
    channel.close()
    PipelineCalls(loaded, 1).work(channel)
    assert channel.picture_of(1).shape == (64, 64, 3)
    assert [step.step for step in channel.steps_of(1)] == [1, 2]
