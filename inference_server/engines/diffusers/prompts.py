"""Prompts to embeddings, by the pipeline's own text encoders.

Source: `encode_prompt` of StableDiffusionPipeline and StableDiffusionXLPipeline (diffusers 0.42)
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

from inference_server.engines.diffusers import cuda_errors

KEPT_NEGATIVES = 8  # most visitors have the same negative prompt, none


class PromptError(Exception):
    """The text encoders failed; without their words, which may hold the prompt."""


@dataclass(frozen=True)
class Encoded:
    """Embeddings of one prompt, (1, tokens, D), and of SDXL also the pooled ones, (1, D2)."""

    prompt: torch.Tensor
    pooled: torch.Tensor | None
    negative: torch.Tensor | None = None  # None: without guidance
    pooled_negative: torch.Tensor | None = None


class PromptEncoder:
    """Used by one thread: tokenizers are not to be shared."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self._pipeline, self._device = pipeline, device
        self._negatives: OrderedDict[str, dict[str, Any]] = OrderedDict()  # text -> what `encode_prompt` takes for it

    def encode(self, prompt: str, negative_prompt: str, guided: bool) -> Encoded:
        """Raises: PromptError, torch.OutOfMemoryError."""
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
        with_prompt, without, pooled, pooled_without = (*found, None, None)[:4]
        if not guided:
            return Encoded(with_prompt, pooled)
        self._keep(negative_prompt, without, pooled_without)
        return Encoded(with_prompt, pooled, without, pooled_without)

    def _keep(self, negative_prompt: str, embedding: torch.Tensor, pooled: torch.Tensor | None) -> None:
        """For the next drawing with this negative prompt: half of the work for its text."""
        kept: dict[str, Any] = {"negative_prompt_embeds": embedding}
        if pooled is not None:
            kept["negative_pooled_prompt_embeds"] = pooled
        self._negatives[negative_prompt] = kept
        self._negatives.move_to_end(negative_prompt)
        if len(self._negatives) > KEPT_NEGATIVES:
            self._negatives.popitem(last=False)
