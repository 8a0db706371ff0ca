"""The first stage of a family with an adapter: turns a request into images before their first step."""

from dataclasses import replace
from typing import Any

import torch

from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.adapters.adapter import Adapter
from inference_server.engines.diffusers.beginnings import Begun
from inference_server.engines.diffusers.encode import ActiveImage, Conditioning
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.prompts import PromptError
from inference_server.engines.diffusers.schedulers import Schedule, SchedulerMaker
from inference_server.engines.diffusers.unet import InputSizes
from inference_server.engines.diffusers.unused_words import PromptWindows
from inference_server.messages import GenerationParams


class AdapterEncoder:
    """Encodes the requests of one model. For one thread: tokenizers are not to be shared."""

    def __init__(self, loaded: LoadedPipeline, adapter: Adapter) -> None:
        pipeline: Any = loaded.pipeline
        self._loaded, self._pipeline, self._adapter = loaded, pipeline, adapter
        self._max_sequence_length = loaded.family.max_sequence_length if loaded.family else None
        self._reads_negative = loaded.family is None or loaded.family.negative_prompt
        self._windows = PromptWindows(pipeline, self._max_sequence_length)
        self._schedulers = SchedulerMaker(pipeline.scheduler, loaded.device)

    def input_sizes(self, params: GenerationParams) -> InputSizes:
        """Measured by encoding a drawing: what the text encoders really give."""
        with torch.inference_mode():
            conditional, _ = self._encode(params)
        return InputSizes(
            self._loaded.device,
            conditional.encoder_hidden_states.dtype,
            channels=self._adapter.channels,
            px_per_latent=int(self._pipeline.vae_scale_factor),
            conditioning={name: tuple(tensor.shape[1:]) for name, tensor in conditional.tensors()},
        )

    def encode(self, request: ActiveRequest) -> list[ActiveImage]:
        """Also tells the request which words of its prompts are not read.

        Raises: PromptError, schedulers.StepsError, torch.OutOfMemoryError.
        """
        params = request.params if self._reads_negative else replace(request.params, negative_prompt="")
        conditional, unconditional = self._encode(params)
        request.unused_words = self._windows.unused_words(params.prompt)
        if unconditional is not None:
            request.unused_negative_words = self._windows.unused_words(params.negative_prompt)
        dtype = conditional.encoder_hidden_states.dtype
        return [
            ActiveImage(request, index, conditional, unconditional, self._begin(params, seed, dtype))
            for index, seed in enumerate(params.seeds)
        ]

    def _encode(self, params: GenerationParams) -> tuple[Conditioning, Conditioning | None]:
        try:
            self._loaded.loras.use_for_text(params.loras)
            return self._adapter.encode(params, self._max_sequence_length)
        except Exception as exc:
            if cuda_errors.is_out_of_memory(exc) or cuda_errors.is_fatal(exc):
                raise
            raise PromptError(f"the prompt could not be encoded ({type(exc).__name__})") from exc

    def _begin(self, params: GenerationParams, seed: int, dtype: torch.dtype) -> Begun:
        generator = torch.Generator("cpu").manual_seed(seed)
        steps = params.num_inference_steps
        scheduler = self._schedulers.make(params.scheduler, steps, **self._adapter.timesteps(params))
        schedule = Schedule(scheduler, steps, generator, seed)
        return Begun(schedule, self._adapter.noise(params, generator, dtype))
