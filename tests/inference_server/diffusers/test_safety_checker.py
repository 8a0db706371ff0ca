"""A checker for models without one of their own: named by a setting, it looks at every picture."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from inference_server.engine_config import EngineConfig
from inference_server.engines import safety_checker
from inference_server.engines.diffusers.engine import DiffusersEngine
from inference_server.messages import Drawn
from tests.support import tiny_pipelines
from tests.support.diffusers_channel import ScriptedChannel, order

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
@pytest.mark.parametrize("checker", ["sd_strict", "sd_mild"])
def test_a_named_checker_looks_at_every_picture(kind: str, checker: str) -> None:
    """In shared steps and in a pipeline's own call; what it finds is black and told, what it does not is shown."""
    told = {"model_id": str(tiny_pipelines.folder(kind)), "safety_checker_model": str(tiny_pipelines.folder(checker))}
    engine = DiffusersEngine(
        EngineConfig.model_validate({"engine": "diffusers", "device": "cpu", **told}), lambda stage: None
    )
    scheduler = engine.model_info.scheduler
    channel = ScriptedChannel(
        order(1, scheduler=scheduler, num_inference_steps=2),
        order(2, scheduler=scheduler, num_inference_steps=2, safety_checker=False),
    )
    channel.close()
    engine.work(channel)
    ends = [channel.end_of(number) for number in (1, 2)]
    assert [end.nsfw for end in ends if isinstance(end, Drawn)] == [(checker == "sd_strict",), None]
    assert channel.picture_of(1).any() == (checker == "sd_mild")
    assert channel.picture_of(2).any()


def test_a_models_own_checker_comes_first() -> None:
    """Another one is not even loaded beside it."""
    told = {"model_id": str(tiny_pipelines.folder("sd_strict")), "safety_checker_model": "owner/not-there"}
    engine = DiffusersEngine(
        EngineConfig.model_validate({"engine": "diffusers", "device": "cpu", **told}), lambda stage: None
    )
    channel = ScriptedChannel(order(1, num_inference_steps=1))
    channel.close()
    engine.work(channel)
    end = channel.end_of(1)
    assert isinstance(end, Drawn)
    assert end.nsfw == (True,)


def test_a_checker_may_lie_alone(tmp_path: Path) -> None:
    """A folder that is no pipeline: the checker with its preprocessor, in half precision too."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipelines.folder("sd_strict"))
    pipeline.safety_checker.half().save_pretrained(tmp_path, variant="fp16")
    pipeline.feature_extractor.save_pretrained(tmp_path)
    config = EngineConfig(safety_checker_model=str(tmp_path))
    found = safety_checker.fetch(config, print)
    assert found == tmp_path
    assert safety_checker.load(found, config).is_unfit(np.full((64, 64, 3), 120, np.uint8))
