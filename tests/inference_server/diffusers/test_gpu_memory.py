"""Whether a model is loaded onto a GPU that others use. The driver's answers are stand-ins: there is no GPU here."""

import pytest
import torch

from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers.gpu_memory import (
    WORKING_ROOM_BYTES,
    GpuBusyError,
    GpuMemory,
    Holder,
    others_may_be_to_blame,
    require_free,
)

GPU = torch.device("cuda", 0)
GB = 10**9


def gpu(total_gb: float, free_gb: float, *holders: Holder) -> GpuMemory:
    return GpuMemory(int(total_gb * GB), int(free_gb * GB), holders)


def test_a_free_gpu_is_taken() -> None:
    """With room for the weights and for drawing, nothing is raised."""
    require_free(GPU, 2 * GB, probe=lambda device: gpu(8, 7.5))


def test_what_is_asked_for_has_room_to_work_in() -> None:
    """The weights alone fitting is not enough: a picture needs memory too."""
    with pytest.raises(GpuBusyError):
        require_free(GPU, 2 * GB, probe=lambda device: GpuMemory(8 * GB, 2 * GB + WORKING_ROOM_BYTES - 1))


def test_a_gpu_in_use_is_told_as_busy_with_who_holds_what() -> None:
    """The message says how much is free and needed, and which processes hold how much; its code is the wire's."""
    memory = gpu(24, 1.25, Holder(4321, 20 * GB), Holder(99, None))
    with pytest.raises(GpuBusyError) as caught:
        require_free(GPU, 5 * GB, probe=lambda device: memory)
    assert caught.value.code == "GPU_BUSY"
    text = str(caught.value)
    assert text.startswith("gpu-busy: 1.2 GB of the GPU's 24.0 GB are free, the model needs about 6.5 GB. ")
    assert "Process 4321 holds 20.0 GB; Process 99 holds an unknown part." in text
    assert text.endswith("ask again later")


def test_a_driver_that_names_nobody_leaves_it_at_the_sizes() -> None:
    """In a container the driver often knows no processes; the message says so."""
    with pytest.raises(GpuBusyError, match="does not say which processes"):
        require_free(GPU, 5 * GB, probe=lambda device: gpu(24, 1))


def test_a_gpu_that_is_too_small_is_not_busy() -> None:
    """Waiting would not help where the whole card has less than the model needs: another error, another advice."""
    with pytest.raises(ModelLoadError, match=r"needs about 8\.5 GB and the whole GPU has 6\.0 GB.*fp16") as caught:
        require_free(GPU, 7 * GB, probe=lambda device: gpu(6, 6))
    assert caught.value.code == "MODEL_NOT_LOADED"


def fail_short_of_memory() -> None:
    raise ModelLoadError("the model does not fit") from torch.OutOfMemoryError("CUDA out of memory")


def test_memory_that_others_took_after_the_look_is_a_busy_gpu_too() -> None:
    """A game that starts while the model loads: the failure is told as what it is, and tried again later."""
    memory = gpu(24, 0.5, Holder(4321, 20 * GB))
    with (
        pytest.raises(GpuBusyError, match=r"gpu-busy: 3\.5 GB of the GPU's 24\.0 GB are free.*Process 4321"),
        others_may_be_to_blame(GPU, 5 * GB, probe=lambda device: memory, own_bytes=lambda device: 3 * GB),
    ):
        fail_short_of_memory()


def test_a_model_that_needs_more_than_was_thought_is_not_a_busy_gpu() -> None:
    """Where this process itself holds the memory nobody else is to blame."""
    with (
        pytest.raises(ModelLoadError, match="does not fit") as caught,
        others_may_be_to_blame(GPU, 5 * GB, probe=lambda device: gpu(8, 0.1), own_bytes=lambda device: 7 * GB),
    ):
        fail_short_of_memory()
    assert caught.value.code == "MODEL_NOT_LOADED"


def test_another_failure_on_a_busy_gpu_stays_what_it_is() -> None:
    """Weights that are broken are told as broken, whoever uses the GPU."""
    with (
        pytest.raises(ModelLoadError, match="no unet"),
        others_may_be_to_blame(GPU, 5 * GB, probe=lambda device: gpu(24, 0), own_bytes=lambda device: 0),
    ):
        raise ModelLoadError("no unet")
