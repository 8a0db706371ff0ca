"""The page's icon and the picture of its link previews, as PNG files made in memory from the shapes of icon.svg."""

import functools
import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ICON_FILE = Path(__file__).with_name("icon.svg")
THEME_COLOR = "#4f46e5"
PREVIEW_SIZE = 1200, 630  # px, what link previews ask for
_PAPER, _SUN, _HILLS = "#eef2ff", "#f59e0b", "#6366f1"
_OVERSAMPLING = 4


@functools.cache
def icon_png(side_px: int) -> bytes:
    """The icon, square and without round corners: a phone cuts them itself."""
    image = Image.new("RGB", (side_px, side_px), THEME_COLOR)
    _draw_picture(image, 0, 0, side_px)
    return _png(image)


@functools.cache
def preview_png(title: str, subtitle: str) -> bytes:
    """The picture of a link preview: the icon's, and beside it `title` and `subtitle`, each cut to its place."""
    image = Image.new("RGB", PREVIEW_SIZE, THEME_COLOR)
    _draw_picture(image, 20, 75, 480)
    draw = ImageDraw.Draw(image)
    left, top, right = 500, 225, PREVIEW_SIZE[0] - 60
    for text, size, rows in ((title, 84, 2), (subtitle, 38, 4)):
        font = ImageFont.load_default(size)
        for row in _wrapped(text, lambda row, font=font: draw.textlength(row, font) <= right - left)[:rows]:
            draw.text((left, top), row, "white", font)
            top += round(size * 1.25)
        top += 20
    return _png(image)


def _draw_picture(image: Image.Image, left: int, top: int, side: int) -> None:
    """The shapes of icon.svg, whose sides are 64, into a square of `side` px."""
    scale = side * _OVERSAMPLING / 64
    large = image.crop((left, top, left + side, top + side)).resize((side * _OVERSAMPLING,) * 2)
    draw = ImageDraw.Draw(large)

    def at(*points: float) -> list[float]:
        return [point * scale for point in points]

    draw.rounded_rectangle(at(12, 12, 52, 52), 5 * scale, _PAPER)
    draw.ellipse(at(35, 19, 45, 29), _SUN)
    draw.polygon(at(12, 45, 25, 29, 36, 42, 42, 36, 52, 46, 52, 47, 12, 47), _HILLS)
    draw.rounded_rectangle(at(12, 42, 52, 52), 5 * scale, _HILLS)
    draw.polygon(at(12, 45, 25, 29, 36, 42, 42, 36, 52, 46, 52, 47, 12, 47), _HILLS)
    image.paste(large.resize((side, side), Image.Resampling.LANCZOS), (left, top))


def _wrapped(text: str, fits: object) -> list[str]:
    rows: list[str] = []
    for word in text.split():
        longer = f"{rows[-1]} {word}" if rows else word
        if rows and fits(longer):  # type: ignore[operator]
            rows[-1] = longer
        else:
            rows.append(word)
    return rows


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
