"""The fifteen faults by which such systems are judged: how each strikes a lane, and how it is mended.

What decides when and how comes from the `random.Random` of a seed. A strike gives back what mends it, None for a fault
that is over at once.
"""

import base64
import contextlib
import json
import random
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from benchmarks._fault_lane import Lane
from errors import InvalidRequestError, SpaceError

Mend = Callable[[], None]
Chance = random.Random
_PATIENCE_S = 30.0


class NotRefused(Exception):
    """Something hostile was not refused as it should be."""


@dataclass(frozen=True)
class Fault:
    """`strike(lane, chance)`; `lasts_s`: for how long, at least and at most, until it is mended; `pictures`: how many
    are asked for, of so many `steps` at most, before it strikes, or `after` that; `cold`: nothing runs before.
    """

    name: str
    strike: Callable[[Lane, Chance], Mend | None]
    lasts_s: tuple[float, float] = (0.0, 0.0)
    pictures: int = 6
    steps: int = 40
    after: bool = False
    cold: bool = False
    leaving: float = 0.0  # the part of the visitors who go while they wait


def _inference_killed(lane: Lane, chance: Chance) -> None:
    lane.kill("inference")


def _tunnel_client_killed(lane: Lane, chance: Chance) -> None:
    lane.kill("tunnel-client")


def _tunnel_server_restarted(lane: Lane, chance: Chance) -> None:
    lane.hits += 1
    lane.fair.end("vm", "tunnel-server")


def _half_open(lane: Lane, chance: Chance) -> Mend:
    """Nothing comes through any more, and no end is told."""
    for stream in chance.choice([("downstream",), ("downstream", "upstream")]):
        lane.proxy.spoil(lane.public, "timeout", stream, timeout=0)
    lane.hits += 1
    return lambda: lane.proxy.mend(lane.public)


def _address_changes(lane: Lane, chance: Chance) -> None:
    lane.move()


def _fair_fails(lane: Lane, chance: Chance) -> Mend:
    """Fair fails just when it is needed."""
    lane.front.mode = chance.choice(["401", "500", "hangs"])
    lane.kill(chance.choice(["inference", "tunnel-client", "tunnel-server"]))

    def mend() -> None:
        lane.front.mode = "well"

    return mend


def _nothing(lane: Lane, chance: Chance) -> None:
    """The load itself is the fault."""


def _page_restarts(lane: Lane, chance: Chance) -> None:
    lane.restart_page()


def _disk_full(lane: Lane, chance: Chance) -> Mend:
    """Fair's disk is full when it has to write a service's configuration."""
    if lane.disk is None:
        raise SystemExit("`disk full` needs root: it mounts a small disk of its own.")
    filler = lane.disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(2**16)):
            pass
    lane.kill(chance.choice(["inference", "tunnel-client", "tunnel-server"]))
    return filler.unlink


def _corrupt_or_truncated(lane: Lane, chance: Chance) -> Mend:
    """A bit is flipped somewhere in what comes back, or it ends too early."""
    place = int(2 ** chance.uniform(4, 16))
    if chance.random() < 0.5:
        lane.proxy.spoil(lane.public, "limit_data", bytes=place)
        lane.hits += 1
        return lambda: lane.proxy.mend(lane.public)
    lane.flipper.flip_after(place)

    def mend() -> None:
        lane.flipper.flip_after(None)

    return mend


def _slow_loris(lane: Lane, chance: Chance) -> Mend:
    """Strangers open connections and send as good as nothing, in TLS's handshake and in HTTP's headers."""
    stop = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def drip(in_tls: bool) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(lane.public_address, timeout=5) as plain:
                line = context.wrap_socket(plain) if in_tls else plain
                lane.hits += 1
                line.sendall(b"POST / HTTP/1.1\r\n" if in_tls else b"\x16\x03\x01\x02\x00")
                while not stop.wait(0.5):
                    line.sendall(b"a")
            stop.wait(0.1)

    threads = [threading.Thread(target=drip, args=[number % 2 == 0], daemon=True) for number in range(40)]
    for thread in threads:
        thread.start()

    def mend() -> None:
        stop.set()
        for thread in threads:
            thread.join(_PATIENCE_S)

    return mend


def _png_bomb(side_px: int) -> str:
    """A small file that says to be a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(min(side_px * side_px * 3, 50_000_000)), 9))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rows + chunk(b"IEND", b"")).decode()


def _image_bomb(lane: Lane, chance: Chance) -> None:
    """Pictures that would take gigabytes, and nests that no parser should walk into: each is refused, and soon."""
    inputs = {"prompt": "x", "image": _png_bomb(chance.choice([20_000, 60_000]))}
    bombs = [
        {"modelInputs": inputs, "callInputs": {"PIPELINE": "StableDiffusionImg2ImgPipeline"}},
        {"modelInputs": {**inputs, "mask_image": inputs["image"], "strength": 0.5}, "callInputs": {}},
        {"modelInputs": {"prompt": "x", "width": 2**31, "height": 2**31}, "callInputs": {}},
        b"[" * 5_000_000,
        b'{"modelInputs": {"prompt": "' + b"x" * 17_000_000 + b'"}}',
    ]
    for bomb in chance.sample(bombs, 3):
        _must_refuse(lane, bomb)


def _must_refuse(lane: Lane, body: object) -> None:
    """Raises: NotRefused."""
    try:
        answer = lane.post(body, timeout_s=_PATIENCE_S)
    except requests.ConnectionError:
        lane.hits += 1  # cut off in the middle of what is too large
        return
    except requests.Timeout:
        raise NotRefused(f"no answer within {_PATIENCE_S:g} s to {str(body)[:80]}") from None
    if not (400 <= answer.status_code < 500 or answer.status_code == 503):
        raise NotRefused(f"{answer.status_code} to {str(body)[:80]}: {answer.text[:200]}")
    lane.hits += 1


_PROMPTS = (
    "\0" * 10,
    "\ud800 half a letter",
    "x" * 100_000,
    "({[<" * 400,
    "'; DROP TABLE pictures; --",
    "<script>alert(1)</script>",
    "{{7*7}} ${jndi:ldap://x} %s%s%n",
    "\u202e\u200b\ufeff" * 50,
    "Z\u0351\u036b\u0343" * 300,
    "",
)
_NUMBERS: tuple[Any, ...] = (0, -1, 2**63, float("nan"), float("inf"), "1e400", [], {}, True, "x" * 5000)


def _hostile_input(lane: Lane, chance: Chance) -> None:
    """Words and numbers that nobody means well with, to the page and past it."""
    for prompt in chance.sample(_PROMPTS, 4):
        name = chance.choice(["seed", "width", "num_inference_steps", "guidance_scale"])
        with contextlib.suppress(InvalidRequestError):
            values: dict[str, Any] = {name: chance.choice(_NUMBERS)}
            job = lane.service.submit(prompt, visitor="a stranger", **values)
            with contextlib.suppress(SpaceError):
                job.result(_PATIENCE_S)
        numbers = {"prompt": prompt, name: chance.choice(_NUMBERS)}
        text = json.dumps({"modelInputs": numbers, "callInputs": {"startRequestId": prompt[:2000]}})
        with contextlib.suppress(requests.RequestException):
            if (status := lane.post(text.encode(), timeout_s=_PATIENCE_S).status_code) >= 500 and status != 503:
                raise NotRefused(f"{status} to {text[:200]}")
    for _ in range(5):
        _must_refuse(lane, chance.randbytes(chance.randrange(1, 5000)))
        with contextlib.suppress(OSError), socket.create_connection(lane.public_address, timeout=5) as line:
            line.sendall(chance.randbytes(2000))


def _clock_jumps(lane: Lane, chance: Chance) -> Mend:
    """Fair's clock is hours off, or days, while a service has to be started."""
    lane.front.clock_off_s = chance.choice([-1, 1]) * chance.uniform(3600, 3 * 86400)
    lane.kill(chance.choice(["inference", "tunnel-client", "tunnel-server"]))

    def mend() -> None:
        lane.front.clock_off_s = 0.0

    return mend


def _overload(lane: Lane, chance: Chance) -> None:
    """The engine dies while ten times as many wait as it draws at once."""
    lane.kill_engine()
    time.sleep(chance.uniform(0, 2))
    if chance.random() < 0.5:
        lane.kill_engine()


FAULTS = (
    Fault("inference killed", _inference_killed),
    Fault("tunnel client killed", _tunnel_client_killed),
    Fault("tunnel server restarted", _tunnel_server_restarted),
    Fault("half-open connection", _half_open, (1.0, 20.0)),
    Fault("node's address changes", _address_changes),
    Fault("Fair 401, 500, hang", _fair_fails, (0.5, 45.0)),  # longer than a start bears, at times
    Fault("100 first prompts", _nothing, pictures=100, steps=3, cold=True),
    Fault("page restarts", _page_restarts, after=True),
    Fault("disk full", _disk_full, (1.0, 8.0)),
    Fault("corrupt or truncated", _corrupt_or_truncated, (0.5, 4.0)),
    Fault("slow-loris", _slow_loris, (3.0, 10.0)),
    Fault("image bomb", _image_bomb),
    Fault("hostile input", _hostile_input),
    Fault("clock jumps", _clock_jumps, (3.0, 10.0)),
    Fault("tenfold overload", _overload, pictures=40, leaving=0.3),
)
