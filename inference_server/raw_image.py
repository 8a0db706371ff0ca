"""Pixels without a file format: what the server and its engine process hand to each other."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RawImage:
    """Pixels, 8 bits each of R, G, B, row by row: `len(rgb) == width_px * height_px * 3`."""

    width_px: int
    height_px: int
    rgb: bytes = field(repr=False)
