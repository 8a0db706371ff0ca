"""What a picture would become, guessed from one call of the UNet: the denoised latents, for previews.

All the offered schedulers show the UNet the same thing, whatever they keep themselves: a mix of picture and noise,
    input = sqrt(a) * x0 + sqrt(1 - a) * noise,     a = alphas_cumprod[timestep]
so that one formula for each kind of prediction gives x0.
Source: https://arxiv.org/abs/2010.02502 (epsilon), https://arxiv.org/abs/2202.00512 appendix D (v)
"""

from typing import Any

import torch


class PredictedOriginal:
    """For one model; only schedulers of the EDM family mix otherwise and have no previews."""

    def __init__(self, own_scheduler: Any) -> None:
        alphas = getattr(own_scheduler, "alphas_cumprod", None)
        self._alphas = [] if alphas is None else [float(alpha) for alpha in alphas]
        self._kind = str(getattr(own_scheduler.config, "prediction_type", "epsilon"))

    def latents(self, timestep: float, seen: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor | None:
        """x0 as float32; `seen` is the UNet's input, `prediction` what it said, both of one shape."""
        alpha = self._alpha(timestep)
        if alpha is None or alpha <= 0:  # nothing of the picture in the input: nothing to be guessed
            return None
        seen, prediction = seen.float(), prediction.float()
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        match self._kind:
            case "epsilon":
                return (seen - noise * prediction) / signal
            case "v_prediction":
                return signal * seen - noise * prediction
            case "sample":
                return prediction
        return None

    def _alpha(self, timestep: float) -> float | None:
        """Between two of the trained levels linearly: timesteps may be fractions."""
        last = len(self._alphas) - 1
        if not 0 <= timestep <= last:
            return None
        below = int(timestep)
        above = min(below + 1, last)
        share = timestep - below
        return (1 - share) * self._alphas[below] + share * self._alphas[above]
