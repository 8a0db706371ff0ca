"""The runner of all programs: it waits for their files, has an executor run them, ends them, and forgets them later."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from fair_server.buckets import STDERR, Buckets
from fair_server.budgets import Spent, refusal, spent_today, why_unwanted
from fair_server.errors import EXIT_NOT_STARTED, ApiError, CannotStart
from fair_server.executor import STOP_GRACE_S, Ended, Executor, RunningProgram, Survivor
from fair_server.nodes import Node
from fair_server.program_files import Sources, check_image, sources_of, spec_of, until_uploaded
from fair_server.program_records import record_of, restore
from fair_server.program_state import Program
from fair_server.wire import OWN_BUCKET, ProgramRequest

KEPT = timedelta(hours=48)
_SHUTDOWN_GRACE_S = 3.0  # the same when the server ends
UPLOAD_WAIT_S = 30.0
_NODE_WAIT_S = 300.0  # for a program's node to be ready
_NODE_POLL_S = 0.5
_OPEN_AT_MOST = 500
_LOG = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class ProgramRunner:
    """The programs of one run of the server. Each is seen by the account that made it and no other.

    `upload_wait_s`: how long a program waits without a byte of the files to be copied; their client has gone then.
    """

    def __init__(
        self,
        executor: Executor,
        buckets: Buckets,
        clock: Callable[[], datetime] = _now,
        upload_wait_s: float = UPLOAD_WAIT_S,
    ) -> None:
        self._executor = executor
        self._buckets = buckets
        self._clock = clock
        self._upload_wait_s = upload_wait_s
        self._programs: dict[int, Program] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsettled: dict[int, Survivor] = {}  # their records, of programs that have ended
        self._closing = False
        # It starts at the time, so that a number from an earlier run of the server names nothing in this one.
        self._last_id = int(time.time() * 1000)

    async def adopt(self, nodes: Sequence[Node]) -> None:
        """Takes in the programs of earlier runs, as far as the executor still has them: none is started again."""
        for survivor in await self._executor.survivors():
            program = restore(survivor, nodes, self._buckets)
            if program is None:
                continue
            self._programs[program.id] = program
            self._last_id = max(self._last_id, program.id)  # the clock may have been set back
            if survivor.ended is not None:
                await self._settle(program, survivor.ended)
                continue
            _LOG.info("Program %d of an earlier run is on node %s", program.id, program.node.name)
            attach = self._executor.attach(spec_of(program, []), program.bucket, program.stop_asked)
            self._follow(program, self._until_ended(program, attach))

    def create(self, account: str, node: Node, asked_node: str, request: ProgramRequest) -> Program:
        """Takes a program in, and starts it as soon as all its files have come.

        Raises:
            ApiError: 404 NO_SUCH_BUCKET; 503 when the server ends, or very many programs have not ended.
        """
        if self._closing:
            raise ApiError(503, "SHUTTING_DOWN", "The server is shutting down and starts nothing more.")
        if sum(program.ended_at is None for program in self._programs.values()) >= _OPEN_AT_MOST:
            raise ApiError(503, "BUSY", f"{_OPEN_AT_MOST} programs have not ended yet. End some first.")
        for copy in request.copies:
            if copy.bucket_id != OWN_BUCKET:
                self._buckets.get(copy.bucket_id, account)
        self._last_id += 1
        bucket = self._buckets.create(self._last_id, account)
        program = Program(self._last_id, account, node, asked_node, request, bucket, self._clock())
        self._programs[program.id] = program
        self._follow(program, self._carry_out(program))
        return program

    def _follow(self, program: Program, work: Awaitable[int]) -> None:
        task = asyncio.create_task(self._run(program, work), name=f"program {program.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def get(self, program_id: int, account: str) -> Program:
        """Returns the account's program.

        Raises:
            ApiError: 404 NO_SUCH_PROGRAM, also for another account's.
        """
        program = self._programs.get(program_id)
        if program is None or program.account != account:
            raise no_such_program()
        return program

    def on_node(self, node: Node, account: str) -> list[Program]:
        """Returns the account's programs of one node, oldest first."""
        return [one for one in self._programs.values() if one.node.id == node.id and one.account == account]

    def is_ready(self, node: Node) -> bool:
        """Whether programs can be started on the node now."""
        return self._executor.is_ready(node)

    def host_address(self, node: Node) -> str:
        """Where the node's programs are reached from outside."""
        return self._executor.host_address(node)

    def spent_today(self, node: Node) -> Spent:
        """What the node's GPU was used for today, by all accounts."""
        return spent_today(self._programs.values(), node, self._clock())

    async def end_unwanted(self) -> None:
        """Ends what runs on a drained node, or on a GPU that has run for as long as it may today."""
        stops: list[Awaitable[None]] = []
        for program in [one for one in self._programs.values() if not one.stop_asked.is_set()]:
            is_drained = self._executor.is_drained(program.node)
            if why := why_unwanted(program, is_drained, self.spent_today(program.node), self._clock()):
                program.bucket.write_output(STDERR, f"fair_server: it is ended. {why}\n".encode())
                stops.append(self.stop(program))
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, BaseException):
                _LOG.error("A program could not be ended: %s", outcome)

    async def stop(self, program: Program, grace_s: float = STOP_GRACE_S) -> None:
        """Ends the program, wherever it is in its life, and returns when it has ended.

        Raises:
            TimeoutError: it does not end although it was killed.
        """
        program.stop_asked.set()
        if program.waiting is not None:
            program.waiting.cancel()
        await program.past_start.wait()
        if program.running is not None:
            await program.running.stop(grace_s)
        await program.ended.wait()

    async def forget_old(self) -> None:
        """Removes all that is left of programs that ended 48 hours ago."""
        for program in list(self._programs.values()):
            if program.ended_at is not None and self._clock() - program.ended_at >= KEPT:
                await self._executor.forget(program.id)
                self._programs.pop(program.id, None)
                self._buckets.remove(program.bucket)

    async def close(self) -> None:
        """Takes nothing more in. Ends every program, or lets go of those that outlive the server."""
        self._closing = True
        living = [program for program in self._programs.values() if program.ended_at is None]
        if self._executor.ends_programs:
            for outcome in await asyncio.gather(
                *(self.stop(program, _SHUTDOWN_GRACE_S) for program in living), return_exceptions=True
            ):
                if isinstance(outcome, BaseException):
                    _LOG.error("A program could not be ended: %s", outcome)
        else:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for program in living:
                program.bucket.close()  # ends the answers that stream its output
        await self._executor.close()

    async def _run(self, program: Program, work: Awaitable[int]) -> None:
        exit_code = EXIT_NOT_STARTED
        try:
            exit_code = await work
        except asyncio.CancelledError:
            if self._closing and not self._executor.ends_programs:
                return  # it goes on without this server
            raise
        except CannotStart as exc:
            exit_code = exc.exit_code
            self._tell(program, exc.message)
        except Exception as exc:
            _LOG.exception("Program %d: the server failed", program.id)
            self._tell(program, f"The server failed to run it ({type(exc).__name__}); its log says more.")
        ended = Ended(exit_code, self._clock())
        await self._settle(program, ended)
        program.end(ended)
        _LOG.info("Program %d ended with exit code %d", program.id, exit_code)

    async def settle_again(self) -> None:
        """Removes what is left of programs where that has failed before: a swarm's manager may have been away."""
        for program_id, record in list(self._unsettled.items()):
            await self._executor.settle(record)
            del self._unsettled[program_id]
            _LOG.info("Program %d: what was left of it is removed", program_id)

    async def _settle(self, program: Program, ended: Ended) -> None:
        record = record_of(program, ended)
        try:
            await self._executor.settle(record)
        except Exception:
            _LOG.exception("Program %d: what is left of it could not be removed, and is tried again", program.id)
            self._unsettled[program.id] = record

    async def _carry_out(self, program: Program) -> int:
        """Returns the exit code of the container.

        Raises:
            CannotStart: there never was one.
        """
        check_image(program)
        sources = sources_of(program, self._buckets)
        await self._wait_cancellably(program, sources)
        if why := refusal(program, self.spent_today(program.node), self._clock()):
            raise CannotStart(why)
        program.starting = True
        start = self._executor.start(spec_of(program, sources), program.bucket, program.stop_asked)
        return await self._until_ended(program, start)

    async def _until_ended(self, program: Program, start: Awaitable[RunningProgram]) -> int:
        running = await start
        program.running = running
        program.started_at = program.started_at or self._clock()
        program.past_start.set()
        _LOG.info(
            "Program %d runs on node %s: image %s", program.id, program.node.name, program.request.container.image
        )
        return await running.wait()

    async def _wait_cancellably(self, program: Program, sources: Sources) -> None:
        """Waits until the program can start, or `stop` is called, which cancels this wait and nothing after it."""
        program.waiting = asyncio.create_task(self._until_startable(program, sources))
        if program.stop_asked.is_set():
            program.waiting.cancel()
        try:
            await program.waiting
        except asyncio.CancelledError:
            if not program.stop_asked.is_set():
                raise
        finally:
            program.waiting = None
        if program.stop_asked.is_set():
            raise CannotStart("It was deleted before it was started.")

    async def _until_startable(self, program: Program, sources: Sources) -> None:
        await until_uploaded(program, sources, self._upload_wait_s)
        try:
            async with asyncio.timeout(_NODE_WAIT_S):
                while not self._executor.is_ready(program.node):  # noqa: ASYNC110 - a node's state is no event
                    await asyncio.sleep(_NODE_POLL_S)
        except TimeoutError as exc:
            raise CannotStart(
                f"Waited {_NODE_WAIT_S:.0f} s for node {program.node.name} to be ready. Look whether it is on."
            ) from exc

    def _tell(self, program: Program, message: str) -> None:
        """Writes one line to `#stderr`: what could not be done, and why."""
        what = f"fair_server: {program.request.container.image} could not be started on node {program.node.name}."
        program.bucket.write_output(STDERR, f"{what} {message}\n".encode())


def no_such_program() -> ApiError:
    """Returns the refusal of a program that is not there, or not the asking account's."""
    return ApiError(404, "NO_SUCH_PROGRAM", "There is no such program. Programs end with the server that ran them.")
