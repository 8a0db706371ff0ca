"""From a drawing to its images before their first step: text encoders, first latents, a scheduler each.

Exactly as diffusers' pipelines do it with a CPU generator for every seed, so that the pictures are the same.
Source: `__call__` of StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline (0.42)
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionXLPipeline
from diffusers.utils.torch_utils import randn_tensor

from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.prompts import PromptEncoder
from inference_server.engines.diffusers.schedulers import Schedule, SchedulerMaker
from inference_server.engines.diffusers.unet import InputSizes
from inference_server.messages import GenerationParams


@dataclass(frozen=True)
class Conditions:
    """What the UNet is told beside the latents, one row each; fields as in `UNetInputs`."""

    encoder_hidden_states: torch.Tensor  # (1, tokens, D)
    timestep_cond: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of those that the model has."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            if tensor is not None:
                yield field.name, tensor


class ImageInMaking:
    """One image between its noise and its picture. Belongs to the step loop once it has joined."""

    def __init__(
        self,
        in_hand: ActiveRequest,
        index: int,
        conditions: Conditions,
        unconditional: Conditions | None,
        schedule: Schedule,
        latents: torch.Tensor,
    ) -> None:
        self.in_hand, self.index = in_hand, index  # index: which of the drawing's images
        self.conditions, self.unconditional = conditions, unconditional  # the second is None without guidance
        self.schedule = schedule
        self.latents = latents  # (1, C, h, w)
        self.preview_at_s = 0.0  # when the next preview is due, on the monotonic clock

    @property
    def drawing(self) -> GenerationParams:
        return self.in_hand.drawing

    def tensors(self) -> list[torch.Tensor]:
        """All that lies on the device."""
        sets = [self.conditions, *([self.unconditional] if self.unconditional else [])]
        return [self.latents, *(tensor for one in sets for _, tensor in one.tensors())]


class Preparer:
    """Used by one thread."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self._pipeline, self._device = pipeline, device
        self._prompts = PromptEncoder(pipeline, device)
        self._schedulers = SchedulerMaker(pipeline.scheduler)
        self._guidance_width: int | None = pipeline.unet.config.time_cond_proj_dim
        self._distilled = self._guidance_width is not None or isinstance(pipeline, LatentConsistencyModelPipeline)

    def is_guided(self, drawing: GenerationParams) -> bool:
        """Whether the UNet is asked twice, with and without the prompt."""
        return drawing.guidance_scale > 1 and not self._distilled

    def input_sizes(self, drawing: GenerationParams) -> InputSizes:
        """Measured on a drawing: what the text encoders really give."""
        with torch.inference_mode():
            conditions, _ = self._conditions(drawing)
        pipeline = self._pipeline
        widths = {name: int(tensor.shape[-1]) for name, tensor in conditions.tensors()}
        return InputSizes(
            device=self._device,
            dtype=pipeline.unet.dtype,
            channels=int(pipeline.unet.config.in_channels),
            px_per_latent=int(pipeline.vae_scale_factor),
            tokens=int(conditions.encoder_hidden_states.shape[1]),
            text_width=widths["encoder_hidden_states"],
            timestep_cond_width=widths.get("timestep_cond"),
            text_embeds_width=widths.get("text_embeds"),
            time_ids_width=widths.get("time_ids"),
        )

    def prepare(self, in_hand: ActiveRequest) -> list[ImageInMaking]:
        """Raises: prompts.PromptError, schedulers.StepsError, torch.OutOfMemoryError."""
        drawing = in_hand.drawing
        conditions, unconditional = self._conditions(drawing)
        images = []
        for index, seed in enumerate(drawing.seeds):
            generator = torch.Generator("cpu").manual_seed(seed)
            scheduler = self._schedulers.make(drawing.scheduler, drawing.num_inference_steps)
            schedule = Schedule(scheduler, drawing.num_inference_steps, generator, seed)
            noise = self._noise(drawing, generator, conditions.encoder_hidden_states.dtype)
            images.append(ImageInMaking(in_hand, index, conditions, unconditional, schedule, schedule.start(noise)))
        return images

    def _noise(self, drawing: GenerationParams, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        scale = self._pipeline.vae_scale_factor
        shape = (1, self._pipeline.unet.config.in_channels, drawing.height_px // scale, drawing.width_px // scale)
        noise: torch.Tensor = randn_tensor(shape, generator=generator, device=self._device, dtype=dtype)
        return noise

    def _conditions(self, drawing: GenerationParams) -> tuple[Conditions, Conditions | None]:
        """With the prompt, and without it where there is guidance."""
        guided = self.is_guided(drawing)
        encoded = self._prompts.encode(drawing.prompt, drawing.negative_prompt, guided)
        dtype = encoded.prompt.dtype
        time_ids = self._time_ids(drawing, dtype)
        conditions = Conditions(encoded.prompt, self._guidance_embedding(drawing, dtype), encoded.pooled, time_ids)
        if encoded.negative is None:
            return conditions, None
        return conditions, Conditions(encoded.negative, None, encoded.pooled_negative, time_ids)

    def _guidance_embedding(self, drawing: GenerationParams, dtype: torch.dtype) -> torch.Tensor | None:
        """(1, P), of models that were distilled to take the guidance as an input."""
        if self._guidance_width is None:
            return None
        scale = torch.tensor(drawing.guidance_scale - 1).repeat(1)
        embedding: torch.Tensor = self._pipeline.get_guidance_scale_embedding(
            scale, embedding_dim=self._guidance_width
        ).to(device=self._device, dtype=dtype)
        return embedding

    def _time_ids(self, drawing: GenerationParams, dtype: torch.dtype) -> torch.Tensor | None:
        """(1, 6): SDXL is told the size, and that nothing was cropped."""
        pipeline, size = self._pipeline, (drawing.height_px, drawing.width_px)
        if not isinstance(pipeline, StableDiffusionXLPipeline):
            return None
        ids: torch.Tensor = pipeline._get_add_time_ids(
            size, (0, 0), size, dtype=dtype, text_encoder_projection_dim=pipeline.text_encoder_2.config.projection_dim
        )
        return ids.to(self._device)
