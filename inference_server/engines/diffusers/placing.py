"""Carries out a memory plan: weights quantised as they are loaded, and each part where the plan wants it."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from inference_server.engines.diffusers import tiling
from inference_server.engines.diffusers.memory_plan import MemoryPlan, Quantisation, is_network

FP8 = torch.float8_e4m3fn
# Left as they are: norms and what is read for its dtype (embeddings; T5 casts its input to that of `wo`).
_FP8_SKIPPED_IN_ENCODERS = ("norm", "embed", "shared", "lm_head", r"\bwo\b")
CPU = torch.device("cpu")


def quantisations() -> tuple[Quantisation, ...]:
    """Those that can be had here: fp8 is PyTorch's own, nf4 takes the package bitsandbytes."""
    return ("none", "fp8", "nf4") if importlib.util.find_spec("bitsandbytes") else ("none", "fp8")


def load_options(plan: MemoryPlan, parts: Mapping[str, int], dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` takes for this plan beside its usual arguments."""
    if plan.quantisation != "nf4":
        return {}
    from diffusers import PipelineQuantizationConfig  # like the hooks below: most models do without, and it takes time

    config = PipelineQuantizationConfig(
        quant_backend="bitsandbytes_4bit",
        quant_kwargs={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
        components_to_quantize=quantised_parts(plan, parts),
    )
    return {"quantization_config": config}


def quantised_parts(plan: MemoryPlan, parts: Mapping[str, int]) -> list[str]:
    """Text encoders that are streamed to the card stay as they are."""
    encoders = plan.placement in ("card", "parts")
    return [name for name in parts if is_network(name) or (encoders and name.startswith("text_encoder"))]


def place(pipeline: Any, device: torch.device, plan: MemoryPlan, dtype: torch.dtype) -> None:
    """Raises: torch.OutOfMemoryError, and what diffusers raises."""
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    if plan.quantisation == "fp8":
        for name in quantised_parts(plan, dict.fromkeys(modules, 0)):
            _keep_in_fp8(modules[name], dtype)
    if plan.tiling and "vae" in modules:
        tiling.enable(modules["vae"], int(pipeline.vae_scale_factor))
    match plan.placement:
        case "card":
            pipeline.to(device)
        case "parts":
            pipeline.enable_model_cpu_offload(device=device)
        case placement:
            for name, module in modules.items():
                if name.startswith("text_encoder"):
                    _stream(module, device)
                elif placement == "blocks" and is_network(name):
                    _stream_blocks(module, device)
                else:
                    module.to(device)


def _keep_in_fp8(module: Any, dtype: torch.dtype) -> None:
    """Weights take a byte each and are cast to `dtype` where they are read."""
    from diffusers.hooks import apply_layerwise_casting

    if hasattr(module, "enable_layerwise_casting"):
        module.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=dtype)
    else:
        apply_layerwise_casting(module, FP8, dtype, skip_modules_pattern=_FP8_SKIPPED_IN_ENCODERS)


def _stream(module: Any, device: torch.device) -> None:
    """Layer by layer: slow, but a prompt is read once a picture."""
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(module, onload_device=device, offload_device=CPU, offload_type="leaf_level")


def _stream_blocks(module: Any, device: torch.device) -> None:
    """While one block draws, the next is on its way."""
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=CPU,
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )
