"""Which words of a prompt the demo model knows, and the sentences that it is taught."""

import io
from pathlib import Path

import numpy as np
import pytest

import demo_model
from demo_model import phrases as demo_phrases
from demo_model import prompt as demo_prompt
from demo_model.plurals import comes_in_pairs, plural
from demo_model.prompt import RAINBOW
from demo_model.training.captions import Captions
from demo_model.training.colours import COLOURS, OWN_COLOURS
from demo_model.training.concepts import concepts
from demo_model.training.scenes import CELL, HEADS, KINDS, SMALL, WORN, Scene, SceneLottery, Thing
from demo_model.training.sheet import PROMPTS, read_prompts
from demo_model.training.vocabulary import PLACE_NAMES
from demo_model.words import WORDS

LOTS = 2000


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes drawn by lot, every second concept in any colour."""
    colourable = [number % 2 == 0 for number in range(len(concepts()))]
    lottery = SceneLottery(concepts(), colourable, np.random.default_rng(3))
    return [lottery.draw() for _ in range(LOTS)]


@pytest.mark.parametrize(
    ("prompt", "known"),
    [
        ("a red apple", ["red", "apple"]),
        ("Two slices of cake, please!", ["slices of cake"]),
        ("a cat with French fries", ["cat", "french fries"]),
        ("black cats", ["black cats"]),
        ("my T-SHIRT", ["t-shirt"]),
        ("my cat\u2019s hat", ["cat", "hat"]),
        ("the treaty of westphalia", []),
        ("", []),
        ("\u732b \U0001f431 <b>", []),
    ],
)
def test_known_words(prompt: str, known: list[str]) -> None:
    """The names in a prompt are found in its order, plurals, possessives and capitals too, the longest first."""
    assert demo_model.known_words(prompt) == known


@pytest.mark.parametrize(
    ("prompt", "encoded"),
    [
        ("A RED apple!", "a red apple"),
        ("a fluffy modern red apple", "a red apple"),
        ("a car that is red", "a red car"),
        ("a car in red", "a red car"),
        ("a red and yellow car", "a red and yellow car"),
        ("a yellow zorblax and a dog", "a dog"),
        ("on a blue background, a car", "a car on a blue background"),
        ("at night a cat", "a kitten at night"),
        ("a dog chasing cats in the park", "a dog and kittens in the park"),
        ("four apples", "many apples"),
        ("an ugly dog", "a dog"),
        ("a unicorn", "a unicorn"),
        ("an orange", "an orange"),
        ("an orange car", "an orange car"),
        ("a painting of a dog", "a dog"),
        ("a cake for my mum", "a cake"),
        ("ice-cream", "ice cream"),
        ("Ant\u00f4nio", RAINBOW),
        ("pig-man", RAINBOW),
        ("red", RAINBOW),
        ("", RAINBOW),
        ("\u732b \ud800 \u0301 '\"\\", RAINBOW),
    ],
)
def test_the_encoder_is_given_known_words(prompt: str, encoded: str) -> None:
    """Known words reach the text encoder whole, in the wording of the training; nothing else does."""
    assert demo_model.encoder_prompt(prompt) == encoded


@pytest.mark.parametrize(
    ("prompt", "encoded"),
    [
        ("a cat", "a kitten"),
        ("Cats", "kittens"),
        ("a black cat", "a black cat"),
        ("a cat with heart eyes", "a cat with heart eyes"),
        ("a cat wearing a hat", "a kitten wearing a hat"),
        ("a house with a garden", "a house in a garden"),
        ("an owl wearing glasses", "an owl and glasses"),
        ("a dog wearing glasses", "a dog wearing glasses"),
        ("a small bee and a big flower", "a bee and a flower"),
        ("a small bee in the snow", "a small bee in the snow"),
        ("a ball on a chair", "a soccer ball and a chair"),
    ],
)
def test_what_is_drawn_badly_is_put_otherwise(prompt: str, encoded: str) -> None:
    """What the model draws badly by the word that people type reaches the encoder by one that it draws well."""
    assert demo_model.encoder_prompt(prompt) == encoded


def test_every_known_name_reaches_the_encoder() -> None:
    """A name alone is given to the encoder as it is, but for the few that are reworded."""
    names = WORDS.read_text(encoding="utf-8").splitlines()
    things = [name for name in names if name not in (*COLOURS, *OWN_COLOURS)]
    reworded = {name for name in things if demo_model.encoder_prompt(name) != name}
    assert reworded == {"cat", "house cat", "pussycat", "tomcat", "house with garden", "house with a tree"}


def test_a_negative_prompt_may_be_empty() -> None:
    """Where nothing is known, what was asked for instead of the rainbow is returned."""
    assert demo_model.encoder_prompt("Angela Merkel", negative=True) == ""
    assert demo_model.encoder_prompt("black people", negative=True) == ""
    assert demo_model.encoder_prompt("red, blue", negative=True) == "red blue"


def test_the_wording_is_that_of_the_training() -> None:
    """Places, heads and what they wear are those of the training's captions."""
    heads = {name for names, _ in HEADS.values() for name in names}
    worn = {name.removeprefix("a ") for names, _, _ in WORN.values() for name in names}
    assert heads == demo_prompt.HEADS
    assert {*PLACE_NAMES, "outside"} == demo_phrases.PLACES
    assert worn - demo_prompt.WORN == {"black hat", "blue cap"}  # hats and caps in a colour


def test_everyday_prompts_are_known() -> None:
    """Of every prompt of the everyday list the packed model knows some word; of the list of unknown ones, none."""
    assert [prompt for prompt in read_prompts(PROMPTS / "everyday.txt") if not demo_model.known_words(prompt)] == []
    assert [prompt for prompt in read_prompts(PROMPTS / "unknown.txt") if demo_model.known_words(prompt)] == []


def test_prompt_lists_are_long_enough() -> None:
    """The lists that the model is judged by have no prompt twice, and as many as were promised."""
    for name, least in (("everyday", 120), ("sentences", 60), ("unknown", 20)):
        prompts = read_prompts(PROMPTS / f"{name}.txt")
        assert len(set(prompts)) == len(prompts) >= least


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("apple", "apples"),
        ("cherry", "cherries"),
        ("slice of cake", "slices of cake"),
        ("polar bear", "polar bears"),
        ("little mouse", "little mice"),
        ("toothbrush", "toothbrushes"),
        ("jeans", "jeans"),
        ("fish", "fish"),
    ],
)
def test_plural(one: str, many: str) -> None:
    """Names have their English plurals."""
    assert plural(one) == many


def test_what_comes_in_pairs() -> None:
    """One picture of jeans is a pair of them, in any colour; a shoe is none, and a dog with glasses is one dog."""
    assert all(comes_in_pairs(name) for name in ("jeans", "reading glasses", "blue trousers", "scissors"))
    assert not any(comes_in_pairs(name) for name in ("shoe", "dog", "jeans pocket"))


def test_a_pair_of_jeans_is_one_thing() -> None:
    """ "A pair of" is said of one picture of jeans, and never of two; of apples it is said of two."""
    captions = Captions(concepts(), [""] * len(concepts()), np.random.default_rng(3))
    index = {concept.icon: number for number, concept in enumerate(concepts())}
    written = {}
    for icon in ("jeans", "red-apple"):
        things = tuple(Thing(index[icon], "red", x, 128, SMALL) for x in (64, 192))
        for scene in (Scene("single", things[:1]), Scene("count", things)):
            written[icon, scene.kind] = [captions.write(scene) for _ in range(300)]
    said = {key: any("a pair of" in text for text in texts) for key, texts in written.items()}
    assert said == {
        ("jeans", "single"): True,
        ("jeans", "count"): False,
        ("red-apple", "single"): False,
        ("red-apple", "count"): True,
    }


def test_concepts_have_one_icon_each_and_one_main_name() -> None:
    """No icon comes twice, and no two things have the same first name."""
    icons = [concept.icon for concept in concepts()]
    names = [concept.names[0] for concept in concepts()]
    assert len(set(icons)) == len(icons)
    assert len(set(names)) == len(names)
    assert set(HEADS) | set(WORN) <= set(icons)


def test_a_line_that_is_no_concept(tmp_path: Path) -> None:
    """A damaged line is refused with its text."""
    (tmp_path / "concepts.txt").write_text("cat cat\n")
    with pytest.raises(ValueError, match="'cat cat'"):
        concepts(tmp_path / "concepts.txt")


def test_scenes_are_of_all_kinds_and_fit_the_picture(scenes: list[Scene]) -> None:
    """Every kind is drawn; small things lie on the latents' grid, wholly inside, and do not overlap."""
    assert {scene.kind for scene in scenes} == set(KINDS)
    for scene in scenes:
        small = [thing for thing in scene.things if thing.side == SMALL and scene.kind != "wearing"]
        for thing in small:
            assert thing.x % CELL == thing.y % CELL == 0
            assert SMALL // 2 <= min(thing.x, thing.y) <= max(thing.x, thing.y) <= 256 - SMALL // 2
        for number, one in enumerate(small):
            assert all(max(abs(one.x - other.x), abs(one.y - other.y)) >= SMALL for other in small[:number])


def test_lottery_repeats_itself() -> None:
    """The same seed gives the same scenes and the same sentences."""
    drawn = []
    for _ in range(2):
        rng = np.random.default_rng(11)
        lottery = SceneLottery(concepts(), [True] * len(concepts()), rng)
        captions = Captions(concepts(), [""] * len(concepts()), rng)
        drawn.append([(scene := lottery.draw(), captions.write(scene)) for _ in range(50)])
    assert drawn[0] == drawn[1]


def test_captions_name_what_is_shown(scenes: list[Scene]) -> None:
    """A sentence names its things, the left one first, and says how many, in which colour and where."""
    captions = Captions(concepts(), [""] * len(concepts()), np.random.default_rng(2))
    index = {concept.icon: number for number, concept in enumerate(concepts())}
    dog, guitar = index["poodle"], index["guitar"]
    pair = Scene("pair", (Thing(dog, "blue", 64, 128, SMALL), Thing(guitar, None, 192, 128, SMALL)), place="night")
    for _ in range(50):
        text = captions.write(pair)
        assert 0 <= text.find("poodle") < text.find("guitar")
        assert "blue" in text
        assert any(word in text for word in ("night", "stars", "moonlight"))
    lengths = [len(captions.write(scene).split()) for scene in scenes]
    assert max(lengths) <= 22  # the model reads 22 tokens; a word is one at least


def test_places_are_pictures_of_their_own() -> None:
    """Every place is 256 pixels square, and no two look alike."""
    from demo_model.training.places import PLACES, place

    pictures = []
    for name in PLACES:
        picture = place(name)
        assert picture.size == (256, 256)
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        pictures.append(buffer.getvalue())
    assert len(set(pictures)) == len(pictures)
