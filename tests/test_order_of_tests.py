"""In which order several workers get the tests."""

from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from tests.support.order_of_tests import LONGEST, in_pieces
from tests.support.processes import REPOSITORY


class Item(pytest.Item):
    """A test of a module that is not there."""

    def runtest(self) -> None:
        raise NotImplementedError


@pytest.fixture
def items(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """Nine modules of several slow and quick tests each, one of them known to be the longest."""
    made: list[pytest.Item] = []
    names = [*(f"a{number}/test_it.py" for number in range(8)), LONGEST[0]]
    for length, name in enumerate(names, start=2):
        for number in range(2 * length + 1):
            item = Item.from_parent(request.session, name=f"{name}-{number}")
            item.path = Path("/x/tests") / name
            if number < length:
                item.add_marker(pytest.mark.slow)
            made.append(item)
    return made


@pytest.mark.parametrize("workers", [2, 3])
def test_each_piece_begins_with_slow_modules_and_ends_with_quick_tests(items: list[pytest.Item], workers: int) -> None:
    """No test is lost or doubled, a module's slow tests stay together and in order, the longest module is first."""
    ordered = in_pieces(items, workers)
    assert Counter(ordered) == Counter(items)
    assert ordered[0].path.as_posix().endswith(LONGEST[0])
    bounds = [len(items) * number // workers for number in range(workers + 1)]
    for begin, end in pairwise(bounds):
        kinds = [item.get_closest_marker("slow") is not None for item in ordered[begin:end]]
        assert kinds == sorted(kinds, reverse=True)
        assert 0 < sum(kinds) < len(kinds)
    slow = [item for item in ordered if item.get_closest_marker("slow")]
    assert len(list(groupby(slow, key=lambda item: item.path))) == 9
    for item, following in pairwise(slow):
        assert item.path != following.path or items.index(item) + 1 == items.index(following)


def test_the_longest_modules_are_there() -> None:
    """Each name in the list is a module's."""
    assert [name for name in LONGEST if not (REPOSITORY / "tests" / name).is_file()] == []
