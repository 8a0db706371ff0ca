"""The benchmarks' own parts: each measures what its arguments ask for."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks._fault_lane import Asked, overlap
from benchmarks._flipper import Flipper
from benchmarks._lines_engine import noise
from benchmarks._machine import first_handle
from benchmarks._servers import Server
from benchmarks.throughput import wait_compiled
from drawing.jobs import Job, Jobs
from drawing.models import GeneratedImage, GenerationRequest, Receipt
from errors import BusyError


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


def test_the_flipper_spoils_one_bit(tmp_path: Path) -> None:
    """What comes back through it is whole until it is told to flip a bit, and then differs in that one."""
    sent = bytes(range(256)) * 400
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                with server.accept()[0] as line:
                    line.sendall(sent)

        threading.Thread(target=serve, daemon=True).start()
        flipper = Flipper(server.getsockname()[1])
        try:
            assert _all_of(flipper.port) == sent
            flipper.flip_after(70_001)
            spoilt = _all_of(flipper.port)
            assert flipper.flipped == 1
        finally:
            flipper.close()
    assert len(spoilt) == len(sent)
    differing = [place for place, pair in enumerate(zip(sent, spoilt, strict=True)) if pair[0] != pair[1]]
    assert differing == [70_001]
    assert (sent[70_001] ^ spoilt[70_001]).bit_count() == 1


def _all_of(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        return b"".join(iter(lambda: line.recv(65536), b""))


def test_what_ran_beside_another_one() -> None:
    """Two containers whose times overlap are one double start, told of the later one; one after the other is none."""
    rows: list[dict[str, Any]] = [
        {"id": "1", "started_at": "2026-11-29T10:00:00Z", "ended_at": "2026-11-29T10:00:05Z"},
        {"id": "2", "started_at": "2026-11-29T10:00:04Z", "ended_at": None},
        {"id": "3", "started_at": "2026-11-29T10:00:06Z", "ended_at": None},
    ]
    beside = [(one["id"], other["id"]) for one in rows for other in rows if one is not other and overlap(one, other)]
    assert beside == [("2", "1"), ("3", "2")]


def test_a_drawing_is_judged_byte_by_byte() -> None:
    """The noise of another seed, or of a picture that differs in one byte, is a wrong picture; an error is told."""

    def judged(pixels: bytes | None, seed: int = 7) -> str:
        def draw(job: Job) -> GeneratedImage:
            if pixels is None:
                raise BusyError("too many.")
            return GeneratedImage(Image.frombytes("RGB", (64, 64), pixels), b"", "PNG", seed, Receipt())

        return Asked(Jobs().start(GenerationRequest("x"), draw), 7, 64).outcome(time.monotonic() + 60)

    right = noise(7, 64, 64)
    assert judged(right) == "picture"
    assert judged(right, seed=8) == "wrong picture"
    assert judged(noise(8, 64, 64)) == "wrong picture"
    assert judged(right[:-1] + bytes([right[-1] ^ 1])) == "wrong picture"
    assert judged(None).startswith("error: Busy: too many.")
