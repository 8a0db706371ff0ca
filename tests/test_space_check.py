"""The check that says whether a Space would build: run on small repositories, with an index of its own."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY
from tools.space_check.__main__ import main

pytestmark = pytest.mark.slow  # each asks the real pip

_CARD = """---
title: A page
emoji: 🎨
colorFrom: indigo
colorTo: pink
sdk: gradio
sdk_version: 6.31.0
python_version: "3.11"
app_file: app.py
short_description: Draw
pinned: false
---
"""
_APP = "import time\n\nprint('The page is at http://127.0.0.1:7860/', flush=True)\ntime.sleep(60)\n"
_OUR_PINS = "gradio==6.31.0\npydantic==2.12.5\n"
Check = Callable[..., tuple[int, str]]


def _add_wheel(folder: Path, name: str, version: str, metadata: str = "", python: str = "py3") -> None:
    """Puts a package without any code into the index; `python`: the tag of those that it is for."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-{python}-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {python}-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages that a Space's builder names, gradio with the bound that it really has."""
    folder = tmp_path_factory.mktemp("index")
    extras = 'Provides-Extra: mcp\nProvides-Extra: oauth\nRequires-Dist: pydantic<=2.12.5,>=2.11.10; extra == "mcp"\n'
    _add_wheel(folder, "gradio", "6.31.0", f"Requires-Dist: pydantic<3,>=2\n{extras}")
    for name, version in (
        ("pydantic", "2.12.5"),
        ("pydantic", "2.14.3"),
        ("uvicorn", "0.54.0"),
        ("websockets", "10.0"),
    ):
        _add_wheel(folder, name, version)
    _add_wheel(folder, "websockets", "17.4")
    _add_wheel(folder, "spaces", "0.51.3")
    return folder


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """The folder of a repository that a Space takes; a test spoils it."""
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "README.md").write_text(_CARD)
    (folder / "app.py").write_text(_APP)
    (folder / "requirements.txt").write_text(_OUR_PINS)
    (folder / "pyproject.toml").write_text('[project]\nname = "page"\nrequires-python = ">=3.11"\n')
    _git(folder, "init", "--quiet")
    return folder


@pytest.fixture
def check(space: Path, index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the check on the repository as it is now; returns its exit status and all that it printed."""

    def run(**env: str) -> tuple[int, str]:
        _git(space, "add", "--all")
        for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), **env}.items():
            monkeypatch.setenv(name, value)
        return main(space), capsys.readouterr().out

    return run


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=A test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, timeout=60)


def test_a_space_that_builds(check: Check) -> None:
    """Where all is right, the last line says so and the exit status is 0."""
    status, output = check()
    assert (status, output.splitlines()[-1].partition(":")[0]) == (0, "A Space builds"), output


def test_a_pin_that_gradio_refuses_is_told_with_both_sides(space: Path, check: Check) -> None:
    """A pin above what gradio[mcp] takes ends the check with one sentence that names the pin, gradio and its bound."""
    (space / "requirements.txt").write_text("gradio==6.31.0\npydantic==2.14.3  # the newest\n")
    status, output = check()
    assert status == 1
    assert (
        "requirements.txt: it pins pydantic==2.14.3, but gradio[mcp,oauth] 6.31.0 wants pydantic<=2.12.5,>=2.11.10, "
        "and a Space's builder installs all at once: pin a version of pydantic that suits all\n"
    ) in output
    assert "    pip: ERROR: ResolutionImpossible" in output


def test_a_pin_against_the_builder_itself(space: Path, check: Check) -> None:
    """A pin below what the builder asks for on its own is told as such."""
    (space / "requirements.txt").write_text(f"{_OUR_PINS}websockets==10.0\n")
    status, output = check()
    assert status == 1
    assert "it pins websockets==10.0, but the builder itself asks for websockets>=10.4" in output


def test_another_python_than_the_running_one(space: Path, check: Check, index: Path) -> None:
    """What the builder installs is resolved for the card's Python, whichever Python runs the check."""
    own, other = (f"3.{sys.version_info[1] + more}" for more in (0, 1))
    _add_wheel(index, "ours_only", "1.0", python=f"cp{own.replace('.', '')}")
    (space / "requirements.txt").write_text(f"{_OUR_PINS}ours_only==1.0\n")
    (space / "README.md").write_text(_CARD.replace('"3.11"', f'"{own}"'))
    assert check()[0] == 0
    (space / "README.md").write_text(_CARD.replace('"3.11"', f'"{other}"'))
    status, output = check()
    assert status == 1
    assert f"needs ours_only==1.0, and there is no such version for Python {other}" in output


def test_an_index_that_does_not_answer_is_no_fault_of_the_pins(check: Check, closed_port: int) -> None:
    """Without network the check says that it cannot tell, and its exit status is neither that of right nor of wrong."""
    nobody = f"http://127.0.0.1:{closed_port}"
    status, output = check(PIP_NO_INDEX="0", PIP_FIND_LINKS="", PIP_INDEX_URL=nobody, PIP_RETRIES="0")
    assert status == 2
    assert "Not checked: the package index did not answer" in output


_WRONG_FIELDS = [
    ("title", "", "is empty: write the name of the Space"),
    ("emoji", "art", "is 'art': write one emoji"),
    ("colorFrom", "violet", "is 'violet': write red, yellow, green, blue, indigo, purple, pink or gray"),
    ("sdk", "docker", "is 'docker': write gradio"),
    ("sdk_version", "6.31", "is 6.31, which is of type float: write gradio's version in requirements.txt, in quotes"),
    ("python_version", "3.10", 'is 3.1, which is of type float: write a version in quotes, such as "3.11"'),
    ("short_description", "d" * 61, f"is '{'d' * 61}', 61 characters: write one line of at most 60 characters"),
    ("pinned", '"no"', "is 'no', which is of type str: write true or false, without quotes"),
    ("license", "Apache 2.0", "is 'Apache 2.0': write the hub's id of it, such as apache-2.0"),
    ("suggested_hardware", "gpu", "is 'gpu': write one of cpu-basic, cpu-upgrade"),
    ("tags", "[a, 1]", "is ['a', 1]: write a list of texts"),
]


def test_every_wrong_field_is_listed(space: Path, check: Check) -> None:
    """Every field that a Space does not take is told in one run: what stands there, and what to write instead."""
    (space / "README.md").write_text(
        "\n".join(["---", *(f"{name}: {value}" for name, value, _ in _WRONG_FIELDS), "---", ""])
    )
    status, output = check()
    assert status == 1
    for name, _, fault in _WRONG_FIELDS:
        assert f"README.md: {name} {fault}" in output
    assert "README.md: app_file is missing: write the path" in output
    assert "README.md: colorTo is missing: write red" in output


def test_the_card_against_the_rest(space: Path, check: Check) -> None:
    """A card that does not agree with requirements.txt, the files and pyproject.toml is told with both sides."""
    card = _CARD.replace("6.31.0", "6.30.0").replace("app.py", "main.py").replace('"3.11"', '"3.9"')
    (space / "README.md").write_text(card)
    status, output = check()
    assert status == 1
    assert "sdk_version is 6.30.0, but requirements.txt has gradio==6.31.0: write the same version into both" in output
    assert "app_file is 'main.py', which git does not track: write app.py, or add the file" in output
    assert "python_version is 3.9, but pyproject.toml has requires-python '>=3.11': write a version that it" in output


def test_all_kinds_of_faults_are_listed(space: Path, check: Check) -> None:
    """One run tells of the card, the files and the pins; a field that Spaces do not know is no more than a warning."""
    (space / "README.md").write_text(_CARD.replace("Draw", "d" * 61).replace("pinned", "pined"))
    (space / "requirements.txt").write_text("gradio==6.31.0\npydantic==9.9.9\n")
    (space / "picture.png").write_bytes(b"\x89PNG\r\n\0")
    status, output = check()
    assert status == 1
    assert "warning: README.md: pined is no field that a Gradio Space knows" in output
    assert "picture.png: a file of binary kind" in output
    assert "README.md: short_description is" in output
    assert "a Space's builder needs pydantic==9.9.9, and there is no such version" in output
    assert "for 3 reasons" in output


@pytest.mark.parametrize("card", ["# A page\n", "---\ntitle: [\n---\n", "---\njust text\n---\n"])
def test_no_card(space: Path, check: Check, card: str) -> None:
    """A README without a card, or with one that is no YAML, is a fault in one line."""
    (space / "README.md").write_text(card)
    status, output = check()
    assert status == 1
    assert "README.md: " in output
    assert "Traceback" not in output


def test_files_that_are_refused(space: Path, check: Check) -> None:
    """A tracked file of binary kind or over 10 MB is named; one that git ignores is none of a Space's business."""
    (space / "weights.txt").write_text("0" * 10_000_001)
    (space / "latin.txt").write_bytes("größer".encode("latin-1"))
    (space / "ignored.bin").write_bytes(b"\0")
    (space / ".gitignore").write_text("ignored.bin\n")
    status, output = check()
    assert status == 1
    assert "weights.txt: 10000001 bytes: " in output
    assert "latin.txt: a file of binary kind: " in output
    assert "ignored.bin" not in output


def test_files_of_older_commits(space: Path, check: Check) -> None:
    """What an older commit holds is told too, since a push takes it along."""
    (space / "old.bin").write_bytes(b"\0" * 10_000_001)
    (space / "large.txt").write_text("0" * 10_000_001)
    _git(space, "add", "--all")
    _git(space, "commit", "--quiet", "--message", "Too much")
    _git(space, "rm", "--quiet", "old.bin", "large.txt")
    _git(space, "commit", "--quiet", "--message", "Less")
    status, output = check()
    assert status == 1
    assert "old.bin: a file of binary kind in an older commit, which a push takes along" in output
    assert "large.txt: 10000001 bytes in an older commit, which a push takes along" in output


def test_no_git_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a folder that git does not know, the check says where to run it."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert main(tmp_path) == 2
    assert "Run this in a git checkout" in capsys.readouterr().out


@pytest.mark.timeout(600)
def test_this_repository_is_taken_by_a_space() -> None:
    """`make space-check` finds nothing wrong with this repository."""
    command = [sys.executable, "-m", "tools.space_check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    if done.returncode == 2 and not os.environ.get("CI"):
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
