"""What a visitor may ask for: pictures an hour, blocked words; and what is remembered of a model."""

from pathlib import Path

import pytest

from drawing.blocked_words import REFUSAL, BlockedWords
from drawing.known_model import KnownModel
from drawing.models import Defaults, GenerationRequest, Limits, Range
from drawing.quota import Quota
from drawing.status import BackendStatus
from errors import BusyError, InvalidRequestError, SettingsError

SEEN = Limits(width=Range(min=64, max=256, multiple=64), height=Range(min=64, max=256, multiple=64))


def status(model: str | None, limits: Limits | None = None) -> BackendStatus:
    return BackendStatus("workers", False, False, False, model, limits or Limits(), Defaults(width=256))


def test_pictures_an_hour() -> None:
    """Beyond so many pictures an hour a visitor is refused with the time until the next; the others are not."""
    quota = Quota(2)
    quota.count("a")
    quota.count("a")
    with pytest.raises(BusyError, match=r"^Busy: .* 2 pictures an hour") as caught:
        quota.count("a")
    assert 3590 < caught.value.retry_after_s <= 3600
    quota.count("b")
    for _ in range(50):
        Quota(0).count("a")


@pytest.mark.parametrize(
    "prompt", ["A Gun!", "a  water\npistol", "\uff27\uff35\uff2e", "two guns or 3 gunz", "a g\u200bu\u00adn"]
)
def test_blocked_words(prompt: str) -> None:
    """Words and phrases are found as a whole in any case and width, and behind letters that nobody sees; regular
    expressions anywhere.
    """
    with pytest.raises(InvalidRequestError) as caught:
        BlockedWords.read("gun, water pistol, /gun[sz]/").check(prompt)
    assert str(caught.value) == REFUSAL


@pytest.mark.parametrize("prompt", ["a gunnera leaf", "water and a pistol", "begun"])
def test_words_that_only_hold_a_blocked_one(prompt: str) -> None:
    """A word that holds a blocked one as a part is no reason to refuse."""
    BlockedWords.read("gun, water pistol").check(prompt)
    BlockedWords.read(None).check("a gun")


def test_blocked_words_in_a_file(tmp_path: Path) -> None:
    """A file has one entry a line and may have comments; one that cannot be read is named at the start."""
    file = tmp_path / "blocked.txt"
    file.write_text("# no weapons\ngun, loaded\n\n/sword(fish)?/\n")
    blocked = BlockedWords.read(str(file))
    blocked.check("a gun")
    for prompt in ("a gun, loaded", "a swordfish"):
        with pytest.raises(InvalidRequestError):
            blocked.check(prompt)
    with pytest.raises(SettingsError, match=r"BLOCKED_WORDS.*cannot be read"):
        BlockedWords.read(str(tmp_path / "none.txt"))
    with pytest.raises(SettingsError, match=r"BLOCKED_WORDS.*no regular expression"):
        BlockedWords.read("/(/")


def test_what_the_last_run_knew(tmp_path: Path) -> None:
    """The model that was seen is known to the next run, until that sees another; nothing else is changed."""
    file = tmp_path / "cache" / "model.json"
    KnownModel(file).note(status("sd", SEEN))
    found = KnownModel(file).fill_in(status(None))
    assert (found.model, found.limits, found.defaults) == ("sd", SEEN, Defaults(width=256))
    assert not found.ready
    assert KnownModel(file).fill_in(status("xl")).limits == Limits()
    assert KnownModel().fill_in(status(None)) == status(None)


@pytest.mark.parametrize("spoilt", ["", "[]", '{"model": 1}', '{"model": "x", "limits": {"width": 3}, "defaults": {}}'])
def test_a_spoilt_memory_is_none(tmp_path: Path, spoilt: str) -> None:
    """A file that something has spoilt is as good as none."""
    file = tmp_path / "model.json"
    file.write_text(spoilt)
    assert KnownModel(file).fill_in(status(None)) == status(None)


def test_the_nearest_that_fits() -> None:
    """Numbers outside the limits are moved to the nearest inside, in their multiples; others stay as they are."""
    request = GenerationRequest("x", width=1000, height=100, num_inference_steps=900, guidance_scale=7.5)
    near = request.nearest(SEEN)
    assert (near.width, near.height, near.num_inference_steps, near.guidance_scale) == (256, 128, 250, 7.5)
    near.check(SEEN)
    assert near.nearest(SEEN) == near
