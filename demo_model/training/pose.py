"""The pose, which is what a seed changes: where in the picture things stand, how large, and how far turned.

The networks draw a thing always in the same place: they know it by heart, there alone (latents moved by one cell have a
squared error of 0.83 for 0.07). So one more latent channel goes with the autoencoder's. It begins as the seed's noise,
the UNet leaves it alone, and the decoder reads the pose from it. It is a channel like the others: of a quantity that is
unit normal noise in every picture, the best prediction of v is 0, whatever the noise level.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = 1  # of the latents, after the autoencoder's
_SMALLEST = 0.82  # of the size that things are drawn in
_LARGEST_TURN = math.radians(7)
_WHITE = 0.98  # all four corners lighter than this, -1 to 1: the ground is white
_REACH = 0.95  # how far from the middle things are drawn, two side by side the farthest; 1: the edge


def posed(pictures: Tensor, latents: Tensor) -> Tensor:
    """Returns pictures moved, made smaller and turned; what comes in is white on white, else what lay at the edge.

    A round or a wide thing that reached 0.95 of the way from the middle to the edge stays inside.

    Args:
        pictures: (n, 3, h, w), -1 to 1.
        latents: the pose's, (n, 1, any, at least 4), unit normal; zeros leave the pictures as they are.
    """
    across, down, smaller, turn = torch.erf(latents[:, 0, 0, :4] / math.sqrt(2)).unbind(-1)  # each evenly in -1 to 1
    size = 1 - (1 - _SMALLEST) * smaller.abs()
    angle = _LARGEST_TURN * turn
    cosine, sine = angle.cos(), angle.sin()
    room = (1 - _REACH * size * (cosine + sine.abs() / 2)).clamp(min=0)
    height, width = pictures.shape[-2:]
    x = _places(width, pictures)[None, None, :] - (across * room)[:, None, None]
    y = _places(height, pictures)[None, :, None] - (down * room)[:, None, None]
    cosine, sine = (part[:, None, None] for part in (cosine / size, sine / size))
    taken_from = torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=-1)
    moved = F.grid_sample(pictures, taken_from, "bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)
    # A thing's last tinge at the edge would become a stripe there.
    on_white = pictures[..., :: height - 1, :: width - 1].amin((1, 2, 3)) > _WHITE
    from_outside = taken_from.abs().amax(-1) > 1
    return torch.where((from_outside & on_white[:, None, None])[:, None], 1.0, moved)


def _places(number: int, like: Tensor) -> Tensor:
    """Returns where the middles of so many pixels lie, from edge (-1) to edge (1)."""
    return (2 * torch.arange(number, dtype=like.dtype, device=like.device) + 1) / number - 1
