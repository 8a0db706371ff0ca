"""The grounds that things stand on: plain colours, and places drawn from simple shapes. 256x256 RGB pictures."""

import math
from collections.abc import Callable

from PIL import Image, ImageDraw

from demo_model.training.colours import GROUNDS

SIDE = 256
_SMOOTH = 3  # drawn so many times larger, then made smaller: smooth edges

_SKY, _GRASS = (150, 210, 250), (110, 190, 90)
_Draw = ImageDraw.ImageDraw


def plain(colour: str | None) -> Image.Image:
    """Returns a ground of one colour of `GROUNDS`, white where None."""
    return Image.new("RGB", (SIDE, SIDE), GROUNDS[colour] if colour else (255, 255, 255))


def place(name: str) -> Image.Image:
    """Returns a place of `PLACES`."""
    large = Image.new("RGB", (SIDE * _SMOOTH, SIDE * _SMOOTH))
    PLACES[name](ImageDraw.Draw(large))
    return large.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _box(draw: _Draw, corners: tuple[float, float, float, float], colour: tuple[int, int, int]) -> None:
    draw.rectangle([round(corner * _SMOOTH) for corner in corners], fill=colour)


def _disc(draw: _Draw, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    corners = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse([round(corner * _SMOOTH) for corner in corners], fill=colour)


def _cloud(draw: _Draw, x: float, y: float, colour: tuple[int, int, int] = (255, 255, 255)) -> None:
    for shift, lift, radius in ((-20, 0, 12), (-6, 6, 16), (10, 3, 14), (24, 0, 10)):
        _disc(draw, x + shift, y - lift, radius, colour)


def _blend(draw: _Draw, top: float, bottom: float, upper: tuple[int, int, int], lower: tuple[int, int, int]) -> None:
    """Fills from `top` to `bottom` with a blend of two colours."""
    for row in range(round(top * _SMOOTH), round(bottom * _SMOOTH)):
        part = (row / _SMOOTH - top) / (bottom - top)
        colour = tuple(round(a + (b - a) * part) for a, b in zip(upper, lower, strict=True))
        draw.line([(0, row), (SIDE * _SMOOTH, row)], fill=colour)


def _night(draw: _Draw) -> None:
    _blend(draw, 0, SIDE, (20, 24, 70), (45, 50, 110))
    _disc(draw, 216, 36, 20, (255, 240, 180))
    for x, y in ((24, 28), (72, 14), (120, 34), (164, 16), (44, 72), (240, 84), (14, 120), (96, 64), (182, 62)):
        _disc(draw, x, y, 3, (255, 255, 220))
    _box(draw, (0, 208, SIDE, SIDE), (30, 60, 55))


def _sea(draw: _Draw) -> None:
    _box(draw, (0, 0, SIDE, 80), (190, 230, 252))
    _blend(draw, 80, SIDE, (60, 160, 220), (20, 90, 170))
    for row, y in enumerate((104, 224)):
        for x in range(-16 + 32 * row, SIDE, 64):
            draw.arc([x * _SMOOTH, y * _SMOOTH, (x + 36) * _SMOOTH, (y + 18) * _SMOOTH], 200, 340, (200, 235, 250), 9)


def _grass(draw: _Draw) -> None:
    _box(draw, (0, 0, SIDE, SIDE), _SKY)
    _disc(draw, 34, 34, 18, (255, 220, 80))
    _cloud(draw, 190, 40)
    _box(draw, (0, 160, SIDE, SIDE), _GRASS)
    for x, y in ((20, 236), (70, 246), (130, 238), (190, 246), (236, 234)):
        _disc(draw, x, y, 4, (255, 255, 255))
        _disc(draw, x, y, 1.6, (255, 210, 60))


def _snow(draw: _Draw) -> None:
    _box(draw, (0, 0, SIDE, SIDE), (170, 200, 228))
    _box(draw, (0, 176, SIDE, SIDE), (246, 249, 252))
    for x, y in (
        (20, 24),
        (70, 50),
        (118, 18),
        (168, 44),
        (222, 22),
        (36, 96),
        (240, 96),
        (16, 150),
        (200, 76),
        (90, 92),
    ):
        _disc(draw, x, y, 5, (255, 255, 255))


def _rainbow(draw: _Draw) -> None:
    _box(draw, (0, 0, SIDE, SIDE), (205, 235, 252))
    colours = ((229, 57, 53), (251, 140, 0), (253, 216, 53), (67, 160, 71), (30, 136, 229), (142, 36, 170))
    for band, colour in enumerate(colours):
        _disc(draw, 128, 176, 160 - 12 * band, colour)
    _disc(draw, 128, 176, 88, (205, 235, 252))
    _box(draw, (0, 176, SIDE, SIDE), _GRASS)


def _sky(draw: _Draw) -> None:
    _box(draw, (0, 0, SIDE, SIDE), (120, 195, 248))
    for x, y in ((48, 44), (202, 66), (60, 222), (196, 226)):
        _cloud(draw, x, y)


def _sunset(draw: _Draw) -> None:
    _blend(draw, 0, 176, (120, 60, 140), (255, 150, 70))
    _disc(draw, 214, 172, 42, (255, 225, 110))
    _box(draw, (0, 176, SIDE, SIDE), (110, 55, 75))


def _beach(draw: _Draw) -> None:
    _box(draw, (0, 0, SIDE, SIDE), _SKY)
    _disc(draw, 216, 36, 20, (255, 220, 80))
    _box(draw, (0, 112, SIDE, 160), (50, 150, 210))
    _box(draw, (0, 160, SIDE, SIDE), (244, 216, 150))


def _space(draw: _Draw) -> None:
    _box(draw, (0, 0, SIDE, SIDE), (18, 14, 40))
    for k in range(22):
        _disc(draw, 12 + 97 * k % 236, 10 + 61 * k % 240, 2 + k % 2, (240, 240, 255))
    _disc(draw, 214, 44, 22, (205, 130, 90))
    points = [(214 + 38 * math.cos(a / 20), 44 + 10 * math.sin(a / 20)) for a in range(127)]
    draw.line([(x * _SMOOTH, y * _SMOOTH) for x, y in points], (240, 210, 160), 9)


PLACES: dict[str, Callable[[_Draw], None]] = {
    "night": _night,
    "sea": _sea,
    "grass": _grass,
    "snow": _snow,
    "rainbow": _rainbow,
    "sky": _sky,
    "sunset": _sunset,
    "beach": _beach,
    "space": _space,
}
