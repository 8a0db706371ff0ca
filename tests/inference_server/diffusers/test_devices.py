"""Which device and precision are taken, and what is said of a GPU that cannot be used. There is none here."""

from pathlib import Path

import pytest
import torch

from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers import devices, precision
from inference_server.engines.diffusers.devices import Card, NoGpuError, UnfitGpuError
from inference_server.engines.diffusers.family import Family
from inference_server.engines.diffusers.family_rows import FAMILIES

pytestmark = [pytest.mark.slow]

TURING, AMPERE = Card("RTX 2080", (7, 5)), Card("RTX 3060", (8, 6))
BUILT_FOR = ("sm_75", "sm_80", "sm_90", "sm_120", "compute_120")


def family(name: str) -> Family:
    return next(row for row in FAMILIES if row.name == name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_gpu_that_cannot_be_reached_is_never_a_silent_cpu(tmp_path: Path) -> None:
    """NVIDIA's driver is loaded and PyTorch sees nothing: that is told, unless the CPU was asked for."""
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    with pytest.raises(NoGpuError, match=r"driver here is 550\.54\.15.*needs 580 or newer.*INFERENCE_DEVICE=cpu") as no:
        devices.choose_device(None, driver)
    assert no.value.code == "NO_GPU"
    assert devices.choose_device("cpu", driver) == torch.device("cpu")
    assert devices.choose_device(None, tmp_path / "none") == torch.device("cpu")


def test_a_driver_that_is_new_enough_is_not_blamed() -> None:
    """Then the container has no GPU; a PyTorch for the CPU alone is told as that."""
    assert "docker run --gpus all" in devices.why_no_gpu("580.95.05", "13.2")
    assert "needs 525" in devices.why_no_gpu("470.1", "12.6")
    assert "for the CPU alone" in devices.why_no_gpu(None, None)


@pytest.mark.parametrize(
    ("capability", "serves"),
    [((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 9), True), ((12, 1), True), ((13, 0), True)],
)
def test_a_card_without_kernels_is_told_at_the_first_look(capability: tuple[int, int], serves: bool) -> None:
    """Code runs on newer cards of its generation, and compute_ code on all later ones; it is not tried again."""
    card = Card("a card", capability)
    if serves:
        devices.require_kernels(card, BUILT_FOR)
        return
    with pytest.raises(UnfitGpuError, match=r"a card.*capability [67]\.\d.*7\.5 and newer") as unfit:
        devices.require_kernels(card, BUILT_FOR)
    assert unfit.value.permanent


@pytest.mark.parametrize(
    ("name", "card", "chosen"),
    [
        ("Z-Image-Turbo", AMPERE, "bf16"),
        ("Z-Image-Turbo", TURING, "fp32"),
        ("Stable Diffusion 3.5 medium", TURING, "fp16"),
        ("SDXL", AMPERE, "fp16"),
        ("SDXL", TURING, "fp16"),
        ("SDXL", None, "fp32"),
    ],
)
def test_precision_is_what_model_and_card_can(name: str, card: Card | None, chosen: str) -> None:
    """bf16 where both can, fp16 only where the family is known to live with it."""
    assert precision.choose(None, family(name), card).name == chosen


def test_what_differs_from_what_is_best_or_asked_is_told() -> None:
    """bf16 on a card that has none; fp16 that was asked for and that the model does not live with."""
    z_image = family("Z-Image")
    assert "RTX 2080 has no bf16: it draws in fp32" in precision.choose("bf16", z_image, TURING).told
    asked = precision.choose("fp16", z_image, AMPERE)
    assert (asked.name, "not known to draw in fp16" in asked.told) == ("fp16", True)
    assert precision.choose("bf16", z_image, AMPERE).told == ""
    assert precision.choose(None, None, AMPERE).name == "bf16"


def test_the_safer_precision_has_more_room() -> None:
    """fp16 goes to bf16, on a card without it to fp32; after fp32 there is none."""
    sdxl = family("SDXL")
    assert precision.safer(torch.float16, sdxl, AMPERE) == "bf16"
    assert precision.safer(torch.float16, sdxl, TURING) == "fp32"
    assert precision.safer(torch.bfloat16, sdxl, AMPERE) == "fp32"
    assert precision.safer(torch.float32, sdxl, AMPERE) is None


def test_an_unknown_precision_is_refused_by_name() -> None:
    """With what there is."""
    with pytest.raises(ModelLoadError, match=r"'fp8'.*fp16, bf16 and fp32"):
        precision.choose("fp8", None, AMPERE)
