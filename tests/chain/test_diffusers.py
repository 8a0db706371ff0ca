"""The whole chain of `make run` with `INFERENCE_ENGINE=diffusers`, drawing with a small model from a folder."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.support import tiny_pipelines
from tests.support.images import coloured, encoded_bytes, right_half
from tests.support.processes import Processes, is_running
from tests.support.space import Space, start_space
from tests.support.visits import PHONE, TOUCH, wait_until_ready

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """One page for all tests here; its model is as the maintainer named it, a folder."""
    folder = tiny_pipelines.save_sd(tmp_path_factory.mktemp("model") / "tiny")
    started = Processes(tmp_path_factory.mktemp("space"))
    yield start_space(started, {"INFERENCE_ENGINE": "diffusers", "MODEL_ID": str(folder)})
    started.stop_all()


def test_visitors_draw_side_by_side(space: Space) -> None:
    """From a cold start on, many visitors at once all get pictures of the model's size."""
    prompts = [f"picture {number}" for number in range(6)]
    with ThreadPoolExecutor(len(prompts)) as visitors:
        pictures = list(visitors.map(space.draw, prompts))
    assert {picture.size for picture in pictures} == {(64, 64)}
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    engines = [argv for argv in space.living().values() if "inference_server.engine_process" in argv]
    assert len(engines) == 1


def test_the_model_is_named(space: Space) -> None:
    """A picture's metadata names the model and its scheduler, as for any other engine."""
    picture = space.draw("a red apple")
    assert picture.info["model"] == "tiny"
    assert picture.info["scheduler"] == "DDIMScheduler"


def test_a_picture_starts_from_an_image(space: Space, browser: Browser) -> None:
    """What a visitor chooses travels all the way: the picture has the size of the image, not the model's."""
    space.draw("a red apple")  # from then on the page knows what the model takes
    context = browser.new_context(viewport=PHONE, **TOUCH)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(space.url)
    wait_until_ready(page)
    page.click("#more > button")
    page.click("#start > button")
    files = {"#start-image": coloured(128, 64), "#mask-image": right_half(128, 64)}
    for field, picture in files.items():
        chosen = {"name": "a.png", "mimeType": "image/png", "buffer": encoded_bytes(picture)}
        page.set_input_files(f"{field} input[type=file]", chosen)  # type: ignore[arg-type]
        expect(page.locator(f"{field} img")).to_be_visible()
    page.fill("#prompt textarea", "a castle")
    page.press("#prompt textarea", "Enter")
    expect(page.locator("#status")).to_contain_text("Done in", timeout=60_000)
    shown = page.locator("#result img").get_attribute("src")
    context.close()
    assert shown
    drawn = Image.open(io.BytesIO(requests.get(shown, timeout=60).content))
    assert drawn.size == (128, 64)


def test_an_unknown_model_is_told(processes: Processes, tmp_path: Path) -> None:
    """A folder that holds no model is told to the visitor as what it is, and the page stays up."""
    space = start_space(processes, {"INFERENCE_ENGINE": "diffusers", "MODEL_ID": str(tmp_path)})
    with pytest.raises(AssertionError, match=r"model_index\.json"):
        space.draw("a red apple")
    assert is_running(space.program.pid)
    assert "prompt" in space.text()
