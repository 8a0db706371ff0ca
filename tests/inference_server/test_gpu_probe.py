"""What a driver tells of its GPU, and whether a container was meant to have one."""

from types import SimpleNamespace
from typing import Any

import pytest

from inference_server.engines import gpu_probe
from inference_server.messages import Hardware

CARD = Hardware("NVIDIA RTX 4090", "581.2", "13.1", 24 * 10**9, 20 * 10**9)


def nvml(fails: str = "") -> Any:
    """Answers as NVML does; the function named `fails` raises."""

    def answer(name: str, value: Any) -> Any:
        def function(*_: Any) -> Any:
            if name == fails:
                raise RuntimeError("NVML_ERROR_LIBRARY_NOT_FOUND")
            return value

        return function

    memory = SimpleNamespace(total=CARD.memory_bytes, free=CARD.free_bytes)
    told = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlSystemGetCudaDriverVersion_v2": 13010,
        "nvmlSystemGetDriverVersion": "581.2",
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetName": "NVIDIA RTX 4090",
    }
    return SimpleNamespace(**{name: answer(name, value) for name, value in told.items()})


def test_what_the_driver_tells() -> None:
    """Card, driver, the newest CUDA that it can do, and its memory."""
    assert gpu_probe.look(nvml()) == CARD


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_no_driver_that_answers(fails: str) -> None:
    """A library, driver or card that is not there is no error: there is nothing to tell."""
    assert gpu_probe.look(nvml(fails)) is None


@pytest.mark.parametrize(
    ("value", "expected"), [("all", True), ("0", True), ("void", False), ("", False), (None, False)]
)
def test_a_container_for_a_gpu(value: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image says that it wants a GPU; a program that was started by hand does not."""
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", value)
    assert gpu_probe.is_expected() is expected
