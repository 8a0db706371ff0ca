"""The OpenVINO engine hands over no black picture either: it draws once more in fp32, or says why there is none."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino_genai
import pytest

from inference_server.engine_config import EngineConfig
from inference_server.engines.openvino import OpenVinoEngine, SpoiltPictureError
from inference_server.messages import Draw, GenerationParams

pytestmark = [pytest.mark.slow]


@pytest.fixture
def engine_that_spoils(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], OpenVinoEngine]:
    """Loads the demo model; what it draws is black, in the CPU's own precision or always."""
    own = openvino_genai.Text2ImagePipeline

    def load(always: bool) -> OpenVinoEngine:
        class Spoiling:
            """The library's pipeline, with another end to its drawings."""

            def __init__(self, *arguments: Any, **properties: Any) -> None:
                self._pipeline, self._spoils = own(*arguments, **properties), always or "f32" not in properties.values()

            def __getattr__(self, name: str) -> Any:
                return getattr(self._pipeline, name)

            def generate(self, *arguments: Any, **options: Any) -> Any:
                result = self._pipeline.generate(*arguments, **options)
                return SimpleNamespace(data=np.zeros_like(result.data)) if self._spoils else result

        monkeypatch.setattr(openvino_genai, "Text2ImagePipeline", Spoiling)
        return OpenVinoEngine(EngineConfig(), lambda stage: None)

    return load


def _draw(engine: OpenVinoEngine, number: int = 1) -> Any:
    info = engine.model_info
    params = GenerationParams("an apple", "", info.width_px, info.height_px, 2, 1.0, info.scheduler, (1,))
    return engine.draw(Draw(number, params), lambda step, num_steps, preview: False)


def test_a_black_picture_is_drawn_again_in_fp32(
    engine_that_spoils: Callable[[bool], OpenVinoEngine], capfd: pytest.CaptureFixture[str]
) -> None:
    """The model is loaded once more, and the log says so; later drawings are right at once."""
    engine = engine_that_spoils(False)
    engine.warm_up()  # a single step proves nothing
    assert any(_draw(engine).images[0].rgb)
    assert "all black: the model is loaded again, in fp32" in capfd.readouterr().out
    assert any(_draw(engine, 2).images[0].rgb)
    assert capfd.readouterr().out == ""


def test_a_picture_that_stays_black_is_refused_with_the_reason(
    engine_that_spoils: Callable[[bool], OpenVinoEngine],
) -> None:
    """Never a black picture without a word."""
    with pytest.raises(SpoiltPictureError, match="the picture is all black, in fp32"):
        _draw(engine_that_spoils(True))
