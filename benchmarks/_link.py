"""A slow, far and lossy line between two network namespaces, packet by packet, in a process of its own.

Each end is a TUN device. What one end sends waits for its turn at the line's rate, travels for half the round trip and
comes out at the other end, or is lost. (`tc netem` does the same where the kernel has it; many have not.) It needs
root.
"""

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_QUEUE_S = 0.4  # what a home router holds back before it drops
_QUEUE_MIN_BYTES = 30_000
_PACKET_BYTES = 2048
_AT_ONCE = 64


@dataclass(frozen=True)
class Quality:
    """One line. `loss`: the share of packets that is lost, each way."""

    mbit_s: float
    round_trip_ms: float
    loss_percent: float

    def __str__(self) -> str:
        return f"{self.mbit_s:g}/{self.round_trip_ms:g}/{self.loss_percent:g}"


@dataclass
class _Direction:
    sink: int  # file descriptor of the TUN device that it leads to
    free_at_s: float = 0.0  # when the line has sent all that waits
    under_way: list[tuple[float, int, bytes]] = field(default_factory=list)  # heap: (due, number, packet)


def open_tun(name: str) -> int:
    """A file descriptor of a new TUN device in this process's namespace; it can be moved to another one."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def carry(near: int, far: int, quality: Quality, seed: int, orders: Connection) -> None:
    """Carries packets between two TUN devices until `orders` says None; True there: the line is cut, False: mended."""
    chance = random.Random(seed)
    directions = {near: _Direction(far), far: _Direction(near)}
    poller = select.poll()
    for descriptor in (near, far, orders.fileno()):
        poller.register(descriptor, select.POLLIN)
    cut, number = False, 0
    while True:
        due = min((one.under_way[0][0] for one in directions.values() if one.under_way), default=None)
        wait_ms = None if due is None else max(0.0, (due - time.monotonic()) * 1000)
        for descriptor, _ in poller.poll(wait_ms):
            if descriptor == orders.fileno():
                try:
                    order = orders.recv()
                except EOFError:
                    return
                if order is None:
                    return
                cut = order
                continue
            direction = directions[descriptor]
            for packet in _packets(descriptor):
                if not cut and chance.random() * 100 >= quality.loss_percent:
                    number += 1
                    _send(direction, packet, number, quality)
        now = time.monotonic()
        for direction in directions.values():
            while direction.under_way and direction.under_way[0][0] <= now:
                packet = heapq.heappop(direction.under_way)[2]
                if not cut:
                    _write(direction.sink, packet)


def _send(direction: _Direction, packet: bytes, number: int, quality: Quality) -> None:
    now, byte_s = time.monotonic(), quality.mbit_s * 1e6 / 8
    begin = max(now, direction.free_at_s)
    if (begin - now) > max(_QUEUE_S, _QUEUE_MIN_BYTES / byte_s):
        return
    direction.free_at_s = begin + len(packet) / byte_s
    heapq.heappush(direction.under_way, (direction.free_at_s + quality.round_trip_ms / 2000, number, packet))


def _packets(descriptor: int) -> list[bytes]:
    packets = []
    try:
        for _ in range(_AT_ONCE):
            packets.append(os.read(descriptor, _PACKET_BYTES))
    except OSError:  # nothing more, or the device is down
        pass
    return packets


def _write(descriptor: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # that end's device is down
        os.write(descriptor, packet)
