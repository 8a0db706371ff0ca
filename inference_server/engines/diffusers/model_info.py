"""Tells what a loaded pipeline can draw (sizes, schedulers) and draws best (steps, guidance)."""

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import LatentConsistencyModelPipeline

from inference_server.engines import model_folder
from inference_server.engines.diffusers import image_tasks, schedulers
from inference_server.engines.diffusers.family import Family
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.messages import LORAS, ModelInfo
from inference_server.tasks import TEXT2IMAGE, Task

SMALLEST_MAX_SIDE_PX, LARGEST_MAX_SIDE_PX = 1024, 2048
MULTIPLE_PX = 8  # what diffusers asks of every size
DEFAULT_SIDE_PX = 1024
FEW_STEPS = 10  # a model that wants fewer was distilled


def of_pipeline(loaded: LoadedPipeline, images_at_once: int, further_features: Sequence[str] = ()) -> ModelInfo:
    """Allows sides up to twice the trained one; larger pictures repeat themselves, and memory grows with the area."""
    pipeline, family = loaded.pipeline, loaded.family
    tasks, draws_from_text = image_tasks.of_pipeline(pipeline), image_tasks.draws_from_text(pipeline)
    info = model_folder.read_model_info(
        loaded.found,
        lambda config: schedulers.offered(pipeline.scheduler),
        max_side_px=lambda side_px: max(SMALLEST_MAX_SIDE_PX, side_px, min(LARGEST_MAX_SIDE_PX, 2 * side_px)),
        side_multiple_px=_multiple_px(pipeline),
        side_px=(family.side_px if family else None) or _side_px(pipeline, loaded.found.folder.is_file()),
        best=_best(pipeline, loaded.found.name, family),
        index={"_class_name": type(pipeline).__name__} if loaded.found.folder.is_file() else None,
    )
    return dataclasses.replace(
        info,
        pipeline=type(pipeline).__name__ if draws_from_text else tasks[0].pipeline,
        image_tasks=tasks,
        scheduler=type(pipeline.scheduler).__name__,
        gpu=loaded.device.type == "cuda",
        images_at_once=images_at_once,
        images_ahead=images_at_once if images_at_once > 1 else 0,
        features=(
            *_features(pipeline, family, draws_from_text, tasks),
            *([LORAS] if loaded.loras.offers else []),
            *further_features,
        ),
        loras=loaded.loras.offered,
        memory_plan=loaded.plan.sentence if loaded.device.type == "cuda" else "",
        notices=loaded.notices,
    )


def _features(pipeline: Any, family: Family | None, draws_from_text: bool, tasks: Sequence[Task]) -> tuple[str, ...]:
    """What a request can make use of: names of `limits.features`. Enlarging without the model is none of them."""
    parameters = inspect.signature(pipeline.__call__).parameters
    guided = guidance_argument(parameters, family) is not None and (family is None or family.guided)
    negative = "negative_prompt" in parameters and (family is None or family.negative_prompt)
    names = [*([TEXT2IMAGE] if draws_from_text else []), *(task.name for task in tasks if not task.by_name)]
    return (*names, *(["negative_prompt"] if negative else []), *(["guidance"] if guided else []))


def guidance_argument(parameters: Mapping[str, inspect.Parameter], family: Family | None) -> str | None:
    """The parameter of a pipeline's call that takes the guidance; None: it takes none.

    Some have both: `true_cfg_scale` with a default is what counts where `guidance_scale` has none (Qwen-Image).
    """
    if family is not None:
        return family.guidance_argument if family.guidance_argument in parameters else None
    plain, true = parameters.get("guidance_scale"), parameters.get("true_cfg_scale")
    if true is not None and (plain is None or plain.default is None):
        return "true_cfg_scale"
    return None if plain is None else "guidance_scale"


def _side_px(pipeline: Any, is_one_file: bool) -> int | None:
    """The trained side of a model whose folder does not tell it; a UNet's folder does, a file has none.

    Its pipeline counts it in latents (its config may count it in patches); else the call has it as a default. Of a
    transformer that says nothing at all it is 1024, as of all that came after Stable Diffusion 2.
    """
    if hasattr(pipeline, "unet"):
        return int(pipeline.unet.config.sample_size) * int(pipeline.vae_scale_factor) if is_one_file else None
    size = getattr(pipeline, "default_sample_size", None)
    if isinstance(size, int):
        return size * int(pipeline.vae_scale_factor)
    default = inspect.signature(pipeline.__call__).parameters.get("height")
    if default is not None and isinstance(default.default, int):
        return int(default.default)
    sized = isinstance(getattr(pipeline.transformer.config, "sample_size", None), int | list | tuple)
    return None if sized else DEFAULT_SIDE_PX


def _multiple_px(pipeline: Any) -> int:
    """The step of sizes: a transformer reads latents in patches; a UNet pads where halves do not meet."""
    scale = int(getattr(pipeline, "vae_scale_factor", 8) or 8)
    transformer = getattr(pipeline, "transformer", None)
    if transformer is None:
        return math.lcm(MULTIPLE_PX, scale)
    patch = getattr(transformer.config, "patch_size", None)
    patch = patch if isinstance(patch, int) and patch > 0 else 1
    return math.lcm(2 * MULTIPLE_PX, scale * patch)


def _best(pipeline: Any, name: str, family: Family | None) -> tuple[int, float]:
    """Steps and guidance: the family's; those of a distilled model by its name; the defaults of the pipeline's call."""
    scheduler = type(pipeline.scheduler).__name__
    steps, guidance = model_folder.steps_and_guidance(name, scheduler)
    if scheduler == "LCMScheduler" and not isinstance(pipeline, LatentConsistencyModelPipeline):
        return steps, guidance  # whatever it was made from, it was distilled
    if family is not None:
        return family.num_inference_steps, family.guidance_scale
    if steps < FEW_STEPS:
        return steps, guidance
    parameters = inspect.signature(pipeline.__call__).parameters

    def default(name: str | None, otherwise: float) -> float:
        value = parameters[name].default if name is not None and name in parameters else None
        return value if isinstance(value, int | float) else otherwise

    argument = guidance_argument(parameters, None)
    return int(default("num_inference_steps", steps)), float(default(argument, guidance))
