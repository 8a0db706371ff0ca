"""How long the Fair server waits for a program's files, told by a clock of the test's own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fair_server.buckets import STDERR, Bucket, Buckets
from fair_server.executor import ProgramSpec
from fair_server.nodes import Node
from fair_server.program_runner import UPLOAD_WAIT_S, ProgramRunner
from fair_server.program_state import Program
from fair_server.wire import ProgramRequest

NODE = Node(name="gpu", images={"image": ("image",)})


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


class Executor:
    """Starts a program that is over at once."""

    name = "fake"

    def is_ready(self, node: Node) -> bool:
        return True

    async def start(self, spec: ProgramSpec, bucket: Bucket) -> "Executor":
        return self

    async def wait(self) -> int:
        return 0

    async def stop(self, grace_s: float) -> None:
        return None

    async def close(self) -> None:
        return None


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def program_with(folder: Path, *keys: str) -> Program:
    """A program that waits for the files of these keys."""
    copies = [{"type": "CopyInto", "remote_key": key, "local_path": key} for key in keys]
    create = {"type": "Create", "container_desc": {"image": "image"}}
    commands = [create, *copies, {"type": "Start"}, {"type": "Wait"}]
    request = ProgramRequest.model_validate({"commands": commands})
    return ProgramRunner(Executor(), Buckets(folder / "buckets")).create("one", NODE, "gpu", request)


@pytest.mark.parametrize("half", [False, True])
def test_whoever_puts_the_files_has_gone(half: bool, loop: Loop, tmp_path: Path) -> None:
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
        assert program.ended_at is not None
        assert "missing: /app/half." in program.bucket.existing_file(STDERR).path.read_text()

    assert UPLOAD_WAIT_S == 30
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
