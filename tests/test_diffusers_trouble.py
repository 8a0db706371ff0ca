"""What goes wrong in one drawing ends that drawing; what the device will not get over ends the process."""

from typing import Any

import pytest
import torch
from diffusers_desk import Rig, ScriptedDesk, difference, loaded, order, own_picture

from inference_server.engines.diffusers import faults
from inference_server.engines.diffusers.in_hand import InHand
from inference_server.engines.diffusers.preparing import ImageInMaking, Preparer
from inference_server.engines.diffusers.unet import BatchShape
from inference_server.messages import Capacity, DrawFailed, Drawn, Step

pytestmark = pytest.mark.slow

SECRET = "a secret wish"
WISHES = ("a pear", "fog at sea", "the moon", "zebra", "QUICK", "?!", "on a hill", "0123")


def _failed(desk: ScriptedDesk, number: int) -> str:
    """The reason that was told."""
    end = desk.end_of(number)
    assert isinstance(end, DrawFailed), end
    return end.reason


def _too_many(most: int, rig: Rig, desk: ScriptedDesk) -> Any:
    """Memory for `most` images side by side; the first step is one image's, then all are there."""

    def before_call(call: int) -> None:
        if call == 1:
            desk.wait_all_prepared()
        if rig.unet.shapes[-1].bucket > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return before_call


class PreparesBadly(Preparer):
    """Drawing 2 comes with a scheduler that raises at its second step, drawing 3 with numbers that are none."""

    def prepare(self, in_hand: InHand) -> list[ImageInMaking]:
        images = super().prepare(in_hand)
        if in_hand.number == 2:
            images[0].schedule = _Raises(images[0].schedule)  # type: ignore[assignment]
        if in_hand.number == 3:
            images[0].latents = torch.full_like(images[0].latents, float("nan"))
        return images


class _Raises:
    """A schedule whose second step fails."""

    def __init__(self, schedule: Any) -> None:
        self._schedule = schedule

    def __getattr__(self, name: str) -> Any:
        return getattr(self._schedule, name)

    def advance(self, prediction: Any, latents: Any) -> Any:
        if self._schedule.calls_done == 1:
            raise ValueError("this step cannot be taken")
        return self._schedule.advance(prediction, latents)


def test_a_failing_scheduler_and_a_ruined_picture_harm_nobody_else() -> None:
    """The two drawings fail with a reason each, the others in the same batch get their pictures."""
    desk = Rig(preparer=PreparesBadly).draw(*(order(number, prompt=SECRET) for number in (1, 2, 3, 4)))
    assert "cannot be taken" in _failed(desk, 2)
    assert "out of range" in _failed(desk, 3)
    for number in (1, 4):
        assert difference(desk.picture_of(number), own_picture("sd", order(number, prompt=SECRET).drawing)) <= 2


def test_a_number_of_steps_that_the_scheduler_cannot_do_is_told_as_such(capfd: pytest.CaptureFixture[str]) -> None:
    """The reason names scheduler and steps; the prompt is neither there nor in the log."""
    desk = Rig("lcm").draw(order(1, scheduler="LCMScheduler", num_inference_steps=200, prompt=SECRET), order(2))
    reason = _failed(desk, 1)
    assert "LCMScheduler cannot draw in 200 steps" in reason
    assert SECRET not in reason + "".join(capfd.readouterr())


def test_a_prompt_that_is_too_long_is_cut_off_without_a_word_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """The libraries would log the part that was cut off."""
    desk = Rig().draw(order(1, prompt=SECRET * 50))
    assert isinstance(desk.end_of(1), Drawn)
    assert SECRET not in "".join(capfd.readouterr())


def test_short_memory_ends_the_newest_drawing_and_lowers_the_limit() -> None:
    """Four images do not fit, two do: the newest fails, the others are drawn two at a time, and so are later ones."""
    rig = Rig()
    desk = ScriptedDesk(*(order(number, num_inference_steps=9) for number in (1, 2, 3, 4)))
    rig.unet.before_call = _too_many(2, rig, desk)
    rig.work(desk)
    reason = _failed(desk, 4)
    assert "memory" in reason
    assert "64x64" in reason
    assert [message.images for message in desk.told if isinstance(message, Capacity)] == [2]
    for number in (1, 2, 3):
        own = own_picture("sd", order(number, num_inference_steps=9).drawing)
        assert difference(desk.picture_of(number), own) <= 2


def test_batches_of_one_shape_keep_their_own_prompts() -> None:
    """Two that cannot share a batch use the same tensors in turn; who outlives the other gets its own picture."""
    orders = (order(1, num_inference_steps=8, prompt="a pear"), order(2, num_inference_steps=3, prompt="fog at sea"))
    desk = Rig(buckets=(1,), capacity=2).draw(*orders)
    assert set(desk.batches()) == {1}
    for one in orders:
        assert difference(desk.picture_of(one.number), own_picture("sd", one.drawing)) == 0


def test_after_short_memory_everybody_still_draws_the_own_prompt() -> None:
    """Seven go on in batches of four and three, in the same tensors; the three outlive the four."""
    rig = Rig()
    orders = [
        order(number, num_inference_steps=4 if number < 5 else 9, prompt=WISHES[number - 1]) for number in range(1, 9)
    ]
    desk = ScriptedDesk(*orders)
    rig.unet.before_call = _too_many(4, rig, desk)
    rig.work(desk)
    assert "memory" in _failed(desk, 8)
    for one in orders[:-1]:
        assert difference(desk.picture_of(one.number), own_picture("sd", one.drawing)) <= 2


def test_a_lowered_limit_is_kept_to() -> None:
    """Once two at a time is what memory allows, no third has a step before one of those two is done."""
    rig = Rig()
    desk = ScriptedDesk(*(order(number, num_inference_steps=9) for number in (1, 2, 3)))
    short = _too_many(2, rig, desk)

    def before_call(call: int) -> None:
        short(call)
        if call == 4:  # memory was short at the second
            for number in range(4, 9):
                desk.give(order(number, num_inference_steps=3))
            desk.wait_all_prepared()
            desk.close()

    rig.unet.before_call = before_call
    rig.steps.work(desk)
    assert "memory" in _failed(desk, 3)
    running, most = set[int](), 0
    for step in (message for message in desk.told if isinstance(message, Step)):
        running.add(step.number)
        most = max(most, len(running))
        if step.step == step.num_steps:
            running.remove(step.number)
    assert most == 2
    assert all(isinstance(desk.end_of(number), Drawn) for number in (1, 2, 4, 5, 6, 7, 8))


def test_a_size_that_is_full_holds_up_no_other() -> None:
    """After memory was short for two large pictures, a small one is drawn beside the large one, not after the next."""
    rig = Rig()

    def before_call(call: int) -> None:
        if call == 1:
            desk.wait_all_prepared()
        if rig.unet.shapes[-1].bucket * rig.unet.shapes[-1].width_px > 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if call == 4:
            desk.give(order(3, width_px=128, num_inference_steps=3))
            desk.give(order(4, num_inference_steps=3))
            desk.wait_all_prepared()
            desk.close()

    rig.unet.before_call = before_call
    desk = ScriptedDesk(order(1, width_px=128, num_inference_steps=9), order(2, width_px=128))
    rig.steps.work(desk)
    assert "memory" in _failed(desk, 2)
    assert [message.number for message in desk.told if isinstance(message, Drawn)] == [4, 1, 3]


def test_short_memory_for_a_single_picture_lowers_nothing() -> None:
    """One picture that is too large fails alone; small ones are drawn as many at once as before."""
    rig = Rig()

    def before_call(call: int) -> None:
        if rig.unet.shapes[-1].width_px > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")

    rig.unet.before_call = before_call
    desk = ScriptedDesk(order(1, width_px=128), order(2, num_inference_steps=9), order(3, num_inference_steps=9))
    rig.work(desk)
    assert "128x64" in _failed(desk, 1)
    assert not [message for message in desk.told if isinstance(message, Capacity)]
    assert 2 in desk.batches()
    assert isinstance(desk.end_of(2), Drawn)
    assert isinstance(desk.end_of(3), Drawn)
    assert rig.unet.forgotten == [BatchShape(1, guided=True, height_px=64, width_px=128)]


def test_short_memory_of_large_pictures_leaves_small_ones_their_company() -> None:
    """The limit is one of pixels: two pictures of sixteen times the size do not fit, eight small ones still do."""
    rig = Rig()

    def before_call(call: int) -> None:
        shape = rig.unet.shapes[-1]
        if shape.bucket * shape.width_px * shape.height_px > 256 * 256:
            raise torch.OutOfMemoryError("CUDA out of memory")

    rig.unet.before_call = before_call
    desk = ScriptedDesk(order(1, width_px=256, height_px=256, seeds=(1, 2)))
    desk.give(order(2, seeds=tuple(range(8))))
    rig.work(desk)
    assert "memory" in _failed(desk, 1)
    assert isinstance(desk.end_of(2), Drawn)
    assert max(desk.batches()) == 8


def test_a_picture_too_large_to_be_decoded_at_once_is_decoded_in_tiles() -> None:
    """The autoencoder is what takes most memory of a large picture; a smaller one is decoded as before."""
    decoder = loaded("sd").pipeline.vae.decoder

    def before_forward(module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        if arguments[0].shape[-1] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = decoder.register_forward_pre_hook(before_forward)
    try:
        desk = Rig().draw(order(1, width_px=640, num_inference_steps=1), order(2))
    finally:
        handle.remove()
    assert desk.picture_of(1).shape == (64, 640, 3)
    assert difference(desk.picture_of(2), own_picture("sd", order(2).drawing)) <= 2


class DecoderShortOfMemory:
    """The autoencoder finds no memory until the loop has been asked `times` times to make room."""

    def __init__(self, rig: Rig, times: int) -> None:
        self._rig, self._times = rig, times

    def __enter__(self) -> None:
        decoder = loaded("sd").pipeline.vae.decoder
        self._handle = decoder.register_forward_pre_hook(self._before_forward)

    def __exit__(self, *exc: object) -> None:
        self._handle.remove()

    def _before_forward(self, module: object, arguments: object) -> None:
        if len(self._rig.unet.forgotten) < self._times:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_picture_that_cannot_be_decoded_for_want_of_memory_is_given_room() -> None:
    """The loop lets go of recordings and lowers its limit, and the picture is decoded then, whatever else is drawn."""
    rig = Rig()
    rest = [order(number, num_inference_steps=200) for number in (2, 3)]
    with DecoderShortOfMemory(rig, times=1):
        desk = rig.draw(order(1, num_inference_steps=2), *rest)
    assert difference(desk.picture_of(1), own_picture("sd", order(1, num_inference_steps=2).drawing)) <= 2
    assert [message.images for message in desk.told if isinstance(message, Capacity)] == [1]
    assert rig.unet.forgotten == [None]
    for one in rest:
        assert difference(desk.picture_of(one.number), own_picture("sd", one.drawing)) <= 2


def test_the_last_picture_is_given_room_too() -> None:
    """Also when there are no more steps to make: the loop sees the finishing thread out."""
    rig = Rig()
    with DecoderShortOfMemory(rig, times=1):
        desk = rig.draw(order(1))
    assert difference(desk.picture_of(1), own_picture("sd", order(1).drawing)) == 0
    assert not [message for message in desk.told if isinstance(message, Capacity)]


def test_a_picture_that_still_cannot_be_decoded_fails_alone() -> None:
    """Once only is room made for it; its reason says what was short."""
    rig = Rig()
    with DecoderShortOfMemory(rig, times=2):
        desk = rig.draw(order(1))
    assert "memory" in _failed(desk, 1)
    assert rig.unet.forgotten == [None]


class EncodesAtTheSecondTry(Preparer):
    """The text encoders find no memory the first time."""

    tries = 0

    def prepare(self, in_hand: InHand) -> list[ImageInMaking]:
        EncodesAtTheSecondTry.tries += 1
        if EncodesAtTheSecondTry.tries == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().prepare(in_hand)


def test_a_prompt_that_cannot_be_encoded_for_want_of_memory_is_given_room() -> None:
    """The loop, with nothing to do, wakes up for it; the picture is drawn."""
    rig = Rig(preparer=EncodesAtTheSecondTry)
    desk = rig.draw(order(1))
    assert difference(desk.picture_of(1), own_picture("sd", order(1).drawing)) == 0
    assert rig.unet.forgotten == [None]


def test_an_error_of_the_unet_ends_those_who_were_in_it() -> None:
    """They are told, and the next drawing is drawn."""
    rig = Rig()

    def fails(call: int) -> None:
        if call == 2:
            raise RuntimeError("these shapes do not fit")

    rig.unet.before_call = fails
    desk = ScriptedDesk(order(1))
    rig.work(desk)
    assert "do not fit" in _failed(desk, 1)
    assert isinstance(rig.draw(order(2)).end_of(2), Drawn)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_an_error_that_sticks_to_the_device_ends_the_work(error: Exception) -> None:
    """Every later call would fail too: the process is to end, and nothing is told of the drawing, to be drawn again."""
    rig = Rig()

    def fails(call: int) -> None:
        raise error

    rig.unet.before_call = fails
    desk = ScriptedDesk(order(1))
    with pytest.raises(type(error)):
        rig.work(desk)
    assert not [message for message in desk.told if isinstance(message, DrawFailed)]


class LosesItsDevice(Preparer):
    """The text encoder meets the error."""

    def prepare(self, in_hand: InHand) -> list[ImageInMaking]:
        raise RuntimeError("CUDA error: unspecified launch failure")


def test_an_error_that_sticks_ends_the_work_also_when_another_thread_meets_it() -> None:
    """The preparing thread hands it to the loop, which was asleep."""
    with pytest.raises(RuntimeError, match="launch failure"):
        Rig(preparer=LosesItsDevice).work(ScriptedDesk(order(1)))


@pytest.mark.parametrize(
    ("error", "short", "fatal"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("CUDA driver error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA driver error: out of memory"), True, False),
        # any error inside of a compiled package: `PackagedNetwork` asks the UNet itself for the cause
        (RuntimeError("run_func_(...) API call failed at /pytorch/torch/csrc/x.cpp, line 145"), False, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear ..."), False, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_errors_are_told_apart(error: Exception, short: bool, fatal: bool) -> None:
    """Short memory is survived, a broken device is not, anything else is the drawing's own."""
    assert faults.is_out_of_memory(error) is short
    assert faults.is_fatal(error) is fatal
