"""LoRAs as the maintainer names them and as a request asks for them, without a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.config import ConfigError, read_config
from inference_server.errors import Refusal
from inference_server.limits import defaults_of_model, of_model
from inference_server.loras import Lora
from inference_server.messages import ModelInfo
from inference_server.resolve import Offer, Resolved, resolve
from inference_server.wire import read_request

INFO = ModelInfo(
    "owner/model", "StableDiffusionPipeline", 512, 512, 25, 7.5, "DDIMScheduler", ("DDIMScheduler",), 1024, 8,
    loras=(("pixel", 0.8), ("detail", 1.0)),
)  # fmt: skip


def resolved(call: dict[str, Any], lenient: bool = False, info: ModelInfo = INFO) -> Resolved:
    limits = of_model(info)
    offer = Offer(info.name, limits, info, defaults_of_model(info, limits), lenient)
    return resolve(read_request(json.dumps({"modelInputs": {"prompt": "a"}, "callInputs": call}).encode()), offer)


def test_the_environment_names_them_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`name=source:weight, ...`; the file's list of objects, or the same text, wins over it."""
    monkeypatch.setenv("INFERENCE_ENGINE", "diffusers")
    monkeypatch.setenv("LORAS", "pixel=nerijs/pixel-art-xl:0.8, d-2=/models/d.safetensors,\nc=a/b/c:d.safetensors")
    assert read_config().engine_config.loras == (
        Lora(name="pixel", source="nerijs/pixel-art-xl", weight=0.8),
        Lora(name="d-2", source="/models/d.safetensors"),
        Lora(name="c", source="a/b/c:d.safetensors"),
    )
    for told in ([{"name": "x", "source": "a/b", "weight": -1}], "x=a/b:-1"):
        (tmp_path / "endpoint.json").write_text(json.dumps({"loras": told}))
        assert read_config(tmp_path / "endpoint.json").loras == (Lora(name="x", source="a/b", weight=-1),)


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("nerijs/pixel-art-xl", "name=owner/repo"),
        ("a=x/y, a=z/w", "given twice"),
        ("a b=x/y", "loras.0.name"),
        ("a=x/y:99", "loras.0.weight"),
        ({"a": "x/y"}, "must be a list"),
    ],
)
def test_a_wrong_list_is_told_at_the_start(told: Any, named: str, tmp_path: Path) -> None:
    """What stands where a name, a source or a weight should be is named, before anything is loaded."""
    (tmp_path / "endpoint.json").write_text(json.dumps({"loras": told}))
    with pytest.raises(ConfigError, match=named):
        read_config(tmp_path / "endpoint.json")


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ({"pixel": 0.5}, {"pixel": 0.5}),
        ({"pixel": None, "detail": -1}, {"detail": -1.0, "pixel": 0.8}),
        (["pixel"], {"pixel": 0.8}),
        ([{"name": "detail", "weight": 0.2}, "pixel"], {"detail": 0.2, "pixel": 0.8}),
        ({"pixel": 0}, None),
        ({}, None),
    ],
)
def test_a_request_names_them_with_strengths(asked: Any, used: Any) -> None:
    """As an object or a list; what was used stands in `$meta`, and nothing does where none was."""
    params = resolved({"loras": asked}).params
    assert params.by_wire_names().get("loras") == used
    assert params.loras == tuple(sorted((used or {}).items())), "equal choices must be equal, to share steps"


@pytest.mark.parametrize("call", [{"loras": ["anime"]}, {"lora_weights": "https://example.org/x.safetensors"}])
def test_what_is_not_offered_is_refused_with_what_is(call: dict[str, Any]) -> None:
    """A name that is not there, and upstream's way to have files fetched: the LoRAs of this server are named."""
    with pytest.raises(Refusal) as refused:
        resolved(call)
    assert (refused.value.status, refused.value.code) == (400, "INVALID_INPUTS")
    assert "Offered: pixel (0.8), detail (1)." in refused.value.message
    with pytest.raises(Refusal, match="offers none"):
        resolved(call, info=ModelInfo(**{**vars(INFO), "loras": ()}))


def test_a_lenient_server_draws_without_and_says_so() -> None:
    """What it has not is left out; `served_instead` says so."""
    lenient = resolved({"loras": {"anime": 1, "pixel": 0.3}, "lora_weights": "a/b"}, lenient=True)
    assert lenient.params.loras == (("pixel", 0.3),)
    assert lenient.served_instead.keys() == {"loras.anime", "lora_weights"}


def test_limits_list_them() -> None:
    """Names and default strengths, by which a page can offer them."""
    assert of_model(INFO).model_dump()["loras"] == {"pixel": 0.8, "detail": 1.0}
