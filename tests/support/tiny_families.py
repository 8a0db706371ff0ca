"""Small randomly initialised pipelines of today's transformer families, saved to a folder.

Only Flux has its own text encoders: of the others a test looks at what their calls are given, and stops them there.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import CLIPTextModel

from tests.support import tiny_pipelines

_FOLDERS = tempfile.TemporaryDirectory(prefix="tiny_families_")


@functools.cache
def folder(kind: str, name: str) -> Path:
    """Of one of `KINDS`, saved once under the name that the hub has it by."""
    torch.manual_seed(0)
    return tiny_pipelines.save(KINDS[kind](), Path(_FOLDERS.name) / name)


def _flux(kind: type = FluxPipeline) -> Any:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * tiny_pipelines.TEXT_WIDTH,
        pooled_projection_dim=tiny_pipelines.TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return kind(
        scheduler=_scheduler(),
        vae=tiny_pipelines.vae(shift_factor=0.06),
        text_encoder=CLIPTextModel(tiny_pipelines.text_config()),
        tokenizer=tiny_pipelines.tokenizer(),
        text_encoder_2=tiny_pipelines.t5_encoder(),
        tokenizer_2=tiny_pipelines.t5_tokenizer(),
        transformer=transformer,
    )


def _flux2(pipeline: type = Flux2Pipeline, **options: Any) -> Any:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 4, 4),
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    return pipeline(scheduler=_scheduler(), vae=vae, transformer=transformer, **_text_parts(), **options)


def _z_image() -> Any:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[64, 32, 32],
    )
    vae = tiny_pipelines.vae(shift_factor=0.06)
    return ZImagePipeline(scheduler=_scheduler(), vae=vae, transformer=transformer, **_text_parts())


def _krea2(is_distilled: bool) -> Any:
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
    )
    return Krea2Pipeline(
        scheduler=_scheduler(),
        vae=_qwen_vae(),
        transformer=transformer,
        is_distilled=is_distilled,
        **_text_parts(),
    )


def _qwen_image() -> Any:
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    return QwenImagePipeline(scheduler=_scheduler(), vae=_qwen_vae(), transformer=transformer, **_text_parts())


def _text_parts() -> dict[str, Any]:
    """Stand-ins: these families read their prompts with language models, which a stopped call does not ask."""
    return {
        "text_encoder": CLIPTextModel(tiny_pipelines.text_config()),
        "tokenizer": tiny_pipelines.tokenizer(),
    }


def _qwen_vae() -> Any:
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def _scheduler() -> Any:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


KINDS: dict[str, Callable[[], Any]] = {
    "flux": _flux,
    "flux_kontext": functools.partial(_flux, FluxKontextPipeline),
    "flux2": _flux2,
    "flux2_klein": functools.partial(_flux2, Flux2KleinPipeline, is_distilled=True),
    "flux2_klein_base": functools.partial(_flux2, Flux2KleinPipeline, is_distilled=False),
    "z_image": _z_image,
    "krea2": functools.partial(_krea2, is_distilled=False),
    "krea2_turbo": functools.partial(_krea2, is_distilled=True),
    "qwen_image": _qwen_image,
}
