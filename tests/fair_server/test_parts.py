"""Parts of the Fair server that are best seen alone: clocks, long waits, nodes that are not ready."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fair_server.authentication import Accounts, Tokens
from fair_server.buckets import STDERR, Bucket, Buckets
from fair_server.errors import ApiError
from fair_server.executor import ProgramSpec
from fair_server.nodes import Node
from fair_server.process_executor import program_environment
from fair_server.program_runner import KEPT, ProgramRunner
from fair_server.wire import ContainerStatus, ProgramRequest, ProgramStatus

NODE = Node(name="gpu", images={"image": ("image",)})


class FinishedProgram:
    """Has ended with 0 when it is started."""

    async def wait(self) -> int:
        return 0

    async def stop(self, grace_s: float) -> None:
        return None


class FakeExecutor:
    """An executor whose node can be switched off."""

    name = "fake"

    def __init__(self) -> None:
        self.ready = True

    def is_ready(self, node: Node) -> bool:
        return self.ready

    async def start(self, spec: ProgramSpec, bucket: Bucket) -> FinishedProgram:
        return FinishedProgram()

    async def close(self) -> None:
        return None


def request(*keys: str) -> ProgramRequest:
    """Returns a program of `image` with files of those keys."""
    copies = [{"type": "CopyInto", "remote_key": key, "local_path": key} for key in keys]
    create = {"type": "Create", "container_desc": {"image": "image"}}
    return ProgramRequest.model_validate({"commands": [create, *copies, {"type": "Start"}, {"type": "Wait"}]})


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
        runner.forget_old()
        assert runner.get(program.id, "one") is program
        assert buckets.get(program.bucket.id, "one") is program.bucket
        now += timedelta(seconds=1)
        runner.forget_old()
        for look in (runner.get, buckets.get):
            with pytest.raises(ApiError, match="There is no such"):
                look(program.id, "one")
        assert list((tmp_path / "buckets").iterdir()) == []

    asyncio.run(scenario())


def test_missing_file(tmp_path: Path) -> None:
    """A file that never comes fails the program after a while, and the line says which."""

    async def scenario() -> None:
        runner = ProgramRunner(FakeExecutor(), Buckets(tmp_path / "buckets"), upload_wait_s=0.05)
        program = runner.create("one", NODE, "gpu", request("/app/here", "/app/missing"))
        program.bucket.declare_end("/app/here")
        await asyncio.wait_for(program.ended.wait(), 60)
        assert program.exit_code == 125
        assert "missing: /app/missing." in program.bucket.existing_file(STDERR).path.read_text()

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


def test_node_that_is_off(tmp_path: Path) -> None:
    """A program of a node that is off is NotResponding, its container unreachable, and fails after a while."""

    async def scenario() -> None:
        executor = FakeExecutor()
        executor.ready = False
        runner = ProgramRunner(executor, Buckets(tmp_path / "buckets"), node_wait_s=0.05)
        program = runner.create("one", NODE, "gpu", request())
        assert program.status(runner.is_ready(NODE)) is ProgramStatus.NOT_RESPONDING
        assert program.row(runner.is_ready(NODE)).status is ContainerStatus.UNREACHABLE
        await asyncio.wait_for(program.ended.wait(), 60)
        assert program.exit_code == 125
        assert "node gpu to be ready" in program.bucket.existing_file(STDERR).path.read_text()

    asyncio.run(scenario())


def test_logins_are_checked_off_the_event_loop() -> None:
    """However long passwords take to be checked, the server goes on with all else."""
    begun, go_on = threading.Event(), threading.Event()

    class SlowAccounts(Accounts):
        def _is_right(self, email: str, password: str) -> bool:
            begun.set()
            in_time = go_on.wait(60)
            go_on.set()  # where that failed the others need not wait, too
            return in_time

    async def scenario() -> None:
        accounts = SlowAccounts({})
        logins = [asyncio.create_task(accounts.check("one", "password")) for _ in range(50)]
        assert await asyncio.to_thread(begun.wait, 60)
        go_on.set()
        assert await asyncio.gather(*logins) == ["one"] * 50

    asyncio.run(scenario())


def test_tokens_expire() -> None:
    """A token names its account until its time is over."""
    now = 0.0
    tokens = Tokens(ttl_s=10, clock=lambda: now)
    token = tokens.issue("one")
    now = 9.9
    assert tokens.account_of(token) == "one"
    now = 10.0
    assert tokens.account_of(token) is None
    assert tokens.account_of(tokens.issue("two")) == "two"


def test_broken_upload_leaves_nothing(tmp_path: Path) -> None:
    """An upload that breaks off leaves the file as it was before, so that it can be sent again."""

    async def scenario() -> None:
        bucket = Buckets(tmp_path / "buckets").create(1, "one")

        async def pieces(*, broken: bool):  # type: ignore[no-untyped-def]
            yield b"one "
            if broken:
                raise ConnectionResetError
            yield b"two"

        with pytest.raises(ConnectionResetError):
            await bucket.upload("/a", pieces(broken=True))
        await bucket.upload("/a", pieces(broken=False))
        bucket.declare_end("/a")
        assert [piece async for piece in bucket.file("/a").read()] == [b"one two"]

    asyncio.run(scenario())


def test_program_environment(tmp_path: Path) -> None:
    """Secrets are withheld by their names unless asked for, the rest passes, PYTHONPATH depends on no folder."""
    own = {
        "PATH": "/bin",
        "TOKENIZERS_PARALLELISM": "1",
        "MODEL_ID": "m",
        "PYTHONPATH": "lib:/abs",
        "FAIRCOMPUTE_EMAIL": "e",
        "ENDPOINT_SECRET": "s",
        "HF_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "k",
        "db_password": "p",
    }
    assert program_environment(own, tmp_path) == {
        "PATH": "/bin",
        "TOKENIZERS_PARALLELISM": "1",
        "MODEL_ID": "m",
        "PYTHONPATH": f"{tmp_path}/lib:/abs:{tmp_path}",
    }
    passed = set(program_environment(own, tmp_path, ["HF_TOKEN", "NOT_SET"])) - set(program_environment(own, tmp_path))
    assert passed == {"HF_TOKEN"}
