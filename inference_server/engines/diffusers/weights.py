"""Reads of a model folder's weight files what must be known before they are loaded: variant, sizes, kind.

Source: https://huggingface.co/docs/safetensors (format: 8 bytes of length, then JSON)
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from inference_server.engines import ModelLoadError
from inference_server.engines.model_folder import read_json

SAFE = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
_FP16 = ".fp16"  # in the names of the half-precision variant's files
_STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # others are quantised and stay as they are


class PickleError(ModelLoadError):
    """The weights are pickle files: loading one runs whatever code lies in it."""

    permanent = True

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: loading a pickle file runs the code in it, so only .safetensors files are loaded. Take a "
            "version of the model that has them, or convert it (huggingface.co/spaces/safetensors/convert)"
        )


def parts_of(index: Mapping[str, Any]) -> list[str]:
    """The parts that the index names; a folder may hold others (other sizes, ONNX, training states)."""
    return [name for name, entry in index.items() if isinstance(entry, list) and entry and entry[0]]


def require_safe(folder: Path, index: Mapping[str, Any]) -> None:
    """Raises: PickleError where a part has its weights as pickles alone."""
    for name in parts_of(index):
        pickles = sorted(file.name for kind in PICKLES for file in (folder / name).glob(f"*{kind}"))
        if pickles and not list((folder / name).glob(f"*{SAFE}")):
            raise PickleError(f"the weights of {name} in {folder} are there as {pickles[0]} alone")


def choose_variant(folder: Path, dtype: torch.dtype) -> str | None:
    """`fp16` where those files exist and are wanted, or are the only ones."""
    for part in ("unet", "transformer", "prior", "text_encoder", "vae"):  # the first may come from elsewhere
        names = [file.name for file in _files(folder / part)]
        if names:
            has_half, has_plain = any(_FP16 in name for name in names), any(_FP16 not in name for name in names)
            return "fp16" if has_half and (dtype == torch.float16 or not has_plain) else None
    return None


def part_bytes(folder: Path, index: Mapping[str, Any], dtype: torch.dtype, variant: str | None) -> dict[str, int]:
    """What each part's weights take in memory once they are loaded as `dtype`."""
    sizes = {}
    for name in parts_of(index):
        files = _files(folder / name)
        half = [file for file in files if _FP16 in file.name]
        plain = [file for file in files if _FP16 not in file.name and "ema" not in file.name]
        picked = half if variant is not None and half else plain
        if picked:
            sizes[name] = sum(loaded_bytes(file, dtype) for file in picked)
    return sizes


def is_quantised(folder: Path, index: Mapping[str, Any]) -> bool:
    """Whether a part comes quantised (bitsandbytes, torchao, ...): it is loaded as it is."""
    return any("quantization_config" in read_json(folder / name / "config.json") for name in parts_of(index))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SAFE}"))


def loaded_bytes(file: Path, dtype: torch.dtype) -> int:
    stored = 2 if _FP16 in file.name else _stored_bytes(file)
    return file.stat().st_size * int(dtype.itemsize) // stored if stored else file.stat().st_size


def names_in(file: Path) -> list[str]:
    """The weights' names; none of a file that cannot be read."""
    return [name for name in _header(file) if name != "__metadata__"]


def _stored_bytes(file: Path) -> int | None:
    """Of one number of the first weight; None where it is quantised."""
    kinds = [entry["dtype"] for name, entry in _header(file).items() if name != "__metadata__" and "dtype" in entry]
    return _STORED_BYTES.get(kinds[0]) if kinds else 4


def _header(file: Path) -> dict[str, Any]:
    """Empty where it cannot be read: loading it will tell what is wrong."""
    with file.open("rb") as opened:
        head = opened.read(8)
        if len(head) < 8 or (length := struct.unpack("<Q", head)[0]) > 100_000_000:
            return {}
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            return {}
    return header if isinstance(header, dict) else {}
