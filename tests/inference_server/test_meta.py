"""What an answer says of itself: `$meta` with every input as used, the words that were not, and `$mem_usage`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.inference_engine import EngineBench, run
from tests.support.inference_front_door import MODEL, FrontDoor, serve
from tests.support.inference_process import running


def answer_of(post: dict[str, Any], **drawn: Any) -> dict[str, Any]:
    """The JSON of one drawing that the engine finished like this."""
    answers: list[dict[str, Any]] = []

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        ticket = bench.post("a cat", **post)
        await bench.draw("a cat", **drawn)
        answers.append(json.loads((await ticket.done()).body))

    run(story())
    return answers[0]


def test_meta_names_every_input_as_used(tmp_path: Path) -> None:
    """What the request left open, too: a client need not know a default to draw the same again."""

    def visit(door: FrontDoor) -> None:
        meta = door.meta()
        [seed] = meta["seeds"]
        request_id = meta.pop("startRequestId")
        assert request_id
        assert meta == {
            "MODEL_ID": MODEL.name,
            "PIPELINE": MODEL.pipeline,
            "SCHEDULER": MODEL.scheduler,
            "prompt": "a cat",
            "negative_prompt": "",
            "width": MODEL.width_px,
            "height": MODEL.height_px,
            "num_inference_steps": MODEL.num_inference_steps,
            "guidance_scale": MODEL.guidance_scale,
            "num_images_per_prompt": 1,
            "seed": seed,
            "seeds": [seed],
            "safety_checker": False,
            "image_format": "PNG",
        }
        assert door.meta(**{name: meta[name] for name in ("prompt", "width", "seed")})["seeds"] == [seed]

    serve(tmp_path, {"bearer": "geheim"}, visit, bearer="geheim")


def test_the_safety_checker_is_named_as_used() -> None:
    """Not as wished for: a model without one was not looked at."""
    assert answer_of({"safety_checker": True}, nsfw=(False,))["$meta"]["safety_checker"] is True
    assert answer_of({"safety_checker": True}, nsfw=None)["$meta"]["safety_checker"] is False


def test_words_beyond_the_window_are_named() -> None:
    """In the order typed, those of each prompt; no key where all words were used."""
    meta = answer_of({}, unused_words=("glasses,", "dim"), unused_negative_words=("dim",))["$meta"]
    assert meta["unused_prompt_words"] == ["glasses,", "dim"]
    assert meta["unused_negative_prompt_words"] == ["dim"]
    assert not {"unused_prompt_words", "unused_negative_prompt_words"} & set(answer_of({})["$meta"])


def test_the_memory_is_told_as_upstream_tells_it() -> None:
    """`$mem_usage`: allocated now over the most ever allocated, 0 where the engine has no GPU."""
    assert answer_of({}, mem_usage=0.71234567)["$mem_usage"] == 0.7123
    assert answer_of({})["$mem_usage"] == 0


@pytest.mark.slow
def test_openvino_tells_the_words_that_its_model_did_not_see() -> None:
    """The demo model sees 22 words beside BOS and EOS; the negative prompt counts only where guidance uses it."""
    window = ["dog"] * 22  # a token each
    with running() as server:
        server.wait_healthy()

        def meta(prompt: list[str], negative_prompt: list[str], guidance_scale: float = 2) -> dict[str, Any]:
            inputs: dict[str, Any] = {"prompt": " ".join(prompt), "negative_prompt": " ".join(negative_prompt)}
            inputs |= {"num_inference_steps": 1, "guidance_scale": guidance_scale}
            return dict(server.post(inputs).json()["$meta"])

        assert meta([*window, "dog", "dog"], ["cat"])["unused_prompt_words"] == ["dog", "dog"]
        assert "unused_prompt_words" not in meta(window, ["cat"])
        assert meta(["cat"], [*window, "dog"])["unused_negative_prompt_words"] == ["dog"]
        assert "unused_negative_prompt_words" not in meta(["cat"], [*window, "dog"], guidance_scale=1)
