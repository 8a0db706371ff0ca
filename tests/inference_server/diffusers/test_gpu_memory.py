"""Whether a model is loaded onto a GPU that others use. The driver's answers are stand-ins: there is no GPU here."""

import pytest
import torch

from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers.gpu_memory import (
    GpuBusyError,
    GpuMemory,
    Holder,
    is_free,
    others_may_be_to_blame,
    require_free,
)

GPU = torch.device("cuda", 0)
GB = 10**9


def gpu(total_gb: float, free_gb: float, *holders: Holder) -> GpuMemory:
    return GpuMemory(int(total_gb * GB), int(free_gb * GB), holders)


def test_a_free_gpu_is_taken() -> None:
    """With room for what the plan needs nothing is raised, with a byte less it is."""
    require_free(GPU, 2 * GB, probe=lambda device: gpu(8, 2))
    with pytest.raises(GpuBusyError):
        require_free(GPU, 2 * GB + 1, probe=lambda device: gpu(8, 2))


def test_a_card_that_does_not_tell_is_not_busy() -> None:
    """Some virtual cards know their size alone: loading the model shows whether it fits, and no failure is others'."""
    silent = GpuMemory(8 * GB, None)
    require_free(GPU, 6 * GB, probe=lambda device: silent)
    assert is_free(GPU, 6 * GB, probe=lambda device: silent, unused_bytes=lambda device: 0)
    with (
        pytest.raises(ModelLoadError, match="does not fit") as caught,
        others_may_be_to_blame(GPU, 5 * GB, probe=lambda device: silent, own_bytes=lambda device: 0),
    ):
        fail_short_of_memory()
    assert caught.value.code == "MODEL_NOT_LOADED"


def test_what_the_own_allocator_keeps_unused_is_free() -> None:
    """It gives it back when asked to: compiling need not wait for memory that nobody else has."""
    memory = gpu(8, 1)
    assert not is_free(GPU, 2 * GB, probe=lambda device: memory, unused_bytes=lambda device: 0)
    assert is_free(GPU, 2 * GB, probe=lambda device: memory, unused_bytes=lambda device: GB)


def test_a_gpu_in_use_is_told_as_busy_with_who_holds_what() -> None:
    """The message says how much is free and needed, and which processes hold how much; its code is the wire's."""
    memory = gpu(24, 1.25, Holder(4321, 20 * GB), Holder(99, None))
    with pytest.raises(GpuBusyError) as caught:
        require_free(GPU, 6_500_000_000, probe=lambda device: memory)
    assert caught.value.code == "GPU_BUSY"
    text = str(caught.value)
    assert text.startswith("gpu-busy: 1.2 GB of the GPU's 24.0 GB are free, the model needs about 6.5 GB. ")
    assert "Process 4321 holds 20.0 GB; Process 99 holds an unknown part." in text
    assert text.endswith("ask again later")


def test_a_driver_that_names_nobody_leaves_it_at_the_sizes() -> None:
    """In a container the driver often knows no processes; the message says so."""
    with pytest.raises(GpuBusyError, match="does not say which processes"):
        require_free(GPU, 5 * GB, probe=lambda device: gpu(24, 1))


def fail_short_of_memory() -> None:
    raise ModelLoadError("the model does not fit") from torch.OutOfMemoryError("CUDA out of memory")


def test_memory_that_others_took_after_the_look_is_a_busy_gpu_too() -> None:
    """A game that starts while the model loads: the failure is told as what it is, and tried again later."""
    memory = gpu(24, 0.5, Holder(4321, 20 * GB))
    with (
        pytest.raises(GpuBusyError, match=r"gpu-busy: 3\.5 GB of the GPU's 24\.0 GB are free.*Process 4321"),
        others_may_be_to_blame(GPU, 6_500_000_000, probe=lambda device: memory, own_bytes=lambda device: 3 * GB),
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
