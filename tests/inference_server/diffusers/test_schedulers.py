"""All schedulers that a model offers draw what diffusers' own call draws with them."""

import sys
from collections.abc import Iterator

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils.torch_utils import randn_tensor

from inference_server.engines.diffusers import schedulers
from inference_server.engines.diffusers.decode import DenoisedLatents
from inference_server.engines.scheduler_names import KNOWN
from tests.support.diffusers_channel import Rig, difference, order, own_picture, with_eta

pytestmark = pytest.mark.slow

ALL = tuple(KarrasDiffusionSchedulers.__members__)


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


def test_a_model_offers_all_schedulers_that_are_compatible_with_its_own() -> None:
    """All of diffusers' for Stable Diffusion are there, the model's own first; and the names that people know."""
    offered = schedulers.offered(DDIMScheduler())
    assert offered[0] == "DDIMScheduler"
    assert set(offered) == set(ALL) | set(KNOWN)


def test_a_flow_matching_model_offers_its_own_alone() -> None:
    """The others would draw noise."""
    assert schedulers.offered(FlowMatchEulerDiscreteScheduler()) == ("FlowMatchEulerDiscreteScheduler",)


@pytest.mark.parametrize("scheduler", [*ALL, "DPM++ 2M Karras", "DPM++ 2M SDE"])
def test_a_scheduler_draws_what_diffusers_draws_with_it(rig: Rig, scheduler: str) -> None:
    """Noise on the way included: it comes from the image's own generator."""
    one = order(scheduler=scheduler, num_inference_steps=5)
    assert difference(rig.draw(one).picture_of(1), own_picture("sd", one.params)) == 0


def test_noise_levels_that_are_read_on_the_device_lie_there() -> None:
    """UniPC would copy five of them in each step, and wait for the GPU each time; the others read theirs on the CPU."""
    maker = schedulers.SchedulerMaker(DDIMScheduler(), torch.device("meta"))
    assert maker.make("UniPCMultistepScheduler", 4).sigmas.is_meta
    assert not maker.make("DPM++ 2M", 4).sigmas.is_meta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_noise_that_does_not_wait_for_a_gpu_is_the_same_noise(dtype: torch.dtype) -> None:
    """What is drawn for a GPU, before it is copied there, are the numbers of diffusers' own function, in any precision.

    The copy itself (pinned memory, not waited for) takes a GPU: see the next test for that.
    """
    shape, ours_from, theirs_from = (1, 4, 8, 8), torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for _ in range(2):  # the generator goes on as theirs does
        ours = schedulers.cpu_noise(shape, ours_from, dtype, pinned=False)
        assert torch.equal(ours, randn_tensor(shape, theirs_from, torch.device("cpu"), dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")
def test_noise_reaches_a_gpu_whole() -> None:
    """After the copy the GPU has what diffusers' own function gives it."""
    gpu, seed = torch.device("cuda"), 3
    ours = schedulers.randn_tensor((1, 4, 8, 8), torch.Generator().manual_seed(seed), gpu, torch.float16)
    theirs = randn_tensor((1, 4, 8, 8), torch.Generator().manual_seed(seed), gpu, torch.float16)
    assert torch.equal(ours, theirs)


@pytest.fixture
def schedulers_own_noise() -> Iterator[None]:
    """Afterwards all schedulers take their noise from where they did before."""
    modules = [module for name, module in sys.modules.items() if name.startswith("diffusers.schedulers.")]
    before = [(module, module.randn_tensor) for module in modules if hasattr(module, "randn_tensor")]
    yield
    for module, function in before:
        module.randn_tensor = function  # type: ignore[attr-defined]


@pytest.mark.usefixtures("schedulers_own_noise")
def test_schedulers_that_add_noise_take_it_from_there(rig: Rig) -> None:
    """All of diffusers' are told so; on the CPU their pictures stay what they were."""
    one = order(scheduler="EulerAncestralDiscreteScheduler")
    before = own_picture("sd", one.params)
    assert schedulers.use_pinned_noise() >= 5
    for scheduler in ("euler_ancestral_discrete", "ddpm", "lcm", "k_dpm_2_ancestral_discrete"):
        assert sys.modules[f"diffusers.schedulers.scheduling_{scheduler}"].randn_tensor is schedulers.randn_tensor
    assert difference(rig.draw(one).picture_of(1), before) == 0


def test_a_parameter_that_schedulers_know_reaches_them_by_its_own_name(rig: Rig) -> None:
    """A new field of a request's parameters needs nothing in the engine: DDIM's eta has its effect."""
    one = with_eta(order(), 1.0)
    picture = rig.draw(one).picture_of(1)
    assert difference(picture, own_picture("sd", one.params, eta=1.0)) == 0
    assert difference(picture, own_picture("sd", one.params)) > 0


@pytest.mark.parametrize("num_steps", [1, 2, 3, 250])
def test_a_scheduler_takes_any_number_of_steps(num_steps: int) -> None:
    """Also PNDM in fewer steps than its start has; the steps that are told end with the number asked for."""
    own = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    maker = schedulers.SchedulerMaker(own)
    for name in ("PNDMScheduler", "DEISMultistepScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"):
        generator = torch.Generator().manual_seed(0)
        schedule = schedulers.Schedule(maker.make(name, num_steps), num_steps, generator, seed=0)
        latents = schedule.start(torch.randn(1, 4, 4, 4, generator=generator))
        while not schedule.done:
            latents = schedule.advance(schedule.scaled(latents), latents)
        assert schedule.steps_done == num_steps
        assert torch.isfinite(latents).all()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_original_is_found_in_a_mix_of_picture_and_noise(kind: str) -> None:
    """A perfect prediction of any kind gives back the picture, for previews."""
    scheduler = DDIMScheduler(prediction_type=kind)
    alpha = float(scheduler.alphas_cumprod[400])
    picture, noise = torch.randn(2, 1, 4, 8, 8).unbind()
    seen = alpha**0.5 * picture + (1 - alpha) ** 0.5 * noise
    velocity = alpha**0.5 * noise - (1 - alpha) ** 0.5 * picture
    prediction = {"epsilon": noise, "v_prediction": velocity, "sample": picture}[kind]
    found = DenoisedLatents(scheduler).guess(400.0, seen, prediction)
    assert found is not None
    assert torch.allclose(found, picture, atol=1e-4)


def test_there_is_no_original_where_there_is_no_level() -> None:
    """A timestep beyond the trained ones, as EDM schedulers have, gives no preview."""
    assert DenoisedLatents(DDIMScheduler()).guess(-0.4, torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)) is None
