"""What a loaded pipeline can draw from images, and the pipeline that does it, made of the same weights.

Source: diffusers/pipelines/auto_pipeline.py (which class does what for which model), the classes' own signatures
"""

import inspect
from collections.abc import Mapping
from typing import Any

from inference_server.tasks import EDIT, IMG2IMG, INPAINT, LANCZOS, UPSCALE, Task

# Of the pipelines whose steps are shared. Strengths: the defaults of the classes' own calls.
_SD_INPAINT = Task(INPAINT, "StableDiffusionInpaintPipeline", ("StableDiffusionInpaintPipelineLegacy",), strength=1.0)
_SDXL_INPAINT = Task(INPAINT, "StableDiffusionXLInpaintPipeline", strength=0.9999)
SHARED: Mapping[str, tuple[Task, ...]] = {
    "StableDiffusionPipeline": (Task(IMG2IMG, "StableDiffusionImg2ImgPipeline", strength=0.8), _SD_INPAINT),
    "StableDiffusionXLPipeline": (Task(IMG2IMG, "StableDiffusionXLImg2ImgPipeline", strength=0.3), _SDXL_INPAINT),
    "LatentConsistencyModelPipeline": (
        Task(IMG2IMG, "LatentConsistencyModelImg2ImgPipeline", strength=0.8, spreads_steps=True),
    ),
}
# Times the sides of the image, of diffusers' own upscalers.
_SCALES = {"StableDiffusionUpscalePipeline": 4, "StableDiffusionLatentUpscalePipeline": 2}

_OTHERS = ("Control", "Layered", "Video")  # they want more than an image, or give more than one


def draws_from_text(pipeline: Any) -> bool:
    """Whether a prompt alone is enough."""
    if fills(pipeline):
        return False
    if type(pipeline).__name__ in SHARED:
        return True
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    return type(pipeline) in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()


def is_for_images_alone(name: str) -> bool:
    """Whether a class of diffusers draws from images and no class of its family from a text."""
    import diffusers
    from diffusers.pipelines import auto_pipeline

    mapping = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    if auto_pipeline._get_task_class(mapping, name, throw_error_if_not_exist=False) is not None:
        return False
    kind = getattr(diffusers, name, None)
    return isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline) and bool(_own(kind))


def of_pipeline(pipeline: Any) -> tuple[Task, ...]:
    """Enlarging is a task of every model: with diffusers' own upscaler, else by Lanczos."""
    tasks = SHARED.get(type(pipeline).__name__)
    if tasks is None:
        tasks = _of_class(pipeline)
    elif fills(pipeline):
        tasks = tuple(task for task in tasks if task.name == INPAINT)
    elif not is_plain(pipeline):
        tasks = ()
    return tasks if any(task.name == UPSCALE for task in tasks) else (*tasks, LANCZOS)


def pipeline_for(pipeline: Any, task: str) -> Any:
    """The pipeline that does it, with the parts of this one. Raises: what diffusers raises."""
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

    kinds = {IMG2IMG: AutoPipelineForImage2Image, INPAINT: AutoPipelineForInpainting}
    if task not in kinds or any(one.name == task for one in _own(type(pipeline))):
        return pipeline
    made = kinds[task].from_pipe(pipeline)
    made.set_progress_bar_config(disable=True)
    return made


def fills(pipeline: Any) -> bool:
    """Whether it has a UNet that was trained to fill: it reads latents, a mask, and the image without that part."""
    return _channels(pipeline) == 2 * _latent_channels(pipeline) + 1


def is_plain(pipeline: Any) -> bool:
    """Whether it has a UNet that reads latents and nothing beside."""
    return _channels(pipeline) == _latent_channels(pipeline)


def scale_of(pipeline: Any) -> int:
    """How many times as large as the image its picture is, side by side; 1 of all but upscalers."""
    return _SCALES.get(type(pipeline).__name__, 1)


def _channels(pipeline: Any) -> int:
    unet = getattr(pipeline, "unet", None)
    return -1 if unet is None else int(unet.config.in_channels)


def _latent_channels(pipeline: Any) -> int:
    return int(getattr(getattr(getattr(pipeline, "vae", None), "config", None), "latent_channels", 0) or 0)


def _of_class(pipeline: Any) -> tuple[Task, ...]:
    """What the pipeline itself does with images, and those that can be made of its parts."""
    from diffusers.pipelines import auto_pipeline

    kind = type(pipeline)
    tasks = list(_own(kind))
    for mapping in (
        auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    ):
        other = auto_pipeline._get_task_class(mapping, kind.__name__, throw_error_if_not_exist=False)
        if other is not None and other is not kind and _has_parts_of(pipeline, other):
            tasks += [task for task in _own(other) if task.name not in [one.name for one in tasks]]
    return tuple(tasks)


def _own(kind: type) -> tuple[Task, ...]:
    """What a class of diffusers draws from images, by the parameters of its call."""
    name, parameters = kind.__name__, inspect.signature(kind.__call__).parameters
    if "image" not in parameters or "prompt" not in parameters or any(word in name for word in _OTHERS):
        return ()
    strength = parameters["strength"].default if "strength" in parameters else None
    if "mask_image" in parameters:
        return (Task(INPAINT, name, strength=strength),)
    if name in _SCALES:
        return (Task(UPSCALE, name, scale=_SCALES[name]),)
    return (Task(EDIT, name),) if strength is None else (Task(IMG2IMG, name, strength=strength),)


def _has_parts_of(pipeline: Any, other: Any) -> bool:
    expected, _ = other._get_signature_keys(other)
    return set(expected) - set(other._optional_components) <= set(pipeline.components)
