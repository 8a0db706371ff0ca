"""The size of a picture that is drawn from an image, where the request leaves it open: the image's own, or near it."""

import math
from collections.abc import Mapping
from typing import Any

from inference_server.limits import Defaults, Limits, Side
from inference_server.raw_image import RawImage
from inference_server.tasks import EDIT, Task


def choose(task: Task, image: RawImage, asked: Mapping[str, Any], limits: Limits, defaults: Defaults) -> dict[str, Any]:
    """`width` and `height` in px: each as asked for, the other in the image's proportions.

    With neither, the image's own size times the task's scale, or smaller where the model draws none so large. An edited
    picture has the area that the model draws best: such models scale what they read to it.
    """
    width, height = asked["width"], asked["height"]
    if width is not None and height is not None:
        return {"width": width, "height": height}
    if width is not None:
        return {"width": width, "height": _down(width * image.height_px / image.width_px, limits.height)}
    if height is not None:
        return {"width": _down(height * image.width_px / image.height_px, limits.width), "height": height}
    share = float(task.scale)
    if task.name == EDIT:
        share = math.sqrt(defaults.width * defaults.height / (image.width_px * image.height_px))
    share = min(share, limits.width.max / image.width_px, limits.height.max / image.height_px)
    return {
        "width": _down(image.width_px * share, limits.width),
        "height": _down(image.height_px * share, limits.height),
    }


def _down(side_px: float, side: Side) -> int:
    """To a multiple, as diffusers does it, within the bounds."""
    return side.nearest(math.floor(side_px + 1e-6) // side.multiple * side.multiple)
