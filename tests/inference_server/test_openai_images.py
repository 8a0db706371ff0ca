"""OpenAI's way to ask for pictures: by its names, with the bearer as key, with refusals in its shape."""

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from tests.support.inference_front_door import FrontDoor, serve
from tests.support.inference_process import DEADLINE_S

KEY = "right-bearer-0123456789abcdef"


def visiting(tmp_path: Path, visit: Callable[[FrontDoor], None], **keys: Any) -> None:
    serve(tmp_path, {"bearer": KEY, "model_id": "a-model", **keys}, visit, bearer=KEY)


def ask(door: FrontDoor, **body: Any) -> requests.Response:
    return door.ask("POST", "/v1/images/generations", json={"prompt": "a cat", **body})


def size_of(file: bytes) -> tuple[str, int, int]:
    with Image.open(BytesIO(file)) as picture:
        return str(picture.format), picture.width, picture.height


def test_pictures_come_as_openai_sends_them(tmp_path: Path) -> None:
    """As many as asked for, of the size and format asked for; what only OpenAI's models have is ignored."""

    def visit(door: FrontDoor) -> None:
        answer = ask(
            door,
            **{"model": "a-model", "n": 2, "size": "128x64", "response_format": "b64_json", "quality": "hd"},
            **{"seed": 5, "num_inference_steps": 3, "output_format": "webp", "user": "me", "style": "vivid"},
        )
        assert answer.status_code == 200, answer.text
        content = answer.json()
        assert isinstance(content["created"], int)
        assert [set(one) for one in content["data"]] == [{"b64_json"}] * 2
        assert size_of(base64.b64decode(content["data"][1]["b64_json"])) == ("WEBP", 128, 64)
        params = door.child.drawings[-1]
        assert (params.seeds, params.num_inference_steps, params.prompt) == ((5, 6), 3, "a cat")

    visiting(tmp_path, visit)


def test_an_address_is_good_for_whoever_has_it(tmp_path: Path) -> None:
    """Without the bearer, as a chat program's browser fetches it; another name is not found."""

    def visit(door: FrontDoor) -> None:
        [told] = ask(door, response_format="url").json()["data"]
        assert set(told) == {"url"}
        assert told["url"].startswith(f"{door.url}/v1/images/files/")
        fetched = requests.get(told["url"], timeout=DEADLINE_S)
        assert fetched.headers["content-type"] == "image/png"
        assert size_of(fetched.content) == ("PNG", 64, 64)
        other = requests.get(f"{door.url}/v1/images/files/{'0' * 32}.png", timeout=DEADLINE_S)
        assert (other.status_code, other.json()["error"]["code"]) == (404, "no_such_picture")

    visiting(tmp_path, visit)


def test_who_names_no_form_gets_both(tmp_path: Path) -> None:
    """OpenAI's models differ in their default, and so do its clients."""

    def visit(door: FrontDoor) -> None:
        [told] = ask(door, size="auto").json()["data"]
        assert requests.get(told["url"], timeout=DEADLINE_S).content == base64.b64decode(told["b64_json"])

    visiting(tmp_path, visit)


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({"model": "dall-e-3"}, 404, "model_not_found", "'a-model'"),
        ({"size": "1000x1000"}, 400, "invalid_inputs", "multiples of 64"),
        ({"size": "large"}, 400, "invalid_inputs", "512x512"),
        ({"n": 40}, 400, "invalid_inputs", "1 to 4"),
        ({"prompt": " "}, 400, "invalid_inputs", "prompt: is empty"),
        ({"prompt": None}, 400, "invalid_inputs", "prompt"),
        ({"response_format": "jpeg"}, 400, "invalid_inputs", "response_format"),
        ({"stream": True}, 400, "invalid_inputs", "stream"),
    ],
)
def test_refusals_have_openais_shape(tmp_path: Path, body: dict[str, Any], status: int, code: str, named: str) -> None:
    """Message, type and code, without the names of this server's own wire."""

    def visit(door: FrontDoor) -> None:
        answer = ask(door, **body)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (status, "invalid_request_error", code)
        assert named in error["message"]
        assert "Inputs." not in error["message"]
        assert not door.child.drawings

    visiting(tmp_path, visit)


def test_a_wrong_key_is_told_in_openais_shape(tmp_path: Path) -> None:
    """And so is a body that is no JSON, and a route that is not there."""

    def visit(door: FrontDoor) -> None:
        stranger = requests.post(f"{door.url}/v1/images/generations", json={"prompt": "a cat"}, timeout=DEADLINE_S)
        assert (stranger.status_code, stranger.json()["error"]["code"]) == (401, "invalid_api_key")
        broken = door.ask("POST", "/v1/images/generations", data=b"{")
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_inputs")
        missing = door.ask("POST", "/v1/images/edits", json={})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "no_such_route")

    visiting(tmp_path, visit)


def test_a_lenient_server_draws_whatever_model_is_named(tmp_path: Path) -> None:
    """Chat programs send OpenAI's names unless they are told otherwise; the list tells the one that is served."""

    def visit(door: FrontDoor) -> None:
        assert ask(door, model="dall-e-3").status_code == 200
        assert [one["id"] for one in door.ask("GET", "/v1/models").json()["data"]] == ["a-model"]

    visiting(tmp_path, visit, lenient=True)


def test_the_stock_client_draws(tmp_path: Path) -> None:
    """OpenAI's own Python client, given this server's address and bearer."""
    openai = pytest.importorskip("openai")

    def visit(door: FrontDoor) -> None:
        with openai.OpenAI(base_url=f"{door.url}/v1", api_key=KEY, max_retries=0, timeout=DEADLINE_S) as client:
            answer = client.images.generate(
                model="a-model", prompt="a cat", n=2, size="64x64", response_format="b64_json"
            )
            assert [size_of(base64.b64decode(one.b64_json))[0] for one in answer.data] == ["PNG", "PNG"]
            assert requests.get(client.images.generate(prompt="a cat").data[0].url, timeout=DEADLINE_S).ok
            with pytest.raises(openai.NotFoundError) as caught:
                client.images.generate(model="dall-e-3", prompt="a cat")
            assert caught.value.code == "model_not_found"
            assert [one.id for one in client.models.list()] == ["a-model"]

    visiting(tmp_path, visit)
