"""The step loop: whose picture does not change in company, who joins and leaves when."""

import threading

import numpy as np
import pytest

from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.encode import ActiveImage, RequestEncoder
from inference_server.engines.diffusers.unet import BatchShape
from inference_server.messages import Cancelled, Drawn
from tests.support.diffusers_channel import Rig, ScriptedChannel, difference, order, own_picture, pixels

pytestmark = pytest.mark.slow

# Orders that have nothing in common but the size.
COMPANY = (
    order(2, scheduler="EulerAncestralDiscreteScheduler", num_inference_steps=7, guidance_scale=3.0),
    order(3, scheduler="HeunDiscreteScheduler", num_inference_steps=2, negative_prompt="fog"),
    order(4, scheduler="DEISMultistepScheduler", num_inference_steps=3, guidance_scale=12.0),
)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_a_picture_is_the_one_that_diffusers_own_call_makes(kind: str, guidance_scale: float) -> None:
    """Alone, a seed gives the pixels of the pipeline's own call with a CPU generator, guided or not."""
    one = order(guidance_scale=guidance_scale, negative_prompt="fog", width_px=96)
    assert difference(Rig(kind).draw(one).picture_of(1), own_picture(kind, one.params)) == 0


def test_an_empty_negative_prompt_is_none_to_sdxl() -> None:
    """SDXL zeroes the embedding of a negative prompt that was not given, as its own call does."""
    one = order(prompt="a pear")
    assert difference(Rig("sdxl").draw(one).picture_of(1), own_picture("sdxl", one.params)) == 0


def test_a_distilled_models_guidance_is_an_input_of_its_unet() -> None:
    """A latent consistency model is asked once a step, with the guidance embedded, as its own call does."""
    rig = Rig("lcm")
    one = order(scheduler="LCMScheduler", guidance_scale=8.5)
    assert difference(rig.draw(one).picture_of(1), own_picture("lcm", one.params)) == 0
    assert not any(shape.guided for shape in rig.unet.shapes)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_company_does_not_change_a_bit_in_the_same_slot_and_bucket(kind: str) -> None:
    """In fp32 a seed's picture in a mixed batch equals the same seed's alone bit for bit."""
    rig = Rig(kind, buckets=(4,))
    alone = rig.draw(order(1)).picture_of(1)
    channel = rig.draw(order(1), *COMPANY)
    assert channel.batches()[:3] == [1, 4, 4]
    assert (channel.picture_of(1) == alone).all()


@pytest.mark.parametrize("scheduler", ["DDIM", "PNDM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"])
def test_another_bucket_changes_hardly_a_pixel(scheduler: str) -> None:
    """Across buckets a picture is at most 2/255 away, for schedulers that add no noise."""
    rig, one = Rig(), order(1, scheduler=f"{scheduler}Scheduler")
    alone = rig.draw(one).picture_of(1)
    assert difference(rig.draw(*COMPANY, one).picture_of(1), alone) <= 2


def test_many_drawings_of_mixed_settings_share_every_step() -> None:
    """Schedulers, steps, guidance and prompts differ: one batch all the same, and everyone gets their own picture."""
    rig = Rig()
    channel = rig.draw(order(1), *COMPANY)
    assert max(channel.batches()) == 4
    for one in (order(1), *COMPANY):
        assert difference(channel.picture_of(one.number), own_picture("sd", one.params)) <= 2


def test_a_newcomer_joins_at_the_next_step_and_leaves_before_the_first() -> None:
    """Who comes while another is drawn shares its next step, and is done when its own steps are."""
    rig, channel = Rig(), ScriptedChannel(order(1, num_inference_steps=8))

    def second_comes() -> None:
        channel.join(order(2, num_inference_steps=2))
        channel.close()

    rig.at_call(3, second_comes)
    rig.steps.work(channel)
    assert [shape.bucket for shape in rig.unet.shapes] == [1, 1, 1, 2, 2, 1, 1, 1]
    ends = [message.number for message in channel.told if isinstance(message, Drawn)]
    assert ends == [2, 1]
    for one in (order(1, num_inference_steps=8), order(2, num_inference_steps=2)):
        assert difference(channel.picture_of(one.number), own_picture("sd", one.params)) <= 2


def test_a_cancelled_drawing_leaves_at_the_next_step() -> None:
    """The others go on in a smaller bucket, and their pictures are their own."""
    rig, channel = Rig(), ScriptedChannel(order(1, num_inference_steps=50))

    def act(call: int) -> None:
        if call == 1:
            channel.join(order(2, num_inference_steps=4))
            channel.close()
        if call == 3:
            channel.cancel(1)

    rig.unet.before_call = act
    rig.steps.work(channel)
    assert isinstance(channel.end_of(1), Cancelled)
    assert [shape.bucket for shape in rig.unet.shapes] == [1, 2, 2, 1, 1]
    assert difference(channel.picture_of(2), own_picture("sd", order(2).params)) <= 2


def test_what_was_cancelled_before_its_first_step_is_not_drawn() -> None:
    """The UNet is not called for it."""
    rig, channel = Rig(), ScriptedChannel(order(1))
    channel.cancel(1)
    rig.work(channel)
    assert isinstance(channel.end_of(1), Cancelled)
    assert not rig.unet.shapes


class ChangesItsMind(RequestEncoder):
    """Drawing 1 is cancelled when it has just been prepared, before it has a place."""

    channel: ScriptedChannel

    def encode(self, request: ActiveRequest) -> list[ActiveImage]:
        images = super().encode(request)
        if request.number == 1:
            self.channel.cancel(1)
        return images


def test_a_cancel_before_there_is_a_place_does_not_end_the_work() -> None:
    """The loop, which has nothing else to do then, waits for the next drawing and draws it."""
    rig, channel = Rig(encoder=ChangesItsMind), ScriptedChannel(order(1))
    ChangesItsMind.channel = channel

    def second_comes() -> None:
        channel.end_of(1)
        channel.give(order(2))
        channel.close()

    threading.Thread(target=second_comes, daemon=True).start()
    rig.steps.work(channel)
    assert isinstance(channel.end_of(1), Cancelled)
    assert isinstance(channel.end_of(2), Drawn)


def test_sizes_take_turns_and_a_newcomer_waits_for_one_step_of_each() -> None:
    """With two sizes running, a third has its first step after at most one step of each."""
    rig, channel = Rig(), ScriptedChannel(order(1, num_inference_steps=9))
    comes_at: list[int] = []

    def act(call: int) -> None:
        if call == 1:
            channel.join(order(2, num_inference_steps=9, width_px=96))
        if call == 6:
            channel.join(order(3, width_px=128))
            channel.close()
            comes_at.append(call)

    rig.unet.before_call = act
    rig.steps.work(channel)
    widths = [shape.width_px for shape in rig.unet.shapes]
    after = widths[comes_at[0] :]
    assert after.index(128) <= 2
    while 64 in after and 96 in after and 128 in after:
        assert sorted(after[:3]) == [64, 96, 128], "each size once in turn"
        after = after[3:]
    for number, width_px in ((1, 64), (2, 96), (3, 128)):
        assert channel.picture_of(number).shape == (64, width_px, 3)


def test_a_drawing_of_several_images_is_told_as_one() -> None:
    """A slot for each seed, steps counted over all of them, the pictures in the order of the seeds."""
    rig = Rig()
    channel = rig.draw(order(1, seeds=(11, 12, 13)))
    end = channel.end_of(1)
    assert isinstance(end, Drawn)
    steps = channel.steps_of(1)
    assert [step.num_steps for step in steps] == [12] * len(steps)
    assert [step.step for step in steps] == list(range(1, 13))
    for seed, image in zip((11, 12, 13), end.images, strict=True):
        assert difference(pixels(image), own_picture("sd", order(1, seeds=(seed,)).params)) <= 2


def test_more_images_than_there_is_room_for_are_drawn_one_after_the_other() -> None:
    """A drawing of five images in an engine of two at once."""
    rig = Rig(buckets=(1, 2))
    channel = rig.draw(order(1, seeds=(1, 2, 3, 4, 5)))
    assert max(channel.batches()) == 2
    end = channel.end_of(1)
    assert isinstance(end, Drawn)
    assert len(end.images) == 5


def test_a_scheduler_that_calls_the_unet_twice_tells_the_steps_that_were_asked_for() -> None:
    """Heun's five steps are nine calls; the visitor sees five."""
    rig = Rig()
    channel = rig.draw(order(1, scheduler="HeunDiscreteScheduler", num_inference_steps=5))
    assert len(rig.unet.shapes) == 9
    assert [step.step for step in channel.steps_of(1)] == [1, 2, 3, 4, 5]


def test_the_loop_sleeps_without_work_and_wakes_for_the_next() -> None:
    """After all was drawn a new drawing is taken up, and its picture is the same as before."""
    rig, channel = Rig(), ScriptedChannel(order(1))
    first_calls: list[int] = []

    def act(call: int) -> None:
        if call == 4:  # the last of the first drawing: the second is given when that one has ended
            threading.Thread(target=second_comes, daemon=True).start()

    def second_comes() -> None:
        channel.end_of(1)
        first_calls.append(len(rig.unet.shapes))
        channel.give(order(2, seeds=(1,), prompt="drawing 1"))
        channel.close()

    rig.unet.before_call = act
    rig.steps.work(channel)
    assert first_calls == [4]
    assert (channel.picture_of(2) == channel.picture_of(1)).all()


def test_previews_show_the_picture_before_it_is_done() -> None:
    """Once the map from latents to colours was learned, steps carry previews of the latents' size."""
    rig = Rig(preview_every_s=0.0)
    rig.draw(order(1))
    channel = rig.draw(order(2, num_inference_steps=30))
    previews = [step.preview for step in channel.steps_of(2) if step.preview is not None]
    assert previews
    assert (previews[0].width_px, previews[0].height_px) == (8, 8)
    told = [step.step for step in channel.steps_of(2)]
    assert told == sorted(told)
    assert np.ptp(pixels(previews[-1]).astype(int)) > 0


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_negative_prompt_that_was_met_before_changes_nothing(kind: str) -> None:
    """Its embedding is kept from drawing to drawing; the picture is still the one of diffusers' own call."""
    rig, negatives = Rig(kind), ("", "fog", *(f"other {number}" for number in range(8)), "fog", "")
    for negative in negatives:
        rig.draw(order(1, negative_prompt=negative, num_inference_steps=1))
    for negative in ("fog", ""):
        one = order(1, negative_prompt=negative)
        assert difference(rig.draw(one).picture_of(1), own_picture(kind, one.params)) == 0


def test_inputs_of_sizes_long_unused_are_given_up() -> None:
    """A batch shape keeps its tensors from step to step; of many shapes only the last ones do."""
    rig = Rig()
    shapes = [BatchShape(1, guided=False, height_px=64, width_px=64 + 8 * number) for number in range(40)]
    inputs = [rig.unet.inputs(shape) for shape in shapes]
    assert rig.unet.inputs(shapes[-1]) is inputs[-1]
    assert rig.unet.inputs(shapes[0]) is not inputs[0]
    assert {name: tuple(tensor.shape) for name, tensor in inputs[1].tensors()} == {
        "sample": (1, 4, 8, 9),
        "timestep": (1,),
        "encoder_hidden_states": (1, 16, 32),
    }
