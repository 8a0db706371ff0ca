"""Loads a pipeline: which device, which precision, which files, and what a GPU wants done to it."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, model_folder, short_reason
from inference_server.engines.diffusers import weights
from inference_server.engines.diffusers.gpu_memory import others_may_be_to_blame, require_free
from inference_server.engines.model_folder import FoundModel

DTYPES = {
    **dict.fromkeys(("fp16", "float16", "half"), torch.float16),
    **dict.fromkeys(("bf16", "bfloat16"), torch.bfloat16),
    **dict.fromkeys(("fp32", "float32", "float", "full"), torch.float32),
}
USUAL = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline of diffusers' on its device."""

    found: FoundModel
    pipeline: Any
    device: torch.device
    dtype: torch.dtype
    weights_bytes: int  # what the weights take of the device's memory


def load(order: EngineConfig, report: Callable[[str], None]) -> LoadedPipeline:
    """Raises: ModelLoadError, GpuBusyError."""
    device = choose_device(order.device)
    dtype = choose_dtype(order.model_precision, device)
    _be_silent()
    if not order.model_id:
        raise ModelLoadError(
            "INFERENCE_ENGINE=diffusers needs a MODEL_ID (a folder or an id of the hub): the demo model, which is "
            "drawn without one, is made for INFERENCE_ENGINE=openvino"
        )
    found = model_folder.find(order, report, fetch=lambda load: _from_hub(load, dtype))
    variant = weights.variant(found.folder, dtype)
    weights_bytes = weights.count_bytes(found.folder, dtype, variant)
    if device.type == "cuda":
        require_free(device, weights_bytes)
    report("loading the model")
    pipeline = _pipeline(found.folder, dtype, variant)
    _arrange(device, dtype)
    with others_may_be_to_blame(device, weights_bytes):
        _bring(pipeline, device, found.name)
    return LoadedPipeline(found, pipeline, device, dtype, weights_bytes)


def _bring(pipeline: Any, device: torch.device, name: str) -> None:
    try:
        pipeline.to(device)
        _lay_out(pipeline, device)
    except Exception as exc:
        raise ModelLoadError(f"{name} does not fit on {device}: {short_reason(exc)}") from exc


def choose_device(asked: str | None) -> torch.device:
    """CUDA where there is one, unless something else is asked for. Raises: ModelLoadError."""
    if asked == "cpu" or (asked is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    if asked not in (None, "cuda"):
        raise ModelLoadError(f"the device {asked!r} is unknown here; there are cuda and cpu")
    if not torch.cuda.is_available():
        raise ModelLoadError(
            f"CUDA is asked for, and there is none here: {_why_no_cuda()}. Give the container the GPU (docker run "
            "--gpus all), or ask for the device cpu"
        )
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(precision: str | None, device: torch.device) -> torch.dtype:
    """By the names that people use; without one what suits the device. Raises: ModelLoadError."""
    if not precision:
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype = DTYPES.get(precision.lower().removeprefix("torch."))
    if dtype is None:
        raise ModelLoadError(f"MODEL_PRECISION {precision!r} is unknown here; there are fp16, bf16 and fp32")
    return dtype


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return "this build of PyTorch is for the CPU alone"
    try:
        torch.cuda.init()
    except Exception as exc:
        return short_reason(exc).partition(".")[0]
    return "PyTorch sees no device"


def _be_silent() -> None:
    """The libraries warn with words of the prompt (those that were cut off), and draw progress bars."""
    warnings.filterwarnings("ignore", module="torchsde")  # at every first step, of a rounding
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _from_hub(order: EngineConfig, dtype: torch.dtype) -> Path:
    """The folder with the files that this pipeline needs, and no others: half as large where fp16 is wanted and had."""
    download = partial(diffusers.DiffusionPipeline.download, str(order.model_id), revision=order.model_revision or None)
    if dtype == torch.float16:
        try:
            return Path(download(variant="fp16"))
        except ValueError as exc:
            if "variant" not in str(exc):
                raise
    return Path(download())


def _pipeline(folder: Path, dtype: torch.dtype, variant: str | None) -> Any:
    """From the folder alone: nothing is fetched, and no code of the model's is run."""
    options: dict[str, Any] = {} if variant is None else {"variant": variant}
    index = _read_index(folder)
    try:
        pipeline = _class_of(index).from_pretrained(
            folder, dtype=dtype, local_files_only=True, **_absent_parts(index), **options
        )
    except Exception as exc:
        raise ModelLoadError(f"the model in {folder} cannot be loaded: {short_reason(exc)}") from exc
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = None
    if not isinstance(index, dict):
        raise ModelLoadError(f"{folder} holds no readable model_index.json: it is no diffusers model folder")
    return index


def _class_of(index: dict[str, Any]) -> Any:
    """What `AutoPipelineForText2Image` would find; the usual ones without it, which imports all that there are."""
    name = index.get("_class_name")
    return getattr(diffusers, name) if name in USUAL else diffusers.AutoPipelineForText2Image


def _absent_parts(index: dict[str, Any]) -> dict[str, None]:
    """Stable Diffusion 3 is often saved without its largest text encoder; diffusers wants to be told."""
    if not str(index.get("_class_name")).startswith("StableDiffusion3"):
        return {}
    entries = {name: index.get(name) or [None] for name in ("text_encoder_3", "tokenizer_3")}
    return {name: None for name, entry in entries.items() if entry[0] is None}


def _arrange(device: torch.device, dtype: torch.dtype) -> None:
    """TF32 rounds to 10 bits: fine for whoever asked for half precision, not for fp32."""
    if device.type == "cuda":
        rough = dtype != torch.float32
        torch.backends.cudnn.allow_tf32 = rough
        torch.set_float32_matmul_precision("high" if rough else "highest")


def _lay_out(pipeline: Any, device: torch.device) -> None:
    """Convolutions in half precision are fastest with the channels last."""
    if device.type != "cuda":
        return
    for name in ("unet", "vae"):
        part = getattr(pipeline, name, None)
        if part is not None:
            part.to(memory_format=torch.channels_last)
