"""The tutorial's tunnel: where its program is found."""

from pathlib import Path

import pytest

from network.tunnel import PROGRAM, find_program


def test_where_the_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on the PATH comes before the one that the project built; with neither there is none."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_program(tmp_path) is None
    for folder in (tmp_path / ".rathole" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        (folder / PROGRAM).write_text("#!/bin/sh\n")
        (folder / PROGRAM).chmod(0o755)
        assert find_program(tmp_path) == str(folder / PROGRAM)
