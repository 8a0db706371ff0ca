"""Finds the words of a prompt that no text encoder of a pipeline reads, because its window of tokens is full.

A CLIP encoder reads 77 tokens, BOS and EOS among them. A T5 encoder reads as many as the pipeline's own call allows
(`max_sequence_length`: 256 of Stable Diffusion 3, 512 of Flux). diffusers cuts the rest off and goes on.
Source: `encode_prompt` and `_get_t5_prompt_embeds` of the pipelines (diffusers 0.42)
"""

import inspect
from dataclasses import dataclass
from typing import Any

from inference_server.engines import prompt_window

BOS_AND_EOS = 2  # tokens of each window that hold no word


@dataclass(frozen=True)
class _TextEncoderWindow:
    tokenizer: Any
    tokens: int  # with those that the tokenizer puts around a text

    def unused_words(self, text: str) -> tuple[str, ...]:
        return prompt_window.unused_words(text, self._count, self.tokens)

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False).input_ids)  # verbose: it would log that the text is too long


class PromptWindows:
    """The windows of all text encoders of one pipeline. For one thread: tokenizers are not to be shared."""

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None, windows: int = 1) -> None:
        """`max_sequence_length`: what the pipeline is called with; None: its own default.

        `windows`: so many of CLIP are read one after the other.
        """
        self._windows = _windows(pipeline, max_sequence_length, windows)

    def unused_words(self, prompt: str) -> tuple[str, ...]:
        """The words, as typed, that begin beyond every window."""
        return min((window.unused_words(prompt) for window in self._windows), key=len, default=())


def _windows(pipeline: Any, asked: int | None, windows_read: int) -> list[_TextEncoderWindow]:
    """None at all where one encoder is of another kind: it may read what the others do not."""
    windows = []
    for name, tokenizer in pipeline.components.items():
        if "tokenizer" not in name or pipeline.components.get(name.replace("tokenizer", "text_encoder")) is None:
            continue
        kind = type(tokenizer).__name__
        if not kind.startswith(("CLIP", "T5")):
            return []
        longest = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
        tokens = windows_read * (tokenizer.model_max_length - BOS_AND_EOS) + BOS_AND_EOS
        if kind.startswith("T5") and longest is not None:
            tokens = asked or longest.default
        windows.append(_TextEncoderWindow(tokenizer, tokens))
    return windows
