"""The benchmarks' own parts: each measures what its arguments ask for."""

from pathlib import Path

import pytest

from benchmarks._machine import first_handle
from benchmarks._servers import Server
from benchmarks.throughput import wait_compiled


def _server(folder: Path, *lines: str) -> Server:
    log = folder / "log"
    log.write_text("".join(f"{line}\n" for line in lines))
    return Server("ours, batched", "http://127.0.0.1:9", 1, log)


def test_a_server_that_draws_compiled_is_measured(tmp_path: Path) -> None:
    """Once its engine says so."""
    wait_compiled(_server(tmp_path, "compiling: 512x512 px are drawn by the compiled UNet from here on"))


@pytest.mark.parametrize(
    "line",
    [
        "compiling: 512x512 px are drawn without a compiled UNet: there is no C++ compiler",
        "compiling: nothing is compiled: the folder can be written by others",
        "compiling: 512x512 px wait for memory: less is free",
    ],
)
def test_a_server_without_a_compiled_unet_is_not_measured_as_if_it_had_one(tmp_path: Path, line: str) -> None:
    """The benchmark ends at once with a sentence that names the server, the engine's word and what to do."""
    with pytest.raises(SystemExit, match=r"ours, batched.*C\+\+|ours, batched.*g\+\+") as ended:
        wait_compiled(_server(tmp_path, line))
    assert line in str(ended.value)


class _Nvml:
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        return uuid


@pytest.mark.parametrize(
    ("visible", "handle"), [("", 0), ("3,1", 3), ("GPU-8f,GPU-9a", "GPU-8f"), ("MIG-7c41", "MIG-7c41")]
)
def test_the_first_visible_device_is_found_by_number_or_name(visible: str, handle: object) -> None:
    """A slice of a GPU (MIG) goes by its name as a whole GPU does."""
    assert first_handle(_Nvml(), visible) == handle
