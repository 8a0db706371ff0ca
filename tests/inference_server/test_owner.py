"""What the owner wants, in the running server: a pause, the day's GPU minutes, the wake-ups, all of it kept."""

import asyncio
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from inference_server.config import ConfigError, InferenceConfig, from_command_line
from inference_server.errors import Refusal
from inference_server.messages import Stage
from inference_server.owner import Owner, owner_of
from inference_server.owner_commands import run as command
from inference_server.owner_state import OwnerState
from inference_server.server import _end_when_idle
from inference_server.space import Space
from inference_server.state_file import StateFile
from inference_server.supervisor import Phase
from tests.support.inference_engine import EngineBench, code, run
from tests.support.scripted_engine import MODEL_INFO

NOON = datetime(2026, 11, 29, 12, 0, 0).timestamp()


class Clock:
    """A wall clock that the test moves; the monotonic one goes along."""

    def __init__(self) -> None:
        self.now_s = NOON

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DATA_DIR, for the commands too."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def owner_at(folder: Path, clock: Clock, max_gpu_minutes: float | None = None, model: str = "m") -> Owner:
    return Owner(StateFile(folder), model=model, max_gpu_minutes=max_gpu_minutes, now=clock, clock=clock)


def test_a_pause_finishes_what_is_drawn_and_frees_the_gpu(folder: Path) -> None:
    """The owner's command refuses what waits and what comes, lets the drawing end, then ends the engine process; after
    `resume` the next post wakes it.
    """

    async def test() -> None:
        bench = EngineBench(owner=Owner(StateFile(folder)))
        await bench.ready()
        drawing = [bench.post(f"drawn {number}") for number in range(MODEL_INFO.images_at_once)]
        waiting = bench.post("waits")
        assert command(["pause"]) == 0
        bench.dispatcher.mind_owner()
        assert code(waiting) == "PAUSED"
        with pytest.raises(Refusal, match="paused") as refused:
            bench.post("comes")
        assert (refused.value.status, refused.value.retry_after_s) == (503, None)
        for number in range(len(drawing)):
            bench.dispatcher.mind_owner()
            assert not bench.child.killed
            await bench.draw(f"drawn {number}")
        bench.dispatcher.mind_owner()
        assert bench.child.killed
        assert bench.phase() is Phase.ASLEEP
        assert [code(ticket) for ticket in drawing] == [None] * len(drawing)
        assert command(["resume"]) == 0
        bench.dispatcher.mind_owner()
        assert bench.phase() is Phase.ASLEEP
        bench.post("wakes it")
        assert bench.phase() is Phase.LOADING
        bench.dispatcher.close()

    run(test())


def test_a_pause_outlives_the_server_and_ends_by_itself(folder: Path, clock: Clock) -> None:
    """A server that starts while it is paused starts no engine, and at the pause's end loads its model."""

    async def test() -> None:
        StateFile(folder).update(
            lambda state: state.model_copy(update={"paused": True, "paused_until": clock.now_s + 7200})
        )
        owner = owner_at(folder, clock)
        bench = EngineBench(owner=owner, with_child=False)
        bench.dispatcher.mind_owner()
        assert (bench.phase(), bench.children) == (Phase.ASLEEP, [])
        assert owner.pause_left_s == 7200
        clock.now_s += 7199
        bench.dispatcher.mind_owner()
        assert bench.children == []
        clock.now_s += 1
        bench.dispatcher.mind_owner()
        assert bench.phase() is Phase.LOADING
        assert len(bench.children) == 1
        bench.dispatcher.close()

    run(test())


def test_a_load_is_broken_off_by_a_pause(folder: Path) -> None:
    """The engine that only loads ends at once; who waited for it is told."""

    async def test() -> None:
        bench = EngineBench(owner=Owner(StateFile(folder)))
        waiting = bench.post("waits")
        command(["pause", "--for", "2h"])
        bench.dispatcher.mind_owner()
        assert code(waiting) == "PAUSED"
        assert bench.child.killed
        assert bench.phase() is Phase.ASLEEP

    run(test())


def test_a_paused_server_stays(folder: Path) -> None:
    """However long it is idle: its next container might know nothing of the pause. After `resume` it ends as always."""

    async def test() -> None:
        bench, ending = EngineBench(owner=Owner(StateFile(folder))), asyncio.Event()
        await bench.ready()
        command(["pause"])
        bench.dispatcher.mind_owner()
        watching = asyncio.create_task(_end_when_idle(1e-6, bench.dispatcher, bench.metrics, ending))
        for _ in range(3):
            await bench.after(1)
        assert not ending.is_set()
        command(["resume"])
        bench.dispatcher.mind_owner()
        for _ in range(3):
            await bench.after(1)
        assert ending.is_set()
        await watching

    run(test())


def test_the_day_has_its_gpu_minutes(folder: Path, clock: Clock) -> None:
    """Loading and drawing count, sleep and downloads do not; the drawing under way is finished, and midnight begins
    anew. A restart changes nothing of it.
    """

    async def test() -> None:
        owner = owner_at(folder, clock, max_gpu_minutes=2)
        bench = EngineBench(owner=owner)
        await bench.say(Stage("Downloading the model: 1 of 4 GB"))
        clock.now_s += 1000
        await bench.say(Stage("loading the model"))
        clock.now_s += 30
        await bench.ready()
        clock.now_s += 500
        ticket = bench.post("a cat")
        clock.now_s += 89
        owner.tick()
        assert owner.pause is None
        clock.now_s += 1
        bench.dispatcher.mind_owner()
        assert owner.pause is not None
        assert (owner.pause.reason, owner.pause_left_s) == ("budget", NOON + 12 * 3600 - clock.now_s)
        assert ticket.outcome is None
        with pytest.raises(Refusal, match="minutes for today") as refused:
            bench.post("a dog")
        assert refused.value.code == "BUDGET_USED_UP"
        await bench.draw("a cat")
        bench.dispatcher.mind_owner()
        assert bench.phase() is Phase.ASLEEP
        owner.end()
        again = owner_at(folder, clock, max_gpu_minutes=2)
        assert again.pause == owner.pause
        clock.now_s = NOON + 12 * 3600
        assert again.pause is None

    run(test())


def test_wake_ups_give_a_range(folder: Path, clock: Clock) -> None:
    """The shortest and the longest of the last hour, else of the last ten; kept by a restart, not by another model."""
    owner = owner_at(folder, clock)
    assert owner.wakes_in_s is None
    owner.on_wake(90.0)
    clock.now_s += 3601
    assert owner.wakes_in_s == (90, 90)
    owner.on_wake(20.4)
    owner.on_wake(34.2)
    assert owner.wakes_in_s == (20, 35)
    owner.end()
    assert owner_at(folder, clock).wakes_in_s == (20, 35)
    clock.now_s += 3601
    assert owner_at(folder, clock).wakes_in_s == (20, 90)
    for _ in range(10):
        owner.on_wake(5.0)
    assert owner.wakes_in_s == (5, 5)
    assert owner_at(folder, clock, model="another").wakes_in_s is None


def test_a_download_is_no_wake_up(folder: Path) -> None:
    """Neither is it counted, nor is the range told to those who wait for it."""

    async def test() -> None:
        owner = Owner(StateFile(folder), model="m")
        owner.on_wake(3.0)
        bench = EngineBench(owner=owner)
        ticket = bench.post("a cat")
        await bench.say(Stage("Downloading the model: 1 of 4 GB"))
        assert getattr(ticket.event, "wakes_in_s", "") is None
        await bench.say(Stage("loading the model"))
        assert getattr(ticket.event, "wakes_in_s", "") == (3, 3)
        await bench.ready()
        owner.end()
        assert len(StateFile(folder).read().wakes) == 1

    run(test())


def test_a_pause_right_behind_a_write_is_heard(folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner's command that comes between the server's own write and its next look is not taken for that write."""
    owner, update = owner_at(folder, clock), StateFile.update

    def overtaken(file: StateFile, *args: Any, **kwargs: Any) -> OwnerState:
        state = update(file, *args, **kwargs)
        update(file, lambda before: before.model_copy(update={"paused": True}))
        return state

    monkeypatch.setattr(StateFile, "update", overtaken)
    owner.begin(None, None)
    owner.tick()
    assert owner.pause is not None


def test_the_file_is_private_and_whole(folder: Path, clock: Clock) -> None:
    """Mode 0600 in a folder of its own, and nothing else is left beside it."""
    owner_at(folder, clock).begin("https://you-draw.hf.space", "box")
    assert [file.name for file in folder.iterdir()] == ["state.json"]
    assert (folder / "state.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", ["", "{", "[]", '{"paused": [1]}', '{"wakes": [{}]}', "\0" * 9, "[" * 100_000])
def test_a_file_that_makes_no_sense_is_set_aside(
    folder: Path, clock: Clock, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported once and kept under another name, and the server goes on."""
    folder.mkdir()
    (folder / "state.json").write_text(content)
    owner = owner_at(folder, clock)
    owner.on_wake(1.0)
    owner.end()
    assert caplog.text.count("cannot be understood") == 1
    assert (folder / "state.broken.json").read_text() == content
    assert len(StateFile(folder).read().wakes) == 1


def test_a_newer_versions_file_is_read(folder: Path) -> None:
    """What it has in addition is passed over: going back to this version ends no pause."""
    StateFile(folder).update(lambda state: state.model_copy(update={"paused": True}))
    content = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**content, "of_a_newer_version": {"x": 1}}))
    assert StateFile(folder).read().paused


def test_a_folder_that_cannot_be_written_is_told_once(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names it, and all is counted in memory meanwhile."""
    (tmp_path / "file").touch()
    owner = owner_at(tmp_path / "file" / "data", clock, max_gpu_minutes=1)
    owner.begin(None, None)
    owner.on_engine("ready", works=True)
    for _ in range(3):
        clock.now_s += 31
        owner.tick()
    owner.on_wake(4.0)
    owner.on_engine("ready", works=False)
    assert len([record for record in caplog.records if "DATA_DIR" in record.message]) == 1
    assert owner.pause is not None
    assert owner.wakes_in_s == (4, 4)


def test_two_servers_with_one_folder_count_together(folder: Path, clock: Clock) -> None:
    """What one has written down is not lost by the other."""
    one, other = owner_at(folder, clock, max_gpu_minutes=2), owner_at(folder, clock, max_gpu_minutes=2)
    for owner in (one, other):
        owner.on_engine("ready", works=True)
        owner.on_pictures(3)
        clock.now_s += 61
        owner.on_engine("ready", works=False)
        owner.end()
    one.tick()
    assert one.pause == other.pause is not None
    assert StateFile(folder).read().pictures == 6


def test_only_a_worker_uses_the_users_folder(tmp_path: Path) -> None:
    """A server that listens keeps nothing unless DATA_DIR says where: several of them may run on one machine."""
    environment = {"XDG_DATA_HOME": str(tmp_path)}
    owner_of(InferenceConfig(), None, environment).begin(None, None)
    assert list(tmp_path.iterdir()) == []
    owner_of(InferenceConfig(), Space("https://a", "box", "k"), environment).begin("https://a", "box")
    assert (tmp_path / "inference_server" / "state.json").is_file()
    owner_of(InferenceConfig(), None, {"DATA_DIR": str(tmp_path / "data")}).begin(None, None)
    assert (tmp_path / "data" / "state.json").is_file()


def test_a_workers_settings_come_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine sleeps after five minutes unless told otherwise; the day's minutes are a number of them."""
    monkeypatch.setenv("WORKER_KEY", "k")
    told = from_command_line(["--connect", "https://a.hf.space"]).config
    assert (told.idle_engine_s, told.max_gpu_minutes_per_day) == (300, None)
    monkeypatch.setenv("IDLE_ENGINE_S", "0")
    monkeypatch.setenv("MAX_GPU_MINUTES_PER_DAY", "60")
    told = from_command_line(["--connect", "https://a.hf.space"]).config
    assert (told.idle_engine_s, told.max_gpu_minutes_per_day) == (0, 60)
    for wrong in ("0", "-1", "1441", "an hour"):
        monkeypatch.setenv("MAX_GPU_MINUTES_PER_DAY", wrong)
        with pytest.raises(ConfigError, match="MAX_GPU_MINUTES_PER_DAY"):
            from_command_line([])


@pytest.mark.parametrize("wrong", ["", "2", "h", "2x", "0s", "2h 30m", "1.5h", "9999999999999d", "\u0662h"])
def test_a_wrong_time_is_told(folder: Path, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and what a right one is; nothing is paused."""
    with pytest.raises(SystemExit) as ended:
        command(["pause", "--for", wrong])
    assert ended.value.code == 2
    assert "30m, 2h, 1d, 90s" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1d", 86400), ("90s", 90), ("1h30m", 5400)]
)
def test_a_pause_for_a_time(folder: Path, text: str, seconds: int) -> None:
    """Its end is kept to the second."""
    assert command(["pause", "--for", text]) == 0
    until = StateFile(folder).read().paused_until
    assert until is not None
    assert abs(until - time.time() - seconds) < 30


def test_status_for_people_and_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line, the engine, the day and the pause, and the same as JSON; one that is gone does not run."""
    owner = Owner(StateFile(folder), model="a-model", max_gpu_minutes=60)
    owner.begin("https://you-draw.hf.space", "box")
    assert command(["status"]) == 0
    assert "Not connected to https://you-draw.hf.space" in capsys.readouterr().out
    owner.on_line(True)
    owner.on_wake(20.0)
    owner.on_wake(34.5)
    owner.on_pictures(7)
    owner.on_engine("asleep", works=False)
    command(["pause", "--for", "2h"])
    capsys.readouterr()
    assert command(["status"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("Connected to https://you-draw.hf.space as box since ")
    assert told[1] == "Engine asleep, wakes in 20 to 35 s. Model: a-model."
    assert told[2].startswith("Today: 7 pictures, 0.0 of 60 GPU minutes. Counted anew at 00:00")
    assert told[3].startswith("Paused: nothing new is drawn until ")
    assert "(2 h)" in told[3]
    assert command(["status", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["running"], facts["pictures_today"], facts["wakes_in_s"]) == (True, 7, [20, 35])
    assert (facts["paused"], facts["pause_reason"], facts["max_gpu_minutes_per_day"]) == (True, "owner", 60)
    content = json.loads((folder / "state.json").read_text())
    content["running"]["process_start"] = "1"
    (folder / "state.json").write_text(json.dumps(content))
    command(["status"])
    assert capsys.readouterr().out.startswith("No server runs.")


def test_a_folder_that_the_commands_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 1, and the sentence names DATA_DIR."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "file"))
    assert command(["pause"]) == 1


def test_status_of_a_server_that_starts_paused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its engine was put to sleep before it began to serve: it is told as asleep, not as loading."""
    owner = Owner(StateFile(folder), model="a-model")
    owner.on_engine("asleep", works=False)
    owner.begin("https://you-draw.hf.space", "box")
    assert command(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "asleep"
