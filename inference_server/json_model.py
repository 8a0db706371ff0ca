"""Strict pydantic models of JSON objects, and a plain sentence for each wrong value.

Text and `true` are no numbers; `null` counts as left out.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 20.0 and 1e308 are integers too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_larger_than_floats(value: Any) -> Any:
    """An integer that no float can hold becomes the largest float, which a bound refuses in its own words."""
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return sys.float_info.max if value > 0 else -sys.float_info.max
    return value


def without_null(value: Any) -> Any:
    """An object without its entries that are null; anything else as it is."""
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, Mapping) else value


Int = Annotated[int, BeforeValidator(_whole)]
Float = Annotated[float, BeforeValidator(_no_larger_than_floats)]


class JsonModel(BaseModel):
    """Frozen and strict; an unknown key is refused, even if it is null."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: one for key, one in value.items() if one is not None or key not in cls.model_fields}


def wrong_values(exc: ValidationError) -> Iterator[tuple[str, str, ErrorDetails]]:
    """For each wrong value its name (`width.max`), what is right, and pydantic's own details."""
    for row in exc.errors(include_url=False):
        yield ".".join(map(str, row["loc"])), row["msg"].removeprefix("Value error, "), row
