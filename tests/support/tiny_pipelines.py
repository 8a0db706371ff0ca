"""Small randomly initialised pipelines of diffusers' own parts, saved to a folder: they draw in milliseconds.

Their pictures mean nothing, but every wire is there: text encoders, guidance, UNet or transformer, autoencoder,
safety checker. The tokenizer's vocabulary is the letters, made on the spot.
"""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig as CLIPBothConfig
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

_FOLDERS = tempfile.TemporaryDirectory(prefix="tiny_pipelines_")
TOKENS = 16
TEXT_WIDTH = 32
SIDE_PX = 64  # what the models are "trained" for: 8 latents of 8 px

_LETTERS = tuple(chr(code) for code in range(ord("!"), ord("~") + 1))
_T5_TOKENS = ("<pad>", "</s>", "<unk>", "\u2581", *_LETTERS)

# Source: the scheduler_config.json of Stable Diffusion 1.5
_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


@functools.cache
def folder(kind: str) -> Path:
    """Saved once per test run: sd, sd_strict, sd_mild (with a safety checker), sdxl, lcm, sd3, sd3_t5 (with T5).

    sd_fill draws into a masked image alone, upscaler enlarges one alone.
    """
    makers: dict[str, Callable[[Path], Path]] = {
        "sd": save_sd,
        "sd_strict": functools.partial(save_sd, safety_checker="strict"),
        "sd_mild": functools.partial(save_sd, safety_checker="mild"),
        "sdxl": save_sdxl,
        "lcm": save_lcm,
        "sd3": save_sd3,
        "sd_fill": functools.partial(save_sd, kind=StableDiffusionInpaintPipeline, in_channels=9),
        "upscaler": save_upscaler,
        "sd3_t5": functools.partial(save_sd3, t5=True),
    }
    return makers[kind](Path(_FOLDERS.name) / kind)


def save_sd(folder: Path, safety_checker: str | None = None, kind: type = StableDiffusionPipeline, **unet: Any) -> Path:
    """Stable Diffusion 1.x; `safety_checker`: "strict" finds every picture unfit, "mild" none."""
    torch.manual_seed(0)
    checker = None if safety_checker is None else _safety_checker(strict=safety_checker == "strict")
    pipeline = kind(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        unet=_unet(**unet),
        scheduler=DDIMScheduler(**_BETAS),
        safety_checker=checker,
        feature_extractor=None if checker is None else CLIPImageProcessor(size=30, crop_size=30),
        requires_safety_checker=False,
    )
    return save(pipeline, folder)


def save_lcm(folder: Path) -> Path:
    """A latent consistency model: the guidance is an input of the UNet."""
    torch.manual_seed(0)
    pipeline = LatentConsistencyModelPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        unet=_unet(time_cond_proj_dim=32),
        scheduler=LCMScheduler(**_BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return save(pipeline, folder)


def save_upscaler(folder: Path) -> Path:
    """Four times the sides: its UNet reads the small image beside the latents."""
    torch.manual_seed(0)
    pipeline = StableDiffusionUpscalePipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=8,
            scaling_factor=0.08333,
        ),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        unet=_unet(in_channels=7, num_class_embeds=1000),
        low_res_scheduler=DDPMScheduler(),
        scheduler=DDIMScheduler(**_BETAS),
        max_noise_level=350,
    )
    return save(pipeline, folder)


def save_sdxl(folder: Path) -> Path:
    torch.manual_seed(0)
    unet = _unet(
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(**_BETAS),
        add_watermarker=False,
    )
    return save(pipeline, folder)


def save_sd3(folder: Path, t5: bool = False) -> Path:
    """A transformer in place of the UNet: what goes through the pipeline's own call. `t5`: with its third encoder."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE_PX // 8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * TEXT_WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        out_channels=4,
        pos_embed_max_size=96,
    )
    pipeline = StableDiffusion3Pipeline(
        vae=vae(shift_factor=0.06),
        text_encoder=CLIPTextModelWithProjection(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        text_encoder_3=t5_encoder() if t5 else None,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=t5_tokenizer() if t5 else None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return save(pipeline, folder)


def save(pipeline: Any, folder: Path) -> Path:
    """The index then names also the parts that the pipeline does without, as those on the hub do."""
    pipeline.save_pretrained(folder)
    index_path = folder / "model_index.json"
    index = json.loads(index_path.read_text())
    absent = {name: [None, None] for name, part in pipeline.components.items() if part is None}
    index_path.write_text(json.dumps(absent | index))
    return folder


def _unet(**options: Any) -> Any:
    defaults = {
        "sample_size": SIDE_PX // 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(defaults | options))


def vae(**options: Any) -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
        **options,
    )


def text_config() -> Any:
    return CLIPTextConfig(
        vocab_size=200,
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def tokenizer() -> Any:
    """CLIP's own with a vocabulary of letters: the last one of a word counts as another."""
    tokens = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)


def t5_tokenizer() -> Any:
    """T5's own with a vocabulary of letters, and a token before each word."""
    return T5Tokenizer(vocab=[(token, -1.0) for token in _T5_TOKENS], extra_ids=0)


def t5_encoder() -> Any:
    config = T5Config(vocab_size=len(_T5_TOKENS), d_model=2 * TEXT_WIDTH, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    return T5EncoderModel(config)


def _safety_checker(strict: bool) -> Any:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=30,
        patch_size=15,
    )
    config = CLIPBothConfig(vision_config=vision.to_dict(), text_config=text_config().to_dict(), projection_dim=32)
    checker = StableDiffusionSafetyChecker(config)
    threshold = -2.0 if strict else 2.0  # a cosine is always above, or never
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    return checker
