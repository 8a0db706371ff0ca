"""What the browser is given beside Gradio's own: the script with its words, ideas, shapes, and a picture's record."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from gradio.data_classes import FileData

import demo_model
from drawing.events import Picture
from drawing.models import Defaults, Limits, Range
from drawing.status import BackendStatus
from page.ideas import ideas_html, styles, surprises
from page.language import ENGLISH, LANGUAGES
from page.options import parse_size, shapes
from page.record import record
from page.script import script_html, words_html
from tests.support.page_service import StandInService

_SCRIPTS = Path(__file__).parents[2] / "page" / "script"


def test_every_script_is_part_of_the_page() -> None:
    """The page holds every file of the folder, and nothing in them ends its script element early."""
    whole = script_html()
    for file in _SCRIPTS.glob("*.js"):
        assert file.read_text(encoding="utf-8") in whole, file.name
    assert whole.count("</script") == 1


def test_the_script_is_given_what_it_says() -> None:
    """Each sentence that the scripts say comes with the page, with the values that it names, and hardly another."""
    code = "".join(file.read_text(encoding="utf-8") for file in _SCRIPTS.glob("*.js"))
    asked = set(re.findall(r'\btell\("(\w+)"', code)) | set(re.findall(r'tell\(\w+ \? "(\w+)" : "\w+"', code))
    counted = set(re.findall(r'tellCount\("(\w+)"', code))
    for words in LANGUAGES.values():
        given = json.loads(words_html(words).partition("window.pageWords = ")[2].partition(";Object")[0])
        assert given["language"] == words.tag
        assert asked | counted | {f"{name}_one" for name in counted} <= given["words"].keys()
        assert given["words"].items() <= {name: words[name] for name in words}.items()
        assert len(given["words"]) < 2 * len(asked)
    for name in asked:
        for value in re.findall(r"\{(\w+)\}", ENGLISH[name]):
            assert re.search(rf'"{name}"[^;]*\b{value}\b', code), f"{name} is never given {value}"


def test_ideas() -> None:
    """The five styles are on offer, and the demo model knows words of each surprise that it is given."""
    assert list(styles()) == ["Photo", "Drawing", "Comic", "Painting", "3D"]
    assert all(demo_model.known_words(prompt) for prompt in surprises(demo=True))
    assert len(set(surprises(demo=False))) >= 12
    html = ideas_html(BackendStatus("local", True, True, True, None, Limits(), Defaults()))
    assert html.count("<button") == 1 + len(styles())


def test_shapes_are_the_models_own() -> None:
    """Square, portrait and landscape come in the size that the model likes, as far as it can draw them."""
    side = Range(min=64, max=256, multiple=64)
    small = BackendStatus(
        "local", True, False, True, None, Limits(width=side, height=side), Defaults(width=256, height=256)
    )
    assert shapes(small) == [("Square", ""), ("Portrait", "192x256"), ("Landscape", "256x192")]
    tall = Defaults(width=768, height=1024)
    assert shapes(BackendStatus("local", False, False, True, None, Limits(), tall)) == [
        ("Square", "1024x1024"),
        ("Portrait", ""),
        ("Landscape", "1024x768"),
    ]
    square = Range(min=512, max=512)
    fixed = BackendStatus("local", False, False, True, None, Limits(width=square, height=square), Defaults())
    assert shapes(fixed) == [("Square", "")]


@pytest.mark.parametrize("typed", ["640x448", "640 x 448", "640X448", "640×448", "640*448 px"])  # noqa: RUF001
def test_a_size_as_people_type_it(typed: str) -> None:
    """A size is understood in the ways that people write one."""
    assert parse_size(typed) == (640, 448)


def test_a_record_brings_back_what_was_asked() -> None:
    """The browser's record of a picture holds what was asked for as the fields take it, and what was drawn."""
    service = StandInService()
    job = service.submit("a castle", guidance_scale="2,5", width=320, height=256)
    job.result(timeout_s=60)
    event = job.events[-1]
    assert isinstance(event, Picture)
    told = replace(event.generated.receipt, model="/home/ada/models/tiny")
    event = Picture(replace(event.generated, receipt=told))
    kept = json.loads(json.dumps(record(event, job, FileData(path="/folder/a-castle-42.png"))))
    assert kept["id"] == job.id
    assert {
        name: kept[name] for name in ("prompt", "guidance_scale", "num_inference_steps", "size", "seed", "steps")
    } == {
        "prompt": "a castle",
        "guidance_scale": 2.5,
        "num_inference_steps": None,
        "size": "320x256",
        "seed": 42,
        "steps": 20,
    }
    assert (kept["width"], kept["height"]) == (320, 256)
    assert kept["model"] == "tiny"  # and nothing of the owner's folders
