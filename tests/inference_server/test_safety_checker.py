"""When pictures are checked, whatever a request says, and which checker is fetched; without a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.config import from_command_line
from inference_server.engine_config import USUAL_CHECKER, EngineConfig
from inference_server.engines import ModelLoadError, safety_checker
from inference_server.limits import defaults_of_model, of_model
from inference_server.messages import Drawn, ModelInfo, RawImage
from inference_server.resolve import Offer, resolve
from inference_server.wire import read_request


def read(tmp_path: Path, arguments: tuple[str, ...] = (), **keys: Any) -> EngineConfig:
    (tmp_path / "endpoint.json").write_text(json.dumps(keys))
    return from_command_line(["--config", str(tmp_path / "endpoint.json"), *arguments]).config


@pytest.mark.parametrize(
    ("arguments", "keys", "checker", "checks"),
    [
        ((), {}, None, None),
        ((), {"deployment": "local"}, None, None),
        ((), {"deployment": "you/draw"}, USUAL_CHECKER, True),
        (("--connect", "https://you-draw.hf.space"), {}, USUAL_CHECKER, True),
        ((), {"deployment": "you/draw", "public_page": False}, None, None),
        ((), {"public_page": True}, USUAL_CHECKER, True),
        ((), {"safety_checker_model": "owner/checker"}, "owner/checker", True),
        ((), {"deployment": "you/draw", "safety_checker_model": "none"}, None, False),
    ],
)
def test_a_public_page_has_a_checker_by_default(
    arguments: tuple[str, ...],
    keys: dict[str, Any],
    checker: str | None,
    checks: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A named deployment and a server that dials a Space draw for visitors; the maintainer may say otherwise."""
    monkeypatch.setenv("WORKER_KEY", "k" * 43)
    told = read(tmp_path, arguments, **keys)
    assert (told.checker, told.checks) == (checker, checks)


@pytest.mark.parametrize(
    ("checks", "asked", "used", "told"),
    [
        (None, True, True, []),
        (None, False, False, []),
        (True, False, True, ["safety_checker"]),
        (False, True, False, []),
    ],
)
def test_only_the_maintainer_turns_it_off(checks: bool | None, asked: bool, used: bool, told: list[str]) -> None:
    """Where it is on a request cannot do without it, and is told so; where it is off no request turns it on."""
    info = ModelInfo("a/b", "P", 512, 512, 25, 7.5, "DDIMScheduler", ("DDIMScheduler",), 1024, 8)
    limits = of_model(info)
    offer = Offer(info.name, limits, info, defaults_of_model(info, limits), lenient=False, checks=checks)
    body = {"modelInputs": {"prompt": "a"}, "callInputs": {"safety_checker": asked}}
    resolved = resolve(read_request(json.dumps(body).encode()), offer)
    assert resolved.params.safety_checker is used
    assert list(resolved.served_instead) == told


def test_the_demo_model_and_models_with_their_own_need_none(tmp_path: Path) -> None:
    """One that draws the words of its list alone; one whose index names a checker."""
    assert safety_checker.needs_one(tmp_path, {})
    assert safety_checker.needs_one(tmp_path, {"safety_checker": [None, None]})
    assert not safety_checker.needs_one(tmp_path, {"safety_checker": ["stable_diffusion", "X"]})
    (tmp_path / "words.txt").write_text("circle")
    assert not safety_checker.needs_one(tmp_path, {})


def test_no_more_is_fetched_than_the_checker() -> None:
    """Of a whole pipeline its half-precision checker and no other weights; never a pickle."""
    pipeline = ["model_index.json", "unet/model.fp16.safetensors", "feature_extractor/preprocessor_config.json"]
    pipeline += [f"safety_checker/{name}" for name in ("config.json", "model.safetensors", "model.fp16.safetensors")]
    assert safety_checker._wanted(pipeline) == [
        "safety_checker/model.fp16.safetensors",
        "safety_checker/config.json",
        "feature_extractor/preprocessor_config.json",
    ]
    assert safety_checker._wanted(["config.json", "model.safetensors"]) == ["model.safetensors", "config.json"]
    assert safety_checker._wanted(["safety_checker/pytorch_model.bin"]) == []


def test_a_missing_package_is_told_and_crashes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine without torch draws on and says what is missing, unless a checker was named: then it does not draw."""
    for name in ("torch", "transformers", "diffusers"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    monkeypatch.setattr(safety_checker, "_downloaded", lambda model, report: tmp_path)
    checker, notice = safety_checker.load_for(EngineConfig(public_page=True), tmp_path, {}, print)
    assert checker is None
    assert "not installed" in notice
    assert "SAFETY_CHECKER_MODEL=none" in notice
    with pytest.raises(ModelLoadError, match="not installed"):
        safety_checker.load_for(EngineConfig(safety_checker_model=str(tmp_path)), tmp_path, {}, print)


def test_a_folder_of_ones_own_is_drawn_where_no_hub_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the usual checker such a model draws on, and the maintainer reads that; a model of the hub does not, nor
    one for which a checker was named.
    """

    def away(model: str, report: Any) -> Path:
        raise ModelLoadError("the hub does not answer")

    monkeypatch.setattr(safety_checker, "_downloaded", away)
    mine = EngineConfig(engine="diffusers", model_id=str(tmp_path), public_page=True)
    folder, notice = safety_checker.fetch_for(mine, tmp_path, {}, print)
    assert folder is None
    assert "nobody checks" in notice
    assert "the hub does not answer" in notice
    for told in ({"model_id": "owner/model"}, {"safety_checker_model": "owner/checker"}):
        with pytest.raises(ModelLoadError, match="the hub does not answer"):
            safety_checker.fetch_for(mine.model_copy(update=told), tmp_path, {}, print)


class Dislikes(safety_checker.SafetyChecker):
    """Finds bright pictures unfit."""

    def __init__(self) -> None:
        super().__init__(None, None, "cpu")

    def is_unfit(self, pixels: Any) -> bool:
        return bool(pixels.mean() > 127)


def test_an_unfit_picture_comes_out_black() -> None:
    """The others of the same drawing are as they were, and each is told; unasked, nothing changes."""
    drawn = Drawn(1, tuple(RawImage(2, 2, bytes([value] * 12)) for value in (10, 200)), 1.0)
    checked = safety_checker.checked(drawn, Dislikes(), wanted=True)
    assert [image.rgb[0] for image in checked.images] == [10, 0]
    assert checked.nsfw == (False, True)
    assert safety_checker.checked(drawn, Dislikes(), wanted=False) is drawn
    assert safety_checker.checked(drawn, None, wanted=True) is drawn
