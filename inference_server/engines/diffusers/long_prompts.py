"""Prompts beyond the window of CLIP, and weighted ones, for Stable Diffusion 1.x, 2.x and SDXL.

The text is encoded in as many windows as it takes, 75 tokens each, parted between words, and the UNet reads them in one
row (compel does that, and the weights). Both prompts of a drawing get as many windows as the longer one: the other is
filled up with empty ones, or zeros where SDXL has zeros for no prompt. What SDXL reads beside it, the pooled embedding,
is the first window's. A prompt within the window and without weights never comes here.
Source: https://github.com/damian0815/compel (MIT); chunks of 75 as in AUTOMATIC1111's web UI
"""

import importlib.util
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from inference_server.engines.prompt_weights import WeightedPrompt

MAX_WINDOWS = 8  # each makes every step a little longer


def is_available() -> bool:
    """Whether the package is here that this takes."""
    return importlib.util.find_spec("compel") is not None


class LongPromptEncoder:
    """Of one pipeline. For one thread: tokenizers are not to be shared."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        from compel import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

        is_sdxl = isinstance(pipeline, StableDiffusionXLPipeline)
        kind = "PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED" if is_sdxl else "LAST_HIDDEN_STATES_NORMALIZED"
        parts = [(pipeline.tokenizer, pipeline.text_encoder)]
        if is_sdxl:
            parts.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
        self._device = device
        self._providers = [
            EmbeddingsProvider(
                tokenizer,
                encoder,
                truncate=False,
                returned_embeddings_type=ReturnedEmbeddingsType[kind],
                device=str(device),
                split_long_text_mode=SplitLongTextMode.WORDS,
            )
            for tokenizer, encoder in parts
            if encoder is not None
        ]

    def encode(self, prompt: WeightedPrompt, dtype: torch.dtype) -> torch.Tensor:
        """(1, windows * 77, D). Raises: what the text encoders raise."""
        texts, weights = [text for text, _ in prompt.pieces], [weight for _, weight in prompt.pieces]
        encoded = [
            provider.get_embeddings_for_weighted_prompt_fragments([texts], [weights], device=self._device)
            for provider in self._providers
        ]
        # Windows end with a word, so that there may be more than so many times 75 tokens take; one endless word is cut.
        most = 2 * MAX_WINDOWS * self._providers[0].max_token_count
        longest = min(max(one.shape[1] for one in encoded), most)
        filled = [
            self._filled(one[:, :longest], longest, provider)
            for one, provider in zip(encoded, self._providers, strict=True)
        ]
        return torch.cat(filled, dim=-1).to(self._device, dtype)

    def fill(self, embeds: torch.Tensor, tokens: int, *, zeros: bool) -> torch.Tensor:
        """(1, n, D) -> (1, tokens, D)."""
        missing = tokens - embeds.shape[1]
        if missing <= 0:
            return embeds
        if zeros:
            empty = torch.zeros_like(embeds[:, :1]).expand(-1, missing, -1)
        else:
            window = torch.cat([provider.empty_z for provider in self._providers], dim=-1).to(embeds)
            empty = window.repeat(1, missing // window.shape[1], 1)
        return torch.cat([embeds, empty], dim=1)

    def _filled(self, embeds: Any, tokens: int, provider: Any) -> Any:
        missing = tokens - embeds.shape[1]
        empty = provider.empty_z.to(embeds)
        return torch.cat([embeds, empty.repeat(1, missing // empty.shape[1], 1)], dim=1) if missing else embeds
