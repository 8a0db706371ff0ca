"""What may be asked for: bounds of endpoint.json, of the model, and numbers far outside of both."""

from pathlib import Path

import pytest

from tests.support.inference_front_door import FrontDoor, serve


def test_no_configured_bound_is_wider_than_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Sides go by the model's own bounds and multiples, whatever the file says; one warning tells what was cut."""
    limits = {
        "width": {"max": 99_999, "multiple": 8, "min": 0},
        "height": {"multiple": 96, "max": 200},
        "schedulers": ["DDIMScheduler", "NoScheduler"],
        "image_formats": ["PNG"],
    }

    def visit(door: FrontDoor) -> None:
        told = door.ask("GET", "/healthcheck").json()["limits"]
        assert told["width"] == {"min": 64, "max": 256, "multiple": 64}
        assert told["height"] == {"min": 64, "max": 200, "multiple": 192}
        assert told["schedulers"] == ["DDIMScheduler"]
        assert "64 to 256" in door.refusal(width=72)
        assert "64 to 256" in door.refusal(width=320)
        assert door.meta(width=128)["width"] == 128

    serve(tmp_path, {"limits": limits}, visit)
    [warning] = [row.getMessage() for row in caplog.records if "limits" in row.getMessage()]
    for cut in ("width.max 99999 -> 256", "width.multiple 8 -> 64", "width.min 0 -> 64", "height.multiple 96 -> 192"):
        assert cut in warning
    assert "NoScheduler" in warning
    assert "height.max" not in warning


def test_narrower_bounds_hold_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What lies within the model's bounds is taken as it is, and nothing is warned of."""
    limits = {"width": {"max": 128, "min": None}, "num_images_per_prompt": {"max": 40}, "height": None}

    def visit(door: FrontDoor) -> None:
        told = door.ask("GET", "/healthcheck").json()["limits"]
        assert told["width"] == {"min": 64, "max": 128, "multiple": 64}
        assert told["height"]["max"] == 256
        assert told["num_images_per_prompt"] == {"min": 1, "max": 40}
        assert door.meta(num_images_per_prompt=5)["num_images_per_prompt"] == 5

    serve(tmp_path, {"limits": limits}, visit)
    assert "limits" not in caplog.text


@pytest.mark.parametrize("name", ["num_inference_steps", "num_images_per_prompt"])
def test_nothing_is_drawn_in_no_steps_and_no_images(tmp_path: Path, name: str) -> None:
    """A lower bound of 0 is cut to 1: who asks for 0 is refused, and gets no other number in silence."""

    def visit(door: FrontDoor) -> None:
        assert door.ask("GET", "/healthcheck").json()["limits"][name]["min"] == 1
        assert name in door.refusal(**{name: 0})
        assert not door.child.drawings

    serve(tmp_path, {"limits": {name: {"min": 0}}}, visit)


def test_more_steps_than_any_model_knows_are_not_offered(tmp_path: Path) -> None:
    """More than the 250 steps of the default may be allowed, up to the 1000 that models are trained in."""

    def visit(door: FrontDoor) -> None:
        assert door.ask("GET", "/healthcheck").json()["limits"]["num_inference_steps"] == {"min": 1, "max": 1000}

    serve(tmp_path, {"limits": {"num_inference_steps": {"max": 10_000}}}, visit)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("num_inference_steps", "1 to 250"),
        ("num_images_per_prompt", "1 to 4"),
        ("width", "64 to 256"),
        ("height", "64 to 256"),
        ("guidance_scale", "0 to 30"),
        ("seed", "4294967295"),
    ],
)
def test_a_number_far_too_large_is_told_the_bounds(tmp_path: Path, name: str, told: str) -> None:
    """JSON has one kind of number: 1e308 is a whole one outside the bounds, and so is one that no float can hold."""

    def visit(door: FrontDoor) -> None:
        for huge in (1e308, 10**400):
            message = door.refusal(**{name: huge})
            assert name in message
            assert told in message

    serve(tmp_path, {}, visit)
