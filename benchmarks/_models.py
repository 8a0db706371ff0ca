"""Randomly initialised models of Stable Diffusion 1.x for the benchmarks: the right shapes, no weights to fetch.

What they draw means nothing, but takes as long as the real thing.
Source: the config.json files of stable-diffusion-v1-5; the tokenizer alone is another (a vocabulary of letters).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,  # which in these models is the number of heads
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
TEXT = {"max_position_embeddings": 77, "hidden_act": "quick_gelu", "bos_token_id": 0, "eos_token_id": 2}
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}


@dataclass(frozen=True)
class Model:
    """What is drawn with: the parts' sizes, and a usual picture."""

    name: str
    side_px: int
    steps: int
    guidance_scale: float
    half: bool  # stored in fp16
    unet: dict[str, Any] = field(repr=False)
    vae: dict[str, Any] = field(repr=False)
    text: dict[str, Any] = field(repr=False)


SD15 = Model(
    name="Stable Diffusion 1.5 (randomly initialised)",
    side_px=512,
    steps=25,
    guidance_scale=7.5,
    half=True,
    unet={"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "cross_attention_dim": 768},
    vae={"block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32},
    text={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
)
SMALL = Model(
    name="a small Stable Diffusion 1.x (randomly initialised)",
    side_px=64,
    steps=12,
    guidance_scale=7.5,
    half=False,
    unet={"block_out_channels": (32, 64, 64, 64), "layers_per_block": 1, "cross_attention_dim": 64},
    vae={"block_out_channels": (16, 16, 32, 32), "norm_num_groups": 8},
    text={
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": 64,
    },
)


def save(model: Model, folder: Path) -> None:
    """Writes the model as a folder of diffusers'. SD 1.5 takes about half a minute and 2 GB."""
    import diffusers
    import torch
    import transformers
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    torch.manual_seed(0)
    dtype = torch.float16 if model.half else torch.float32
    groups = min(32, min(model.unet["block_out_channels"]) // 4)
    unet = UNet2DConditionModel(**_UNET, **model.unet, sample_size=model.side_px // 8, norm_num_groups=groups)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE, **model.vae, sample_size=model.side_px),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT, **model.text)),
        tokenizer=tokenizer(),
        unet=unet,
        scheduler=PNDMScheduler(**_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype).save_pretrained(folder)
    index_path = folder / "model_index.json"
    index = json.loads(index_path.read_text(encoding="utf-8"))
    absent = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    index_path.write_text(json.dumps(absent | index), encoding="utf-8")


def tokenizer() -> Any:
    """CLIP's own with a vocabulary of letters."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = ["<|startoftext|>", "!!", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
