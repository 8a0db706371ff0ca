"""When a process began, by Fair's clock."""

from email.utils import formatdate

import pytest

from fair_api.generation import Birth
from fair_api.models import Container


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


def born(fair_at_birth: float, asked_after: tuple[float, ...] = (7.3,)) -> str:
    """The generation of a process that began when Fair's clock showed this, and asked it so much later."""
    clock = Clock()
    birth = Birth(clock, began=clock.now)
    for age in asked_after:
        clock.now = 500.0 + age
        birth.observe(formatdate(fair_at_birth + age, usegmt=True), clock.now)
    return birth.generation


def test_the_later_process_is_the_newer_one() -> None:
    """A process that began later has the larger generation, whenever each first asked Fair."""
    assert born(1_000_000.4, (90.0,)) < born(1_000_002.1, (0.5,)) < born(1_000_030.0, (3.0, 4.0))


def test_answers_narrow_it_down() -> None:
    """Each answer narrows the moment down, as far below a second as the answers lie apart within it."""
    generation = born(1_000_000.3, tuple(number * 1.05 for number in range(40)))
    assert generation.startswith("1970-01-12T13:46:40.")
    assert abs(int(generation.partition(".")[2][:3]) - 300) < 60


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_fair_that_does_not_tell_its_time(date: str | None) -> None:
    """Without Fair's time there is no generation, and nobody counts as newer."""
    birth = Birth()
    birth.observe(date, 0.0)
    assert birth.generation == ""


def test_two_processes_of_one_moment() -> None:
    """Two processes that began in the same moment are not of one generation; one and the same always is."""
    assert born(1_000_000.0) != born(1_000_000.0)


def test_container_without_generation() -> None:
    """A container of another version's counts by when it was started."""
    row = Container("1", "image", "running", created_at="2026-11-29T12:00:00.000Z")
    assert row.is_newer_than("2026-11-29T11:59:59.000Z-ab")
    assert not row.is_newer_than("2026-11-29T12:00:01.000Z-ab")
    assert not Container("1", "image", "running").is_newer_than("2026-11-29T12:00:01.000Z-ab")
