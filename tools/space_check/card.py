"""The card of a Space, the YAML at the top of README.md: which fields it may have, and what is wrong with ours."""

import tomllib
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml  # type: ignore[import-untyped]
from huggingface_hub import SpaceHardware, SpaceStorage, metadata_load
from packaging.specifiers import SpecifierSet
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tools.space_check.install import pinned_requirements


def _only_emoji(text: str) -> str:
    if not all(unicodedata.category(character) in {"So", "Sk", "Mn", "Me", "Cf"} for character in text):
        raise ValueError("not an emoji")
    return text


_Colour = Literal["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
_Id = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
_COLOUR = Field(description="red, yellow, green, blue, indigo, purple, pink or gray")
_FLAG = Field(default=False, description="true or false, without quotes")
_IDS: Any = Field(default=[], description='a list of ids, each on a line of its own behind "- "')
_TEXTS: Any = Field(default=[], description='a list of texts, each on a line of its own behind "- "')


class Card(BaseModel):
    """The fields of a Gradio Space's card. A field's description says what to write there.

    Source: https://huggingface.co/docs/hub/spaces-config-reference
    """

    model_config = ConfigDict(strict=True, extra="allow")

    title: str = Field(min_length=1, description="the name of the Space")
    emoji: Annotated[str, AfterValidator(_only_emoji)] = Field(min_length=1, max_length=10, description="one emoji")
    colorFrom: _Colour = _COLOUR
    colorTo: _Colour = _COLOUR
    sdk: Literal["gradio"] = Field(description="gradio")
    sdk_version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="gradio's version in requirements.txt, in quotes")
    python_version: str = Field(pattern=r"^3\.\d+(\.\d+)?$", description='a version in quotes, such as "3.11"')
    app_file: str = Field(min_length=1, description="the path of the program that serves the page")
    short_description: str = Field(default="", max_length=60, description="one line of at most 60 characters")
    license: str = Field(default="", pattern=r"^[a-z0-9.+-]+$", description="the hub's id of it, such as apache-2.0")
    pinned: bool = _FLAG
    models: list[_Id] = _IDS
    datasets: list[_Id] = _IDS
    tags: list[str] = _TEXTS
    suggested_hardware: Annotated[SpaceHardware, Field(strict=False)] = Field(
        default=SpaceHardware.CPU_BASIC, description=f"one of {', '.join(SpaceHardware)}"
    )
    suggested_storage: Annotated[SpaceStorage, Field(strict=False)] = Field(
        default=SpaceStorage.SMALL, description=f"one of {', '.join(SpaceStorage)}"
    )
    startup_duration_timeout: str = Field(default="", pattern=r"^\d+[smhd]$", description="a time such as 30m or 1h")
    header: Literal["default", "mini"] = Field(default="default", description="default or mini")
    base_path: str = Field(default="", pattern=r"^/", description="a path that begins with /")
    thumbnail: str = Field(default="", description="the address of a picture")
    preload_from_hub: list[str] = _TEXTS
    custom_headers: dict[str, str] = Field(default={}, description="names of headers with a text each")
    fullWidth: bool = _FLAG
    disable_embedding: bool = _FLAG
    hf_oauth: bool = _FLAG
    hf_oauth_scopes: list[str] = _TEXTS
    hf_oauth_expiration_minutes: int = Field(default=480, le=43_200, description="a number of minutes up to 43200")


def read_card(root: Path) -> tuple[Card | None, list[str]]:
    """Returns the card without its faulty fields, None if one of those is required, and the faults."""
    try:
        fields = metadata_load(root / "README.md")
    except (OSError, ValueError, yaml.YAMLError) as error:
        return None, [f"README.md: the card cannot be read ({' '.join(str(error).split())}): write it as valid YAML"]
    if not fields:
        return None, ["README.md: it has no card: write `name: value` lines between two lines of --- at the very top"]
    try:
        return Card.model_validate(fields), []
    except ValidationError as error:
        faulty = {str(fault["loc"][0]): fault["type"] for fault in error.errors()}
    faults = [_field_fault(name, kind, fields) for name, kind in faulty.items()]
    try:
        return Card.model_validate({name: value for name, value in fields.items() if name not in faulty}), faults
    except ValidationError:
        return None, faults


def _field_fault(name: str, kind: str, fields: dict[str, Any]) -> str:
    value = fields.get(name)
    if value is None:
        stands = "is empty" if name in fields else "is missing"
    elif kind == "string_too_long":
        stands = f"is {value!r}, {len(value)} characters"
    elif kind.endswith("_type") and not isinstance(value, list | dict):
        stands = f"is {value!r}, which is of type {type(value).__name__}"
    else:
        stands = f"is {value!r}"
    return f"README.md: {name} {stands}: write {Card.model_fields[name].description}"


def disagreements(card: Card, root: Path, tracked: list[Path]) -> list[str]:
    """Returns where the card does not agree with the rest of the repository."""
    faults = []
    pin = pinned_requirements(root).get("gradio")
    if pin is None or str(pin.specifier) != f"=={card.sdk_version}":
        faults.append(
            f"README.md: sdk_version is {card.sdk_version}, but requirements.txt has {pin or 'no gradio'}: "
            "write the same version into both"
        )
    if root / card.app_file not in tracked:
        faults.append(
            f"README.md: app_file is {card.app_file!r}, which git does not track: write app.py, or add the file"
        )
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    if card.python_version not in SpecifierSet(wanted):
        faults.append(
            f"README.md: python_version is {card.python_version}, but pyproject.toml has requires-python {wanted!r}: "
            "write a version that it allows"
        )
    return faults


def unknown_fields(card: Card) -> list[str]:
    """Returns a warning for every field that Spaces do not know."""
    return [f"README.md: {name} is no field that a Gradio Space knows" for name in card.model_extra or {}]
