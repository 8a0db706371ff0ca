"""What a client gets of the diffusers engine by HTTP: the same picture in any company, formats, sizes, sleep."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.support import tiny_pipelines
from tests.support.inference_process import InferenceProcess, picture, running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # an engine that imports PyTorch starts several times


@pytest.fixture(scope="module")
def server() -> Iterator[InferenceProcess]:
    with running(
        config={"idle_engine_s": 3},
        MODEL_ID=str(tiny_pipelines.folder("sd_mild")),
        INFERENCE_ENGINE="diffusers",
        INFERENCE_DEVICE="cpu",
    ) as started:
        started.wait_healthy()
        yield started


def draw(server: InferenceProcess, seed: int = 1, call: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    model_inputs = {"prompt": "a cat", "num_inference_steps": 6, "seed": seed, **inputs}
    answer = server.post(model_inputs, **(call or {}))
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_a_seed_gives_the_same_picture_in_company(server: InferenceProcess) -> None:
    """Alone and beside others of other sizes, schedulers and steps: at most 2/255 away."""
    alone = np.asarray(picture(draw(server)))

    def other(seed: int) -> dict[str, Any]:
        scheduler = ("EulerDiscreteScheduler", "PNDMScheduler", "DEISMultistepScheduler")[seed % 3]
        return draw(server, seed, call={"SCHEDULER": scheduler}, width=64 + 32 * (seed % 2), num_inference_steps=20)

    with ThreadPoolExecutor(8) as clients:
        others = [clients.submit(other, seed) for seed in range(2, 8)]
        together = clients.submit(draw, server)
        sizes = {picture(one.result()).size for one in others}
    assert sizes == {(64, 64), (96, 64)}
    distance = np.abs(np.asarray(picture(together.result())).astype(int) - alone.astype(int))
    assert distance.max() <= 2


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "WEBP_LOSSLESS", "JPEG"])
def test_formats_and_what_is_told_beside_the_picture(server: InferenceProcess, image_format: str) -> None:
    """The picture in the format asked for; the model's class, scheduler and seed as used."""
    result = draw(server, seed=7, call={"image_format": image_format})
    assert picture(result).format == image_format.partition("_")[0]
    told = result["$meta"]
    assert (told["PIPELINE"], told["SCHEDULER"], told["seeds"]) == ("StableDiffusionPipeline", "DDIMScheduler", [7])
    assert result["nsfw_content_detected"] == [False]


def test_words_that_no_encoder_reads_are_told(server: InferenceProcess) -> None:
    """The answer names the words of both prompts beyond all windows (8 of 14 letters), and no word that is read."""
    call = {"prompt_weighting": True}
    long = " ".join(["a cat with a hat"] * 10)
    told = draw(server, call=call, prompt=f"{long} and [fog:rain:0.5]", negative_prompt=f"{long} snow")["$meta"]
    assert told["prompt_weighting"] is True
    assert told["unused_prompt_words"][0] == "[fog:rain:0.5]"
    assert told["unused_prompt_words"][-1] == "and"
    assert told["unused_negative_prompt_words"][-1] == "snow"
    assert "unused_prompt_words" not in draw(server, prompt="a cat with a small hat")["$meta"]


def test_sizes_are_those_that_the_healthcheck_tells(server: InferenceProcess) -> None:
    """From 64 px in steps of 8, not only square; anything else is refused with what there is."""
    limits = server.health()["limits"]
    assert limits["width"] == {"min": 64, "max": 1024, "multiple": 8}
    assert picture(draw(server, width=72, height=200)).size == (72, 200)
    refused = server.post({"prompt": "a cat", "width": 65})
    assert (refused.status_code, refused.json()["$error"]["code"]) == (400, "INVALID_INPUTS")
    assert "multiples of 8" in refused.json()["$error"]["message"]


def test_all_schedulers_that_are_offered_draw(server: InferenceProcess) -> None:
    """Each class that the healthcheck names, in two steps; other programs' names for them are told beside them."""
    offered = server.health()["limits"]["schedulers"]
    schedulers = [name for name in offered if name.endswith("Scheduler")]
    assert len(schedulers) == 15
    assert {"Euler a", "DPM++ 2M Karras"} < {*offered}
    with ThreadPoolExecutor(15) as clients:
        results = list(clients.map(lambda name: draw(server, call={"SCHEDULER": name}), schedulers))
    assert [result["$meta"]["SCHEDULER"] for result in results] == schedulers


def test_previews_come_while_a_picture_is_drawn(server: InferenceProcess) -> None:
    """Progress events count the steps and carry small pictures."""
    draw(server)  # what previews look like is learned from pictures
    # Some seconds of drawing: previews come every few tenths of one.
    lines = server.stream({"prompt": "a cat", "num_inference_steps": 250, "width": 512, "height": 512})
    told = []
    for line in lines:
        told.append(line)
        if line.get("preview"):
            break
    assert told[-1].get("preview")
    lines.close()  # type: ignore[attr-defined]
    steps = [line["step"] for line in told if line.get("step")]
    assert steps
    assert steps == sorted(steps)


def test_an_idle_engine_sleeps_and_the_next_request_wakes_it(server: InferenceProcess) -> None:
    """The engine process ends, and a post starts another: the same seed gives the same picture."""
    before = draw(server)
    wait_until(lambda: server.health()["engine"] == "asleep", "the engine to be asleep")
    wait_until(lambda: server.find_engine() is None, "its process to end")
    after = draw(server)
    assert after["image_base64"] == before["image_base64"]
