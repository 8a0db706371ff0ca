"""What a worker sends of a picture over a slow line, and what it knows of its line."""

import base64
import io
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from backends.workers import Workers
from drawing.events import Step
from inference_server import line_answer, line_watch
from inference_server.early_picture import BYTES_MAX, early_picture
from inference_server.line_watch import LineWatch, bytes_a_second, unsent_bytes
from page.language import ENGLISH
from page.text import event_html
from tests.support.processes import wait_until
from tests.support.worker_line import DEADLINE_S, KEY, Drawing, png, space_side, worker


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """One end of a TCP connection on loopback, with a byte each way behind it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        near.sendall(b"x")
        far.sendall(far.recv(1))
        near.recv(1)
        yield near


def test_a_small_picture_goes_ahead_on_a_slow_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The visitor sees it as the last preview, with a word on what comes; the picture itself comes as it is."""
    monkeypatch.setattr(line_answer, "EARLY_S", 0.0)
    monkeypatch.setattr(line_answer, "_EARLY_MIN_BYTES", 0)
    with space_side(Workers(KEY, wait_s=DEADLINE_S)) as space, worker(space.port):
        drawing = Drawing(space.workers, 4)
        assert drawing.result().encoded == png(4)
        early = drawing.events[-1]
        assert isinstance(early, Step)
        assert early.arriving
        assert early.preview is not None
        with Image.open(io.BytesIO(early.preview)) as image:
            assert (image.format, image.size) == ("WEBP", (64, 64))
        assert ENGLISH["arriving"] in event_html(early, 1.0)


@pytest.mark.parametrize(("rate", "bound"), [(1e9, 48 * 1024), (None, 48 * 1024), (20_000.0, 8000), (1.0, 3072)])
def test_little_is_held_back_on_a_slow_line(rate: float | None, bound: int) -> None:
    """What the kernel has taken delays every step of every other drawing: at most half a second of it waits there."""
    assert line_answer.unsent_max(rate) == bound


def test_a_picture_in_small_pieces_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little the line carries at a time."""
    monkeypatch.setattr(line_answer, "PIECE_BYTES", 7)
    with space_side(Workers(KEY, wait_s=DEADLINE_S)) as space, worker(space.port):
        assert Drawing(space.workers, 4).result().encoded == png(4)


def test_nothing_goes_ahead_on_a_fast_line() -> None:
    """It would only be in the picture's way."""
    with space_side(Workers(KEY, wait_s=DEADLINE_S)) as space, worker(space.port):
        drawing = Drawing(space.workers, 4)
        drawing.result()
        assert not any(event.arriving for event in drawing.events if isinstance(event, Step))


@pytest.mark.parametrize("side", [8, 512, 1536])
def test_the_small_picture_is_small(side: int) -> None:
    """Also of noise, which nothing compresses."""
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(1).randbytes(side * side * 3)).save(
        file, "PNG", compress_level=0
    )
    early = early_picture(file.getvalue())
    assert early is not None
    assert 0 < len(base64.b64decode(early)) <= BYTES_MAX


def test_what_is_no_picture_has_no_small_one() -> None:
    """The line goes on without it."""
    assert early_picture(b"no picture") is None


def test_no_picture_is_lost_where_pillow_writes_no_webp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes ahead of it there; without this the request would break off, again and again."""
    Image.init()
    monkeypatch.delitem(Image.SAVE, "WEBP")
    assert early_picture(png(4)) is None


def test_the_kernel_tells_of_the_line(connection: socket.socket) -> None:
    """How much waits, and how fast it goes."""
    assert unsent_bytes(connection) == 0
    rate = bytes_a_second(connection)
    assert rate is not None
    assert rate > 1e6, "loopback"
    assert unsent_bytes(None) is bytes_a_second(None) is None


def test_a_line_whose_other_end_takes_nothing_in_time_is_suspect(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that rests is not, nor one that gets on, however slowly."""
    monkeypatch.setattr(line_watch, "STALLED_MIN_S", 0.05)
    info = bytearray(line_watch._tcp_info(connection))
    monkeypatch.setattr(line_watch, "_tcp_info", lambda _: bytes(info))
    watch = LineWatch(connection)
    assert not watch.is_suspect()
    struct.pack_into("=I", info, 24, 3)  # segments that are not acknowledged
    for acknowledged in range(5):
        struct.pack_into("=Q", info, 120, acknowledged)
        assert not watch.is_suspect()
        time.sleep(0.02)
    wait_until("it to be suspect", watch.is_suspect, 5)
    struct.pack_into("=Q", info, 120, 99)
    assert not watch.is_suspect()


def test_a_line_from_an_address_that_this_machine_has_no_longer_is_suspect(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: nothing comes back to the old one."""
    watch = LineWatch(connection)
    assert not watch.is_suspect()
    monkeypatch.setattr(watch, "_own_address", lambda: "127.0.0.2")
    assert watch.is_suspect()
    monkeypatch.setattr(watch, "_own_address", lambda: None)
    assert not watch.is_suspect(), "no uplink at all: there is nothing to dial over"
