"""A finished picture made small, for a line that takes seconds for the whole of it."""

import base64
import io

from PIL import Image

BYTES_MAX = 60_000
_SIDE_PX = 768
_TRIES = ((1.0, 60), (1.0, 30), (0.5, 30), (0.25, 30))  # share of the side, WebP's quality


def early_picture(file: bytes) -> str | None:
    """A lossy WebP of at most `BYTES_MAX` bytes, in base64; None for what is no picture, or none that gets so small.

    Also None where Pillow was built without WebP: the picture itself is not lost over this.
    """
    try:
        return _small(file)
    except (OSError, ValueError, KeyError, MemoryError, Image.DecompressionBombError):
        return None


def _small(file: bytes) -> str | None:
    with Image.open(io.BytesIO(file)) as image:
        whole = image.convert("RGB")
    for share, quality in _TRIES:
        side = max(1, round(_SIDE_PX * share))
        small = whole.copy()
        small.thumbnail((side, side), Image.Resampling.BICUBIC)
        encoded = io.BytesIO()
        small.save(encoded, "WEBP", quality=quality, method=2)
        if encoded.tell() <= BYTES_MAX:
            return base64.b64encode(encoded.getvalue()).decode("ascii")
    return None
