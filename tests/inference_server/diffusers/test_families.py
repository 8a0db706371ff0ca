"""Which family a model belongs to, by its index and its name alone."""

import pytest

from inference_server.engines.diffusers import families
from inference_server.engines.diffusers.family_rows import FAMILIES

FLUX2_KLEIN = {"_class_name": "Flux2KleinPipeline"}


@pytest.mark.parametrize(
    ("pipeline", "name", "family"),
    [
        ("StableDiffusionPipeline", "Lykon/dreamshaper-8", "Stable Diffusion 1.x and 2.x"),
        ("StableDiffusionXLPipeline", "stabilityai/stable-diffusion-xl-base-1.0", "SDXL"),
        ("StableDiffusionXLPipeline", "stabilityai/sdxl-turbo", "SDXL Turbo"),
        ("StableDiffusionXLPipeline", "Lykon/dreamshaper-xl-v2-turbo", "SDXL, distilled"),
        ("ZImagePipeline", "Tongyi-MAI/Z-Image-Turbo", "Z-Image-Turbo"),
        ("ZImagePipeline", "Tongyi-MAI/Z-Image", "Z-Image"),
        ("FluxPipeline", "black-forest-labs/FLUX.1-schnell", "FLUX.1-schnell"),
        ("FluxPipeline", "somebody/my-flux-finetune", "FLUX.1-dev"),
        ("Flux2KleinPipeline", "black-forest-labs/FLUX.2-klein-4B", "FLUX.2-klein-4B"),
        ("Flux2KleinPipeline", "black-forest-labs/FLUX.2-klein-9B", "FLUX.2-klein-9B"),
        ("Flux2KleinPipeline", "black-forest-labs/FLUX.2-klein-base-9B", "FLUX.2-klein-base-9B"),
        ("Flux2Pipeline", "black-forest-labs/FLUX.2-dev", "FLUX.2-dev"),
        ("Krea2Pipeline", "krea/Krea-2-Turbo", "Krea-2-Turbo"),
        ("Krea2Pipeline", "krea/Krea-2-Raw", "Krea-2"),
        ("QwenImagePipeline", "Qwen/Qwen-Image", "Qwen-Image"),
        ("StableDiffusion3Pipeline", "stabilityai/stable-diffusion-3.5-medium", "Stable Diffusion 3.5 medium"),
        ("StableDiffusion3Pipeline", "stabilityai/stable-diffusion-3.5-large", "Stable Diffusion 3.5 large"),
    ],
)
def test_a_model_finds_its_row(pipeline: str, name: str, family: str) -> None:
    """By the class that its index names, and the name where a class has several rows."""
    found = families.find({"_class_name": pipeline}, name)
    assert found is not None
    assert found.name == family


def test_a_copy_is_known_by_where_it_came_from_and_by_what_it_says_of_itself() -> None:
    """A folder of any name: `_name_or_path` of its index counts, and `is_distilled` more than any name."""
    copied = {"_class_name": "ZImagePipeline", "_name_or_path": "Tongyi-MAI/Z-Image-Turbo"}
    for index, name, expected in (
        (copied, "/models/mine", "Z-Image-Turbo"),
        (FLUX2_KLEIN | {"is_distilled": False}, "/models/klein", "FLUX.2-klein-base-4B"),
        (FLUX2_KLEIN | {"is_distilled": True}, "/base/klein-base-4B", "FLUX.2-klein-4B"),
    ):
        found = families.find(index, name)
        assert found is not None
        assert found.name == expected


def test_folders_on_the_way_to_a_model_say_nothing_of_it() -> None:
    """Only the last part of a path is its name."""
    found = families.find({"_class_name": "ZImagePipeline"}, "/home/turbo/Z-Image/")
    assert found is not None
    assert found.name == "Z-Image"


def test_an_unknown_class_has_no_row() -> None:
    """It is drawn with as its pipeline's own signature says."""
    assert families.find({"_class_name": "LuminaPipeline"}, "a/turbo") is None
    assert families.find({}, "") is None


def test_every_row_says_where_it_is_from_and_can_be_reached() -> None:
    """A row behind a more general one of its class would never be found."""
    assert len({row.name for row in FAMILIES}) == len(FAMILIES)
    for number, row in enumerate(FAMILIES):
        assert row.source
        assert row.precisions
        assert set(row.precisions) <= {"fp16", "bf16", "fp32"}
        assert row.precisions[-1] == "fp32"
        for before in FAMILIES[:number]:
            covered = before.pattern is None and before.distilled in (None, row.distilled)
            assert not (covered and set(row.pipelines) <= set(before.pipelines)), (before.name, row.name)


def test_a_licence_says_what_it_asks_of_a_host() -> None:
    """In one sentence for people; one that asks nothing has its name alone."""
    found = families.find(FLUX2_KLEIN, "black-forest-labs/FLUX.2-klein-9B")
    assert found is not None
    assert found.licence.sentence == (
        "Licence: FLUX Non-Commercial v2.1. It asks a host to earn nothing with it, to filter or review what is drawn, "
        "to tell viewers that a machine made the pictures."
    )
    open_one = families.find(FLUX2_KLEIN, "black-forest-labs/FLUX.2-klein-4B")
    assert open_one is not None
    assert open_one.licence.sentence == "Licence: Apache-2.0."
