"""The schedulers: which ones a model accepts, one image's scheduler with its history, and the noise that some add.

A scheduler of diffusers keeps the history of the picture it works on, so every image has an instance of its own. Its
timesteps stay on the CPU and it is told where it begins: looked up on a GPU, each step of each image would wait for it.
Source: https://huggingface.co/docs/diffusers/api/schedulers/overview
"""

import copy
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import torch
from diffusers.utils import torch_utils

from inference_server.engines import short_reason
from inference_server.engines.scheduler_names import KNOWN, class_of

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
# It copies noise levels to the latents' device in each step, and waits for the GPU each time: they lie there.
READS_SIGMAS_ON_DEVICE = ("UniPCMultistepScheduler",)
TRIAL_STEPS, TRIAL_LEVELS = 4, 20  # few levels: some schedulers take as long as there are levels
PNDM_START_STEPS = 4  # it starts with so many Runge-Kutta steps, unless told to skip them


class StepsError(Exception):
    """The scheduler cannot draw in this number of steps."""


def offered(own: Any) -> tuple[str, ...]:
    """The schedulers that draw with a model whose own is `own`: class names, that one's first, then known names."""
    name = type(own).__name__
    if "FlowMatch" in name or getattr(own.config, "use_flow_sigmas", False):
        return (name,)
    others = sorted(kind.__name__ for kind in own.compatibles if kind.__name__ != name)
    classes = (name, *(other for other in others if _works(own, other)))
    return (*classes, *(known for known, (kind, _) in KNOWN.items() if kind in classes and _works(own, known)))


def new(own: Any, name: str, **options: Any) -> Any:
    """A scheduler of this class (or known name) with the model's own settings, and `options` instead of some."""
    kind, settings = class_of(name)
    return getattr(diffusers, kind).from_config(own.config, **settings, **options)


class SchedulerMaker:
    """Makes schedulers of any class for one model, each class from scratch once: some take half a second for that."""

    def __init__(self, own: Any, device: torch.device = CPU) -> None:
        """`device`: of the latents."""
        self._own, self._device = own, device
        self._unused: dict[str, Any] = {}
        self._lms_coefficients: dict[tuple[str, int], Callable[..., float]] = {}  # by name and number of steps

    def make(self, name: str, num_steps: int, **options: Any) -> Any:
        """One without a history, its timesteps set; `options`: of `set_timesteps`. Raises: StepsError."""
        scheduler = self._make(name, num_steps, **options)
        if class_of(name)[0] == "LMSDiscreteScheduler":  # integrates numerically at each step, the same for all images
            if (name, num_steps) not in self._lms_coefficients:
                integrate = self._make(name, num_steps).get_lms_coefficient
                self._lms_coefficients[name, num_steps] = functools.cache(integrate)
            scheduler.get_lms_coefficient = self._lms_coefficients[name, num_steps]
        return scheduler

    def _make(self, name: str, num_steps: int, **options: Any) -> Any:
        if name not in self._unused:
            self._unused[name] = new(self._own, name)
        scheduler = copy.deepcopy(self._unused[name])
        if name == "PNDMScheduler" and num_steps < PNDM_START_STEPS:
            scheduler.register_to_config(skip_prk_steps=True)
        try:
            scheduler.set_timesteps(num_steps, device="cpu", **options)
        except Exception as exc:
            reason = short_reason(exc)
            raise StepsError(f"{name} cannot draw in {num_steps} steps with this model: {reason}") from exc
        if class_of(name)[0] in READS_SIGMAS_ON_DEVICE:
            scheduler.sigmas = scheduler.sigmas.to(self._device)
        return scheduler


def _works(own: Any, name: str) -> bool:
    """Whether it can be made here and takes a step: some want packages, or predictions of one kind."""
    try:
        scheduler = new(own, name, num_train_timesteps=TRIAL_LEVELS)
        scheduler.set_timesteps(TRIAL_STEPS, device="cpu")
        schedule = Schedule(scheduler, TRIAL_STEPS, torch.Generator().manual_seed(0), seed=0)
        latents = torch.zeros(1, 4, 8, 8)
        schedule.advance(schedule.scaled(latents), latents)
    except Exception as exc:
        log.info("%s does not work with this model: %s", name, exc)
        return False
    return True


class Schedule:
    """The way of one image from noise to picture, one call of the UNet after the other."""

    def __init__(
        self,
        scheduler: Any,
        num_steps: int,
        generator: torch.Generator,
        seed: int,
        parameters: Mapping[str, Any] | None = None,
        skipped_steps: int = 0,
    ) -> None:
        """`scheduler`: new, set for `num_steps`. `generator` makes the first noise and then what the steps add.

        `parameters`: the request's, by name; the scheduler's `step` gets those that it takes. `skipped_steps`: at the
        beginning, of an image that begins as a picture with noise on it.
        """
        first_call = skipped_steps * int(getattr(scheduler, "order", 1))
        if hasattr(scheduler, "noise_sampler_seed"):
            scheduler.noise_sampler_seed = seed  # DPMSolverSDEScheduler takes no generator
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first_call)
        self._scheduler, self._num_steps = scheduler, num_steps - skipped_steps
        self._timesteps: list[torch.Tensor] = list(scheduler.timesteps)[first_call:]
        self._levels = [float(timestep) for timestep in self._timesteps]
        self._options = _step_options(scheduler, {"eta": 0.0, **(parameters or {}), "generator": generator})
        self.calls_done = 0

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """The latents before the first step."""
        return noise * self._scheduler.init_noise_sigma

    def noised(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A picture's latents with as much of the noise on them as the next call expects."""
        noised: torch.Tensor = self._scheduler.add_noise(latents, noise, self._timesteps[self.calls_done].reshape(1))
        return noised

    @property
    def timestep(self) -> float:
        """The timestep of the next call."""
        return self._levels[self.calls_done]

    @property
    def done(self) -> bool:
        return self.calls_done >= len(self._timesteps)

    @property
    def steps_done(self) -> int:
        """How many of the request's steps are done; a scheduler may call the UNet twice for one."""
        return self.calls_done * self._num_steps // len(self._timesteps)

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The latents as the network reads them."""
        if not hasattr(self._scheduler, "scale_model_input"):  # flow matching
            return latents
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self._timesteps[self.calls_done])
        return scaled

    def advance(self, prediction: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The latents after one call of the UNet, both (1, C, h, w)."""
        timestep = self._timesteps[self.calls_done]
        after: torch.Tensor = self._scheduler.step(prediction, timestep, latents, **self._options, return_dict=False)[0]
        self.calls_done += 1
        return after


def _step_options(scheduler: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the scheduler takes, as the pipelines' own `prepare_extra_step_kwargs` picks them."""
    taken = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in options.items() if name in taken}


def use_pinned_noise() -> int:
    """Has all schedulers imported so far take their noise from `randn_tensor` below; returns how many there are."""
    taken = 0
    for name, module in tuple(sys.modules.items()):
        if name.startswith("diffusers.schedulers.scheduling_") and hasattr(module, "randn_tensor"):
            module.randn_tensor = randn_tensor  # type: ignore[attr-defined]
            taken += 1
    return taken


def randn_tensor(
    shape: tuple[int, ...],
    generator: Any = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    layout: Any = None,
) -> torch.Tensor:
    """The numbers of diffusers' own function, copied to the GPU without waiting for it.

    diffusers draws them on the CPU, from the image's own generator, into memory that the GPU cannot read by itself.
    Such a copy waits until the running step is done, and the GPU then waits for Python, at every step.
    """
    on_gpu = device is not None and torch.device(device).type == "cuda"
    if not on_gpu or not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        return torch_utils.randn_tensor(shape, generator=generator, device=device, dtype=dtype, layout=layout)
    return cpu_noise(shape, generator, dtype, pinned=True).to(device, non_blocking=True)


def cpu_noise(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype | None, pinned: bool
) -> torch.Tensor:
    """The numbers on the CPU; `pinned`: in memory that a GPU reads by itself (there must be one)."""
    return torch.randn(shape, generator=generator, dtype=dtype, pin_memory=pinned)
