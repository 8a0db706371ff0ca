"""Stable Diffusion 3 and 3.5: guided by a second row without the prompt, as the UNets are.

Its three text encoders pad every prompt to windows of fixed length and the network reads them all, so that prompts of
any length share a batch as they are: nothing is padded here, nothing grouped.
Source: `__call__` of StableDiffusion3Pipeline (diffusers 0.42). Skipped layers are no parameter of a request.
"""

from typing import Any

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from inference_server.engines.diffusers.adapters.adapter import shift_of
from inference_server.engines.diffusers.encode import Conditioning
from inference_server.engines.diffusers.unet import UNetInputs
from inference_server.messages import GenerationParams


class StableDiffusion3Adapter:
    """Adapter of StableDiffusion3Pipeline."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self.channels = int(pipeline.transformer.config.in_channels)

    def encode(
        self, params: GenerationParams, max_sequence_length: int | None
    ) -> tuple[Conditioning, Conditioning | None]:
        guided = params.guidance_scale > 1
        embeds, negative, pooled, negative_pooled = self._pipeline.encode_prompt(
            prompt=params.prompt,
            prompt_2=None,
            prompt_3=None,
            negative_prompt=params.negative_prompt if guided else None,
            device=self._pipeline.transformer.device,
            do_classifier_free_guidance=guided,
            max_sequence_length=max_sequence_length or 256,
        )
        conditional = Conditioning(embeds, text_embeds=pooled)
        return conditional, Conditioning(negative, text_embeds=negative_pooled) if guided else None

    def noise(self, params: GenerationParams, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        latents: torch.Tensor = self._pipeline.prepare_latents(
            1, self.channels, params.height_px, params.width_px, dtype, self._pipeline.transformer.device, generator
        )
        return latents

    def timesteps(self, params: GenerationParams) -> dict[str, Any]:
        config = self._pipeline.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return {}
        side = self._pipeline.vae_scale_factor * self._pipeline.transformer.config.patch_size
        tokens = (params.height_px // side) * (params.width_px // side)
        return {"mu": shift_of(calculate_shift, config, tokens, 1.16)}

    def forward(self, transformer: Any, inputs: UNetInputs) -> torch.Tensor:
        prediction: torch.Tensor = transformer(
            hidden_states=inputs.sample,
            timestep=inputs.timestep,
            encoder_hidden_states=inputs.encoder_hidden_states,
            pooled_projections=inputs.text_embeds,
            return_dict=False,
        )[0]
        return prediction
