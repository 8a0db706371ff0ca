"""Trains the autoencoder of pictures: `python -m demo_model.training.train_autoencoder --steps 4000`.

First on crops of 128 pixels, then, for the last `--whole` of the steps, on whole pictures. It goes on from the run's
last state. A step (of 8 crops or 2 pictures) is about 2 s of one core without bf16, 0.4 s on two with it.
When it is done, samples are made anew: those of another autoencoder no longer fit.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo_model.training import networks
from demo_model.training.composer import Composer
from demo_model.training.concepts import concepts
from demo_model.training.run_folder import DEFAULT, RunFolder
from demo_model.training.scenes import SceneLottery
from demo_model.training.stopping import Stop, running

_KL, _LATENT_NOISE = 3e-4, 0.08  # keep the latents smooth, so that small errors of the UNet do not show
_CROP = 128  # pixels: a quarter of a picture
_SWAPPED = 0.2  # of the pictures have their colour channels in another order: colours that no icon has
_LARGE_KEPT = 0.4  # of the single things, which are easy; the rest make way for small ones
_LEARNING_RATE = 6e-4
_AVERAGING = 0.995
_PICTURES_TO_MEASURE, _BATCH_TO_MEASURE = 256, 16
_WARM_UP_STEPS, _REPORT_EVERY = 50, 25


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model.training.train_autoencoder", description=__doc__)
    parser.add_argument("--run", type=Path, default=DEFAULT, help="the training run's folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4000, help="in all, earlier sittings included")
    parser.add_argument("--batch", type=int, default=8, help="crops; of whole pictures a quarter as many")
    parser.add_argument(
        "--whole", type=float, default=0.3, help="the share of the steps, at the end, on whole pictures"
    )
    parser.add_argument("--decay", type=float, default=0.4, help="the share of the steps with a falling learning rate")
    parser.add_argument("--save-every-s", type=float, default=180.0)
    values = vars(parser.parse_args())
    run = RunFolder(values.pop("run"))
    with running(run.pid) as stop:
        AutoencoderTraining(run, Plan(**values)).go(stop)


@dataclass(frozen=True)
class Plan:
    """How long to train, and on how many crops at a time."""

    steps: int
    batch: int
    whole: float
    decay: float
    save_every_s: float

    def rate(self, step: int, since_start: int) -> float:
        """Returns the learning rate at a step; a restart warms up shortly."""
        falling = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return _LEARNING_RATE * min(1.0, (since_start + 1) / _WARM_UP_STEPS) * falling


class AutoencoderTraining:
    """The autoencoder, its optimiser and its averaged weights, at some step."""

    def __init__(self, run: RunFolder, plan: Plan) -> None:
        torch.set_flush_denormal(True)  # else a step becomes slower and slower
        self._run, self._plan, self._step = run, plan, 0
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._autoencoder = networks.make_autoencoder().to(self._device)
        if run.autoencoder.exists():
            loaded = {name: value.float() for name, value in load_file(run.autoencoder).items()}
            self._autoencoder.load_state_dict(loaded)
        self._optimiser = torch.optim.AdamW(
            self._autoencoder.parameters(), _LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01
        )
        self._average = {name: value.detach().clone() for name, value in self._autoencoder.state_dict().items()}
        if run.autoencoder_state.exists():
            self._load()
        torch.manual_seed(self._step)
        self._pictures = _Pictures(run, self._step)

    def go(self, stop: Stop) -> None:
        """Trains up to the plan's last step, then replaces the run's autoencoder; keeps its state if asked to stop."""
        plan, first, begun, error = self._plan, self._step, time.monotonic(), 0.0
        saved = begun
        while self._step < plan.steps and not stop:
            for group in self._optimiser.param_groups:
                group["lr"] = plan.rate(self._step, self._step - first)
            whole = self._step >= plan.steps * (1 - plan.whole)
            square = self._learn(self._pictures.whole(plan.batch // 4) if whole else self._pictures.crops(plan.batch))
            error = square if error == 0 else error + 0.02 * (square - error)
            if self._step % _REPORT_EVERY == 0:
                pace_s = (time.monotonic() - begun) / (self._step - first)
                print(f"{self._step} squared error {error:.5f}, {pace_s:.2f} s a step", flush=True)
            if time.monotonic() - saved > plan.save_every_s:
                self._save()
                saved = time.monotonic()
        self._save()
        if self._step >= plan.steps and self._step > first:
            self._export()

    def _export(self) -> None:
        """Writes the averaged weights, with latents of mean 0 and variance 1, as the run's autoencoder."""
        autoencoder = networks.make_autoencoder().to(self._device)
        autoencoder.load_state_dict(self._average)
        with torch.no_grad():
            batches = [
                self._pictures.whole(_BATCH_TO_MEASURE) for _ in range(_PICTURES_TO_MEASURE // _BATCH_TO_MEASURE)
            ]
            autoencoder.normalise(torch.cat([autoencoder.latents(batch.to(self._device))[0] for batch in batches]))
        weights = {name: value.cpu().contiguous() for name, value in autoencoder.state_dict().items()}
        unfinished = self._run.autoencoder.with_suffix(".tmp")
        save_file(weights, unfinished)
        unfinished.rename(self._run.autoencoder)

    def _learn(self, pictures: Tensor) -> float:
        """Takes one step; returns the mean squared error of the pictures."""
        loss, mean_square = _loss(self._autoencoder, pictures.to(self._device))
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._autoencoder.parameters(), 1.0)
        self._optimiser.step()
        self._step += 1
        keep = min(_AVERAGING, (self._step + 1) / (self._step + 20))
        for name, value in self._autoencoder.state_dict().items():
            self._average[name].lerp_(value, 1 - keep)
        return mean_square

    def _save(self) -> None:
        content = {
            "weights": self._autoencoder.state_dict(),
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
            "step": self._step,
        }
        unfinished = self._run.autoencoder_state.with_suffix(".tmp")
        torch.save(content, unfinished)
        unfinished.rename(self._run.autoencoder_state)
        print(f"state kept at step {self._step}", flush=True)

    def _load(self) -> None:
        content = torch.load(self._run.autoencoder_state, map_location=self._device, weights_only=True)
        self._autoencoder.load_state_dict(content["weights"])
        self._optimiser.load_state_dict(content["optimiser"])
        self._average, self._step = content["average"], content["step"]


class _Pictures:
    """Draws training pictures, float (n, 3, side, side) from -1 to 1."""

    def __init__(self, run: RunFolder, seed: int) -> None:
        self._composer = Composer(concepts(), run.npm)
        self._rng = np.random.default_rng((7, seed))
        self._lottery = SceneLottery(concepts(), self._composer.colourable, self._rng)

    def _picture(self) -> Tensor:
        while True:
            scene = self._lottery.draw()
            if scene.kind != "single" or scene.place or self._rng.random() < _LARGE_KEPT:
                break
        picture = torch.from_numpy(self._composer.picture(scene)).permute(2, 0, 1).float() / 127.5 - 1
        order = self._rng.permutation(3) if self._rng.random() < _SWAPPED else np.arange(3)
        return picture[torch.from_numpy(order)]

    def whole(self, number: int) -> Tensor:
        return torch.stack([self._picture() for _ in range(number)])

    def crops(self, number: int) -> Tensor:
        return torch.stack([self._crop() for _ in range(number)])

    def _crop(self) -> Tensor:
        """Returns a part of a picture that is not all of one colour."""
        while True:
            picture = self._picture()
            top, left = self._rng.integers(0, (networks.PIXELS - _CROP) // networks.CELL + 1, 2) * networks.CELL
            crop = picture[:, top : top + _CROP, left : left + _CROP]
            if crop.std() > 0.15:
                return crop


def _loss(autoencoder: networks.Autoencoder, pictures: Tensor) -> tuple[Tensor, float]:
    """Returns the loss and, of the pictures, the mean squared error."""
    mean, log_variance = autoencoder.latents(pictures)
    spread = (log_variance.exp() + _LATENT_NOISE**2).sqrt()
    decoded = autoencoder.pictures(mean + torch.randn_like(mean) * spread).float()
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return _difference(decoded, pictures) + _KL * divergence, F.mse_loss(decoded, pictures).item()


def _difference(decoded: Tensor, pictures: Tensor) -> Tensor:
    """Returns how unlike the pictures look: values, edges, colours, and how white the white ground is."""
    error = decoded - pictures
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    chroma = error - error[:, [1, 2, 0]]
    white = (pictures > 0.999).all(dim=1, keepdim=True)
    off_white = (error.abs() * white).sum() / (white.sum() * 3 + 1)
    return (
        error.abs().mean()
        + 2 * error.square().mean()
        + edges
        + chroma.abs().mean()
        + 2 * chroma.square().mean()
        + off_white
    )


if __name__ == "__main__":
    main()
