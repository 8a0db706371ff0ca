"""The inference server with the diffusers engine, by HTTP: many at once, trouble, and models that do not load."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny_pipelines
from tests.support.inference_process import DEADLINE_S, START_DEADLINE_S, InferenceProcess, picture, running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # an engine that imports PyTorch starts several times
PARTS = ("count", "sum")
ENVIRONMENT = {"INFERENCE_ENGINE": "diffusers", "INFERENCE_DEVICE": "cpu"}
LONG = {"num_inference_steps": 250}  # about a second, and more with others beside it


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion in small; its safety checker finds every picture unfit."""
    return tiny_pipelines.save_sd(tmp_path_factory.mktemp("model") / "tiny", safety_checker="strict")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[InferenceProcess]:
    with running(config={"limits": {"waiting_requests": {"max": 4}}}, MODEL_ID=str(model), **ENVIRONMENT) as started:
        started.wait_ready()
        yield started


def draw(server: InferenceProcess, seed: int, **inputs: Any) -> dict[str, Any]:
    """A result, with the safety checker off."""
    answer = server.post({"prompt": "a cat", "seed": seed, **inputs}, safety_checker=False)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_many_share_steps(server: InferenceProcess) -> None:
    """Posts at the same time are drawn side by side, which the metrics show."""
    before = server.metrics()
    with ThreadPoolExecutor(8) as clients:
        with server.frozen_engine():  # so that they reach it at the same time
            posts = [clients.submit(draw, server, seed, **LONG) for seed in range(8)]
            wait_until(lambda: server.metric("inference_drawing_requests") == 8, "eight drawings")
        results = [post.result() for post in posts]
    assert len({result["image_base64"] for result in results}) == 8
    all_steps = before["inference_batch_size_sum"] + 8 * LONG["num_inference_steps"]
    wait_until(lambda: server.metric("inference_batch_size_sum") == all_steps, "the last step to be counted")
    now = server.metrics()
    steps, images = (now[f"inference_batch_size_{part}"] - before[f"inference_batch_size_{part}"] for part in PARTS)
    assert images > 2 * steps
    assert now["inference_step_seconds_count"] == now["inference_batch_size_count"]
    assert now["inference_images_total"] == before["inference_images_total"] + 8


def test_a_crash_in_mid_batch_costs_nobody_a_picture(server: InferenceProcess) -> None:
    """The engine killed while it draws several: each is drawn again, with the seed that it was asked for."""
    before = server.engine_pid()
    with server.frozen_engine():
        streams = [server.stream({"prompt": "a cat", "seed": seed, **LONG}) for seed in (1, 2, 3)]
        for stream in streams:
            next(stream)
    for stream in streams:
        assert next(line for line in stream if line.get("step"))
    os.kill(before, signal.SIGKILL)
    with ThreadPoolExecutor(3) as clients:
        results = list(clients.map(lambda stream: list(stream)[-1], streams))
    assert [result["$meta"]["seeds"] for result in results] == [[1], [2], [3]]
    assert {picture(result).size for result in results} == {(64, 64)}
    assert server.engine_pid() != before
    assert server.health()["state"] == "healthy"


def test_beyond_the_bound_it_is_busy(server: InferenceProcess) -> None:
    """Sixteen are drawn, four wait, the next is refused at once; hanging up makes room."""
    engine = server.engine_pid()
    with server.frozen_engine():
        streams = [server.stream({"prompt": "a cat", **LONG, "num_images_per_prompt": 4}) for _ in range(8)]
        for stream in streams:
            next(stream)
        refused = server.post({"prompt": "a cat"})
        assert refused.status_code == 503
        assert refused.json()["$error"]["code"] == "BUSY"
        now = server.metrics()
        assert (now["inference_drawing_requests"], now["inference_waiting_requests"]) == (4, 4)
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: not server.metric("inference_drawing_requests"), "the engine to let go of what was left")
    assert draw(server, 1)
    assert server.engine_pid() == engine


def test_one_that_leaves_leaves_the_others_their_picture(server: InferenceProcess) -> None:
    """A cancel in mid-batch ends that drawing alone."""
    stays = server.stream({"prompt": "a cat", "seed": 5, **LONG}, safety_checker=False)
    leaves = server.stream({"prompt": "a dog", "num_images_per_prompt": 4, **LONG}, startRequestId="leaves")
    with server.frozen_engine():
        for stream in (stays, leaves):
            next(stream)
    assert next(line for line in leaves if line.get("step"))
    assert server.session.delete(f"{server.url}/requests/leaves", timeout=DEADLINE_S).status_code == 200
    assert list(leaves)[-1]["$error"]["code"] == "REQUEST_CANCELLED"
    assert list(stays)[-1]["$meta"]["seeds"] == [5]


def test_the_safety_checker_is_on_unless_it_is_switched_off(server: InferenceProcess) -> None:
    """What it finds is black and told so; a request may do without it."""
    found = server.post({"prompt": "a cat", "num_inference_steps": 2, "num_images_per_prompt": 2}).json()
    assert found["nsfw_content_detected"] == [True, True]
    assert picture(found, 0).getextrema() == ((0, 0),) * 3
    unlooked = draw(server, 1, num_inference_steps=2)
    assert "nsfw_content_detected" not in unlooked
    assert picture(unlooked).getextrema() != ((0, 0),) * 3


def test_the_tutorials_scheduler_is_drawn_with(server: InferenceProcess) -> None:
    """DEIS by its class name; one that diffusers does not have is refused with those that it has."""
    answer = server.post({"prompt": "a cat", "num_inference_steps": 3}, SCHEDULER="DEISMultistepScheduler")
    assert answer.json()["$meta"]["SCHEDULER"] == "DEISMultistepScheduler"
    refused = server.post({"prompt": "a cat"}, SCHEDULER="NoScheduler")
    assert (refused.status_code, refused.json()["$error"]["code"]) == (400, "INVALID_SCHEDULER")
    assert "DEISMultistepScheduler" in refused.json()["$error"]["message"]


def test_what_does_not_load_is_told_at_once(model: Path, tmp_path: Path) -> None:
    """Broken weights: 503 with the reason and no trace of the stack, for who waits and who comes; the server stays
    up."""
    folder = tmp_path / "copy"
    shutil.copytree(model, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights at all")
    with running(config={}, MODEL_ID=str(folder), **ENVIRONMENT) as server, ThreadPoolExecutor(1) as client:
        waiting = client.submit(server.post, {"prompt": "a cat"})
        reason = server.wait_failed()["reason"]
        refused = server.post({"prompt": "a cat"})
        for answer in (waiting.result(START_DEADLINE_S), refused):
            assert answer.status_code == 503
            assert answer.json()["$error"]["code"] == "MODEL_NOT_LOADED"
            assert "Traceback" not in answer.text
        assert reason in refused.json()["$error"]["message"]
        assert f"the model cannot be loaded: {reason}" in server.log()
