"""What the fields offer, from what the inference server can do: sizes, schedulers, and hints for numbers."""

import json
import re
from collections.abc import Iterable
from html import escape

from drawing.models import SEED_MAX, Limits, Range
from drawing.status import BackendStatus
from errors import InvalidRequestError
from page.language import ENGLISH, Words

# name, width and height as parts of the longer side
_SHAPES = (("square", 1.0, 1.0), ("portrait", 0.75, 1.0), ("landscape", 1.0, 0.75))
_SIDES_PX = (64, 128, 256, 512, 768, 1024, 1536, 2048)
_SIZE = re.compile(r"\s*([0-9]{1,5})\s*[xX×*]\s*([0-9]{1,5})\s*(?:px)?\s*")  # noqa: RUF001  as sizes are often typed
_SIZE_CHARS = 40  # the expression takes the square of its spaces
_FROM_THE_DEFAULT = 0.5, 2.0  # sides that are offered, as parts of the default's


def limited(parameters: Iterable[str]) -> list[str]:
    """Those of these parameters that the server tells a range for."""
    return [name for name in parameters if isinstance(getattr(Limits(), name, None), Range)]


def number_field(status: BackendStatus, name: str, words: Words = ENGLISH) -> dict[str, str]:
    """The placeholder and info of the field for one limited number: the server's default, and its range."""
    span, default = getattr(status.limits, name), getattr(status.defaults, name, None)
    return {
        "placeholder": words["models_own_number"] if default is None else words.number(default),
        "info": words("number_range", least=words.number(span.min), most=words.number(span.max)),
    }


def sizes(status: BackendStatus, words: Words = ENGLISH) -> list[tuple[str, str]]:
    """The sizes on offer, each a label and a value such as "512x384"; the first, "", is the model's own choice."""
    defaults = status.defaults
    label = words["models_own_size"]
    if defaults.width and defaults.height:
        label = words("models_own_size_px", width=defaults.width, height=defaults.height)
    offered = [(label, "")]
    usual = max(defaults.width or 512, defaults.height or 512)
    for side in sorted({*_SIDES_PX, usual}):
        if not _FROM_THE_DEFAULT[0] <= side / usual <= _FROM_THE_DEFAULT[1]:
            continue
        for name, across, down in _SHAPES:
            width, height = int(side * across), int(side * down)
            if (width, height) != (defaults.width, defaults.height) and _fits(status.limits, width, height):
                offered.append((f"{words[name]} {width} × {height}", f"{width}x{height}"))  # noqa: RUF001
    return offered


def schedulers(status: BackendStatus, words: Words = ENGLISH) -> list[tuple[str, str]]:
    """The schedulers on offer, each a label and a name that the server takes; the first, "", is the model's own.

    The names that people know come first; a server tells those behind diffusers' class names.
    """
    own = status.defaults.scheduler
    named = sorted(status.limits.schedulers, key=lambda name: name.endswith("Scheduler"))
    label = words("models_own_scheduler_named", name=own) if own else words["models_own_scheduler"]
    return [(label, ""), *((name, name) for name in named)]


def offer_html(status: BackendStatus) -> str:
    """What the page's scripts know of the model, as JSON in an attribute: `limits`, `own` (its defaults), and whether
    they are the model's at all (`is_known`).
    """
    limits = {**status.limits.model_dump(mode="json"), "seed": {"min": 0, "max": SEED_MAX}}
    own = status.defaults.model_dump(mode="json")
    told = json.dumps({"limits": limits, "own": own, "is_known": status.model is not None}, ensure_ascii=False)
    return f'<div data-offer="{escape(told)}"></div>'


def parse_size(value: object) -> tuple[int | None, int | None]:
    """Width and height in pixels of a chosen size such as "512x384"; (None, None): the model's own choice.

    Raises: InvalidRequestError for anything else.
    """
    if not value:
        return None, None
    typed = _SIZE.fullmatch(str(value)[:_SIZE_CHARS])
    if typed is None:
        error = InvalidRequestError("The size must be width x height in pixels, such as 512x512.")
        error.parameter = "width"
        raise error
    return int(typed[1]), int(typed[2])


def shapes(status: BackendStatus, words: Words = ENGLISH) -> list[tuple[str, str]]:
    """The sizes for one touch, labels and values as in `sizes`: square, portrait and landscape near the model's."""
    defaults, offered = status.defaults, {value for _, value in sizes(status)}
    usual = max(defaults.width or 512, defaults.height or 512)
    chosen = []
    for name, across, down in _SHAPES:
        width, height = int(usual * across), int(usual * down)
        is_own = (width, height) == (defaults.width or usual, defaults.height or usual)
        value = "" if is_own else f"{width}x{height}"
        if value in offered:
            chosen.append((words[name], value))
    return chosen


def _fits(limits: Limits, width: int, height: int) -> bool:
    try:
        limits.width.check("width", width)
        limits.height.check("height", height)
    except InvalidRequestError:
        return False
    return True
