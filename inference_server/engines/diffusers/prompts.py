"""Encodes prompts by the pipeline's own text encoders, or window by window where they are long or weighted.

It keeps the embeddings of the last negative prompts: most visitors have the same one, none.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch

from inference_server.engines import prompt_weights
from inference_server.engines.diffusers import cuda_errors, long_prompts
from inference_server.engines.diffusers.long_prompts import MAX_WINDOWS, LongPromptEncoder
from inference_server.engines.diffusers.loras import LoadedLoras
from inference_server.engines.diffusers.unused_words import PromptWindows
from inference_server.engines.prompt_weights import WeightedPrompt
from inference_server.loras import Selection
from inference_server.messages import GenerationParams

KEPT_NEGATIVES = 8


class PromptError(Exception):
    """The text encoders failed; the text leaves out their words, which may hold the prompt."""


@dataclass(frozen=True)
class EncodedPrompts:
    """Both prompts of a drawing; without guidance there is no negative one, without SDXL nothing is pooled."""

    embeds: torch.Tensor  # (1, windows * tokens, D)
    pooled: torch.Tensor | None  # (1, D2)
    negative: torch.Tensor | None  # as `embeds`
    negative_pooled: torch.Tensor | None
    windows: int = 1
    unused: tuple[str, ...] = ()  # words that nobody reads, as typed
    negative_unused: tuple[str, ...] = ()


class PromptEncoder:
    """Of one pipeline. For one thread: tokenizers are not to be shared."""

    def __init__(self, pipeline: Any, device: torch.device, loras: LoadedLoras) -> None:
        self._pipeline, self._device, self._loras = pipeline, device, loras
        self._one_window = PromptWindows(pipeline)
        self._all_windows = PromptWindows(pipeline, windows=MAX_WINDOWS)
        self._reads_long = long_prompts.is_available()
        # Text and LoRAs -> what `encode_prompt` takes for it.
        self._negatives: OrderedDict[tuple[str, Selection], dict[str, Any]] = OrderedDict()

    def encode(self, params: GenerationParams, guided: bool) -> EncodedPrompts:
        """Raises: PromptError, torch.OutOfMemoryError."""
        prompt = self._read(params.prompt, params)
        negative = self._read(params.negative_prompt if guided else "", params)
        try:
            self._loras.use_for_text(params.loras)
            encoded = self._in_one_window(prompt.text, negative.text, params.loras, guided)
            if self._is_long(prompt) or self._is_long(negative):
                encoded = self._in_all_windows(encoded, prompt, negative)
        except Exception as exc:
            if cuda_errors.is_out_of_memory(exc) or cuda_errors.is_fatal(exc):
                raise
            raise PromptError(f"the prompt could not be encoded ({type(exc).__name__})") from exc
        return replace(encoded, unused=prompt.unused, negative_unused=negative.unused)

    def _read(self, text: str, params: GenerationParams) -> WeightedPrompt:
        """Cut after the last word that is read."""
        weighted = params.prompt_weighting and self._reads_long
        prompt = prompt_weights.read(text) if weighted else prompt_weights.plain(text)
        windows = self._all_windows if self._reads_long else self._one_window
        beyond = windows.unused_words(prompt.text)
        if not beyond:
            return prompt
        if self._reads_long:
            prompt = prompt.up_to(len(prompt.text.rsplit(None, len(beyond))[0]))
        return replace(prompt, unused=prompt.unused + beyond)

    def _is_long(self, prompt: WeightedPrompt) -> bool:
        """Whether it takes more than the pipeline's own call for it."""
        return self._reads_long and (prompt.is_weighted or bool(self._one_window.unused_words(prompt.text)))

    def _in_one_window(self, prompt: str, negative: str, loras: Selection, guided: bool) -> EncodedPrompts:
        """As the pipeline's own call does it."""
        key = (negative, loras)
        known = self._negatives.get(key) if guided else None
        found = self._pipeline.encode_prompt(
            prompt=prompt,
            device=self._device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            **(known or {"negative_prompt": negative or None}),  # "" is not none to SDXL
        )
        embeds, negative_embeds, pooled, negative_pooled = (*found, None, None)[:4]  # the order of diffusers
        if not guided:
            return EncodedPrompts(embeds, pooled, None, None)
        self._keep(key, negative_embeds, negative_pooled)
        return EncodedPrompts(embeds, pooled, negative_embeds, negative_pooled)

    def _in_all_windows(
        self, encoded: EncodedPrompts, prompt: WeightedPrompt, negative: WeightedPrompt
    ) -> EncodedPrompts:
        """The same with as many windows as the longer prompt takes."""
        encoder, window = LongPromptEncoder(self._pipeline, self._device), encoded.embeds.shape[1]
        embeds, negative_embeds = encoded.embeds, encoded.negative
        if self._is_long(prompt):
            embeds = encoder.encode(prompt, embeds.dtype)
        if negative_embeds is not None and self._is_long(negative):
            negative_embeds = encoder.encode(negative, negative_embeds.dtype)
        tokens = max(embeds.shape[1], 0 if negative_embeds is None else negative_embeds.shape[1])
        embeds = encoder.fill(embeds, tokens, zeros=False)
        if negative_embeds is not None:
            zeros = not negative.text and bool(getattr(self._pipeline.config, "force_zeros_for_empty_prompt", False))
            negative_embeds = encoder.fill(negative_embeds, tokens, zeros=zeros)
        return replace(encoded, embeds=embeds, negative=negative_embeds, windows=tokens // window)

    def _keep(self, key: tuple[str, Selection], embeds: torch.Tensor, pooled: torch.Tensor | None) -> None:
        """Saves the next request with this negative prompt half of the work on its text."""
        kept: dict[str, Any] = {"negative_prompt_embeds": embeds}
        if pooled is not None:
            kept["negative_pooled_prompt_embeds"] = pooled
        self._negatives[key] = kept
        self._negatives.move_to_end(key)
        if len(self._negatives) > KEPT_NEGATIVES:
            self._negatives.popitem(last=False)
