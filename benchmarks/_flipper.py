"""Carries connections on to a port of this machine, and flips one bit of what comes back where it is told to."""

import asyncio
import contextlib
import threading


class Flipper:
    """`port`: where it listens; `flipped`: how many bits it has flipped."""

    def __init__(self, upstream: int) -> None:
        self.flipped = 0
        self._flip_after: int | None = None
        self._order = 0
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def flip_after(self, count: int | None) -> None:
        """From now on a bit is another after so many bytes of each connection; None: all come back whole."""
        self._flip_after = count
        self._order += 1

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, inner[1], spoilt=False), self._pump(inner[0], writer, spoilt=True))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, spoilt: bool) -> None:
        carried, order = 0, self._order
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                if order != self._order:
                    carried, order = 0, self._order
                place = -1 if self._flip_after is None or not spoilt else self._flip_after - carried
                carried += len(piece)
                if 0 <= place < len(piece):
                    changed = bytearray(piece)
                    changed[place] ^= 1 << place % 8
                    piece = bytes(changed)
                    self.flipped += 1
                writer.write(piece)
                await writer.drain()
        writer.close()
