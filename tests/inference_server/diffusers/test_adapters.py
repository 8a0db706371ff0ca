"""Transformers with an adapter: their drawings share steps, and each is the one that the pipeline's own call makes."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines.diffusers import loading
from inference_server.engines.diffusers.adapters import adapter as adapters
from inference_server.engines.diffusers.adapters.drawer import AdapterDrawer
from inference_server.engines.diffusers.adapters.encoder import AdapterEncoder
from inference_server.engines.diffusers.batch_queue import BatchLimits, buckets_up_to
from inference_server.engines.diffusers.continuous_batching import ContinuousBatching
from inference_server.engines.diffusers.engine import DiffusersEngine, small_drawing
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.model_info import of_pipeline
from inference_server.engines.diffusers.pipeline_calls import PipelineCalls
from inference_server.messages import Cancelled, Draw, Drawn, RawImage
from inference_server.tasks import IMG2IMG
from tests.support import tiny_families, tiny_pipelines
from tests.support.diffusers_channel import ScriptedChannel, WatchedUNet, difference
from tests.support.diffusers_channel import order as order_of_unet
from tests.support.inference_process import picture, running, wait_until

pytestmark = pytest.mark.slow

KINDS = ("flux", "sd3", "sd3_t5")


def _order(number: int = 1, **changes: Any) -> Draw:
    values = {"scheduler": "FlowMatchEulerDiscreteScheduler", "guidance_scale": 3.5}
    return order_of_unet(number, **(values | changes))


# Orders that have nothing in common but size and whether they are guided.
COMPANY = (
    _order(2, num_inference_steps=7, guidance_scale=2.0, prompt="a much longer prompt than all of the others have"),
    _order(3, num_inference_steps=2, guidance_scale=9.0),
    _order(4, num_inference_steps=3, prompt=""),
)


def _folder(kind: str) -> str:
    return str(tiny_families.folder(kind, "FLUX.1-dev") if kind == "flux" else tiny_pipelines.folder(kind))


@functools.cache
def _loaded(kind: str) -> LoadedPipeline:
    torch.set_num_threads(1)  # such small tensors are not worth a second thread
    return loading.load(EngineConfig(engine="diffusers", model_id=_folder(kind), device="cpu"), lambda stage: None)


class Rig:
    """The step loop of one model and its own call beside it, as the engine puts them together; calls are watched."""

    def __init__(self, kind: str, buckets: tuple[int, ...] = buckets_up_to(4)) -> None:
        model = _loaded(kind)
        info, adapter = of_pipeline(model, images_at_once=4), adapters.find(model.pipeline)
        assert adapter is not None
        encoder = AdapterEncoder(model, adapter)
        sizes = encoder.input_sizes(small_drawing(info))
        self.network = WatchedUNet(model.pipeline.transformer, sizes, None, adapter.forward)
        limits = BatchLimits(buckets[-1], buckets, info.width_px * info.height_px)
        steps = ContinuousBatching(model, encoder, self.network, limits, preview_every_s=0.0)
        self.drawer = AdapterDrawer(steps, PipelineCalls(model, 1))

    def draw(self, first: Draw, *others: Draw, act: Callable[[ScriptedChannel, int], None] | None = None) -> Any:
        """The first has its first step alone; the others, encoded meanwhile, share its second."""
        channel = ScriptedChannel(first)

        def before_call(call: int) -> None:
            if call == 1:
                channel.join(*others)
                channel.close()
            if act is not None:
                act(channel, call)

        self.network.shapes.clear()
        self.network.before_call = before_call
        self.drawer.work(channel)
        return channel


def _own_picture(kind: str, order: Draw) -> Any:
    """What the pipeline's own call makes of it, (H, W, 3) uint8."""
    params, pipeline = order.params, _loaded(kind).pipeline
    negative = {} if kind == "flux" else {"negative_prompt": params.negative_prompt}
    result = pipeline(
        prompt=params.prompt,
        height=params.height_px,
        width=params.width_px,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(params.seeds[0]),
        **negative,
    )
    return np.asarray(result.images[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance_scale", [3.5, 1.0])
def test_a_picture_is_the_one_that_the_pipelines_own_call_makes(kind: str, guidance_scale: float) -> None:
    """Alone, a seed gives the pixels of the own call with a CPU generator, bit for bit, in a size of its own too."""
    one = _order(guidance_scale=guidance_scale, negative_prompt="fog", width_px=96)
    assert difference(Rig(kind).draw(one).picture_of(1), _own_picture(kind, one)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_company_does_not_change_a_bit_in_the_same_slot_and_bucket(kind: str) -> None:
    """In fp32 a seed's picture in a mixed batch equals the same seed's alone bit for bit."""
    rig = Rig(kind, buckets=(4,))
    alone = rig.draw(_order(1)).picture_of(1)
    channel = rig.draw(_order(1), *COMPANY)
    assert channel.batches()[:3] == [1, 4, 4]
    assert (channel.picture_of(1) == alone).all()


@pytest.mark.parametrize("kind", KINDS)
def test_drawings_of_mixed_settings_share_every_step_and_get_their_own_pictures(kind: str) -> None:
    """Steps, guidance and prompts differ; a newcomer joins at the next step and leaves after its last one."""
    rig = Rig(kind)
    channel = rig.draw(_order(1), *COMPANY)
    assert [shape.bucket for shape in rig.network.shapes] == [1, 4, 4, 3, 1, 1, 1, 1]
    for one in (_order(1), *COMPANY):
        assert difference(channel.picture_of(one.number), _own_picture(kind, one)) <= 2
        assert [step.step for step in channel.steps_of(one.number) if step.preview is None] == list(
            range(1, one.params.num_inference_steps + 1)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_take_turns(kind: str) -> None:
    """Two sizes at once, each with its own shift of the timesteps: both are the own call's."""
    orders = _order(1, num_inference_steps=6), _order(2, width_px=128, height_px=96)
    rig = Rig(kind)
    channel = rig.draw(*orders)
    assert {shape.width_px for shape in rig.network.shapes[1:4]} == {64, 128}
    for one in orders:
        assert difference(channel.picture_of(one.number), _own_picture(kind, one)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_drawing_leaves_at_the_next_step(kind: str) -> None:
    """The other goes on alone, and its picture is its own."""
    rig = Rig(kind)
    channel = rig.draw(
        _order(1, num_inference_steps=50), _order(2), act=lambda own, call: own.cancel(1) if call == 3 else None
    )
    assert isinstance(channel.end_of(1), Cancelled)
    assert [shape.bucket for shape in rig.network.shapes] == [1, 2, 2, 1, 1]
    assert difference(channel.picture_of(2), _own_picture(kind, _order(2))) <= 2


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_a_drawing_from_an_image_goes_through_the_own_call(kind: str) -> None:
    """It waits for the shared steps that run, and those that come after it share steps again."""
    image = RawImage(64, 64, bytes(range(256)) * 48)
    rig = Rig(kind)
    channel = ScriptedChannel(_order(1), _order(2, task=IMG2IMG, image=image, strength=0.8), _order(3))
    channel.close()
    rig.drawer.work(channel)
    assert len(rig.network.shapes) == 8
    ends = [message.number for message in channel.told if isinstance(message, Drawn)]
    assert ends == [1, 2, 3]
    assert difference(channel.picture_of(3), _own_picture(kind, _order(3))) == 0


def test_what_has_no_adapter_goes_through_its_own_call() -> None:
    """Krea 2; and a plan that keeps parts off the card is no matter of the adapter: see the engine."""
    folder = str(tiny_families.folder("krea2", "Krea-2-Raw"))
    model = loading.load(EngineConfig(engine="diffusers", model_id=folder, device="cpu"), lambda stage: None)
    assert adapters.find(model.pipeline) is None


@pytest.mark.parametrize("placement", ["encoders", "parts", "blocks"])
def test_where_a_plan_keeps_parts_off_the_card_the_own_call_draws(
    placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline's own call moves them; with all of it on the card the steps are shared."""
    config = EngineConfig(engine="diffusers", model_id=_folder("flux"), device="cpu")
    assert isinstance(DiffusersEngine(config, lambda stage: None)._drawer, AdapterDrawer)
    model = _loaded("flux")
    planned = replace(model, plan=replace(model.plan, placement=placement))  # type: ignore[arg-type]
    monkeypatch.setattr(loading, "load", lambda config, report: planned)
    assert isinstance(DiffusersEngine(config, lambda stage: None)._drawer, PipelineCalls)


@pytest.mark.timeout(300)
def test_two_requests_at_once_share_steps_over_http() -> None:
    """Through the server's front door; each gets the picture that it gets alone."""
    inputs = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 60}
    with running(MODEL_ID=_folder("flux"), INFERENCE_ENGINE="diffusers", INFERENCE_DEVICE="cpu") as server:
        server.wait_healthy()

        def draw(seed: int) -> Any:
            answer = server.post({**inputs, "seed": seed})
            assert answer.status_code == 200, answer.text
            return np.asarray(picture(answer.json()))

        alone = [draw(seed) for seed in (1, 2)]
        before = server.metrics()
        with ThreadPoolExecutor(2) as clients:
            together = list(clients.map(draw, (1, 2)))
        images = before["inference_batch_size_sum"] + 2 * 60
        wait_until(lambda: server.metric("inference_batch_size_sum") >= images, "the last step to be counted")
        calls = server.metric("inference_batch_size_count") - before["inference_batch_size_count"]
        assert calls < 2 * 60  # some drew a step of both
    for one, other in zip(alone, together, strict=True):
        assert difference(one, other) <= 2
