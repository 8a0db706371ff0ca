"""The server's configuration: command line, environment (as baked into an image), `endpoint.json` (which wins).

The file's content is secret: no error and no repr shows a value of it.
"""

import argparse
import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    ValidationError,
    model_validator,
)

from inference_server.engine_options import MAX_BATCH, VARIABLES, EngineOptions, default_compile_cache
from inference_server.engines import DEMO_MODEL_NAME, ENGINES
from inference_server.limits import Limits, LimitsOverride
from inference_server.messages import Load
from inference_server.strict_json import Float, Int, without_null

Seconds = Annotated[Float, Field(ge=0, le=10**8)]


class ConfigError(Exception):
    """The server cannot start like this; the text says what to change and shows no value of the file."""


def _bearer(value: SecretStr) -> SecretStr:
    """Without white space around it (a file written by hand may end it with a line break): no header carries that."""
    text = value.get_secret_value().strip()
    if not text:
        raise ValueError("is empty; leave it out for an open server")
    if not all(" " <= character <= "~" for character in text):
        raise ValueError("holds more than printable ASCII, which no client can send in a header; take another one")
    return SecretStr(text)


class EndpointConfig(EngineOptions):
    """`endpoint.json`, every key optional; null is as good as left out."""

    bearer: Annotated[SecretStr, AfterValidator(_bearer)] | None = None
    tls_key: SecretStr | None = None  # PEM text
    tls_certificate: str | None = None  # PEM text
    deployment: str | None = None
    fingerprint: str | None = None
    engine: str | None = None
    model_id: str | None = None
    model_revision: str | None = None
    model_precision: str | None = None
    max_batch: Annotated[Int, Field(ge=1, le=MAX_BATCH)] | None = None  # the environment has it as text, a file not
    idle_engine_s: Seconds = 0  # 0: the engine never sleeps
    idle_exit_s: Seconds = 0  # 0: the server never ends by itself
    limits: LimitsOverride = LimitsOverride()
    lenient: StrictBool = False

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        return without_null(value, cls.model_fields)


class ServerConfig(BaseModel):
    """Everything that the server was told, checked."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int
    endpoint: EndpointConfig
    load: Load
    lenient: bool

    @property
    def model_name(self) -> str:
        """What the wire calls the model."""
        return self.load.model_id or DEMO_MODEL_NAME


def from_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """Raises: ConfigError; exits with 2 on a wrong command line."""
    options = _parser().parse_args(arguments)
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port {options.port} is no port; from 1 to 65535, or 0 for a free one.")
    endpoint = read_endpoint(options.config) if options.config else EndpointConfig()
    if not endpoint.bearer and not options.open and not is_loopback(options.host):
        raise ConfigError(
            f"Without a bearer anyone who reaches {options.host} could draw here. Give one in the file of --config, "
            "listen on 127.0.0.1, or say --open if this is meant."
        )
    return ServerConfig(
        host=options.host,
        port=options.port,
        endpoint=endpoint,
        load=_load(endpoint, environment),
        lenient=options.lenient or endpoint.lenient,
    )


def _load(endpoint: EndpointConfig, environment: Mapping[str, str]) -> Load:
    """What the engine process is told: the file's word, else the environment's. Raises: ConfigError."""
    engine = endpoint.engine or environment.get("INFERENCE_ENGINE") or "openvino"
    if engine not in ENGINES:
        raise ConfigError(f"There is no engine {engine!r} here. Engines: {', '.join(sorted(ENGINES))}.")
    options = _engine_options(environment)
    device = endpoint.device or options.device
    if engine == "openvino" and device == "cuda":
        raise ConfigError("The engine openvino draws on the CPU. For cuda take the engine diffusers.")
    sizes = options.compile_sizes if endpoint.compile_sizes is None else endpoint.compile_sizes
    return Load(
        engine=engine,
        model_id=endpoint.model_id or environment.get("MODEL_ID") or None,
        model_revision=endpoint.model_revision or environment.get("MODEL_REVISION") or None,
        model_precision=endpoint.model_precision or environment.get("MODEL_PRECISION") or None,
        device=device,
        max_batch=endpoint.max_batch or options.max_batch or MAX_BATCH,
        compile_cache=endpoint.compile_cache or options.compile_cache or default_compile_cache(environment),
        compile_sizes=sizes,
    )


def _engine_options(environment: Mapping[str, str]) -> EngineOptions:
    try:
        return EngineOptions.from_environment(environment)
    except ValidationError as exc:
        told = "; ".join(f"{VARIABLES[str(row['loc'][0])]}: {_said(row['msg'])}" for row in exc.errors())
        raise ConfigError(f"The environment is wrong: {told}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference_server", description="Draws pictures over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 = a free one (default %(default)s)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="endpoint.json: bearer, TLS, model, idle times, ..."
    )
    parser.add_argument(
        "--open", action="store_true", help="no bearer, and reachable from other machines: anyone draws"
    )
    parser.add_argument("--lenient", action="store_true", help="serve the nearest instead of refusing")
    return parser


def read_endpoint(path: Path) -> EndpointConfig:
    """Raises: ConfigError, naming the bad key but never its value."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The configuration {os.fspath(path)!r} cannot be read: {type(exc).__name__}") from exc
    try:
        endpoint = EndpointConfig.model_validate(json.loads(text))
        endpoint.limits.over(Limits())
    except ValidationError as exc:
        told = "; ".join(
            f"{'.'.join(map(str, row['loc'])) or 'the whole'}: {_said(row['msg'])}" for row in exc.errors()
        )
        raise ConfigError(f"The configuration {os.fspath(path)!r} is wrong: {told}") from None
    except (ValueError, RecursionError) as exc:
        told = str(exc) if str(exc).startswith("limits.") else "it is no JSON"
        raise ConfigError(f"The configuration {os.fspath(path)!r} is wrong: {told}") from None
    if (endpoint.tls_key is None) != (endpoint.tls_certificate is None):
        raise ConfigError(f"The configuration {os.fspath(path)!r} holds one of tls_key and tls_certificate, not both.")
    return endpoint


def _said(message: str) -> str:
    """pydantic's text for an error, without its own word for one of ours."""
    return message.removeprefix("Value error, ")


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a socket bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
