"""The model's parts and their sizes, shared by training and export.

Three parts as in Stable Diffusion: a CLIP text encoder, a UNet with cross-attention, an autoencoder of pictures. The
autoencoder makes one latent of 16x16 pixels (not 8x8), so that 256 pixels cost the UNet what 128 usually do.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

MAX_TOKENS = 24  # of a prompt; the pipeline pads and cuts to it
VOCABULARY = 3072
LATENT_CHANNELS, GRID, PIXELS = 8, 16, 256
CELL = PIXELS // GRID
TEXT_WIDTH = 192
HEAD_WIDTH = 32
UNET_WIDTHS = (64, 96, 128)
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
}


def make_unet() -> UNet2DConditionModel:
    """Returns the UNet, untrained: 6.2 million weights.

    Attention only where it is cheap (8x8 and 4x4). The whole prompt also reaches every block by way of the time
    embedding, which scales and shifts it. Plain attention: at so few tokens the fused one is slower on a CPU.
    """
    unet = UNet2DConditionModel(
        sample_size=GRID,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=UNET_WIDTHS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=[width // HEAD_WIDTH for width in UNET_WIDTHS],  # diffusers' name for the number of heads
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=6,
        resnet_time_scale_shift="scale_shift",
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


def make_text_encoder() -> CLIPTextModel:
    """Returns the text encoder, untrained: 1.2 million weights."""
    end = VOCABULARY - 1
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=6,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=VOCABULARY - 2,
            eos_token_id=end,
            pad_token_id=end,
            projection_dim=TEXT_WIDTH,
        )
    )


class Autoencoder(AutoencoderKL):
    """AutoencoderKL with the cells' mean colours led straight through the latents: else colours are learned last.

    Its latents have mean 0 and variance 1 over the training pictures, once `mean` and `std` are set.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        channels = config["latent_channels"]
        self.colour_in = torch.nn.Conv2d(3, channels, 1)
        self.colour_out = torch.nn.Conv2d(channels, 3, 1)
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def latents(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log variance, each (n, 8, 16, 16), of pictures (n, 3, 256, 256) from -1 to 1."""
        mean, log_variance = self._encode(pictures).float().chunk(2, 1)
        mean = mean + self.colour_in(F.avg_pool2d(pictures, CELL)).float()
        return (mean - self.mean) / self.std, log_variance.clamp(-20, 10) - 2 * self.std.log()

    def normalise(self, latents: Tensor) -> None:
        """Changes the scale of the latents so that these, (n, 8, 16, 16), would have mean 0 and variance 1."""
        self.mean += latents.mean((0, 2, 3), keepdim=True) * self.std
        self.std *= latents.std((0, 2, 3), keepdim=True)

    def pictures(self, latents: Tensor) -> Tensor:
        """Returns pictures (n, 3, 256, 256), -1 to 1, of latents (n, 8, 16, 16)."""
        scaled = latents * self.std + self.mean
        colour = F.interpolate(self.colour_out(scaled), scale_factor=CELL, mode="bilinear")
        decoded: Tensor = self._decode(scaled, return_dict=False)[0]
        return decoded + colour


def make_autoencoder() -> Autoencoder:
    """Returns the autoencoder, untrained: 2.3 million weights, 1.5 of them the decoder's."""
    widths = (16, 32, 64, 96, 96)
    return Autoencoder(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        sample_size=PIXELS,
        scaling_factor=1.0,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=1,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
    )
