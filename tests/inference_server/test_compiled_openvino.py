"""What OpenVINO compiles of a model is kept for the next engine process, and never in the way of a start."""

from collections.abc import Callable
from pathlib import Path

import pytest

from inference_server.engines.compiled_openvino import CompiledModel
from inference_server.engines.package_cache import MAX_TRIALS

NETWORK = b"a compiled network " * 1000


class Library:
    """Compiles a network into its cache where it is not there already, as OpenVINO does."""

    def __init__(self, network: bytes = NETWORK) -> None:
        self.network, self.compiled, self.takes_a_cache = network, 0, True

    def load(self, CACHE_DIR: str | None = None) -> bytes:
        if CACHE_DIR is not None and not self.takes_a_cache:
            raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:117")
        kept = None if CACHE_DIR is None else Path(CACHE_DIR) / f"{self.network[:9].hex()}.blob"
        if kept is not None and kept.exists():
            return kept.read_bytes()
        self.compiled += 1
        if kept is not None:
            kept.write_bytes(self.network)
        return self.network


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., bytes]:
    """Loads the model as an engine process does, and draws with it unless it `dies` before."""

    def start(library: Library, cache: Path | None = tmp_path / "cache", dies: bool = False) -> bytes:
        compiled = CompiledModel(None if cache is None else str(cache), tmp_path)
        loaded = compiled.load(library.load)
        if not dies:
            compiled.works()
        return loaded

    return start


def packages(tmp_path: Path) -> list[Path]:
    """All that lies in the cache."""
    return list((tmp_path / "cache").iterdir())


def test_the_second_start_compiles_nothing(start: Callable[..., bytes], tmp_path: Path) -> None:
    """What the first start has compiled serves the next ones, in a folder that only this user can read."""
    library = Library()
    assert [start(library) for _ in range(3)] == [NETWORK] * 3
    assert library.compiled == 1
    assert len(packages(tmp_path)) == 1
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert packages(tmp_path)[0].stat().st_mode & 0o777 == 0o600


def test_a_changed_model_is_compiled_anew_and_kept(start: Callable[..., bytes]) -> None:
    """Another network in the same folder is not drawn with what was compiled of the old one."""
    start(Library())
    changed = Library(b"of another model")
    assert [start(changed), start(changed)] == [b"of another model"] * 2
    assert changed.compiled == 1


@pytest.mark.parametrize("damage", [b"", NETWORK[:5000], None], ids=["emptied", "cut", "one bit"])
def test_a_damaged_package_is_compiled_anew(damage: bytes | None, start: Callable[..., bytes], tmp_path: Path) -> None:
    """The library never sees a file that is not as it was written."""
    library = Library()
    start(library)
    package = packages(tmp_path)[0]
    whole = bytearray(package.read_bytes())
    whole[len(whole) // 2] ^= 1
    package.write_bytes(whole if damage is None else damage)
    assert [start(library), start(library)] == [NETWORK] * 2
    assert library.compiled == 2


def test_a_package_that_ends_the_process_twice_is_not_used_again(start: Callable[..., bytes]) -> None:
    """Whatever is wrong with it, the third start compiles, and its package serves the next one."""
    library = Library()
    start(library)
    for _ in range(MAX_TRIALS):
        start(library, dies=True)
    assert library.compiled == 1
    assert [start(library), start(library)] == [NETWORK] * 2
    assert library.compiled == 2


@pytest.mark.parametrize("place", ["a file", "/proc/none", "writable by others"])
def test_without_a_usable_folder_the_model_loads_all_the_same(
    place: str, start: Callable[..., bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder that cannot be made or that others can write is told in the log, and nothing is read from it."""
    folder = tmp_path / place
    if place == "a file":
        folder.touch()
    elif place == "writable by others":
        folder.mkdir()
        folder.chmod(0o777)
    library = Library()
    assert start(library, cache=folder) == NETWORK
    assert library.compiled == 1
    assert f"is not kept: {folder} can" in capfd.readouterr().err


def test_without_a_folder_nothing_is_kept(start: Callable[..., bytes], tmp_path: Path) -> None:
    """`compile_cache` none, or a model so large that it would cost gigabytes of disk at every start."""
    assert start(Library(), cache=None) == NETWORK
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(10**9)
    assert start(Library()) == NETWORK
    assert not (tmp_path / "cache").exists()


def test_a_library_that_cannot_use_the_folder_loads_without(
    start: Callable[..., bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """Its error costs the cache, not the start."""
    library = Library()
    library.takes_a_cache = False
    assert start(library) == NETWORK
    assert "is not kept: RuntimeError" in capfd.readouterr().err
