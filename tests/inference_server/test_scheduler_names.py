"""Schedulers are asked for by diffusers' class names and by the names that people know them by."""

import pytest

from inference_server.engines.openvino import offered_schedulers
from inference_server.engines.scheduler_names import KNOWN, class_of
from inference_server.limits import ALL_SCHEDULERS
from tests.support.inference_engine import EngineBench, run
from tests.support.scripted_engine import MODEL_INFO


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("Euler a", "EulerAncestralDiscreteScheduler", {}),
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("DDIMScheduler", "DDIMScheduler", {}),
    ],
)
def test_a_name_stands_for_a_class_and_its_settings(name: str, kind: str, settings: dict[str, object]) -> None:
    """A class name stands for itself."""
    assert class_of(name) == (kind, settings)


def test_every_known_name_is_of_a_class_that_can_be_offered() -> None:
    """And may be asked for before the model is loaded."""
    assert {kind for kind, _ in KNOWN.values()} <= set(ALL_SCHEDULERS)
    assert set(KNOWN) <= set(ALL_SCHEDULERS)


def test_a_request_may_use_either_name_in_any_case() -> None:
    """The engine gets the name as the limits spell it."""
    model_info = MODEL_INFO.__class__(**{**vars(MODEL_INFO), "schedulers": ("DDIMScheduler", "Euler a")})

    async def story() -> None:
        bench = EngineBench(model_info)
        await bench.ready()
        bench.post("a", SCHEDULER="euler A")
        assert bench.child.sent[-1].params.scheduler == "Euler a"  # type: ignore[union-attr]

    run(story())


def test_openvino_offers_names_without_settings() -> None:
    """The library knows a scheduler as it is, and no Karras sigmas."""
    offered = offered_schedulers({"_class_name": "DDIMScheduler"})
    assert {"DDIM", "Euler", "Euler a"} <= set(offered)
    assert not [name for name in offered if "Karras" in name]
