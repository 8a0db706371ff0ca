"""Writes a small Stable Diffusion as one .safetensors file in the original code's layout, as finetunes are published.

Source: diffusers 0.42, loaders/single_file_utils.py (the conversion the other way round)
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_single_file(folder: Path, file: Path) -> Path:
    """Of the Stable Diffusion 1.x in `folder`, whose blocks have one layer each."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    blocks = len(pipeline.vae.config.up_block_types)
    unet = {f"model.diffusion_model.{_unet(name)}": part for name, part in pipeline.unet.state_dict().items()}
    vae = {
        f"first_stage_model.{_vae(name, blocks)}": part[:, :, None, None] if _is_linear(name, part) else part
        for name, part in pipeline.vae.state_dict().items()
    }
    text = {
        f"cond_stage_model.transformer.{_text(name)}": part for name, part in pipeline.text_encoder.state_dict().items()
    }
    save_file({name: part.contiguous() for name, part in (unet | vae | text).items()}, file)
    return file


def _unet(name: str) -> str:
    if found := re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name):
        side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if side == "down":
            place = 1 + 2 * block + (1 if kind == "downsamplers" else layer)
            inner = {"resnets": "0", "attentions": "1", "downsamplers": "0"}[kind]
            return f"input_blocks.{place}.{inner}.{_replace(rest, _RESNET if kind == 'resnets' else {'conv': 'op'})}"
        place = 2 * block + (1 if kind == "upsamplers" else layer)
        inner = {"resnets": "0", "attentions": "1", "upsamplers": "2"}[kind]
        return f"output_blocks.{place}.{inner}.{_replace(rest, _RESNET) if kind == 'resnets' else rest}"
    if found := re.match(r"mid_block\.(\w+)\.(\d)\.(.*)", name):
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{place}.{_replace(found[3], _RESNET) if found[1] == 'resnets' else found[3]}"
    return _replace(name, _UNET_ENDS)


def _vae(name: str, blocks: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        start, _, rest = name.partition("mid_block.attentions.0.")
        return f"{start}mid.attn_1.{_replace(rest, _ATTENTION)}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{blocks - 1 - int(found[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{blocks - 1 - int(found[1])}.upsample", name)


def _text(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


def _is_linear(name: str, part: torch.Tensor) -> bool:
    return "attentions" in name and part.dim() == 2


def _replace(name: str, names: Mapping[str, str]) -> str:
    """The first of `names` that begins it by its new name."""
    for old, new in names.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
