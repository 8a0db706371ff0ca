"""The first stage: turns a request into images before their first step (text embeddings, first latents, schedulers).

It does exactly what diffusers' pipelines do with a CPU generator for every seed, so that the pictures are the same.
Source: `encode_prompt` and `__call__` of StableDiffusionPipeline, StableDiffusionXLPipeline and
LatentConsistencyModelPipeline (diffusers 0.42)
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionXLPipeline

from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.beginnings import Beginnings, Begun
from inference_server.engines.diffusers.loras import LoadedLoras
from inference_server.engines.diffusers.prompts import EncodedPrompts, PromptEncoder
from inference_server.engines.diffusers.schedulers import SchedulerMaker
from inference_server.engines.diffusers.unet import InputSizes, TensorFields
from inference_server.messages import GenerationParams


@dataclass(frozen=True)
class Conditioning(TensorFields):
    """What the UNet reads beside the latents, one row each; fields as in `UNetInputs`."""

    encoder_hidden_states: torch.Tensor  # (1, tokens, D)
    timestep_cond: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None


class ActiveImage:
    """One image between its noise and its picture. Belongs to the step loop once it has joined a batch."""

    def __init__(
        self,
        request: ActiveRequest,
        index: int,
        conditional: Conditioning,
        unconditional: Conditioning | None,
        begun: Begun,
        windows: int = 1,
    ) -> None:
        self.request, self.index = request, index  # index: which of the request's images
        self.conditional, self.unconditional = conditional, unconditional  # the second is None without guidance
        self.schedule = begun.schedule
        self.latents = begun.latents  # (1, C, h, w)
        self.windows = windows  # of the text encoder, that its prompts take
        self.beside, self._kept = begun.beside, begun.kept
        self.preview_at_s = 0.0  # when the next preview is due, on the monotonic clock

    @property
    def params(self) -> GenerationParams:
        return self.request.params

    def unet_input(self) -> torch.Tensor:
        """What the UNet reads of it at the next call, (1, C, h, w)."""
        scaled = self.schedule.scaled(self.latents)
        return scaled if self.beside is None else torch.cat([scaled, self.beside], dim=1)

    def advance(self, prediction: torch.Tensor) -> None:
        """Takes the step of its own scheduler. Raises: what the scheduler raises."""
        self.latents = self.schedule.advance(prediction, self.latents)
        if self._kept is not None:
            self.latents = self._kept.put_back(self.latents, self.schedule)

    def tensors(self) -> list[torch.Tensor]:
        """All that lies on the device."""
        sets = [self.conditional, *([self.unconditional] if self.unconditional else [])]
        own = [self.latents, self.beside, *(self._kept.tensors() if self._kept else ())]
        return [*(one for one in own if one is not None), *(tensor for one in sets for _, tensor in one.tensors())]


class RequestEncoder:
    """Encodes the requests of one model. For one thread: tokenizers are not to be shared."""

    def __init__(self, pipeline: Any, device: torch.device, loras: LoadedLoras | None = None) -> None:
        self._pipeline, self._device = pipeline, device
        self._prompts = PromptEncoder(pipeline, device, loras or LoadedLoras())
        self._beginnings = Beginnings(pipeline, SchedulerMaker(pipeline.scheduler, device), device)
        self._guidance_width: int | None = pipeline.unet.config.time_cond_proj_dim
        self._distilled = self._guidance_width is not None or isinstance(pipeline, LatentConsistencyModelPipeline)

    def input_sizes(self, params: GenerationParams) -> InputSizes:
        """Measured by encoding a drawing: what the text encoders really give."""
        with torch.inference_mode():
            params = replace(params, prompt="")  # of one window
            conditional, _ = self._conditioning(params, self._prompts.encode(params, self._is_guided(params)))
        unet = self._pipeline.unet
        return InputSizes(
            self._device,
            unet.dtype,
            channels=int(unet.config.in_channels),
            px_per_latent=int(self._pipeline.vae_scale_factor),
            conditioning={name: tuple(tensor.shape[1:]) for name, tensor in conditional.tensors()},
        )

    def encode(self, request: ActiveRequest) -> list[ActiveImage]:
        """Also tells the request which words of its prompts are not read.

        Raises: PromptError, schedulers.StepsError, torch.OutOfMemoryError.
        """
        params = request.params
        prompts = self._prompts.encode(params, self._is_guided(params))
        request.unused_words, request.unused_negative_words = prompts.unused, prompts.negative_unused
        conditional, unconditional = self._conditioning(params, prompts)
        images = []
        for index, seed in enumerate(params.seeds):
            begun = self._beginnings.begin(params, seed, conditional.encoder_hidden_states.dtype)
            images.append(ActiveImage(request, index, conditional, unconditional, begun, prompts.windows))
        return images

    def _is_guided(self, params: GenerationParams) -> bool:
        return params.guidance_scale > 1 and not self._distilled

    def _conditioning(
        self, params: GenerationParams, prompts: EncodedPrompts
    ) -> tuple[Conditioning, Conditioning | None]:
        """With the prompt, and without it where there is guidance: the UNet then reads two rows an image."""
        embeds, pooled = prompts.embeds, prompts.pooled
        time_ids = self._time_ids(params, embeds.dtype)
        conditional = Conditioning(embeds, self._guidance_embedding(params, embeds.dtype), pooled, time_ids)
        if prompts.negative is None:
            return conditional, None
        return conditional, Conditioning(prompts.negative, None, prompts.negative_pooled, time_ids)

    def _guidance_embedding(self, params: GenerationParams, dtype: torch.dtype) -> torch.Tensor | None:
        """(1, P), of models that were distilled to take the guidance as an input."""
        if self._guidance_width is None:
            return None
        scale = torch.tensor(params.guidance_scale - 1).repeat(1)
        embedding: torch.Tensor = self._pipeline.get_guidance_scale_embedding(
            scale, embedding_dim=self._guidance_width
        ).to(device=self._device, dtype=dtype)
        return embedding

    def _time_ids(self, params: GenerationParams, dtype: torch.dtype) -> torch.Tensor | None:
        """(1, 6): SDXL reads the picture's size, and that nothing was cropped."""
        pipeline, size = self._pipeline, (params.height_px, params.width_px)
        if not isinstance(pipeline, StableDiffusionXLPipeline):
            return None
        ids: torch.Tensor = pipeline._get_add_time_ids(
            size, (0, 0), size, dtype=dtype, text_encoder_projection_dim=pipeline.text_encoder_2.config.projection_dim
        )
        return ids.to(self._device)
