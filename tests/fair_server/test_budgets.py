"""What a node's GPU may be used for in a day, and who has to end."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fair_server.buckets import STDERR, Bucket, Buckets
from fair_server.budgets import Spent, spent_today
from fair_server.executor import ProgramSpec
from fair_server.nodes import Image, Node
from fair_server.program_runner import ProgramRunner
from fair_server.program_state import Program
from fair_server.wire import ProgramRequest
from tests.fair_server.test_program_runner import FakeExecutor

NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)


def node(**bounds: float) -> Node:
    return Node(name="gpu", images={"image": Image()}, **bounds)  # type: ignore[arg-type]


def request(runtime: str = "nvidia") -> ProgramRequest:
    create = {"type": "Create", "container_desc": {"image": "image", "runtime": runtime}}
    return ProgramRequest.model_validate({"commands": [create, {"type": "Start"}, {"type": "Wait"}]})


class EndlessProgram:
    """Runs until it is stopped."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def wait(self) -> int:
        await self.over.wait()
        return 143

    async def stop(self, grace_s: float) -> None:
        self.over.set()


class EndlessExecutor(FakeExecutor):
    async def start(  # type: ignore[override]
        self, spec: ProgramSpec, bucket: Bucket, stop_asked: asyncio.Event
    ) -> EndlessProgram:
        return EndlessProgram()


class Run:
    """A runner whose clock the test moves."""

    def __init__(self, folder: Path, node: Node) -> None:
        self.now, self.node, self.executor = NOON, node, EndlessExecutor()
        self.runner = ProgramRunner(self.executor, Buckets(folder / "buckets"), clock=lambda: self.now)

    async def start(self, runtime: str = "nvidia") -> Program:
        """A program that runs, or was refused."""
        program = self.runner.create("me", self.node, "gpu", request(runtime))
        program.bucket.declare_end("#stdin")
        await program.past_start.wait()
        return program

    def told(self, program: Program) -> str:
        return program.bucket.existing_file(STDERR).path.read_text()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    return lambda **bounds: Run(tmp_path, node(**bounds))


def test_minutes_of_a_day(run: Callable[..., Run]) -> None:
    """Minutes count from midnight, for programs with a GPU, those that run now included; another node's do not."""

    async def scenario() -> None:
        one = run()
        one.now = NOON - timedelta(hours=13)
        program = await one.start()
        await one.start("docker")
        one.now = NOON
        programs = list(one.runner._programs.values())
        assert spent_today(programs, one.node, one.now) == Spent(gpu_minutes=720, wake_ups=0)
        await one.runner.stop(program)
        one.now += timedelta(hours=1)
        assert one.runner.spent_today(one.node) == Spent(gpu_minutes=720, wake_ups=0)
        await one.start()
        one.now += timedelta(minutes=90)
        assert one.runner.spent_today(one.node) == Spent(gpu_minutes=810, wake_ups=1)
        assert one.runner.spent_today(Node(name="other")) == Spent()
        await one.runner.close()

    asyncio.run(scenario())


def test_minutes_are_used_up(run: Callable[..., Run]) -> None:
    """What has the GPU when the day's minutes are used up is ended, and nothing else gets it before midnight."""

    async def scenario() -> None:
        one = run(max_gpu_minutes_per_day=30)
        program, other = await one.start(), await one.start("docker")
        one.now += timedelta(minutes=29)
        await one.runner.end_unwanted()
        assert program.ended_at is None
        one.now += timedelta(minutes=1)
        await one.runner.end_unwanted()
        assert (program.exit_code, other.ended_at) == (143, None)
        assert "used its 30 GPU minutes of today. It is woken again on 03 January 00:00 UTC" in one.told(program)
        refused = await one.start()
        assert refused.exit_code == 125
        assert "max_gpu_minutes_per_day" in one.told(refused)
        one.now = NOON + timedelta(hours=12)
        assert (await one.start()).ended_at is None
        await one.runner.close()

    asyncio.run(scenario())


def test_wake_ups_are_used_up(run: Callable[..., Run]) -> None:
    """As many programs as the node may wake its GPU for in a day get it; what runs goes on."""

    async def scenario() -> None:
        one = run(max_wake_ups_per_day=2)
        first, second, third = await one.start(), await one.start(), await one.start()
        await one.runner.end_unwanted()
        assert [program.ended_at is None for program in (first, second, third)] == [True, True, False]
        assert "used its 2 wake-ups of today" in one.told(third)
        assert (await one.start("docker")).ended_at is None
        await one.runner.close()

    asyncio.run(scenario())


def test_drained(run: Callable[..., Run]) -> None:
    """All that runs on a drained node is ended, and its output says why."""

    async def scenario() -> None:
        one = run()
        programs = [await one.start(), await one.start("docker")]
        one.executor.drained = True
        await one.runner.end_unwanted()
        assert [program.exit_code for program in programs] == [143, 143]
        assert "drained by its owner" in one.told(programs[0])
        await one.runner.close()

    asyncio.run(scenario())
