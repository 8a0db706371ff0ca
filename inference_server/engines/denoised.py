"""What a noisy picture would become: the denoised latents between two steps of DDIM, without asking the model again.

DDIM goes from x to x' along one line: with the alphas a, a' (cumulated products) of the two noise levels
    x  = sqrt(a)  * x0 + sqrt(1 - a)  * noise
    x' = sqrt(a') * x0 + sqrt(1 - a') * noise
so that two latents in a row give x0, which shows the picture many steps before the latents themselves do.
Source: https://arxiv.org/abs/2010.02502, eq. 12; the schedules as in diffusers' DDIMScheduler
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class DdimLevels:
    """The noise levels of a drawing of `num_steps` steps, from the scheduler's config."""

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
