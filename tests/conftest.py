"""What all tests share: rules for slow tests, the programs that they need, free ports, processes that end with them."""

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import page.no_type_stubs  # noqa: F401 (before anything that imports Gradio)
from tests.support.fair_fronts import fair_that_cannot_list
from tests.support.fair_places import EXECUTOR
from tests.support.hostile_server import HostileServer
from tests.support.order_of_tests import in_pieces
from tests.support.processes import REPOSITORY, Processes, is_setting
from tests.support.processes import free_port as _free_port
from tests.support.reconcile_bench import Bench, running_bench

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The workers share the cores: one thread of PyTorch each, in their engine processes as well.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The machine's network is none of a test's business; root cannot have Chromium's sandbox.
_CHROMIUM = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)

_WHOLLY_SLOW = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)
_timeout_settings = pytest.StashKey[Any]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m "not slow"` does not even import a module of slow tests: PyTorch alone takes seconds.

    The tests of whole machines are `make test-machines`' alone.
    """
    if collection_path.name == "machines" and EXECUTOR != "swarm":
        return True
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return bool(_WHOLLY_SLOW.search(collection_path.read_text())) or None


@pytest.hookimpl(trylast=True)  # when -m has left out its part
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A slow test that fails runs a second time, and the report lists it; a quick test never does.

    Several workers run the tests in an order in which they end together.
    """
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.flaky(reruns=1))
    if (workers := getattr(config, "workerinput", {}).get("workercount", 1)) > 1:
        items[:] = in_pieces(items, workers)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """Keeps the timeout of a test for its second run."""
    item.stash[_timeout_settings] = settings


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Gives a second run its whole timeout: pytest-timeout starts the clock for the first one alone."""
    if getattr(item, "execution_count", 1) > 1 and _timeout_settings in item.stash:
        item.ihook.pytest_timeout_set_timer(item=item, settings=item.stash[_timeout_settings])


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set for the product does not reach a test, nor what it starts."""
    for name in filter(is_setting, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts programs for a test and ends them after it: `processes.start(argv, env).wait_for_line("ready")`."""
    started = Processes(tmp_path_factory.mktemp("processes"))
    yield started
    started.stop_all()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that returns another free TCP port of 127.0.0.1 at every call."""
    return _free_port


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A TCP port of 127.0.0.1 where nobody listens, nor can before the test is over: connections are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


@pytest.fixture(scope="module")
def _bench_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running_bench(tmp_path_factory.mktemp("bench")) as bench:
        yield bench


@pytest.fixture
def bench(_bench_of_module: Bench) -> Iterator[Bench]:
    """The module's Fair server with stand-ins for chains, nothing running on it before and after."""
    yield _bench_of_module
    _bench_of_module.end_all()


@pytest.fixture
def unlisted(bench: Bench) -> Iterator[HostileServer]:
    """The same as a Fair that cannot list containers."""
    with fair_that_cannot_list(bench.url) as server:
        yield server


@pytest.fixture(scope="session")
def faircompute_0_20() -> Path:
    """The folder with the client `faircompute` 0.20.1 (import name `fair`), to be put on PYTHONPATH."""
    folder = REPOSITORY / ".cache" / "faircompute-0.20.1"
    if not (folder / "fair").is_dir():
        _missing(f"the old client is not in {folder}")
    return folder


@pytest.fixture(scope="session")
def mcp_folder() -> Path:
    """The folder with what `gradio[mcp]` adds to Gradio, as a Space has it, to be put on PYTHONPATH."""
    folder = REPOSITORY / ".cache" / "mcp-1.30.0"
    if not (folder / "mcp").is_dir():
        _missing(f"the MCP client is not in {folder}")
    return folder


@pytest.fixture(scope="session")
def rathole() -> Path:
    """The rathole executable: one on the PATH, else the one that the project has built."""
    built = REPOSITORY / ".rathole" / "bin" / "rathole"
    found = shutil.which("rathole") or (str(built) if built.is_file() else None)
    if found is None:
        _missing(f"there is no rathole on the PATH, nor {built}")
    return Path(found)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A Chromium without a window: the build that has none costs half the CPU time of the whole browser without one.

    No longer than a module: its event loop would be in the way of `asyncio.run`.
    """
    from playwright.sync_api import expect, sync_playwright  # only for those who need it: it takes its time

    expect.set_options(timeout=60_000)  # ms; the usual 5 s are short where all else runs on the same two cores

    found = shutil.which("chromium-headless-shell")
    if found is None:
        _missing("there is no chromium-headless-shell on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_CHROMIUM.split())
        yield browser
        browser.close()


def _missing(what: str) -> NoReturn:
    """Skips the test, or fails it where nothing may be left out."""
    message = f"{what}: `make test` installs it"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
