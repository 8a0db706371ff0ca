"""The healthcheck tells what the loaded model makes use of, how it lies in memory, and what its licence asks."""

import dataclasses

from inference_server.config import InferenceConfig
from inference_server.idempotency import IdempotencyStore
from inference_server.routes import Services, health
from tests.support.inference_engine import EngineBench, run
from tests.support.scripted_engine import MODEL_INFO

PLAN = "Memory plan fp8: weights are kept in fp8 (8 bits), everything is on the card (it takes 7.0 of 8.1 GB)."
LICENCE = "Licence: Krea 2 Community. It asks a host to filter or review what is drawn."


def test_the_model_is_told_to_whom_it_concerns() -> None:
    """With the bearer, once it was loaded; strangers learn the state alone."""
    model = dataclasses.replace(MODEL_INFO, features=("text2image",), memory_plan=PLAN, notices=(LICENCE,))

    async def story() -> None:
        bench = EngineBench(model)
        store = IdempotencyStore(bench.dispatcher.submit, bench.dispatcher.cancel)
        services = Services(InferenceConfig(), bench.dispatcher, store, bench.metrics, bench.owner, lambda: None)
        assert "memory_plan" not in health(services, trusted=True)
        await bench.ready()
        told = health(services, trusted=True)
        assert (told["memory_plan"], told["notices"]) == (PLAN, [LICENCE])
        assert list(told["limits"]["features"]) == ["text2image"]
        assert set(health(services, trusted=False)) == {"state", "gpu"}

    run(story())
