"""Whether a line that looks whole has died: its machine has another address, or nothing that it sends arrives.

TCP itself gives a line up after many minutes. What is seen here is a suspicion: enough to try another line beside it.
"""

import contextlib
import socket
import struct
import time

STALLED_MIN_S, STALLED_ROUND_TRIPS = 0.8, 3.0
# Where linux/tcp.h's struct tcp_info holds them.
_ACKNOWLEDGED, _UNACKNOWLEDGED, _ROUND_TRIP, _UNSENT = ("=Q", 120), ("=I", 24), ("=I", 68), ("=I", 144)
_SEGMENT, _WINDOW, _DELIVERED = ("=I", 16), ("=I", 80), ("=Q", 160)  # bytes, segments, bytes a second
_TCP_INFO_BYTES = 168


def _tcp_info(connection: socket.socket | None) -> bytes:
    """Empty where there is none: on Linux alone."""
    if connection is not None and hasattr(socket, "TCP_INFO"):
        with contextlib.suppress(OSError):
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            return info if len(info) == _TCP_INFO_BYTES else b""
    return b""


def unsent_bytes(connection: socket.socket | None) -> int | None:
    """What the kernel has taken and not yet sent for the first time; None where it does not tell."""
    info = _tcp_info(connection)
    return _field(info, _UNSENT) if info else None


def bytes_a_second(connection: socket.socket | None) -> float | None:
    """What the line carries, as far as TCP has tried it; None where the kernel does not tell."""
    info = _tcp_info(connection)
    if not info:
        return None
    window = _field(info, _SEGMENT) * _field(info, _WINDOW)
    return max(_field(info, _DELIVERED), window / max(1e-4, _field(info, _ROUND_TRIP) / 1e6), 1.0)


def _field(info: bytes, place: tuple[str, int]) -> int:
    return int(struct.unpack_from(place[0], info, place[1])[0])


class LineWatch:
    """Watches one TCP connection; `is_suspect` is to be asked several times a second."""

    def __init__(self, connection: socket.socket | None) -> None:
        self._connection = connection
        self._address = self._own_address()
        self._acknowledged = -1
        self._moved_s = time.monotonic()  # when something last arrived at the other end, or nothing was under way

    def is_suspect(self) -> bool:
        """True as long as what was sent is not acknowledged in time, and from a change of this machine's address on."""
        address = self._own_address()
        if address is not None and self._address is not None and address != self._address:
            return True
        return self._is_stalled()

    def _own_address(self) -> str | None:
        """From which address this machine reaches the other end now; None when it cannot. Nothing is sent."""
        if self._connection is None:
            return None
        with contextlib.suppress(OSError):
            peer = self._connection.getpeername()
            with socket.socket(self._connection.family, socket.SOCK_DGRAM) as probe:
                probe.connect(peer)
                return str(probe.getsockname()[0])
        return None

    def _is_stalled(self) -> bool:
        """On Linux alone: elsewhere the other end's silence has to do."""
        info = _tcp_info(self._connection)
        if not info:
            return False
        acknowledged, unacknowledged = _field(info, _ACKNOWLEDGED), _field(info, _UNACKNOWLEDGED)
        round_trip_us = _field(info, _ROUND_TRIP)
        now = time.monotonic()
        if acknowledged != self._acknowledged or not unacknowledged:
            self._acknowledged, self._moved_s = acknowledged, now
        return now - self._moved_s > max(STALLED_MIN_S, STALLED_ROUND_TRIPS * round_trip_us / 1e6)
