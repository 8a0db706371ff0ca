"""The last stage: turns finished latents into pixels (autoencoder, safety checker), and running ones into previews.

Each image is decoded alone, so that its pixels are the same in any company.
Source: the ends of the pipelines' `__call__` in diffusers 0.42, VaeImageProcessor.postprocess
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from inference_server.engines import spoilt
from inference_server.engines.diffusers import cuda_errors, tiling
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.streams import empty_cache, mem_usage
from inference_server.engines.previews import PreviewMap


class NoPictureError(Exception):
    """What was decoded is no picture; the text says why."""


@dataclass(frozen=True)
class Unchecked:
    """A picture that the safety checker has not seen yet."""

    request: ActiveRequest
    index: int
    decoded: torch.Tensor  # (1, 3, H, W), -1 to 1
    pixels: Any  # (H, W, 3) uint8


class LatentDecoder:
    """Decodes the latents of one model, and has pictures checked. Each for one thread."""

    def __init__(self, loaded: LoadedPipeline, previews: PreviewMap) -> None:
        self._loaded, self._pipeline, self._device, self._previews = loaded, loaded.pipeline, loaded.device, previews
        pipeline = loaded.pipeline
        self._vae = pipeline.vae
        self._is_sdxl = isinstance(pipeline, StableDiffusionXLPipeline)
        if self._is_sdxl and self._vae.dtype == torch.float16 and self._vae.config.force_upcast:
            self._vae.to(dtype=torch.float32)  # overflows otherwise; diffusers does it again for each picture
        self._checker = loaded.checker  # the model's own comes first
        self._has_own_checker = getattr(pipeline, "safety_checker", None) is not None

    def finish(self, request: ActiveRequest, index: int, latents: torch.Tensor) -> Unchecked | None:
        """Tells picture `index` of the request; returns it instead where the safety checker is to see it first.

        Raises: NoPictureError, torch.OutOfMemoryError, or what the parts raise.
        """
        decoded = self._decode(latents)
        wrong, pixels = _look(request, decoded)
        if wrong and self._vae.dtype != torch.float32 and torch.isfinite(latents).all():
            with tiling.VAE_LOCK:
                self._vae.to(dtype=torch.float32)  # the latents are sound: from here on it decodes with more room
            decoded = self._decode(latents)
            wrong, pixels = _look(request, decoded)
        if wrong:
            if request.params.is_plain:
                self._loaded.on_spoilt(wrong)
            raise NoPictureError(spoilt.reason(wrong, self._loaded.precision))
        has_checker = self._has_own_checker or self._checker is not None
        unchecked = has_checker and request.params.safety_checker
        if not unchecked:
            request.finish(index, pixels, None, mem_usage())
        self._previews.learn(latents[0].float().cpu().numpy(), pixels)
        return Unchecked(request, index, decoded, pixels) if unchecked else None

    def check(self, picture: Unchecked) -> None:
        """Tells a picture that was decoded, once the safety checker has seen it. Raises: what the checker raises."""
        picture.request.finish(picture.index, picture.pixels, self._is_nsfw(picture), mem_usage())

    def preview(self, request: ActiveRequest, denoised: torch.Tensor) -> None:
        """Tells a preview of latents (1, C, h, w), if one can be made."""
        if not request.ended and (preview := self._previews.draw(denoised[0].float().cpu().numpy())) is not None:
            request.preview(preview)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(1, C, h, w) -> (1, 3, H, W), -1 to 1. In one piece, or in tiles where memory is too short for that."""
        with tiling.VAE_LOCK:
            return self._decode_alone(latents)

    def _decode_alone(self, latents: torch.Tensor) -> torch.Tensor:
        latents, scale = self._unscaled(latents).to(self._vae.dtype), int(self._pipeline.vae_scale_factor)
        area_px = latents.shape[-1] * latents.shape[-2] * scale * scale
        tiled_from_px = self._loaded.store.known.tiled_from_px
        if tiled_from_px is None or area_px < tiled_from_px:
            try:
                return self._decoded(latents)
            except Exception as exc:
                if not cuda_errors.is_out_of_memory(exc) or not hasattr(self._vae, "enable_tiling"):
                    raise
            empty_cache()
            self._loaded.store.learn(tiled_from_px=area_px)
        tiling.enable(self._vae, scale)
        try:
            return self._decoded(latents)
        finally:
            self._vae.disable_tiling()

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self._vae.decode(latents, return_dict=False)[0]
        return decoded

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        config = self._vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if not self._is_sdxl or mean is None or std is None:
            unscaled, shift = latents / config.scaling_factor, getattr(config, "shift_factor", None)
            return unscaled + shift if shift else unscaled

        def of_channels(values: Any) -> torch.Tensor:
            return torch.tensor(values).view(1, -1, 1, 1).to(latents.device, latents.dtype)

        return latents * of_channels(std) / config.scaling_factor + of_channels(mean)

    def _is_nsfw(self, picture: Unchecked) -> bool:
        """Whether the safety checker finds something. The model's own blackens its input, hence the copy."""
        if not self._has_own_checker:
            return self._checker is not None and self._checker.is_unfit(picture.pixels)
        dtype = self._pipeline.safety_checker.dtype
        _, found = self._pipeline.run_safety_checker(picture.decoded.clone(), self._device, dtype)
        return bool(found[0])


def _look(request: ActiveRequest, decoded: torch.Tensor) -> tuple[str | None, Any]:
    """What is wrong with a picture, and its pixels."""
    pixels = _to_pixels(decoded)
    if not torch.isfinite(decoded).all():
        return spoilt.NOT_A_NUMBER, pixels
    return None if request.number == spoilt.WARM_UP_NUMBER else spoilt.what_is_wrong(pixels), pixels


def _to_pixels(decoded: torch.Tensor) -> Any:
    """(1, 3, H, W) -1 to 1 -> (H, W, 3) uint8, rounded as diffusers does; on the device, so that less is copied."""
    shares = (decoded * 0.5 + 0.5).clamp(0, 1).float()
    return (shares * 255).round().to(torch.uint8)[0].permute(1, 2, 0).contiguous().cpu().numpy()


class DenoisedLatents:
    """Guesses, from one call of the UNet, the latents that an image is on its way to, for previews.

    All the offered schedulers show the UNet the same thing, whatever they keep themselves: a mix of picture and noise,
        input = sqrt(a) * x0 + sqrt(1 - a) * noise,     a = alphas_cumprod[timestep]
    so that one formula for each kind of prediction gives x0. Schedulers of the EDM family mix otherwise: no previews.
    Flow matching mixes in straight lines, input = (1 - s) * x0 + s * noise with s = timestep / 1000, and predicts
    noise - x0.
    Source: https://arxiv.org/abs/2010.02502 (epsilon), https://arxiv.org/abs/2202.00512 appendix D (v)
    """

    def __init__(self, own_scheduler: Any) -> None:
        """`own_scheduler`: the model's."""
        alphas = getattr(own_scheduler, "alphas_cumprod", None)
        self._alphas = [] if alphas is None else [float(alpha) for alpha in alphas]
        self._kind = str(getattr(own_scheduler.config, "prediction_type", "epsilon"))
        flows = type(own_scheduler).__name__.startswith("FlowMatch")
        self._flow_levels = float(own_scheduler.config.num_train_timesteps) if flows else None

    def guess(self, timestep: float, sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor | None:
        """x0 as float32 from the UNet's input and its prediction, all of one shape; None where it cannot be told."""
        if self._flow_levels is not None:
            return sample.float() - timestep / self._flow_levels * prediction.float()
        alpha = self._alpha(timestep)
        if alpha is None or alpha <= 0:  # the input holds nothing of the picture
            return None
        sample, prediction = sample.float(), prediction.float()
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        match self._kind:
            case "epsilon":
                return (sample - noise * prediction) / signal
            case "v_prediction":
                return signal * sample - noise * prediction
            case "sample":
                return prediction
        return None

    def _alpha(self, timestep: float) -> float | None:
        """Linear between two of the trained levels: timesteps may be fractions."""
        last = len(self._alphas) - 1
        if not 0 <= timestep <= last:
            return None
        below = int(timestep)
        above = min(below + 1, last)
        share = timestep - below
        return (1 - share) * self._alphas[below] + share * self._alphas[above]
