"""How long something has gone on, told by a clock of the test's own."""

import logging

import pytest

from errors import FairError
from fair_api.retry import FaultWindow, Stopwatch


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fault(status: int | None = None) -> FairError:
    return FairError(tried="ask", came_back="nothing", next_step="Look.", status=status)


def test_a_spell() -> None:
    """A spell is as long as what was observed without a break."""
    clock = Clock()
    spell = Stopwatch(clock)
    assert spell.seconds == 0
    for holds, after_s, seconds in ((True, 2, 2), (True, 3, 5), (False, 3, 0), (True, 1, 1)):
        spell.observe(holds)
        clock.now += after_s
        assert spell.seconds == seconds


@pytest.mark.parametrize("status", [None, 500, 502, 503])
def test_hiccups_pass(status: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """Fair may fail for a while, which is logged once; what lasts is raised; an answer makes it begin anew."""
    clock = Clock()
    hiccups = FaultWindow(30, clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            hiccups.forgive(fault(status))
            clock.now += 10
    assert len([record for record in caplog.records if record.name == "fair_api.retry"]) == 1
    assert hiccups.last is not None
    hiccups.over()
    assert hiccups.last is None
    hiccups.forgive(fault(status))
    clock.now += 31
    with pytest.raises(FairError):
        hiccups.forgive(fault(status))


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
def test_a_refusal_is_no_hiccup(status: int) -> None:
    """What Fair refuses it will refuse again: that is raised at once."""
    with pytest.raises(FairError):
        FaultWindow(30).forgive(fault(status))
