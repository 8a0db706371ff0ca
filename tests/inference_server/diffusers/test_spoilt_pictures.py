"""A picture that is none: never handed over, drawn again in a precision with more room, else refused with a reason."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines.diffusers.cuda_errors import SaferPrecisionError
from inference_server.engines.diffusers.engine import DiffusersEngine
from inference_server.messages import DrawFailed, Drawn
from tests.support import tiny_pipelines
from tests.support.diffusers_channel import ScriptedChannel, order
from tests.support.inference_process import picture, running, wait_until

pytestmark = [pytest.mark.slow]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Such small tensors are not worth a second one."""
    torch.set_num_threads(1)


def _engine(kind: str, cache: Path | None, precision: str = "bf16") -> DiffusersEngine:
    config = EngineConfig(
        engine="diffusers",
        model_id=str(tiny_pipelines.folder(kind)),
        model_precision=precision,
        device="cpu",
        max_batch=2,
        compile_cache=None if cache is None else str(cache),
        compile_sizes=(),
    )
    return DiffusersEngine(config, lambda stage: None)


@contextmanager
def _spoils(part: Any, value: float, below_fp32: bool = True) -> Iterator[None]:
    """What `part` of a model answers is all `value`, in 16 bits or always."""

    def after_forward(module: Any, arguments: Any, answer: Any) -> Any:
        tensor = answer[0] if isinstance(answer, tuple) else answer
        if below_fp32 and tensor.dtype == torch.float32:
            return answer
        spoilt = torch.full_like(tensor, value)
        return (spoilt, *answer[1:]) if isinstance(answer, tuple) else spoilt

    handle = part.register_forward_hook(after_forward)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.timeout(600)  # an engine that imports PyTorch starts twice
def test_a_server_whose_model_overflows_draws_nevertheless(tmp_path: Path) -> None:
    """By the front door: numbers beyond fp16 are noticed at the first look, and bf16 is taken, which is told."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_pipelines.folder("sd"), safety_checker=None)
    pipeline.unet.conv_in.weight.data *= 1e6  # what follows takes out the scale, if it can be written at all
    pipeline.save_pretrained(tmp_path / "model")
    with running(
        MODEL_ID=str(tmp_path / "model"),
        MODEL_PRECISION="fp16",
        INFERENCE_ENGINE="diffusers",
        INFERENCE_DEVICE="cpu",
        COMPILE_CACHE=str(tmp_path / "cache"),
    ) as server:
        wait_until(lambda: server.health()["state"] == "healthy", "a model that draws", deadline_s=300)
        assert picture(server.post({"prompt": "a cat", "num_inference_steps": 2}).json()).size == (64, 64)
        assert any("it draws in bf16, because" in notice for notice in server.health()["notices"])
        assert "not a number in fp16: the model is loaded again, in bf16" in server.log()


def _channel(engine: DiffusersEngine) -> ScriptedChannel:
    channel = ScriptedChannel(order(1, scheduler=engine.model_info.scheduler, num_inference_steps=2))
    channel.close()
    return channel


@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_the_model_is_loaded_again_in_a_safer_precision(tmp_path: Path, kind: str) -> None:
    """Not-a-number ends the process; the next one knows, draws in fp32 and says so. With either loop."""
    engine = _engine(kind, tmp_path)
    network = getattr(engine._loaded.pipeline, "unet", None) or engine._loaded.pipeline.transformer
    with _spoils(network, float("nan")), pytest.raises(SaferPrecisionError, match="loaded again, in fp32"):
        engine.work(_channel(engine))
    again = _engine(kind, tmp_path)
    assert again._loaded.dtype == torch.float32
    assert any("it draws in fp32, because" in notice for notice in again.model_info.notices)
    channel = _channel(again)
    again.work(channel)
    assert isinstance(channel.end_of(1), Drawn)


def test_an_autoencoder_alone_gets_more_room_at_once() -> None:
    """The latents are sound: they are decoded once more in fp32, and so are all later ones."""
    engine = _engine("sd", None)
    vae = engine._loaded.pipeline.vae
    channel = _channel(engine)
    with _spoils(vae.decoder, float("nan")):
        engine.work(channel)
    assert isinstance(channel.end_of(1), Drawn)
    assert vae.dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "value", "wrong"), [("sd", -1.0, "all black"), ("sd", 0.0, "all grey"), ("sd3", -1.0, "all black")]
)
def test_where_nothing_helps_the_request_fails_with_the_reason(kind: str, value: float, wrong: str) -> None:
    """In fp32 there is no safer precision; a black picture is never handed over without a word."""
    engine = _engine(kind, None, precision="fp32")
    channel = _channel(engine)
    with _spoils(engine._loaded.pipeline.vae.decoder, value, below_fp32=False):
        engine.work(channel)
    end = channel.end_of(1)
    assert isinstance(end, DrawFailed)
    assert f"the picture is {wrong}, in fp32" in end.reason
    assert "MODEL_PRECISION" in end.reason
