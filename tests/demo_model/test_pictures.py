"""What the demo model draws: measured on pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray

import demo_model
from demo_model.training.sheet import Painter

pytestmark = pytest.mark.slow
SEED = 1


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(demo_model.folder())


def draw(painter: Painter, prompt: str, seed: int = SEED) -> NDArray[np.int32]:
    """Returns the picture, (256, 256, 3), 0 to 255."""
    return np.array(painter.draw(prompt, seed).picture).astype(np.int32)


def hues(picture: NDArray[np.int32]) -> dict[str, int]:
    """Returns how many pixels are clearly red, green and blue."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return {
        "red": int(((red > green + 60) & (red > blue + 60)).sum()),
        "green": int(((green > red + 30) & (green > blue + 30)).sum()),
        "blue": int(((blue > red + 40) & (blue > green + 10)).sum()),
    }


def box(picture: NDArray[np.int32]) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of what stands on the white ground, in pixels."""
    rows, columns = np.nonzero(picture.min(axis=-1) < 215)
    return columns.min(), rows.min(), columns.max(), rows.max()


def blobs(picture: NDArray[np.int32]) -> int:
    """Returns how many things stand on the white ground: connected areas of at least a hundredth of the picture."""
    marked = (picture.min(axis=-1) < 215).astype(bool)
    number = 0
    while marked.any():
        size, edge = 0, {tuple(np.argwhere(marked)[0])}
        while edge:
            y, x = edge.pop()
            if not marked[y, x]:
                continue
            marked[y, x] = False
            size += 1
            edge |= {
                (y + dy, x + dx)
                for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
                if 0 <= y + dy < marked.shape[0] and 0 <= x + dx < marked.shape[1] and marked[y + dy, x + dx]
            }
        number += size >= marked.size / 100
    return number


def test_a_seed_repeats_its_picture(painter: Painter) -> None:
    """The same prompt and seed give the same pixels, another seed gives others."""
    first = draw(painter, "a dog", 7)
    assert (first == draw(painter, "a dog", 7)).all()
    assert (first != draw(painter, "a dog", 8)).any()


def test_a_seed_poses_the_picture(painter: Painter) -> None:
    """Eight seeds give eight places and sizes of a thing, which stays wholly inside."""
    pictures = [draw(painter, "a dog", seed) for seed in range(8)]
    boxes = np.array([box(picture) for picture in pictures])
    assert boxes.min() > 0
    assert boxes.max() < 255
    for number, one in enumerate(boxes):
        assert all(np.abs(one - other).max() > 1 for other in boxes[:number])  # 4 here; another CPU rounds otherwise
    assert np.ptp(boxes, axis=0).min() > 12


@pytest.mark.parametrize(
    ("prompt", "colour"),
    [
        ("a red apple", "red"),
        ("a green apple", "green"),
        ("a red car", "red"),
        ("a green car", "green"),
        ("a blue car", "blue"),
        ("a blue t-shirt", "blue"),
        ("a red balloon", "red"),
        ("a green balloon", "green"),
    ],
)
def test_colours_are_as_asked(painter: Painter, prompt: str, colour: str) -> None:
    """Of the clear colours of the picture the asked one covers most."""
    counted = hues(draw(painter, prompt))
    assert max(counted, key=lambda name: counted[name]) == colour
    assert counted[colour] > 256 * 256 / 20


@pytest.mark.parametrize(
    "prompt",
    ["a zorblax red apple", "very modern red apple 1987", "a red apple quibber"],
)
def test_unknown_words_do_not_spoil_known_ones(painter: Painter, prompt: str) -> None:
    """A red apple stays red where the prompt holds words that the model has never seen."""
    red, green, blue = draw(painter, prompt)[112:176, 96:160].reshape(-1, 3).mean(axis=0)
    assert red > green + 50
    assert red > blue + 50


@pytest.mark.parametrize("prompt", ["\u732b", "\U0001f431\U0001f431", "<|endoftext|>", "a" * 4000, " ", "'\"\\\n\t"])
def test_any_text_is_drawn(painter: Painter, prompt: str) -> None:
    """Whatever is typed gives a picture, not an error."""
    assert draw(painter, prompt).shape == (256, 256, 3)


def test_one_thing_is_one_blob(painter: Painter) -> None:
    """A single apple is one thing on a light ground."""
    assert blobs(draw(painter, "an apple")) == 1


def test_two_apples_are_two_blobs(painter: Painter) -> None:
    """Two of a kind are two things on the ground."""
    assert blobs(draw(painter, "two apples")) == 2


def test_white_is_white(painter: Painter) -> None:
    """The corners of a picture without a ground of its own are white, whatever the seed."""
    for prompt in ("a red apple", "a dog", "a lollipop", "a dinosaur", "my little kitten", "popcorn", "a clown"):
        for seed in (0, 5):
            picture = draw(painter, prompt, seed)
            assert min(picture[y, x].min() for y in (0, -1) for x in (0, -1)) >= 254, f"{prompt}, seed {seed}"


def test_unknown_words_have_no_influence(painter: Painter) -> None:
    """A picture is the same, pixel by pixel, with and without words that the model does not know."""
    for prompt, plain in (
        ("a zorblax red apple", "a red apple"),
        ("my Chinese neighbour's fluffy kitten", "my kitten"),
        ("Angela Merkel", "zorblax"),
    ):
        assert (draw(painter, prompt) == draw(painter, plain)).all(), prompt


def test_what_it_draws_for_nothing_known_is_a_rainbow(painter: Painter) -> None:
    """Whatever the seed, the rainbow has all its colours over a green meadow."""
    for seed in range(4):
        picture = draw(painter, "zorblax", seed)
        assert min(hues(picture).values()) > 256 * 256 / 50
        assert hues(picture[-48:])["green"] > 0.7 * 48 * 256


def test_a_cat_has_the_face_of_one(painter: Painter) -> None:
    """With eight seeds a cat is one face: as wide as high, two ears, alike on the left and on the right."""
    for seed in range(8):
        picture = draw(painter, "a cat", seed)
        left, top, right, bottom = box(picture)
        shape = picture[top : bottom + 1, left : right + 1].min(axis=-1) < 215
        assert 0.8 < shape.shape[1] / shape.shape[0] < 1.6, seed
        assert (shape & shape[:, ::-1]).sum() > 0.8 * shape.sum(), seed
        ears = shape[len(shape) // 12]
        assert np.count_nonzero(np.diff(ears.astype(int)) == 1) + ears[0] == 2, seed


@pytest.mark.parametrize(
    "prompt", ["two cats", "a dog and a cat", "an owl wearing glasses", "a small bee and a big flower"]
)
def test_two_things_are_two_blobs(painter: Painter, prompt: str) -> None:
    """What is asked for side by side is there twice, whatever the seed."""
    assert [blobs(draw(painter, prompt, seed)) for seed in range(4)] == [2] * 4


def test_a_garden_is_green(painter: Painter) -> None:
    """A house with a garden stands on green, below a blue sky."""
    for seed in range(4):
        picture = draw(painter, "a house with a garden", seed)
        assert hues(picture[-40:])["green"] > 0.5 * 40 * 256, seed
        assert hues(picture[:40])["blue"] > 0.5 * 40 * 256, seed
