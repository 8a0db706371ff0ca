"""The weight files of a model folder: which variant to load, and how much memory they will take."""

import json
import struct
from pathlib import Path

import torch

_KINDS = (".safetensors", ".bin")
_HALF = {"F16", "BF16"}
_FP16 = ".fp16"


def variant(folder: Path, dtype: torch.dtype) -> str | None:
    """`fp16` where those files are there and wanted, or the only ones."""
    for part in ("unet", "transformer", "prior"):
        names = [file.name for file in _files(folder / part)]
        if names:
            has_half, has_plain = any(_FP16 in name for name in names), any(_FP16 not in name for name in names)
            return "fp16" if has_half and (dtype == torch.float16 or not has_plain) else None
    return None


def count_bytes(folder: Path, dtype: torch.dtype, chosen: str | None) -> int:
    """What the weights take once they are loaded as `dtype`."""
    total = 0
    for part in _parts(folder):
        files = _files(part)
        half = [file for file in files if _FP16 in file.name]
        plain = [file for file in files if _FP16 not in file.name and "ema" not in file.name]
        picked = half if chosen is not None and half else plain
        kind = next((kind for kind in _KINDS if any(file.suffix == kind for file in picked)), None)
        total += sum(_loaded_bytes(file, dtype) for file in picked if file.suffix == kind)
    return total


def _parts(folder: Path) -> list[Path]:
    """The sub-folders that the model's index names: a clone may hold others (other sizes, ONNX, training states)."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = None
    if not isinstance(index, dict):  # who loads it will say what is wrong
        return []
    named = [name for name, entry in index.items() if isinstance(entry, list) and entry and entry[0]]
    return [folder / name for name in named if (folder / name).is_dir()]


def _files(folder: Path) -> list[Path]:
    return [file for kind in _KINDS for file in sorted(folder.glob(f"*{kind}"))]


def _loaded_bytes(file: Path, dtype: torch.dtype) -> int:
    size = file.stat().st_size
    stored = 2 if _FP16 in file.name or _is_half(file) else 4
    return size * int(dtype.itemsize) // stored


def _is_half(file: Path) -> bool:
    """Source: https://huggingface.co/docs/safetensors (format: 8 bytes of length, then JSON)"""
    if file.suffix != ".safetensors":
        return False
    with file.open("rb") as opened:
        head = opened.read(8)
        if len(head) < 8 or (length := struct.unpack("<Q", head)[0]) > 100_000_000:
            return False
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            return False  # who loads it will say what is wrong
    kinds = [entry["dtype"] for name, entry in header.items() if name != "__metadata__" and "dtype" in entry]
    return bool(kinds) and kinds[0] in _HALF
