"""What `deploy` uploads: all that a Space runs, and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.space import start_space
from tools.space_check.words import ANY, words_in_files
from tools.space_files import PATTERNS, ROOT, space_files

PROGRAMS = ("app.py", "fair_server/__main__.py", "inference_server/__main__.py", "inference_server/engines/openvino.py")


def imported(file: Path) -> Iterator[str]:
    """The modules that a file names in its imports, wherever they stand."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(module: str) -> Iterator[str]:
    """The files of this repository that importing a module runs."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        place = "/".join(parts[:count])
        yield from (name for name in (f"{place}/__init__.py", f"{place}.py") if (ROOT / name).is_file())


def test_all_that_is_imported_is_there() -> None:
    """Every module of ours that the page or one of its services imports is uploaded."""
    needed, to_read = set(PROGRAMS), list(PROGRAMS)
    while to_read:
        for module in imported(ROOT / to_read.pop()):
            new = set(files_of(module)) - needed
            needed |= new
            to_read += new
    assert needed - set(space_files()) == set()


def test_all_of_the_page_is_there() -> None:
    """Whatever lies in the page's folder is uploaded: its style, scripts, words and icon are read, not imported."""
    there = {file.relative_to(ROOT).as_posix() for file in (ROOT / "page").rglob("*") if file.is_file()}
    assert {path for path in there if "__pycache__" not in path} - set(space_files()) == set()


def test_nothing_else_is_there() -> None:
    """No tests, tools, benchmarks, training or maintenance, no engine that needs PyTorch, no secret."""
    strangers = ("tests/", "tools/", "benchmarks/", "demo_model/training/", "maintenance/", "manage.py", ".")
    unwanted = [path for path in space_files() if path.startswith(strangers) or "/diffusers/" in path]
    assert unwanted == []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_means_something(pattern: str) -> None:
    """A pattern of files that are gone is taken out of the list."""
    assert list(ROOT.glob(pattern))


def test_no_file_names_a_program_that_tunnels(tmp_path: Path) -> None:
    """Platforms have paused Spaces for such names; one module alone has the tutorial's."""
    assert words_in_files(space_files()) == []
    for path, content in (("page/ngrok.py", ""), ("app.py", "run('cloudflared')"), ("network/tunnel.py", "rathole")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
    named = {path: tmp_path / path for path in ("page/ngrok.py", "app.py", "network/tunnel.py")}
    assert words_in_files(named) == [
        "page/ngrok.py: its name has 'ngrok' in it",
        "app.py:1: names 'cloudflared'",
    ]


@pytest.mark.slow
def test_the_files_alone_draw(tmp_path: Path, processes: Processes) -> None:
    """A folder with nothing but these files serves the page as a Space without secrets, and draws with the built-in
    model; what it prints on the way has none of the words for which Spaces were paused.
    """
    for path, file in space_files().items():
        place = tmp_path / "space" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    space = start_space(processes, {"SPACE_ID": "you/draw"}, folder=tmp_path / "space")
    assert space.draw().size == (256, 256)
    assert [line for line in space.program.output().splitlines() if ANY.search(line)] == []
