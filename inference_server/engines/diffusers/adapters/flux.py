"""Flux.1 (dev, schnell, Krea): its guidance is an input of the network, one row a drawing.

T5 pads every prompt to the same number of tokens and the network reads them all, so that prompts of any length share
a batch as they are: nothing is padded here, nothing grouped.
Source: `__call__` of FluxPipeline (diffusers 0.42). Its `true_cfg_scale` is no parameter of a request.
"""

from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from inference_server.engines.diffusers.adapters.adapter import shift_of
from inference_server.engines.diffusers.encode import Conditioning
from inference_server.engines.diffusers.unet import UNetInputs
from inference_server.messages import GenerationParams

PATCH = 2  # latents a side of what the network reads as one token


class FluxAdapter:
    """Adapter of FluxPipeline."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline, self._config = pipeline, pipeline.transformer.config
        self.channels = int(self._config.in_channels) // PATCH**2
        # By (h, w) and by the text's tokens: places of the picture's tokens and of the text's.
        self._image_ids: dict[tuple[int, int], torch.Tensor] = {}
        self._text_ids: dict[int, torch.Tensor] = {}

    def encode(
        self, params: GenerationParams, max_sequence_length: int | None
    ) -> tuple[Conditioning, Conditioning | None]:
        device = self._pipeline.transformer.device
        embeds, pooled, _ = self._pipeline.encode_prompt(
            prompt=params.prompt, prompt_2=None, device=device, max_sequence_length=max_sequence_length or 512
        )
        guidance = None
        if self._config.guidance_embeds:
            guidance = torch.full((1, 1), params.guidance_scale, device=device, dtype=torch.float32)
        return Conditioning(embeds, guidance, pooled), None

    def noise(self, params: GenerationParams, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        packed, _ = self._pipeline.prepare_latents(
            1, self.channels, params.height_px, params.width_px, dtype, self._pipeline.transformer.device, generator
        )
        return self._unpacked(packed, params.height_px, params.width_px)

    def timesteps(self, params: GenerationParams) -> dict[str, Any]:
        config, steps = self._pipeline.scheduler.config, params.num_inference_steps
        side = PATCH * self._pipeline.vae_scale_factor
        mu = shift_of(calculate_shift, config, (params.height_px // side) * (params.width_px // side), 1.15)
        if config.get("use_flow_sigmas"):
            return {"mu": mu}
        return {"mu": mu, "sigmas": np.linspace(1.0, 1 / steps, steps)}

    def forward(self, transformer: Any, inputs: UNetInputs) -> torch.Tensor:
        sample, text = inputs.sample, inputs.encoder_hidden_states
        rows, channels, height, width = sample.shape
        guidance = inputs.timestep_cond
        prediction = transformer(
            hidden_states=self._pipeline._pack_latents(sample, rows, channels, height, width),
            timestep=inputs.timestep.to(sample.dtype) / 1000,
            guidance=None if guidance is None else guidance[:, 0],
            pooled_projections=inputs.text_embeds,
            encoder_hidden_states=text,
            txt_ids=self._ids_of_text(text),
            img_ids=self._ids_of_image(sample),
            return_dict=False,
        )[0]
        scale = self._pipeline.vae_scale_factor
        return self._unpacked(prediction, height * scale, width * scale)

    def _unpacked(self, packed: torch.Tensor, height_px: int, width_px: int) -> torch.Tensor:
        latents: torch.Tensor = self._pipeline._unpack_latents(
            packed, height_px, width_px, self._pipeline.vae_scale_factor
        )
        return latents.contiguous()

    def _ids_of_text(self, text: torch.Tensor) -> torch.Tensor:
        if text.shape[1] not in self._text_ids:
            self._text_ids[text.shape[1]] = torch.zeros(text.shape[1], 3, device=text.device, dtype=text.dtype)
        return self._text_ids[text.shape[1]]

    def _ids_of_image(self, sample: torch.Tensor) -> torch.Tensor:
        height, width = sample.shape[-2:]
        if (height, width) not in self._image_ids:
            self._image_ids[height, width] = self._pipeline._prepare_latent_image_ids(
                1, height // PATCH, width // PATCH, sample.device, sample.dtype
            )
        return self._image_ids[height, width]
