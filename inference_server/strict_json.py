"""JSON's values taken at their word, for pydantic: text and true pass for no number, null is as good as left out.

What is wrong raises ValueError, which pydantic turns into its own error with the value's name.
"""

import math
import sys
from collections.abc import Container, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError("must be a number")  # noqa: TRY004 (pydantic turns this one into its own error)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 20.0 and 1e308 are whole ones. (pydantic's own reading ends at 64 bits.)"""
    value = _number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _any(value: Any) -> Any:
    """A whole number that no float can hold becomes the largest of its sign: the bounds refuse that in their words."""
    value = _number(value)
    too_large = isinstance(value, int) and abs(value) > sys.float_info.max
    return math.copysign(sys.float_info.max, 1 if value > 0 else -1) if too_large else value


def without_null(value: Any, known: Container[str] | None = None) -> Any:
    """An object without its entries that are null, unless their name is not `known`; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    return {key: one for key, one in value.items() if one is not None or (known is not None and key not in known)}


Int = Annotated[int, BeforeValidator(_whole)]
Float = Annotated[float, BeforeValidator(_any), Field(allow_inf_nan=False)]
