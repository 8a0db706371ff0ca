"""Has an autoencoder decode large pictures in tiles, which takes a fraction of the memory."""

import threading
from typing import Any

from inference_server.engines.diffusers.memory_plan import TILE_PX

VAE_LOCK = threading.RLock()  # held by whoever uses the autoencoder: whether it works in tiles is a state of its own


def enable(vae: Any, px_per_latent: int) -> bool:
    """Tiles of 512 px where the autoencoder lets one choose (its own size may be the picture's); False: it cannot."""
    if not hasattr(vae, "enable_tiling"):
        return False
    vae.enable_tiling()
    if hasattr(vae, "tile_sample_min_size"):
        vae.tile_sample_min_size = TILE_PX
        vae.tile_latent_min_size = TILE_PX // px_per_latent
    return True
