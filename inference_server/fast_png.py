"""PNG files for when time counts: about twelve times as fast as Pillow's default, and about a fifth larger.

Two things make the difference: one filter for all rows (Pillow tries all five on every row), and ISA-L's deflate.
Source: https://www.w3.org/TR/png-3/ (the file's layout, 9.2 the filters).
"""

import struct
from io import BytesIO

import numpy as np
from isal import isal_zlib
from PIL import PngImagePlugin

from inference_server.messages import RawImage

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # the filter: each byte less the one above it
_DEFLATE_LEVEL = 1  # ISA-L's: 0 to 3


def encode_png(raw: RawImage, info: PngImagePlugin.PngInfo) -> bytes:
    """The file: 8 bits RGB, not interlaced, with the text chunks of `info` before the pixels."""
    file = BytesIO()
    file.write(_SIGNATURE)
    header = struct.pack(">IIBBBBB", raw.width_px, raw.height_px, 8, 2, 0, 0, 0)
    PngImagePlugin.putchunk(file, b"IHDR", header)
    for chunk in info.chunks:
        PngImagePlugin.putchunk(file, *chunk[:2])
    PngImagePlugin.putchunk(file, b"IDAT", isal_zlib.compress(_filtered(raw), _DEFLATE_LEVEL))
    PngImagePlugin.putchunk(file, b"IEND", b"")
    return file.getvalue()


def _filtered(raw: RawImage) -> bytes:
    rows = np.frombuffer(raw.rgb, np.uint8).reshape(raw.height_px, raw.width_px * 3)
    filtered = np.empty((raw.height_px, 1 + raw.width_px * 3), np.uint8)  # each row: its filter, its bytes
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]  # nothing is above the first row
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as the filter wants it
    return filtered.tobytes()
