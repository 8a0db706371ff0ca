"""How a model is laid into a card's memory: decided from sizes alone, without a card and without PyTorch."""

from dataclasses import replace

import pytest

from inference_server.engines.diffusers import memory_plan
from inference_server.engines.diffusers.memory_plan import Memory, ModelSize, NoPlanError, choose
from inference_server.engines.diffusers.published_sizes import SIZES, fitting_model, memory_of, table
from tests.support.processes import REPOSITORY

MEGA = 10**6
# A network of 6 GB, an encoder of 4 GB.
MODEL = ModelSize({"transformer": 6000 * MEGA, "text_encoder": 4000 * MEGA, "vae": 160 * MEGA})
SDXL = SIZES["stabilityai/stable-diffusion-xl-base-1.0"]


def card(free_mb: int, total_mb: int | None = None, host_mb: int | None = None) -> Memory:
    return Memory((total_mb or free_mb) * MEGA, free_mb * MEGA, None if host_mb is None else host_mb * MEGA)


@pytest.mark.parametrize(
    ("free_mb", "name", "placement", "tiling"),
    [
        (24_000, "full", "card", False),
        (12_000, "full", "card", True),
        (10_000, "full", "encoders", False),
        (7_500, "fp8", "card", True),
        (5_500, "fp8", "encoders", True),
        (4_200, "nf4", "encoders", True),
        (2_300, "offload", "blocks", True),
    ],
)
def test_the_fastest_plan_that_fits_is_taken(free_mb: int, name: str, placement: str, tiling: bool) -> None:
    """From everything on the card down to blocks brought in turn, the less is free the further down."""
    plan = choose(MODEL, card(free_mb))
    assert (plan.name, plan.placement, plan.tiling) == (name, placement, tiling)
    assert plan.needed_bytes <= free_mb * MEGA
    assert plan.compiles is (name == "full")


def test_what_is_free_decides_not_what_there_is() -> None:
    """A desktop that holds half of the card is seen; a card that does not tell counts as free."""
    assert choose(MODEL, card(7_500, total_mb=24_000)).name == "fp8"
    assert choose(MODEL, Memory(24_000 * MEGA, None)).name == "full"


@pytest.mark.parametrize("asked", ["full", "fp8", "nf4", "offload"])
def test_a_plan_that_is_asked_for_is_taken(asked: str) -> None:
    """Also where a faster one would fit; the sentence says whose wish it was."""
    plan = choose(MODEL, card(24_000), asked)
    assert plan.name == asked
    assert f"MEMORY_PLAN={asked}" in plan.sentence


def test_the_sentence_says_what_was_chosen_and_why() -> None:
    """For the log, the healthcheck and the doctor."""
    assert choose(MODEL, card(7_500)).sentence == (
        "Memory plan fp8: weights are kept in fp8 (8 bits), everything is on the card, pictures are decoded in tiles "
        "(it takes about 7.0 GB of the 7.5 GB that are free; in 16 bits it would take 11.7 GB)."
    )


def test_no_plan_says_what_is_needed_and_what_there_is() -> None:
    """With the leanest plan's need, which tells a busy card from one that is too small."""
    with pytest.raises(
        NoPlanError, match=r"needs about 11\.7 GB.*MEMORY_PLAN=full.*3\.0 GB of the GPU's 3\.0 GB"
    ) as no:
        choose(MODEL, card(3_000), "full")
    assert no.value.needed_bytes > 3_000 * MEGA


def test_a_plan_whose_package_is_missing_is_not_chosen() -> None:
    """nf4 takes a package: without it the next plan is taken, and asked for it is refused by name."""
    assert choose(MODEL, card(4_200), quantisations=("none", "fp8")).placement == "blocks"
    with pytest.raises(NoPlanError, match="nf4 takes is not installed"):
        choose(MODEL, card(4_200), "nf4", quantisations=("none", "fp8"))


def test_what_is_not_on_the_card_must_fit_beside_it() -> None:
    """A machine with little memory of its own cannot keep encoders there."""
    assert choose(MODEL, card(10_000, host_mb=8_000)).placement == "encoders"
    assert choose(MODEL, card(10_000, host_mb=3_000)).name == "fp8"


def test_an_autoencoder_stays_as_it_is() -> None:
    """Few bits spoil it; one that must be in fp32 takes twice as much, and its tiles too."""
    assert SDXL.part_bytes("vae", "nf4") == 2 * SDXL.parts["vae"]
    assert SDXL.decode_bytes(1024 * 1024) == 2 * replace(SDXL, vae_fp32=False).decode_bytes(1024 * 1024)


def test_sdxl_fits_on_8_gb() -> None:
    """In 16 bits: its text encoders take turns with the rest."""
    plan = choose(SDXL, memory_of(8))
    assert (plan.name, plan.placement, plan.compiles) == ("full", "encoders", True)


@pytest.mark.parametrize(("card_gb", "fitting"), [(4, "stable-diffusion-v1-5"), (8, "medium"), (24, "klein-9B")])
def test_a_model_that_fits_is_named(card_gb: int, fitting: str) -> None:
    """The largest that this card draws with in 16 bits."""
    assert fitting in str(fitting_model(memory_of(card_gb)))


def test_the_table_of_the_readme_is_what_the_planner_says() -> None:
    """Ten models by five cards, from the sizes of their published files."""
    assert table() in (REPOSITORY / "inference_server" / "README.md").read_text(encoding="utf-8")
    assert len(SIZES) == 10


def test_every_choice_names_plans_that_there_are() -> None:
    """What the configuration lets one ask for."""
    from typing import get_args

    from inference_server.engine_config import MemoryPlanName

    assert set(memory_plan.CHOICES) == set(get_args(MemoryPlanName))
