"""Pipelines without a UNet draw by their own call; drawings that want the same share one."""

import functools

import pytest
import torch

from inference_server.engines.diffusers import pipeline_calls
from inference_server.engines.diffusers.active_request import InHand
from inference_server.engines.diffusers.pipeline_calls import WholeCalls
from inference_server.messages import Batch, Cancelled, Capacity, Draw, DrawFailed, Drawn
from tests.support.diffusers_desk import ScriptedDesk, difference, loaded, order, own_picture

pytestmark = pytest.mark.slow

SCHEDULER = "FlowMatchEulerDiscreteScheduler"


def one(number: int, **changes: object) -> Draw:
    return order(number, **({"scheduler": SCHEDULER} | changes))


def draw(desk: ScriptedDesk, capacity: int = 4, kind: str = "sd3", preview_every_s: float = 3600.0) -> ScriptedDesk:
    """All that was given is done."""
    model = loaded(kind)
    desk.close()
    WholeCalls(model.pipeline, model.device, capacity, preview_every_s).work(desk)
    return desk


def test_a_picture_is_the_one_that_diffusers_own_call_makes() -> None:
    """The seed, the negative prompt and the guidance have their effect as in the pipeline's own call."""
    order_ = one(1, negative_prompt="fog", guidance_scale=5.0)
    assert difference(draw(ScriptedDesk(order_)).picture_of(1), own_picture("sd3", order_.drawing)) == 0


def test_drawings_that_want_the_same_share_a_call() -> None:
    """Two with equal settings go together, the one of another size on its own; each gets the picture of its seed."""
    orders = (one(1), one(2, width_px=96), one(3, seeds=(3, 4)))
    desk = draw(ScriptedDesk(*orders))
    assert desk.batches() == [3] * 4 + [1] * 4
    for number in (1, 2):
        assert difference(desk.picture_of(number), own_picture("sd3", orders[number - 1].drawing)) <= 2
    for image, seed in enumerate((3, 4)):
        own = own_picture("sd3", one(3, seeds=(seed,)).drawing)
        assert difference(desk.picture_of(3, image), own) <= 2


def test_no_more_share_a_call_than_are_allowed() -> None:
    """Five images in an engine of four at once: the last one has a call of its own."""
    desk = draw(ScriptedDesk(*(one(number) for number in range(1, 6))))
    assert desk.batches() == [4] * 4 + [1] * 4


def test_steps_are_told_for_each_drawing() -> None:
    """Over all images of the drawing."""
    desk = draw(ScriptedDesk(one(1, seeds=(1, 2))))
    assert [step.step for step in desk.steps_of(1)][-1] == 8
    assert {step.num_steps for step in desk.steps_of(1)} == {8}


class CancelsAtStep(ScriptedDesk):
    """Cancels drawings once the first batch step was told."""

    def __init__(self, *orders: Draw, cancels: tuple[int, ...]) -> None:
        super().__init__(*orders)
        self._cancels = cancels

    def tell(self, message: object) -> None:
        if isinstance(message, Batch):
            for number in self._cancels:
                self.cancel(number)
        super().tell(message)  # type: ignore[arg-type]


def test_who_leaves_in_mid_call_takes_nobody_along() -> None:
    """The one is cancelled at the next step, the other gets its picture."""
    desk = draw(CancelsAtStep(one(1), one(2), cancels=(1,)))
    assert isinstance(desk.end_of(1), Cancelled)
    assert difference(desk.picture_of(2), own_picture("sd3", one(2).drawing)) <= 2


def test_a_call_that_nobody_waits_for_is_cut_short() -> None:
    """When all have left, the remaining steps are not taken."""
    desk = draw(CancelsAtStep(one(1, num_inference_steps=200), cancels=(1,)))
    assert isinstance(desk.end_of(1), Cancelled)
    assert len(desk.steps_of(1)) <= 2


def test_short_memory_ends_the_newest_and_lowers_the_limit() -> None:
    """Two images do not fit: the newer drawing fails, the older is drawn, and from then on one at a time."""
    transformer = loaded("sd3").pipeline.transformer

    def before_forward(module: object, arguments: object, options: dict[str, torch.Tensor]) -> None:
        if len(options["hidden_states"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = transformer.register_forward_pre_hook(before_forward, with_kwargs=True)
    try:
        desk = draw(ScriptedDesk(one(1), one(2), one(3, width_px=96)))
    finally:
        handle.remove()
    end = desk.end_of(2)
    assert isinstance(end, DrawFailed)
    assert "memory" in end.reason
    assert [message.images for message in desk.told if isinstance(message, Capacity)] == [1]
    assert isinstance(desk.end_of(1), Drawn)
    assert isinstance(desk.end_of(3), Drawn)


@pytest.mark.parametrize(("kind", "found"), [("sd_strict", True), ("sd_mild", False), ("sd", None)])
def test_what_the_pipelines_safety_checker_finds_is_told_and_black(kind: str, found: bool | None) -> None:
    """A flag for each image, none where nobody looked; the pixels of what was found are gone."""
    desk = draw(ScriptedDesk(order(1, seeds=(1, 2))), kind=kind)
    end = desk.end_of(1)
    assert isinstance(end, Drawn)
    assert end.nsfw == (None if found is None else (found, found))
    assert bool(desk.picture_of(1).any()) is not (found is True)


def test_a_request_that_wants_no_safety_checker_gets_none() -> None:
    """For itself alone: who shares the wait but not the wish is looked at as ever."""
    desk = draw(ScriptedDesk(order(1, safety_checker=False), order(2)), kind="sd_strict")
    unlooked, looked = desk.end_of(1), desk.end_of(2)
    assert isinstance(unlooked, Drawn)
    assert isinstance(looked, Drawn)
    assert (unlooked.nsfw, looked.nsfw) == (None, (True,))
    assert desk.picture_of(1).any()
    assert not desk.picture_of(2).any()


def test_steps_carry_previews_once_a_picture_was_drawn() -> None:
    """Small ones of the latents' size, from the second drawing on, of whose latents have places."""
    desk = draw(ScriptedDesk(one(1), one(2, width_px=96)), preview_every_s=0.0)
    assert not [step for step in desk.steps_of(1) if step.preview]
    previews = [step.preview for step in desk.steps_of(2) if step.preview is not None]
    assert previews
    assert (previews[0].width_px, previews[0].height_px) == (12, 8)


def test_waiting_for_others_is_not_told_as_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of one step is not that of the forty before it; here every call of the model takes a second."""
    now_s = 0.0

    def after_forward(*call: object) -> None:
        nonlocal now_s
        now_s += 1

    handle = loaded("sd3").pipeline.transformer.register_forward_hook(after_forward)
    monkeypatch.setattr(pipeline_calls, "InHand", functools.partial(InHand, clock=lambda: now_s))
    try:
        desk = draw(ScriptedDesk(one(1, num_inference_steps=40), one(2, num_inference_steps=1)))
    finally:
        handle.remove()
    long, short = desk.end_of(1), desk.end_of(2)
    assert isinstance(long, Drawn)
    assert isinstance(short, Drawn)
    assert (long.inference_s, short.inference_s) == (40, 1)
