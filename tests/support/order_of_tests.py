"""The order in which two and more workers run the tests, so that they end together.

xdist gives each worker one piece of the list, and a worker that is done takes the second half of what another one still
has before it. So each piece begins with slow modules, the longest first, and ends with quick tests: what is taken then
is small, and seldom a part of a module whose services would have to be started twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby

import pytest

# Half a minute and more each, the longest first.
LONGEST = (
    "page/test_browser.py",
    "inference_server/test_dispatcher.py",
    "chain/test_leftovers.py",
    "inference_server/test_diffusers.py",
    "chain/test_trouble.py",
    "inference_server/diffusers/test_compiling.py",
    "chain/test_chain.py",
    "chain/test_hosted_fair.py",
    "chain/test_space.py",
    "inference_server/test_lenient.py",
    "chain/test_workers.py",
    "backends/test_fair_faults.py",
)


def in_pieces(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """The same tests, in an order whose `workers` pieces of equal length take about as long as each other."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = iter([item for item in items if not item.get_closest_marker("slow")])
    pieces: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, module in enumerate(_longest_first(slow)):
        turn = number % (2 * workers)  # to and fro, so that not always the same one gets the longer of two
        pieces[min(turn, 2 * workers - 1 - turn)] += module
    for number, piece in enumerate(pieces):
        length = len(items) * (number + 1) // workers - len(items) * number // workers
        piece += _up_to(length - len(piece), quick)
    return [*chain(*pieces), *quick]


def _longest_first(items: Iterable[pytest.Item]) -> list[list[pytest.Item]]:
    """The tests of each module; those of LONGEST come first."""
    modules = [list(module) for _, module in groupby(items, key=lambda item: item.path)]
    return sorted(modules, key=lambda module: _rank(module[0].path.as_posix()))


def _rank(path: str) -> int:
    return next((rank for rank, name in enumerate(LONGEST) if path.endswith(f"tests/{name}")), len(LONGEST))


def _up_to(number: int, items: Iterator[pytest.Item]) -> list[pytest.Item]:
    return [item for _, item in zip(range(number), items, strict=False)]
