"""What manage.py tells: rows of check, status, detail and fix, for a terminal or as JSON, one object a line."""

import json
import os
import shutil
import sys
import textwrap
import threading
from dataclasses import asdict, dataclass
from typing import Literal

from errors import ServiceError, SpaceError

Status = Literal["ok", "warning", "failed"]

_COLOURS = {"ok": "32", "warning": "33", "failed": "31"}
_CHECK_WIDTH = 11
_INDENT = " " * (2 + 9 + _CHECK_WIDTH + 1)
_QUOTED = "    | "  # before each line of a foreign log, in a detail as well


class UsageError(SpaceError):
    """The command was given wrongly, or lacks an answer that it must not guess: nothing was done."""


@dataclass(frozen=True)
class CheckRow:
    """One link, how it is, and what to do where it is not ok."""

    check: str
    status: Status
    detail: str
    fix: str = ""


class Console:
    """Prints rows as they are found and remembers whether one failed.

    `check` is what is being done just now and `interrupted` says how things stand if it is stopped there: both are
    shown after Ctrl-C.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.check, self.interrupted = "manage.py", "Nothing was changed."
        self.has_failed = self.has_warned = False
        self._width = max(50, min(shutil.get_terminal_size((80, 24)).columns, 100))
        self._lock, self._is_passing = threading.Lock(), False
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ and not as_json

    def row(self, status: Status, check: str, detail: str, fix: str = "") -> None:
        """Prints one row."""
        self.has_failed |= status == "failed"
        self.has_warned |= status == "warning"
        if self.as_json:
            self._print(json.dumps(asdict(CheckRow(check, status, detail, fix)), ensure_ascii=False))
            return
        advice = "\n" + self._wrapped(f"-> {fix}", _INDENT, f"{_INDENT}   ") if fix else ""
        self._print(self._entry(status, check, detail) + advice)

    def ok(self, check: str, detail: str) -> None:
        self.row("ok", check, detail)

    def failure(self, error: SpaceError) -> None:
        """The row of what went wrong in `self.check`."""
        if isinstance(error, ServiceError):
            end = "" if "\n" in error.came_back else "."  # it ends with a log's lines
            came_back = error.came_back.rstrip(".") + end
            self.row("failed", self.check, f"{error.link}: tried to {error.tried}, but {came_back}", error.next_step)
        else:
            self.row("failed", self.check, str(error))

    def refuse(self, error: SpaceError) -> None:
        """Says on stderr why the command was not begun; in JSON a row as always."""
        if self.as_json:
            self.failure(error)
        else:
            print(self._wrapped(str(error), "", ""), file=sys.stderr, flush=True)

    def plan(self, check: str, detail: str, *, warn: bool = False) -> None:
        """One line of what will be done; in JSON a row like any other."""
        if self.as_json:
            self.row("warning" if warn else "ok", f"plan: {check}", detail)
        else:
            first = f"{'!' if warn else ' '} {check:<{_CHECK_WIDTH}} "
            self._print(self._wrapped(detail, first, " " * len(first)))

    def begin(self, check: str, doing: str, *, lasting: bool = False) -> None:
        """Says what is being done now. In a terminal the next line takes its place, elsewhere it is left out, unless
        it is `lasting`.
        """
        self.check = check
        if self.as_json:
            return
        if lasting:
            self._print(self._entry("...", check, doing))
        elif sys.stdout.isatty():
            self._print(f"  {'...':<9}{check:<{_CHECK_WIDTH}} {doing} ..."[: self._width - 1], passing=True)

    def say(self, text: str = "") -> None:
        """A paragraph between the rows, not in JSON."""
        if not self.as_json:
            self._print(self._wrapped(text, "", ""))

    def quote(self, line: str) -> None:
        """One line of a foreign log, cut at the terminal's edge; not in JSON."""
        if not self.as_json:
            self._print(f"{_QUOTED}{line}"[: self._width])

    def verbatim(self, line: str) -> None:
        """A line to be copied: never wrapped, so that it stays one line in the clipboard; not in JSON."""
        if not self.as_json:
            self._print(line)

    def _entry(self, status: str, check: str, detail: str) -> str:
        word = f"{status:<9}"
        if self._coloured and status in _COLOURS:
            word = f"\033[{_COLOURS[status]}m{word}\033[0m"
        return f"  {word}{check:<{_CHECK_WIDTH}} {self._wrapped(detail, _INDENT, _INDENT).removeprefix(_INDENT)}"

    def _print(self, text: str, *, passing: bool = False) -> None:
        """Prints whole lines, in place of one that was only passing."""
        with self._lock:
            print(("\r\033[K" if self._is_passing else "") + text, end="" if passing else "\n", flush=True)
            self._is_passing = passing

    def _wrapped(self, text: str, first: str, rest: str) -> str:
        """`text` within the terminal's width; a line of it that begins with `| ` is a foreign log's."""
        filled = []
        for number, line in enumerate(text.splitlines() or [""]):
            quoted = line.startswith("| ")
            filled.append(
                textwrap.fill(
                    line.removeprefix("| ") if quoted else line,
                    self._width,
                    initial_indent=_QUOTED if quoted else first if number == 0 else rest,
                    subsequent_indent=_QUOTED if quoted else rest,
                    break_long_words=False,  # an address or a command stays whole
                    break_on_hyphens=False,
                )
            )
        return "\n".join(filled)
