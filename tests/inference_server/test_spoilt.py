"""Pictures that are none are told from dark, pale and flat ones."""

import numpy as np
import pytest

from inference_server.engines import spoilt


def picture(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


@pytest.mark.parametrize(("value", "wrong"), [(0, "all black"), (1, "all black"), (127, "all grey"), (254, None)])
def test_one_black_or_grey_area_is_no_picture(value: int, wrong: str | None) -> None:
    """A white one may be what was wanted."""
    assert spoilt.what_is_wrong(picture(value)) == wrong
    assert spoilt.what_is_wrong(picture(value) / np.float32(255)) == wrong


def test_a_dark_or_coloured_picture_is_one() -> None:
    """One pixel that differs is enough, and so is one colour."""
    night = picture(0)
    night[3, 4] = 40
    red = picture(0)
    red[..., 0] = 200
    assert spoilt.what_is_wrong(night) is None
    assert spoilt.what_is_wrong(red) is None


def test_what_is_not_a_number_is_told_as_that() -> None:
    """A single one: the numbers around it are no better."""
    floats = np.random.default_rng(0).random((8, 8, 3))
    floats[2, 2, 1] = np.nan
    assert spoilt.what_is_wrong(floats) == spoilt.NOT_A_NUMBER
    assert "not a number, in fp16" in spoilt.reason(spoilt.NOT_A_NUMBER, "fp16")
