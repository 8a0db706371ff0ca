"""Words beyond the text encoders' windows: the engine names them, and they really have no influence on the picture.

The small CLIP encoders read 16 tokens, BOS and EOS among them; a token is a letter.
"""

from collections.abc import Callable

import pytest

from inference_server.engines.diffusers.pipeline_calls import PipelineCalls
from inference_server.engines.diffusers.unused_words import PromptWindows
from inference_server.messages import Draw, Drawn
from tests.support.diffusers_channel import Rig, ScriptedChannel, difference, loaded, order

pytestmark = pytest.mark.slow

READ, UNUSED = "a cats,  sleeping", ("under", "their", "sofa!")  # 14 letters are read
LONG = f"{READ} {' '.join(UNUSED)}"
T5_TOKENS = 256  # by default of Stable Diffusion 3


Draws = Callable[..., ScriptedChannel]


def by_shared_steps(kind: str, *orders: Draw) -> ScriptedChannel:
    return Rig(kind).draw(*orders)


def by_pipeline_calls(kind: str, *orders: Draw) -> ScriptedChannel:
    channel = ScriptedChannel(*orders)
    channel.close()
    PipelineCalls(loaded(kind), capacity=4).work(channel)
    return channel


def drawn(channel: ScriptedChannel, number: int) -> Drawn:
    end = channel.end_of(number)
    assert isinstance(end, Drawn), end
    return end


# Shared steps read more than a window: test_long_prompts.py.
WAYS = [
    (by_pipeline_calls, "sd", "DDIMScheduler"),
    (by_pipeline_calls, "sd3", "FlowMatchEulerDiscreteScheduler"),
]


@pytest.mark.parametrize(("draw", "kind", "scheduler"), WAYS)
def test_words_beyond_the_window_are_named_and_change_nothing(draw: Draws, kind: str, scheduler: str) -> None:
    """Of prompt and negative prompt each; the picture is the one of the prompts without those words."""
    wanted = {"scheduler": scheduler, "seeds": (1,)}
    channel = draw(
        kind,
        order(1, prompt=LONG, negative_prompt=LONG[2:] + " x", **wanted),
        order(2, prompt=READ, negative_prompt=LONG[2:], **wanted),
    )
    assert drawn(channel, 1).unused_words == UNUSED
    assert drawn(channel, 1).unused_negative_words == (*UNUSED[1:], "x")
    assert drawn(channel, 2).unused_words == ()
    assert difference(channel.picture_of(1), channel.picture_of(2)) <= 2


@pytest.mark.parametrize(("draw", "kind", "scheduler"), WAYS)
def test_no_word_of_a_long_prompt_is_logged(
    draw: Draws, kind: str, scheduler: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The libraries would warn of the part that they cut off, and quote it."""
    channel = draw(kind, order(1, prompt=LONG, scheduler=scheduler))
    assert drawn(channel, 1).unused_words == UNUSED
    logged = "".join(capfd.readouterr())
    assert not [word for word in (*UNUSED, "longer than", "truncated") if word in logged]


@pytest.mark.parametrize(("draw", "kind", "scheduler"), WAYS)
def test_words_that_fit_are_not_named(draw: Draws, kind: str, scheduler: str) -> None:
    """The last word begins within the window: it counts as read."""
    channel = draw(kind, order(1, prompt=READ, negative_prompt="fog", scheduler=scheduler))
    assert (drawn(channel, 1).unused_words, drawn(channel, 1).unused_negative_words) == ((), ())


def test_a_negative_prompt_without_guidance_names_no_words() -> None:
    """No encoder reads it then, whatever its length."""
    end = drawn(by_shared_steps("sd", order(1, negative_prompt=LONG, guidance_scale=1.0)), 1)
    assert end.unused_negative_words == ()


def test_each_request_of_a_shared_call_has_its_own_words() -> None:
    """Two that share a call of the pipeline: one too long, one not."""
    wanted = {"scheduler": "FlowMatchEulerDiscreteScheduler"}
    channel = by_pipeline_calls("sd3", order(1, prompt=LONG, **wanted), order(2, prompt=READ, **wanted))
    assert channel.batches() == [2] * 4
    assert [drawn(channel, number).unused_words for number in (1, 2)] == [UNUSED, ()]


def test_a_word_that_one_encoder_reads_is_used() -> None:
    """Stable Diffusion 3's T5 reads more than its CLIP encoders: only what is beyond T5's window too is unused."""
    windows = PromptWindows(loaded("sd3_t5").pipeline)
    assert windows.unused_words(LONG) == ()
    one_token_each = (T5_TOKENS - 1) // 2  # a word of one letter takes two tokens, the text's end one
    assert windows.unused_words("a " * one_token_each + "bc de") == ("de",)


def test_a_word_that_only_the_longer_window_reads_has_its_influence() -> None:
    """With T5, a picture changes with the words that CLIP alone would not read."""
    wanted = {"scheduler": "FlowMatchEulerDiscreteScheduler", "seeds": (1,), "num_inference_steps": 2}
    channel = by_pipeline_calls("sd3_t5", order(1, prompt=LONG, **wanted), order(2, prompt=READ, **wanted))
    assert drawn(channel, 1).unused_words == ()
    assert difference(channel.picture_of(1), channel.picture_of(2)) > 0


def test_an_encoder_of_unknown_kind_may_read_everything() -> None:
    """Where the engine does not know how long an encoder's window is, it claims nothing."""

    class SomeTokenizer:
        model_max_length = 4

    pipeline = loaded("sd").pipeline
    own, pipeline.tokenizer = pipeline.tokenizer, SomeTokenizer()
    try:
        assert PromptWindows(pipeline).unused_words(LONG) == ()
    finally:
        pipeline.tokenizer = own
