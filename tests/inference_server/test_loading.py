"""A model that cannot be loaded: for good until somebody mends it, or because the GPU's owner uses the GPU."""

import dataclasses
import errno
import json

import httpx
import pytest

from inference_server.config import InferenceConfig
from inference_server.errors import Refusal
from inference_server.idempotency import IdempotencyStore
from inference_server.messages import NO_GPU, LoadFailed, Ready
from inference_server.routes import Services, create_app
from inference_server.security import BearerMiddleware
from inference_server.supervisor import GPU_BUSY_PAUSE_S, GPU_BUSY_RETRY_S, MAX_PAUSE_S, Phase
from inference_server.tickets import Waking
from inference_server.wire import read_request
from tests.support.inference_engine import EngineBench, code, run, settle
from tests.support.scripted_engine import MODEL_INFO

BUSY = LoadFailed("1.0 GiB of 24.0 GiB are free, and the model needs 5.0 GiB", "GPU_BUSY")


def refusal(bench: EngineBench) -> Refusal:
    """What a post is refused with now."""
    with pytest.raises(Refusal) as refused:
        bench.post("a")
    return refused.value


def test_a_busy_gpu_is_told_to_those_who_wait_and_to_those_who_come() -> None:
    """503, GPU_BUSY, when to come back and words for a visitor; the reason begins with gpu-busy, said once."""

    async def story() -> None:
        for told in (BUSY, LoadFailed(f"gpu-busy: {BUSY.reason}", "GPU_BUSY")):
            bench = EngineBench()
            waiting = bench.post("a")
            await bench.say(told)
            assert code(waiting) == "GPU_BUSY"
            refused = refusal(bench)
            assert (refused.status, refused.code) == (503, "GPU_BUSY")
            assert refused.retry_after_s is not None
            assert 0 < refused.retry_after_s <= GPU_BUSY_PAUSE_S
            assert refused.message.startswith("Somebody else is using the GPU just now")
            assert json.loads(refused.body())["$error"]["name"] == "GpuBusyError"
            assert bench.phase() is Phase.FAILED
            assert bench.dispatcher.reason == f"gpu-busy: {BUSY.reason}"
            assert bench.child.killed

    run(story())


def test_a_busy_gpu_by_http() -> None:
    """The healthcheck says failed and why, a post when to come back; the server that was healthy is so again."""

    async def story() -> None:
        bench = EngineBench()
        store = IdempotencyStore(bench.dispatcher.submit, bench.dispatcher.cancel)
        services = Services(
            InferenceConfig(), bench.dispatcher, store, bench.metrics, bench.owner, shut_down=lambda: None
        )
        app = BearerMiddleware(create_app(services), None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            await bench.ready()
            await bench.after(101)
            assert (await client.get("/healthcheck")).json()["engine"] == "asleep"
            bench.post("a")
            await bench.say(BUSY)
            health = (await client.get("/healthcheck")).json()
            assert (health["state"], health["engine"]) == ("failed", "asleep")
            assert health["reason"] == f"gpu-busy: {BUSY.reason}"
            refused = await client.post("/", json={"modelInputs": {"prompt": "a cat"}})
            assert (refused.status_code, refused.json()["$error"]["code"]) == (503, "GPU_BUSY")
            assert 0 < int(refused.headers["Retry-After"]) <= GPU_BUSY_PAUSE_S
            await bench.after(GPU_BUSY_PAUSE_S + 1)
            health = (await client.get("/healthcheck")).json()
            assert (health["state"], health["engine"]) == ("healthy", "asleep")
            assert "reason" not in health

    run(story())


def test_what_cannot_change_by_itself_is_told_once() -> None:
    """A card without kernels, a model that is too large: no try follows, and posts are refused with the reason."""

    async def story() -> None:
        bench = EngineBench()
        waiting = bench.post("a")
        await bench.say(LoadFailed("the GPU is too old", permanent=True))
        assert code(waiting) == "MODEL_NOT_LOADED"
        await bench.after(10 * MAX_PAUSE_S)
        assert bench.phase() is Phase.FAILED
        assert len(bench.children) == 1
        refused = refusal(bench)
        assert refused.retry_after_s is None
        assert "the GPU is too old. It is not tried again" in refused.message
        assert len(bench.children) == 1

    run(story())


@pytest.mark.parametrize("told", ["no GPU", "a CPU"])
def test_a_server_that_has_lost_its_gpu_ends(told: str) -> None:
    """Only a new container gets it back; one that never had a GPU stays and says why it cannot load."""

    async def story() -> None:
        lost = LoadFailed("NVIDIA's driver is loaded, and PyTorch reaches no GPU", NO_GPU)
        bench = EngineBench(dataclasses.replace(MODEL_INFO, gpu=True))
        await bench.say(lost)
        assert not bench.ended
        await bench.after(MAX_PAUSE_S)
        await bench.ready()
        assert not bench.ended
        bench.child.die("it ended with exit code 1")
        await settle()
        await bench.say(lost if told == "no GPU" else Ready(MODEL_INFO))
        assert bench.ended

    run(story())


def test_a_post_after_the_pause_tries_again_however_often() -> None:
    """While the GPU stays busy the pause stays short; once it is free the post is drawn."""

    async def story() -> None:
        bench = EngineBench()
        await bench.say(BUSY)
        for tries in range(2, 8):
            await bench.after(GPU_BUSY_PAUSE_S + 1)
            ticket = bench.post("a")
            assert isinstance(ticket.event, Waking)
            assert len(bench.children) == tries
            await bench.say(BUSY)
            assert code(ticket) == "GPU_BUSY"
        await bench.after(GPU_BUSY_PAUSE_S + 1)
        ticket = bench.post("a")
        await bench.ready()
        await bench.draw("a")
        assert (await ticket.done()).refusal is None

    run(story())


def test_a_server_that_was_never_healthy_tries_again_by_itself() -> None:
    """A client that waits for it to be healthy before asking does not wait for ever."""

    async def story() -> None:
        bench = EngineBench()
        await bench.say(BUSY)
        await bench.after(GPU_BUSY_RETRY_S + 1)
        assert bench.phase() is Phase.LOADING
        await bench.say(BUSY)
        assert bench.phase() is Phase.FAILED
        await bench.after(GPU_BUSY_RETRY_S + 1)
        await bench.ready()
        assert bench.phase() is Phase.READY
        assert len(bench.children) == 3

    run(story())


def test_a_server_that_was_healthy_is_so_again_without_touching_the_gpu() -> None:
    """After the pause it counts as asleep: healthy, and loaded by the next post alone."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        await bench.after(101)
        assert bench.phase() is Phase.ASLEEP
        bench.post("a")
        await bench.say(BUSY)
        assert bench.phase() is Phase.FAILED
        await bench.after(GPU_BUSY_PAUSE_S + 1)
        assert bench.phase() is Phase.ASLEEP
        await bench.after(10 * GPU_BUSY_RETRY_S)
        assert len(bench.children) == 2
        bench.post("a")
        await bench.ready()
        assert bench.orders == ["a"]

    run(story())


def test_the_end_of_the_server_ends_the_tries() -> None:
    """Nothing is started after the end."""

    async def story() -> None:
        bench = EngineBench()
        await bench.say(BUSY)
        bench.dispatcher.close()
        await bench.after(GPU_BUSY_RETRY_S + 1)
        assert len(bench.children) == 1

    run(story())


def test_a_model_that_cannot_be_loaded_is_tried_by_itself_and_ever_more_rarely() -> None:
    """The pause doubles up to its bound; meanwhile it says failed and why, and nobody has to ask."""

    async def story() -> None:
        bench = EngineBench()
        pauses = []
        for tries in range(1, 11):
            await bench.say(LoadFailed("no unet"))
            assert (bench.phase(), bench.dispatcher.reason) == (Phase.FAILED, "no unet")
            refused = refusal(bench)
            assert (refused.status, refused.code) == (503, "MODEL_NOT_LOADED")
            assert "no unet" in refused.message
            assert refused.retry_after_s is not None
            pauses.append(refused.retry_after_s)
            assert len(bench.children) == tries
            await bench.after(refused.retry_after_s + 1)
            assert len(bench.children) == tries + 1
        assert pauses[:3] == [2, 4, 8]
        assert pauses[-1] == MAX_PAUSE_S
        await bench.ready()
        assert bench.phase() is Phase.READY
        assert bench.dispatcher.reason == ""

    run(story())


def test_two_crashes_while_loading_are_tried_again_too() -> None:
    """The engine that cannot get ready is given a pause, and then loads without anybody's help."""

    async def story() -> None:
        bench = EngineBench()
        await bench.die()
        await bench.die()
        assert bench.phase() is Phase.FAILED
        assert "cannot get ready" in bench.dispatcher.reason
        await bench.after(3)
        await bench.ready()
        assert bench.phase() is Phase.READY

    run(story())


def test_limits_that_do_not_fit_the_model_are_tried_ever_more_rarely() -> None:
    """A model that loads each time, in vain, is not loaded every other second."""

    async def story() -> None:
        bench = EngineBench(width={"min": 2000})
        pauses = []
        for _ in range(4):
            await bench.ready()
            assert "configured limits" in bench.dispatcher.reason
            pauses.append(refusal(bench).retry_after_s)
            await bench.after(MAX_PAUSE_S)
        assert pauses == [2, 4, 8, 16]

    run(story())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("Cannot allocate memory for a thread")]
)
def test_a_process_that_cannot_be_started_is_a_failed_state(error: Exception) -> None:
    """No memory for another process: who waits is refused with the reason, and it is tried again by itself."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        await bench.after(101)
        assert bench.phase() is Phase.ASLEEP
        bench.start_error = error
        ticket = bench.post("a")
        assert code(ticket) == "MODEL_NOT_LOADED"
        assert bench.phase() is Phase.FAILED
        assert "cannot be started: Cannot allocate memory" in bench.dispatcher.reason
        bench.start_error = None
        await bench.after(3)
        await bench.ready()
        bench.post("b")
        assert bench.orders == ["b"]

    run(story())


def test_a_refusal_that_came_at_once_is_not_kept() -> None:
    """The same id posted again is a new try, not the old answer."""

    async def story() -> None:
        bench = EngineBench()
        store = IdempotencyStore(bench.dispatcher.submit, bench.dispatcher.cancel)
        await bench.ready()
        await bench.after(101)
        bench.start_error = OSError(errno.EAGAIN, "Resource temporarily unavailable")
        wanted = read_request(
            json.dumps({"modelInputs": {"prompt": "a"}, "callInputs": {"startRequestId": "x"}}).encode()
        )
        refused = store.join(wanted)
        store.leave(refused)
        assert code(refused) == "MODEL_NOT_LOADED"
        bench.start_error = None
        await bench.after(3)
        await bench.ready()
        again = store.join(wanted)
        assert again is not refused
        assert bench.orders == ["a"]

    run(story())
