"""The pose that the demo model's decoder gives a picture."""

import pytest
import torch
from torch import Tensor

from demo_model.training import pose

SIDE = 256
NOTHING = torch.zeros(1, pose.CHANNELS, 16, 16)


def latents(*noise: float) -> Tensor:
    """Returns the pose's latents, (1, 1, 16, 16): across, down, smaller, turn."""
    filled = NOTHING.clone()
    filled[0, 0, 0, : len(noise)] = torch.tensor(noise)
    return filled


def thing(height: int, width: int) -> Tensor:
    """Returns a white picture, (1, 3, 256, 256), with a black thing of so many pixels in its middle."""
    picture = torch.ones(1, 3, SIDE, SIDE)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    picture[..., top : top + height, left : left + width] = -1
    return picture


def box(picture: Tensor) -> tuple[int, int, int, int]:
    """Returns left, top, width and height of what is black, in pixels."""
    rows, columns = (picture[0, 0] < 0).nonzero().unbind(-1)
    left, top = int(columns.min()), int(rows.min())
    return left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1


def test_without_noise_the_picture_stays() -> None:
    """A pose of zeros changes no pixel visibly, whatever the picture's size."""
    picture = torch.rand(2, 3, 64, 96) * 2 - 1
    assert (pose.posed(picture, NOTHING.expand(2, -1, -1, -1)) - picture).abs().max() < 1 / 255


def test_a_thing_is_moved() -> None:
    """The first number moves to the right, the second down, and a smaller thing farther."""
    left, top, width, height = box(pose.posed(thing(128, 128), latents(3, -3)))
    assert left > 64
    assert top < 64
    assert [width, height] == pytest.approx([128, 128], abs=2)
    assert box(pose.posed(thing(128, 128), latents(3, 0, 3)))[0] > left


def test_a_thing_is_made_smaller() -> None:
    """The third number makes smaller, whatever its sign, down to 0.82 of the size."""
    for smaller in (-4, 4):
        _, _, width, height = box(pose.posed(thing(200, 100), latents(0, 0, smaller)))
        assert [width, height] == pytest.approx([82, 164], abs=2)


def test_a_thing_is_turned() -> None:
    """The fourth number turns to the right or the left, by up to seven degrees."""
    right, left = (pose.posed(thing(160, 40), latents(0, 0, 0, turn)) for turn in (4.0, -4.0))
    assert box(right)[2] == box(left)[2] == pytest.approx(40 * 0.993 + 160 * 0.122, abs=3)
    assert (right[0, 0, 60] < 0).nonzero().float().mean() > 128 > (left[0, 0, 60] < 0).nonzero().float().mean()


@pytest.mark.parametrize(("height", "width"), [(120, 240), (240, 120), (220, 220)])
def test_a_thing_stays_inside(height: int, width: int) -> None:
    """Whatever the pose, nothing black of a wide, a tall or a large thing reaches the picture's edge."""
    torch.manual_seed(0)
    noise = torch.cat([torch.randn(70, pose.CHANNELS, 1, 4), 4 * torch.randn(30, pose.CHANNELS, 1, 4)])
    posed = pose.posed(thing(height, width).expand(len(noise), -1, -1, -1), noise)
    edges = torch.cat([posed[..., 0, :], posed[..., -1, :], posed[..., 0], posed[..., -1]], dim=-1)
    assert edges.min() > 0.5


def test_a_coloured_ground_stays_whole() -> None:
    """What comes in from outside has the colour of the ground at the edge."""
    ground = torch.tensor([0.8, -0.2, 0.4]).view(1, 3, 1, 1).expand(1, 3, SIDE, SIDE)
    assert (pose.posed(ground, latents(3, 3, 3, 3)) - ground).abs().max() < 1 / 255


def test_nothing_is_drawn_out_of_the_edge() -> None:
    """On white, a thing that touches the edge leaves no stripe in what comes in from outside."""
    picture = torch.ones(1, 3, SIDE, SIDE)
    picture[..., 100:150, :40] = -1
    left, _, width, _ = box(pose.posed(picture, latents(3)))
    assert left > 0
    assert width <= 41
