"""The models of `make gpu-check`: randomly initialised from configurations, at their width but of reduced depth.

Klein alone is of full size, since its time is a goal. Nothing is fetched: tokenizers are vocabularies of letters.
Source: the config.json files of stable-diffusion-xl-base-1.0, Z-Image-Turbo, FLUX.1-dev, FLUX.2-klein-4B, from memory
of them where no hub is reached; Qwen3-4B and T5 are cut to a few layers.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks import _models

MODELS = ("sd15", "sdxl", "z_image", "flux")
_CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def save(name: str, folder: Path, *, tiny: bool) -> None:
    """Writes one of `MODELS` as a folder of diffusers'."""
    torch.manual_seed(0)
    if name == "sd15":
        _models.save(_models.SMALL if tiny else _models.SD15, folder)
        return
    maker = {"sdxl": _sdxl, "z_image": _z_image, "flux": _flux}[name]
    pipeline = maker(tiny)
    pipeline.to(torch.float32 if tiny else torch.bfloat16)
    pipeline.save_pretrained(folder)


def klein(*, tiny: bool) -> Any:
    """FLUX.2-klein-4B's pipeline on the default device, in the default dtype."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    heads, side = (2, 16) if tiny else (24, 128)
    width = 32 if tiny else 2560
    transformer = Flux2Transformer2DModel(
        in_channels=16 if tiny else 128,
        num_layers=1 if tiny else 5,
        num_single_layers=1 if tiny else 20,
        attention_head_dim=side,
        num_attention_heads=heads,
        joint_attention_dim=3 * width,
        axes_dims_rope=(side // 4,) * 4,
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8) if tiny else (128, 256, 512, 512),
        latent_channels=4 if tiny else 32,
        norm_num_groups=8 if tiny else 32,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    text = _qwen(tiny, layers=28 if tiny else 36)
    return Flux2KleinPipeline(
        scheduler=_scheduler(),
        vae=vae,
        text_encoder=text,
        tokenizer=_tokenizer(),
        transformer=transformer,
        is_distilled=True,
    )


def _sdxl(tiny: bool) -> Any:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    wide, narrow = (32, 32) if tiny else (1280, 768)
    unet = UNet2DConditionModel(
        sample_size=8 if tiny else 128,
        block_out_channels=(32, 64, 64) if tiny else (320, 640, 1280),
        layers_per_block=1 if tiny else 2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1 if tiny else (1, 1, 2),
        attention_head_dim=(2, 4, 4) if tiny else (5, 10, 20),
        cross_attention_dim=wide + narrow,
        norm_num_groups=8 if tiny else 32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8 if tiny else 256,
        projection_class_embeddings_input_dim=6 * (8 if tiny else 256) + wide,
    )
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**_models.VAE, **_vae_sizes(tiny)),
        text_encoder=CLIPTextModel(_clip(narrow, tiny)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(wide, tiny)),
        tokenizer=_models.tokenizer(),
        tokenizer_2=_models.tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )


def _z_image(tiny: bool) -> Any:
    from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4 if tiny else 16,
        dim=32 if tiny else 3840,
        n_layers=1 if tiny else 4,
        n_refiner_layers=1,
        n_heads=2 if tiny else 30,
        n_kv_heads=2 if tiny else 30,
        cap_feat_dim=32 if tiny else 2560,
        axes_dims=[8, 4, 4] if tiny else [32, 48, 48],
        axes_lens=[1024, 512, 512],
    )
    return ZImagePipeline(
        scheduler=_scheduler(),
        vae=AutoencoderKL(**_models.VAE | _flow_vae(tiny)),
        text_encoder=_qwen(tiny, layers=2),
        tokenizer=_tokenizer(),
        transformer=transformer,
    )


def _flux(tiny: bool) -> Any:
    from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel

    width = 64 if tiny else 4096
    t5 = T5Config(
        vocab_size=1000,
        d_model=width,
        d_kv=64,
        d_ff=2 * width,
        num_layers=2,
        num_heads=width // 64,
        feed_forward_proj="gated-gelu",
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16 if tiny else 64,
        num_layers=1 if tiny else 2,
        num_single_layers=1 if tiny else 4,
        attention_head_dim=16 if tiny else 128,
        num_attention_heads=2 if tiny else 24,
        joint_attention_dim=width,
        pooled_projection_dim=32 if tiny else 768,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8) if tiny else (16, 56, 56),
    )
    return FluxPipeline(
        scheduler=_scheduler(),
        vae=AutoencoderKL(**_models.VAE | _flow_vae(tiny)),
        text_encoder=CLIPTextModel(_clip(32 if tiny else 768, tiny)),
        tokenizer=_models.tokenizer(),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=_tokenizer(),
        transformer=transformer,
    )


def _vae_sizes(tiny: bool) -> dict[str, Any]:
    return dict((_models.SMALL if tiny else _models.SD15).vae)


def _flow_vae(tiny: bool) -> dict[str, Any]:
    channels = 4 if tiny else 16
    return {**_vae_sizes(tiny), "latent_channels": channels, "scaling_factor": 0.3611, "shift_factor": 0.1159}


def _clip(width: int, tiny: bool) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        **_models.TEXT,
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2 if tiny else 4,
        num_attention_heads=width // (16 if tiny else 64),
        projection_dim=width,
    )


def _qwen(tiny: bool, layers: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=1000,
            hidden_size=32 if tiny else 2560,
            intermediate_size=64 if tiny else 9728,
            num_hidden_layers=layers,
            num_attention_heads=2 if tiny else 32,
            num_key_value_heads=1 if tiny else 8,
            head_dim=16 if tiny else 128,
        )
    )


def _scheduler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def _tokenizer() -> Any:
    """A language model's with a vocabulary of letters, and a chat's frame of nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocabulary = {token: number for number, token in enumerate(("<pad>", "</s>", "<unk>", *letters))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", chat_template=_CHAT
    )
