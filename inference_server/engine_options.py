"""How an engine uses its device: four settings, each a key of endpoint.json and a variable of the environment.

| key | environment | |
|---|---|---|
| `device` | `INFERENCE_DEVICE` | `cuda` or `cpu`; otherwise what the engine finds |
| `max_batch` | `MAX_BATCH` | at most so many images side by side, 1 to 16 |
| `compile_cache` | `COMPILE_CACHE` | folder that keeps what was compiled; otherwise one in the user's cache |
| `compile_sizes` | `COMPILE_SIZES` | sizes to compile for, `512x512,768x512` or `none`; otherwise the model's own |
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_BATCH = 16
SIDE_MIN_PX, SIDE_MAX_PX, SIDE_MULTIPLE_PX = 64, 4096, 8
VARIABLES = {
    "device": "INFERENCE_DEVICE",
    "max_batch": "MAX_BATCH",
    "compile_cache": "COMPILE_CACHE",
    "compile_sizes": "COMPILE_SIZES",
}


def _sizes(value: Any) -> Any:
    """`"512x512,768x512"`, `"none"` or a list of such sizes -> pairs (width, height) in px."""
    if isinstance(value, str):
        value = [] if value.strip().lower() == "none" else value.split(",")
    if not isinstance(value, list | tuple):
        raise ValueError('must be a list of sizes such as ["512x512"], or "none"')  # noqa: TRY004 (pydantic's to turn)
    return tuple(dict.fromkeys(_size(one) for one in value))


def _size(text: Any) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", text) if isinstance(text, str) else None
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(SIDE_MIN_PX <= side <= SIDE_MAX_PX and side % SIDE_MULTIPLE_PX == 0 for side in sides):
        raise ValueError(
            f"each size is width x height in px, such as 512x512: from {SIDE_MIN_PX} to {SIDE_MAX_PX} "
            f"in multiples of {SIDE_MULTIPLE_PX}"
        )
    return sides


class EngineOptions(BaseModel):
    """The four settings; None: not said."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    device: Literal["cuda", "cpu"] | None = None
    max_batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] | None = None
    compile_cache: Annotated[str, Field(min_length=1)] | None = None
    compile_sizes: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_sizes)] | None = None  # (width, height) px

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """An empty variable is as good as none. Raises: pydantic.ValidationError."""
        given = {key: environment.get(variable, "").strip() for key, variable in VARIABLES.items()}
        return cls.model_validate({key: value for key, value in given.items() if value})


def default_compile_cache(environment: Mapping[str, str]) -> str | None:
    """A folder in the user's cache; None for a user without a home.

    Source: https://specifications.freedesktop.org/basedir-spec (XDG_CACHE_HOME)
    """
    base = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # pathlib's raises where there is none
    return os.fspath(Path(base) / "inference_server" / "compiled") if Path(base).is_absolute() else None
