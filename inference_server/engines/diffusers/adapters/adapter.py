"""How the step loop sees a family of transformers with flow matching: what an adapter does, and which family has one.

Latents stay (1, C, h, w) all the way, as the UNets' do; a family that reads them packed packs them for its forward.
An Euler step knows no places, so that its numbers are the same either way.
"""

import importlib
from typing import Any, Protocol

import torch

from inference_server.engines.diffusers.encode import Conditioning
from inference_server.engines.diffusers.unet import UNetInputs
from inference_server.messages import GenerationParams

# Class of diffusers -> module here and adapter. Imported when found: most servers need one, or none.
_ADAPTERS = {
    "FluxPipeline": ("flux", "FluxAdapter"),
    "StableDiffusion3Pipeline": ("stable_diffusion_3", "StableDiffusion3Adapter"),
}
_SCHEDULER = "FlowMatchEulerDiscreteScheduler"  # others take no sigmas, or call the network twice a step


class Adapter(Protocol):
    """One model in memory. The encode thread calls `encode`, `noise` and `timesteps`, the step loop `forward`."""

    channels: int  # of the latents

    def encode(
        self, params: GenerationParams, max_sequence_length: int | None
    ) -> tuple[Conditioning, Conditioning | None]:
        """What the network reads with the prompt; and without it, where it is asked twice a step for guidance."""

    def noise(self, params: GenerationParams, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        """The first latents (1, C, h, w)."""

    def timesteps(self, params: GenerationParams) -> dict[str, Any]:
        """What the scheduler's `set_timesteps` takes beside the number of steps."""

    def forward(self, transformer: Any, inputs: UNetInputs) -> torch.Tensor:
        """One call for rows of any timesteps: the velocity, (R, C, h, w)."""


def find(pipeline: Any) -> Adapter | None:
    """None: the pipeline is drawn with by its own call."""
    known = _ADAPTERS.get(type(pipeline).__name__)
    if known is None or type(pipeline.scheduler).__name__ != _SCHEDULER or pipeline.vae is None:
        return None
    module, name = known
    kind = getattr(importlib.import_module(f"inference_server.engines.diffusers.adapters.{module}"), name)
    adapter: Adapter = kind(pipeline)
    return adapter


def shift_of(calculate_shift: Any, config: Any, tokens: int, default_max_shift: float) -> float:
    """The shift of the timesteps that grows with the picture (`mu`); `calculate_shift`: the pipeline's module's."""
    mu: float = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", default_max_shift),
    )
    return mu
