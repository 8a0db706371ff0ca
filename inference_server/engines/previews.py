"""Small previews of a picture in the making: a linear map from latents to colours, learned from finished pictures.

Decoding every step would cost as much as the picture. But a latent pixel says most of its colour linearly, so the map
is fitted by least squares on the last latents of finished pictures and their pixels, first at warm-up, better with
each picture since. Latents of early steps are mostly noise; what they would become (`DdimLevels`) shows the picture.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from inference_server.messages import RawImage

Array = npt.NDArray[np.float32]
MAX_FITTED_PIXELS = 4096  # of one picture; more say nothing new
FORGET = 0.9  # weight of everything before, at each new picture


class PreviewMap:
    """Latents (C, h, w) -> an RGB picture of h x w pixels. No preview before the first `learn`."""

    def __init__(self) -> None:
        self._xx: Array | None = None  # (C+1, C+1)
        self._xy: Array | None = None  # (C+1, 3)
        self._map: Array | None = None  # (C+1, 3)

    def learn(self, latents: Array, picture: npt.NDArray[np.uint8]) -> None:
        """Adds one finished picture: latents (C, h, w), picture (H, W, 3) with H and W multiples of h and w."""
        channels, h, w = latents.shape
        height, width, _ = picture.shape
        if channels > 64 or height % h or width % w:
            return  # packed latents (Flux, say): no map from these to places in the picture
        cells = picture.reshape(h, height // h, w, width // w, 3).mean(axis=(1, 3), dtype=np.float32).reshape(-1, 3)
        stride = max(1, len(cells) // MAX_FITTED_PIXELS)
        x, y = _rows(latents)[::stride], cells[::stride]
        xx: Array = np.float32(1 / len(x)) * (x.T @ x)
        xy: Array = np.float32(1 / len(x)) * (x.T @ y)
        if self._xx is None or self._xy is None:
            self._xx, self._xy = xx, xy
        else:
            self._xx = (FORGET * self._xx + (1 - FORGET) * xx).astype(np.float32)
            self._xy = (FORGET * self._xy + (1 - FORGET) * xy).astype(np.float32)
        ridge = 1e-3 * np.eye(channels + 1, dtype=np.float32)
        self._map = np.linalg.solve(self._xx + ridge, self._xy).astype(np.float32)

    def draw(self, latents: Array) -> RawImage | None:
        """The preview of latents (C, h, w), or None where none can be made."""
        channels, h, w = latents.shape
        if self._map is None or len(self._map) != channels + 1:
            return None
        rgb = np.clip(_rows(latents) @ self._map, 0, 255).astype(np.uint8)
        return RawImage(w, h, rgb.tobytes())


class DdimLevels:
    """The noise levels of a drawing of `num_steps` steps, from the scheduler's config.

    DDIM goes from x to x' along one line: with the alphas a, a' (cumulated products) of the two noise levels
        x  = sqrt(a)  * x0 + sqrt(1 - a)  * noise
        x' = sqrt(a') * x0 + sqrt(1 - a') * noise
    so that two latents in a row give x0, which shows the picture many steps before the latents themselves do.
    Source: https://arxiv.org/abs/2010.02502, eq. 12; the schedules as in diffusers' DDIMScheduler
    """

    def __init__(self, config: Mapping[str, Any], num_steps: int) -> None:
        train_steps = int(config.get("num_train_timesteps", 1000))
        alphas = _alphas(config, train_steps)
        times = _timesteps(config, train_steps, num_steps)
        last = 1.0 if config.get("set_alpha_to_one", True) else float(alphas[0])
        before = [int(time) - train_steps // num_steps for time in times]
        self._from = [float(alphas[time]) for time in times]
        self._to = [float(alphas[time]) if time >= 0 else last for time in before]

    def denoised(self, step: int, latents: Array, latents_after: Array) -> Array:
        """x0 from the latents before and after `step` (from 0)."""
        angle = np.arccos(np.sqrt(self._from[step]))
        angle_after = np.arccos(np.sqrt(self._to[step]))
        mixed = np.sin(angle_after) * latents - np.sin(angle) * latents_after
        denoised: Array = (mixed / np.sin(angle_after - angle)).astype(np.float32)
        return denoised


def _alphas(config: Mapping[str, Any], train_steps: int) -> npt.NDArray[np.float64]:
    """Cumulated products of 1 - beta, (train_steps,)."""
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    match config.get("beta_schedule", "linear"):
        case "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, train_steps) ** 2
        case "linear":
            betas = np.linspace(start, end, train_steps)
        case other:
            raise ValueError(f"beta_schedule {other!r} is not known here")
    alphas: npt.NDArray[np.float64] = np.cumprod(1 - betas)
    if config.get("rescale_betas_zero_snr"):  # shifted and scaled so that the last level holds no signal at all
        roots = np.sqrt(alphas)
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        alphas = roots**2
    return alphas


def _timesteps(config: Mapping[str, Any], train_steps: int, num_steps: int) -> npt.NDArray[np.int64]:
    """Falling, (num_steps,)."""
    match config.get("timestep_spacing", "leading"):
        case "trailing":
            times = np.round(np.arange(train_steps, 0, -train_steps / num_steps))[:num_steps] - 1
        case "linspace":
            times = np.linspace(0, train_steps - 1, num_steps).round()[::-1]
        case _:
            offset = int(config.get("steps_offset", 0))
            times = (np.arange(num_steps) * (train_steps // num_steps)).round()[::-1] + offset
    clipped: npt.NDArray[np.int64] = np.clip(times, 0, train_steps - 1).astype(np.int64)
    return clipped


def _rows(latents: Array) -> Array:
    """(C, h, w) -> (h*w, C+1), the last column ones."""
    flat = latents.reshape(latents.shape[0], -1).T
    return np.concatenate([flat, np.ones((len(flat), 1), np.float32)], axis=1)
