"""The tests of the Fair server hold for both executors: `FAIR_EXECUTOR=swarm` runs them on a swarm."""

from collections.abc import Iterator

import pytest

from tests.support.docker_engines import missing
from tests.support.fair_places import EXECUTOR, Place, running_place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where programs run."""
    if EXECUTOR == "swarm" and (reason := missing()):
        pytest.fail(reason)
    with running_place(tmp_path_factory.mktemp("place")) as place:
        yield place


@pytest.fixture(autouse=True)
def _for_executor(request: pytest.FixtureRequest) -> None:
    """Leaves out what holds for processes alone."""
    if EXECUTOR == "swarm" and request.node.get_closest_marker("processes_only"):
        pytest.skip("holds for processes alone")
