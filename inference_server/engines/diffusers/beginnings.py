"""What an image is before its first step: noise, an image with noise on it, or an image with a part to fill.

The order in which the seed's numbers are drawn is that of diffusers' pipelines, so that the pictures are the same.
Source: `prepare_latents`, `prepare_mask_latents` and the loops of the Img2Img and Inpaint pipelines of Stable Diffusion
and SDXL, and of LatentConsistencyModelImg2ImgPipeline (diffusers 0.42)
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from inference_server.engines.diffusers import image_tasks, tiling
from inference_server.engines.diffusers.schedulers import Schedule, SchedulerMaker
from inference_server.messages import GenerationParams, RawImage
from inference_server.tasks import INPAINT


@dataclass(frozen=True)
class Kept:
    """The part of an image that stays: put back after each step, with the noise of the next one on it."""

    mask: torch.Tensor  # (1, 1, h, w): 1 is drawn
    latents: torch.Tensor  # (1, C, h, w) of the image
    noise: torch.Tensor  # (1, C, h, w)

    def put_back(self, drawn: torch.Tensor, schedule: Schedule) -> torch.Tensor:
        kept = self.latents if schedule.done else schedule.noised(self.latents, self.noise)
        return (1 - self.mask) * kept + self.mask * drawn

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.mask, self.latents, self.noise


@dataclass(frozen=True)
class Begun:
    """An image before its first step."""

    schedule: Schedule
    latents: torch.Tensor  # (1, C, h, w)
    beside: torch.Tensor | None = None  # (1, C', h, w): what the UNet reads beside the latents
    kept: Kept | None = None


class Beginnings:
    """Of one model. For one thread."""

    def __init__(self, pipeline: Any, schedulers: SchedulerMaker, device: torch.device) -> None:
        self._schedulers, self._device = schedulers, device
        self._vae, self._scale = pipeline.vae, int(pipeline.vae_scale_factor)
        self._is_sdxl = isinstance(pipeline, StableDiffusionXLPipeline)
        self._fills = image_tasks.fills(pipeline)
        self._images = VaeImageProcessor(vae_scale_factor=self._scale)
        self._masks = VaeImageProcessor(
            vae_scale_factor=self._scale, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )

    def begin(self, params: GenerationParams, seed: int, dtype: torch.dtype) -> Begun:
        """Raises: schedulers.StepsError, torch.OutOfMemoryError, or what the autoencoder raises."""
        generator = torch.Generator("cpu").manual_seed(seed)
        schedule = self._schedule(params, generator, seed)
        if params.image is None:
            return Begun(schedule, schedule.start(self._noise(params, generator, dtype)))
        image = self._images.preprocess(to_pil(params.image), height=params.height_px, width=params.width_px)
        if params.task == INPAINT:
            return self._inpaint(params, image, schedule, generator, dtype)
        latents = self._encoded(image, generator, dtype, normalised=self._is_sdxl)
        return Begun(schedule, schedule.noised(latents, self._noise(params, generator, dtype)))

    def _schedule(self, params: GenerationParams, generator: torch.Generator, seed: int) -> Schedule:
        steps, skipped = params.num_inference_steps, params.num_inference_steps - params.steps_drawn
        if params.spreads_steps:
            scheduler = self._schedulers.make(params.scheduler, steps, strength=params.strength)
            return Schedule(scheduler, steps, generator, seed, vars(params))
        scheduler = self._schedulers.make(params.scheduler, steps)
        return Schedule(scheduler, steps, generator, seed, vars(params), skipped)

    def _inpaint(
        self,
        params: GenerationParams,
        image: torch.Tensor,  # (1, 3, H, W), -1 to 1
        schedule: Schedule,
        generator: torch.Generator,
        dtype: torch.dtype,
    ) -> Begun:
        if params.mask_image is None:
            raise ValueError("there is no mask")
        mask = self._masks.preprocess(to_pil(params.mask_image), height=params.height_px, width=params.width_px)
        masked = image * (mask < 0.5)
        size = (params.height_px // self._scale, params.width_px // self._scale)
        mask = torch.nn.functional.interpolate(mask, size=size).to(self._device, dtype)
        from_noise = params.strength == 1
        latents = None
        if not self._fills or not from_noise:
            latents = self._encoded(image, generator, dtype).contiguous()
        noise = self._noise(params, generator, dtype)
        start = schedule.start(noise) if from_noise or latents is None else schedule.noised(latents, noise)
        if self._fills:
            beside = torch.cat([mask, self._encoded(masked, generator, dtype)], dim=1)
            return Begun(schedule, start, beside=beside)
        self._noise(params, generator, dtype)  # diffusers encodes the masked image here too, and reads it never
        if latents is None:
            raise ValueError("there is no image")
        return Begun(schedule, start, kept=Kept(mask, latents, noise))

    def _noise(self, params: GenerationParams, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        height, width = params.height_px // self._scale, params.width_px // self._scale
        shape = (1, self._vae.config.latent_channels, height, width)
        noise: torch.Tensor = randn_tensor(shape, generator=generator, device=self._device, dtype=dtype)
        return noise

    def _encoded(
        self, image: torch.Tensor, generator: torch.Generator, dtype: torch.dtype, normalised: bool = False
    ) -> torch.Tensor:
        """(1, 3, H, W) -1 to 1 -> latents (1, C, h, w). `normalised`: by the mean that some autoencoders have."""
        with tiling.VAE_LOCK:
            image = image.to(self._device, dtype).to(self._vae.dtype)
            latents: torch.Tensor = self._vae.encode(image).latent_dist.sample(generator).to(dtype)
        config = self._vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if not normalised or mean is None or std is None:
            return config.scaling_factor * latents

        def of_channels(values: Any) -> torch.Tensor:
            return torch.tensor(values).view(1, -1, 1, 1).to(latents.device, latents.dtype)

        return (latents - of_channels(mean)) * config.scaling_factor / of_channels(std)


def to_pil(raw: RawImage) -> Image.Image:
    return Image.frombytes("RGB", (raw.width_px, raw.height_px), raw.rgb)
