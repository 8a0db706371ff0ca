"""Tells what a loaded pipeline can draw (sizes, schedulers) and draws best (steps, guidance)."""

import dataclasses
import inspect
import math
from typing import Any

from diffusers import LatentConsistencyModelPipeline

from inference_server.engines import model_folder
from inference_server.engines.diffusers import schedulers
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.messages import ModelInfo

SMALLEST_MAX_SIDE_PX, LARGEST_MAX_SIDE_PX = 1024, 2048
MULTIPLE_PX = 8  # what diffusers asks of every size
LATENT_CONSISTENCY = (4, 8.5)  # steps, guidance
FEW_STEPS = 10  # a model that wants fewer was distilled


def of_pipeline(loaded: LoadedPipeline, images_at_once: int) -> ModelInfo:
    """Allows sides up to twice the trained one; larger pictures repeat themselves, and memory grows with the area."""
    pipeline = loaded.pipeline
    info = model_folder.read_model_info(
        loaded.found,
        lambda config: schedulers.offered(pipeline.scheduler),
        max_side_px=lambda side_px: max(SMALLEST_MAX_SIDE_PX, side_px, min(LARGEST_MAX_SIDE_PX, 2 * side_px)),
        side_multiple_px=_multiple_px(pipeline),
        side_px=_side_px(pipeline),
        best=_best(pipeline, loaded.found.name),
    )
    return dataclasses.replace(
        info,
        pipeline=type(pipeline).__name__,
        gpu=loaded.device.type == "cuda",
        images_at_once=images_at_once,
        images_ahead=images_at_once if images_at_once > 1 else 0,
    )


def _side_px(pipeline: Any) -> int | None:
    """The trained side of a transformer: its config may count it in patches, its pipeline counts it in latents."""
    size = getattr(pipeline, "default_sample_size", None)
    if hasattr(pipeline, "unet") or not isinstance(size, int):
        return None
    return size * int(pipeline.vae_scale_factor)


def _multiple_px(pipeline: Any) -> int:
    """The step of sizes: a transformer reads latents in patches; a UNet pads where halves do not meet."""
    scale = int(getattr(pipeline, "vae_scale_factor", 8) or 8)
    transformer = getattr(pipeline, "transformer", None)
    if transformer is None:
        return math.lcm(MULTIPLE_PX, scale)
    patch = getattr(transformer.config, "patch_size", None)
    patch = patch if isinstance(patch, int) and patch > 0 else 1
    return math.lcm(2 * MULTIPLE_PX, scale * patch)


def _best(pipeline: Any, name: str) -> tuple[int, float]:
    """Steps and guidance: the usual ones for a UNet, else the defaults of the pipeline's own call."""
    if isinstance(pipeline, LatentConsistencyModelPipeline):
        return LATENT_CONSISTENCY
    steps, guidance = model_folder.steps_and_guidance(name, type(pipeline.scheduler).__name__)
    if hasattr(pipeline, "unet") or steps < FEW_STEPS:
        return steps, guidance
    parameters = inspect.signature(pipeline.__call__).parameters

    def default(name: str, otherwise: float) -> float:
        value = parameters[name].default if name in parameters else None
        return value if isinstance(value, int | float) else otherwise

    return int(default("num_inference_steps", steps)), float(default("guidance_scale", guidance))
