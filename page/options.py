"""What "More" offers, from what the inference server can do: sizes, and what stands in the fields."""

from dataclasses import dataclass

from drawing.models import Defaults, Limits, Range
from errors import InvalidRequestError

# name, width and height as parts of the longer side
_SHAPES = (("Square", 1.0, 1.0), ("Portrait", 0.75, 1.0), ("Landscape", 1.0, 0.75))
_SIDES_PX = (64, 128, 256, 512, 768, 1024, 1536, 2048)
_FROM_THE_DEFAULT = 0.5, 2.0  # sides that are offered, as parts of the default's


@dataclass(frozen=True)
class Options:
    """The fields of "More": `sizes` are (label, value) pairs, the first one is the server's own choice (value "")."""

    sizes: tuple[tuple[str, str], ...]
    steps_hint: str
    steps_default: str
    guidance_hint: str
    guidance_default: str

    @classmethod
    def from_server(cls, limits: Limits, defaults: Defaults) -> "Options":
        """From the limits and defaults that the server told, or those that hold until it was asked."""
        return cls(
            sizes=tuple(_sizes(limits, defaults)),
            steps_hint=_span(limits.num_inference_steps),
            steps_default=_default(defaults.num_inference_steps),
            guidance_hint=_span(limits.guidance_scale),
            guidance_default=_default(defaults.guidance_scale),
        )


def parse_size(value: object) -> tuple[int | None, int | None]:
    """Width and height in pixels of a chosen size such as "512x384"; (None, None): the server's own choice.

    Raises: InvalidRequestError for anything else.
    """
    if not value:
        return None, None
    width, cross, height = str(value).partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise InvalidRequestError("The size must be width x height in pixels, such as 512x512.")
    return int(width), int(height)


def _sizes(limits: Limits, defaults: Defaults) -> list[tuple[str, str]]:
    known = defaults.width and defaults.height
    label = f"The model's own ({defaults.width} × {defaults.height})" if known else "The model's own"  # noqa: RUF001
    offered = [(label, "")]
    usual = max(defaults.width or 512, defaults.height or 512)
    for side in sorted({*_SIDES_PX, usual}):
        if not _FROM_THE_DEFAULT[0] <= side / usual <= _FROM_THE_DEFAULT[1]:
            continue
        for name, across, down in _SHAPES:
            width, height = int(side * across), int(side * down)
            if (width, height) != (defaults.width, defaults.height) and _fits(limits, width, height):
                offered.append((f"{name} {width} × {height}", f"{width}x{height}"))  # noqa: RUF001
    return offered


def _fits(limits: Limits, width: int, height: int) -> bool:
    try:
        limits.width.check("width", width)
        limits.height.check("height", height)
    except InvalidRequestError:
        return False
    return True


def _span(numbers: Range) -> str:
    return f"{numbers.min:g} to {numbers.max:g}"


def _default(value: float | None) -> str:
    return "the model's own" if value is None else f"{value:g}"
