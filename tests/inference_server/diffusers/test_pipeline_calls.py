"""Pipelines without a UNet draw by their own call; drawings that want the same share one."""

import functools

import pytest
import torch

from inference_server.engines.diffusers import pipeline_calls
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.pipeline_calls import PipelineCalls
from inference_server.messages import BatchStats, Cancelled, Capacity, Draw, Drawn
from tests.support.diffusers_channel import (
    ScriptedChannel,
    difference,
    loaded,
    order,
    own_picture,
    with_eta,
    with_nothing_learnt,
)

pytestmark = pytest.mark.slow

SCHEDULER = "FlowMatchEulerDiscreteScheduler"


def one(number: int, **changes: object) -> Draw:
    return order(number, **({"scheduler": SCHEDULER} | changes))


def draw(
    channel: ScriptedChannel, capacity: int = 4, kind: str = "sd3", preview_every_s: float = 3600.0
) -> ScriptedChannel:
    """All that was given is done."""
    channel.close()
    PipelineCalls(with_nothing_learnt(loaded(kind)), capacity, preview_every_s).work(channel)
    return channel


def test_a_picture_is_the_one_that_diffusers_own_call_makes() -> None:
    """The seed, the negative prompt and the guidance have their effect as in the pipeline's own call."""
    order_ = one(1, negative_prompt="fog", guidance_scale=5.0)
    assert difference(draw(ScriptedChannel(order_)).picture_of(1), own_picture("sd3", order_.params)) == 0


def test_a_parameter_that_the_pipeline_knows_reaches_it_by_its_own_name() -> None:
    """A new field of a request's parameters needs nothing in the engine; those who want another share no call."""
    orders = (with_eta(order(1), 1.0), with_eta(order(2), 0.5), with_eta(order(3), 1.0))
    channel = draw(ScriptedChannel(*orders), kind="sd")
    assert channel.batches() == [2] * 4 + [1] * 4
    for one, eta in zip(orders, (1.0, 0.5, 1.0), strict=True):
        assert difference(channel.picture_of(one.number), own_picture("sd", one.params, eta=eta)) <= 2


def test_an_error_that_quotes_a_prompt_is_told_without_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Whichever prompt of the call it is: neither the reason nor the log has it."""
    wish = "a secret wish"

    def before_forward(*call: object) -> None:
        raise ValueError(f"cannot draw {['a pear', wish]}")

    handle = loaded("sd3").pipeline.transformer.register_forward_pre_hook(before_forward)
    try:
        channel = draw(ScriptedChannel(one(1, prompt="a lamp"), one(2, negative_prompt=wish)))
    finally:
        handle.remove()
    assert channel.reason_of(1) == channel.reason_of(2) == "ValueError"
    assert wish not in "".join(capfd.readouterr())


def test_drawings_that_want_the_same_share_a_call() -> None:
    """Two with equal settings go together, the one of another size on its own; each gets the picture of its seed."""
    orders = (one(1), one(2, width_px=96), one(3, seeds=(3, 4)))
    channel = draw(ScriptedChannel(*orders))
    assert channel.batches() == [3] * 4 + [1] * 4
    for number in (1, 2):
        assert difference(channel.picture_of(number), own_picture("sd3", orders[number - 1].params)) <= 2
    for image, seed in enumerate((3, 4)):
        own = own_picture("sd3", one(3, seeds=(seed,)).params)
        assert difference(channel.picture_of(3, image), own) <= 2


def test_no_more_share_a_call_than_are_allowed() -> None:
    """Five images in an engine of four at once: the last one has a call of its own."""
    channel = draw(ScriptedChannel(*(one(number) for number in range(1, 6))))
    assert channel.batches() == [4] * 4 + [1] * 4


def test_steps_are_told_for_each_drawing() -> None:
    """Over all images of the drawing."""
    channel = draw(ScriptedChannel(one(1, seeds=(1, 2))))
    assert [step.step for step in channel.steps_of(1)][-1] == 8
    assert {step.num_steps for step in channel.steps_of(1)} == {8}


class CancelsAtStep(ScriptedChannel):
    """Cancels drawings once the first batch step was told."""

    def __init__(self, *orders: Draw, cancels: tuple[int, ...]) -> None:
        super().__init__(*orders)
        self._cancels = cancels

    def tell(self, message: object) -> None:
        if isinstance(message, BatchStats):
            for number in self._cancels:
                self.cancel(number)
        super().tell(message)  # type: ignore[arg-type]


def test_who_leaves_in_mid_call_takes_nobody_along() -> None:
    """The one is cancelled at the next step, the other gets its picture."""
    channel = draw(CancelsAtStep(one(1), one(2), cancels=(1,)))
    assert isinstance(channel.end_of(1), Cancelled)
    assert difference(channel.picture_of(2), own_picture("sd3", one(2).params)) <= 2


def test_a_call_that_nobody_waits_for_is_cut_short() -> None:
    """When all have left, the remaining steps are not taken."""
    channel = draw(CancelsAtStep(one(1, num_inference_steps=200), cancels=(1,)))
    assert isinstance(channel.end_of(1), Cancelled)
    assert len(channel.steps_of(1)) <= 2


def test_short_memory_lowers_the_limit() -> None:
    """Two images do not fit: both are drawn one after the other, and so is what comes later."""
    transformer = loaded("sd3").pipeline.transformer

    def before_forward(module: object, arguments: object, options: dict[str, torch.Tensor]) -> None:
        if len(options["hidden_states"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = transformer.register_forward_pre_hook(before_forward, with_kwargs=True)
    try:
        channel = draw(ScriptedChannel(one(1), one(2), one(3, width_px=96)))
    finally:
        handle.remove()
    assert [message.images for message in channel.told if isinstance(message, Capacity)] == [1]
    assert all(isinstance(channel.end_of(number), Drawn) for number in (1, 2, 3))


@pytest.mark.parametrize(("kind", "found"), [("sd_strict", True), ("sd_mild", False), ("sd", None)])
def test_what_the_pipelines_safety_checker_finds_is_told_and_black(kind: str, found: bool | None) -> None:
    """A flag for each image, none where nobody looked; the pixels of what was found are gone."""
    channel = draw(ScriptedChannel(order(1, seeds=(1, 2))), kind=kind)
    end = channel.end_of(1)
    assert isinstance(end, Drawn)
    assert end.nsfw == (None if found is None else (found, found))
    assert bool(channel.picture_of(1).any()) is not (found is True)


def test_a_request_that_wants_no_safety_checker_gets_none() -> None:
    """For itself alone: who shares the wait but not the wish is looked at as ever."""
    channel = draw(ScriptedChannel(order(1, safety_checker=False), order(2)), kind="sd_strict")
    unlooked, looked = channel.end_of(1), channel.end_of(2)
    assert isinstance(unlooked, Drawn)
    assert isinstance(looked, Drawn)
    assert (unlooked.nsfw, looked.nsfw) == (None, (True,))
    assert channel.picture_of(1).any()
    assert not channel.picture_of(2).any()


def test_steps_carry_previews_once_a_picture_was_drawn() -> None:
    """Small ones of the latents' size, from the second drawing on, of whose latents have places."""
    channel = draw(ScriptedChannel(one(1), one(2, width_px=96)), preview_every_s=0.0)
    assert not [step for step in channel.steps_of(1) if step.preview]
    previews = [step.preview for step in channel.steps_of(2) if step.preview is not None]
    assert previews
    assert (previews[0].width_px, previews[0].height_px) == (12, 8)


def test_waiting_for_others_is_not_told_as_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of one step is not that of the forty before it; here every call of the model takes a second."""
    now_s = 0.0

    def after_forward(*call: object) -> None:
        nonlocal now_s
        now_s += 1

    handle = loaded("sd3").pipeline.transformer.register_forward_hook(after_forward)
    monkeypatch.setattr(pipeline_calls, "ActiveRequest", functools.partial(ActiveRequest, clock=lambda: now_s))
    try:
        channel = draw(ScriptedChannel(one(1, num_inference_steps=40), one(2, num_inference_steps=1)))
    finally:
        handle.remove()
    long, short = channel.end_of(1), channel.end_of(2)
    assert isinstance(long, Drawn)
    assert isinstance(short, Drawn)
    assert (long.inference_s, short.inference_s) == (40, 1)
