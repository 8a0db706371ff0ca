"""One answer on its way to a Space: lines as JSON texts, finished pictures in pieces ahead of the line that has them.

A picture that takes seconds to send goes out twice: first small, as the last preview, then as it is.
"""

import asyncio
import base64
import json
import socket
import struct
from typing import Any

from websockets.asyncio.client import ClientConnection

from inference_server.early_picture import early_picture
from inference_server.line_watch import bytes_a_second, unsent_bytes

PIECE_BYTES = 16 * 1024  # a beat goes between two pieces: half a second at 0.25 Mbit/s
EARLY_S = 2.0  # a picture that takes longer to send is preceded by a small one
_UNKNOWN_RATE_BYTES = 256 * 1024  # so large counts as slow where the kernel tells no rate
_EARLY_MIN_BYTES = 64 * 1024  # a small picture would not be much smaller
_UNSENT_S = 0.4  # what the kernel holds back delays every beat and step behind it
_UNSENT_MIN_BYTES, _UNSENT_MAX_BYTES = 3 * 1024, 48 * 1024
_LOOK_S = 0.004
_LONG_LINE_BYTES = 64 * 1024  # one that holds a picture: taken apart on another thread, the beats go on meanwhile


class LineAnswer:
    """The answer to one request. Every method may raise ConnectionClosed."""

    def __init__(self, line: ClientConnection, request_id: int) -> None:
        self._line, self._id = line, request_id
        self._connection: socket.socket | None = line.transport.get_extra_info("socket")
        self._progress: dict[str, Any] = {"step": 1, "total_steps": 1, "num_inference_steps": 1}

    async def send_head(self, status: int, retry_after: str | None) -> None:
        await self._send(type="head", status=status, retry_after=retry_after)

    async def send_line(self, line: bytes) -> None:
        content, files = _split(line) if len(line) < _LONG_LINE_BYTES else await asyncio.to_thread(_split, line)
        if content.get("type") == "progress":
            self._progress = {name: content.get(name, one) for name, one in self._progress.items()}
        if files and self._is_slow(len(files[0])):
            await self._send_early(files[0])
        for number, file in enumerate(files):
            head = struct.pack(">II", self._id, number)
            start = 0
            while start < len(file):
                while (unsent_bytes(self._connection) or 0) > unsent_max(bytes_a_second(self._connection)):  # noqa: ASYNC110  no event tells
                    await asyncio.sleep(_LOOK_S)
                size = min(PIECE_BYTES, unsent_max(bytes_a_second(self._connection)))
                await self._line.send(head + file[start : start + size])
                start += size
        await self._send(type="line", line=content, pictures=len(files))

    def _is_slow(self, size_bytes: int) -> bool:
        rate = bytes_a_second(self._connection)
        if rate is None:
            return size_bytes > _UNKNOWN_RATE_BYTES
        return size_bytes > _EARLY_MIN_BYTES and size_bytes / rate > EARLY_S

    async def _send_early(self, file: bytes) -> None:
        """As the preview of the last step, with `arriving`: a Space that does not know this shows it all the same."""
        preview = await asyncio.to_thread(early_picture, file)
        if preview is not None:
            steps = self._progress["total_steps"]
            told = {**self._progress, "type": "progress", "progress": 1.0, "step": steps}
            await self._send(type="line", line={**told, "preview": preview, "arriving": True}, pictures=0)

    async def _send(self, **message: Any) -> None:
        await self._line.send(json.dumps({"id": self._id, **message}))


def unsent_max(rate: float | None) -> int:
    """How many bytes the kernel may hold back on a line of `rate` bytes a second: little after an outage."""
    if rate is None:
        return _UNSENT_MAX_BYTES
    return int(max(_UNSENT_MIN_BYTES, min(_UNSENT_MAX_BYTES, rate * _UNSENT_S)))


def _split(line: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """A line of an answer without its finished pictures, and their files."""
    content: dict[str, Any] = json.loads(line)
    encoded = content.pop("images_base64", None) or ([content.pop("image_base64")] if "image_base64" in content else [])
    return content, [base64.b64decode(picture) for picture in encoded]
