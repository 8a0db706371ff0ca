"""The training artwork: icons of the Noto set as pictures, and the same icons in other colours.

A picture is uint8 RGBA (SIZE, SIZE, 4), the icon filling it. Source: the npm package `@iconify-json/noto`.
"""

import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cairosvg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo_model.training.colours import COLOURS

Picture = NDArray[np.uint8]
SIZE = 240
_HUE_REACH = 22  # of 256: how far from the main hue a pixel may be and still belong to it
# The hue in degrees up to which a colour has its name.
_HUE_NAMES = (
    (14, "red"),
    (40, "orange"),
    (66, "yellow"),
    (165, "green"),
    (255, "blue"),
    (300, "purple"),
    (342, "pink"),
)
_VIVID, _DARK = 70, 60  # saturation and value, of 255: above both a pixel has a hue that one sees
_WHITE_ABOVE, _BLACK_BELOW = 222, 110  # value, of 255: what lies between is called grey
_BROWN_BELOW = 170  # value, of 255: a red or an orange darker than this is called brown


@dataclass(frozen=True)
class MainColour:
    """The commonest colour of a picture."""

    hue: int | None  # 0 to 255; None: grey or white
    value: float  # 0 to 255
    share: float  # of the icon's pixels, 0 to 1

    def name(self) -> str:
        if self.hue is None:
            return "white" if self.value > _WHITE_ABOVE else "grey" if self.value > _BLACK_BELOW else "black"
        degrees = self.hue * 360 / 255
        name = next((name for upper, name in _HUE_NAMES if degrees <= upper), "red")
        return "brown" if name in ("red", "orange") and self.value < _BROWN_BELOW else name


@cache
def _icon_set(npm: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((npm / "@iconify-json" / "noto" / "icons.json").read_text())
    return loaded


def render(icon: str, npm: Path) -> Picture:
    """Returns the icon, drawn by cairosvg.

    Raises:
        KeyError: the set has no such icon.
    """
    found = _icon_set(npm)
    drawing = found["icons"][icon]
    width, height = (drawing.get(side, found.get(side, 16)) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 {width} {height}">{drawing["body"]}</svg>'
    )
    png = cairosvg.svg2png(svg.encode(), output_width=SIZE, output_height=SIZE)
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))


def _hsv(picture: Picture) -> NDArray[np.float32]:
    return np.array(Image.fromarray(picture[..., :3]).convert("HSV")).astype(np.float32)


def _hue_distance(hue: NDArray[np.float32], other: int) -> NDArray[np.float32]:
    return np.abs((hue - other + 128) % 256 - 128)


def main_colour(picture: Picture) -> MainColour:
    """Returns the commonest hue, or grey or white where more of the icon has that."""
    hue, saturation, value = np.moveaxis(_hsv(picture), -1, 0)
    visible = picture[..., 3] > 128
    vivid = visible & (saturation > _VIVID) & (value > _DARK)
    pale = visible & (saturation <= _VIVID) & (value > _DARK)
    histogram = np.bincount(hue[vivid].astype(int), weights=(saturation * value)[vivid], minlength=256)
    smooth = np.sum([(11 - abs(shift)) * np.roll(histogram, shift) for shift in range(-10, 11)], axis=0)
    main = int(np.argmax(smooth))
    near = vivid & (_hue_distance(hue, main) < _HUE_REACH)
    most = pale if pale.sum() > near.sum() else near
    middle = float(np.median(value[most])) if most.any() else 255.0
    return MainColour(None if most is pale else main, middle, float(most.sum() / max(1, visible.sum())))


def recolour(picture: Picture, colour: str, main: MainColour) -> Picture:
    """Returns the picture with its main colour turned into another one; shading and all other colours stay."""
    hsv = _hsv(picture)
    shade = hsv[..., 2:] / main.value  # 1: the flat colour; more: a light; less: a shadow
    if main.hue is None:
        near = (hsv[..., 1] <= _VIVID) & (hsv[..., 2] > _DARK)
        purity = np.ones_like(shade)
    else:
        near = (_hue_distance(hsv[..., 0], main.hue) < _HUE_REACH) & (hsv[..., 1] > _VIVID / 2)
        purity = np.clip(hsv[..., 1:2] / max(1.0, float(np.median(hsv[..., 1][near]))), 0, 1)
    target = np.array(COLOURS[colour], np.float32)
    lit = target + (255 - target) * np.clip(shade - 1, 0, 1)
    painted = np.where(shade < 1, target * shade, lit) * purity + 255 * np.clip(shade, 0, 1) * (1 - purity)
    rgb = np.where(near[..., None], painted.clip(0, 255), picture[..., :3]).astype(np.uint8)
    return np.concatenate([rgb, picture[..., 3:]], axis=-1)
