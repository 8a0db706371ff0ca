"""Small previews of a picture in the making: a linear map from latents to colours, learned from finished pictures.

Decoding every step would cost as much as the picture. But a latent pixel says most of its colour linearly, so the map
is fitted by least squares on the last latents of finished pictures and their pixels, first at warm-up, better with
each picture since.
"""

import numpy as np
import numpy.typing as npt

from inference_server.messages import RawImage

Array = npt.NDArray[np.float32]
MAX_FITTED_PIXELS = 4096  # of one picture; more say nothing new
FORGET = 0.9  # weight of everything before, at each new picture


class PreviewMap:
    """Latents (C, h, w) -> an RGB picture of h x w pixels. No preview before the first `learn`."""

    def __init__(self) -> None:
        self._xx: Array | None = None  # (C+1, C+1)
        self._xy: Array | None = None  # (C+1, 3)
        self._map: Array | None = None  # (C+1, 3)

    def learn(self, latents: Array, picture: npt.NDArray[np.uint8]) -> None:
        """Adds one finished picture: latents (C, h, w), picture (H, W, 3) with H and W multiples of h and w."""
        channels, h, w = latents.shape
        height, width, _ = picture.shape
        if channels > 64 or height % h or width % w:
            return  # packed latents (Flux, say): no map from these to places in the picture
        cells = picture.reshape(h, height // h, w, width // w, 3).mean(axis=(1, 3), dtype=np.float32).reshape(-1, 3)
        stride = max(1, len(cells) // MAX_FITTED_PIXELS)
        x, y = _rows(latents)[::stride], cells[::stride]
        xx: Array = np.float32(1 / len(x)) * (x.T @ x)
        xy: Array = np.float32(1 / len(x)) * (x.T @ y)
        if self._xx is None or self._xy is None:
            self._xx, self._xy = xx, xy
        else:
            self._xx = (FORGET * self._xx + (1 - FORGET) * xx).astype(np.float32)
            self._xy = (FORGET * self._xy + (1 - FORGET) * xy).astype(np.float32)
        ridge = 1e-3 * np.eye(channels + 1, dtype=np.float32)
        self._map = np.linalg.solve(self._xx + ridge, self._xy).astype(np.float32)

    def draw(self, latents: Array) -> RawImage | None:
        """The preview of latents (C, h, w), or None where none can be made."""
        channels, h, w = latents.shape
        if self._map is None or len(self._map) != channels + 1:
            return None
        rgb = np.clip(_rows(latents) @ self._map, 0, 255).astype(np.uint8)
        return RawImage(w, h, rgb.tobytes())


def _rows(latents: Array) -> Array:
    """(C, h, w) -> (h*w, C+1), the last column ones."""
    flat = latents.reshape(latents.shape[0], -1).T
    return np.concatenate([flat, np.ones((len(flat), 1), np.float32)], axis=1)
