"""What goes wrong in one drawing ends that drawing; what the device will not get over ends the process."""

from typing import Any

import pytest
import torch

from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.encode import ActiveImage, RequestEncoder
from inference_server.messages import DrawFailed, Drawn
from tests.support.diffusers_channel import Rig, ScriptedChannel, difference, order, own_picture

pytestmark = pytest.mark.slow

SECRET = "a secret wish"


class EncodesBadly(RequestEncoder):
    """Drawing 2 comes with a scheduler that raises at its second step, drawing 3 with numbers that are none."""

    def encode(self, request: ActiveRequest) -> list[ActiveImage]:
        images = super().encode(request)
        if request.number == 2:
            images[0].schedule = _Raises(images[0].schedule)  # type: ignore[assignment]
        if request.number == 3:
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
    channel = Rig(encoder=EncodesBadly).draw(*(order(number, prompt=SECRET) for number in (1, 2, 3, 4)))
    assert "cannot be taken" in channel.reason_of(2)
    assert "out of range" in channel.reason_of(3)
    for number in (1, 4):
        assert difference(channel.picture_of(number), own_picture("sd", order(number, prompt=SECRET).params)) <= 2


def test_a_number_of_steps_that_the_scheduler_cannot_do_is_told_as_such(capfd: pytest.CaptureFixture[str]) -> None:
    """The reason names scheduler and steps; the prompt is neither there nor in the log."""
    channel = ScriptedChannel(order(1, scheduler="LCMScheduler", num_inference_steps=200, prompt=SECRET), order(2))
    Rig("lcm").work(channel)
    reason = channel.reason_of(1)
    assert "LCMScheduler cannot draw in 200 steps" in reason
    assert SECRET not in reason + "".join(capfd.readouterr())


def test_an_error_of_the_unet_ends_those_who_were_in_it() -> None:
    """They are told, and the next drawing is drawn."""
    rig = Rig()

    def fails(call: int) -> None:
        if call == 2:
            raise RuntimeError("these shapes do not fit")

    rig.unet.before_call = fails
    channel = ScriptedChannel(order(1))
    rig.work(channel)
    assert "do not fit" in channel.reason_of(1)
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
    channel = ScriptedChannel(order(1))
    with pytest.raises(type(error)):
        rig.work(channel)
    assert not [message for message in channel.told if isinstance(message, DrawFailed)]


class LosesItsDevice(RequestEncoder):
    """The text encoder meets the error."""

    def encode(self, request: ActiveRequest) -> list[ActiveImage]:
        raise RuntimeError("CUDA error: unspecified launch failure")


def test_an_error_that_sticks_ends_the_work_also_when_another_thread_meets_it() -> None:
    """The encode thread hands it to the loop, which was asleep."""
    with pytest.raises(RuntimeError, match="launch failure"):
        Rig(encoder=LosesItsDevice).work(ScriptedChannel(order(1)))


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
    assert cuda_errors.is_out_of_memory(error) is short
    assert cuda_errors.is_fatal(error) is fatal
