"""The engine process of the inference server: asleep, killed, failing; and the requests that this happens to."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

import demo_model
from tests.support.inference_process import (
    DEADLINE_S,
    START_DEADLINE_S,
    HeldModel,
    InferenceProcess,
    is_alive,
    picture,
    running,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # engines start again and again
STEPS, IMAGES = 250, 100
# Nobody waits for its end, on any machine: some minutes with two cores.
ENDLESS = {"prompt": "a cat", "seed": 1, "num_inference_steps": STEPS, "num_images_per_prompt": IMAGES}
LIMITS: dict[str, Any] = {"limits": {"num_images_per_prompt": {"max": IMAGES}}}
SMALL = {"prompt": "a cat", "num_inference_steps": 1}
HUNG_UP = 'inference_requests_total{outcome="hung_up"}'


@pytest.fixture(scope="module")
def server() -> Iterator[InferenceProcess]:
    with running(config=LIMITS) as started:
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
    server.post(SMALL)
    assert "openvino" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "openvino" in Path(f"/proc/{server.engine_pid()}/maps").read_text()


def test_a_drawing_whose_engine_dies_is_drawn_again(server: InferenceProcess) -> None:
    """The engine killed in mid-drawing: the same request gets its picture, and sees the engine being woken."""
    before = server.engine_pid()
    lines = server.stream({"prompt": "a cat", "seed": 9, "num_inference_steps": 150, "width": 128, "height": 128})
    kill_while_drawing(server, lines)
    rest = list(lines)
    assert any(line.get("type") == "waking" for line in rest)
    assert picture(rest[-1]).size == (128, 128)
    assert server.engine_pid() != before
    assert server.health()["state"] == "healthy"


def test_a_drawing_whose_engine_dies_twice_is_refused(server: InferenceProcess) -> None:
    """A request that ends the engine twice is given up with a clear 503, and the next one is drawn."""
    lines = server.stream(ENDLESS)
    kill_while_drawing(server, lines)
    for line in lines:
        if line.get("type") == "waking":
            break
    kill_while_drawing(server, lines)
    assert list(lines)[-1]["$error"]["code"] == "ENGINE_CRASHED"
    assert server.post(SMALL).status_code == 200


def test_an_idle_engine_that_dies_comes_back(server: InferenceProcess) -> None:
    """Killed while nobody draws, the engine is started again by itself."""
    server.wait_ready()
    before = server.engine_pid()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: server.engine_pid() != before, "another engine process")
    server.wait_ready()


def test_a_repeated_post_joins_or_gets_the_kept_result(server: InferenceProcess) -> None:
    """Under the same id a second post joins the running drawing, a later one gets the same answer, byte for byte."""
    inputs = {"prompt": "a fish", "num_inference_steps": 30}
    drawn_before = server.metric("inference_images_total")
    with ThreadPoolExecutor(2) as clients:
        posts = [clients.submit(server.post, inputs, startRequestId="same") for _ in range(2)]
        answers = [post.result() for post in posts]
    streamed = list(server.stream(inputs, startRequestId="same"))
    answers.append(server.post(inputs, startRequestId="same"))
    assert len({answer.content for answer in answers}) == 1
    assert streamed[-1] == answers[0].json()
    assert server.metric("inference_images_total") == drawn_before + 1


def test_the_same_id_with_another_body_is_refused(server: InferenceProcess) -> None:
    """An id stands for one body."""
    server.post({"prompt": "a fish", "num_inference_steps": 1}, startRequestId="taken")
    answer = server.post({"prompt": "a bird", "num_inference_steps": 1}, startRequestId="taken")
    assert answer.status_code == 409
    assert answer.json()["$error"]["code"] == "REQUEST_ID_REUSED"


def assert_free(server: InferenceProcess, steps_before: float) -> None:
    """Another drawing gets its turn within few steps: the first of the pictures before it was not even finished."""
    assert server.post(SMALL).status_code == 200
    assert server.steps_done() - steps_before < STEPS


def test_delete_cancels_at_once(server: InferenceProcess) -> None:
    """A drawing that is cancelled ends with an error, and the engine is free for the next one."""
    lines = server.stream(ENDLESS, startRequestId="to-cancel")
    assert next(line for line in lines if line.get("step"))
    with server.frozen_engine():  # its client does not wait for the engine
        before = server.steps_done()
        assert server.session.delete(f"{server.url}/requests/to-cancel", timeout=DEADLINE_S).status_code == 200
        assert list(lines)[-1]["$error"]["code"] == "REQUEST_CANCELLED"
    assert_free(server, before)
    assert server.session.delete(f"{server.url}/requests/to-cancel", timeout=DEADLINE_S).status_code == 404


def test_hanging_up_without_an_id_cancels(server: InferenceProcess) -> None:
    """A client without an id that hangs up frees the engine, whether its answer was to be streamed or not."""
    hung_up = server.metric(HUNG_UP)
    lines = server.stream(ENDLESS)
    assert next(line for line in lines if line.get("step"))
    with server.frozen_engine():
        before = server.steps_done()
        lines.close()  # type: ignore[attr-defined]
        wait_until(lambda: server.metric(HUNG_UP) == hung_up + 1, "the server to notice")
    assert_free(server, before)
    with pytest.raises(requests.exceptions.ReadTimeout):
        server.session.post(server.url, json={"modelInputs": ENDLESS}, timeout=(DEADLINE_S, 0.5))
    with server.frozen_engine():
        before = server.steps_done()
        wait_until(lambda: server.metric(HUNG_UP) == hung_up + 2, "the server to notice")
    assert_free(server, before)


def test_hanging_up_with_an_id_cancels_only_when_nobody_comes_back(server: InferenceProcess) -> None:
    """With an id the drawing goes on for its client to come back; unrejoined for some time, it is cancelled."""
    before = server.steps_done()
    first = server.stream(ENDLESS, startRequestId="back-soon")
    assert next(line for line in first if line.get("step"))
    first.close()  # type: ignore[attr-defined]
    left = server.steps_done()
    wait_until(lambda: server.steps_done() > left + 3, "steps that nobody follows")
    rejoined = server.stream(ENDLESS, startRequestId="back-soon")
    assert next(line for line in rejoined if line.get("type") == "progress")["step"] > left - before
    rejoined.close()  # type: ignore[attr-defined]
    assert server.post(SMALL).status_code == 200
    assert server.steps_done() - before < STEPS * IMAGES / 2  # it was not drawn to its end
    assert server.session.delete(f"{server.url}/requests/back-soon", timeout=DEADLINE_S).status_code == 404


def test_beyond_the_bound_the_answer_is_busy_at_once() -> None:
    """With the queue full, a further post is a 503 with Retry-After, at once; a repeated one still joins."""
    with running(config={"limits": {"waiting_requests": {"max": 2}}}) as server:
        server.wait_ready()
        assert server.health()["limits"]["waiting_requests"] == {"max": 2}
        with server.frozen_engine():  # nobody's turn comes: a refusal that waited for one would never be there
            streams = [server.stream(SMALL, startRequestId=f"fill-{number}") for number in range(3)]
            for stream in streams:
                next(stream)
            refused = server.post(SMALL)
            assert refused.status_code == 503
            assert refused.headers["Retry-After"].isdigit()
            assert refused.json()["$error"]["code"] == "BUSY"
            assert refused.json()["$error"]["message"].startswith("Busy:")
            joined = server.stream(SMALL, startRequestId="fill-2")
            assert next(joined)["type"] == "inference"
        assert len({list(stream)[-1]["image_base64"] for stream in (streams[2], joined)}) == 1


def test_an_idle_engine_sleeps_and_wakes_on_demand() -> None:
    """After its idle time the engine process is gone, the server healthy; the next request wakes it and sees that."""
    with running(config={"idle_engine_s": 1}) as server:
        wait_until(lambda: server.health()["engine"] == "asleep", "the engine to sleep", START_DEADLINE_S)
        wait_until(lambda: server.find_engine() is None, "its process to end")
        assert server.health()["state"] == "healthy"
        assert server.health()["limits"]["width"]["max"] == 256
        assert server.post({"prompt": "a cat", "width": 100}).status_code == 400  # refused without waking it
        assert server.health()["engine"] == "asleep"
        lines = list(server.stream({"prompt": "a cat", "num_inference_steps": 2}))
        waking = [line for line in lines if line.get("type") == "waking"]
        assert waking
        assert {"stage", "elapsed_s"} <= set(waking[0])
        assert lines[-1]["$timings"]["init"] > 0


def test_a_post_while_loading_waits_for_the_model(tmp_path: Path) -> None:
    """A post to a server that has just begun is not refused but sees the model load, then gets its picture."""
    held = HeldModel(tmp_path / "model")
    with running(MODEL_ID=str(held.folder)) as server:
        lines = server.stream({"prompt": "a cat", "num_inference_steps": 2})
        told = []
        for line in lines:
            told.append(line)
            if line.get("stage") == "loading the model":
                held.give()
                break
        told += lines
        assert picture(told[-1]).size == (256, 256)
        stages = {line["stage"] for line in told if line.get("type") == "waking"}
        assert stages <= {"starting the engine", "importing the engine", "loading the model", "warming up"}


def test_a_model_that_cannot_load_is_a_failed_state_with_its_reason(tmp_path: Path) -> None:
    """State failed, posts a 503 with the reason; once the folder is right, it is loaded by itself."""
    folder = tmp_path / "model"
    folder.mkdir()
    with running(MODEL_ID=str(folder)) as server:
        health = server.wait_failed()
        assert health["engine"] == "asleep"
        assert "model_index.json" in health["reason"]
        refused = server.post({"prompt": "a cat"})
        assert refused.status_code == 503
        assert refused.json()["$error"]["code"] == "MODEL_NOT_LOADED"
        assert "model_index.json" in refused.json()["$error"]["message"]
        assert "Traceback" not in refused.text
        folder.rmdir()
        folder.symlink_to(demo_model.folder())
        server.wait_healthy()
        assert server.post(SMALL).ok


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_in_mid_drawing(number: int) -> None:
    """TERM and INT end server and engine with exit code 0, whatever is drawn; who waits is told."""
    with running(config=LIMITS) as server:
        lines = server.stream(ENDLESS)
        assert next(line for line in lines if line.get("step"))
        engine = server.engine_pid()
        server.process.send_signal(number)
        assert list(lines)[-1]["$error"]["code"] == "SHUTTING_DOWN"
        assert server.process.wait(DEADLINE_S) == 0
        wait_until(lambda: not is_alive(engine), "the engine process to end")


def test_the_engine_dies_with_a_killed_server() -> None:
    """SIGKILL of the server ends the engine process too, in mid-drawing."""
    with running(config=LIMITS) as server:
        lines = server.stream(ENDLESS)
        assert next(line for line in lines if line.get("step"))
        engine = server.engine_pid()
        server.process.kill()
        wait_until(lambda: not is_alive(engine), "the engine process to end")
        with pytest.raises(requests.exceptions.RequestException):
            list(lines)


def test_shutdown_ends_the_server() -> None:
    """`POST /shutdown` is answered, and the server ends with 0."""
    with running() as server:
        assert server.session.post(f"{server.url}/shutdown", timeout=DEADLINE_S).status_code == 200
        assert server.process.wait(DEADLINE_S) == 0


def test_an_idle_server_ends_by_itself(tmp_path: Path) -> None:
    """After `idle_exit_s` without a post the server ends with 0; healthchecks do not keep it up, drawings do."""
    held = HeldModel(tmp_path / "model")
    with running(config=LIMITS | {"idle_exit_s": 2}, MODEL_ID=str(held.folder)) as server:
        lines = server.stream(ENDLESS, startRequestId="keeps-it-up")
        assert next(lines)
        held.give()  # only now: a server with a model and nobody to ask for a picture soon ends
        assert next(line for line in lines if line.get("type") == "progress")
        with server.frozen_engine():
            for _ in range(5):  # one in 0.8 s, but for what was under way: nothing is posted for more than 2 s
                assert next(lines)["type"] == "progress"
        assert server.session.delete(f"{server.url}/requests/keeps-it-up", timeout=DEADLINE_S).status_code == 200

        def is_gone() -> bool:
            try:
                server.health()
            except requests.exceptions.RequestException:
                return True
            return False

        wait_until(is_gone, "the end of a server that is asked for its health alone")
        assert server.process.wait(DEADLINE_S) == 0
        assert "idle for 2 s" in server.log()


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
    assert server.process.wait(DEADLINE_S) == 2
    lines = [line for line in server.log().splitlines() if line.startswith("inference_server:")]
    assert len(lines) == 1
    assert told in lines[0]
    assert "Traceback" not in server.log()
    server.stop()
