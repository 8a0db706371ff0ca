"""Small LoRAs with random weights for the pipelines of `tiny_pipelines`, as files that diffusers reads."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RANK = 2


def save_lora(pipeline: Any, file: Path, seed: int, parts: tuple[str, ...] = ("unet",)) -> Path:
    """Changes every attention of these parts, so much that a picture shows it."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, layer in getattr(pipeline, part).named_modules():
            if name.endswith(("to_q", "to_k", "to_v", "q_proj", "v_proj")) and isinstance(layer, torch.nn.Linear):
                down = torch.randn(RANK, layer.in_features, generator=generator)
                up = torch.randn(layer.out_features, RANK, generator=generator)
                state |= {f"{part}.{name}.lora_A.weight": down / 2, f"{part}.{name}.lora_B.weight": up / 2}
    save_file(state, file)
    return file
