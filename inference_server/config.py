"""The server's configuration: `endpoint.json` over the environment (as baked into an image), and the command line.

| key of endpoint.json | environment |
|---|---|
| `engine`, `device` | `INFERENCE_ENGINE`, `INFERENCE_DEVICE` |
| `idle_engine_s`, `max_gpu_minutes_per_day` | `IDLE_ENGINE_S`, `MAX_GPU_MINUTES_PER_DAY` |
| any other of `EngineConfig` | the same in capitals: `MODEL_ID`, `MAX_BATCH`, ... |
| any other of `InferenceConfig` | none |
"""

import argparse
import difflib
import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from inference_server.engine_config import DEMO_MODEL_NAME, Device, EngineConfig, EngineName, NonEmpty
from inference_server.json_model import Float, wrong_values
from inference_server.limits import Limits, LimitsOverride
from inference_server.space import Space, space_of


class ConfigError(Exception):
    """The server cannot start like this; the text says what to change and shows no secret."""


def _bearer(value: SecretStr) -> SecretStr:
    """Without white space around it (a file written by hand may end it with a line break): no header carries that."""
    text = value.get_secret_value().strip()
    if not text:
        raise ValueError("is empty; leave it out for an open server")
    if not all(" " <= character <= "~" for character in text):
        raise ValueError("holds more than printable ASCII, which no client can send in a header; take another one")
    return SecretStr(text)


Seconds = Annotated[Float, Field(ge=0, le=10**8)]
Minutes = Annotated[Float, Field(gt=0, le=24 * 60)]  # of a day
WORKER_IDLE_ENGINE_S = 300.0
LOCAL = "local"  # the deployment of a page that draws with its own machine


class InferenceConfig(EngineConfig):
    """Everything that the server was told, by the keys of endpoint.json."""

    bearer: Annotated[SecretStr, AfterValidator(_bearer)] | None = None
    tls_key: SecretStr | None = None  # PEM text
    tls_certificate: str | None = Field(default=None, repr=False)  # PEM text
    deployment: str | None = None
    fingerprint: str | None = None
    idle_engine_s: Seconds = 0  # 0: the engine never sleeps
    idle_exit_s: Seconds = 0  # 0: the server never ends by itself
    max_gpu_minutes_per_day: Minutes | None = None  # in which the engine loads or draws; None: no bound
    limits: LimitsOverride = LimitsOverride()
    lenient: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.engine == "openvino" and self.device == "cuda":
            raise ValueError("the engine openvino draws on the CPU; for the device cuda take the engine diffusers")
        if self.engine == "openvino" and (self.model_file or self.loras):
            raise ValueError("model_file and loras need the engine diffusers (INFERENCE_ENGINE)")
        if (self.tls_key is None) != (self.tls_certificate is None):
            raise ValueError("one of tls_key and tls_certificate is missing; give both, or none for plain HTTP")
        self.limits.over(Limits())
        return self

    @property
    def model_name(self) -> str:
        """What the wire calls the model."""
        return self.model_id or self.model_file or DEMO_MODEL_NAME

    @property
    def engine_config(self) -> EngineConfig:
        """The part for the engine process."""
        return EngineConfig.model_construct(**{name: getattr(self, name) for name in EngineConfig.model_fields})


def _user_cache() -> str | None:
    """A folder in the user's cache; None for a user without a home.

    Source: https://specifications.freedesktop.org/basedir-spec (XDG_CACHE_HOME)
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # pathlib's raises where there is none
    return os.fspath(Path(base) / "inference_server" / "compiled") if Path(base).is_absolute() else None


class _Environment(EngineConfig, BaseSettings):
    """The engine's part as the environment has it, where numbers are text and a blank variable is none."""

    model_config = SettingsConfigDict(strict=False, extra="ignore", enable_decoding=False)

    engine: EngineName = Field(default="openvino", validation_alias="INFERENCE_ENGINE")
    device: Device | None = Field(default=None, validation_alias="INFERENCE_DEVICE")
    compile_cache: NonEmpty | None = Field(default_factory=_user_cache)
    idle_engine_s: Seconds | None = None
    max_gpu_minutes_per_day: Minutes | None = None

    @model_validator(mode="before")
    @classmethod
    def _blank_is_left_out(cls, values: dict[str, str]) -> dict[str, str]:
        return {name: text.strip() for name, text in values.items() if text.strip()}


@dataclass(frozen=True)
class CommandLine:
    """What the server was started with, checked."""

    host: str
    port: int
    config: InferenceConfig
    space: Space | None = None  # to connect to, instead of listening


def from_command_line(arguments: Sequence[str]) -> CommandLine:
    """Reads the file of `--config` and the environment. Exits with 2 on a wrong command line.

    Raises: ConfigError, which names the wrong key, what stood there (unless it may be secret) and what is right.
    """
    options = _parser().parse_args(arguments)
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port {options.port} is no port; from 1 to 65535, or 0 for a free one.")
    config = read_config(options.config)
    try:
        space = space_of(options.connect, os.environ)
    except ValueError as exc:
        raise ConfigError(str(exc)) from None
    if not space and not config.bearer and not options.open and not is_loopback(options.host):
        raise ConfigError(
            f"Without a bearer anyone who reaches {options.host} could draw here. Give one in the file of --config, "
            "listen on 127.0.0.1, or say --open if this is meant."
        )
    if space and "idle_engine_s" not in config.model_fields_set:  # a GPU at home is its owner's when nobody draws
        config = config.model_copy(update={"idle_engine_s": WORKER_IDLE_ENGINE_S})
    if config.public_page is None and (space or config.deployment not in (None, LOCAL)):
        config = config.model_copy(update={"public_page": True})
    if options.lenient:
        config = config.model_copy(update={"lenient": True})
    return CommandLine(options.host, options.port, config, space)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference_server",
        description="Draws pictures over HTTP.",
        epilog="For the owner of this machine: pause [--for 2h], resume, status; each has its own --help.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 = a free one (default %(default)s)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="endpoint.json: bearer, TLS, model, idle times, ..."
    )
    parser.add_argument(
        "--open", action="store_true", help="no bearer, and reachable from other machines: anyone draws"
    )
    parser.add_argument(
        "--connect", metavar="URL", help="dial this Space instead of listening (or SPACE=owner/name); needs WORKER_KEY"
    )
    parser.add_argument("--lenient", action="store_true", help="serve the nearest instead of refusing")
    return parser


def read_config(path: Path | None = None) -> InferenceConfig:
    """The file's keys over the environment's. Raises: ConfigError."""
    file = _read_file(path) if path is not None else {}
    try:
        environment = _Environment().model_dump(exclude_none=True)
    except ValidationError as exc:
        raise ConfigError(f"The environment is wrong: {_told(exc, str.upper)}") from None
    try:
        return InferenceConfig.model_validate({**environment, **file})
    except ValidationError as exc:
        where = "The configuration" if path is None else f"The configuration {os.fspath(path)!r}"
        raise ConfigError(f"{where} is wrong: {_told(exc)}") from None


def _read_file(path: Path) -> dict[str, Any]:
    """Without the keys that are null, so that the environment's value holds."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The configuration {os.fspath(path)!r} cannot be read: {type(exc).__name__}") from exc
    except (ValueError, RecursionError):
        raise ConfigError(f"The configuration {os.fspath(path)!r} is wrong: it is no JSON") from None
    if not isinstance(content, dict):
        raise ConfigError(f"The configuration {os.fspath(path)!r} is wrong: it is no JSON object")
    return {key: one for key, one in content.items() if one is not None or key not in InferenceConfig.model_fields}


_MAY_BE_SECRET = ("bearer", "tls_key", "tls_certificate")


def _told(exc: ValidationError, as_written: Any = str) -> str:
    """Each wrong value: its name, what stood there, what is right."""
    rows = []
    for name, right, details in wrong_values(exc):
        stood = details["input"]
        if details["type"] == "extra_forbidden":
            keys = LimitsOverride.model_fields if name.startswith("limits.") else InferenceConfig.model_fields
            near = difflib.get_close_matches(name.removeprefix("limits."), keys, 1) or sorted(keys)
            rows.append(f"{name[:100]!a} is no key; there is {', '.join(near)}")
        elif not name:
            rows.append(right)
        elif name in _MAY_BE_SECRET or not isinstance(stood, str | int | float):
            rows.append(f"{as_written(name)}: {right}")
        else:
            rows.append(f"{as_written(name)} is {ascii(stood)[:100]}: {right}")
    return "; ".join(rows)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a socket bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
