"""LoRAs by name: what the maintainer names (`LORAS`, `loras` of endpoint.json), and what a request asks for.

The text form is `name=source[:weight], ...`; a source is a file, `owner/repo` of the hub or `owner/repo/file`:
`pixel=nerijs/pixel-art-xl:0.8, detail=/models/detail.safetensors`. In endpoint.json the same text, or a list of objects
`{"name": "pixel", "source": "nerijs/pixel-art-xl", "weight": 0.8}`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from inference_server.json_model import Float, JsonModel

MAX_WEIGHT = 10.0
_FORM = "name=file, name=owner/repo or name=owner/repo/file.safetensors, each with :weight at its end if you like"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Weight = Annotated[Float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]
Selection = tuple[tuple[str, float], ...]  # names with their strengths, by name; (): none


class Lora(JsonModel):
    """One that the maintainer offers; `weight` is what a request gets that names no strength."""

    name: Name
    source: Annotated[str, Field(min_length=1)]
    weight: Weight = 1.0


def read_offer(value: Any) -> Any:
    """The text form, or a list of objects -> what pydantic makes `Lora`s of. Raises: ValueError."""
    if isinstance(value, str):
        value = [_entry(text.strip()) for text in re.split(r"[,\n]", value) if text.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of objects with name, source and weight, or text: {_FORM}")  # noqa: TRY004
    names = [one.get("name") if isinstance(one, Mapping) else getattr(one, "name", None) for one in value]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the name {name!a} is given twice")
    return tuple(value)


def _entry(text: str) -> dict[str, Any]:
    name, is_named, source = (part.strip() for part in text.partition("="))
    if not is_named or not source:
        raise ValueError(f"{text[:100]!a} is no LoRA; write {_FORM}")
    rest, _, weight = source.rpartition(":")
    if rest and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", weight.strip()):
        return {"name": name, "source": rest.strip(), "weight": float(weight)}
    return {"name": name, "source": source}


def read_request(value: Any) -> Any:
    """`{"name": strength}`, a list of names or of `{"name", "weight"}` -> name -> strength; None: the default.

    Raises: ValueError.
    """
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        named: dict[str, Any] = {}
        for one in value:
            entry = {"name": one} if isinstance(one, str) else one
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise ValueError('must be {"name": strength}, or a list of names or of {"name", "weight"}')  # noqa: TRY004
            named[entry["name"]] = entry.get("weight")
        return named
    return value
