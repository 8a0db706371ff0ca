"""The inference server draws: results, events, seeds, formats, limits, each through its front door."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat

from tests.support.inference_process import InferenceProcess, picture, running, wait_until

pytestmark = pytest.mark.slow
LONG = 250  # steps: seconds even on a fast machine


@pytest.fixture(scope="module")
def server() -> Iterator[InferenceProcess]:
    with running() as started:
        started.wait_healthy()
        yield started


@pytest.fixture(scope="module")
def streamed(server: InferenceProcess) -> list[dict[str, Any]]:
    """The lines of a drawing of many steps."""
    inputs = {"prompt": "a red apple", "seed": 1, "num_inference_steps": LONG}
    return list(server.stream(inputs, startRequestId="stream-1"))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return float(np.mean(ImageStat.Stat(ImageChops.difference(one, other)).mean))


def test_health_tells_state_limits_and_defaults(server: InferenceProcess) -> None:
    """An open server tells everything: state, engine, model, limits and defaults of the demo model."""
    health = server.health()
    assert health["state"] == "healthy"
    assert health["gpu"] is False
    assert health["engine"] == "ready"
    assert health["model"] == "demo_model"
    limits = health["limits"]
    assert limits["num_inference_steps"] == {"min": 1, "max": 250}
    assert limits["width"] == limits["height"] == {"min": 64, "max": 256, "multiple": 64}
    assert limits["num_images_per_prompt"] == {"min": 1, "max": 4}
    assert limits["waiting_requests"] == {"max": 32}
    assert limits["body_bytes"] == {"max": 16_000_000}
    assert "DDIMScheduler" in limits["schedulers"]
    assert health["defaults"] == {
        "width": 256,
        "height": 256,
        "num_inference_steps": 20,
        "guidance_scale": 2.0,
        "scheduler": "DDIMScheduler",
        "image_format": "PNG",
    }


def test_a_prompt_gives_a_png_with_what_was_used(server: InferenceProcess) -> None:
    """A plain post answers with a PNG, the seeds and settings as used, timings, and the parameters in the PNG."""
    answer = server.post({"prompt": "a red apple ✓", "negative_prompt": "blue", "seed": 7})
    assert answer.status_code == 200
    result = answer.json()
    drawn = picture(result)
    assert (drawn.format, drawn.size, drawn.mode) == ("PNG", (256, 256), "RGB")
    meta = result["$meta"]
    assert meta["MODEL_ID"] == "demo_model"
    assert meta["PIPELINE"] == "StableDiffusionPipeline"
    assert meta["SCHEDULER"] == "DDIMScheduler"
    assert meta["seeds"] == [7]
    assert (meta["width"], meta["height"], meta["num_inference_steps"], meta["guidance_scale"]) == (256, 256, 20, 2.0)
    assert "served_instead" not in meta
    assert {"init", "queue", "inference", "encode"} <= set(result["$timings"])
    assert drawn.text["prompt"] == "a red apple ✓"  # type: ignore[attr-defined]
    assert drawn.text["seed"] == "7"  # type: ignore[attr-defined]
    assert drawn.text["parameters"] == (  # type: ignore[attr-defined]
        "a red apple ✓\nNegative prompt: blue\n"
        "Steps: 20, Sampler: DDIM, CFG scale: 2, Seed: 7, Size: 256x256, Model: demo_model"
    )


def test_the_picture_shows_what_was_asked_for(server: InferenceProcess) -> None:
    """A red apple is red in the middle, on a light ground."""
    drawn = picture(server.post({"prompt": "a red apple", "seed": 1}).json())
    red, green, blue = drawn.getpixel((110, 150))  # type: ignore[misc]
    assert red > 150
    assert red > green + 60
    assert red > blue + 60
    assert min(drawn.getpixel((4, 4))) > 200  # type: ignore[arg-type]


def test_a_stream_begins_at_once_tells_steps_and_ends_with_the_result(streamed: list[dict[str, Any]]) -> None:
    """The first line is the start with the id, then rising progress with small previews, the result last."""
    lines = streamed
    assert lines[0] == {"type": "inference", "status": "start", "payload": {"startRequestId": "stream-1"}}
    progress = [line for line in lines[1:-1] if line["type"] == "progress"]
    assert len(progress) >= 3
    assert all(line["num_inference_steps"] == LONG for line in progress)
    assert [line["step"] for line in progress] == sorted(line["step"] for line in progress)
    assert all(0 <= line["progress"] <= 1 for line in progress)
    previews = [line["preview"] for line in progress if "preview" in line]
    assert previews
    small = Image.open(io.BytesIO(base64.b64decode(previews[-1])))
    assert max(small.size) == 128
    assert len(previews[-1]) < 20_000
    assert picture(lines[-1]).size == (256, 256)


def test_a_late_preview_resembles_the_picture(streamed: list[dict[str, Any]]) -> None:
    """The last preview shows what comes, in small: a red apple on a light ground (its pose comes with the picture)."""
    last = [line for line in streamed if "preview" in line][-1]
    small = Image.open(io.BytesIO(base64.b64decode(last["preview"])))
    for image in (small.convert("RGB").resize((256, 256)), picture(streamed[-1])):
        red, green, blue = ImageStat.Stat(image.crop((96, 112, 160, 176))).mean
        assert red > max(green, blue) + 40
        assert np.asarray(image)[[2, 2, -3, -3], [2, -3, 2, -3]].min() > 180  # the corners


def test_the_same_seed_gives_the_same_picture_another_seed_another(server: InferenceProcess) -> None:
    """A seed determines the picture to the last bit."""
    first, again, other = (
        picture(server.post({"prompt": "a house", "seed": seed, "num_inference_steps": 4}).json()) for seed in (5, 5, 6)
    )
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_without_a_seed_one_is_drawn_and_told(server: InferenceProcess) -> None:
    """A random seed is told, and drawing with it gives the same picture."""
    result = server.post({"prompt": "a house", "seed": None, "num_inference_steps": 4}).json()
    [seed] = result["$meta"]["seeds"]
    assert 0 <= seed < 2**32
    again = server.post({"prompt": "a house", "seed": seed, "num_inference_steps": 4}).json()
    assert picture(again).tobytes() == picture(result).tobytes()


def test_several_images_use_the_following_seeds(server: InferenceProcess) -> None:
    """Image i is drawn with seed + i (past the largest seed from 0 on), the same as alone."""
    inputs = {"prompt": "a tree", "num_inference_steps": 3, "seed": 2**32 - 2, "num_images_per_prompt": 4}
    result = server.post(inputs).json()
    assert "image_base64" not in result
    assert len(result["images_base64"]) == 4
    assert result["$meta"]["seeds"] == [2**32 - 2, 2**32 - 1, 0, 1]
    alone = server.post({"prompt": "a tree", "num_inference_steps": 3, "seed": 1}).json()
    assert picture(alone).tobytes() == picture(result, 3).tobytes()


def test_guidance_and_negative_prompt_have_their_effect(server: InferenceProcess) -> None:
    """Guidance changes the picture, and so does a negative prompt, but not where there is no guidance."""
    base = {"prompt": "an apple", "seed": 3, "num_inference_steps": 8}
    plain, guided, negative, unguided = (
        picture(server.post(base | more).json())
        for more in (
            {},
            {"guidance_scale": 3.5},
            {"negative_prompt": "red"},
            {"guidance_scale": 1, "negative_prompt": "red"},
        )
    )
    assert difference(plain, guided) > 0.5
    assert difference(plain, negative) > 0.5
    without = picture(server.post(base | {"guidance_scale": 1}).json())
    assert unguided.tobytes() == without.tobytes()


@pytest.mark.parametrize(
    ("asked", "format_name", "lossless"),
    [("PNG", "PNG", True), ("WEBP_LOSSLESS", "WEBP", True), ("WEBP", "WEBP", False), ("JPEG", "JPEG", False)],
)
def test_image_formats(server: InferenceProcess, asked: str, format_name: str, lossless: bool) -> None:
    """Each format is what it is called; the lossless ones keep every pixel."""
    inputs = {"prompt": "the sun", "seed": 3, "num_inference_steps": 4}
    reference = picture(server.post(inputs).json())
    result = server.post(inputs, image_format=asked).json()
    drawn = picture(result)
    assert drawn.format == format_name
    assert result["$meta"]["image_format"] == asked
    assert (drawn.convert("RGB").tobytes() == reference.tobytes()) == lossless
    assert difference(drawn.convert("RGB"), reference) < 4


@pytest.mark.parametrize(("width", "height"), [(64, 64), (64, 256), (256, 128), (192, 64)])
def test_sides_need_not_be_equal(server: InferenceProcess, width: int, height: int) -> None:
    """Every multiple within the limits can be drawn."""
    result = server.post({"prompt": "a cat", "width": width, "height": height, "num_inference_steps": 2}).json()
    assert picture(result).size == (width, height)


def test_every_offered_scheduler_draws_and_the_default_comes_back(server: InferenceProcess) -> None:
    """A scheduler holds for its request alone; all that are offered draw a red apple on white.

    Not the very same: one that adds noise of its own also places the apple elsewhere.
    """
    inputs = {"prompt": "a red apple", "seed": 1}
    before = picture(server.post(inputs).json())
    for scheduler in server.health()["limits"]["schedulers"]:
        result = server.post(inputs, SCHEDULER=scheduler).json()
        assert result["$meta"]["SCHEDULER"] == scheduler
        drawn = np.asarray(picture(result)).astype(int)
        is_red = (drawn[..., 0] > drawn[..., 1] + 60) & (drawn[..., 0] > drawn[..., 2] + 60)
        assert 0.25 < is_red.mean() < 0.5
        assert 0.4 < (drawn.min(axis=-1) > 240).mean() < 0.7
    assert picture(server.post(inputs).json()).tobytes() == before.tobytes()


@pytest.mark.parametrize("steps", [1, 2, 9, 18])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_any_number_of_steps_gives_a_picture(server: InferenceProcess, scheduler: str, steps: int) -> None:
    """A red apple is red in its middle, also at numbers of steps that the library miscounts by itself."""
    inputs = {"prompt": "a red apple", "seed": 3, "num_inference_steps": steps}
    result = server.post(inputs, SCHEDULER=scheduler).json()
    assert result["$meta"]["num_inference_steps"] == steps
    red, green, _ = ImageStat.Stat(picture(result).crop((96, 112, 160, 176))).mean
    assert red > green + 40


def test_upstreams_call_inputs_are_accepted_and_unknown_ones_told(server: InferenceProcess) -> None:
    """What upstream's clients send does no harm, nothing named is fetched, and what is of no use here is told."""
    answer = server.post(
        {"prompt": "a cat", "num_inference_steps": 1, "strength": 0.5, "sharpness": 3},
        PIPELINE="AutoPipelineForText2Image",
        PRECISION="fp16",
        REVISION="fp16",
        MODEL_PRECISION="fp16",
        MODEL_REVISION="x",
        MODEL_URL="s3://nowhere",
        CHECKPOINT_URL="http://127.0.0.1:9/x",
        SEND_URL="http://127.0.0.1:9/x",
        safety_checker=False,
    )
    assert answer.status_code == 200
    assert answer.json()["$meta"]["ignored"] == ["sharpness"]


def test_requests_wait_in_turn_and_all_are_served(server: InferenceProcess) -> None:
    """Many at once are drawn one after the other; each of those who wait sees its place from the last to the first."""

    def follow(seed: int) -> list[dict[str, Any]]:
        return list(server.stream({"prompt": "a dog", "seed": seed, "num_inference_steps": 2}))

    with ThreadPoolExecutor(6) as clients:
        with server.frozen_engine():  # so that none is done before all have come
            followed = [clients.submit(follow, seed) for seed in range(6)]
            wait_until(lambda: server.metric("inference_waiting_requests") == 5, "five to wait")
        seen = [one.result() for one in followed]
    assert all("image_base64" in lines[-1] for lines in seen)
    places = [[line["place"] for line in lines if line.get("type") == "queued"] for lines in seen]
    assert sorted(told[0] for told in places if told) == [1, 2, 3, 4, 5]
    assert all(told == sorted(told, reverse=True) for told in places)


def test_lines_come_while_nothing_happens(server: InferenceProcess) -> None:
    """A client hears from a server whose engine says nothing; how often, a test with a clock of its own says."""
    with server.frozen_engine():
        lines = server.stream({"prompt": "a cat", "num_inference_steps": 2})
        begun, *same = [next(lines) for _ in range(5)]
        assert begun["type"] == "inference"
        assert [line["step"] for line in same] == [0, 0, 0, 0]
    assert "image_base64" in list(lines)[-1]


def test_metrics_count_requests_and_steps(server: InferenceProcess) -> None:
    """Prometheus finds the outcomes, the queue, the steps and the engine's state."""
    before = server.metrics()
    server.post({"prompt": "a cat", "num_inference_steps": 10})
    served = 'inference_requests_total{outcome="ok"}'
    wait_until(lambda: server.metric(served) == before.get(served, 0) + 1, "the answer to be counted")
    now = server.metrics()
    assert now["inference_waiting_requests"] == 0
    # The library leaves out steps that it could not tell before the picture was done.
    assert 0 < now["inference_step_seconds_count"] - before["inference_step_seconds_count"] <= 10
    assert now['inference_engine_state{inference_engine_state="ready"}'] == 1
    assert now["inference_batch_size_count"] == now["inference_step_seconds_count"]
    assert now["inference_images_total"] == before["inference_images_total"] + 1
    assert {"inference_drawing_requests", "inference_gpu_memory_bytes", "inference_idle_seconds"} <= set(now)


def test_no_prompt_is_logged_but_every_request_id(server: InferenceProcess) -> None:
    """The log names requests by their id and never shows what was asked for."""
    server.post({"prompt": "a very private wish", "num_inference_steps": 1}, startRequestId="job-4711")
    assert "job-4711" in server.log()
    assert "private wish" not in server.log()
