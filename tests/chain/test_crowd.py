"""A crowd at a cold chain."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from errors import BusyError, SpaceError
from tests.support.chain import ONE_EACH, start_chain
from tests.support.processes import Processes
from text_to_image import TextToImage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CROWD = 50
SMALL: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2}
BOUND = 32  # waiting requests that the inference server takes


def test_fifty_first_prompts_at_once(processes: Processes, tmp_path: Path, rathole: Path) -> None:
    """Fifty first prompts at once start each service exactly once; all end in a picture or in a clear "Busy"."""
    chain = start_chain(processes, tmp_path, rathole)
    with chain.service() as service, ThreadPoolExecutor(CROWD) as crowd:
        outcomes = Counter(crowd.map(lambda number: outcome(service, number), range(CROWD)))
    assert chain.starts() == ONE_EACH
    assert chain.running() == ONE_EACH
    assert set(outcomes) <= {"picture", "busy"}, outcomes
    assert outcomes["picture"] >= BOUND


def outcome(service: TextToImage, number: int) -> str:
    """How the prompt of one of the crowd ends."""
    try:
        drawing = service.submit(f"a red apple, number {number}", seed=number, **SMALL).result(400)
    except BusyError as error:
        return "busy" if str(error).startswith("Busy:") else str(error)
    except SpaceError as error:
        return f"{type(error).__name__}: {error}"
    return "picture" if drawing.image.size == (64, 64) and drawing.seed == number else repr(drawing)
