"""A program that runs on a swarm: its output through the manager, its end, and how it is ended."""

import asyncio
import contextlib
import time
from collections import Counter
from typing import Any

from fair_server.buckets import STDERR, STDIN, STDOUT, Bucket
from fair_server.executor import STOP_GRACE_S
from fair_server.nodes import Node
from fair_server.swarm_api import SwarmApi, SwarmError
from fair_server.swarm_logs import STDOUT_KIND, service_logs
from fair_server.swarm_view import SwarmView, Task, read_task

_KILLED_S = 15.0  # how long, beyond its grace, a task may take to be gone
_GONE_S = 5.0  # a task that the manager has not named for so long is gone
_LAST_OUTPUT_S = 10.0
_RETRY_S = 1.0
_STOP_LOOK_S = 0.05  # an ended task's exit code can be read for a quarter of a second before the manager forgets it
EXIT_KILLED, EXIT_TERMINATED = 137, 143


class SwarmProgram:
    """A service whose task has begun to run; see `RunningProgram`."""

    def __init__(self, api: SwarmApi, view: SwarmView, service_id: str, node: Node, bucket: Bucket) -> None:
        self.service_id = service_id
        self._api = api
        self._view = view
        self._node = node
        self._bucket = bucket
        self._seen: Counter[int] = Counter()  # bytes of each output that are in the bucket
        self._stopping = asyncio.Event()
        self._output = asyncio.create_task(self._follow_output())
        self._end = asyncio.create_task(self._until_ended())

    async def wait(self) -> int:
        """Returns the exit code, when the program has ended and what it has printed was read."""
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> None:
        """Ends it through the manager: TERM, and KILL after the grace that was set at its start (`STOP_GRACE_S`).

        Raises: TimeoutError where its node does not answer; it is ended when that is back.
        """
        try:
            await self._api.end_service(self.service_id)
        except SwarmError as exc:
            raise TimeoutError(f"It could not be ended: {exc}.") from exc
        self._stopping.set()
        if not self._view.is_heard(self._node) and not self._end.done():
            raise TimeoutError(
                f"Node {self._node.name} is not ready ({self._view.why_not_ready(self._node)}): "
                "the program is ended as soon as the node is back."
            )
        timeout_s = max(grace_s, STOP_GRACE_S) + _KILLED_S
        done, _ = await asyncio.wait({self._end}, timeout=timeout_s)
        if not done:
            raise TimeoutError(f"It was told to end, and is not gone after {timeout_s:.0f} s.")

    async def let_go(self) -> None:
        """Follows it no more; it runs on."""
        for task in (self._output, self._end):
            task.cancel()
        await asyncio.gather(self._output, self._end, return_exceptions=True)

    async def _until_ended(self) -> int:
        task = await self._last_state()
        while task is None or not task.is_over:
            task = await (self._until_stopped(task) if self._stopping.is_set() else self._last_state())
            if task is None:
                break
        self._output.cancel()
        await asyncio.gather(self._output, return_exceptions=True)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LAST_OUTPUT_S):
                await self._copy_output(follow=False)
        if dropped := self._bucket.existing_file(STDIN).size_bytes:
            told = f"fair_server: a program on a swarm gets no standard input; {dropped} bytes were dropped.\n"
            self._bucket.write_output(STDERR, told.encode())
        return EXIT_KILLED if task is None else task.end_code

    async def _last_state(self) -> Task | None:
        """Returns the task once it is over, or to be stopped; None where it is gone."""
        seen_at, was_ready, last = time.monotonic(), True, None
        while not self._stopping.is_set():
            task = self._view.task(self.service_id)
            if task is not None:
                last, seen_at = task, time.monotonic()
            elif time.monotonic() - seen_at > _GONE_S:
                return None
            if task is not None and task.is_over:
                return task
            is_ready = self._view.is_heard(self._node)
            if is_ready and not was_ready:  # a log that was followed over a broken line may hang
                self._output.cancel()
                self._output = asyncio.create_task(self._follow_output())
            was_ready = is_ready
            await self._until_look_or_stop()
        return last

    async def _until_stopped(self, last: Task | None) -> Task | None:
        """Returns the task that was told to end as it is last, with its exit code where that was seen."""
        told_at = time.monotonic()
        while last is not None:
            with contextlib.suppress(SwarmError):
                row = await self._api.task(last.id)
                if row is None:
                    break
                last = read_task(row)
                if last.is_over:
                    return last
            await asyncio.sleep(_STOP_LOOK_S)
        code = EXIT_TERMINATED if time.monotonic() - told_at < STOP_GRACE_S else EXIT_KILLED
        if last is None:
            return None
        return Task(last.id, "shutdown", "", code, last.at, last.created_at, has_container=True)

    async def _until_look_or_stop(self) -> None:
        """Waits for the next look, or for the call to stop."""
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._view.next_look()),
            asyncio.create_task(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _follow_output(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._copy_output(follow=True)
            await asyncio.sleep(_RETRY_S)

    async def _copy_output(self, *, follow: bool) -> None:
        """Copies what is not in the bucket yet: a log always begins at its beginning."""
        skip = Counter(self._seen)
        async for piece in service_logs(self._api.socket_path, self._api.version, self.service_id, follow=follow):
            skipped = min(skip[piece.kind], len(piece.data))
            skip[piece.kind] -= skipped
            if data := piece.data[skipped:]:
                self._bucket.write_output(STDOUT if piece.kind == STDOUT_KIND else STDERR, data)
                self._seen[piece.kind] += len(data)
