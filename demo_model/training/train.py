"""Teaches the UNet and the text encoder together: `python -m demo_model.training.train --steps 20000`.

It goes on from the run's last state, or else from `--start` weights. The learning rate stays flat, then falls to zero
over the last `--decay` of the steps. Where the time is given and not the steps, `--hours 2`, both count in time. A step
of 64 samples takes two cores 1.3 s, or 0.65 s where they multiply bf16.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo_model.training import networks
from demo_model.training.batches import Batch, Batches
from demo_model.training.muon import Muon
from demo_model.training.run_folder import DEFAULT, RunFolder
from demo_model.training.stopping import Stop, running

_NOISY_SHARE = 0.6  # of the samples have the noisier of two levels: there the sentence decides
_WARM_UP_STEPS = 50
_QUARTERS = 4


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    steps: int
    hours: float | None  # from the start of the program; replaces the steps
    batch: int
    lr: float  # AdamW's
    lr_muon: float
    decay: float  # the share of the steps or hours, at the end, over which the learning rate falls to zero
    averaging: float  # how much of the averaged weights stays in a step
    seed: int
    report_every_steps: int
    save_every_s: float

    def left(self, step: int, passed_s: float) -> float:
        """Returns how much of the training is left, 1 to 0 and below."""
        return 1 - step / self.steps if self.hours is None else 1 - passed_s / 3600 / self.hours

    def rate(self, left: float, since_start: int) -> float:
        """Returns the factor of the learning rates, 0 to 1; a restart warms up shortly."""
        return min(1.0, (since_start + 1) / _WARM_UP_STEPS) * min(1.0, max(0.0, left) / self.decay)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model.training.train", description=__doc__)
    parser.add_argument("--run", type=Path, default=DEFAULT, help="the training run's folder (default: %(default)s)")
    parser.add_argument("--start", type=Path, help="weights to begin with where the run has no state yet")
    parser.add_argument("--steps", type=int, default=20_000, help="in all, earlier sittings included")
    parser.add_argument("--hours", type=float, help="train so long from now, however many steps that makes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--lr-muon", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.4)
    parser.add_argument("--averaging", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report-every-steps", type=int, default=25)
    parser.add_argument("--save-every-s", type=float, default=180.0)
    values = vars(parser.parse_args())
    run, start = RunFolder(values.pop("run")), values.pop("start")
    with running(run.pid) as stop:
        Training(run, Plan(**values), start).go(stop)


class Report:
    """The losses since the last line, by quarters of the noise levels (least noise first), and the pace."""

    def __init__(self, first_step: int) -> None:
        self.first_step = first_step
        self._begun = time.monotonic()
        self._losses, self._counts = np.zeros(_QUARTERS), np.zeros(_QUARTERS)

    def add(self, errors: np.ndarray, quarters: np.ndarray) -> None:
        np.add.at(self._losses, quarters, errors)
        np.add.at(self._counts, quarters, 1)

    def line(self, step: int) -> str:
        """Returns the line for a step, and begins anew."""
        by_noise = " ".join(f"{loss:.3f}" for loss in self._losses / np.maximum(self._counts, 1))
        mean = self._losses.sum() / self._counts.sum()
        pace_s = (time.monotonic() - self._begun) / (step - self.first_step)
        self._losses[:], self._counts[:] = 0, 0
        return f"{step} loss {mean:.4f}, by noise {by_noise}, {pace_s:.2f} s a step"


class Training:
    """The networks, their optimisers and the averaged weights, at some step."""

    def __init__(self, run: RunFolder, plan: Plan, start: Path | None) -> None:
        torch.set_flush_denormal(True)  # else a step becomes slower and slower
        self._run, self._plan = run, plan
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._half_precision = self._device == "cuda" or torch.cpu._is_avx512_bf16_supported()
        self._unet = networks.make_unet().to(self._device)
        self._text = networks.make_text_encoder().to(self._device)
        self._weights: dict[str, Tensor] = {
            f"{part}.{name}": weight
            for part, module in (("unet", self._unet), ("text", self._text))
            for name, weight in module.named_parameters()
        }
        if start is not None:
            loaded = load_file(start)
            for name, weight in self._weights.items():
                weight.data.copy_(loaded[f"raw.{name}"])
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._optimisers = self._make_optimisers()
        self._step = 0
        if run.state.exists():
            self._load()
        torch.manual_seed(plan.seed + self._step)
        self._batches = Batches(run, plan.seed + self._step, self._device)
        signal_shares = DDIMScheduler.from_config(networks.SCHEDULER).alphas_cumprod.to(self._device)
        self._signal, self._noise = signal_shares.sqrt(), (1 - signal_shares).sqrt()  # (1000,) each

    def _make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for matrices and convolutions, AdamW for all else."""
        matrices = {
            name: weight
            for name, weight in self._weights.items()
            if weight.ndim >= 2 and not any(part in name for part in ("embed", "conv_in", "conv_out"))
        }
        others = [weight for name, weight in self._weights.items() if name not in matrices]
        adam = torch.optim.AdamW(others, self._plan.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        return [adam, Muon(matrices.values(), self._plan.lr_muon)]

    def go(self, stop: Stop) -> None:
        """Trains up to the plan's last step, or until asked to stop; keeps the state every few minutes."""
        plan, report, begun, flat = self._plan, Report(self._step), time.monotonic(), True
        saved = begun
        end = f"{plan.hours} hours" if plan.hours else f"step {plan.steps}"
        print(f"{len(self._batches)} samples, step {self._step}, up to {end}, on {self._device}", flush=True)
        while (left := plan.left(self._step, time.monotonic() - begun)) > 0 and not stop:
            if flat and left <= plan.decay:
                flat = False
                self._save(self._run.flat_state)
            rate = plan.rate(left, self._step - report.first_step)
            self._set_rates(rate)
            report.add(*self._learn(self._batches.draw(plan.batch)))
            if self._step % plan.report_every_steps == 0:
                print(f"{report.line(self._step)}, rate {rate:.2f}, {len(self._batches)} samples", flush=True)
                self._batches.take_up_new_files()
            if time.monotonic() - saved > plan.save_every_s:
                self._save(self._run.state)
                saved = time.monotonic()
        self._save(self._run.state)

    def _set_rates(self, factor: float) -> None:
        for optimiser, rate in zip(self._optimisers, (self._plan.lr, self._plan.lr_muon), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    def _learn(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Takes one step; returns the error of each sample and the quarter, 0 to 3, of its noise level."""
        error, levels = self._errors(batch)
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        error.mean().backward()
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
        self._step += 1
        keep = min(self._plan.averaging, (self._step + 1) / (self._step + 20))
        weights = [weight.detach() for weight in self._weights.values()]
        torch._foreach_lerp_(list(self._average.values()), weights, 1 - keep)
        return error.detach().cpu().numpy(), (levels * _QUARTERS // len(self._signal)).cpu().numpy()

    def _errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns for each sample the squared error of the predicted v, and its noise level, 0 to 999."""
        number = len(batch.latents)
        draws = torch.rand(2, number, device=self._device)
        noisy = torch.rand(number, device=self._device) < _NOISY_SHARE
        levels = (torch.where(noisy, draws.amax(0), draws[0]) * len(self._signal)).long().clamp(max=999)
        signal, noise_share = (part[levels].view(-1, 1, 1, 1) for part in (self._signal, self._noise))
        noise = torch.randn_like(batch.latents)
        noised = signal * batch.latents + noise_share * noise
        with torch.autocast(self._device, torch.bfloat16, enabled=self._half_precision):
            prompt = self._text(batch.tokens).last_hidden_state
            predicted = self._unet(noised, levels, prompt, return_dict=False)[0]
        wanted = signal * noise - noise_share * batch.latents
        return (predicted.float() - wanted).pow(2).mean((1, 2, 3)), levels

    def _save(self, path: Path) -> None:
        """Writes the state and the weights; each file appears whole."""
        raw = {name: weight.detach() for name, weight in self._weights.items()}
        optimisers = [optimiser.state_dict() for optimiser in self._optimisers]
        content = {"raw": raw, "average": self._average, "optimisers": optimisers, "step": self._step}
        unfinished = path.with_suffix(".tmp")
        torch.save(content, unfinished)
        unfinished.rename(path)
        halves = {
            f"{kind}.{name}": weight.half().cpu().contiguous()
            for kind, weights in (("ema", self._average), ("raw", raw))
            for name, weight in weights.items()
        }
        unfinished = self._run.checkpoint.with_suffix(".tmp")
        save_file(halves, unfinished, {"step": str(self._step)})
        unfinished.rename(self._run.checkpoint)
        print(f"{path.name} written at step {self._step}", flush=True)

    def _load(self) -> None:
        content = torch.load(self._run.state, map_location=self._device, weights_only=True)
        for name, weight in self._weights.items():
            weight.data.copy_(content["raw"][name])
            self._average[name].copy_(content["average"][name])
        for optimiser, state in zip(self._optimisers, content["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self._step = content["step"]


if __name__ == "__main__":
    main()
