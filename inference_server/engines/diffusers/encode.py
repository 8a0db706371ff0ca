"""The first stage: turns a request into images before their first step (text embeddings, first latents, schedulers).

It does exactly what diffusers' pipelines do with a CPU generator for every seed, so that the pictures are the same.
Source: `encode_prompt` and `__call__` of StableDiffusionPipeline, StableDiffusionXLPipeline and
LatentConsistencyModelPipeline (diffusers 0.42)
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionXLPipeline

from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.beginnings import Beginnings, Begun
from inference_server.engines.diffusers.schedulers import SchedulerMaker
from inference_server.engines.diffusers.unet import InputSizes, TensorFields
from inference_server.engines.diffusers.unused_words import PromptWindows
from inference_server.messages import GenerationParams

KEPT_NEGATIVES = 8  # most visitors have the same negative prompt, none


class PromptError(Exception):
    """The text encoders failed; the text leaves out their words, which may hold the prompt."""


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
    ) -> None:
        self.request, self.index = request, index  # index: which of the request's images
        self.conditional, self.unconditional = conditional, unconditional  # the second is None without guidance
        self.schedule = begun.schedule
        self.latents = begun.latents  # (1, C, h, w)
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

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self._pipeline, self._device = pipeline, device
        self._prompts, self._windows = _PromptEncoder(pipeline, device), PromptWindows(pipeline)
        self._beginnings = Beginnings(pipeline, SchedulerMaker(pipeline.scheduler, device), device)
        self._guidance_width: int | None = pipeline.unet.config.time_cond_proj_dim
        self._distilled = self._guidance_width is not None or isinstance(pipeline, LatentConsistencyModelPipeline)

    def input_sizes(self, params: GenerationParams) -> InputSizes:
        """Measured by encoding a drawing: what the text encoders really give."""
        with torch.inference_mode():
            conditional, _ = self._conditioning(params)
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
        conditional, unconditional = self._conditioning(params)
        request.unused_words = self._windows.unused_words(params.prompt)
        if unconditional is not None:
            request.unused_negative_words = self._windows.unused_words(params.negative_prompt)
        images = []
        for index, seed in enumerate(params.seeds):
            begun = self._beginnings.begin(params, seed, conditional.encoder_hidden_states.dtype)
            images.append(ActiveImage(request, index, conditional, unconditional, begun))
        return images

    def _conditioning(self, params: GenerationParams) -> tuple[Conditioning, Conditioning | None]:
        """With the prompt, and without it where there is guidance: the UNet then reads two rows an image."""
        guided = params.guidance_scale > 1 and not self._distilled
        embeds, pooled, negative, pooled_negative = self._prompts.encode(params.prompt, params.negative_prompt, guided)
        time_ids = self._time_ids(params, embeds.dtype)
        conditional = Conditioning(embeds, self._guidance_embedding(params, embeds.dtype), pooled, time_ids)
        return conditional, Conditioning(negative, None, pooled_negative, time_ids) if guided else None

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


class _PromptEncoder:
    """Encodes prompts by the pipeline's own text encoders, and keeps the embeddings of the last negative prompts."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self._pipeline, self._device = pipeline, device
        self._negatives: OrderedDict[str, dict[str, Any]] = OrderedDict()  # text -> what `encode_prompt` takes for it

    def encode(self, prompt: str, negative_prompt: str, guided: bool) -> tuple[Any, Any, Any, Any]:
        """The prompt's embeddings (1, tokens, D), those of SDXL pooled (1, D2), and both of the negative prompt.

        The pooled ones are None without SDXL, the negative ones None without guidance.

        Raises: PromptError, torch.OutOfMemoryError.
        """
        known = self._negatives.get(negative_prompt) if guided else None
        negative = known or {"negative_prompt": negative_prompt or None}  # "" is not none to SDXL
        try:
            found = self._pipeline.encode_prompt(
                prompt=prompt,
                device=self._device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=guided,
                **negative,
            )
        except Exception as exc:
            if cuda_errors.is_out_of_memory(exc) or cuda_errors.is_fatal(exc):
                raise
            raise PromptError(f"the prompt could not be encoded ({type(exc).__name__})") from exc
        embeds, negative_embeds, pooled, pooled_negative = (*found, None, None)[:4]  # the order of diffusers
        if not guided:
            return embeds, pooled, None, None
        self._keep(negative_prompt, negative_embeds, pooled_negative)
        return embeds, pooled, negative_embeds, pooled_negative

    def _keep(self, negative_prompt: str, embeds: torch.Tensor, pooled: torch.Tensor | None) -> None:
        """Saves the next request with this negative prompt half of the work on its text."""
        kept: dict[str, Any] = {"negative_prompt_embeds": embeds}
        if pooled is not None:
            kept["negative_pooled_prompt_embeds"] = pooled
        self._negatives[negative_prompt] = kept
        self._negatives.move_to_end(negative_prompt)
        if len(self._negatives) > KEPT_NEGATIVES:
            self._negatives.popitem(last=False)
