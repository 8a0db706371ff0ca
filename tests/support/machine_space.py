"""A Space's process in tests of whole machines, in a network of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tests.support.docker_engines import Namespace
from tests.support.processes import REPOSITORY


class Space:
    """A Space's process that draws, in the Space's network; it tells of each drawing in a line of JSON."""

    def __init__(self, network: Namespace, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            network.enter(sys.executable, "-m", "tests.support.space_that_draws"),
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, prompt: str = "a red apple") -> None:
        """Begins a drawing."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{prompt}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What came of it: `size` and `seconds`, or `error`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the Space's process has ended"
        return dict(json.loads(line))

    def draw(self, prompt: str = "a red apple") -> dict[str, Any]:
        """One drawing from beginning to end."""
        self.ask(prompt)
        return self.answer()

    def close(self) -> None:
        """Ends it; what it has started runs on."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
