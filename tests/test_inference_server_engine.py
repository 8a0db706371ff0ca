"""The engine process of the inference server: asleep, killed, failing; and the requests that this happens to."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from inference_process import START_DEADLINE_S, InferenceProcess, is_alive, picture, running, wait_until

pytestmark = pytest.mark.slow
LONG = {"prompt": "a cat", "seed": 1, "num_inference_steps": 250, "num_images_per_prompt": 4}


@pytest.fixture(scope="module")
def server() -> Iterator[InferenceProcess]:
    with running() as started:
        started.wait_ready()
        yield started


def kill_while_drawing(server: InferenceProcess, lines: Iterator[dict[str, object]]) -> None:
    """Reads until a step is told, then kills the engine process."""
    for line in lines:
        if line.get("step"):
            break
    os.kill(server.engine_pid(), signal.SIGKILL)


def test_the_server_never_loads_the_engines_library(server: InferenceProcess) -> None:
    """OpenVINO lives in the engine process alone."""
    server.post({"prompt": "a cat", "num_inference_steps": 1})
    assert "openvino" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "openvino" in Path(f"/proc/{server.engine_pid()}/maps").read_text()


def test_a_drawing_whose_engine_dies_is_drawn_again(server: InferenceProcess) -> None:
    """The engine killed in mid-drawing: the same request gets its picture, and sees the engine being woken."""
    before = server.engine_pid()
    lines = server.stream({"prompt": "a cat", "seed": 9, "num_inference_steps": 150})
    kill_while_drawing(server, lines)
    rest = list(lines)
    assert any(line.get("type") == "waking" for line in rest)
    assert picture(rest[-1]).size == (256, 256)
    assert server.engine_pid() != before
    assert server.health()["state"] == "healthy"


def test_a_drawing_whose_engine_dies_twice_is_refused(server: InferenceProcess) -> None:
    """A request that ends the engine twice is given up with a clear 503, and the next one is drawn."""
    lines = server.stream(LONG)
    kill_while_drawing(server, lines)
    for line in lines:
        if line.get("type") == "waking":
            break
    kill_while_drawing(server, lines)
    assert list(lines)[-1]["$error"]["code"] == "ENGINE_CRASHED"
    assert server.post({"prompt": "a cat", "num_inference_steps": 1}).status_code == 200


def test_an_idle_engine_that_dies_comes_back(server: InferenceProcess) -> None:
    """Killed while nobody draws, the engine is started again by itself."""
    server.wait_ready()
    before = server.engine_pid()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: server.engine_pid() != before, "another engine process")
    server.wait_ready()


def test_a_repeated_post_joins_or_gets_the_kept_result(server: InferenceProcess) -> None:
    """Under the same id a second post joins the running drawing, a later one gets the same answer, byte for byte."""
    inputs = {"prompt": "a fish", "num_inference_steps": 100}
    drawn_before = server.metric("inference_step_seconds_count")
    answers: list[requests.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.post(inputs, startRequestId="same"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    streamed = list(server.stream(inputs, startRequestId="same"))
    answers.append(server.post(inputs, startRequestId="same"))
    assert len({answer.content for answer in answers}) == 1
    assert streamed[-1] == answers[0].json()
    assert server.metric("inference_step_seconds_count") == drawn_before + 100


def test_the_same_id_with_another_body_is_refused(server: InferenceProcess) -> None:
    """An id stands for one body."""
    server.post({"prompt": "a fish", "num_inference_steps": 1}, startRequestId="taken")
    answer = server.post({"prompt": "a bird", "num_inference_steps": 1}, startRequestId="taken")
    assert answer.status_code == 409
    assert answer.json()["$error"]["code"] == "REQUEST_ID_REUSED"


def test_delete_cancels_at_once(server: InferenceProcess) -> None:
    """A drawing that is cancelled ends with an error, and the engine is free for the next within a step or two."""
    lines = server.stream(LONG, startRequestId="to-cancel")
    assert next(line for line in lines if line.get("step"))
    assert server.session.delete(f"{server.url}/requests/to-cancel", timeout=10).status_code == 200
    assert list(lines)[-1]["$error"]["code"] == "REQUEST_CANCELLED"
    started_s = time.monotonic()
    assert server.post({"prompt": "a cat", "num_inference_steps": 1}).status_code == 200
    assert time.monotonic() - started_s < 5
    assert server.session.delete(f"{server.url}/requests/to-cancel", timeout=10).status_code == 404


def test_hanging_up_without_an_id_cancels(server: InferenceProcess) -> None:
    """A client without an id that hangs up frees the engine at the next step."""
    with server.session.post(
        server.url, json={"modelInputs": LONG, "callInputs": {"streamEvents": 1}}, stream=True
    ) as r:
        next(line for line in r.iter_lines() if b"step" in line)
    started_s = time.monotonic()
    assert server.post({"prompt": "a cat", "num_inference_steps": 1}).status_code == 200
    assert time.monotonic() - started_s < 5
    with pytest.raises(requests.exceptions.ReadTimeout):  # the same for a post that is not streamed
        server.session.post(server.url, json={"modelInputs": LONG}, timeout=0.5)
    started_s = time.monotonic()
    assert server.post({"prompt": "a cat", "num_inference_steps": 1}).status_code == 200
    assert time.monotonic() - started_s < 5


def test_hanging_up_with_an_id_cancels_only_when_nobody_comes_back(server: InferenceProcess) -> None:
    """With an id the drawing goes on for its client to come back; unrejoined for 10 s, it is cancelled."""
    first = server.stream(LONG, startRequestId="back-soon")
    assert next(line for line in first if line.get("step"))
    first.close()  # type: ignore[attr-defined]
    rejoined = server.stream(LONG, startRequestId="back-soon")
    assert next(line for line in rejoined if line.get("type") == "progress")["step"] > 0
    rejoined.close()  # type: ignore[attr-defined]
    left_s = time.monotonic()
    assert server.post({"prompt": "a cat", "num_inference_steps": 1}).status_code == 200
    assert 5 < time.monotonic() - left_s < 20  # LONG alone would take longer, or was cut at 10 s
    assert server.session.delete(f"{server.url}/requests/back-soon", timeout=10).status_code == 404


def test_beyond_the_bound_the_answer_is_busy_at_once() -> None:
    """With the queue full, a further post is a 503 with Retry-After, at once; a repeated one still joins."""
    with running(config={"limits": {"waiting_requests": {"max": 2}}}) as server:
        server.wait_ready()
        assert server.health()["limits"]["waiting_requests"] == {"max": 2}
        streams = [server.stream(LONG, startRequestId=f"fill-{number}") for number in range(3)]
        for stream in streams:
            next(stream)
        started_s = time.monotonic()
        refused = server.post({"prompt": "a cat"})
        assert time.monotonic() - started_s < 5  # three times LONG would have been waited for
        assert refused.status_code == 503
        assert refused.headers["Retry-After"].isdigit()
        assert refused.json()["$error"]["code"] == "BUSY"
        assert refused.json()["$error"]["message"].startswith("Busy:")
        assert next(server.stream(LONG, startRequestId="fill-2"))["type"] == "inference"


def test_an_idle_engine_sleeps_and_wakes_on_demand() -> None:
    """After its idle time the engine process is gone, the server healthy; the next request wakes it and sees that."""
    with running(config={"idle_engine_s": 1}) as server:
        sleeper = server.engine_pid()  # while it loads: once it is ready, a second is soon over
        wait_until(lambda: server.health()["engine"] == "asleep", "the engine to sleep", START_DEADLINE_S)
        wait_until(lambda: not is_alive(sleeper), "its process to end")
        assert server.health()["state"] == "healthy"
        assert server.health()["limits"]["width"]["max"] == 256
        assert server.post({"prompt": "a cat", "width": 100}).status_code == 400  # refused without waking it
        assert server.health()["engine"] == "asleep"
        lines = list(server.stream({"prompt": "a cat", "num_inference_steps": 2}))
        waking = [line for line in lines if line.get("type") == "waking"]
        assert waking
        assert {"stage", "elapsed_s"} <= set(waking[0])
        assert lines[-1]["$timings"]["init"] > 100


def test_a_post_while_loading_waits_for_the_model() -> None:
    """A post to a server that has just begun is not refused but sees the model load, then gets its picture."""
    with running() as server:
        lines = [line for line in server.stream({"prompt": "a cat", "num_inference_steps": 2}) if "type" in line]
        stages = {line["stage"] for line in lines if line["type"] == "waking"}
        assert stages
        known = {"starting the engine", "importing the engine", "unpacking the demo model", "loading the model"}
        assert stages <= known | {"warming up"}


def test_a_model_that_cannot_load_is_a_failed_state_with_its_reason(tmp_path: Path) -> None:
    """State failed, posts a 503 with the reason; once the folder is right, it is loaded by itself."""
    folder = tmp_path / "model"
    folder.mkdir()
    with running(MODEL_ID=str(folder)) as server:
        health = wait_until(lambda: (told := server.health())["state"] == "failed" and told, "the state failed", 60)
        assert health["engine"] == "asleep"
        assert "model_index.json" in health["reason"]
        refused = server.post({"prompt": "a cat"})
        assert refused.status_code == 503
        assert refused.json()["$error"]["code"] == "MODEL_NOT_LOADED"
        assert "model_index.json" in refused.json()["$error"]["message"]
        assert "Traceback" not in refused.text
        import demo_model

        folder.rmdir()
        folder.symlink_to(demo_model.folder())
        server.wait_healthy()
        assert server.post({"prompt": "a cat", "num_inference_steps": 1}).ok


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_within_seconds_in_mid_drawing(number: int) -> None:
    """TERM and INT end server and engine within 3 s with exit code 0; who waits is told."""
    server = InferenceProcess()
    server.wait_listening()
    server.wait_ready()
    engine = server.engine_pid()
    lines = server.stream(LONG)
    next(line for line in lines if line.get("step"))
    started_s = time.monotonic()
    server.process.send_signal(number)
    assert list(lines)[-1]["$error"]["code"] == "SHUTTING_DOWN"
    assert server.process.wait(3) == 0
    assert time.monotonic() - started_s < 3
    wait_until(lambda: not is_alive(engine), "the engine process to end", 1)
    server.stop()


def test_the_engine_dies_with_a_killed_server() -> None:
    """SIGKILL of the server ends the engine process too, in mid-drawing."""
    server = InferenceProcess()
    server.wait_listening()
    server.wait_ready()
    engine = server.engine_pid()
    lines = server.stream(LONG)
    next(line for line in lines if line.get("step"))
    server.process.kill()
    wait_until(lambda: not is_alive(engine), "the engine process to end", 3)
    with pytest.raises(requests.exceptions.RequestException):
        list(lines)
    server.stop()


def test_shutdown_ends_the_server() -> None:
    """`POST /shutdown` is answered, and the server ends with 0."""
    with running() as server:
        assert server.session.post(f"{server.url}/shutdown", timeout=10).status_code == 200
        assert server.process.wait(3) == 0


def test_an_idle_server_ends_by_itself() -> None:
    """After `idle_exit_s` without a post the server ends with 0; healthchecks do not keep it up, drawings do."""
    with running(config={"idle_exit_s": 2}) as server:  # not waited for: once it is ready, 2 s are soon over
        list(server.stream({"prompt": "a cat", "num_inference_steps": 100, "num_images_per_prompt": 2}))
        done_s = time.monotonic()
        while server.process.poll() is None and time.monotonic() - done_s < 10:
            try:
                server.health()
            except requests.exceptions.RequestException:
                break
        assert server.process.wait(3) == 0
        assert time.monotonic() - done_s > 1.5


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--host", "0.0.0.0"], {}, "--open"),
        ([], {"INFERENCE_ENGINE": "another"}, "openvino"),
        ([], {"MAX_BATCH": "99"}, "MAX_BATCH"),
        (["--config", "/nowhere/endpoint.json"], {}, "endpoint.json"),
        (["--port", "99999"], {}, "99999"),
        (["--host", "no.such.host.invalid"], {}, "no.such.host.invalid"),
    ],
)
def test_a_wrong_start_is_refused_in_one_line(arguments: list[str], environment: dict[str, Any], told: str) -> None:
    """What cannot be started as asked ends with 2 and one line that says what to change."""
    server = InferenceProcess(*arguments, **environment)
    assert server.process.wait(20) == 2
    lines = [line for line in server.log().splitlines() if line.startswith("inference_server:")]
    assert len(lines) == 1
    assert told in lines[0]
    assert "Traceback" not in server.log()
    server.stop()
