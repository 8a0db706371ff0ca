"""The runner of programs: what it waits for, how long, and what it keeps, on clocks that the test moves."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fair_server.buckets import STDERR, Bucket, Buckets
from fair_server.errors import ApiError
from fair_server.executor import ProgramSpec, Survivor
from fair_server.nodes import Image, Node
from fair_server.program_runner import KEPT, ProgramRunner
from fair_server.program_state import Program
from fair_server.wire import ContainerStatus, ProgramRequest, ProgramStatus

NODE = Node(name="gpu", images={"image": Image(command=("image",))})


class FinishedProgram:
    """Has ended with 0 when it is started."""

    async def wait(self) -> int:
        return 0

    async def stop(self, grace_s: float) -> None:
        return None


class FakeExecutor:
    """An executor whose node can be switched off."""

    name = "fake"
    ends_programs = True

    def __init__(self) -> None:
        self.ready = True
        self.drained = False

    def is_ready(self, node: Node) -> bool:
        return self.ready

    def is_drained(self, node: Node) -> bool:
        return self.drained

    def host_address(self, node: Node) -> str:
        return "127.0.0.1"

    async def survivors(self) -> list[Survivor]:
        return []

    async def start(self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event) -> FinishedProgram:
        return FinishedProgram()

    async def attach(self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event) -> FinishedProgram:
        return FinishedProgram()

    async def settle(self, ended: Survivor) -> None:
        return None

    async def forget(self, program_id: int) -> None:
        return None

    async def close(self) -> None:
        return None


def request(*keys: str) -> ProgramRequest:
    """Returns a program of `image` with files of those keys."""
    copies = [{"type": "CopyInto", "remote_key": key, "local_path": key} for key in keys]
    create = {"type": "Create", "container_desc": {"image": "image"}}
    return ProgramRequest.model_validate({"commands": [create, *copies, {"type": "Start"}, {"type": "Wait"}]})


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until it is told to go on."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    async def go_on(self, seconds: float) -> None:
        """Lets time pass, and all happen that is due then."""
        self.now += seconds
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def program_with(folder: Path, *keys: str) -> Program:
    """A program that waits for the files of these keys."""
    return ProgramRunner(FakeExecutor(), Buckets(folder / "buckets")).create("one", NODE, "gpu", request(*keys))


def test_kept_48_hours(tmp_path: Path) -> None:
    """What an ended program left is there for 48 hours, and then nothing of it is."""
    now = datetime(2030, 1, 1, tzinfo=UTC)

    async def scenario() -> None:
        nonlocal now
        buckets = Buckets(tmp_path / "buckets")
        runner = ProgramRunner(FakeExecutor(), buckets, clock=lambda: now)
        program = runner.create("one", NODE, "gpu", request())
        await program.ended.wait()
        now += KEPT - timedelta(seconds=1)
        await runner.forget_old()
        assert runner.get(program.id, "one") is program
        assert buckets.get(program.bucket.id, "one") is program.bucket
        now += timedelta(seconds=1)
        await runner.forget_old()
        for look in (runner.get, buckets.get):
            with pytest.raises(ApiError, match="There is no such"):
                look(program.id, "one")
        assert list((tmp_path / "buckets").iterdir()) == []

    asyncio.run(scenario())


def test_files_of_another_bucket(tmp_path: Path) -> None:
    """A program can copy from another program's bucket of its account, as long as that one has not ended."""

    async def scenario() -> None:
        runner = ProgramRunner(FakeExecutor(), Buckets(tmp_path / "buckets"))
        first = runner.create("one", NODE, "gpu", request("/app/never"))
        copy = {"type": "CopyInto", "remote_key": "/app/a", "local_path": "/b", "bucket_id": first.bucket.id}
        create = {"type": "Create", "container_desc": {"image": "image"}}
        second = ProgramRequest.model_validate({"commands": [create, copy, {"type": "Start"}, {"type": "Wait"}]})
        with pytest.raises(ApiError, match="no such bucket"):
            runner.create("two", NODE, "gpu", second)
        copying = runner.create("one", NODE, "gpu", second)
        first.bucket.declare_end("/app/a")
        await asyncio.wait_for(copying.ended.wait(), 60)
        assert copying.exit_code == 0
        await asyncio.wait_for(runner.stop(first), 60)
        late = runner.create("one", NODE, "gpu", second)
        await asyncio.wait_for(late.ended.wait(), 60)
        assert "its program has ended" in late.bucket.existing_file(STDERR).path.read_text()

    asyncio.run(scenario())


def test_node_that_is_off(loop: Loop, tmp_path: Path) -> None:
    """A program of a node that is off is NotResponding, its container unreachable, and it fails after five minutes."""

    async def scenario() -> None:
        executor = FakeExecutor()
        executor.ready = False
        runner = ProgramRunner(executor, Buckets(tmp_path / "buckets"))
        program = runner.create("one", NODE, "gpu", request())
        await loop.go_on(0)
        await loop.go_on(299)
        assert program.ended_at is None
        assert program.status(runner.is_ready(NODE)) is ProgramStatus.NOT_RESPONDING
        assert program.row(runner.is_ready(NODE)).status is ContainerStatus.UNREACHABLE
        await loop.go_on(2)
        assert program.exit_code == 125
        assert "node gpu to be ready" in program.bucket.existing_file(STDERR).path.read_text()

    loop.run_until_complete(scenario())


@pytest.mark.parametrize("half", [False, True])
def test_a_client_that_puts_files_and_is_gone(half: bool, loop: Loop, tmp_path: Path) -> None:
    """A program whose files stop coming is over after half a minute: nobody is to take it for one that will run."""

    async def scenario() -> None:
        program = program_with(tmp_path, "/app/here", "/app/half")
        program.bucket.declare_end("/app/here")
        if half:
            program.bucket.file("/app/half").append_upload(b"{")
        await loop.go_on(0)
        await loop.go_on(29)
        assert program.ended_at is None
        await loop.go_on(2)
        assert program.exit_code == 125
        assert "missing: /app/half." in program.bucket.existing_file(STDERR).path.read_text()

    loop.run_until_complete(scenario())


def test_a_slow_line(loop: Loop, tmp_path: Path) -> None:
    """Files that keep coming are waited for however long they take, in whatever order they come."""

    async def scenario() -> None:
        program = program_with(tmp_path, "/app/first", "/app/second")
        for _ in range(10):
            await loop.go_on(20)
            program.bucket.file("/app/second").append_upload(b"more")
        for key in ("/app/second", "/app/first"):
            await loop.go_on(20)
            assert program.ended_at is None
            program.bucket.declare_end(key)
        await loop.go_on(0)
        assert program.exit_code == 0

    loop.run_until_complete(scenario())


def test_settled_again(tmp_path: Path) -> None:
    """What could not be removed when its program ended, since a manager was away, is removed later."""

    class AwayExecutor(FakeExecutor):
        away = True
        settled: list[int] = []  # noqa: RUF012 - of this test alone

        async def settle(self, ended: Survivor) -> None:
            if self.away:
                raise OSError("away")
            self.settled.append(ended.program_id)

    async def scenario() -> None:
        executor = AwayExecutor()
        runner = ProgramRunner(executor, Buckets(tmp_path / "buckets"))
        program = runner.create("one", NODE, "gpu", request())
        await program.ended.wait()
        with pytest.raises(OSError, match="away"):
            await runner.settle_again()
        executor.away = False
        for _ in range(2):
            await runner.settle_again()
        assert executor.settled == [program.id]

    asyncio.run(scenario())
