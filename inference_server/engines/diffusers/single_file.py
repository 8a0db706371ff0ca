"""Loads a model that is one .safetensors file (a checkpoint as most finetunes are published).

diffusers tells its kind by the names of its weights. What is not in the file (configuration, tokenizers) comes from a
diffusers folder if the file lies in one, else from the hub's original model of that kind.
Source: diffusers 0.42, loaders/single_file_utils.py (`infer_diffusers_model_type`)
"""

from pathlib import Path
from typing import Any

import diffusers
import torch

from inference_server.engines import ModelLoadError, short_reason
from inference_server.engines.diffusers import weights

# diffusers' name for the kind of a checkpoint -> the pipeline that draws from text with it.
PIPELINES = {
    **dict.fromkeys(("v1", "v2"), "StableDiffusionPipeline"),
    **dict.fromkeys(("xl_base", "playground-v2-5"), "StableDiffusionXLPipeline"),
    **dict.fromkeys(("sd3", "sd35_medium", "sd35_large"), "StableDiffusion3Pipeline"),
    **dict.fromkeys(("flux-dev", "flux-schnell"), "FluxPipeline"),
    "flux-2-dev": "Flux2Pipeline",
    "z-image-turbo": "ZImagePipeline",
    "chroma": "ChromaPipeline",
    "sana": "SanaPipeline",
    "lumina2": "Lumina2Pipeline",
    "auraflow": "AuraFlowPipeline",
    "krea2": "Krea2Pipeline",
}
_OLD_LAYOUT = "model.diffusion_model.input_blocks."  # of SD 1.x; diffusers takes whatever it does not know for one


class UnknownFileError(ModelLoadError):
    """No pipeline draws with this file."""

    permanent = True


def read_index(file: Path) -> dict[str, Any]:
    """What a model_index.json would say of it: the pipeline's class.

    Raises: PickleError, UnknownFileError; ModelLoadError where it cannot be read.
    """
    if file.suffix.lower() in weights.PICKLES:
        raise weights.PickleError(f"{file.name} is a pickle file")
    if file.suffix.lower() != weights.SAFE:
        raise UnknownFileError(
            f"{file.name} is no model: MODEL_ID takes a folder, a {weights.SAFE} file or an id of the hub"
        )
    # Only now: most models are folders, and importing it takes time.
    from diffusers.loaders.single_file_utils import (
        DIFFUSERS_DEFAULT_PIPELINE_PATHS,
        infer_diffusers_model_type,
        load_single_file_checkpoint,
    )

    try:
        checkpoint = load_single_file_checkpoint(str(file), local_files_only=True)
        kind = infer_diffusers_model_type(checkpoint)
    except Exception as exc:
        raise ModelLoadError(f"{file.name} cannot be read: {short_reason(exc)}") from exc
    known = kind != "v1" or any(name.startswith(_OLD_LAYOUT) for name in checkpoint)
    pipeline = PIPELINES.get(kind) if known else None
    if pipeline is None:
        what = f"holds a model of the kind {kind}" if known else "holds no model that diffusers knows"
        raise UnknownFileError(
            f"{file.name} {what}, which is not drawn with from one file here. Take a diffusers folder"
        )
    if not hasattr(getattr(diffusers, pipeline), "from_single_file"):
        origin = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
        raise UnknownFileError(
            f"{file.name} is for {pipeline}, which diffusers loads from a folder alone, as {origin} is"
        )
    return {"_class_name": pipeline}


def load(file: Path, index: dict[str, Any], dtype: torch.dtype, configuration: Path | None = None) -> Any:
    """`configuration`: a diffusers folder to read it from. Raises: ModelLoadError."""
    folder = configuration or (file.parent if (file.parent / "model_index.json").is_file() else None)
    options = {} if folder is None else {"config": str(folder), "local_files_only": True}
    try:
        pipeline = getattr(diffusers, index["_class_name"]).from_single_file(str(file), dtype=dtype, **options)
    except Exception as exc:
        where = "" if folder else " (its configuration and tokenizers are fetched from the hub)"
        raise ModelLoadError(f"{file.name} cannot be loaded{where}: {short_reason(exc)}") from exc
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def part_bytes(file: Path, dtype: torch.dtype) -> dict[str, int]:
    """All that is in the file counts as its network."""
    return {"unet": weights.loaded_bytes(file, dtype)}
