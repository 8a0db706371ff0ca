"""Loads a pipeline: chooses device, precision and weight files, and prepares the pipeline for a GPU."""

import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers
from diffusers.pipelines import pipeline_utils

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, model_folder, short_reason
from inference_server.engines.diffusers.gpu_memory import others_may_be_to_blame, require_free
from inference_server.engines.hub_download import HubDownloader
from inference_server.engines.model_folder import FoundModel

DTYPES = {
    **dict.fromkeys(("fp16", "float16", "half"), torch.float16),
    **dict.fromkeys(("bf16", "bfloat16"), torch.bfloat16),
    **dict.fromkeys(("fp32", "float32", "float", "full"), torch.float32),
}
_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_FP16 = ".fp16"  # in the names of the half-precision variant's files
USUAL = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline of diffusers on its device."""

    found: FoundModel
    pipeline: Any
    device: torch.device
    dtype: torch.dtype
    weights_bytes: int  # what the weights take of the device's memory


def load(config: EngineConfig, report: Callable[[str], None]) -> LoadedPipeline:
    """Raises: ModelLoadError, GpuBusyError."""
    device = choose_device(config.device)
    dtype = choose_dtype(config.model_precision, device)
    _be_silent()
    if not config.model_id:
        raise ModelLoadError(
            "INFERENCE_ENGINE=diffusers needs a MODEL_ID (a folder or an id of the hub): the demo model, which serves "
            "without one, is made for INFERENCE_ENGINE=openvino"
        )
    found = model_folder.find(config, report, fetch=partial(from_hub, dtype))
    index = read_index(found.folder)
    variant = choose_variant(found.folder, dtype)
    weights_bytes = count_weights_bytes(found.folder, index, dtype, variant)
    if device.type == "cuda":
        require_free(device, weights_bytes)
    report("loading the model")
    pipeline = _pipeline(found.folder, index, dtype, variant)
    _set_tf32(device, dtype)
    with others_may_be_to_blame(device, weights_bytes):
        _move(pipeline, device, found.name)
    return LoadedPipeline(found, pipeline, device, dtype, weights_bytes)


def _move(pipeline: Any, device: torch.device, name: str) -> None:
    try:
        pipeline.to(device)
        _use_channels_last(pipeline, device)
    except Exception as exc:
        raise ModelLoadError(f"{name} does not fit on {device}: {short_reason(exc)}") from exc


def choose_device(asked: str | None) -> torch.device:
    """CUDA where there is a GPU, unless `asked` names something else. Raises: ModelLoadError."""
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
    """From any of the usual names; without one what suits the device. Raises: ModelLoadError."""
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
    """Stops the libraries' progress bars, and their warnings: those on long prompts quote the prompt."""
    warnings.filterwarnings("ignore", module="torchsde")  # warns of a rounding at every first step
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def from_hub(dtype: torch.dtype, config: EngineConfig, report: Callable[[str], None]) -> Path:
    """Downloads the files that this pipeline needs and no others; the fp16 variant if it is wanted and exists."""
    download = partial(
        diffusers.DiffusionPipeline.download, str(config.model_id), revision=config.model_revision or None
    )
    # diffusers knows which files these are. It has no parameter for what brings them.
    with mock.patch.object(pipeline_utils, "snapshot_download", HubDownloader(report).snapshot):
        if dtype == torch.float16:
            try:
                return Path(download(variant="fp16"))
            except ValueError as exc:
                if "variant" not in str(exc):
                    raise
        return Path(download())


def _pipeline(folder: Path, index: dict[str, Any], dtype: torch.dtype, variant: str | None) -> Any:
    """Loads from the folder alone: it fetches nothing, and runs no code of the model's."""
    options: dict[str, Any] = {} if variant is None else {"variant": variant}
    try:
        pipeline = _class_of(index).from_pretrained(
            folder, dtype=dtype, local_files_only=True, **_absent_parts(index), **options
        )
    except Exception as exc:
        raise ModelLoadError(f"the model in {folder} cannot be loaded: {short_reason(exc)}") from exc
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def choose_variant(folder: Path, dtype: torch.dtype) -> str | None:
    """`fp16` where those files exist and are wanted, or are the only ones."""
    for part in ("unet", "transformer", "prior"):
        names = [file.name for file in _weight_files(folder / part)]
        if names:
            has_half, has_plain = any(_FP16 in name for name in names), any(_FP16 not in name for name in names)
            return "fp16" if has_half and (dtype == torch.float16 or not has_plain) else None
    return None


def count_weights_bytes(folder: Path, index: dict[str, Any], dtype: torch.dtype, variant: str | None) -> int:
    """The weights' size in memory once they are loaded as `dtype`.

    Counts the parts that the index names: a clone may hold others (other sizes, ONNX, training states).
    """
    total = 0
    for name, entry in index.items():
        if not (isinstance(entry, list) and entry and entry[0]):
            continue
        files = _weight_files(folder / name)
        half = [file for file in files if _FP16 in file.name]
        plain = [file for file in files if _FP16 not in file.name and "ema" not in file.name]
        picked = half if variant is not None and half else plain
        suffix = next((suffix for suffix in _WEIGHT_SUFFIXES if any(file.suffix == suffix for file in picked)), None)
        total += sum(_loaded_bytes(file, dtype) for file in picked if file.suffix == suffix)
    return total


def _weight_files(folder: Path) -> list[Path]:
    return [file for suffix in _WEIGHT_SUFFIXES for file in sorted(folder.glob(f"*{suffix}"))]


def _loaded_bytes(file: Path, dtype: torch.dtype) -> int:
    stored = 2 if _FP16 in file.name or _is_half(file) else 4
    return file.stat().st_size * int(dtype.itemsize) // stored


def _is_half(file: Path) -> bool:
    """Whether the first weight is stored in half precision.

    Source: https://huggingface.co/docs/safetensors (format: 8 bytes of length, then JSON)
    """
    if file.suffix != ".safetensors":
        return False
    with file.open("rb") as opened:
        head = opened.read(8)
        if len(head) < 8 or (length := struct.unpack("<Q", head)[0]) > 100_000_000:
            return False
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            return False  # loading it will tell what is wrong
    kinds = [entry["dtype"] for name, entry in header.items() if name != "__metadata__" and "dtype" in entry]
    return bool(kinds) and kinds[0] in ("F16", "BF16")


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's model_index.json: its pipeline class and parts. Raises: ModelLoadError."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = None
    if not isinstance(index, dict):
        raise ModelLoadError(f"{folder} holds no readable model_index.json: it is no diffusers model folder")
    return index


def _class_of(index: dict[str, Any]) -> Any:
    """What `AutoPipelineForText2Image` would find; the usual ones without it, because it imports all pipelines."""
    name = index.get("_class_name")
    return getattr(diffusers, name) if name in USUAL else diffusers.AutoPipelineForText2Image


def _absent_parts(index: dict[str, Any]) -> dict[str, None]:
    """Parts to load as None: Stable Diffusion 3 is often saved without its largest text encoder."""
    if not str(index.get("_class_name")).startswith("StableDiffusion3"):
        return {}
    entries = {name: index.get(name) or [None] for name in ("text_encoder_3", "tokenizer_3")}
    return {name: None for name, entry in entries.items() if entry[0] is None}


def _set_tf32(device: torch.device, dtype: torch.dtype) -> None:
    """Allows TF32 for half precision alone: it rounds to 10 bits, which is too rough for fp32."""
    if device.type == "cuda":
        rough = dtype != torch.float32
        torch.backends.cudnn.allow_tf32 = rough
        torch.set_float32_matmul_precision("high" if rough else "highest")


def _use_channels_last(pipeline: Any, device: torch.device) -> None:
    """Convolutions in half precision are fastest with channels last."""
    if device.type != "cuda":
        return
    for name in ("unet", "vae"):
        part = getattr(pipeline, name, None)
        if part is not None:
            part.to(memory_format=torch.channels_last)
