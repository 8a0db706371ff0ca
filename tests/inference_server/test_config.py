"""The inference server's settings: read from endpoint.json and the environment, checked, and handed on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inference_server.config import ConfigError, InferenceConfig, from_command_line
from inference_server.engine_config import EngineConfig
from inference_server.limits import Limits, LimitsOverride
from tests.support.inference_front_door import FrontDoor, serve


def load(tmp_path: Path, environment: Mapping[str, str], keys: Mapping[str, Any] | None = None) -> EngineConfig:
    """What the engine process is told for this environment and these keys of endpoint.json."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        return endpoint(tmp_path, keys or {}).engine_config


def endpoint(tmp_path: Path, keys: Mapping[str, Any]) -> InferenceConfig:
    """An endpoint.json of these keys, read."""
    path = tmp_path / "endpoint.json"
    path.write_text(json.dumps(keys))
    return from_command_line(["--config", str(path)]).config


def test_without_settings_the_engine_decides(tmp_path: Path) -> None:
    """Device and sizes are left to the engine; what is compiled is kept in the user's cache."""
    told = load(tmp_path, {"XDG_CACHE_HOME": "/cache"})
    assert (told.engine, told.device, told.max_batch, told.compile_sizes) == ("openvino", None, 16, None)
    assert told.compile_cache == "/cache/inference_server/compiled"
    assert load(tmp_path, {"XDG_CACHE_HOME": "no/absolute/path"}).compile_cache is None


def test_the_environment_sets_all_four_and_the_file_wins(tmp_path: Path) -> None:
    """Each setting is taken from the environment, and from the file where it is in both."""
    environment = {
        "INFERENCE_ENGINE": "diffusers",
        "INFERENCE_DEVICE": "cpu",
        "MAX_BATCH": "4",
        "COMPILE_CACHE": "/kept",
        "COMPILE_SIZES": "512x512, 768x512",
    }
    told = load(tmp_path, environment)
    assert (told.device, told.max_batch, told.compile_cache) == ("cpu", 4, "/kept")
    assert told.compile_sizes == ((512, 512), (768, 512))
    keys = {"device": "cuda", "max_batch": 2, "compile_cache": "/other", "compile_sizes": []}
    told = load(tmp_path, environment, keys)
    assert told == EngineConfig(
        engine="diffusers", device="cuda", max_batch=2, compile_cache="/other", compile_sizes=()
    )


@pytest.mark.parametrize(("text", "sizes"), [("none", ()), ("", None), ("640X448", ((640, 448),))])
def test_nothing_may_be_compiled_or_only_what_is_listed(
    tmp_path: Path, text: str, sizes: tuple[tuple[int, int], ...] | None
) -> None:
    """`none` compiles nothing, an empty variable is as good as none, sizes go width first."""
    assert load(tmp_path, {"COMPILE_SIZES": text}).compile_sizes == sizes


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("INFERENCE_DEVICE", "gpu"),
        ("MAX_BATCH", "0"),
        ("MAX_BATCH", "17"),
        ("MAX_BATCH", "many"),
        ("COMPILE_SIZES", "512"),
        ("COMPILE_SIZES", "512x"),
        ("COMPILE_SIZES", "500x500"),
        ("COMPILE_SIZES", "512x512,9999x64"),
    ],
)
def test_a_malformed_variable_is_refused_by_name(tmp_path: Path, variable: str, value: str) -> None:
    """The server does not start on a guess: the error names the variable."""
    with pytest.raises(ConfigError, match=variable):
        load(tmp_path, {variable: value})


@pytest.mark.parametrize("keys", [{"device": "tpu"}, {"max_batch": 1.5}, {"compile_sizes": 512}, {"compile_cache": ""}])
def test_a_malformed_key_is_refused_by_name(tmp_path: Path, keys: dict[str, Any]) -> None:
    """The same for a key of endpoint.json."""
    with pytest.raises(ConfigError, match=next(iter(keys))):
        load(tmp_path, {}, keys)


def test_openvino_is_not_asked_for_cuda(tmp_path: Path) -> None:
    """The engine that draws on the CPU alone says so at the start."""
    with pytest.raises(ConfigError, match="diffusers"):
        load(tmp_path, {"INFERENCE_DEVICE": "cuda"})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"max_batch": 17}, "max_batch is 17: .*equal to 16"),
        ({"engine": "another"}, "engine is 'another': Engines: diffusers, openvino"),
        ({"idle_engin_s": 5}, "'idle_engin_s' is no key; there is idle_engine_s"),
        ({"limits": {"widht": {"max": 1}}}, "'limits.widht' is no key; there is width"),
        ({"something": 5}, "'something' is no key; there is bearer, .*tls_key"),
    ],
)
def test_an_error_says_what_stood_there_and_what_is_right(tmp_path: Path, keys: dict[str, Any], told: str) -> None:
    """Its author can mend the file by that line alone."""
    with pytest.raises(ConfigError, match=told):
        endpoint(tmp_path, keys)


@pytest.mark.parametrize("keys", [{"bearer": "geheim\0"}, {"baerer": "geheim"}, {"tls_key": "geheim"}])
def test_an_error_shows_no_secret(tmp_path: Path, keys: dict[str, Any]) -> None:
    """Not even under a misspelt key, or one of a pair."""
    with pytest.raises(ConfigError, match=r"bearer|tls_key") as refused:
        endpoint(tmp_path, keys)
    assert "geheim" not in str(refused.value)


def test_the_engine_process_is_told_no_secret(tmp_path: Path) -> None:
    """It gets all settings of an engine, and none of the server's own."""
    config = endpoint(tmp_path, {"bearer": "b", "model_id": "m", "deployment": "d"})
    assert set(config.engine_config.model_dump()) == set(EngineConfig.model_fields)
    assert config.engine_config == EngineConfig(
        model_id="m", compile_cache=config.compile_cache, public_page=config.public_page
    )


def test_null_is_as_good_as_left_out(tmp_path: Path) -> None:
    """Every optional key, and every entry of the limits, may be null: its default holds."""
    left_out = endpoint(tmp_path, {})
    assert endpoint(tmp_path, dict.fromkeys(InferenceConfig.model_fields)) == left_out
    limits = {**dict.fromkeys(LimitsOverride.model_fields), "width": {"min": None, "max": None}}
    assert endpoint(tmp_path, {"limits": limits}).limits.over(Limits()) == Limits()
    with pytest.raises(ConfigError, match="nonsense"):
        endpoint(tmp_path, {"nonsense": None})


@pytest.mark.parametrize(
    "keys",
    [
        {"idle_engine_s": "5"},
        {"idle_engine_s": True},
        {"idle_engine_s": float("nan")},
        {"idle_exit_s": "300"},
        {"idle_exit_s": False},
        {"idle_exit_s": [5]},
        {"lenient": "yes"},
        {"lenient": 1},
        {"max_batch": "4"},
        {"max_batch": True},
        {"limits": {"width": {"max": "128"}}},
        {"limits": {"guidance_scale": {"max": True}}},
        {"limits": {"waiting_requests": {"max": -1}}},
        {"limits": {"num_inference_steps": {"max": 0}}},
        {"limits": {"num_images_per_prompt": {"max": 0}}},
        {"limits": 5},
    ],
)
def test_a_value_of_another_type_is_refused_by_name(tmp_path: Path, keys: dict[str, Any]) -> None:
    """Text, true and false pass for no number and no number for true; limits that let nothing pass are refused too."""
    [(name, value)] = keys.items()
    named = f"limits.{next(iter(value))}" if isinstance(value, dict) else name
    with pytest.raises(ConfigError, match=named) as refused:
        endpoint(tmp_path, keys)
    assert "Value error" not in str(refused.value)


@pytest.mark.parametrize("text", [" ab c\n", "ab c", "\tab c\r\n"])
def test_white_space_around_a_bearer_is_none_of_it(tmp_path: Path, text: str) -> None:
    """A file written by hand may end the bearer with a line break; no header could carry that."""

    def visit(door: FrontDoor) -> None:
        assert door.ask("GET", "/metrics").status_code == 200
        assert door.ask("GET", "/metrics", headers={"Authorization": "Bearer abc"}).status_code == 401

    serve(tmp_path, {"bearer": text}, visit, bearer="ab c")


@pytest.mark.parametrize("text", ["", " ", "\n", "geheimer-schlüssel", "geheim\nnis", "geheim\0nis", "geheim\x7fnis"])
def test_a_bearer_that_no_client_can_send_is_refused(tmp_path: Path, text: str) -> None:
    """The server does not start with one that no request could match; the error shows nothing of it."""
    with pytest.raises(ConfigError, match="bearer") as refused:
        endpoint(tmp_path, {"bearer": text})
    assert "geheim" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Some editors write one before UTF-8."""
    path = tmp_path / "endpoint.json"
    path.write_bytes(b'\xef\xbb\xbf{"deployment": "mine"}')
    assert from_command_line(["--config", str(path)]).config.deployment == "mine"
