"""Notices pictures that are none: numbers that ran out of range come out as one black or grey area."""

from typing import Any

import numpy as np
import numpy.typing as npt

WARM_UP_NUMBER = 0  # the drawing at the start, of a single step: whatever it shows is no proof
LIGHTEST = 250  # a white area may be what was wanted
NOT_A_NUMBER = "not a number"
SAME = 1  # of 255: so much do the colours of one area differ by rounding


def what_is_wrong(picture: npt.NDArray[Any]) -> str | None:
    """Of pixels (H, W, 3), uint8 or float 0 to 1: "not a number", "all black", "all grey"; None for a picture."""
    if picture.dtype.kind == "f":
        if not np.isfinite(picture).all():
            return NOT_A_NUMBER
        picture = (picture * 255).round()
    lowest, highest = int(picture.min()), int(picture.max())
    if highest - lowest > SAME or highest >= LIGHTEST:
        return None
    return "all black" if highest <= SAME else "all grey"


def reason(wrong: str, precision: str) -> str:
    """For the visitor, and what the maintainer can do."""
    return (
        f"The model's numbers ran out of range: the picture is {wrong}, in {precision}. Try another scheduler or "
        "another number of steps; for the maintainer: MODEL_PRECISION=bf16 or fp32 leaves more room."
    )
