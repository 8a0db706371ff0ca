"""A process that the process executor has started: its standard streams, its end, the end of all that it started."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fair_server.buckets import STDERR, STDIN, STDOUT, Bucket
from fair_server.process_reaper import kill_strays

KILL_S = 5.0  # how long a killed process may take to be gone
_DRAIN_S = 2.0  # how long output may still come after the end, from a process that hid from us
_PIECE_BYTES = 64 * 1024


@dataclass
class Pipe:
    """Two descriptors of one pipe: the server's end and the program's."""

    own: int
    child: int


class StandardStreams:
    """Three pipes that asyncio did not make.

    With asyncio's own pipes, `Process.wait()` of Python 3.11 returns only when they are closed, and a process that
    the program left behind can hold them open for ever.
    """

    def __init__(self) -> None:
        self.stdin = Pipe(*reversed(os.pipe()))
        self.stdout = Pipe(*os.pipe())
        self.stderr = Pipe(*os.pipe())

    def close_child_ends(self) -> None:
        """Leaves the program's ends to the program."""
        for pipe in (self.stdin, self.stdout, self.stderr):
            os.close(pipe.child)

    def close(self) -> None:
        """Closes all ends: nothing was started."""
        self.close_child_ends()
        for pipe in (self.stdin, self.stdout, self.stderr):
            os.close(pipe.own)


class RunningProcess:
    """A started process, leader of a process group; see `RunningProgram`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        streams: StandardStreams,
        bucket: Bucket,
        folder: Path,
        tidy: Callable[[], Awaitable[None]],
    ) -> None:
        """Follows the process, whose private folder is `folder`; `tidy` is awaited once, when it has ended."""
        self._process = process
        self._folder = folder
        self._tidy = tidy
        self._end = asyncio.create_task(self._follow(streams, bucket))

    async def wait(self) -> int:
        """Returns the exit code, when all has ended and all output has been taken."""
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> None:
        """Sends TERM to the group (and CONT, so that a stopped process can hear it), and KILL after `grace_s`."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        done, _ = await asyncio.wait({self._end}, timeout=grace_s)
        if not done:
            self._signal(signal.SIGKILL)
            done, _ = await asyncio.wait({self._end}, timeout=KILL_S)
        if not done:
            raise TimeoutError(f"Process {self._process.pid} was killed, and is not gone after {KILL_S:.0f} s.")

    def _signal(self, number: signal.Signals) -> None:
        if not self._end.done():
            # No such group: all of it is gone. macOS answers EPERM for a group of zombies.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def _follow(self, streams: StandardStreams, bucket: Bucket) -> int:
        outputs = [
            asyncio.create_task(_take_output(streams.stdout.own, bucket, STDOUT)),
            asyncio.create_task(_take_output(streams.stderr.own, bucket, STDERR)),
        ]
        feeding = asyncio.create_task(_feed(streams.stdin.own, bucket))
        try:
            code = await self._process.wait()
            self._signal(signal.SIGKILL)  # as in a container, nothing outlives the first process
            with contextlib.suppress(OSError):  # no /proc
                await asyncio.to_thread(kill_strays, str(self._folder))
            await asyncio.wait(outputs, timeout=_DRAIN_S)
        finally:
            for task in (*outputs, feeding):
                task.cancel()
            await asyncio.gather(*outputs, feeding, return_exceptions=True)
            await self._tidy()
        return code if code >= 0 else 128 - code


async def _take_output(descriptor: int, bucket: Bucket, key: str) -> None:
    """Copies what the program writes into the bucket, until no process holds the other end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    try:
        while piece := await reader.read(_PIECE_BYTES):
            bucket.write_output(key, piece)
    finally:
        transport.close()


async def _feed(descriptor: int, bucket: Bucket) -> None:
    """Copies `#stdin` from the bucket to the program, and closes the pipe at its end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()  # never read: a writer's protocol wants one
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "wb", 0)
    )
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    try:
        async for piece in bucket.file(STDIN).read():
            writer.write(piece)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the program does not read its input
    finally:
        transport.abort()
